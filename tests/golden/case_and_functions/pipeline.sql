-- CASE, COALESCE, NULLIF, BETWEEN, IN, LIKE, IS NULL, string and number functions. Characters are counted, not bytes.
CREATE STREAM items WITH ('topic' = 'items', 'format' = 'avro');
CREATE SINK report WITH ('topic' = 'report', 'format' = 'avro');

INSERT INTO report
SELECT
  id,
  COALESCE(name, 'unnamed') AS name,
  UPPER(TRIM(name)) AS upper_name,
  CHAR_LENGTH(name) AS name_length,
  SUBSTRING(code FROM 1 FOR 1) AS family,
  code || '/' || COALESCE(note, '-') AS label,
  CASE WHEN stock <= 0 THEN 'none' WHEN stock < 10 THEN 'low' ELSE 'good' END AS stock_level,
  CASE family_discount WHEN 1 THEN price / 2 END AS half_price,
  NULLIF(stock, 0) AS stock,
  ABS(price) AS abs_price,
  FLOOR(price) AS floor_price,
  stock BETWEEN 1 AND 5 AS few,
  code LIKE 'A-%' AS in_family_a,
  code IN ('B-7', 'Z-1') AS listed,
  note IS NULL AS no_note
FROM (SELECT *, CASE WHEN code LIKE 'A%' THEN 1 ELSE 0 END AS family_discount FROM items) AS i;
