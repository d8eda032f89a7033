-- A NULL joins nothing, not even another NULL: in a left join its row stays, without a version.
CREATE STREAM orders (WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND)
  WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'long', 'key.fields' = 'order_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK lefts WITH ('topic' = 'lefts', 'format' = 'avro');
CREATE SINK inners WITH ('topic' = 'inners', 'format' = 'avro');
CREATE SINK per_country (PRIMARY KEY (country)) WITH ('topic' = 'per_country', 'format' = 'avro');
INSERT INTO lefts SELECT o.order_id, o.customer_id, c.customer_id AS found, c.country FROM orders AS o LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;
INSERT INTO inners SELECT o.order_id, o.customer_id, c.customer_id AS found, c.country FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;
INSERT INTO per_country SELECT c.country, SUM(o.amount) AS amount FROM orders AS o LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id GROUP BY c.country;
