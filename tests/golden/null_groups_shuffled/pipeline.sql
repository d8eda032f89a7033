-- NULL is a group of its own, and one task has it.
CREATE STREAM events (WATERMARK FOR `at` AS `at`) WITH ('topic' = 'events', 'format' = 'avro', 'key.format' = 'long', 'key.fields' = 'id');
CREATE SINK pairs (PRIMARY KEY (kind, size)) WITH ('topic' = 'pairs', 'format' = 'avro');
CREATE SINK kinds (PRIMARY KEY (kind)) WITH ('topic' = 'kinds', 'format' = 'avro');
INSERT INTO pairs SELECT kind, size, COUNT(*) AS n FROM events GROUP BY kind, size;
INSERT INTO kinds SELECT kind, SUM(n) AS n FROM (SELECT kind, size, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(`at`), INTERVAL '7' SECOND)) GROUP BY window_start, window_end, kind, size) GROUP BY kind;
