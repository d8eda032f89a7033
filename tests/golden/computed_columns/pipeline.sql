-- A computed column can be the watermark's source, and another can be used like a column of the contract; SELECT * has both.
CREATE STREAM events (
  event_at AS COALESCE(corrected_at, recorded_at),
  total AS price * quantity,
  WATERMARK FOR event_at AS event_at - INTERVAL '5' SECOND
) WITH ('topic' = 'events', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO revenue
SELECT window_start, customer_id, SUM(total) AS revenue, MAX(event_at) AS last_at
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(event_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;

INSERT INTO copy
SELECT * FROM events WHERE total > 3;
