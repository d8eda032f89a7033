-- A NULL event time, or one that microseconds cannot hold, is a bad record of class time; more than a day (max_ahead) ahead of
-- the record's timestamp is class future, exactly a day is not. Neither moves the watermark.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK counts (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'counts', 'format' = 'avro');

INSERT INTO counts
SELECT window_start, customer_id, COUNT(*) AS orders, MIN(order_id) AS first_id, MAX(order_id) AS last_id
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
