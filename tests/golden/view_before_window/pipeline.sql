-- A view between the stream and its window: the key, renamed, is still the key; the event time, renamed, still the event time.
-- Rows that the view drops move the watermark and are never late.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK stats WITH ('topic' = 'stats', 'format' = 'avro');

CREATE VIEW sold AS
SELECT customer_id AS buyer_id, COALESCE(country, 'none') AS country, amount * quantity AS total, o.buyer.vip AS vip, ordered_at AS sold_at
FROM orders AS o
WHERE quantity > 0;

INSERT INTO stats
SELECT
  s.buyer_id, s.country, window_end,
  SUM(CASE WHEN s.vip THEN s.total ELSE 0 END) AS vip_total,
  SUM(s.total) AS total,
  COUNT(*) * 100 AS hundreds,
  MAX(s.sold_at) AS last_at
FROM TABLE(TUMBLE(TABLE sold, DESCRIPTOR(sold_at), INTERVAL '1' MINUTE)) AS s
GROUP BY s.country, s.buyer_id, window_end, window_start;
