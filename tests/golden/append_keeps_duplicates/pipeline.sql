-- An append sink is a multiset: equal rows are all kept.
CREATE STREAM pings WITH ('topic' = 'pings', 'format' = 'avro');
CREATE SINK seen WITH ('topic' = 'seen', 'format' = 'avro');

INSERT INTO seen
SELECT host, up FROM pings;
