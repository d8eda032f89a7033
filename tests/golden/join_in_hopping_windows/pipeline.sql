-- A row in four hopping windows is joined in each; a late one is refused by the join, once.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE customers (PRIMARY KEY (customer_id)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK sums (PRIMARY KEY (window_start, country)) WITH ('topic' = 'sums', 'format' = 'avro');
INSERT INTO sums SELECT window_start, c.country, SUM(o.amount) AS amount
  FROM TABLE(HOP(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '5' SECOND, INTERVAL '20' SECOND)) AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id GROUP BY window_start, window_end, c.country;
