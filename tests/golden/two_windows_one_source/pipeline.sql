-- Two INSERTs with their own windows share one source: a row that the minute refuses still counts in the hour, and is late
-- once.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK by_minute (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'by_minute', 'format' = 'avro');
CREATE SINK by_half_hour (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'by_half_hour', 'format' = 'avro');
CREATE SINK by_hour (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'by_hour', 'format' = 'avro');

INSERT INTO by_minute
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;

INSERT INTO by_half_hour
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(HOP(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '30' MINUTE, INTERVAL '1' HOUR))
GROUP BY window_start, window_end, customer_id;

INSERT INTO by_hour
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' HOUR))
GROUP BY window_start, window_end, customer_id;
