-- Windows behind a join and a shuffle close when the stream and the table of every partition have passed them: table partition 1 is
-- at 00:01:30, so only the first window is over, however far the others are.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK revenue (PRIMARY KEY (window_start, country)) WITH ('topic' = 'revenue', 'format' = 'avro');
INSERT INTO revenue SELECT window_start, c.country, SUM(o.amount) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE)) AS o
JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id
GROUP BY window_start, c.country;
