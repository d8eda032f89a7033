-- An updating GROUP BY may have more columns than the topic's key; the sink's key is a record of both.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK totals (PRIMARY KEY (customer_id, product)) WITH ('topic' = 'totals', 'format' = 'avro');

INSERT INTO totals
SELECT customer_id, product, SUM(quantity) AS items
FROM orders
WHERE quantity < 10
GROUP BY customer_id, product;
