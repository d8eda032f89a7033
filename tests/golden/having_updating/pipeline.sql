-- HAVING over an updating group: when it stops holding, the group's row leaves the table (a tombstone); when it holds again,
-- it is back.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK small (PRIMARY KEY (customer_id)) WITH ('topic' = 'small', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO small
SELECT customer_id, SUM(amount) AS total, COUNT(*) AS orders
FROM orders
GROUP BY customer_id
HAVING SUM(amount) < 30 AND COUNT(*) > 1;
