-- Stateless: WHERE keeps rows for which it is true (not NULL), SELECT renames, reorders and computes; an append sink is a
-- multiset.
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro');
CREATE SINK large_orders WITH ('topic' = 'large_orders', 'format' = 'avro');

INSERT INTO large_orders
SELECT amount * quantity AS total, order_id AS id, country
FROM orders
WHERE amount >= 100 AND country <> 'US';
