-- An updating SUM beyond BIGINT withdraws the row of its group (a tombstone); it is there again when the sum is back in range.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = 'totals', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO totals
SELECT customer_id, COUNT(*) AS orders, SUM(a) AS total
FROM orders
GROUP BY customer_id;
