-- Topics of three and of two partitions: equal keys do not lie in equal partitions, so what meets in a state is shuffled.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE STREAM returns (WATERMARK FOR returned_at AS returned_at - INTERVAL '5' SECOND)
  WITH ('topic' = 'returns', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = 'totals', 'format' = 'avro');
CREATE SINK windows (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'windows', 'format' = 'avro');
CREATE SINK plain WITH ('topic' = 'plain', 'format' = 'avro');
CREATE VIEW both_ways AS SELECT customer_id, amount, ordered_at AS ts FROM orders UNION ALL SELECT customer_id, -amount AS amount, returned_at AS ts FROM returns;
INSERT INTO totals SELECT customer_id, SUM(amount) AS amount FROM both_ways GROUP BY customer_id;
INSERT INTO windows SELECT window_start, customer_id, SUM(amount) AS amount
  FROM TABLE(TUMBLE(TABLE both_ways, DESCRIPTOR(ts), INTERVAL '20' SECOND)) GROUP BY window_start, window_end, customer_id;
INSERT INTO plain SELECT customer_id, amount FROM both_ways;
