-- COUNT(DISTINCT), FILTER (WHERE ...), MIN and MAX of strings (by bytes: capitals first). A filter that lets nothing through
-- counts 0 and sums NULL.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK stats (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'stats', 'format' = 'avro');

INSERT INTO stats
SELECT window_start, customer_id, COUNT(DISTINCT product) AS products,
  COUNT(*) FILTER (WHERE amount >= 5) AS large,
  SUM(amount) FILTER (WHERE quantity > 1) AS bulk,
  COUNT(DISTINCT product) FILTER (WHERE amount >= 5) AS large_products,
  MIN(product) AS first_product,
  MAX(product) AS last_product
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
