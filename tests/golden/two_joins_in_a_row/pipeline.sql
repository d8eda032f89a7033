-- A row meets its customer, and with it its product: the second join is by another column, so rows move between them.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');
CREATE TABLE products (PRIMARY KEY (product_id)) WITH ('topic' = 'products', 'format' = 'avro', 'key.format' = 'long');
CREATE SINK sold WITH ('topic' = 'sold', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (country, product)) WITH ('topic' = 'totals', 'format' = 'avro');
CREATE VIEW both_joined AS SELECT o.order_id, c.country, p.name AS product, o.amount FROM orders AS o
  JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id
  LEFT JOIN products FOR SYSTEM_TIME AS OF o.ordered_at AS p ON o.product_id = p.product_id AND p.rank >= c.level;
INSERT INTO sold SELECT order_id, country, product FROM both_joined;
INSERT INTO totals SELECT country, product, SUM(amount) AS amount FROM both_joined GROUP BY country, product;
