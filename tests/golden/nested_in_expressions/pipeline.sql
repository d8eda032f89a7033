-- Fields of NULL rows are NULL at every depth and wherever they stand: in CASE, COALESCE, WHERE, computed columns, behind elements
-- of arrays (a NULL element, none at all) and behind rows that CASE and COALESCE chose.
CREATE STREAM orders (
  where_to AS COALESCE(delivery.place.city, billing.place.city, 'nowhere')
) WITH ('topic' = 'orders', 'format' = 'avro');
CREATE SINK flat WITH ('topic' = 'flat', 'format' = 'avro');

INSERT INTO flat
SELECT
  id,
  where_to,
  o.delivery.place.geo.lat AS lat,
  o.delivery.place.geo.lat * 2e0 AS twice,
  o.delivery.place.geo.lat IS NULL AS unknown,
  CASE WHEN o.delivery.place.city = 'Köln' THEN 'near' ELSE 'far' END AS distance,
  (COALESCE(delivery, billing)).place.city AS first_city,
  (CASE WHEN id > 2 THEN delivery ELSE billing END).place.floors AS floors,
  items[1].sku AS sku,
  items[1].place.city AS item_city,
  items[2].place.geo.lat AS item_lat,
  items[id].sku AS nth_sku,
  places['home'].city AS home,
  places['home'].geo.lat AS home_lat,
  places['work'].city AS work
FROM orders AS o
WHERE o.delivery.place.city IS NULL OR o.delivery.place.city <> 'Rom';
