-- A SUM beyond BIGINT withdraws the row of its group and nothing else: no output, no dead letter (the records are good). It is
-- checked when read: a sum that came back into range is right.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK totals (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'totals', 'format' = 'avro');

INSERT INTO totals
SELECT window_start, customer_id, COUNT(*) AS orders, SUM(a) AS total
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
