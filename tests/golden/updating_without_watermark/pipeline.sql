-- An updating GROUP BY needs no watermark: without one no event time is looked at, NULL or not.
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = 'totals', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO totals
SELECT customer_id, COUNT(*) AS orders, COUNT(ordered_at) AS dated
FROM orders
GROUP BY customer_id;
