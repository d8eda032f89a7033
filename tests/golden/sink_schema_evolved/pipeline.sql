-- The sink's subject holds the schema of an earlier version of this pipeline (contracts/large_orders-value.avsc). The new one
-- adds a nullable column and leaves one out: that is compatible (BACKWARD), a second version is registered before the first
-- record, and the rows have the new columns.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK large_orders WITH ('topic' = 'large_orders', 'format' = 'avro');

INSERT INTO large_orders
SELECT order_id, amount, CASE WHEN quantity > 1 THEN product END AS product FROM orders WHERE amount >= 5;
