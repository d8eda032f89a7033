-- Results of windows join the version that held at their window_time, the window's end - 1 ms.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK enriched (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'enriched', 'format' = 'avro');
CREATE VIEW sums AS SELECT window_start, window_time AS closed, customer_id, SUM(amount) AS amount
  FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '10' SECOND)) GROUP BY window_start, window_end, window_time, customer_id;
INSERT INTO enriched SELECT s.window_start, s.customer_id, s.amount, c.country FROM sums AS s
  LEFT JOIN customers FOR SYSTEM_TIME AS OF s.closed AS c ON s.customer_id = c.customer_id;
