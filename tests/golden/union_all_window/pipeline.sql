-- Two topics meet in a window by key: a row is late by the watermark of its own topic and partition, whatever the other topic
-- has reached. Where rows of several partitions meet in a sum of doubles it is exact: 0.1 + 0.2 + 0.3 is 0.6 in any order, and
-- 1e16 + 1 - 1e16 is 1.
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
