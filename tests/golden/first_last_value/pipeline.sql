-- FIRST_VALUE and LAST_VALUE go by event time, ties by offset, whatever the order of arrival; a late row counts for neither.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK stats (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'stats', 'format' = 'avro');

INSERT INTO stats
SELECT window_start, customer_id, FIRST_VALUE(product) AS first_product, LAST_VALUE(product) AS last_product, FIRST_VALUE(amount) AS first_amount, LAST_VALUE(quantity) AS last_quantity, FIRST_VALUE(product) FILTER (WHERE amount > 2) AS first_large
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
