-- A key's row is removed by a tombstone, and comes back; its group goes with its last row, and comes back too.
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK mirror (PRIMARY KEY (customer_id)) WITH ('topic' = 'mirror', 'format' = 'avro');
CREATE SINK per_country (PRIMARY KEY (country)) WITH ('topic' = 'per_country', 'format' = 'avro');
INSERT INTO mirror SELECT customer_id, country FROM customers;
INSERT INTO per_country SELECT country, COUNT(*) AS customers, SUM(level) AS levels FROM customers GROUP BY country;
