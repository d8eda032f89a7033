-- Each order meets the version of its customer that was read last. No watermark is needed; a replay may see other versions.
SET 'nondeterministic' = 'true';
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE STREAM by_order WITH ('topic' = 'by_order', 'format' = 'avro', 'key.format' = 'long', 'key.fields' = 'order_id', 'value.subject' = 'orders-value');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK joined WITH ('topic' = 'joined', 'format' = 'avro');
CREATE SINK shuffled WITH ('topic' = 'shuffled', 'format' = 'avro');
CREATE SINK per_country (PRIMARY KEY (country)) WITH ('topic' = 'per_country', 'format' = 'avro');
INSERT INTO joined SELECT o.order_id, c.country FROM orders AS o
  LEFT JOIN customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON o.customer_id = c.customer_id AND c.level > 1;
INSERT INTO shuffled SELECT o.order_id, c.country FROM by_order AS o
  JOIN customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON o.customer_id = c.customer_id;
INSERT INTO per_country SELECT c.country, COUNT(*) AS orders FROM orders AS o
  JOIN customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON o.customer_id = c.customer_id GROUP BY c.country;
