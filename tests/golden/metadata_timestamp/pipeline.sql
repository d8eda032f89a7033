-- The record's timestamp can be the event time: METADATA FROM 'timestamp', with a watermark.
CREATE STREAM pings (
  received_at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp',
  WATERMARK FOR received_at AS received_at - INTERVAL '10' SECOND
) WITH ('topic' = 'pings', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'host');
CREATE SINK latency (PRIMARY KEY (window_start, host)) WITH ('topic' = 'latency', 'format' = 'avro');

INSERT INTO latency
SELECT window_start, host, COUNT(*) AS pings, MIN(ms) AS best, MAX(ms) AS worst, MAX(received_at) AS last_at
FROM TABLE(TUMBLE(TABLE pings, DESCRIPTOR(received_at), INTERVAL '1' MINUTE))
GROUP BY window_start, host;
