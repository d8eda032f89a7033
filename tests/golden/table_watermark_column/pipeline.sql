-- A table's versions count from a column of theirs, which may come out of order and lie far ahead; the current row is that of the
-- highest offset all the same.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE TABLE prices (
  PRIMARY KEY (customer_id),
  WATERMARK FOR valid_from AS valid_from - INTERVAL '10' SECOND
) WITH ('topic' = 'prices', 'format' = 'avro', 'key.format' = 'string', 'max_ahead' = 'none');
CREATE SINK priced WITH ('topic' = 'priced', 'format' = 'avro');
CREATE SINK mirror (PRIMARY KEY (customer_id)) WITH ('topic' = 'mirror', 'format' = 'avro');
INSERT INTO priced SELECT o.order_id, p.price FROM orders AS o
  JOIN prices FOR SYSTEM_TIME AS OF o.ordered_at AS p ON o.customer_id = p.customer_id;
INSERT INTO mirror SELECT customer_id, price FROM prices;
