-- Keys in Avro (a contract <topic>-key exists): both fields of the key are grouped by, one of them is in the value too. Schema
-- ids count all contracts in the order of their file names: orders-key is 1, orders-value 2.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'avro', 'key.fields' = 'customer_id;region');
CREATE SINK revenue (PRIMARY KEY (window_start, customer_id, region)) WITH ('topic' = 'revenue', 'format' = 'avro');

INSERT INTO revenue
SELECT window_start, customer_id, region, SUM(amount) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id, region;
