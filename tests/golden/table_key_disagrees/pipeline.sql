-- A record of a table whose value says another key than its key, or that has no key, is bad: the former version stays.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK joined WITH ('topic' = 'joined', 'format' = 'avro');
CREATE SINK mirror (PRIMARY KEY (customer_id)) WITH ('topic' = 'mirror', 'format' = 'avro');
INSERT INTO joined SELECT o.order_id, c.country FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;
INSERT INTO mirror SELECT customer_id, level FROM customers;
