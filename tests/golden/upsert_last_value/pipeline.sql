-- A stateless query into a sink with PRIMARY KEY: the value with the highest offset stays per key. A filter removes records,
-- not keys.
CREATE STREAM profiles WITH ('topic' = 'profiles', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK newest (PRIMARY KEY (customer_id)) WITH ('topic' = 'newest', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO newest
SELECT customer_id, UPPER(name) AS name, city FROM profiles WHERE name <> 'X';
