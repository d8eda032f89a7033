//! What `explain` says of DESIGN's example: sources with their columns, sub-topologies and who leads them, shuffles and why, stores, sinks.

use super::shop::{Subjects, over};
use tidemill::topology::{explain, explain_json};

const REVENUE: &str = "SET 'pipeline.name' = 'revenue';

CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND,
  CONSTRAINT positive_amount CHECK (amount >= 0) ON VIOLATION DEAD LETTER
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE TABLE customers (PRIMARY KEY (customer_id))
  WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK revenue_by_minute (PRIMARY KEY (window_start, country)) WITH ('topic' = 'revenue_by_minute', 'format' = 'avro');

INSERT INTO revenue_by_minute
SELECT window_start, c.country, SUM(o.amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE)) AS o
JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id
GROUP BY window_start, c.country;
";

fn contracts() -> Subjects {
    Subjects::default()
        .add(
            "orders-value",
            r#"{"type":"record","name":"Order","fields":[
                {"name":"order_id","type":"long"},
                {"name":"customer_id","type":"string"},
                {"name":"amount","type":"double"},
                {"name":"note","type":["null","string"],"default":null},
                {"name":"ordered_at","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#,
        )
        .add(
            "customers-value",
            r#"{"type":"record","name":"Customer","fields":[
                {"name":"customer_id","type":"string"},
                {"name":"country","type":"string"},
                {"name":"level","type":"int"}]}"#,
        )
}

#[test]
fn the_example_is_explained_as_it_runs() {
    let topology = over(REVENUE, &contracts(), &[("orders", 3), ("customers", 3)]).unwrap();
    let text = explain(&topology);
    assert_eq!(text.trim_end(), include_str!("revenue.txt").trim_end(), "\n{text}");
}

#[test]
fn topics_with_unequal_partitions_are_explained_as_shuffled() {
    let topology = over(REVENUE, &contracts(), &[("orders", 3), ("customers", 6)]).unwrap();
    let text = explain(&topology);
    for part in [
        "sub-topology 0 (tasks 0_*): topic orders\n",
        "sub-topology 1 (tasks 1_*): topic customers\n",
        "from 0_* to 2_*): join with \"customers\": topics \"orders\" and \"customers\" have unequal numbers of partitions\n",
        "from 1_* to 2_*): join with \"customers\": topics \"orders\" and \"customers\" have unequal numbers of partitions\n",
        "from 2_* to 3_*): GROUP BY ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn the_json_holds_what_the_text_says() {
    let json = explain_json(&over(REVENUE, &contracts(), &[("orders", 3), ("customers", 3)]).unwrap());
    let at = |pointer: &str| json.pointer(pointer).unwrap_or_else(|| panic!("{pointer}\n{json:#}"));
    assert_eq!(at("/pipeline"), "revenue");
    assert_eq!(at("/sources/0/value_columns"), &serde_json::json!(["customer_id", "amount", "ordered_at"]));
    assert_eq!(at("/sources/0/table"), &serde_json::Value::Null);
    assert_eq!(at("/sources/1/table/before_first"), "none");
    assert_eq!(at("/sources/1/partitions"), 3);
    let subs = at("/sub_topologies");
    assert_eq!(subs.as_array().unwrap().len(), 2);
    assert_eq!(subs[0]["tasks"], "0_*");
    assert_eq!(subs[0]["lead"], "orders");
    assert_eq!(subs[0]["topics"], serde_json::json!(["orders", "customers"]));
    assert_eq!(subs[1]["lead"], "....revenue_by_minute.exchange.repartition");
    let shuffle = at("/repartitions/0");
    assert_eq!((&shuffle["from"], &shuffle["to"]), (&serde_json::json!(0), &serde_json::json!(1)));
    assert!(shuffle["reason"].as_str().unwrap().starts_with("GROUP BY "), "{shuffle}");
    assert_eq!(at("/stores").as_array().unwrap().len(), 3);
    assert_eq!(at("/sinks/0/key/columns"), &serde_json::json!(["window_start", "country"]));
    assert_eq!(at("/sinks/0/key/schema/name"), "revenue_by_minute_key");
    assert_eq!(at("/sinks/0/value_schema/fields/1/name"), "country");
}
