-- Two INSERTs may write one append sink: it holds the rows of both.
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro');
CREATE SINK alerts WITH ('topic' = 'alerts', 'format' = 'avro');

EXECUTE STATEMENT SET BEGIN
INSERT INTO alerts SELECT order_id, 'large' AS reason FROM orders WHERE amount > 100;
INSERT INTO alerts SELECT order_id, 'foreign' AS reason FROM orders WHERE country <> 'DE';
END;
