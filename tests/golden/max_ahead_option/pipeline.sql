-- 'max_ahead' sets how far an event time may lie ahead of the record's timestamp; here an hour.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id', 'max_ahead' = '1 h');
CREATE SINK counts (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'counts', 'format' = 'avro');

INSERT INTO counts
SELECT window_start, customer_id, COUNT(*) AS orders, MIN(order_id) AS first_id, MAX(order_id) AS last_id
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
