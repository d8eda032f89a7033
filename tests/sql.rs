//! SQL in, topology or refusal out; expressions with Flink's meaning.

#[path = "sql/conformance.rs"]
mod conformance;
#[path = "sql/explained.rs"]
mod explained;
#[path = "sql/refusals.rs"]
mod refusals;
#[path = "sql/refused_files.rs"]
mod refused_files;
#[path = "sql/refused_joins.rs"]
mod refused_joins;
#[path = "sql/refused_queries.rs"]
mod refused_queries;
#[path = "sql/shop.rs"]
mod shop;
#[path = "sql/shuffles.rs"]
mod shuffles;

use shop::{ORDERS, built};
use tidemill::error::Kind;
use tidemill::topology::explain;

#[test]
fn a_projection_and_a_window_compile() {
    for (sql, expected) in [
        (
            "CREATE SINK big WITH ('format' = 'avro'); INSERT INTO big SELECT orderId, amount * 2 AS twice FROM orders WHERE amount > 10 AND note IS NOT NULL",
            ["big.filter", "big.project"],
        ),
        (
            "CREATE SINK m (PRIMARY KEY (window_start, customer)) WITH ('format' = 'avro'); INSERT INTO m SELECT window_start, customer, SUM(amount) AS total, COUNT(*) AS n, AVG(quantity) AS q FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, customer",
            ["m.assign", "m.aggregate"],
        ),
    ] {
        let topology = built(&format!("{ORDERS}{sql}")).unwrap_or_else(|e| panic!("{e}"));
        let ids: Vec<&str> = topology.nodes.iter().map(|n| n.id.as_str()).collect();
        assert!(expected.iter().all(|id| ids.contains(id)), "{ids:?}");
        assert!(explain(&topology).contains("orders"));
    }
}

#[test]
fn a_distinct_that_no_aggregate_has_is_refused_at_its_place() {
    for function in ["SUM", "AVG", "STDDEV_POP"] {
        let sql = format!(
            "CREATE SINK t (PRIMARY KEY (customer)) WITH ('format' = 'avro');\n\
             INSERT INTO t SELECT customer, {function}(DISTINCT price) AS total FROM orders GROUP BY customer"
        );
        let error = built(&format!("{ORDERS}{sql}")).unwrap_err();
        assert_eq!(error.kind, Kind::Config);
        let text = error.to_string();
        assert!(text.contains(&format!("{function}(DISTINCT ...): not in this release")) && text.contains("p.sql:3:"), "{text}");
    }
}
