-- A key of two columns, named in another order than its Avro schema has them; values do not repeat it.
CREATE STREAM orders (WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'long', 'key.fields' = 'order_id');

CREATE TABLE prices (PRIMARY KEY (product_id, site)) WITH ('topic' = 'prices', 'format' = 'avro');
CREATE SINK priced WITH ('topic' = 'priced', 'format' = 'avro');
CREATE SINK mirror (PRIMARY KEY (product_id, site)) WITH ('topic' = 'mirror', 'format' = 'avro');
CREATE SINK per_site (PRIMARY KEY (site)) WITH ('topic' = 'per_site', 'format' = 'avro');
INSERT INTO priced SELECT o.order_id, p.price FROM orders AS o
  LEFT JOIN prices FOR SYSTEM_TIME AS OF o.ordered_at AS p ON o.shop = p.site AND p.product_id = o.product;
INSERT INTO mirror SELECT product_id, site, price FROM prices;
INSERT INTO per_site SELECT site, COUNT(*) AS products, SUM(price) AS prices FROM prices GROUP BY site;
