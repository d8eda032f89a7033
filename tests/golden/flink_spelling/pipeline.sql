-- A Flink statement pastes: explicit typed columns, NOT ENFORCED, connector, IF NOT EXISTS, COMMENT, backticks, trailing
-- comments.
SET 'pipeline.name' = 'flink_spelling';

/* the shop's orders */
CREATE STREAM IF NOT EXISTS `orders` (
  `order_id` BIGINT NOT NULL COMMENT 'unique',
  `customer_id` STRING NOT NULL,
  `amount` DOUBLE NOT NULL,
  `ordered_at` TIMESTAMP_LTZ(3) NOT NULL,
  WATERMARK FOR `ordered_at` AS `ordered_at` - INTERVAL '5' SECOND
) COMMENT 'from the shop' WITH (
  'connector' = 'kafka', 'topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id'
);
CREATE SINK revenue (
  window_start TIMESTAMP_LTZ(3), customer_id STRING, revenue DOUBLE,
  PRIMARY KEY (window_start, customer_id) NOT ENFORCED
) WITH ('connector' = 'upsert-kafka', 'topic' = 'revenue', 'format' = 'avro');

INSERT INTO revenue -- per minute
SELECT `window_start`, o.`customer_id`, SUM(o.amount) AS revenue
FROM TABLE(
  TUMBLE(DATA => TABLE orders, TIMECOL => DESCRIPTOR(ordered_at), SIZE => INTERVAL '1' MINUTE)
) AS o
GROUP BY window_start, window_end, o.customer_id;
