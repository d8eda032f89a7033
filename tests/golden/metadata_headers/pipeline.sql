-- Headers of a record as a map of bytes; a header that is absent is NULL.
CREATE STREAM pings (
  headers MAP<STRING, BYTES> METADATA
) WITH ('topic' = 'pings', 'format' = 'avro');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO copy
SELECT host, CAST(headers['trace'] AS STRING) AS trace, headers['origin'] AS origin FROM pings;
