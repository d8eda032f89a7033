-- COUNT(DISTINCT), FILTER, MIN and MAX in an updating GROUP BY.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK stats (PRIMARY KEY (customer_id)) WITH ('topic' = 'stats', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO stats
SELECT customer_id, COUNT(DISTINCT product) AS products, COUNT(*) FILTER (WHERE amount >= 5) AS large, MIN(product) AS first_product, MAX(ordered_at) AS last_order
FROM orders
GROUP BY customer_id;
