-- A sink's key that does not follow from how rows are distributed: a customer's total stands under its last country, and leaves it when
-- that changes; of several customers the one with the greatest event time is there, and a country that none is left in has no row.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK leaders (PRIMARY KEY (country)) WITH ('topic' = 'leaders', 'format' = 'avro');
CREATE SINK newest (PRIMARY KEY (country)) WITH ('topic' = 'newest', 'format' = 'avro');
INSERT INTO leaders SELECT country, customer_id, total FROM (
  SELECT customer_id, LAST_VALUE(country) AS country, SUM(amount) AS total FROM orders GROUP BY customer_id);
INSERT INTO newest SELECT country, order_id FROM orders;
