-- A topic of bad records and tombstones alone: no row, no window, and every bad record a dead letter.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK stats WITH ('topic' = 'stats', 'format' = 'avro');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO stats
SELECT window_start, customer_id, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;

INSERT INTO copy
SELECT order_id FROM orders;
