-- Aggregates over a table follow its rows when these change and go: the least, the greatest, distinct values, exact sums of doubles.
CREATE TABLE scores (PRIMARY KEY (player)) WITH ('topic' = 'scores', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK teams (PRIMARY KEY (team)) WITH ('topic' = 'teams', 'format' = 'avro');
INSERT INTO teams SELECT team, COUNT(*) AS n, MIN(points) AS low, MAX(points) AS high, COUNT(DISTINCT points) AS kinds, SUM(ratio) AS ratio,
  COUNT(note) AS noted, LAST_VALUE(note) AS newest, COUNT(*) FILTER (WHERE points > 3) AS big FROM scores GROUP BY team;
