-- Records of three writer schemas interleaved: each is read with the schema of its id and resolved to the reader's: fields
-- reordered, a field added with a default, one left out, int and float promoted. Order within the partition stays.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'totals', 'format' = 'avro');

INSERT INTO copy
SELECT * FROM orders;

INSERT INTO totals
SELECT window_start, customer_id, SUM(quantity) AS quantity, SUM(amount) AS amount, COUNT(DISTINCT country) AS countries, LAST_VALUE(country) AS last_country
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
