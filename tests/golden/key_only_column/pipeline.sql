-- A column of key.fields that the value does not have comes from the record's key.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO revenue
SELECT window_start, customer_id, SUM(amount) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;

INSERT INTO copy
SELECT order_id, customer_id FROM orders;
