-- Task 2 reads visits:2 alone, which is empty: it has nothing for the shuffle of orders, and nobody waits for its word.
CREATE STREAM orders (WATERMARK FOR at AS at) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer');
CREATE STREAM visits (WATERMARK FOR at AS at) WITH ('topic' = 'visits', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer');

CREATE SINK log WITH ('topic' = 'log', 'format' = 'avro');
CREATE SINK by_country (PRIMARY KEY (window_start, country)) WITH ('topic' = 'by_country', 'format' = 'avro');
INSERT INTO log
SELECT customer, at FROM orders
UNION ALL
SELECT customer, at FROM visits;
INSERT INTO by_country
SELECT window_start, country, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(at), INTERVAL '1' MINUTE))
GROUP BY window_start, country;
