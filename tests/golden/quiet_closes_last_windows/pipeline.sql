-- When all streams are quiet, event time goes on by the clock: the last windows close without another record, and no window that is not
-- begun. What comes for them afterwards is late; a partition that has never had a record is raised with the others.
CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue', 'format' = 'avro');

INSERT INTO revenue
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;
