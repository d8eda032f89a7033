-- Counting all rows of a union needs none of its columns.
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE STREAM returns WITH ('topic' = 'returns', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK totals (PRIMARY KEY (scope)) WITH ('topic' = 'totals', 'format' = 'avro');
INSERT INTO totals
SELECT 'all' AS scope, COUNT(*) AS events
FROM (SELECT customer_id FROM orders UNION ALL SELECT customer_id FROM returns);
