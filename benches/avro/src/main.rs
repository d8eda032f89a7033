//! Our Avro decoder beside `arrow-avro` and `apache-avro`, side by side on the same bytes: 1,000,000 framed records of 8 fields.
//!
//! Each runs several times in turn and the best counts, so that a busy machine harms all alike.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema as ArrowSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use tidemill::codec::AvroDecoder;
use tidemill::codec::json::to_avro;
use tidemill::codec::wire::{HeaderIds, frame};
use tidemill::contract::{AvroSchema, Contract, SchemaId};
use tidemill::record::Bytes;

const RECORDS: usize = 1_000_000;
/// Records that are decoded at once.
const BATCH: usize = 1_024;
const ROUNDS: usize = 7;
const ID: SchemaId = SchemaId(7);
const SCHEMA: &str = r#"{"type":"record","name":"Order","fields":[
    {"name":"order_id","type":"long"},{"name":"customer_id","type":"string"},{"name":"product","type":"string"},
    {"name":"amount","type":"double"},{"name":"quantity","type":"int"},{"name":"paid","type":"boolean"},
    {"name":"note","type":["null","string"]},{"name":"ordered_at","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;

fn main() {
    let schema = Arc::new(AvroSchema::parse(SCHEMA).expect("a good schema"));
    let chunks = chunks(&schema);
    let bytes: usize = chunks.iter().map(Bytes::size).sum();
    println!("{RECORDS} records of {:.1} bytes with their frame, batches of {BATCH}, best of {ROUNDS}", bytes as f64 / RECORDS as f64);
    let contract = Contract::new("orders-value", ID, 1, schema.clone()).expect("every type has a column");
    for (what, columns) in [("all 8 columns", (0..8).collect::<Vec<_>>()), ("3 columns", vec![1, 3, 7])] {
        let (mut ours, mut arrow, mut apache) = (Duration::MAX, Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            ours = ours.min(timed(|| decode_ours(&contract, &columns, &schema, &chunks)));
            if columns.len() == 8 {
                arrow = arrow.min(timed(|| decode_arrow(&chunks)));
                apache = apache.min(timed(|| decode_apache(&schema, &chunks)));
            }
        }
        let rate = |took: Duration| RECORDS as f64 / took.as_secs_f64() / 1e6;
        print!("{what}: ours {:.1} M/s", rate(ours));
        if columns.len() == 8 {
            let ratio = |other: Duration| other.as_secs_f64() / ours.as_secs_f64();
            print!(", arrow-avro {:.1} M/s (ours is {:.2} times as fast)", rate(arrow), ratio(arrow));
            print!(", apache-avro {:.1} M/s ({:.1} times)", rate(apache), ratio(apache));
        }
        println!();
    }
}

fn chunks(schema: &AvroSchema) -> Vec<Bytes> {
    let value = |number: usize| {
        serde_json::json!({
            "order_id": number, "customer_id": format!("c{:05}", number % 40_000), "product": "lamp", "amount": number as f64 / 7.0,
            "quantity": number % 10, "paid": number.is_multiple_of(2), "note": if number.is_multiple_of(3) { None } else { Some("gift") },
            "ordered_at": 1_767_225_600_000_i64 + number as i64,
        })
    };
    let record = |number| [&frame(ID)[..], &to_avro(schema, &value(number)).expect("the value fits")].concat();
    let records: Vec<Vec<u8>> = (0..RECORDS).map(record).collect();
    records.chunks(BATCH).map(|chunk| chunk.iter().map(|record| Some(record.as_slice())).collect()).collect()
}

fn timed(decode: impl FnOnce() -> usize) -> Duration {
    let began = Instant::now();
    let rows = decode();
    let took = began.elapsed();
    assert_eq!(rows, RECORDS, "every record comes out");
    took
}

fn decode_ours(contract: &Contract, columns: &[usize], schema: &Arc<AvroSchema>, chunks: &[Bytes]) -> usize {
    let mut decoder = AvroDecoder::new(contract, columns).expect("the columns are there");
    decoder.add_writer(ID.into(), Some(schema.clone())).expect("a schema reads itself");
    let none = HeaderIds::default();
    chunks.iter().map(|chunk| decoder.decode(chunk, &none).expect("good values").rows.num_rows()).sum()
}

fn decode_arrow(chunks: &[Bytes]) -> usize {
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(ID.0), ArrowSchema::new(SCHEMA.to_string())).expect("a good schema");
    let mut decoder = ReaderBuilder::new().with_writer_schema_store(store).with_batch_size(BATCH).build_decoder().expect("a decoder");
    let mut rows = 0;
    for chunk in chunks {
        for value in chunk.iter().flatten() {
            let taken = decoder.decode(value).expect("a good value");
            assert_eq!(taken, value.len(), "it takes the whole value");
        }
        rows += decoder.flush().expect("good columns").map_or(0, |batch| batch.num_rows());
    }
    rows
}

fn decode_apache(schema: &AvroSchema, chunks: &[Bytes]) -> usize {
    let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema.parsed).build().expect("the schema stands alone");
    let mut rows = 0;
    for value in chunks.iter().flat_map(|chunk| chunk.iter().flatten()) {
        std::hint::black_box(reader.read_value(&mut &value[5..]).expect("a good value"));
        rows += 1;
    }
    rows
}
