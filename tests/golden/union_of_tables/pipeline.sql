-- Two tables as one relation: by id, and by city. Rows leave and move in both.
CREATE TABLE people (PRIMARY KEY (id)) WITH ('topic' = 'people', 'format' = 'avro', 'key.format' = 'string');
CREATE TABLE firms (PRIMARY KEY (id)) WITH ('topic' = 'firms', 'format' = 'avro', 'key.format' = 'string');
CREATE VIEW everyone AS SELECT id, city, 1 AS heads FROM people UNION ALL SELECT id, city, staff AS heads FROM firms WHERE staff > 0;
CREATE SINK by_id (PRIMARY KEY (id)) WITH ('topic' = 'by_id', 'format' = 'avro');
CREATE SINK by_city (PRIMARY KEY (city)) WITH ('topic' = 'by_city', 'format' = 'avro');
INSERT INTO by_id SELECT id, city, heads FROM everyone;
INSERT INTO by_city SELECT city, COUNT(*) AS ids, SUM(heads) AS heads FROM everyone GROUP BY city;
