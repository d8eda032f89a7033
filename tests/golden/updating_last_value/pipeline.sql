-- LAST_VALUE in an updating GROUP BY: the value of the highest event time, not of the last arrival.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '10' MINUTE
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK latest (PRIMARY KEY (customer_id)) WITH ('topic' = 'latest', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO latest
SELECT customer_id, LAST_VALUE(product) AS last_product, FIRST_VALUE(product) AS first_product, MAX(ordered_at) AS last_order
FROM orders
GROUP BY customer_id;
