-- What each customer has spent so far: an updating aggregate. The sink's topic holds the newest total per customer and can be
-- compacted.
SET 'pipeline.name' = 'customer_totals';

CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '30' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK customer_totals (PRIMARY KEY (customer_id))
  WITH ('topic' = 'customer_totals', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO customer_totals
SELECT customer_id, SUM(amount) AS spent, COUNT(*) AS orders, SUM(quantity) AS pieces, MAX(ordered_at) AS last_order_at
FROM orders
GROUP BY customer_id;
