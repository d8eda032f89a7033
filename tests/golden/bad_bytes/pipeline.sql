-- Bad bytes, each followed by a good record: empty, 1 to 4 bytes, a header without body, wrong magic, unknown schema id,
-- truncated bodies, trailing bytes, JSON, an over-long varint. Each is one dead letter of its class, harms no neighbour and
-- moves no watermark. Raw bytes that are well formed are a record like any other.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO revenue
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;

INSERT INTO copy
SELECT * FROM orders;
