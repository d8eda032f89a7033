-- Metadata columns: topic, partition, offset and timestamp of the record. A bad record and a tombstone take an offset.
CREATE STREAM pings (
  source_topic STRING METADATA FROM 'topic' VIRTUAL,
  `partition` INT METADATA VIRTUAL,
  position BIGINT METADATA FROM 'offset' VIRTUAL,
  received_at TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'
) WITH ('topic' = 'pings', 'format' = 'avro');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO copy
SELECT source_topic, `partition` AS source_partition, position, received_at, host FROM pings WHERE position <> 1 OR `partition` = 1;
