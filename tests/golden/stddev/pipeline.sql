-- STDDEV_POP, STDDEV_SAMP, VAR_POP, VAR_SAMP and AVG of doubles; of one value the sample forms are NULL and the others 0.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK stats (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'stats', 'format' = 'avro');

INSERT INTO stats
SELECT window_start, customer_id, STDDEV_POP(amount) AS stddev_pop, STDDEV_SAMP(amount) AS stddev_samp, VAR_POP(amount) AS var_pop, VAR_SAMP(amount) AS var_samp, AVG(amount) AS average
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, customer_id;
