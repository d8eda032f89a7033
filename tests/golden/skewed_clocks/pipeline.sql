-- Lateness is a matter of the row's own partition: partition 0 runs a day ahead and refuses its own old rows, but it makes no
-- row of partition 1 late.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');

INSERT INTO revenue
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;
