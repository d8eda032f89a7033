-- As in Flink, AVG of an integer column is of that type, truncated toward zero, and does not overflow on its way; so is SUM,
-- which is cast here to have room.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'sensor');
CREATE SINK stats (PRIMARY KEY (window_start, sensor)) WITH ('topic' = 'stats', 'format' = 'avro');

INSERT INTO stats
SELECT window_start, sensor, AVG(small) AS small, AVG(big) AS big, SUM(CAST(small AS BIGINT)) AS total
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, sensor;
