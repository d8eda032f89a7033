-- Conjuncts are tried in order on what the former left: b <> 0 AND a / b > 1 never divides by zero; CASE guards its branches
-- too. Integer division truncates toward zero.
CREATE STREAM pairs WITH ('topic' = 'pairs', 'format' = 'avro');
CREATE SINK ratios WITH ('topic' = 'ratios', 'format' = 'avro');
CREATE SINK guarded WITH ('topic' = 'guarded', 'format' = 'avro');

INSERT INTO ratios
SELECT id, a / b AS ratio, a % b AS rest FROM pairs WHERE b <> 0 AND a / b > 1;

INSERT INTO guarded
SELECT id, CASE WHEN b = 0 THEN 0 ELSE a / b END AS ratio FROM pairs;
