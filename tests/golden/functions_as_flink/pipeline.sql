-- Functions that Flink also has mean what Flink means: CONCAT and || with a NULL part are NULL, GREATEST and LEAST too;
-- REGEXP_REPLACE replaces every match; integer division and remainder truncate toward zero.
CREATE STREAM events WITH ('topic' = 'events', 'format' = 'avro');
CREATE SINK report WITH ('topic' = 'report', 'format' = 'avro');

INSERT INTO report
SELECT
  id,
  CONCAT(first, '-', middle) AS joined,
  first || '-' || middle AS piped,
  GREATEST(id, epoch_ms) AS greatest,
  LEAST(id, epoch_ms) AS least,
  REGEXP_REPLACE(first, '[aeiou]', '_') AS masked,
  (id - 5) / 2 AS half,
  (id - 5) % 2 AS rest
FROM events;
