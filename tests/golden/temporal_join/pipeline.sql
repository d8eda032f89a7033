CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK revenue_by_minute (PRIMARY KEY (window_start, country)) WITH ('topic' = 'revenue_by_minute', 'format' = 'avro');
CREATE SINK enriched WITH ('topic' = 'enriched', 'format' = 'avro');
CREATE SINK lefts WITH ('topic' = 'lefts', 'format' = 'avro');
CREATE SINK by_country (PRIMARY KEY (country)) WITH ('topic' = 'by_country', 'format' = 'avro');
CREATE SINK mirror (PRIMARY KEY (customer_id)) WITH ('topic' = 'mirror', 'format' = 'avro');
INSERT INTO revenue_by_minute
SELECT window_start, c.country, SUM(o.amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE)) AS o
JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id
GROUP BY window_start, c.country;
INSERT INTO enriched SELECT o.order_id, c.country, o.amount FROM orders AS o
JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id AND o.amount > 2;
INSERT INTO lefts SELECT o.order_id, c.country FROM orders AS o
LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;
INSERT INTO by_country SELECT country, COUNT(*) AS customers, MAX(level) AS top FROM customers GROUP BY country;
INSERT INTO mirror SELECT customer_id, country FROM customers WHERE level > 1;
