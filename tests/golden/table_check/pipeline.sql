-- A version that fails its CHECK is none: the former one stays. A tombstone has nothing to check.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (
  PRIMARY KEY (customer_id),
  CONSTRAINT positive CHECK (level >= 0) ON VIOLATION DEAD LETTER,
  CONSTRAINT low CHECK (level < 50) ON VIOLATION DROP
) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK joined WITH ('topic' = 'joined', 'format' = 'avro');
CREATE SINK levels (PRIMARY KEY (customer_id)) WITH ('topic' = 'levels', 'format' = 'avro');
INSERT INTO joined SELECT o.order_id, c.country FROM orders AS o LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;
INSERT INTO levels SELECT customer_id, SUM(level) AS level FROM customers GROUP BY customer_id;
