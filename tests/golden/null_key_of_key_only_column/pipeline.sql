-- A key-only column of a stream is NULL where the record has no key.
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO copy
SELECT order_id, customer_id FROM orders;
