-- Rows of two streams under one key: the one with the greatest event time is there; of one time, that of the later SELECT.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE STREAM returns (WATERMARK FOR returned_at AS returned_at - INTERVAL '5' SECOND)
  WITH ('topic' = 'returns', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK latest (PRIMARY KEY (customer_id)) WITH ('topic' = 'latest', 'format' = 'avro');
INSERT INTO latest SELECT customer_id, 'order' AS kind, amount FROM orders UNION ALL SELECT customer_id, 'return' AS kind, amount FROM returns;
