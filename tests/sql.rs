//! SQL in, topology or refusal out.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill::contract::{AvroSchema, Contract, Contracts, SchemaId};
use tidemill::error::{Kind, Result};
use tidemill::record::Topic;
use tidemill::topology::{Options, SqlFile, Topology, compile, explain};

/// Contracts by subject, in memory.
#[derive(Default)]
struct Subjects(BTreeMap<String, Arc<Contract>>);

impl Subjects {
    fn add(mut self, subject: &str, avro: &str) -> Subjects {
        let id = SchemaId(self.0.len() as u32 + 1);
        let schema = Arc::new(AvroSchema::parse(avro).expect("a good schema"));
        self.0.insert(subject.to_owned(), Arc::new(Contract::new(subject, id, 1, schema).expect("a good contract")));
        self
    }

    fn get(&self, topic: &Topic, subject: Option<&str>, suffix: &str) -> Option<Arc<Contract>> {
        self.0.get(subject.unwrap_or(&format!("{topic}-{suffix}"))).cloned()
    }
}

impl Contracts for Subjects {
    fn value(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>> {
        Ok(self.get(topic, subject, "value"))
    }

    fn key(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>> {
        Ok(self.get(topic, subject, "key"))
    }
}

fn shop() -> Subjects {
    Subjects::default()
        .add(
            "orders-value",
            r#"{"type":"record","name":"Order","namespace":"shop","fields":[
                {"name":"orderId","type":"string"},
                {"name":"customer","type":"string"},
                {"name":"amount","type":"long"},
                {"name":"quantity","type":"int"},
                {"name":"price","type":"double"},
                {"name":"total","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
                {"name":"status","type":{"type":"enum","name":"Status","symbols":["NEW","PAID"]}},
                {"name":"note","type":["null","string"],"default":null},
                {"name":"address","type":{"type":"record","name":"Address","fields":[
                    {"name":"city","type":"string"},
                    {"name":"geo","type":{"type":"record","name":"Geo","fields":[{"name":"lat","type":"double"}]}}]}},
                {"name":"tags","type":{"type":"array","items":"string"}},
                {"name":"ts","type":{"type":"long","logicalType":"timestamp-millis"}},
                {"name":"millis","type":"long"}]}"#,
        )
        .add(
            "clicks-value",
            r#"{"type":"record","name":"Click","fields":[
                {"name":"url","type":"string"},
                {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}}]}"#,
        )
        .add(
            "clicks-key",
            r#"{"type":"record","name":"ClickKey","fields":[{"name":"user","type":"string"},{"name":"site","type":"int"}]}"#,
        )
}

const ORDERS: &str = "CREATE STREAM orders (WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) \
     WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer');\n";

fn built(sql: &str) -> Result<Topology> {
    let file = SqlFile { name: "p.sql".into(), text: sql.into() };
    compile(&file, &shop(), &Options { default_name: Some("p".into()), ..Options::default() })
}

/// What compiles after the stream `orders`.
fn topology(sql: &str) -> Topology {
    built(&format!("{ORDERS}{sql}")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn smoke() {
    for sql in [
        "CREATE SINK big WITH ('format' = 'avro'); INSERT INTO big SELECT orderId, amount * 2 AS twice FROM orders WHERE amount > 10 AND note IS NOT NULL",
        "CREATE SINK m (PRIMARY KEY (window_start, customer)) WITH ('format' = 'avro'); INSERT INTO m SELECT window_start, customer, SUM(amount) AS total, COUNT(*) AS n, AVG(quantity) AS q FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, customer",
    ] {
        println!("{}", explain(&topology(sql)));
    }
    let e = built("SELECT").unwrap_err();
    assert_eq!(e.kind, Kind::Config);
}

#[test]
fn a_distinct_that_no_aggregate_has_is_refused_at_its_place() {
    for function in ["SUM", "AVG", "STDDEV_POP"] {
        let sql = format!(
            "CREATE SINK t (PRIMARY KEY (customer)) WITH ('format' = 'avro');\n\
             INSERT INTO t SELECT customer, {function}(DISTINCT amount) AS total FROM orders GROUP BY customer"
        );
        let error = built(&format!("{ORDERS}{sql}")).unwrap_err();
        assert_eq!(error.kind, Kind::Config);
        let text = error.to_string();
        assert!(text.contains(&format!("{function}(DISTINCT ...): not in this release")) && text.contains("p.sql:3:"), "{text}");
    }
}
