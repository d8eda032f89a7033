-- Aggregates skip NULLs: COUNT(x) counts values, COUNT(*) rows; over NULLs alone SUM, AVG, MIN, MAX and STDDEV are NULL and
-- COUNT is 0.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK stats (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'stats', 'format' = 'avro');

INSERT INTO stats
SELECT window_start, customer_id, COUNT(*) AS orders, COUNT(amount) AS amounts, SUM(amount) AS total, SUM(quantity) AS items, AVG(amount) AS average, MIN(product) AS first_product, MAX(quantity) AS most, COUNT(DISTINCT product) AS products, STDDEV_POP(amount) AS spread
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
