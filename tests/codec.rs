//! Bytes that Java wrote, read and written back; damaged bytes that must not harm their neighbours.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;
use tidemill::codec::avro::{AvroDecoder, AvroEncoder};
use tidemill::codec::json::{from_avro, same};
use tidemill::codec::partition::murmur2;
use tidemill::codec::wire::{HeaderIds, frame, unframe};
use tidemill::contract::{AvroSchema, Contract, SchemaId};
use tidemill::record::Bytes;

const WRITER: SchemaId = SchemaId(7);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/avro").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).expect("the fixture is there")
}

fn schema(name: &str) -> Arc<AvroSchema> {
    Arc::new(AvroSchema::parse(&text(name)).expect("the fixture's schema is good"))
}

/// Bodies as Java wrote them: each with its length before it.
fn bodies(name: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(fixture(name)).expect("the fixture is there");
    let mut rest = bytes.as_slice();
    let mut bodies = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (body, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        bodies.push(body.to_vec());
        rest = behind;
    }
    assert!(bodies.len() > 10, "the fixture has records");
    bodies
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&frame(WRITER)[..], body].concat()
}

fn column(values: &[Vec<u8>]) -> Bytes {
    values.iter().map(|value| Some(value.as_slice())).collect()
}

/// Decoded by the reader's schema and written again under it.
fn through_columns(values: &Bytes, writer: &Arc<AvroSchema>, reader: &Arc<AvroSchema>) -> (Vec<u32>, Vec<u32>, Vec<Vec<u8>>) {
    let contract = Contract::new("all-value", SchemaId(1), 1, reader.clone()).expect("every type has a column");
    let all: Vec<usize> = (0..contract.columns.fields().len()).collect();
    let mut decoder = AvroDecoder::new(&contract, &all).expect("all columns can be decoded");
    assert!(
        decoder.missing(values, &HeaderIds::default()).iter().all(|id| *id == WRITER.into()),
        "only the writer of the fixture is missing"
    );
    decoder.add_writer(WRITER.into(), Some(writer.clone())).expect("the writer resolves to the reader");
    let decoded = decoder.decode(values, &HeaderIds::default()).expect("bad values are told, not failed on");
    let mut encoder = AvroEncoder::new(reader, SchemaId(1), &decoded.rows.schema()).expect("all columns can be encoded");
    let encoded = encoder.encode(&decoded.rows).expect("bad rows are told, not failed on");
    assert!(encoded.bad.is_empty(), "what was decoded can be encoded: {:?}", encoded.bad);
    let written = encoded.values.iter().map(|value| unframe(value.expect("no value is null")).expect("it is framed").1.to_vec());
    (decoded.kept, decoded.bad.iter().map(|bad| bad.row).collect(), written.collect())
}

#[test]
fn java_bytes_come_back_equal() {
    let (schema, bodies) = (schema("all_types.avsc"), bodies("all_types.bin"));
    let values: Vec<Vec<u8>> = bodies.iter().map(|body| framed(body)).collect();
    let (kept, bad, written) = through_columns(&column(&values), &schema, &schema);
    assert_eq!((kept.len(), bad.len()), (bodies.len(), 0));
    for ((row, body), line) in bodies.iter().enumerate().zip(text("all_types.jsonl").lines()) {
        let expected: Value = serde_json::from_str(line).expect("Java wrote JSON");
        let direct = from_avro(&schema, body).expect("the body decodes");
        assert!(same(&schema, &expected, &direct), "row {row}: Java read {expected}, we read {direct}");
        let again = from_avro(&schema, &written[row]).expect("what we wrote decodes");
        assert!(same(&schema, &expected, &again), "row {row}: {expected} came back as {again}");
    }
}

#[test]
fn java_bytes_resolve_to_another_reader_as_java_does() {
    let (writer, reader) = (schema("all_types.avsc"), schema("reader.avsc"));
    let values: Vec<Vec<u8>> = bodies("all_types.bin").iter().map(|body| framed(body)).collect();
    let (kept, bad, written) = through_columns(&column(&values), &writer, &reader);
    assert_eq!((kept.len(), bad.len()), (values.len(), 0));
    for (row, line) in text("reader.jsonl").lines().enumerate() {
        let expected: Value = serde_json::from_str(line).expect("Java wrote JSON");
        let found = from_avro(&reader, &written[row]).expect("what we wrote decodes");
        assert!(same(&reader, &expected, &found), "row {row}: Java resolved to {expected}, we to {found}");
    }
}

#[test]
fn keys_are_partitioned_as_java_does() {
    let mut lines = 0;
    for line in text("murmur2.csv").lines().filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').collect();
        let [key, partitions, partition] = fields[..] else { panic!("{line}") };
        let key: Vec<u8> = (0..key.len() / 2).map(|i| u8::from_str_radix(&key[2 * i..2 * i + 2], 16).expect("hex")).collect();
        assert_eq!(murmur2(&key, partitions.parse().expect("a number")), partition.parse::<i32>().expect("a number"), "{line}");
        lines += 1;
    }
    assert!(lines > 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// One value is cut, prolonged, or has a byte changed: the others come through as if it were not there.
    #[test]
    fn a_damaged_value_harms_no_neighbour(row in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), how in 0..3, byte in any::<u8>()) {
        let schema = schema("all_types.avsc");
        let bodies = bodies("all_types.bin");
        let row = row.index(bodies.len());
        let mut values: Vec<Vec<u8>> = bodies.iter().map(|body| framed(body)).collect();
        let place = 5 + at.index(values[row].len() - 5);
        match how {
            0 => values[row].truncate(place),
            1 => values[row].push(byte),
            _ => values[row][place] ^= byte,
        }
        let (kept, bad, written) = through_columns(&column(&values), &schema, &schema);
        prop_assert!(bad.iter().all(|other| *other as usize == row));
        prop_assert_eq!(kept.len() + bad.len(), bodies.len());
        prop_assert!(how == 2 || bad.len() == 1, "a body that is too short or too long never passes");
        for (at, of) in kept.iter().enumerate().filter(|(_, of)| **of as usize != row) {
            let (expected, found) = (from_avro(&schema, &bodies[*of as usize]), from_avro(&schema, &written[at]));
            prop_assert_eq!(expected.expect("good"), found.expect("good"));
        }
    }
}
