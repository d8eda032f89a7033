-- Revenue per customer and minute, by the time of the order. Orders may come up to 30 seconds out of order; what comes after
-- its minute has closed goes to the late topic, what fails the check to the dead-letter topic.
SET 'pipeline.name' = 'revenue';

CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '30' SECOND,
  CONSTRAINT positive_amount CHECK (amount >= 0) ON VIOLATION DEAD LETTER
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK revenue_by_minute (PRIMARY KEY (window_start, customer_id))
  WITH ('topic' = 'revenue_by_minute', 'format' = 'avro');

INSERT INTO revenue_by_minute
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;
