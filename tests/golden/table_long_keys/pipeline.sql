-- Keys as eight bytes: joined with a BIGINT as they lie, with an INT that is widened.
CREATE STREAM orders (WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'long', 'key.fields' = 'big');
CREATE TABLE products (PRIMARY KEY (id)) WITH ('topic' = 'products', 'format' = 'avro', 'key.format' = 'long');
CREATE SINK by_int WITH ('topic' = 'by_int', 'format' = 'avro');
CREATE SINK by_long WITH ('topic' = 'by_long', 'format' = 'avro');
INSERT INTO by_int SELECT o.order_id, p.name FROM orders AS o LEFT JOIN products FOR SYSTEM_TIME AS OF o.ordered_at AS p ON o.product = p.id;
INSERT INTO by_long SELECT o.order_id, p.name FROM orders AS o LEFT JOIN products FOR SYSTEM_TIME AS OF o.ordered_at AS p ON p.id = o.big;
