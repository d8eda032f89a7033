-- SUM and AVG have the type of their column, as in Flink: INT and FLOAT too. What an INT does not hold is no wrong number: the
-- group "b" is withdrawn.
CREATE STREAM readings (
  WATERMARK FOR at AS at - INTERVAL '5' SECOND
) WITH ('topic' = 'readings', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'sensor');
CREATE SINK sums (
  window_start TIMESTAMP_LTZ(3), sensor STRING, whole INT, flags INT, single FLOAT, mean FLOAT, exact DECIMAL(38, 2), ratio DECIMAL(38, 6),
  PRIMARY KEY (window_start, sensor)
) WITH ('topic' = 'sums', 'format' = 'avro');

INSERT INTO sums
SELECT window_start, sensor, SUM(whole) AS whole, SUM(CASE WHEN whole > 1 THEN 1 ELSE 0 END) AS flags, SUM(single) AS single,
  AVG(single) AS mean, SUM(exact) AS exact, SUM(exact) / COUNT(*) AS ratio
FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(at), INTERVAL '1' MINUTE))
GROUP BY window_start, sensor;
