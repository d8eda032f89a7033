-- Groups over a table under one key of the sink: a group's time is that of its newest row. One that has gone again does not count, in
-- whatever order the rows of the partitions met.
CREATE TABLE scores (PRIMARY KEY (player)) WITH ('topic' = 'scores', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK by_size (PRIMARY KEY (n)) WITH ('topic' = 'by_size', 'format' = 'avro');
INSERT INTO by_size SELECT n, team FROM (SELECT team, COUNT(*) AS n FROM scores GROUP BY team);
