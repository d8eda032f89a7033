-- Orders of 100 and more, as they arrive: a filter and a projection, no state.
SET 'pipeline.name' = 'large_orders';

CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro');

CREATE SINK large_orders WITH ('topic' = 'large_orders', 'format' = 'avro');

INSERT INTO large_orders
SELECT order_id, customer_id, UPPER(country) AS country, amount, amount / quantity AS price_per_piece, ordered_at
FROM orders
WHERE amount >= 100 AND quantity > 0;
