-- Keys of format int (4 bytes, big endian) in the source and bare in an upsert sink.
CREATE STREAM entries WITH ('topic' = 'entries', 'format' = 'avro', 'key.format' = 'int', 'key.fields' = 'account');
CREATE SINK balances (PRIMARY KEY (account)) WITH ('topic' = 'balances', 'format' = 'avro', 'key.format' = 'int');

INSERT INTO balances
SELECT account, SUM(amount) AS balance, COUNT(*) AS entries
FROM entries
GROUP BY account;
