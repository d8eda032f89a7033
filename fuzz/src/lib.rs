//! What must not panic, hang or take memory without bounds, whatever the bytes: one function per target.
//!
//! Beyond that each checks what holds for any input: every value comes out once, good or bad.

use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use tidemill::codec::avro::{AvroDecoder, AvroEncoder};
use tidemill::codec::key::{KeyDecoder, KeyEncoder};
use tidemill::codec::wire::{HeaderIds, KEY_HEADER, VALUE_HEADER, frame, unframe};
use tidemill::codec::{KeyFormat, json};
use tidemill::contract::{AvroSchema, Contract, FileContracts, MemoryRegistry, Pinned, SchemaId, Strategy};
use tidemill::error::Result;
use tidemill::record::{Bytes, Chunk, Header, NextOffset, Offset, Topic};
use tidemill::store::changelog::{Fold, commit_record, from_ipc};
use tidemill::store::{Slice, Store};
use tidemill::topology::{Options, SqlFile, compile, explain};
use tidemill::watermark::Watermark;

const ID: SchemaId = SchemaId(1);

/// All types, and other names for some of them.
pub const SCHEMA: &str = r#"{"type":"record","name":"All","namespace":"fuzz","fields":[
  {"name":"flag","type":"boolean"},{"name":"small","type":"int"},{"name":"large","type":"long"},
  {"name":"single","type":"float"},{"name":"double","type":"double"},{"name":"bytes","type":"bytes"},{"name":"text","type":"string"},
  {"name":"fixed","type":{"type":"fixed","name":"Six","size":6}},
  {"name":"symbol","type":{"type":"enum","name":"Symbol","symbols":["A","B","C"],"default":"A"}},
  {"name":"list","type":{"type":"array","items":["null","long"]}},
  {"name":"lists","type":{"type":"array","items":{"type":"array","items":"null"}}},
  {"name":"map","type":{"type":"map","values":{"type":"record","name":"Inner","fields":[{"name":"a","type":"int"},{"name":"s","type":"Symbol"}]}}},
  {"name":"maybe","type":["null","string"]},
  {"name":"either","type":["null","int","string","Inner"]},
  {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},
  {"name":"wide","type":{"type":"fixed","name":"Wide","size":20,"logicalType":"decimal","precision":45,"scale":3}},
  {"name":"id","type":{"type":"string","logicalType":"uuid"}},
  {"name":"raw_id","type":{"type":"fixed","name":"Raw","size":16,"logicalType":"uuid"}},
  {"name":"day","type":{"type":"int","logicalType":"date"}},
  {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
  {"name":"span","type":{"type":"fixed","name":"Span","size":12,"logicalType":"duration"}}]}"#;

/// Reads some of the fields, changed as the specification allows.
const READER: &str = r#"{"type":"record","name":"All","namespace":"fuzz","fields":[
  {"name":"amount","type":"double","aliases":["small"]},{"name":"text","type":"bytes"},
  {"name":"symbol","type":{"type":"enum","name":"Symbol","symbols":["A","C"],"default":"A"}},
  {"name":"either","type":["null","long","string"]},
  {"name":"added","type":{"type":"array","items":"int"},"default":[1,2]}]}"#;

fn contract(text: &str) -> Contract {
    let schema = Arc::new(AvroSchema::parse(text).expect("a good schema"));
    Contract::new("all-value", ID, 1, schema).expect("every type has a column")
}

fn column(values: &[&[u8]]) -> Bytes {
    values.iter().map(|value| Some(*value)).collect()
}

/// Frames and headers.
pub fn wire(data: &[u8]) {
    if let Ok((id, body)) = unframe(data) {
        assert!(data.ends_with(body) && matches!(data.len() - body.len(), 5 | 17));
        assert!(!id.to_string().is_empty());
    }
    let headers = vec![(0, vec![Header::new(VALUE_HEADER, data), Header::new(KEY_HEADER, data)])];
    for name in [VALUE_HEADER, KEY_HEADER] {
        if let Some(Ok(id)) = HeaderIds::of_record(&headers[0].1, name) {
            assert!(matches!(data.len(), 5 | 17), "{id}");
        }
    }
    let mut decoder = AvroDecoder::new(&contract(READER), &[0]).expect("the column is there");
    let given = HeaderIds::of(&headers, VALUE_HEADER);
    for (values, given) in [(column(&[data]), &HeaderIds::default()), (column(&[data, data]), &given)] {
        for id in decoder.missing(&values, given) {
            decoder.add_writer(id, None).expect("an unknown id is no error");
        }
        let decoded = decoder.decode(&values, given).expect("bad values are told");
        assert_eq!((decoded.rows.num_rows(), decoded.bad.len()), (0, values.len()), "no id is known");
    }
}

/// Bodies between good neighbours, under their own schema and under another reader's.
pub fn avro_decode(data: &[u8]) {
    static SCHEMAS: OnceLock<(Contract, Contract, Vec<u8>)> = OnceLock::new();
    let (writer, reader, good) = SCHEMAS.get_or_init(|| {
        let writer = contract(SCHEMA);
        let good = [&frame(ID)[..], &json::to_avro(&writer.schema, &good_value()).expect("it fits")].concat();
        (writer, contract(READER), good)
    });
    let framed = [&frame(ID)[..], data].concat();
    let values = column(&[good, &framed, good]);
    for contract in [writer, reader] {
        let all: Vec<usize> = (0..contract.columns.fields().len()).collect();
        for columns in [&all[..], &all[1..2], &[]] {
            let mut decoder = AvroDecoder::new(contract, columns).expect("the columns are there");
            decoder.add_writer(ID.into(), Some(writer.schema.clone())).expect("the writer resolves");
            let decoded = decoder.decode(&values, &HeaderIds::default()).expect("bad values are told");
            assert!(decoded.kept.starts_with(&[0]) && decoded.kept.ends_with(&[2]), "neighbours come through");
            assert_eq!(decoded.kept.len() + decoded.bad.len(), 3);
            if columns.len() == all.len() {
                let mut encoder =
                    AvroEncoder::new(&contract.schema, ID, &decoded.rows.schema()).expect("every column is written");
                let encoded = encoder.encode(&decoded.rows).expect("bad rows are told");
                assert!(encoded.bad.is_empty(), "what was read can be written: {:?}", encoded.bad);
            }
        }
    }
    if let Ok(value) = json::from_avro(&writer.schema, data) {
        let again = json::to_avro(&writer.schema, &value).map(|body| json::from_avro(&writer.schema, &body));
        if let Ok(Ok(again)) = again {
            assert!(json::same(&writer.schema, &value, &again), "{value}\n{again}");
        }
    }
}

/// A value that fits [`SCHEMA`].
pub fn good_value() -> serde_json::Value {
    serde_json::json!({
        "flag": true, "small": -1, "large": 1_i64 << 40, "single": 0.5, "double": 1e9, "bytes": "AAE=", "text": "é", "fixed": "AAECAwQF",
        "symbol": "B", "list": [1, null], "lists": [[null], []], "map": {"k": {"a": 1, "s": "C"}}, "maybe": "x", "either": "y",
        "price": "12.50", "wide": "-1.000", "id": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "raw_id": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "day": "2026-01-31", "at": "2026-01-31T00:00:00Z",
        "span": {"months": 1, "days": 2, "milliseconds": 3},
    })
}

/// A body that [`avro_decode`] takes.
pub fn good_body() -> Vec<u8> {
    json::to_avro(&contract(SCHEMA).schema, &good_value()).expect("it fits")
}

/// SQL is planned or refused; what is planned can be explained.
pub fn sql(data: &[u8]) {
    static REGISTRY: OnceLock<MemoryRegistry> = OnceLock::new();
    let registry = REGISTRY.get_or_init(|| {
        let registry = MemoryRegistry::from(FileContracts::default());
        let schema = AvroSchema::parse(SCHEMA).expect("a good schema");
        registry.register_as("orders-value", ID, schema).expect("the id is free");
        registry
    });
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = SqlFile { name: "fuzz.sql".into(), text: text.into() };
    let contracts = Pinned::new(None, registry, Strategy::TopicName);
    match compile(&file, &contracts, &Options { default_name: Some("fuzz".into()), ..Options::default() }) {
        Ok(topology) => assert!(!explain(&topology).is_empty()),
        Err(error) => assert!(!error.message.is_empty()),
    }
}

/// Bytes as rows of state, as a commit record, and as messages of a changelog.
pub fn changelog(data: &[u8]) {
    let _ = from_ipc(data);
    let (first, rest) = data.split_at(data.len().min(usize::from(data.first().copied().unwrap_or(0))));
    let header = |name: &str, value: &[u8]| Header::new(name, value);
    let headers = [
        vec![header("tidemill.format", b"1"), header("tidemill.part", b"1/1"), header("tidemill.commit", first)],
        vec![header("tidemill.format", b"1"), header("tidemill.part", first)],
        vec![header("tidemill.format", first), header("tidemill.part", b"1/2")],
    ];
    let mut fold = Fold::new(1);
    for (offset, headers) in (0..).zip(headers) {
        let _ = commit_record(&headers);
        let mut chunk = Chunk::empty(Topic::new("t").partition(0), NextOffset(offset));
        chunk.push(Offset(offset), 0, None, Some(rest), headers);
        let _ = fold.take(&chunk, &mut Counted(0));
    }
}

/// Counts what it is given.
struct Counted(usize);

impl Store for Counted {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::empty())
    }

    fn delta(&mut self) -> Result<Option<RecordBatch>> {
        Ok(None)
    }

    fn slice(&mut self, _rows: usize) -> Result<Slice> {
        Ok(Slice { rows: None, wrapped: true })
    }

    fn apply(&mut self, rows: &RecordBatch) -> Result<()> {
        self.0 += rows.num_rows();
        Ok(())
    }

    fn expire(&mut self, _edge: Watermark) {}

    fn keep(&mut self) {}

    fn undo(&mut self) {}

    fn clear(&mut self) {}

    fn image(&self, _rows: usize) -> Result<Vec<RecordBatch>> {
        Ok(Vec::new())
    }

    fn len(&self) -> usize {
        self.0
    }

    fn size(&self) -> usize {
        0
    }
}

/// Keys of format json: what is read is written in its one form, and reads as the same.
pub fn json_key(data: &[u8]) {
    let field = |name: &str, of: DataType| -> FieldRef { Arc::new(Field::new(name, of, true)) };
    let fields = [
        field("id", DataType::Int64),
        field("name", DataType::Utf8),
        field("price", DataType::Decimal128(12, 2)),
        field("raw", DataType::Binary),
        field("at", DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into()))),
        field("day", DataType::Date32),
    ];
    let members: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
    let columns: Vec<usize> = (0..fields.len()).collect();
    let mut decoder = KeyDecoder::new(KeyFormat::Json, None, &columns, &members, &fields).expect("all types are held");
    let none = HeaderIds::default();
    let decoded = decoder.decode(&column(&[b"{}", data, b"{\"id\":1}"]), &none).expect("bad keys are told");
    assert!(decoded.kept.starts_with(&[0]) && decoded.kept.ends_with(&[2]), "neighbours come through");
    assert_eq!(decoded.kept.len() + decoded.bad.len(), 3);
    let mut encoder = KeyEncoder::new(KeyFormat::Json, None, &decoded.rows.schema()).expect("all types are written");
    let encoded = encoder.encode(&decoded.rows).expect("bad rows are told");
    assert!(encoded.bad.is_empty(), "what was read can be written: {:?}", encoded.bad);
    let again = decoder.decode(&encoded.values, &none).expect("bad keys are told");
    assert_eq!(again.rows, decoded.rows);
}
