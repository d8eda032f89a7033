-- An expression inside an aggregate that overflows makes its row a dead letter: the row is in no sum and in no count of its
-- group.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK totals (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'totals', 'format' = 'avro');

INSERT INTO totals
SELECT window_start, customer_id, COUNT(*) AS orders, SUM(a * b) AS total, MAX(a + b) AS most
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
