-- When everything is quiet, windows over windows close too, each behind a shuffle of its own.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK revenue (PRIMARY KEY (window_start, country)) WITH ('topic' = 'revenue', 'format' = 'avro');

CREATE VIEW per_minute AS
SELECT window_time AS minute_time, customer_id, country, SUM(amount) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, window_time, country, customer_id;

INSERT INTO revenue SELECT window_start, country, SUM(revenue) AS revenue, COUNT(*) AS minutes
FROM TABLE(TUMBLE(TABLE per_minute, DESCRIPTOR(minute_time), INTERVAL '5' MINUTE)) GROUP BY window_start, window_end, country;
