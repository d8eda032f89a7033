-- Both topics are keyed by the customer, but have unequal numbers of partitions: they are shuffled to meet.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK joined WITH ('topic' = 'joined', 'format' = 'avro');
CREATE SINK per_customer (PRIMARY KEY (customer_id)) WITH ('topic' = 'per_customer', 'format' = 'avro');
INSERT INTO joined SELECT o.order_id, c.country FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;
INSERT INTO per_customer SELECT o.customer_id, SUM(o.amount) AS amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id GROUP BY o.customer_id;
