-- An updating GROUP BY by the key and an expression, with a computed result over the aggregates.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK totals (PRIMARY KEY (customer_id, family)) WITH ('topic' = 'totals', 'format' = 'avro');

INSERT INTO totals
SELECT customer_id, LOWER(product) AS family, SUM(amount * quantity) AS total, SUM(amount * quantity) / SUM(quantity) AS per_item
FROM orders
GROUP BY customer_id, LOWER(product);
