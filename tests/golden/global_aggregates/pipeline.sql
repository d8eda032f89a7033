-- Without GROUP BY all rows meet in one task. Over a table that has lost all its rows there is no row.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK grand (PRIMARY KEY (what)) WITH ('topic' = 'grand', 'format' = 'avro');
CREATE SINK nobody (PRIMARY KEY (what)) WITH ('topic' = 'nobody', 'format' = 'avro');
CREATE SINK per_minute (PRIMARY KEY (window_start)) WITH ('topic' = 'per_minute', 'format' = 'avro');
INSERT INTO grand SELECT 'all' AS what, COUNT(*) AS orders, SUM(amount) AS amount, COUNT(DISTINCT customer_id) AS customers, MIN(ordered_at) AS first FROM orders;
INSERT INTO nobody SELECT 'all' AS what, COUNT(*) AS customers FROM customers;
INSERT INTO per_minute SELECT window_start, SUM(amount) AS amount FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '10' SECOND)) GROUP BY window_start, window_end;
