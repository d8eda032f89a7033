-- String keys are UTF-8 and compared byte by byte: composed and decomposed umlauts are two keys, the empty string is one.
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = 'totals', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO totals
SELECT customer_id, SUM(amount) AS total, COUNT(*) AS orders
FROM orders
GROUP BY customer_id;
