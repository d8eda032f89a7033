-- What is no JSON object, or has a member of another type, is a bad record of class key; a missing member is NULL.
CREATE STREAM orders (
  account BIGINT,
  amount DOUBLE,
  ordered_at TIMESTAMP_LTZ(3)
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'json', 'key.fields' = 'account');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO copy
SELECT account, amount FROM orders;
