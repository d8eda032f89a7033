//! Where rows move to another task, and why; and what that means for a pipeline's identity.

use std::collections::BTreeMap;

use super::shop::{CUSTOMERS, ORDERS, Subjects, built, over, subjects};
use tidemill::topology::{Operation, Topology, fingerprint};

const UPSERT: &str = "CREATE SINK s (PRIMARY KEY (customer)) WITH ('format' = 'avro');\n";
const TUMBLE: &str = "TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))";
const JOIN: &str = "JOIN customers FOR SYSTEM_TIME AS OF o.ts AS c";

/// Reasons of the shuffles, in the order of the nodes.
fn reasons(topology: &Topology) -> Vec<String> {
    let reason = |node: usize| match &topology.nodes[node].operation {
        Operation::Exchange(spec) => spec.reason.clone(),
        other => panic!("{other:?} is no shuffle"),
    };
    topology.exchanges().map(reason).collect()
}

fn kinds(topology: &Topology) -> Vec<&'static str> {
    topology.nodes.iter().map(|node| node.operation.kind()).collect()
}

fn shuffled(sql: &str) -> Vec<String> {
    let topology = built(&format!("{ORDERS}{CUSTOMERS}{sql}")).unwrap_or_else(|e| panic!("{sql}\n{e}"));
    reasons(&topology)
}

#[test]
fn rows_that_meet_already_stay_where_they_are() {
    for sql in [
        format!("{UPSERT} INSERT INTO s SELECT customer, amount FROM orders"),
        format!("{UPSERT} INSERT INTO s SELECT customer, SUM(amount) AS t FROM orders GROUP BY customer"),
        format!("{UPSERT} INSERT INTO s SELECT customer, country FROM customers"),
        // A key that is more than what rows are distributed by.
        "CREATE SINK s (PRIMARY KEY (customer, amount)) WITH ('format' = 'avro'); INSERT INTO s SELECT customer, amount FROM orders".into(),
        format!("{UPSERT} INSERT INTO s SELECT customer, SUM(t) AS t FROM (SELECT customer, quantity, SUM(amount) AS t FROM orders GROUP BY customer, quantity) GROUP BY customer"),
        // Stream and table lie alike; a join's rows come in order of time.
        format!("{UPSERT} INSERT INTO s SELECT o.customer, c.country FROM orders AS o {JOIN} ON o.customer = c.customer"),
        format!("{UPSERT} INSERT INTO s SELECT c.customer, SUM(o.amount) AS t FROM orders AS o {JOIN} ON c.customer = o.customer GROUP BY c.customer"),
        "CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT orderId FROM orders UNION ALL SELECT country FROM customers AS c WHERE FALSE".to_string(),
    ] {
        match built(&format!("{ORDERS}{CUSTOMERS}{sql}")) {
            Ok(topology) => assert!(reasons(&topology).is_empty(), "{sql}: {:?}", reasons(&topology)),
            // Rows that change do not go into an append sink.
            Err(error) => assert!(sql.contains("WHERE FALSE") && error.message.contains("append-only"), "{sql}\n{error}"),
        }
    }
}

#[test]
fn rows_that_do_not_meet_are_shuffled_and_the_reason_says_why() {
    let by_customer = "topic \"orders\" is distributed by \"customer\"";
    for (sql, expected) in [
        (
            "CREATE SINK s (PRIMARY KEY (orderId)) WITH ('format' = 'avro'); INSERT INTO s SELECT orderId, amount FROM orders".to_owned(),
            vec![format!("PRIMARY KEY of \"s\": {by_customer}")],
        ),
        (
            format!("{UPSERT} INSERT INTO s SELECT UPPER(customer) AS customer, amount FROM orders"),
            vec![format!("PRIMARY KEY of \"s\": {by_customer}")],
        ),
        (
            format!("{UPSERT} INSERT INTO s SELECT customer, amount FROM orders UNION ALL SELECT customer, amount FROM orders"),
            vec!["PRIMARY KEY of \"s\": rows of one key come from several inputs, in no certain order".into()],
        ),
        (
            "CREATE SINK s (PRIMARY KEY (t)) WITH ('format' = 'avro'); INSERT INTO s SELECT customer, SUM(amount) AS t FROM orders GROUP BY customer".into(),
            vec!["PRIMARY KEY of \"s\": several groups of \"s.aggregate\" may write one key".into()],
        ),
        (
            "CREATE SINK s (PRIMARY KEY (country)) WITH ('format' = 'avro'); INSERT INTO s SELECT country, customer FROM customers".into(),
            vec!["PRIMARY KEY of \"s\": several groups of \"customers.table\" may write one key".into()],
        ),
        (
            "CREATE SINK s (PRIMARY KEY (orderId)) WITH ('format' = 'avro'); INSERT INTO s SELECT orderId, SUM(amount) AS t FROM orders GROUP BY orderId".into(),
            vec![format!("GROUP BY orders.orderId: {by_customer}")],
        ),
        (
            "CREATE SINK s (PRIMARY KEY (n)) WITH ('format' = 'avro'); INSERT INTO s SELECT 'all' AS n, COUNT(*) AS c FROM orders".into(),
            vec![format!("an aggregate over all rows: {by_customer}")],
        ),
        (
            format!("CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT window_start, COUNT(*) AS c FROM {TUMBLE} GROUP BY window_start, window_end"),
            vec!["by_customer".replace("by_customer", by_customer)],
        ),
        (
            format!("CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT o.amount FROM orders AS o {JOIN} ON o.orderId = c.customer"),
            vec![format!("join with \"customers\": {by_customer}"); 2],
        ),
        (
            // By an expression of the key: its rows lie elsewhere.
            format!("CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT o.amount FROM orders AS o {JOIN} ON UPPER(o.customer) = c.customer"),
            vec![format!("join with \"customers\": {by_customer}"); 2],
        ),
        (
            // Behind the shuffle rows lie by what was joined, and by that they are grouped.
            format!("{UPSERT} INSERT INTO s SELECT c.customer, SUM(o.amount) AS t FROM orders AS o {JOIN} ON o.orderId = c.customer GROUP BY c.customer"),
            vec![format!("join with \"customers\": {by_customer}"); 2],
        ),
        (
            // In a left join the table's own column may be NULL, so it says nothing of where rows lie.
            format!("{UPSERT} INSERT INTO s SELECT c.customer, SUM(o.amount) AS t FROM orders AS o LEFT {JOIN} ON o.customer = c.customer GROUP BY c.customer"),
            vec![format!("GROUP BY c.customer: {by_customer}")],
        ),
        (
            // Rows from behind a shuffle and from a topic do not meet, in whatever order the SELECTs stand.
            format!("CREATE SINK s (PRIMARY KEY (k)) WITH ('format' = 'avro'); INSERT INTO s SELECT k, SUM(n) AS n FROM (SELECT orderId AS k, COUNT(*) AS n FROM {TUMBLE} GROUP BY window_start, window_end, orderId UNION ALL SELECT customer AS k, amount AS n FROM orders) GROUP BY k"),
            vec![by_customer.into(), "GROUP BY k: rows of the UNION ALL come from a shuffle and from elsewhere".into()],
        ),
        (
            format!("CREATE SINK s (PRIMARY KEY (k)) WITH ('format' = 'avro'); INSERT INTO s SELECT k, SUM(n) AS n FROM (SELECT customer AS k, amount AS n FROM orders UNION ALL SELECT orderId AS k, COUNT(*) AS n FROM {TUMBLE} GROUP BY window_start, window_end, orderId) GROUP BY k"),
            vec![by_customer.into(), "GROUP BY k: rows of the UNION ALL come from a shuffle and from elsewhere".into()],
        ),
    ] {
        let found = shuffled(&sql);
        let fits = found.len() == expected.len() && found.iter().zip(&expected).all(|(found, part)| found.contains(part.as_str()));
        assert!(fits, "{sql}\n{found:#?}\nwanted {expected:#?}");
    }
}

#[test]
fn a_windowed_aggregate_is_split_by_its_shuffle_and_others_are_not() {
    let windowed = format!(
        "CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT window_start, orderId, COUNT(*) AS c FROM {TUMBLE} GROUP BY window_start, window_end, orderId"
    );
    let topology = built(&format!("{ORDERS}{windowed}")).unwrap();
    assert_eq!(kinds(&topology), ["source", "assign", "aggregate", "exchange", "aggregate", "project", "sink"]);
    let updating = "CREATE SINK s (PRIMARY KEY (orderId)) WITH ('format' = 'avro'); INSERT INTO s SELECT orderId, COUNT(*) AS c FROM orders GROUP BY orderId";
    let topology = built(&format!("{ORDERS}{updating}")).unwrap();
    assert_eq!(kinds(&topology), ["source", "exchange", "aggregate", "project", "consolidate", "sink"]);
}

/// A table whose keys are Avro, and another stream.
fn more() -> Subjects {
    subjects().add("places-value", r#"{"type":"record","name":"Place","fields":[{"name":"name","type":"string"}]}"#).add(
        "places-key",
        r#"{"type":"record","name":"PlaceKey","fields":[{"name":"customer","type":"string"}]}"#,
    ).add(
        "returns-value",
        r#"{"type":"record","name":"Return","fields":[{"name":"customer","type":"string"},{"name":"amount","type":"long"},{"name":"ts","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#,
    )
}

#[test]
fn keys_that_lie_by_their_bytes_meet_only_if_asserted() {
    let join = |options: &str| {
        let sql = format!(
            "{ORDERS}CREATE TABLE places (PRIMARY KEY (customer)) WITH ('topic' = 'places', 'format' = 'avro'{options});
             CREATE SINK s WITH ('format' = 'avro');
             INSERT INTO s SELECT o.amount, p.name FROM orders AS o JOIN places FOR SYSTEM_TIME AS OF o.ts AS p ON o.customer = p.customer"
        );
        reasons(&over(&sql, &more(), &[]).unwrap_or_else(|e| panic!("{e}")))
    };
    assert_eq!(join("").len(), 2);
    // Even then another format gives other bytes.
    assert_eq!(join(", 'partitioner' = 'trusted'").len(), 2);
    assert!(join(", 'key.format' = 'string'").is_empty());
}

#[test]
fn topics_with_unequal_numbers_of_partitions_are_shuffled() {
    let join = format!(
        "{ORDERS}{CUSTOMERS}CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT o.amount, c.country FROM orders AS o {JOIN} ON o.customer = c.customer"
    );
    let union = format!(
        "{ORDERS}CREATE STREAM returns (WATERMARK FOR ts AS ts) WITH ('topic' = 'returns', 'key.format' = 'string', 'key.fields' = 'customer');\n\
         CREATE VIEW both_ways AS SELECT customer, amount FROM orders UNION ALL SELECT customer, -amount AS amount FROM returns;\n"
    );
    let total = format!("{union}{UPSERT} INSERT INTO s SELECT customer, SUM(amount) AS t FROM both_ways GROUP BY customer");
    let plain = format!("{union}CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT customer, amount FROM both_ways");
    for (sql, other, shuffles) in [(&join, "customers", 2), (&total, "returns", 1), (&plain, "returns", 0)] {
        let planned = |counts: &[(&str, i32)]| over(sql, &more(), counts).unwrap_or_else(|e| panic!("{e}"));
        let (unknown, even, uneven) =
            (planned(&[]), planned(&[("orders", 3), (other, 3)]), planned(&[("orders", 3), (other, 2)]));
        assert!(reasons(&unknown).is_empty() && reasons(&even).is_empty(), "{sql}");
        assert_eq!(reasons(&uneven).len(), shuffles, "{sql}");
        let wanted = format!("topics \"orders\" and \"{other}\" have unequal numbers of partitions");
        assert!(reasons(&uneven).iter().all(|reason| reason.contains(&wanted)), "{:?}", reasons(&uneven));

        // The counts are part of what a pipeline is where they decided something, and only there.
        let print = |topology: &Topology| fingerprint(topology, &BTreeMap::new());
        assert_eq!(print(&unknown), print(&even), "{sql}");
        assert_eq!(print(&uneven) != print(&even), shuffles > 0, "{sql}");
        assert_eq!(print(&even), print(&planned(&[("orders", 6), (other, 6)])), "{sql}");
    }
}

#[test]
fn options_of_a_table_are_part_of_what_a_pipeline_is() {
    let of = |options: &str| {
        let sql = format!(
            "{ORDERS}CREATE TABLE customers (PRIMARY KEY (customer)) WITH ('topic' = 'customers'{options});
             CREATE SINK s WITH ('format' = 'avro'); INSERT INTO s SELECT o.amount, c.country FROM orders AS o {JOIN} ON o.customer = c.customer"
        );
        let subjects = subjects()
            .add("customers-key", r#"{"type":"record","name":"CustomerKey","fields":[{"name":"customer","type":"string"}]}"#);
        fingerprint(&over(&sql, &subjects, &[]).unwrap_or_else(|e| panic!("{e}")), &BTreeMap::new())
    };
    let all =
        ["", ", 'key.format' = 'string'", ", 'key.format' = 'string', 'before_first' = 'first_known'", ", 'max_ahead' = 'none'"]
            .map(of);
    for (n, one) in all.iter().enumerate() {
        assert!(!all[..n].contains(one), "{n}");
    }
}
