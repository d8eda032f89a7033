-- Without --final a window over a union closes when the lowest watermark of the topics has passed its end, in each partition
-- number.
CREATE STREAM web (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'web', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE STREAM shop (
  WATERMARK FOR sold_at AS sold_at - INTERVAL '30' SECOND
) WITH ('topic' = 'shop', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');

CREATE VIEW sales AS
SELECT customer_id, amount, ordered_at FROM web
UNION ALL
SELECT customer_id, total AS amount, sold_at AS ordered_at FROM shop;

INSERT INTO revenue
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE sales, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;
