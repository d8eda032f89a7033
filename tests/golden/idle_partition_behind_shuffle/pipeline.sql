-- An idle partition's raise goes through the shuffle: the windows behind it close, and what the partition brings later is late by it.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK revenue (PRIMARY KEY (window_start, country)) WITH ('topic' = 'revenue', 'format' = 'avro');
INSERT INTO revenue SELECT window_start, country, SUM(amount) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, country;
