-- UNION ALL of two topics with contracts of their own and different numbers of partitions, stateless; equal rows are both
-- kept.
CREATE STREAM web WITH ('topic' = 'web', 'format' = 'avro');
CREATE STREAM shop WITH ('topic' = 'shop', 'format' = 'avro');
CREATE SINK sales WITH ('topic' = 'sales', 'format' = 'avro');

INSERT INTO sales
SELECT 'web' AS channel, order_id AS id, amount FROM web WHERE amount > 0
UNION ALL
SELECT 'shop', receipt, total FROM shop WHERE NOT cash
UNION ALL
SELECT 'web', receipt, total FROM shop WHERE cash;
