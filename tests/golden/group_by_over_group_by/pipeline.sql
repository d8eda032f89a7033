-- Groups of groups: how many pairs of team and points have one player, two, and so on. Rows of the inner groups come and go.
CREATE TABLE scores (PRIMARY KEY (player)) WITH ('topic' = 'scores', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK sizes (PRIMARY KEY (players)) WITH ('topic' = 'sizes', 'format' = 'avro');
CREATE SINK widest (PRIMARY KEY (what)) WITH ('topic' = 'widest', 'format' = 'avro');
CREATE VIEW pairs AS SELECT team, points, COUNT(*) AS players FROM scores GROUP BY team, points;
INSERT INTO sizes SELECT players, COUNT(*) AS pairs FROM pairs GROUP BY players;
INSERT INTO widest SELECT 'all' AS what, MAX(players) AS players, COUNT(DISTINCT team) AS teams FROM pairs;
