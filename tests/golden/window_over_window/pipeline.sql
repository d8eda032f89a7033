-- A window over a window's result: rows that an operator derived are never tested for lateness. A row that is late for the
-- first window is late, and in no second one.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');

CREATE VIEW per_minute AS
SELECT customer_id, window_time AS minute_time, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, window_time, customer_id;

INSERT INTO revenue
SELECT window_start, window_end, customer_id, SUM(revenue) AS revenue, MAX(revenue) AS best_minute, SUM(orders) AS orders, COUNT(*) AS minutes
FROM TABLE(TUMBLE(TABLE per_minute, DESCRIPTOR(minute_time), INTERVAL '5' MINUTE))
GROUP BY window_start, window_end, customer_id;
