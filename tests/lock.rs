//! `pipeline.lock`: what is pinned, what counts as drift, and what a column's way through a pipeline keeps.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use serde_json::{Value, json};
use tidemill::codec::AvroDecoder;
use tidemill::codec::json::to_avro;
use tidemill::codec::wire::{HeaderIds, frame};
use tidemill::contract::changes::changes;
use tidemill::contract::lock::{self, LockedSink};
use tidemill::contract::{AvroSchema, Contracts, Lock, MemoryRegistry, Pinned, Registry, Strategy};
use tidemill::error::Kind;
use tidemill::record::{Bytes, Topic};
use tidemill::topology::{self, Options, SqlFile, Topology, fingerprint};

/// Every kind of field that a derived type would lose something of.
const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","doc":"an order","fields":[
  {"name":"id","type":"long","doc":"counts up"},
  {"name":"status","type":{"type":"enum","name":"Status","symbols":["NEW","PAID"],"default":"NEW","doc":"where it is"},"default":"NEW"},
  {"name":"hash","type":{"type":"fixed","name":"Md5","size":16}},
  {"name":"price","type":{"type":"fixed","name":"Money","size":8,"logicalType":"decimal","precision":12,"scale":2}},
  {"name":"reference","type":{"type":"string","logicalType":"uuid"}},
  {"name":"note","type":["string","null"],"default":"-","aliases":["comment"]},
  {"name":"was","type":["null","Status"],"default":null},
  {"name":"ordered_at","type":{"type":"long","logicalType":"timestamp-micros"},"tags":["time"]},
  {"name":"either","type":["null","int",{"type":"record","name":"Detail","fields":[{"name":"of","type":"Md5"}]}],"default":null}]}"#;

fn schema(text: &str) -> AvroSchema {
    AvroSchema::parse(text).unwrap()
}

fn registry() -> MemoryRegistry {
    let registry = MemoryRegistry::new();
    registry.set_compatibility(None, "NONE").unwrap();
    registry.register("orders-value", &schema(ORDER)).unwrap();
    registry
}

fn plan(sql: &str, contracts: &dyn Contracts) -> Topology {
    let file = SqlFile { name: "p.sql".into(), text: format!("SET 'pipeline.name' = 'p';\n{sql}") };
    topology::compile(&file, contracts, &Options::default()).unwrap_or_else(|e| panic!("{e}"))
}

const COPY: &str =
    "CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'reference');
CREATE SINK copy (PRIMARY KEY (reference, status)) WITH ('topic' = 'copy', 'format' = 'avro');
INSERT INTO copy SELECT * FROM orders;";

fn field(schema: &AvroSchema, name: &str) -> Value {
    let schema: Value = serde_json::from_str(&schema.text).unwrap();
    schema["fields"].as_array().unwrap().iter().find(|field| field["name"] == name).unwrap().clone()
}

#[test]
fn a_column_that_passes_unchanged_keeps_its_field() {
    let registry = registry();
    let topology = plan(COPY, &Pinned::new(None, &registry, Strategy::TopicName));
    let value = &topology.sinks[0].value_schema;
    let original: Value = serde_json::from_str(ORDER).unwrap();
    for name in ["id", "note", "ordered_at", "reference"] {
        let original = original["fields"].as_array().unwrap().iter().find(|field| field["name"] == name).unwrap();
        assert_eq!(field(value, name), *original);
    }
    let status = field(value, "status");
    assert_eq!(status["default"], "NEW");
    assert_eq!(status["type"]["symbols"], json!(["NEW", "PAID"]));
    assert_eq!((&status["type"]["default"], &status["type"]["doc"]), (&json!("NEW"), &json!("where it is")));
    assert_eq!(status["type"]["namespace"], "shop", "the type keeps its full name");
    assert_eq!(field(value, "was")["type"], json!(["null", "shop.Status"]), "it is defined once");
    assert_eq!(field(value, "hash")["type"]["size"], 16);
    assert_eq!(field(value, "price")["type"]["logicalType"], "decimal");
    assert_eq!(field(value, "price")["type"]["type"], "fixed");
    let (subject, key) = topology.sinks[0].key.as_ref().unwrap().avro.as_ref().unwrap();
    assert_eq!(subject, "copy-key");
    assert_eq!(field(key, "status")["type"]["type"], "enum");
    assert_eq!(field(key, "reference")["type"]["logicalType"], "uuid");
}

#[test]
fn renamed_and_computed_columns_keep_what_they_can() {
    let registry = registry();
    let sql = COPY
        .replace(
            "SELECT *",
            "SELECT reference, status, note AS remark, was AS before, id + 1 AS next, CAST(status AS STRING) AS text",
        )
        .replace(" (PRIMARY KEY (reference, status))", "");
    let topology = plan(&sql, &Pinned::new(None, &registry, Strategy::TopicName));
    let value = &topology.sinks[0].value_schema;
    let remark = field(value, "remark");
    assert_eq!((&remark["type"], &remark["default"]), (&json!(["string", "null"]), &json!("-")));
    assert!(remark.get("aliases").is_none(), "they are former names of the field, not of the column");
    assert_eq!(field(value, "before")["type"], json!(["null", "shop.Status"]));
    assert_eq!(field(value, "next")["type"], "long");
    assert_eq!(field(value, "text")["type"], "string");
}

#[test]
fn writers_resolve_to_the_pinned_reader_whatever_the_registry_has_by_now() {
    let registry = registry();
    let pinned = Pinned::new(None, &registry, Strategy::TopicName);
    let before = plan(COPY, &pinned);
    let lock = pinned.resolved();
    let newer = ORDER.replace(
        r#"{"name":"id","type":"long","doc":"counts up"},"#,
        r#"{"name":"id","type":"int"},{"name":"added","type":"string"},"#,
    );
    let writer = registry.register("orders-value", &schema(&newer)).unwrap();

    let pinned = Pinned::new(Some(&lock), &registry, Strategy::TopicName);
    let after = plan(COPY, &pinned);
    assert_eq!(fingerprint(&before, &Default::default()), fingerprint(&after, &Default::default()));
    let contract = pinned.value(&Topic::new("orders"), None).unwrap().unwrap();
    assert_eq!(contract.version, 1);
    let mut decoder = AvroDecoder::new(&contract, &[0]).unwrap();
    decoder.add_writer(writer.id.into(), Some(writer.schema.clone())).unwrap();
    let value = json!({"id": 7, "added": "x", "hash": "AAAAAAAAAAAAAAAAAAAAAA==", "price": "1.00",
        "reference": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "ordered_at": 5});
    let bytes = [&frame(writer.id)[..], &to_avro(&writer.schema, &value).unwrap()].concat();
    let decoded = decoder.decode(&[Some(bytes.as_slice())].into_iter().collect::<Bytes>(), &HeaderIds::default()).unwrap();
    assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
    let rows: &RecordBatch = &decoded.rows;
    assert_eq!(rows.column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0), 7);

    // Without the lock the newer version would be the reader, and the generation another one.
    let unpinned = plan(COPY, &Pinned::new(None, &registry, Strategy::TopicName));
    assert_ne!(fingerprint(&before, &Default::default()), fingerprint(&unpinned, &Default::default()));
}

#[test]
fn what_decides_values_decides_the_fingerprint() {
    let of = |text: &str| schema(text).fingerprint;
    let original = of(ORDER);
    for (from, to) in [
        (r#""default":"-""#, r#""default":"?""#),
        (r#""aliases":["comment"]"#, r#""aliases":["remark"]"#),
        ("timestamp-micros", "timestamp-millis"),
        (r#""symbols":["NEW","PAID"],"default":"NEW""#, r#""symbols":["NEW","PAID"],"default":"PAID""#),
        (r#""scale":2"#, r#""scale":3"#),
        (r#""name":"Md5""#, r#""name":"Md5","aliases":["Hash"]"#),
        (r#""size":16"#, r#""size":15"#),
        (r#""namespace":"shop""#, r#""namespace":"store""#),
    ] {
        assert!(ORDER.contains(from), "{from}");
        assert_ne!(of(&ORDER.replace(from, to)), original, "{from} -> {to}");
    }
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(ORDER).unwrap()).unwrap();
    for same in [
        pretty,
        ORDER.replace(r#""doc":"an order""#, r#""doc":"another text""#),
        ORDER.replace(r#","tags":["time"]"#, ""),
        ORDER
            .replace(r#""name":"Md5""#, r#""namespace":"shop","name":"Md5""#)
            .replace(r#""of","type":"Md5""#, r#""of","type":"shop.Md5""#),
    ] {
        assert_eq!(of(&same), original, "{same}");
    }
}

#[test]
fn differences_are_told_field_by_field() {
    let new = ORDER
        .replace(
            r#"{"name":"id","type":"long","doc":"counts up"},"#,
            r#"{"name":"id","type":"string"},{"name":"added","type":"int","default":3},"#,
        )
        .replace(r#""symbols":["NEW","PAID"]"#, r#""symbols":["NEW","SENT"]"#)
        .replace(r#""default":"-""#, r#""default":"?""#)
        .replace("timestamp-micros", "timestamp-millis")
        .replace(r#"{"name":"hash","type":{"type":"fixed","name":"Md5","size":16}},"#, "")
        .replace(r#""type":"Md5""#, r#""type":{"type":"fixed","name":"Md5","size":15}"#);
    assert_eq!(
        changes(&schema(ORDER), &schema(&new)),
        [
            "field \"id\" was long, is string",
            "field \"status\" the enum lost \"PAID\"",
            "field \"status\" the enum got \"SENT\"",
            "field \"hash\" is gone (was fixed shop.Md5 of 16 bytes)",
            "field \"note\" default was \"-\", is \"?\"",
            "field \"ordered_at\" was timestamp-micros, is timestamp-millis",
            "field \"either.of\" had 16 bytes, has 15",
            "field \"added\" is new: int, default 3",
        ]
    );
    assert!(changes(&schema(ORDER), &schema(ORDER)).is_empty());
    let documented = ORDER.replace("an order", "a purchase");
    assert_eq!(changes(&schema(ORDER), &schema(&documented)), ["only documentation, properties or layout differ"]);
}

#[test]
fn a_lock_holds_sources_and_sinks_and_is_written_as_it_is_read() {
    let registry = registry();
    let pinned = Pinned::new(None, &registry, Strategy::TopicName);
    let topology = plan(COPY, &pinned);
    let mut lock = pinned.resolved();
    let sink = &topology.sinks[0];
    lock.sinks.insert(sink.value_subject.clone(), LockedSink::new(&sink.value_schema, None));
    let known = registry.register("copy-key", &sink.key.as_ref().unwrap().avro.as_ref().unwrap().1).unwrap();
    lock.sinks.insert("copy-key".into(), LockedSink::new(&known.schema, Some(&known)));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipeline.lock");
    lock.write(&path).unwrap();
    let read = Lock::read(&path).unwrap().unwrap();
    assert_eq!(read, lock);
    assert_eq!(read.subjects.keys().collect::<Vec<_>>(), ["orders-value"]);
    assert_eq!(read.sinks["copy-value"].version, None);
    assert_eq!((read.sinks["copy-key"].version, read.sinks["copy-key"].id), (Some(1), Some(known.id)));
    assert!(read.sinks["copy-value"].changes(&sink.value_schema).unwrap().is_empty());

    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("PAID", "SOLD")).unwrap();
    let error = Lock::read(&path).unwrap_err();
    assert_eq!(error.kind, Kind::Config);
    assert!(error.message.contains("text and fingerprint disagree"), "{error}");
}

#[test]
fn drift_names_the_subject_the_versions_and_the_fields() {
    let registry = registry();
    let pinned = Pinned::new(None, &registry, Strategy::TopicName);
    let _ = plan(COPY, &pinned);
    let lock = pinned.resolved();
    let locked = &lock.subjects["orders-value"];
    assert_eq!(lock::drift("orders-value", locked, &registry).unwrap(), None);
    registry.register("orders-value", &schema(&ORDER.replace(r#""default":"-""#, r#""default":"?""#))).unwrap();
    let drift = lock::drift("orders-value", locked, &registry).unwrap().unwrap();
    assert_eq!(
        drift,
        "subject \"orders-value\": pinned at version 1, the registry is at version 2\n    field \"note\" default was \"-\", is \"?\""
    );
    let gone = MemoryRegistry::new();
    assert!(lock::drift("orders-value", locked, &gone).unwrap().unwrap().contains("no such subject"));
    let _: Arc<AvroSchema> = registry.latest("orders-value").unwrap().unwrap().schema;
}
