-- A running sum that overflows in one order of the partitions, and not in the end, is no error: only a group's own result counts. The
-- group 'bad' overflows in the end and has no row.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK windows (PRIMARY KEY (window_start, country)) WITH ('topic' = 'windows', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (country)) WITH ('topic' = 'totals', 'format' = 'avro');
INSERT INTO windows SELECT window_start, country, SUM(amount) AS amount, SUM(small) AS small, SUM(large) AS large
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, country;
INSERT INTO totals SELECT country, SUM(amount) AS amount, SUM(small) AS small, SUM(large) AS large FROM orders GROUP BY country;
