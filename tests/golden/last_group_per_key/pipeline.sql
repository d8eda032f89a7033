-- Several groups of one window under one key of the sink: results come ordered by window and group, so the last group is there.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE VIEW twice AS SELECT customer_id, country, ordered_at FROM orders WHERE amount > 0 UNION ALL SELECT customer_id, country, ordered_at FROM orders WHERE amount < 0;
CREATE SINK last_one (PRIMARY KEY (customer_id)) WITH ('topic' = 'last_one', 'format' = 'avro');
INSERT INTO last_one SELECT customer_id, window_start, country, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE twice, DESCRIPTOR(ordered_at), INTERVAL '15' SECOND)) GROUP BY window_start, window_end, customer_id, country;
