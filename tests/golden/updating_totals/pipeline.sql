-- GROUP BY without a window updates: the sink's table holds the last value per key. No row is late; a HAVING-less group never
-- leaves.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = 'totals', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO totals
SELECT customer_id, SUM(amount) AS total, COUNT(*) AS orders, SUM(quantity) AS items, MIN(amount) AS least, MAX(amount) AS most, AVG(amount) AS average
FROM orders
GROUP BY customer_id;
