-- GROUP BY the key of rows that are grouped by it: only what is named is computed. "total" overflows and nobody reads it.
CREATE STREAM orders (
  WATERMARK FOR at AS at
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer');
CREATE SINK latest (PRIMARY KEY (customer)) WITH ('topic' = 'latest', 'format' = 'avro');

CREATE VIEW customers AS
SELECT customer, LAST_VALUE(amount) AS amount, SUM(amount) AS total, COUNT(*) AS orders
FROM orders
GROUP BY customer;

INSERT INTO latest
SELECT customer, MAX(amount) AS amount, SUM(orders) AS orders
FROM customers
GROUP BY customer;
