CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK revenue (PRIMARY KEY (window_start, country)) WITH ('topic' = 'revenue', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (country)) WITH ('topic' = 'totals', 'format' = 'avro');
CREATE SINK grand (PRIMARY KEY (what)) WITH ('topic' = 'grand', 'format' = 'avro');
CREATE SINK latest (PRIMARY KEY (country)) WITH ('topic' = 'latest', 'format' = 'avro');
INSERT INTO revenue SELECT window_start, country, SUM(amount) AS revenue, COUNT(*) AS orders, COUNT(DISTINCT customer_id) AS customers, AVG(amount) AS mean, MAX(amount) AS top
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, country;
INSERT INTO totals SELECT country, SUM(amount) AS revenue, COUNT(*) AS orders FROM orders GROUP BY country;
INSERT INTO grand SELECT 'all' AS what, COUNT(*) AS orders FROM orders;
INSERT INTO latest SELECT country, customer_id, amount FROM orders;
