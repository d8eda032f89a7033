-- A group of a table is there while HAVING holds: it comes, goes and comes again.
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK large (PRIMARY KEY (country)) WITH ('topic' = 'large', 'format' = 'avro');
CREATE SINK by_size (PRIMARY KEY (customers)) WITH ('topic' = 'by_size', 'format' = 'avro');
INSERT INTO large SELECT country, COUNT(*) AS customers, MAX(level) AS top FROM customers GROUP BY country HAVING COUNT(*) >= 2;
INSERT INTO by_size SELECT customers, COUNT(*) AS countries FROM (SELECT country, COUNT(*) AS customers FROM customers GROUP BY country HAVING SUM(level) > 2) GROUP BY customers;
