//! The fuzz targets over a small seeded corpus, so that they can't rot: each seed as it is, and changed in many ways.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemill::codec::wire::frame;
use tidemill::contract::SchemaId;
use tidemill::store::changelog::to_ipc;

const CHANGES: usize = 400;

/// Calls the target with every seed and with changes of it. A panic names the bytes.
fn run(target: fn(&[u8]), seeds: &[Vec<u8>]) {
    let mut random = StdRng::seed_from_u64(7);
    for seed in seeds {
        target(seed);
        for _ in 0..CHANGES {
            let mut data = seed.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..=data.len());
                match random.random_range(0..5) {
                    0 => data.truncate(at),
                    1 => data.insert(at, random.random()),
                    2 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
                    3 if at < data.len() => drop(data.remove(at)),
                    _ => {
                        let piece = seed[seed.len() - seed.len().min(at)..].to_vec();
                        data.splice(at..at, piece.into_iter().take(16));
                    }
                }
            }
            let shown = data.clone();
            if let Err(panic) = std::panic::catch_unwind(move || target(&data)) {
                eprintln!("the target panicked on {shown:?}: {}", String::from_utf8_lossy(&shown));
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn wire() {
    let guid: Vec<u8> = (1..30).collect();
    run(targets::wire, &[frame(SchemaId(1)).to_vec(), [&frame(SchemaId(9))[..], b"body"].concat(), guid, b"{}".to_vec(), vec![]]);
}

#[test]
fn avro_decode() {
    let good = targets::good_body();
    run(targets::avro_decode, &[good.clone(), good[..good.len() / 2].to_vec(), vec![0xff; 40], vec![]]);
}

#[test]
fn sql() {
    let text = "SET 'pipeline.name' = 'p';
CREATE STREAM orders (WATERMARK FOR at AS at - INTERVAL '5' SECOND, CONSTRAINT c CHECK (small > 0) ON VIOLATION DEAD LETTER)
  WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'text');
CREATE SINK s (PRIMARY KEY (window_start, text)) WITH ('topic' = 's', 'format' = 'avro', 'key.format' = 'json');
INSERT INTO s SELECT window_start, text, SUM(large) AS total, COUNT(*) FILTER (WHERE flag) AS n
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(at), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, text HAVING COUNT(*) > 1;";
    run(targets::sql, &[text.into(), b"CREATE VIEW v AS SELECT ((((1))))".to_vec(), b"INSERT INTO".to_vec(), vec![]]);
}

#[test]
fn changelog() {
    let rows = RecordBatch::try_from_iter([
        ("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as arrow::array::ArrayRef),
        ("s", Arc::new(StringArray::from(vec![Some("a"), None, Some("long enough to be compressed a little")]))),
    ])
    .unwrap();
    let commit = br#"{"generation":1,"number":1,"previous":0,"edge":0,"positions":[],"watermarks":[],"extra":null}"#;
    let ipc = to_ipc(std::slice::from_ref(&rows)).unwrap();
    let message = [&[commit.len() as u8 + 1][..], commit, &ipc].concat();
    run(targets::changelog, &[ipc, message, commit.to_vec(), b"\x031/2".to_vec(), vec![]]);
}

#[test]
fn json_key() {
    let whole =
        br#"{"id":1,"name":"a\u00e9\n","price":12.5,"raw":"AAE=","at":"2026-01-31 12:34:56.789Z","day":"2026-01-31","x":[{}]}"#;
    run(targets::json_key, &[whole.to_vec(), b" { \"id\" : \"7\" } ".to_vec(), b"null".to_vec(), vec![]]);
}
