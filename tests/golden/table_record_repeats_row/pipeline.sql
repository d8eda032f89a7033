-- A record that repeats its key's row is a record like any other: the row's position is its own, and expressions are tried on it.
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');
CREATE TABLE partners (PRIMARY KEY (customer_id)) WITH ('topic' = 'partners', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK names (PRIMARY KEY (customer_id)) WITH ('topic' = 'names', 'format' = 'avro');
CREATE SINK shares (PRIMARY KEY (customer_id)) WITH ('topic' = 'shares', 'format' = 'avro');
INSERT INTO names
SELECT customer_id, name FROM customers
UNION ALL
SELECT customer_id, name FROM partners;
INSERT INTO shares SELECT customer_id, 100 / level AS share FROM customers;
