-- Names keep their case without quotes; double quotes and backticks mean the same name.
CREATE STREAM shopOrders (
  WATERMARK FOR orderedAt AS orderedAt - INTERVAL '5' SECOND
) WITH ('topic' = 'shopOrders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customerId');
CREATE SINK revenuePerMinute (PRIMARY KEY (windowStart, customerId)) WITH ('topic' = 'revenuePerMinute', 'format' = 'avro');
CREATE SINK "orderList" WITH ('topic' = 'orderList', 'format' = 'avro');

INSERT INTO revenuePerMinute
SELECT window_start AS windowStart, customerId, SUM(unitPrice * itemCount) AS totalRevenue
FROM TABLE(TUMBLE(TABLE shopOrders, DESCRIPTOR(orderedAt), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customerId;

INSERT INTO orderList
SELECT "orderId", `customerId`, s.shipTo.postalCode AS postalCode, itemCount AS "ItemCount"
FROM shopOrders AS s
WHERE "itemCount" > 1;
