-- Good and bad records of many kinds between one another, in two partitions: positions, watermarks and sums are those of the
-- good ones.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND,
  CONSTRAINT positive CHECK (quantity >= 0) ON VIOLATION DEAD LETTER
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id', 'tombstones' = 'dead_letter');
CREATE SINK stats (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'stats', 'format' = 'avro');
CREATE SINK shares WITH ('topic' = 'shares', 'format' = 'avro');

INSERT INTO stats
SELECT window_start, customer_id, SUM(amount) AS total, COUNT(*) AS orders
FROM TABLE(HOP(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE, INTERVAL '2' MINUTE))
GROUP BY window_start, customer_id;

INSERT INTO shares
SELECT order_id, 100 / quantity AS share FROM orders;
