//! Keys as bytes: what each format reads, refuses and writes.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use proptest::prelude::*;
use tidemill::codec::key::{KeyDecoder, KeyEncoder};
use tidemill::codec::wire::HeaderIds;
use tidemill::codec::{Decoded, KeyFormat};
use tidemill::error::BadClass;
use tidemill::record::Bytes;

fn field(name: &str, of: DataType) -> FieldRef {
    Arc::new(Field::new(name, of, true))
}

fn decode(fields: &[FieldRef], keys: &[&str]) -> Decoded {
    let members: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
    let columns: Vec<usize> = (0..fields.len()).collect();
    let mut decoder = KeyDecoder::new(KeyFormat::Json, None, &columns, &members, fields).unwrap();
    decoder.decode(&keys.iter().map(|key| Some(key.as_bytes())).collect::<Bytes>(), &HeaderIds::default()).unwrap()
}

fn encode(rows: &RecordBatch) -> Vec<String> {
    let encoded = KeyEncoder::new(KeyFormat::Json, None, &rows.schema()).unwrap().encode(rows).unwrap();
    assert!(encoded.bad.is_empty(), "{:?}", encoded.bad);
    encoded.values.iter().map(|key| String::from_utf8(key.unwrap().to_vec()).unwrap()).collect()
}

#[test]
fn a_json_key_has_one_text() {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(StringArray::from(vec!["a\"\\/\u{8}\u{c}\n\r\t\u{1f}\u{7f} é🌊", ""]))),
        ("int", Arc::new(Int32Array::from(vec![-1, i32::MAX]))),
        ("long", Arc::new(Int64Array::from(vec![Some(i64::MIN), None]))),
        ("flag", Arc::new(BooleanArray::from(vec![true, false]))),
        ("price", Arc::new(Decimal128Array::from(vec![-5, 100_000]).with_precision_and_scale(10, 2).unwrap())),
        ("bytes", Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..], &b""[..]]))),
        ("day", Arc::new(Date32Array::from(vec![0, -1]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![1_120, -1]).with_timezone("+00:00"))),
        ("local", Arc::new(TimestampMicrosecondArray::from(vec![1, 0]))),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
    assert_eq!(
        encode(&rows),
        [
            "{\"text\":\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u001F\u{7f} é🌊\",\"int\":-1,\"long\":-9223372036854775808,\"flag\":true,\
             \"price\":-0.05,\"bytes\":\"AP8=\",\"day\":\"1970-01-01\",\"at\":\"1970-01-01 00:00:01.12Z\",\
             \"local\":\"1970-01-01 00:00:00.000001\"}",
            "{\"text\":\"\",\"int\":2147483647,\"long\":null,\"flag\":false,\"price\":1000.00,\"bytes\":\"\",\
             \"day\":\"1969-12-31\",\"at\":\"1969-12-31 23:59:59.999Z\",\"local\":\"1970-01-01 00:00:00\"}",
        ]
    );
    // What was written reads back as what it was.
    let texts = encode(&rows);
    let found = decode(rows.schema().fields(), &texts.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(found.bad.is_empty(), "{:?}", found.bad);
    assert_eq!(found.rows, rows);
}

#[test]
fn a_bad_json_key_is_told_and_harms_no_neighbour() {
    let fields = [field("id", DataType::Int64), field("name", DataType::Utf8)];
    let keys = [
        r#"{"id":1,"name":"a"}"#,
        r#"{"id":1,"name":"a""#,
        r#"{"id":2,"name":["a"]}"#,
        "",
        "7",
        r#"{"name":"b","id":"3"} "#,
        r#"{"id":1}{"id":2}"#,
        r#"{"id":1e3,"name":"c"}"#,
        r#" { "id" : null } "#,
    ];
    let found = decode(&fields, &keys);
    assert_eq!(found.kept, [0, 5, 8]);
    assert_eq!(found.rows.column(0).as_ref(), &Int64Array::from(vec![Some(1), Some(3), None]));
    assert_eq!(found.rows.column(1).as_ref(), &StringArray::from(vec![Some("a"), Some("b"), None]));
    assert_eq!(found.bad.iter().map(|bad| bad.row).collect::<Vec<_>>(), [1, 2, 3, 4, 6, 7]);
    assert!(found.bad.iter().all(|bad| bad.class == BadClass::Key));
    assert_eq!(found.bad[1].message, "the key's member \"name\": [\"a\"] where a STRING is wanted");
    assert!(found.bad[3].message.starts_with("the key is no JSON object: "), "{}", found.bad[3].message);
}

#[test]
fn a_json_key_that_must_be_there_is() {
    let fields: [FieldRef; 1] = [Arc::new(Field::new("id", DataType::Int64, false))];
    let found = decode(&fields, &["{}", r#"{"id":null}"#, r#"{"id":4}"#]);
    assert_eq!(found.kept, [2]);
    assert_eq!(found.bad[0].message, "the key has no member \"id\"");
    assert_eq!(found.bad[1].message, "the key's member \"id\" is null");
}

#[test]
fn floating_point_numbers_and_structs_are_no_json_keys() {
    for of in [DataType::Float64, DataType::Struct(vec![Field::new("a", DataType::Int32, true)].into())] {
        let schema = Arc::new(Schema::new(vec![Field::new("k", of, true)]));
        let error = KeyEncoder::new(KeyFormat::Json, None, &schema).unwrap_err();
        assert!(error.message.contains("\"k\"") && error.hint.is_some(), "{error}");
    }
}

proptest! {
    #[test]
    fn json_keys_go_both_ways(texts in prop::collection::vec(prop::option::of(any::<String>()), 1..20), seed in any::<i64>()) {
        let numbers: Vec<Option<i64>> = (0..texts.len() as i64).map(|i| (i % 3 > 0).then(|| seed.wrapping_mul(i))).collect();
        // Within the years that have four digits.
        let times: Vec<i64> = (0..texts.len() as i64).map(|i| seed.wrapping_mul(i).rem_euclid(250_000_000_000_000) - 60_000_000_000_000).collect();
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("a b", Arc::new(StringArray::from(texts)) as ArrayRef, true),
            ("n", Arc::new(Int64Array::from(numbers)) as ArrayRef, true),
            ("t", Arc::new(TimestampMillisecondArray::from(times).with_timezone("+00:00")) as ArrayRef, true),
        ]).unwrap();
        let keys = encode(&rows);
        let found = decode(rows.schema().fields(), &keys.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert!(found.bad.is_empty(), "{:?}", found.bad);
        prop_assert_eq!(found.rows, rows);
    }

    #[test]
    fn any_bytes_as_a_json_key_are_read_or_refused(keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
        let fields = [field("id", DataType::Int64), field("t", DataType::Timestamp(TimeUnit::Millisecond, None))];
        let mut decoder = KeyDecoder::new(KeyFormat::Json, None, &[0, 1], &["id".into(), "t".into()], &fields).unwrap();
        let found = decoder.decode(&keys.iter().map(|key| Some(key.as_slice())).collect::<Bytes>(), &HeaderIds::default()).unwrap();
        prop_assert_eq!(found.kept.len() + found.bad.len(), keys.len());
        prop_assert_eq!(found.rows.num_rows(), found.kept.len());
    }
}
