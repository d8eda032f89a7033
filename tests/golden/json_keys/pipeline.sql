-- Keys as JSON objects. In the source: `k_customer` is the key's member `customer` (the value has a field of that name), `region`
-- stands in the key alone; other members and spaces do not matter. In the sink: the members in the order of the PRIMARY KEY, and
-- since the value leaves them out, this is what the key itself says.
CREATE STREAM orders (
  k_customer BIGINT,
  k_region STRING,
  amount DOUBLE,
  ordered_at TIMESTAMP_LTZ(3),
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'json', 'key.fields' = 'k_customer;k_region', 'key.fields-prefix' = 'k_');
CREATE SINK revenue (PRIMARY KEY (window_start, region, customer))
  WITH ('topic' = 'revenue', 'format' = 'avro', 'key.format' = 'json', 'value.fields-include' = 'EXCEPT_KEY');

INSERT INTO revenue
SELECT k_customer AS customer, k_region AS region, window_start, SUM(amount) AS revenue
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, k_customer, k_region;
