-- 'on.<class>' = 'drop' lets bad records of that class go without a dead letter; the others have theirs. Offsets and
-- watermarks are the same either way.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id',
  'tombstones' = 'dead_letter', 'on.wire' = 'drop', 'on.future' = 'drop', 'on.null' = 'drop');
CREATE SINK counts (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'counts', 'format' = 'avro');

INSERT INTO counts
SELECT window_start, customer_id, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
