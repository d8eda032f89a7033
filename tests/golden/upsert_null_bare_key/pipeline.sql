-- A bare key of a sink holds no NULL: every such record is a dead letter of class key, whether or not another one of the same key
-- follows it before the commit.
CREATE STREAM profiles WITH ('topic' = 'profiles', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK newest (PRIMARY KEY (customer_id)) WITH ('topic' = 'newest', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO newest
SELECT customer_id, city FROM profiles;
