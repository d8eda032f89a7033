-- Keys as JSON objects: members in any order, more of them do not count; one that is missing or NULL is no PRIMARY KEY.
CREATE TABLE stock (PRIMARY KEY (place, article)) WITH ('topic' = 'stock', 'format' = 'avro', 'key.format' = 'json');
CREATE SINK mirror (PRIMARY KEY (place, article)) WITH ('topic' = 'mirror', 'format' = 'avro');
CREATE SINK per_place (PRIMARY KEY (place)) WITH ('topic' = 'per_place', 'format' = 'avro');
INSERT INTO mirror SELECT place, article, `count` AS pieces FROM stock;
INSERT INTO per_place SELECT place, SUM(`count`) AS pieces FROM stock GROUP BY place;
