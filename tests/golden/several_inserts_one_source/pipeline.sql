-- Three INSERTs share one source: each record is decoded once, a bad one is one dead letter, and a row that is late for the
-- window still reaches the others.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK large_orders WITH ('topic' = 'large_orders', 'format' = 'avro');
CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = 'totals', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO large_orders
SELECT order_id, customer_id, amount FROM orders WHERE amount > 100;

INSERT INTO revenue
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;

INSERT INTO totals
SELECT customer_id, SUM(amount) AS total, COUNT(*) AS orders, MAX(ordered_at) AS last_order
FROM orders
GROUP BY customer_id;
