-- The stream is keyed by its order_id: it and the table are shuffled by the customer before they meet. Late rows are found before they move.
CREATE STREAM orders (WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND)
  WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'long', 'key.fields' = 'order_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK joined WITH ('topic' = 'joined', 'format' = 'avro');
CREATE SINK per_country (PRIMARY KEY (window_start, country)) WITH ('topic' = 'per_country', 'format' = 'avro');
CREATE SINK per_customer (PRIMARY KEY (customer_id)) WITH ('topic' = 'per_customer', 'format' = 'avro');
INSERT INTO joined SELECT o.order_id, c.country, c.level FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;
INSERT INTO per_country SELECT window_start, c.country, SUM(o.amount) AS amount, COUNT(*) AS orders
  FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '30' SECOND)) AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id GROUP BY window_start, window_end, c.country;
INSERT INTO per_customer SELECT c.customer_id, SUM(o.amount) AS amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id GROUP BY c.customer_id;
