-- BIGINT arithmetic is checked: an overflow makes its row a dead letter of class expression, never a wrong number. The record
-- was good when it entered: it has moved the watermark, and the other INSERT has its row.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK products WITH ('topic' = 'products', 'format' = 'avro');
CREATE SINK counts (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'counts', 'format' = 'avro');

INSERT INTO products
SELECT order_id, a * b AS product FROM orders;

INSERT INTO counts
SELECT window_start, customer_id, COUNT(*) AS orders, MAX(order_id) AS last_id
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
