-- A CAST that fails makes its row a dead letter of class expression, and no other row; TRY_CAST gives NULL. CAST of a double
-- to an integer truncates toward zero.
CREATE STREAM readings WITH ('topic' = 'readings', 'format' = 'avro');
CREATE SINK numbers WITH ('topic' = 'numbers', 'format' = 'avro');

INSERT INTO numbers
SELECT id, CAST(text AS INT) AS value, TRY_CAST(text AS INT) AS tried, CAST(number AS BIGINT) AS truncated, CAST(small AS DOUBLE) AS wide, CAST(small AS STRING) AS digits
FROM readings;
