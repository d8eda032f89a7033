-- Every type in a union with null passes through, null and not; null may stand first or last in the union. Empty is not null.
CREATE STREAM everything WITH ('topic' = 'everything', 'format' = 'avro');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO copy
SELECT * FROM everything;
