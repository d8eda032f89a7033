-- A division by zero makes its row, and no other, a dead letter of class expression; in WHERE as in SELECT.
CREATE STREAM pairs WITH ('topic' = 'pairs', 'format' = 'avro');
CREATE SINK ratios WITH ('topic' = 'ratios', 'format' = 'avro');

INSERT INTO ratios
SELECT id, a / b AS ratio FROM pairs WHERE a % b <> 1;
