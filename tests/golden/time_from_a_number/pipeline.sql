-- TO_TIMESTAMP_LTZ(milliseconds, 3) as the watermark's source; NULL gives a NULL event time, a bad record of class time.
CREATE STREAM events (
  happened_at AS TO_TIMESTAMP_LTZ(epoch_ms, 3),
  WATERMARK FOR happened_at AS happened_at - INTERVAL '5' SECOND
) WITH ('topic' = 'events', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK counts (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'counts', 'format' = 'avro');

INSERT INTO counts
SELECT window_start, customer_id, COUNT(*) AS events, MIN(happened_at) AS first_at
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(happened_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
