//! Contracts in memory, and a stream over them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill::contract::{AvroSchema, Contract, Contracts, SchemaId};
use tidemill::error::Result;
use tidemill::record::Topic;
use tidemill::topology::{Options, SqlFile, Topology, compile};

/// Contracts by subject.
#[derive(Default)]
pub struct Subjects(BTreeMap<String, Arc<Contract>>);

impl Subjects {
    pub fn add(mut self, subject: &str, avro: &str) -> Subjects {
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

pub fn subjects() -> Subjects {
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
                {"name":"labels","type":{"type":"map","values":"string"}},
                {"name":"blob","type":"bytes"},
                {"name":"paid","type":"boolean"},
                {"name":"ts","type":{"type":"long","logicalType":"timestamp-millis"}},
                {"name":"day","type":{"type":"int","logicalType":"date"}},
                {"name":"millis","type":"long"}]}"#,
        )
        .add(
            "customers-value",
            r#"{"type":"record","name":"Customer","fields":[
                {"name":"customer","type":"string"},
                {"name":"country","type":"string"},
                {"name":"level","type":"int"},
                {"name":"since","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#,
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

pub const ORDERS: &str = "CREATE STREAM orders (WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) \
     WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer');\n";

pub const CUSTOMERS: &str = "CREATE TABLE customers (PRIMARY KEY (customer)) \
     WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');\n";

pub fn compiled(sql: &str, subjects: &Subjects) -> Result<Topology> {
    over(sql, subjects, &[])
}

/// Over topics with so many partitions.
pub fn over(sql: &str, subjects: &Subjects, partitions: &[(&str, i32)]) -> Result<Topology> {
    let file = SqlFile { name: "p.sql".into(), text: sql.into() };
    let partitions = partitions.iter().map(|(topic, count)| (Topic::new(*topic), *count)).collect();
    compile(&file, subjects, &Options { default_name: Some("p".into()), partitions, ..Options::default() })
}

pub fn built(sql: &str) -> Result<Topology> {
    compiled(sql, &subjects())
}
