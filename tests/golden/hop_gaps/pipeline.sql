-- HOP whose slide is larger than its size: a row between two windows lies in none. It is neither late nor counted, but it
-- moves the watermark.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');

INSERT INTO revenue
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(HOP(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '5' MINUTE, INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;
