-- A view, a common table expression and a subquery in FROM, stacked: each is the query it names.
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro');
CREATE SINK german WITH ('topic' = 'german', 'format' = 'avro');

CREATE VIEW priced AS
SELECT order_id, country, amount * quantity AS total FROM orders WHERE quantity > 0;

INSERT INTO german
WITH big AS (
  SELECT order_id AS id, country, total FROM priced WHERE total > 10
)
SELECT b.id, b.total, b.total * 0.5 AS half
FROM (SELECT id, total, country FROM big WHERE id <> 5) AS b
WHERE b.country = 'DE';
