-- What ON says beside the keys is tested for each row with its version: where it can't be computed the stream's record is bad.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK inners WITH ('topic' = 'inners', 'format' = 'avro');
CREATE SINK lefts WITH ('topic' = 'lefts', 'format' = 'avro');
CREATE SINK guarded WITH ('topic' = 'guarded', 'format' = 'avro');
INSERT INTO inners SELECT o.order_id, c.country FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id AND o.amount / c.level >= 2;
INSERT INTO lefts SELECT o.order_id, c.country FROM orders AS o LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id AND o.amount / c.level >= 2;
INSERT INTO guarded SELECT o.order_id, c.country FROM orders AS o LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id AND c.level <> 0 AND o.amount / c.level >= 2;
