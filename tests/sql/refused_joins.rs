//! Joins and tables that are refused, for `refusals.rs`.

use super::refusals::Case;

const SHAPE: &str = "write JOIN table FOR SYSTEM_TIME AS OF s.time AS t ON s.id = t.id";

/// What follows `INSERT INTO s` into an append sink, beside the stream `orders` and the table `customers`.
pub const JOINS: &[Case] = &[
    // Joins of other kinds.
    (
        "SELECT o.amount FROM orders AS o JOIN ¦orders AS b ON o.orderId = b.orderId",
        "a join without FOR SYSTEM_TIME AS OF",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN ¦customers AS c ON o.customer = c.customer",
        "a join without FOR SYSTEM_TIME AS OF",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o LEFT JOIN ¦customers AS c ON o.customer = c.customer",
        "a join without FOR SYSTEM_TIME",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o RIGHT JOIN ¦customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.customer",
        "RIGHT JOIN: not in this release",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o FULL OUTER JOIN ¦customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.customer",
        "FULL JOIN: not in this release",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o CROSS JOIN ¦customers FOR SYSTEM_TIME AS OF o.ts AS c",
        "CROSS JOIN: not in this rele",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o LEFT SEMI JOIN ¦customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.customer",
        "SEMI JOIN: not in this release",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o LEFT ANTI JOIN ¦customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.customer",
        "ANTI JOIN: not in this release",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN ¦customers FOR SYSTEM_TIME AS OF o.ts AS c USING (customer)",
        "a join with USING: not in this release",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o NATURAL JOIN ¦customers FOR SYSTEM_TIME AS OF o.ts AS c",
        "NATURAL JOIN: not in this re",
        SHAPE,
    ),
    ("SELECT o.amount FROM orders AS o JOIN ¦customers FOR SYSTEM_TIME AS OF o.ts AS c", "a join needs ON", SHAPE),
    (
        "SELECT o.amount FROM orders AS o, ¦customers AS c WHERE o.customer = c.customer",
        "a join by comma: not in this release",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o, LATERAL (¦SELECT amount FROM orders) AS b",
        "a join by comma: not in this release",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM (¦orders AS o JOIN orders AS b ON TRUE)",
        "a join in parentheses: not in this release",
        "leave the parentheses",
    ),
    ("SELECT amount FROM orders CROSS JOIN UNNEST(¦tags) AS t (tag)", "UNNEST: not in this release", "by their number: tags[1]"),
    ("SELECT o.amount FROM orders AS o JOIN customers FOR ¦SYSTEM_TIME BETWEEN o.ts AND o.ts AS c ON TRUE", "expected", ""),
    // What stands on the right.
    (
        "SELECT a.amount FROM orders AS a JOIN orders FOR SYSTEM_TIME AS OF ¦a.ts AS b ON a.customer = b.customer",
        "\"orders\" is a stream, not a table",
        "FOR SYSTEM_TIME AS OF takes a CREATE TABLE",
    ),
    (
        "WITH v AS (SELECT * FROM customers) SELECT o.amount FROM orders AS o JOIN v FOR SYSTEM_TIME AS OF ¦o.ts AS c ON o.customer = c.customer",
        "\"v\" is a view, not a table",
        "FOR SYSTEM_TIME AS OF takes a CREATE TABLE",
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN (¦SELECT * FROM customers) AS c ON o.customer = c.customer",
        "a join without FOR SYSTEM_TIME AS OF",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN ¦nothing FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.customer",
        "stream \"nothing\" is not known",
        "define it with CREATE STREAM",
    ),
    // What stands on the left.
    (
        "SELECT a.level FROM customers AS a JOIN customers FOR SYSTEM_TIME AS OF ¦a.since AS b ON a.customer = b.customer",
        "a join of the results of \"customers.table\", which change, is not in this release",
        "join the stream first, then aggregate",
    ),
    (
        "SELECT a.n FROM (SELECT customer, MAX(ts) AS ts, COUNT(*) AS n FROM orders GROUP BY customer) AS a JOIN customers FOR SYSTEM_TIME AS OF ¦a.ts AS b ON a.customer = b.customer",
        "a join of the results of \"s.aggregate\", which change, is not in this release",
        "join the stream first, then aggregate",
    ),
    // The time.
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF ¦c.since AS c ON o.customer = c.customer",
        "FOR SYSTEM_TIME AS OF \"since\", a column of table \"customers\"",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM (SELECT customer, amount, ts, TO_TIMESTAMP_LTZ(millis, 3) AS other FROM orders) AS o JOIN customers FOR SYSTEM_TIME AS OF ¦o.other AS c ON o.customer = c.customer",
        "FOR SYSTEM_TIME AS OF \"other\", which is not the event time of these rows",
        "declare WATERMARK FOR other",
    ),
    (
        "SELECT o.amount FROM (SELECT customer, amount, ts + INTERVAL '1' SECOND AS ts FROM orders) AS o JOIN customers FOR SYSTEM_TIME AS OF ¦o.ts AS c ON o.customer = c.customer",
        "FOR SYSTEM_TIME AS OF \"ts\", which is not the event time of these rows",
        "declare WATERMARK FOR ts",
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF ¦o.ts - INTERVAL '1' SECOND AS c ON o.customer = c.customer",
        "FOR SYSTEM_TIME AS OF takes the event time of the stream, a column",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF TIMESTAMP '2026-01-01 00:00:00' AS c ON o.customer = c.customer",
        "FOR SYSTEM_TIME AS OF takes the event time of the stream, a column",
        SHAPE,
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF ¦PROCTIME() AS c ON o.customer = c.customer",
        "PROCTIME() gives another result in a replay",
        "event time",
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF ¦o.tss AS c ON o.customer = c.customer",
        "column \"tss\" is not known",
        "did you mean \"ts\"?",
    ),
    (
        "SELECT o.ts FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) AS o JOIN customers FOR SYSTEM_TIME AS OF ¦o.window_time AS c ON o.customer = c.customer",
        "FOR SYSTEM_TIME AS OF \"window_time\", which is not the event time of these rows",
        "write FOR SYSTEM_TIME AS OF ts",
    ),
    // The key.
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON ¦o.customer = c.country",
        "ON does not say what \"customer\" of table \"customers\" equals",
        "its PRIMARY KEY is (customer): ON s.x = t.customer",
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON ¦o.customer = c.customer OR o.amount > 1",
        "ON does not say what \"customer\" of table \"customers\" equals",
        "its PRIMARY KEY is (customer)",
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON ¦o.customer > c.customer",
        "ON does not say what \"customer\" of table \"customers\" equals",
        "its PRIMARY KEY is (customer)",
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON ¦o.customer IS NOT DISTINCT FROM c.customer",
        "ON does not say what \"customer\" of table \"customers\" equals",
        "its PRIMARY KEY is (customer)",
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF ¦o.ts AS c ON TRUE",
        "ON does not say what \"customer\" of table \"customers\" equals",
        "its PRIMARY KEY is (customer)",
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON UPPER(¦c.customer) = o.customer",
        "ON does not say what \"customer\" of table \"customers\" equals",
        "its PRIMARY KEY is (customer)",
    ),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = ¦c.custmer",
        "column \"custmer\" is not known",
        "did you mean \"customer\"?",
    ),
    // Names that only the planner writes.
    ("SELECT amount FROM orders WHERE ¦__as_of(ts)", "function \"__as_of\" is not known", ""),
    (
        "SELECT o.amount FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.customer AND ¦__as_of(o.ts)",
        "function \"__as_of\" is not known",
        "",
    ),
    // Columns of both.
    (
        "SELECT o.amount, ¦customer FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.customer",
        "column \"customer\" is ambiguous",
        "put the table's name or alias before it",
    ),
    (
        "SELECT * FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c ON o.customer = c.customer",
        "two columns \"customer\"",
        "AS",
    ),
    // A table as a relation changes.
    (
        "SELECT customer FROM customers",
        "\"customers.table\" changes its results as rows arrive, and sink \"s\" is append-only",
        "PRIMARY KEY",
    ),
    (
        "SELECT customer FROM TABLE(TUMBLE(TABLE customers, DESCRIPTOR(¦since), INTERVAL '1' MINUTE))",
        "over the results of \"customers.table\", which change, is not in this release",
        "windows first",
    ),
];

/// What follows the stream `orders`.
pub const TABLES: &[Case] = &[
    (
        "CREATE TABLE ¦customers WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');",
        "table \"customers\" has no PRIMARY KEY",
        "a topic of events is a CREATE STREAM",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (a)) WITH ('topic' = ¦'nothing');",
        "\"nothing-value\" is not known",
        "register its Avro schema",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (¦customer)) WITH ('topic' = 'customers');",
        "is held by the key of topic \"customers\" alone, whose format is not known",
        "'key.format' = 'string'",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (¦customer)) WITH ('topic' = 'customers', 'key.format' = 'avro');",
        "subject \"customers-key\" is not known",
        "give 'key.format' = 'string'",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (¦level)) WITH ('topic' = 'customers', 'key.format' = 'string');",
        "column \"level\" of the PRIMARY KEY is INT, but the key of topic \"customers\" holds STRING",
        "give the 'key.format' that the topic's keys have",
    ),
    (
        "CREATE TABLE t (¦customer BIGINT, country STRING, PRIMARY KEY (customer) NOT ENFORCED) WITH ('topic' = 'customers', 'key.format' = 'string');",
        "column \"customer\" of the PRIMARY KEY is BIGINT, but the key of topic \"customers\" holds STRING",
        "give the 'key.format' that the topic's keys have",
    ),
    (
        "CREATE TABLE t (country STRING, PRIMARY KEY (¦customer) NOT ENFORCED) WITH ('topic' = 'customers', 'key.format' = 'string');",
        "column \"customer\" is not known",
        "the columns here are \"country\"",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (customer, ¦country)) WITH ('topic' = 'customers', 'key.format' = 'string');",
        "a bare key is one column, and the PRIMARY KEY has 2",
        "'avro' or 'json'",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (¦user)) WITH ('topic' = 'clicks');",
        "the PRIMARY KEY of \"t\" leaves out \"site\" of the key of topic \"clicks\"",
        "name all its fields",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (user, ¦page)) WITH ('topic' = 'clicks');",
        "column \"page\" is neither a field of the value nor of the key of topic \"clicks\"",
        "",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (customer), ¦PRIMARY KEY (country)) WITH ('topic' = 'customers', 'key.format' = 'string');",
        "one PRIMARY KEY",
        "",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (customer)) WITH ('topic' = 'customers', 'key.format' = 'string', ¦'tombstones' = 'dead_letter');",
        "option 'tombstones' is not one of a table",
        "a null value removes its key's row",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (customer)) WITH ('topic' = 'customers', 'key.format' = 'string', ¦'partitions' = '3');",
        "option 'partitions' is not one of a table",
        "has its partitions already",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (customer)) WITH ('topic' = 'customers', 'key.format' = 'string', 'before_first' = ¦'last_known');",
        "'before_first' = 'last_known' is not known: it is 'none' or 'first_known'",
        "did you mean",
    ),
    ("CREATE STREAM t WITH ('topic' = 'customers', ¦'before_first' = 'first_known');", "is not one of a stream", "CREATE TABLE"),
    ("CREATE SINK t (PRIMARY KEY (a)) WITH (¦'before_first' = 'first_known');", "is not one of a sink", "CREATE TABLE"),
    (
        "CREATE TABLE ¦`my customers` (PRIMARY KEY (customer)) WITH ('topic' = 'customers', 'key.format' = 'string');",
        "\"my customers\" is not a name of a table",
        "topics are named after it",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (customer)) WITH ('topic' = 'customers') ¦AS SELECT 1;",
        "CREATE TABLE ... AS SELECT is ksqlDB's",
        "INSERT INTO t SELECT",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (customer)) WITH ('topic' = 'customers', 'key.format' = 'string'); INSERT INTO ¦t SELECT customer FROM orders;",
        "\"t\" is a table: it is read, not written",
        "define a sink",
    ),
    (
        "CREATE STREAM t WITH ('topic' = 'customers', 'key.format' = 'string', 'key.fields' = 'customer'); ¦CREATE TABLE u (PRIMARY KEY (customer)) WITH ('topic' = 'customers', 'key.format' = 'string'); CREATE SINK s (PRIMARY KEY (customer)) WITH ('format' = 'avro'); INSERT INTO s SELECT customer FROM t UNION ALL SELECT customer FROM u;",
        "\"u\" reads topic \"customers\" as a table, \"t\" (line 2) as a stream",
        "read it as one of them",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (id)) WITH ('topic' = 'clicks', 'key.format' = 'long'); CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT o.amount FROM orders AS o JOIN t FOR SYSTEM_TIME AS OF o.ts AS c ON ¦o.price = c.id;",
        "\"id\" is BIGINT, what it is compared with is DOUBLE",
        "CAST(... AS BIGINT)",
    ),
    (
        "CREATE TABLE t (PRIMARY KEY (id)) WITH ('topic' = 'clicks', 'key.format' = 'int'); CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT o.amount FROM orders AS o JOIN t FOR SYSTEM_TIME AS OF o.ts AS c ON ¦o.amount = c.id;",
        "\"id\" is INT, what it is compared with is BIGINT",
        "CAST(... AS INT)",
    ),
    (
        "CREATE SINK s WITH ('format' = 'avro'); CREATE SINK `s.2` WITH ('format' = 'avro'); INSERT INTO s SELECT amount FROM orders; INSERT INTO s SELECT amount FROM orders; INSERT INTO `s.2` SELECT amount FROM orders;",
        "two operators would have the name \"s.2.",
        "another name",
    ),
];
