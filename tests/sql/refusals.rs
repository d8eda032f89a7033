//! What is not run is refused by name, at its place, with a way out.
//!
//! `¦` stands where the refusal must point; it is taken out before the file is compiled. A case without it is refused at
//! its INSERT, or, where the file as a whole is wrong, without a place.

use super::shop::{ORDERS, built};
use tidemill::error::Kind;

/// SQL, a part of the message, a part of the hint (empty: there need not be one).
type Case = (&'static str, &'static str, &'static str);

/// What follows `INSERT INTO s` into an append sink.
const QUERIES: &[Case] = &[
    // Names.
    ("SELECT ¦amont FROM orders", "column \"amont\" is not known", "did you mean \"amount\"?"),
    ("SELECT ¦o.amont FROM orders AS o", "column \"amont\" is not known", "did you mean \"amount\"?"),
    ("SELECT amount FROM orders WHERE ¦quantty > 1", "column \"quantty\" is not known", "did you mean \"quantity\"?"),
    (
        "SELECT ¦orders.nothing FROM orders AS o",
        "not known",
        "the columns here are \"orderId\", \"customer\", \"amount\", \"quant",
    ),
    ("SELECT amount FROM ¦order", "stream \"order\" is not known", "did you mean \"orders\"?"),
    ("SELECT amount FROM ¦shop.orders", "several parts", "backticks"),
    ("SELECT amount FROM ¦s", "\"s\" is a sink", "CREATE STREAM"),
    ("SELECT ¦uper(customer) AS u FROM orders", "function \"uper\" is not known", "did you mean \"upper\"?"),
    ("SELECT address.¦town AS t FROM orders", "field \"town\" is not known", "\"city\""),
    ("SELECT address.geo.¦lng AS t FROM orders", "field \"lng\" is not known", "did you mean \"lat\"?"),
    ("SELECT customer.¦name AS n FROM orders", "STRING has no field \"name\"", "ROW"),
    ("SELECT ¦tags[0] AS t FROM orders", "elements count from 1, not from 0", "[1]"),
    ("SELECT ¦tags[-1] AS t FROM orders", "elements count from 1, not from -1", "[1]"),
    ("SELECT ¦customer[1] AS t FROM orders", "STRING", "ROW has fields, ARRAY and MAP have elements"),
    ("SELECT ¦labels[1] AS t FROM orders", "is no key of MAP<STRING, STRING>", "map['key']"),
    ("SELECT ¦labels[customer] AS t FROM orders", "the key of a map must be a constant", "map['key']"),
    ("SELECT amount AS a, quantity AS a FROM orders", "two columns have the name \"a\"", "AS"),
    ("SELECT amount + 1 FROM orders", "has no name", "AS"),
    // Joins of every kind.
    ("SELECT a.amount FROM orders AS a JOIN ¦orders AS b ON a.orderId = b.orderId", "joins are not in this release", "UNION ALL"),
    (
        "SELECT a.amount FROM orders AS a LEFT JOIN ¦orders AS b ON a.orderId = b.orderId",
        "joins are not in this release",
        "UNION ALL",
    ),
    (
        "SELECT a.amount FROM orders AS a RIGHT JOIN ¦orders AS b USING (orderId)",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    (
        "SELECT a.amount FROM orders AS a FULL OUTER JOIN ¦orders AS b ON TRUE",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    (
        "SELECT a.amount FROM orders AS a CROSS JOIN ¦orders AS b",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    (
        "SELECT a.amount FROM orders AS a NATURAL JOIN ¦orders AS b",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    (
        "SELECT a.amount FROM orders AS a, ¦orders AS b",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    (
        "SELECT a.amount FROM orders AS a LEFT SEMI JOIN ¦orders AS b ON a.orderId = b.orderId",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    (
        "SELECT a.amount FROM orders AS a JOIN ¦orders FOR SYSTEM_TIME AS OF a.ts AS b ON a.orderId = b.orderId",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    ("SELECT amount FROM ¦orders FOR SYSTEM_TIME AS OF ts", "joins are not in this release", "FOR SYSTEM_TIME"),
    (
        "SELECT a.amount FROM (¦orders AS a JOIN orders AS b ON TRUE)",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    (
        "SELECT amount FROM orders CROSS JOIN UNNEST(¦tags) AS t (tag)",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    (
        "SELECT tag FROM UNNEST(ARRAY[¦'a']) AS t (tag)",
        "UNNEST: not in this release",
        "elements are read by their number: tags[1]",
    ),
    ("SELECT ¦unnest(tags) AS t FROM orders", "\"unnest\" is not known", ""),
    (
        "SELECT a.amount FROM orders AS a, LATERAL (¦SELECT amount FROM orders) AS b",
        "joins are not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    (
        "SELECT amount FROM LATERAL (¦SELECT amount FROM orders) AS b",
        "LATERAL: not in this release",
        "one query reads one stream, view or UNION ALL of them",
    ),
    // Windows over rows, order, limits, duplicates.
    (
        "SELECT ¦ROW_NUMBER() OVER (PARTITION BY customer ORDER BY ts) AS n FROM orders",
        "ROW_NUMBER OVER (...): not in this release",
        "FIRST_VALUE",
    ),
    ("SELECT ¦SUM(amount) OVER (ORDER BY ts) AS n FROM orders", "SUM OVER (...): not in this release", "GROUP BY window_start"),
    (
        "SELECT ¦LAG(amount) OVER (ORDER BY ts) AS n FROM orders",
        "LAG OVER (...): not in this release",
        "aggregate over TUMBLE or HOP with GROUP BY window_start, win",
    ),
    (
        "¦SELECT SUM(amount) OVER w AS n FROM orders WINDOW w AS (ORDER BY ts)",
        "WINDOW: not in this release",
        "aggregate over TUMBLE or HOP with GROUP BY window_start, win",
    ),
    ("SELECT amount FROM orders ORDER BY ¦ts", "ORDER BY: not in this release", "no end"),
    (
        "SELECT amount FROM orders LIMIT ¦10",
        "LIMIT: not in this release",
        "a stream has no first rows and no end: filter with WHERE",
    ),
    (
        "SELECT amount FROM orders LIMIT ¦10 OFFSET 5",
        "LIMIT: not in this release",
        "a stream has no first rows and no end: filter with WHERE",
    ),
    (
        "SELECT amount FROM orders OFFSET ¦5",
        "OFFSET: not in this release",
        "a stream has no first rows and no end: filter with WHERE",
    ),
    (
        "¦SELECT amount FROM orders FETCH FIRST 5 ROWS ONLY",
        "FETCH: not in this release",
        "a stream has no first rows and no end: filter with WHERE",
    ),
    ("¦SELECT DISTINCT amount FROM orders", "SELECT DISTINCT: not in this release", "GROUP BY"),
    ("¦SELECT DISTINCT ON (customer) amount FROM orders", "SELECT DISTINCT ON: not in this release", "FIRST_VALUE"),
    ("¦SELECT TOP 5 amount FROM orders", "TOP: not in this release", "a stream has no first rows and no end: filter with WHERE"),
    (
        "SELECT amount FROM orders QUALIFY ¦amount > 1",
        "QUALIFY: not in this release",
        "top-N and dedup are not in this release; FIRST_VALUE or LAST",
    ),
    ("¦SELECT amount FROM orders FOR UPDATE", "FOR: not in this release", "leave it out"),
    // Sets.
    ("SELECT amount FROM orders UNION ¦SELECT amount FROM orders", "UNION: not in this release", "UNION ALL"),
    ("SELECT amount FROM orders UNION DISTINCT ¦SELECT amount FROM orders", "UNION: not in this release", "UNION ALL"),
    ("¦SELECT amount FROM orders UNION ALL BY NAME SELECT amount FROM orders", "UNION BY NAME: not in this release", "UNION ALL"),
    (
        "SELECT amount FROM orders INTERSECT ¦SELECT amount FROM orders",
        "INTERSECT: not in this release",
        "UNION ALL is what there is: mark the sides with a column, th",
    ),
    (
        "SELECT amount FROM orders EXCEPT ¦SELECT amount FROM orders",
        "EXCEPT: not in this release",
        "UNION ALL is what there is: mark the sides with a column, th",
    ),
    ("SELECT amount FROM orders UNION ALL SELECT customer FROM orders", "UNION ALL gives BIGINT and STRING", "CAST"),
    (
        "¦SELECT amount FROM orders UNION ALL SELECT amount, quantity FROM orders",
        "different numbers of columns",
        "name the columns",
    ),
    ("¦VALUES (1, 2)", "VALUES", "INSERT INTO"),
    ("SELECT a FROM (VALUES ¦(1)) AS v (a)", "VALUES: not in this release", "streams"),
    (
        "¦WITH RECURSIVE r AS (SELECT amount FROM orders) SELECT amount FROM r",
        "WITH RECURSIVE: not in this release",
        "a query can't read its own result",
    ),
    // Subqueries outside FROM.
    (
        "SELECT amount FROM orders WHERE ¦customer IN (SELECT customer FROM orders)",
        "IN (SELECT ...): not in this release",
        "FROM",
    ),
    ("SELECT amount FROM orders WHERE EXISTS (¦SELECT 1 FROM orders)", "EXISTS: not in this release", "FROM"),
    ("SELECT (¦SELECT 1 FROM orders) AS n FROM orders", "a subquery as a value: not in this release", "FROM"),
    (
        "SELECT amount FROM orders WHERE ¦amount > ALL (SELECT amount FROM orders)",
        "ANY and ALL: not in this release",
        "write x IN (a, b), or array_has(list, x)",
    ),
    (
        "SELECT amount FROM orders WHERE ¦amount = ANY (ARRAY[1, 2])",
        "ANY and ALL: not in this release",
        "write x IN (a, b), or array_has(list, x)",
    ),
    // Clauses that a planner might leave out without a word.
    (
        "SELECT amount FROM ¦orders TABLESAMPLE BERNOULLI (10)",
        "TABLESAMPLE: not in this release",
        "filter by a hash of the key: md5(key) < '1'",
    ),
    ("SELECT amount FROM ¦orders WITH (NOLOCK)", "this form of a table: not in this release", "write FROM name AS alias"),
    ("SELECT amount FROM ¦orders PARTITION (p0)", "this form of a table: not in this release", "write FROM name AS alias"),
    ("SELECT amount FROM orders USE ¦INDEX (i)", "unexpected INDEX", ""),
    (
        "SELECT tag FROM UNNEST(ARRAY[¦'a']) WITH ORDINALITY AS t (tag, n)",
        "UNNEST: not in this release",
        "elements are read by their number: tags[1]",
    ),
    ("SELECT amount FROM ¦orders WITH ORDINALITY", "this form of a table: not in this release", "write FROM name AS alias"),
    ("¦SELECT amount INTO t FROM orders", "SELECT INTO: not in this release", "write INSERT INTO name SELECT ..."),
    (
        "¦SELECT amount FROM orders LATERAL VIEW explode(tags) t AS tag",
        "LATERAL VIEW",
        "elements are read by their number: tags[1]",
    ),
    ("¦SELECT amount FROM orders SORT BY amount", "SORT BY: not in this release", "a stream has no end to sort"),
    ("¦SELECT amount FROM orders CLUSTER BY amount", "SORT BY: not in this release", "a stream has no end to sort"),
    ("¦SELECT amount FROM orders DISTRIBUTE BY amount", "SORT BY: not in this release", "a stream has no end to sort"),
    (
        "¦SELECT amount FROM orders CONNECT BY PRIOR amount = quantity",
        "CONNECT BY: not in this release",
        "a query can't read its own result",
    ),
    ("¦FROM orders SELECT amount", "expected SELECT, VALUES, or a subquery in the query body, found FROM", ""),
    ("SELECT ¦/*+ STATE_TTL('orders' = '1d') */ amount FROM orders", "hints are not in this release", "WITH"),
    (
        "SELECT amount FROM orders ¦/*+ OPTIONS('scan.startup.mode' = 'earliest-offset') */",
        "hints are not in this release",
        "WITH",
    ),
    (
        "SELECT * FROM ¦orders MATCH_RECOGNIZE (PARTITION BY customer ORDER BY ts MEASURES A.ts AS t PATTERN (A) DEFINE A AS A.amount > 1) AS m",
        "MATCH_RECOGNIZE: not in this release",
        "aggregate in windows",
    ),
    (
        "SELECT * FROM ¦orders PIVOT (SUM(amount) FOR customer IN ('a')) AS p",
        "PIVOT: not in this release",
        "write SUM(x) FILTER (WHERE kind = 'a') AS a, ...",
    ),
    ("SELECT *, amount AS a ¦RENAME FROM orders", "unexpected RENAME", ""),
    // Grouping.
    ("SELECT customer, SUM(amount) AS t FROM orders GROUP BY customer", "append-only", "PRIMARY KEY"),
    ("SELECT orderId, SUM(amount) AS t FROM orders GROUP BY ¦orderId", "needs a repartition", "customer"),
    ("SELECT SUM(amount) AS t FROM orders", "an aggregate over all rows", "customer"),
    (
        "SELECT SUM(amount) AS t FROM orders HAVING SUM(amount) > 1",
        "an aggregate over all rows: this needs a repartition, which this relea",
        "topic \"orders\" is distributed by \"customer\": add \"customer\" ",
    ),
    (
        "SELECT amount FROM orders HAVING ¦amount > 1",
        "HAVING names a column that is neither in GROUP BY nor inside an aggreg",
        "write WHERE, or group by it",
    ),
    (
        "SELECT customer, ¦quantity, SUM(amount) AS t FROM orders GROUP BY customer",
        "column \"quantity\" is neither in GROUP BY nor inside an aggregate",
        "LAST_VALUE(quantity)",
    ),
    (
        "SELECT customer, SUM(amount) AS t FROM orders WHERE ¦SUM(amount) > 1 GROUP BY customer",
        "SUM is an aggregate: it can't stand in WHERE",
        "write HAVING for a condition on groups",
    ),
    (
        "SELECT customer, SUM(COUNT(¦amount)) AS t FROM orders GROUP BY customer",
        "an aggregate inside an aggregate",
        "window first",
    ),
    (
        "SELECT customer FROM orders GROUP BY customer, ¦SUM(amount)",
        "SUM is an aggregate: it can't stand in GROUP BY",
        "write HAVING for a condition on groups",
    ),
    (
        "SELECT customer, SUM(amount) AS t FROM orders GROUP BY ROLLUP (¦customer)",
        "GROUPING SETS, CUBE and ROLLUP: not in this release",
        "write one INSERT for each grouping",
    ),
    (
        "SELECT customer, SUM(amount) AS t FROM orders GROUP BY CUBE (¦customer)",
        "GROUPING SETS, CUBE and ROLLUP: not in this release",
        "write one INSERT for each grouping",
    ),
    (
        "SELECT customer, SUM(amount) AS t FROM orders GROUP BY GROUPING SETS ((¦customer), ())",
        "GROUPING SETS, CUBE and ROLLUP: not in this release",
        "write one INSERT for each grouping",
    ),
    ("¦SELECT customer, SUM(amount) AS t FROM orders GROUP BY ALL", "GROUP BY ALL: not in this release", "name the columns"),
    ("SELECT customer, SUM(amount) AS t FROM orders GROUP BY customer ¦WITH ROLLUP", "unexpected WITH", ""),
    ("SELECT SUM(amount) AS t FROM orders GROUP BY (¦customer, quantity)", "a row of values: not in this release", "one by one"),
    (
        "SELECT ¦GROUPING(customer) AS g FROM orders GROUP BY customer",
        "GROUPING: not in this release",
        "grouping sets are not in this release",
    ),
    (
        "SELECT customer, ¦FIRST_VALUE(amount) IGNORE NULLS AS f FROM orders GROUP BY customer",
        "IGNORE NULLS",
        "write FILTER (WHERE x IS NOT NULL)",
    ),
    ("SELECT customer, ¦FIRST_VALUE(amount ORDER BY ts) AS f FROM orders GROUP BY customer", "ORDER BY", "event time"),
    (
        "SELECT customer, ¦LISTAGG(orderId) WITHIN GROUP (ORDER BY ts) AS f FROM orders GROUP BY customer",
        "WITHIN GROUP",
        "the result would depend on the order of rows",
    ),
    ("SELECT customer, ¦LISTAGG(orderId) AS f FROM orders GROUP BY customer", "LISTAGG: not in this release", "order of rows"),
    (
        "SELECT customer, ¦ARRAY_AGG(orderId) AS f FROM orders GROUP BY customer",
        "ARRAY_AGG: not in this release",
        "order of rows",
    ),
    (
        "SELECT customer, ¦COLLECT(orderId) AS f FROM orders GROUP BY customer",
        "function \"COLLECT\" is not known",
        "order of rows",
    ),
    ("SELECT customer, SUM(¦customer) AS t FROM orders GROUP BY customer", "SUM of STRING is not known", ""),
    ("SELECT customer, AVG(¦ts) AS t FROM orders GROUP BY customer", "AVG of TIMESTAMP_LTZ(3) is not known", ""),
    ("SELECT customer, SUM(¦amount, quantity) AS t FROM orders GROUP BY customer", "SUM takes one argument, not 2", ""),
    ("SELECT customer, SUM() AS t FROM orders GROUP BY customer", "SUM takes one argument, not 0", ""),
    ("SELECT customer, STDDEV_POP(¦quantity) AS t FROM orders GROUP BY customer", "STDDEV_POP of INT", "CAST"),
    ("SELECT ¦UPPER(customer) FILTER (WHERE amount > 1) AS u FROM orders", "FILTER belongs to an aggregate", "CASE WHEN"),
    (
        "SELECT ¦UPPER(DISTINCT customer) AS u FROM orders",
        "DISTINCT belongs to an aggregate",
        "write CASE WHEN ... END for a condition",
    ),
    // Windows.
    (
        "SELECT * FROM TABLE(¦SESSION(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))",
        "SESSION windows are not in this release",
        "TUMBLE",
    ),
    (
        "SELECT * FROM TABLE(¦CUMULATE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '1' HOUR))",
        "CUMULATE windows are not in this release",
        "TUMBLE",
    ),
    (
        "SELECT * FROM TABLE(¦TUMBEL(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))",
        "\"TUMBEL\" is not known",
        "did you mean \"TUMBLE\"?",
    ),
    (
        "SELECT * FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(¦customer), INTERVAL '1' MINUTE))",
        "column \"customer\" is STRING, not a time",
        "",
    ),
    (
        "SELECT * FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(¦tss), INTERVAL '1' MINUTE))",
        "column \"tss\" is not known",
        "did you mean \"ts\"?",
    ),
    (
        "SELECT * FROM TABLE(TUMBLE(TABLE ¦order, DESCRIPTOR(ts), INTERVAL '1' MINUTE))",
        "stream \"order\" is not known",
        "did you mean \"orders\"?",
    ),
    ("SELECT * FROM TABLE(TUMBLE(TABLE orders, ¦ts, INTERVAL '1' MINUTE))", "DESCRIPTOR(<column>)", "TUMBLE"),
    ("SELECT * FROM TABLE(¦TUMBLE(TABLE orders, DESCRIPTOR(ts)))", "TUMBLE needs its size", "TUMBLE"),
    ("SELECT * FROM TABLE(¦HOP(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))", "HOP needs", "slide"),
    (
        "SELECT * FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL ¦'0' MINUTE))",
        "the size of a window must be above zero",
        "",
    ),
    (
        "SELECT * FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL ¦'-1' MINUTE))",
        "the size of a window must be above zero",
        "",
    ),
    (
        "SELECT * FROM TABLE(HOP(TABLE orders, DESCRIPTOR(ts), INTERVAL ¦'0' SECOND, INTERVAL '1' MINUTE))",
        "the slide of a window must be above zero",
        "",
    ),
    (
        "SELECT * FROM TABLE(¦HOP(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MILLISECOND, INTERVAL '1' DAY))",
        "more than 100000 windows",
        "slide before the size",
    ),
    ("SELECT * FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL ¦'1' MONTH))", "no fixed length", "days"),
    (
        "SELECT * FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL ¦'one' MINUTE))",
        "\"one\" is not an amount of time",
        "INTERVAL '1' MINUTE",
    ),
    ("SELECT * FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), ¦60000))", "expected an interval", "INTERVAL '1' MINUTE"),
    (
        "SELECT * FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '1' SECOND, INTERVAL ¦'1' SECOND))",
        "one argument too many",
        "write TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MIN",
    ),
    (
        "SELECT * FROM TABLE(TUMBLE(DATA => TABLE orders, TIMECOL => DESCRIPTOR(ts), ¦SIZ => INTERVAL '1' MINUTE))",
        "argument \"SIZ\" is not known",
        "did you mean \"SIZE\"?",
    ),
    (
        "SELECT customer, SUM(amount) AS t FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY ¦customer",
        "GROUP BY names no window",
        "window_start",
    ),
    (
        "SELECT window_start, SUM(amount) AS t FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY ¦window_start",
        "needs a repartition",
        "customer",
    ),
    (
        "SELECT amount FROM orders GROUP BY ¦TUMBLE(ts, INTERVAL '1' MINUTE)",
        "function \"tumble\" is not known",
        "windows are table functions: FROM TABLE(TUMBLE(TABLE s, DESC",
    ),
    ("SELECT ¦TUMBLE_START(ts, INTERVAL '1' MINUTE) AS w FROM orders", "is not known", "window_start"),
    // Clocks and chance.
    ("SELECT ¦PROCTIME() AS p FROM orders", "PROCTIME() gives another result in a replay", "event time"),
    ("SELECT ¦NOW() AS p FROM orders", "NOW() gives another result in a replay", "event time"),
    ("SELECT ¦CURRENT_TIMESTAMP AS p FROM orders", "CURRENT_TIMESTAMP() gives another result in a replay", "event time"),
    ("SELECT ¦CURRENT_DATE AS p FROM orders", "CURRENT_DATE() gives another result in a replay", "CAST(ts AS DATE)"),
    ("SELECT ¦LOCALTIMESTAMP AS p FROM orders", "gives another result in a replay", "event time"),
    ("SELECT ¦UNIX_TIMESTAMP() AS p FROM orders", "gives another result in a replay", "event time"),
    ("SELECT ¦RAND() AS p FROM orders", "RAND() gives another result in a replay", "hash a column"),
    ("SELECT ¦RAND_INTEGER(5) AS p FROM orders", "gives another result in a replay", "hash a column"),
    ("SELECT ¦UUID() AS p FROM orders", "UUID() gives another result in a replay", "METADATA"),
    // Types and arguments.
    ("SELECT ¦customer / 2 AS x FROM orders", "STRING / INT is not known", "CAST"),
    ("SELECT ¦customer + customer AS x FROM orders", "STRING + STRING is not known", "||"),
    ("SELECT ¦paid * 2 AS x FROM orders", "BOOLEAN * INT is not known", "CASE WHEN"),
    ("SELECT ¦ts + 1 AS x FROM orders", "TIMESTAMP_LTZ(3) + INT is not known", "INTERVAL"),
    ("SELECT ¦tags + 1 AS x FROM orders", "ARRAY<STRING> + INT is not known", "arithmetic takes numbers"),
    ("SELECT -¦customer AS x FROM orders", "- takes a number, not STRING", "CAST"),
    ("SELECT ¦customer || amount AS x FROM orders", "|| joins texts, not BIGINT", "CAST(x AS STRING)"),
    ("SELECT amount FROM orders WHERE ¦customer = 1", "STRING can't be compared with INT", "CAST"),
    ("SELECT amount FROM orders WHERE ¦amount = 'x'", "BIGINT can't be compared with STRING", "CAST"),
    ("SELECT amount FROM orders WHERE ¦amount IN (1, 'x')", "BIGINT can't be compared with STRING", "CAST"),
    ("SELECT amount FROM orders WHERE ¦amount BETWEEN 'a' AND 'b'", "BIGINT can't be compared with STRING", "CAST"),
    ("SELECT amount FROM orders WHERE ¦paid = 1", "BOOLEAN can't be compared with INT", "CAST"),
    ("SELECT amount FROM orders WHERE ¦amount", "a condition is BIGINT, not a truth value", "compare it: x <> 0"),
    (
        "SELECT amount FROM orders WHERE ¦amount AND paid",
        "BIGINT AND BOOLEAN is not known",
        "AND and OR take conditions: compare a number with <> 0",
    ),
    ("SELECT CASE WHEN ¦paid THEN 1 ELSE 'x' END AS x FROM orders", "CASE gives INT and STRING", "CAST"),
    ("SELECT CASE WHEN ¦amount THEN 1 END AS x FROM orders", "BIGINT is not a condition", "compare it: x <> 0"),
    ("SELECT COALESCE(¦amount, 'none') AS x FROM orders", "COALESCE gives BIGINT and STRING", "CAST"),
    ("SELECT ¦UPPER(amount) AS x FROM orders", "function \"upper\" does not take (BIGINT)", "CAST"),
    ("SELECT ¦UPPER() AS x FROM orders", "function \"upper\" does not take ()", "arguments"),
    ("SELECT ¦UPPER(customer, 1) AS x FROM orders", "function \"upper\" does not take (STRING, BIGINT)", "number"),
    ("SELECT SUBSTRING(¦customer, 'a') AS x FROM orders", "function \"substr\" does not take (STRING, STRING)", "CAST"),
    ("SELECT ¦LPAD(customer, 3) AS x FROM orders", "function \"lpad\" does not take (STRING, BIGINT)", "number"),
    ("SELECT ¦ABS(customer) AS x FROM orders", "function \"abs\" does not take (STRING)", "CAST"),
    ("SELECT ROUND(¦price, quantity) AS x FROM orders", "must be a constant", "ROUND(x, 2)"),
    ("SELECT CAST(¦ts AS TIMESTAMP(0)) AS x FROM orders", "type TIMESTAMP(0) is not known", "TIMESTAMP(3)"),
    ("SELECT CAST(¦amount AS BLOB) AS x FROM orders", "type BLOB is not known", ""),
    ("SELECT CAST(¦amount AS VARCHAR(10)) AS x FROM orders", "texts have no length here", "STRING"),
    ("SELECT CAST(¦amount AS DECIMAL(50, 2)) AS x FROM orders", "1 to 38 digits", ""),
    ("SELECT CAST(¦amount AS STRNG) AS x FROM orders", "type STRNG is not known", "did you mean \"STRING\"?"),
    ("SELECT CAST(¦amount AS TIMESTAMP(3)) AS x FROM orders", "CAST of BIGINT to TIMESTAMP(3) is not known", "TO_TIMESTAMP_LTZ"),
    ("SELECT CAST(¦ts AS BIGINT) AS x FROM orders", "CAST of TIMESTAMP_LTZ(3) to BIGINT is not known", "EPOCH"),
    ("SELECT CAST(¦address AS STRING) AS x FROM orders", "is not known", "parts"),
    (
        "SELECT CAST(¦amount AS STRING FORMAT 'x') AS x FROM orders",
        "CAST(amount AS STRING FORMAT 'x'): not in this release",
        "write it with the functions that there are",
    ),
    ("SELECT ¦99999999999999999999 AS x FROM orders", "99999999999999999999 is out of range", "DECIMAL(20, 0)"),
    (
        "SELECT amount FROM orders WHERE ts > ¦CURRENT_TIMESTAMP - INTERVAL '1' DAY",
        "gives another result in a replay",
        "use the event time: the watermark's column, or a column ts T",
    ),
    ("SELECT DATE_FORMAT(¦ts, 'YYYY-ww') AS x FROM orders", "is not a pattern here: YYYY is not known", "Java's"),
    (
        "SELECT DATE_FORMAT(¦ts, customer) AS x FROM orders",
        "the pattern must be a constant",
        "write CASE WHEN ... for several patterns",
    ),
    ("SELECT DATE_FORMAT(¦customer, 'yyyy') AS x FROM orders", "DATE_FORMAT of STRING is not known", "CAST"),
    ("SELECT TO_TIMESTAMP(¦millis) AS x FROM orders", "TO_TIMESTAMP of BIGINT is not known", "TO_TIMESTAMP_LTZ"),
    (
        "SELECT TO_TIMESTAMP(¦customer, '%Y') AS x FROM orders",
        "TO_TIMESTAMP: \"%Y\" is not a pattern here: Y is not known",
        "patterns are Java's: 'yyyy-MM-dd HH:mm:ss.SSS'; other charac",
    ),
    ("SELECT ¦FROM_UNIXTIME(millis) AS x FROM orders", "is not known", "DATE_FORMAT"),
    ("SELECT EXTRACT(CENTURY FROM ¦ts) AS x FROM orders", "EXTRACT(CENTURY FROM ...) is not in this release", "YEAR"),
    ("SELECT FLOOR(¦ts TO WEEK) AS x FROM orders", "WEEK", "MONTH"),
    ("SELECT TIMESTAMPDIFF(¦FORTNIGHT, ts, ts) AS x FROM orders", "FORTNIGHT is not a unit", "WEEK"),
    ("SELECT REGEXP_REPLACE(¦customer, '(', '') AS x FROM orders", "the pattern can't be used", "Rust's"),
    ("SELECT REGEXP(¦customer, '(?=a)') AS x FROM orders", "the pattern can't be used", "look-around"),
    ("SELECT REGEXP_REPLACE(¦customer, 'a', '\\1') AS x FROM orders", "a group is $1", "$1"),
    ("SELECT amount FROM orders WHERE ¦customer SIMILAR TO 'a%'", "SIMILAR TO is not in this release", "REGEXP"),
    ("SELECT amount FROM orders WHERE ¦customer RLIKE 'a'", "RLIKE", "REGEXP"),
    ("SELECT amount FROM orders WHERE ¦customer LIKE 'a!b' ESCAPE '!'", "after the escape character", "ESCAPE"),
    (
        "SELECT amount FROM orders WHERE ¦customer LIKE ANY ('a', 'b')",
        "LIKE ANY: not in this release",
        "write a LIKE 'x%' OR a LIKE 'y%'",
    ),
    (
        "SELECT ¦amount & 1 AS x FROM orders",
        "the operator &: not in this release",
        "there are + - * / %, comparisons, AND, OR, NOT and ||",
    ),
    ("SELECT ¦customer ~ 'a' AS x FROM orders", "the operator ~: not in this release", "REGEXP"),
    ("SELECT amount ¦DIV 2 AS x FROM orders", "unexpected DIV", ""),
    ("SELECT ¦ts AT TIME ZONE 'Europe/Berlin' AS x FROM orders", "AT TIME ZONE: not in this release", "UTC"),
    ("SELECT ¦customer COLLATE \"de\" AS x FROM orders", "not in this release", "write it with the functions that there are"),
    ("SELECT ¦$1 AS x FROM orders", "the parameter $1 has no value", "write the value itself"),
    (
        "SELECT CONVERT(¦customer USING utf8) AS x FROM orders",
        "CONVERT(customer USING utf8): not in this release",
        "write it with the functions that there are",
    ),
    (
        "SELECT (¦amount, quantity) AS x FROM orders",
        "a row of values: not in this release",
        "compare or group the columns one by one",
    ),
    ("SELECT ¦array_transform(tags, x -> x) AS t FROM orders", "function \"array_transform\" is not known", ""),
    ("SELECT ¦JSON_VALUE(customer, '$.a') AS x FROM orders", "is not known", "JSON"),
    ("SELECT ¦TRY_TO_NUMBER(customer) AS x FROM orders", "is not known", ""),
    ("SELECT NULL AS x FROM orders", "which no topic holds", "CAST"),
    ("SELECT INTERVAL '1' DAY AS x FROM orders", "which no topic holds", "CAST"),
    ("SELECT ts - ts AS x FROM orders", "which no topic holds", "CAST"),
    // ksqlDB's spellings.
    ("SELECT amount FROM orders ¦EMIT CHANGES", "EMIT CHANGES is ksqlDB's", "leave it out"),
    ("SELECT amount FROM orders ¦EMIT EVERY INTERVAL '1' MINUTE", "EMIT EVERY", "EMIT FINAL"),
    ("SELECT customer, COUNT(*) AS n FROM orders ¦WINDOW TUMBLING (SIZE 1 MINUTE) GROUP BY customer", "WINDOW", "TABLE(TUMBLE("),
    ("SELECT ¦ROWTIME AS r FROM orders", "column \"ROWTIME\" is not known", "METADATA FROM 'timestamp'"),
    ("SELECT ¦WINDOWSTART AS r FROM orders", "column \"WINDOWSTART\" is not known", "window_start"),
    (
        "SELECT amount FROM orders ¦PARTITION BY customer",
        "PARTITION",
        "a sink is partitioned by its PRIMARY KEY: CREATE SINK s (PRI",
    ),
    ("SELECT customer, ¦LATEST_BY_OFFSET(amount) AS l FROM orders GROUP BY customer", "is not known", "LAST_VALUE"),
    ("SELECT customer, ¦COLLECT_LIST(amount) AS l FROM orders GROUP BY customer", "is not known", "order of rows"),
    ("SELECT customer, ¦TOPK(amount, 3) AS l FROM orders GROUP BY customer", "is not known", ""),
    ("SELECT ¦address->city AS c FROM orders", "->", "fields are read with a point: row.field"),
    // Syntax.
    ("¦SELECT amount", "a query needs a FROM", "name the stream that it reads"),
    ("SELECT amount FROM¦", "expected identifier, found the end", ""),
    ("SELECT FROM ¦orders", "expected an expression, found FROM", ""),
    ("SELECT amount amount ¦quantity FROM orders", "unexpected quantity", ""),
    ("SELECT amount FROM orders WHERE¦ ", "expected", ""),
    ("SELECT (amount ¦FROM orders", "expected ), found FROM", ""),
];

/// Whole files.
const FILES: &[Case] = &[
    // Nothing, or half of it.
    ("", "no INSERT INTO", "write INSERT INTO"),
    ("-- only a comment\n/* and another */\n", "no INSERT INTO", "write INSERT INTO"),
    (";;;", "no INSERT INTO", "write INSERT INTO <sink> SELECT ... FROM <stream>"),
    (
        "CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro');",
        "no INSERT INTO",
        "write INSERT INTO <sink> SELECT ... FROM <stream>",
    ),
    ("¦SELECT 1", "a query alone writes nothing", "INSERT INTO"),
    (
        "CREATE STREAM orders WITH ('topic' = 'orders, 'format' = 'avro¦');",
        "unterminated string literal",
        "close what is open here: a quote, or a comment",
    ),
    ("SET 'pipeline.name' = ¦'revenue;", "unterminated", "close what is open here: a quote, or a comment"),
    ("CREATE STREAM ¦`orders WITH ('topic' = 'orders');", "expected close delimiter '`' before the end", "close what is open"),
    ("/* a comment that does not end¦", "the file ends while in a multi-line comment", "close what is open"),
    (
        "CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro')\n¦CREATE SINK s WITH ('format' = 'avro');",
        "unexpected CREATE",
        "semicolon",
    ),
    ("SET 'a' = 'b' ¦INSERT INTO s SELECT 1;", "unexpected INSERT", "semicolon"),
    ("¦UPDATE orders SET amount = 1;", "UPDATE is not a statement of a pipeline", "INSERT INTO"),
    ("¦DELETE FROM orders;", "DELETE is not a statement of a pipeline", "INSERT INTO"),
    ("¦INSRT INTO s SELECT 1;", "INSRT is not a statement", "did you mean INSERT INTO?"),
    ("¦DROP TABLE orders;", "DROP", "a pipeline has SET, CREATE STREAM, CREATE SINK, CREATE VIEW "),
    ("¦USE CATALOG shop;", "USE", "did you mean SET?"),
    ("¦EXPLAIN SELECT 1;", "EXPLAIN", "a pipeline has SET, CREATE STREAM, CREATE SINK, CREATE VIEW "),
    // Settings.
    ("SET ¦'pipline.name' = 'x';", "setting 'pipline.name' is not known", "did you mean 'pipeline.name'?"),
    ("SET 'pipeline.name' = ¦'a b';", "\"a b\" is not a name of a pipeline", "letters"),
    ("SET ¦'execution.checkpointing.interval' = '10 s';", "is not known", "config file"),
    ("SET ¦'auto.offset.reset' = 'earliest';", "is not known", "--from"),
    ("SET 'nondeterministic' = ¦'yes';", "'true' or 'false'", "leave it out for a pipeline that can be replayed"),
    ("SET 'tidemill.semantics' = ¦'2';", "'1'", "write '1', or leave it out"),
    ("SET 'table.local-time-zone' = ¦'Mars/Base';", "time zone 'Mars/Base' is not known", "Europe/Berlin"),
    ("SET 'table.local-time-zone' = ¦'Europe/Berlin';", "not in this release", "UTC"),
    ("SET ¦'state_ttl' = '1 d';", "not in this release", "windows"),
    ("SET ¦pipeline.name = 'x';", "expected a quoted key", "SET 'key' = 'value'"),
    ("SET 'pipeline.name' = 'a'; SET ¦'pipeline.name' = 'b';", "set twice", "leave one of them out"),
    // Other statements of Flink and ksqlDB.
    ("¦CREATE TABLE t (PRIMARY KEY (a)) WITH ('topic' = 't');", "tables and joins are not in this release", "CREATE STREAM"),
    ("¦CREATE TEMPORARY TABLE t (a INT);", "tables and joins are not in this release", "CREATE STREAM"),
    ("¦CREATE OR REPLACE STREAM t WITH ('topic' = 't');", "CREATE OR REPLACE", "OR REPLACE"),
    ("¦CREATE FUNCTION f AS 'x';", "CREATE FUNCTION is not a statement", "did you mean CREATE STREAM?"),
    ("¦CREATE CATALOG c WITH ('type' = 'x');", "CREATE CATALOG is not a statement", "did you mean CREATE STREAM?"),
    ("CREATE STREAM big WITH ('topic' = 'big') ¦AS SELECT 1;", "AS SELECT is ksqlDB's", "INSERT INTO big SELECT"),
    ("CREATE STREAM big ¦AS SELECT * FROM orders;", "AS SELECT is ksqlDB's", "INSERT INTO big SELECT"),
    ("CREATE STREAM t (id BIGINT ¦KEY, v STRING) WITH ('topic' = 't');", "a KEY column is ksqlDB's", "'key.fields' = 'id'"),
    ("CREATE STREAM t (id BIGINT ¦PRIMARY KEY) WITH ('topic' = 't');", "an item of its own", "PRIMARY KEY (id)"),
    ("CREATE STREAM t WITH (¦KAFKA_TOPIC = 'orders');", "expected a quoted option", "'topic' = '...'"),
    ("CREATE STREAM t WITH ('topic' = 't') ¦PARTITIONED BY (a);", "unexpected PARTITIONED", ""),
    ("CREATE STREAM t ¦PARTITIONED BY (a) WITH ('topic' = 't');", "PARTITIONED BY is not known", "key.fields"),
    ("INSERT ¦OVERWRITE s SELECT 1;", "INSERT OVERWRITE", "INSERT INTO"),
    ("INSERT INTO s ¦VALUES (1);", "INSERT ... VALUES", "SELECT"),
    ("INSERT INTO s ¦PARTITION (a = 1) SELECT 1;", "expected SELECT, VALUES, or a subquery in the query body, found PARTIT", ""),
    ("¦EXECUTE STATEMENT SET BEGIN INSERT INTO s SELECT 1;", "this statement set has no END", "END;"),
    ("¦END;", "END without a statement set", "begin it with BEGIN STATEMENT SET;"),
    // Options.
    ("CREATE STREAM t WITH (¦'topc' = 'orders');", "option 'topc' is not known", "did you mean \"topic\"?"),
    ("CREATE STREAM t WITH ('topic' = 'a', ¦'topic' = 'b');", "given twice", ""),
    ("CREATE STREAM t WITH ('topic' = ¦'');", "option 'topic' is empty", ""),
    ("CREATE STREAM t WITH ('topic' = 'orders', 'format' = ¦'json');", "'format' = 'json' is not in this release", "'avro'"),
    (
        "CREATE STREAM t WITH ('topic' = 'orders', 'format' = ¦'arvo');",
        "'format' = 'arvo' is not known",
        "did you mean \"avro\"?",
    ),
    ("CREATE STREAM t WITH ('topic' = 'orders', 'key.format' = ¦'text');", "'key.format' = 'text' is not known", ""),
    ("CREATE STREAM t WITH ('topic' = 'orders', 'max_ahead' = ¦'soon');", "not a duration", "'10 min'"),
    (
        "CREATE STREAM t WITH ('topic' = 'orders', 'tombstones' = ¦'row');",
        "'tombstones' = 'row' is not in this release",
        "'skip'",
    ),
    ("CREATE STREAM t WITH ('topic' = 'orders', 'connector' = ¦'jdbc');", "'connector' = 'jdbc' is not known", ""),
    ("CREATE STREAM t WITH ('topic' = 'orders', ¦'on.tme' = 'drop');", "no such class", "did you mean \"time\"?"),
    ("CREATE STREAM t WITH ('topic' = 'orders', 'on.time' = ¦'ignore');", "'on.time' = 'ignore' is not known", ""),
    ("CREATE STREAM t WITH (¦'properties.bootstrap.servers' = 'k:9092');", "does not belong in SQL", "[kafka]"),
    ("CREATE STREAM t WITH (¦'scan.startup.mode' = 'earliest-offset');", "does not belong in SQL", "--from"),
    (
        "CREATE STREAM t WITH ('topic' = 'orders', ¦'partitions' = '3');",
        "not one of a stream",
        "a topic that is read has its partitions already",
    ),
    ("CREATE SINK t WITH (¦'key.fields' = 'a');", "not one of a sink", "PRIMARY KEY"),
    ("CREATE SINK t (PRIMARY KEY (a)) WITH ('partitions' = ¦'0');", "not a number above zero", ""),
    ("¦CREATE SINK t WITH ('key.format' = 'string');", "writes no keys", "PRIMARY KEY"),
    // Streams.
    ("CREATE STREAM t WITH ('topic' = ¦'nothing');", "\"nothing-value\" is not known", "register"),
    (
        "CREATE STREAM t (¦amont BIGINT) WITH ('topic' = 'orders');",
        "column \"amont\" of \"t\" is not a field",
        "did you mean \"amount\"?",
    ),
    (
        "CREATE STREAM t (amount ¦INT) WITH ('topic' = 'orders');",
        "BIGINT",
        "write BIGINT, or leave the column out: columns come from the",
    ),
    ("CREATE STREAM t (note ¦STRING NOT NULL) WITH ('topic' = 'orders');", "declared NOT NULL", "CHECK"),
    ("CREATE STREAM t (amount ¦STRNG) WITH ('topic' = 'orders');", "type STRNG is not known", "did you mean \"STRING\"?"),
    ("CREATE STREAM t (amount BIGINT, ¦amount BIGINT) WITH ('topic' = 'orders');", "is there already", ""),
    ("CREATE STREAM t (¦amount AS 1) WITH ('topic' = 'orders');", "is there already", "another name"),
    ("CREATE STREAM t (x AS ¦amont + 1) WITH ('topic' = 'orders');", "column \"amont\" is not known", "did you mean \"amount\"?"),
    ("CREATE STREAM t (x AS ¦SUM(amount)) WITH ('topic' = 'orders');", "SUM is an aggregate", ""),
    (
        "CREATE STREAM t (x AS ¦NOW()) WITH ('topic' = 'orders');",
        "gives another result in a replay",
        "use the event time: the watermark's column, or a column ts T",
    ),
    ("CREATE STREAM t (x AS ¦customer + 1) WITH ('topic' = 'orders');", "STRING + INT is not known", "CAST"),
    (
        "CREATE STREAM t (x AS amount + 1, y AS ¦x + 1) WITH ('topic' = 'orders');",
        "column \"x\" is not known",
        "another computed column",
    ),
    (
        "CREATE STREAM t (p INT METADATA FROM ¦'partitions') WITH ('topic' = 'orders');",
        "metadata \"partitions\" is not known",
        "did you mean 'partition'?",
    ),
    (
        "CREATE STREAM t (¦p STRING METADATA FROM 'offset') WITH ('topic' = 'orders');",
        "metadata 'offset' is BIGINT, not STRING",
        "",
    ),
    (
        "CREATE STREAM t (WATERMARK FOR ¦tss AS tss - INTERVAL '5' SECOND) WITH ('topic' = 'orders');",
        "column \"tss\" is not known",
        "did you mean \"ts\"?",
    ),
    (
        "CREATE STREAM t (WATERMARK FOR ¦millis AS millis - INTERVAL '5' SECOND) WITH ('topic' = 'orders');",
        "is BIGINT, not a time",
        "TO_TIMESTAMP_LTZ",
    ),
    (
        "CREATE STREAM t (WATERMARK FOR ¦customer AS customer) WITH ('topic' = 'orders');",
        "is STRING, not a time",
        "compute one: ts AS TO_TIMESTAMP_LTZ(millis, 3)",
    ),
    (
        "CREATE STREAM t (WATERMARK FOR ts AS ¦ts + INTERVAL '5' SECOND) WITH ('topic' = 'orders');",
        "minus an interval",
        "ts - INTERVAL",
    ),
    ("CREATE STREAM t (WATERMARK FOR ts AS ts - ¦5) WITH ('topic' = 'orders');", "expected an interval", "INTERVAL"),
    (
        "CREATE STREAM t (WATERMARK FOR ts AS ¦ts - INTERVAL '-5' SECOND) WITH ('topic' = 'orders');",
        "minus an interval",
        "write WATERMARK FOR ts AS ts - INTERVAL '5' SECOND",
    ),
    ("CREATE STREAM t (WATERMARK FOR ts AS ts - INTERVAL ¦'1' YEAR) WITH ('topic' = 'orders');", "no fixed length", "days"),
    ("CREATE STREAM t (WATERMARK FOR ts AS ts, WATERMARK FOR ¦ts AS ts) WITH ('topic' = 'orders');", "one WATERMARK", ""),
    ("CREATE STREAM t (CONSTRAINT ¦c CHECK (amount + 1)) WITH ('topic' = 'orders');", "is BIGINT, not a condition", ""),
    (
        "CREATE STREAM t (CHECK (¦amont > 1)) WITH ('topic' = 'orders');",
        "column \"amont\" is not known",
        "did you mean \"amount\"?",
    ),
    ("CREATE STREAM t (CHECK (amount > 1) ON VIOLATION ¦IGNORE) WITH ('topic' = 'orders');", "DEAD LETTER, DROP or FAIL", ""),
    (
        "CREATE STREAM t (CHECK (amount > 1) ¦NOT ENFORCED) WITH ('topic' = 'orders');",
        "always enforced",
        "leave the check out, or say ON VIOLATION DROP",
    ),
    (
        "CREATE STREAM t (CHECK (amount > (¦SELECT 1 FROM orders))) WITH ('topic' = 'orders');",
        "a subquery as a value",
        "subqueries may stand in FROM",
    ),
    ("CREATE STREAM t (¦PERIOD FOR SYSTEM_TIME (a, b)) WITH ('topic' = 'orders');", "PERIOD FOR SYSTEM_TIME", ""),
    (
        "CREATE STREAM t WITH ('topic' = 'orders', 'key.format' = 'string', 'key.fields' = ¦'custmer;x');",
        "is one column",
        "did you mean \"customer\"?",
    ),
    (
        "CREATE STREAM t WITH ('topic' = 'clicks', 'key.fields' = ¦'usr');",
        "neither a field of the value nor of the key",
        "did you mean \"user\"?",
    ),
    ("CREATE STREAM t WITH ('topic' = 'orders', 'key.fields' = ¦'custmer');", "whose format is not known", "key.format"),
    ("CREATE STREAM ¦a.b WITH ('topic' = 'orders');", "one part", "backticks"),
    // Names of several statements.
    (
        "CREATE STREAM orders WITH ('topic' = 'orders'); CREATE STREAM ¦orders WITH ('topic' = 'orders');",
        "is defined already: a stream, in line 1",
        "give one of them another name",
    ),
    (
        "CREATE STREAM orders WITH ('topic' = 'orders'); CREATE VIEW ¦orders AS SELECT 1;",
        "is defined already: a stream, in line 1",
        "give one of them another name",
    ),
    ("CREATE SINK a WITH ('topic' = 't'); ¦CREATE SINK b WITH ('topic' = 't');", "write one topic", "one sink"),
    (
        "CREATE STREAM orders WITH ('topic' = 'orders'); ¦CREATE SINK back WITH ('topic' = 'orders'); INSERT INTO back SELECT amount FROM orders;",
        "which stream \"orders\" reads",
        "another topic",
    ),
    // Sinks.
    ("CREATE SINK t (WATERMARK FOR ¦ts AS ts) WITH ('topic' = 't');", "a sink has no WATERMARK", ""),
    ("CREATE SINK t (CONSTRAINT ¦c CHECK (a > 1)) WITH ('topic' = 't');", "a sink has no CHECK", "WHERE"),
    ("CREATE SINK t (¦a AS b + 1) WITH ('topic' = 't');", "no computed columns", "SELECT"),
    ("CREATE SINK t (a INT, ¦a INT) WITH ('topic' = 't');", "is there already", ""),
    (
        "CREATE SINK t (a INT, PRIMARY KEY (¦b)) WITH ('topic' = 't');",
        "column \"b\" of the PRIMARY KEY is not known",
        "did you mean \"a\"?",
    ),
    ("CREATE SINK t (PRIMARY KEY (a, ¦a)) WITH ('topic' = 't');", "names \"a\" twice", ""),
    ("CREATE SINK t (h BYTES METADATA FROM ¦'headers') WITH ('topic' = 't');", "not in this release", "'timestamp'"),
    ("CREATE SINK ¦`a b` WITH ('format' = 'avro');", "is not a name of a sink", "letters"),
];

/// What follows the stream `orders`.
const AFTER_ORDERS: &[Case] = &[
    (
        "CREATE SINK s WITH ('format' = 'avro'); INSERT INTO ¦totals SELECT amount FROM orders;",
        "sink \"totals\" is not known",
        "CREATE SINK totals",
    ),
    (
        "CREATE SINK revenue WITH ('format' = 'avro'); INSERT INTO ¦revenu SELECT amount FROM orders;",
        "sink \"revenu\" is not known",
        "did you mean \"revenue\"?",
    ),
    (
        "CREATE SINK s (PRIMARY KEY (¦custmer)) WITH ('format' = 'avro'); INSERT INTO s SELECT customer, amount FROM orders;",
        "column \"custmer\" of the PRIMARY KEY is not in the SELECT",
        "did you mean \"customer\"?",
    ),
    (
        "CREATE SINK s (¦PRIMARY KEY (orderId)) WITH ('format' = 'avro'); INSERT INTO s SELECT orderId, amount FROM orders;",
        "does not hold \"customer\"",
        "add \"customer\"",
    ),
    (
        "CREATE SINK s (¦PRIMARY KEY (customer)) WITH ('format' = 'avro'); INSERT INTO s SELECT UPPER(customer) AS customer, amount FROM orders;",
        "does not hold \"customer\"",
        "unchanged",
    ),
    (
        "CREATE SINK s (PRIMARY KEY (customer)) WITH ('format' = 'avro'); INSERT INTO s SELECT customer, amount FROM orders; INSERT INTO ¦s SELECT customer, amount FROM orders;",
        "two statements write sink \"s\"",
        "UNION ALL",
    ),
    (
        "CREATE SINK s (¦PRIMARY KEY (customer)) WITH ('format' = 'avro'); INSERT INTO s SELECT customer, amount FROM orders UNION ALL SELECT customer, amount FROM orders;",
        "in no certain order",
        "LAST_VALUE",
    ),
    (
        "CREATE SINK s (¦PRIMARY KEY (customer)) WITH ('format' = 'avro', 'key.format' = 'long'); INSERT INTO s SELECT customer, amount FROM orders;",
        "BIGINT",
        "CAST(customer AS BIGINT)",
    ),
    (
        "CREATE SINK s (¦PRIMARY KEY (customer, product)) WITH ('format' = 'avro', 'key.format' = 'string'); INSERT INTO s SELECT customer, note AS product FROM orders;",
        "a bare key is one column",
        "leave 'key.format' out",
    ),
    (
        "CREATE SINK s (¦PRIMARY KEY (t)) WITH ('format' = 'avro'); INSERT INTO s SELECT customer, SUM(amount) AS t FROM orders GROUP BY customer;",
        "does not hold all columns of the GROUP BY",
        "unchanged",
    ),
    (
        "CREATE SINK s WITH ('format' = 'avro'); ¦INSERT INTO s SELECT customer, SUM(amount) AS t FROM orders GROUP BY customer;",
        "append-only",
        "PRIMARY KEY",
    ),
    (
        "CREATE SINK s (a INT, b INT) WITH ('format' = 'avro'); ¦INSERT INTO s SELECT quantity FROM orders;",
        "sink \"s\" has 2 columns (a, b), the SELECT has 1 (quantity)",
        "",
    ),
    (
        "CREATE SINK s (a INT) WITH ('format' = 'avro'); ¦INSERT INTO s SELECT amount FROM orders;",
        "column \"a\" of sink \"s\" is INT, the SELECT gives BIGINT",
        "CAST(amount AS INT)",
    ),
    (
        "CREATE SINK s (a STRING NOT NULL) WITH ('format' = 'avro'); ¦INSERT INTO s SELECT note FROM orders;",
        "is NOT NULL, the SELECT may give NULL",
        "COALESCE",
    ),
    (
        "CREATE SINK s (a STRING) WITH ('format' = 'avro'); INSERT INTO s (¦b) SELECT note FROM orders;",
        "sink \"s\" has no column \"b\"",
        "\"a\"",
    ),
    (
        "CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s (¦a, b) SELECT note FROM orders;",
        "names 2 columns, the SELECT has 1",
        "",
    ),
    (
        "CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT amount FROM orders; ¦INSERT INTO s SELECT note FROM orders;",
        "an earlier one",
        "declare the sink's columns",
    ),
    (
        "CREATE VIEW v (¦a, b) AS SELECT amount FROM orders; CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT a FROM v;",
        "names 2 columns, its query has 1",
        "",
    ),
    (
        "CREATE VIEW v AS SELECT ¦amont FROM orders; CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT 1 AS a FROM v;",
        "column \"amont\" is not known",
        "did you mean",
    ),
    (
        "CREATE VIEW v AS SELECT amount FROM ¦w; CREATE VIEW w AS SELECT amount FROM v; CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT amount FROM w;",
        "stream \"w\" is not known",
        "before this statement",
    ),
    (
        "CREATE SINK s (PRIMARY KEY (customer)) WITH ('format' = 'avro'); CREATE VIEW v AS SELECT customer, SUM(amount) AS t FROM orders GROUP BY customer; INSERT INTO s SELECT customer, SUM(t) AS t FROM v GROUP BY ¦customer;",
        "which change, is not in this release",
        "windows first",
    ),
    (
        "CREATE SINK s WITH ('format' = 'avro'); CREATE VIEW v AS SELECT customer, MAX(ts) AS ts FROM orders GROUP BY customer; INSERT INTO s SELECT customer FROM TABLE(TUMBLE(TABLE v, DESCRIPTOR(¦ts), INTERVAL '1' MINUTE)) GROUP BY customer;",
        "over the results of",
        "windows first",
    ),
    (
        "CREATE SINK s WITH ('format' = 'avro'); CREATE VIEW v AS SELECT customer, ts + INTERVAL '1' SECOND AS ts FROM orders; INSERT INTO s SELECT customer, window_start FROM TABLE(TUMBLE(TABLE v, DESCRIPTOR(¦ts), INTERVAL '1' MINUTE)) GROUP BY customer, window_start;",
        "\"ts\" is not the event time",
        "unchanged",
    ),
    (
        "CREATE SINK s WITH ('format' = 'avro'); ¦INSERT INTO s SELECT customer FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) UNION ALL SELECT customer FROM orders;",
        "UNION ALL of rows in windows",
        "around the UNION ALL",
    ),
];

#[test]
fn files_are_refused_where_they_are_wrong() {
    check(FILES.iter().map(|(sql, message, hint)| ((*sql).to_owned(), *message, *hint)).collect());
    check(AFTER_ORDERS.iter().map(|(sql, message, hint)| (format!("{ORDERS}{sql}"), *message, *hint)).collect());
}

#[test]
fn queries_are_refused_where_they_are_wrong() {
    let files = QUERIES.iter().map(|(sql, message, hint)| {
        (format!("{ORDERS}CREATE SINK s WITH ('format' = 'avro');\nINSERT INTO s\n{sql};"), *message, *hint)
    });
    check(files.collect());
}

fn check(cases: Vec<(String, &str, &str)>) {
    assert!(cases.len() > 20);
    let mut failures = Vec::new();
    for (marked, message, hint) in &cases {
        let sql = marked.replacen('¦', "", 1);
        let place = marked.split_once('¦').map(|(before, _)| {
            let line = before.matches('\n').count() + 1;
            format!("p.sql:{line}:{}: ", before.rsplit('\n').next().unwrap_or("").chars().count() + 1)
        });
        let wrong = match built(&sql) {
            Ok(_) => Some("it compiles".to_owned()),
            Err(error) => {
                let start = place.clone().unwrap_or_else(|| match sql.starts_with(ORDERS) {
                    true => "p.sql:3:1: ".into(),
                    false => "p.sql: ".into(),
                });
                let first = error.message.lines().next().unwrap_or_default();
                let given = error.hint.as_deref().unwrap_or_default();
                let good = !message.is_empty()
                    && error.kind == Kind::Config
                    && first.starts_with(&start)
                    && first.contains(message)
                    && given.contains(hint)
                    // A hint that there is must be named.
                    && hint.is_empty() == given.is_empty();
                (!good).then(|| format!("{:?} {first} | {given}\n      wanted {start}{message} | {hint}", error.kind))
            }
        };
        if let Some(wrong) = wrong {
            failures.push(format!("{}\n      {wrong}", marked.rsplit('\n').next().unwrap_or_default()));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
