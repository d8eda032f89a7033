-- Two streams over one topic, each with its own delay: a row is late for one and not for the other, also after a restart, which
-- must find both watermarks of the partition.
CREATE STREAM strict (
  WATERMARK FOR ordered_at AS ordered_at
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE STREAM patient (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '2' MINUTE
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
CREATE SINK by_strict (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'by_strict', 'format' = 'avro');
CREATE SINK by_patient (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'by_patient', 'format' = 'avro');

INSERT INTO by_strict
SELECT window_start, customer_id, SUM(amount) AS revenue
FROM TABLE(TUMBLE(TABLE strict, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;

INSERT INTO by_patient
SELECT window_start, customer_id, SUM(amount) AS revenue
FROM TABLE(TUMBLE(TABLE patient, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;
