-- Every Avro type passes through unchanged with SELECT *, a named type used twice included. Instants, dates and times may be
-- written as ISO 8601 or as a number in the schema's unit, decimals as string or number; bytes and fixed are base64.
CREATE STREAM everything WITH ('topic' = 'everything', 'format' = 'avro');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO copy
SELECT * FROM everything;
