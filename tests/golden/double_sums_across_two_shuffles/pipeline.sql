-- Sums of doubles are rounded once, whatever the order in which rows meet: in windows by country, then by region; and with results
-- that are taken back in between.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK revenue (PRIMARY KEY (region)) WITH ('topic' = 'revenue', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (region)) WITH ('topic' = 'totals', 'format' = 'avro');
INSERT INTO revenue SELECT region, SUM(revenue) AS revenue, AVG(revenue) AS mean, COUNT(*) AS windows FROM (
  SELECT window_start, country, region, SUM(amount) AS revenue
  FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '20' SECOND)) GROUP BY window_start, window_end, country, region
) GROUP BY region;
INSERT INTO totals SELECT region, SUM(revenue) AS revenue FROM (
  SELECT country, region, SUM(amount) AS revenue FROM orders GROUP BY country, region
) GROUP BY region;
