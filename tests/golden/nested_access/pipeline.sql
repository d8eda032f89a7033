-- Fields of structs (through a NULL struct: NULL), elements of arrays (from 1; outside: NULL), values of maps (absent: NULL).
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro');
CREATE SINK flat WITH ('topic' = 'flat', 'format' = 'avro');

INSERT INTO flat
SELECT
  order_id,
  o.customer.id AS customer_id,
  o.customer.address.city AS city,
  o.customer.address.zip AS zip,
  items[1].sku AS first_sku,
  items[1].price * items[1].quantity AS first_total,
  items[2].sku AS second_sku,
  tags[2] AS second_tag,
  attributes['color'] AS color,
  CARDINALITY(tags) AS tags,
  o.customer AS customer
FROM orders AS o
WHERE o.customer.id <> 'c9';
