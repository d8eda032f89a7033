-- When all streams are quiet, rows that wait for their versions are joined, and the windows over them close. What comes later is late by it.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK revenue (PRIMARY KEY (window_start, country)) WITH ('topic' = 'revenue', 'format' = 'avro');
CREATE SINK enriched WITH ('topic' = 'enriched', 'format' = 'avro');

INSERT INTO revenue
SELECT window_start, c.country, SUM(o.amount) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE)) AS o
JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id
GROUP BY window_start, c.country;
INSERT INTO enriched SELECT o.order_id, c.country, o.amount FROM orders AS o
JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;
