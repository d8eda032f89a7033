-- A row older than its key's first version joins that one, unless it came when the table had passed the row's time already.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string', 'before_first' = 'first_known');
CREATE SINK joined WITH ('topic' = 'joined', 'format' = 'avro');
INSERT INTO joined SELECT o.order_id, c.country FROM orders AS o LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;
