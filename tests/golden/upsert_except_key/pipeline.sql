-- 'value.fields-include' = 'EXCEPT_KEY': the key column is in the record's key only. The expected rows list the sink's
-- columns, those of the key too.
CREATE STREAM profiles WITH ('topic' = 'profiles', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK newest (PRIMARY KEY (customer_id)) WITH ('topic' = 'newest', 'format' = 'avro', 'key.format' = 'string', 'value.fields-include' = 'EXCEPT_KEY');

INSERT INTO newest
SELECT customer_id, name, city FROM profiles;
