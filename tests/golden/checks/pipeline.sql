-- CHECK with ON VIOLATION DEAD LETTER and DROP, tried in the order of the SQL: the first that fails decides. NULL passes. A
-- record that fails does not move the watermark.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND,
  CONSTRAINT positive_amount CHECK (amount >= 0) ON VIOLATION DEAD LETTER,
  CONSTRAINT some_quantity CHECK (quantity > 0 AND quantity < 1000) ON VIOLATION DROP,
  CONSTRAINT fair_price CHECK (amount / quantity < 500) ON VIOLATION DEAD LETTER
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');

INSERT INTO revenue
SELECT window_start, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders, SUM(quantity) AS quantity
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
