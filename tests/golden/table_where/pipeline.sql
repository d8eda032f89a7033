-- WHERE over a table: a row that no longer passes leaves what follows, and comes back when it passes again.
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK high (PRIMARY KEY (customer_id)) WITH ('topic' = 'high', 'format' = 'avro');
CREATE SINK per_country (PRIMARY KEY (country)) WITH ('topic' = 'per_country', 'format' = 'avro');
INSERT INTO high SELECT customer_id, UPPER(country) AS country, level * 10 AS points FROM customers WHERE level >= 2;
INSERT INTO per_country SELECT country, COUNT(*) AS customers, MIN(level) AS least FROM customers WHERE level >= 2 GROUP BY country;
