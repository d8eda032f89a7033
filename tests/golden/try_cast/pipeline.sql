-- TRY_CAST gives NULL where CAST would fail.
CREATE STREAM readings WITH ('topic' = 'readings', 'format' = 'avro');
CREATE SINK numbers WITH ('topic' = 'numbers', 'format' = 'avro');

INSERT INTO numbers
SELECT id, TRY_CAST(text AS INT) AS value FROM readings WHERE TRY_CAST(text AS INT) IS NULL OR TRY_CAST(text AS INT) > 0;
