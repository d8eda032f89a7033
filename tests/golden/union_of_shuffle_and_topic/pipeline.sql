-- Rows from behind a shuffle and rows of a topic do not lie alike, though both are distributed by the column that is grouped by.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK totals (PRIMARY KEY (name)) WITH ('topic' = 'totals', 'format' = 'avro');
INSERT INTO totals SELECT name, SUM(n) AS n FROM (
  SELECT country AS name, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '10' SECOND)) GROUP BY window_start, window_end, country
  UNION ALL SELECT customer_id AS name, amount AS n FROM orders
) GROUP BY name;
