-- AND and OR decide row by row, left to right, wherever they stand: what is right of a condition that decides is not computed.
CREATE STREAM numbers (WATERMARK FOR `at` AS `at`) WITH ('topic' = 'numbers', 'format' = 'avro', 'key.format' = 'long', 'key.fields' = 'id');
CREATE SINK truths WITH ('topic' = 'truths', 'format' = 'avro');
CREATE SINK either WITH ('topic' = 'either', 'format' = 'avro');
CREATE SINK counted (PRIMARY KEY (id)) WITH ('topic' = 'counted', 'format' = 'avro');
INSERT INTO truths SELECT id, b <> 0 AND a / b > 1 AS `both`, b IS NULL OR b = 0 OR a / b > 1 AS either, a < 1000 AND a + a > 10 OR a > 1000 AS large FROM numbers;
INSERT INTO either SELECT id FROM numbers WHERE b IS NULL OR b = 0 OR a / b > 1;
INSERT INTO counted SELECT id, COUNT(*) FILTER (WHERE b <> 0 AND a / b > 1) AS n FROM numbers GROUP BY id;
