-- Rows joined AS OF, grouped by the table's column in windows of 10 seconds, these in windows of a minute.
CREATE STREAM orders (WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND)
  WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'long', 'key.fields' = 'order_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK peaks (PRIMARY KEY (window_start, country)) WITH ('topic' = 'peaks', 'format' = 'avro');
CREATE VIEW short AS SELECT window_time AS closed, country, SUM(amount) AS amount FROM (
  SELECT o.window_start, o.window_end, o.window_time, c.country, o.amount
  FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '10' SECOND)) AS o LEFT JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id)
  GROUP BY window_start, window_end, window_time, country;
INSERT INTO peaks SELECT window_start, country, MAX(amount) AS most, SUM(amount) AS total, COUNT(*) AS windows
  FROM TABLE(TUMBLE(TABLE short, DESCRIPTOR(closed), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, country;
