-- Decimals are exact: 0.10 + 0.20 is 0.30; SUM has more digits than its column (two times the largest DECIMAL(10, 2) fits);
-- AVG has six digits after the point.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK stats (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'stats', 'format' = 'avro');

INSERT INTO stats
SELECT window_start, customer_id, SUM(amount) AS total, MIN(amount) AS least, MAX(amount) AS most, AVG(amount) AS average, COUNT(*) AS payments
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
