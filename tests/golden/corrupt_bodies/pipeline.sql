-- Bodies that do not decode: string length negative, string length beyond the end, invalid UTF-8, enum index out of range,
-- union branch out of range, array count beyond the end, varint without an end, array without end. Each is a dead letter of
-- class decode and the good record after it is whole.
CREATE STREAM events WITH ('topic' = 'events', 'format' = 'avro');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');

INSERT INTO copy
SELECT * FROM events;
