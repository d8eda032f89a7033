-- A condition over a table that can't be computed: the record is bad, whatever came after it, and its row is not there.
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK few (PRIMARY KEY (customer_id)) WITH ('topic' = 'few', 'format' = 'avro');
INSERT INTO few SELECT customer_id, level FROM customers WHERE 10 / level > 2;
