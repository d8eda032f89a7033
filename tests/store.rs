//! Changelog and checkpoint: what is written is read back whole, and every break is noticed.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use tidemill::error::{Error, Kind, Result};
use tidemill::record::{Chunk, NextOffset, Offset, Outgoing, Partition, Topic};
use tidemill::store::changelog::{CommitRecord, Fold, MAX_BYTES, commit_record, encode, from_ipc, to_ipc};
use tidemill::store::checkpoint::{Checkpoint, Checkpoints};
use tidemill::store::{Slice, Store};
use tidemill::watermark::Watermark;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("s", DataType::Utf8, true)]))
}

fn rows(numbers: impl IntoIterator<Item = i64>) -> RecordBatch {
    let numbers = Int64Array::from_iter_values(numbers);
    // Text that does not compress to nothing.
    let text: StringArray =
        numbers.values().iter().map(|n| Some(format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15u64 as i64)))).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(numbers), Arc::new(text)]).unwrap()
}

fn record(number: u64, previous: u64) -> CommitRecord {
    let topic = Topic::new("orders");
    CommitRecord {
        generation: 7,
        number,
        previous,
        edge: Watermark(number as i64 * 1000),
        positions: vec![(topic.clone(), Partition(3), NextOffset(number as i64 * 10))],
        watermarks: vec![(topic, Partition(3), Watermark::MIN)],
        extra: serde_json::json!({"note": [1, "two"]}),
    }
}

#[test]
fn a_changed_bit_in_rows_is_told_and_never_read() {
    let bytes = to_ipc(&[rows(0..50)]).unwrap();
    assert_eq!(from_ipc(&bytes).unwrap(), [rows(0..50)]);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert_eq!(from_ipc(&damaged).unwrap_err().kind, Kind::Corrupt, "byte {at}");
        assert_eq!(from_ipc(&bytes[..at]).unwrap_err().kind, Kind::Corrupt, "cut at {at}");
    }
}

/// Notes what it is given.
#[derive(Default)]
struct Notes {
    numbers: Vec<i64>,
    edge: Option<Watermark>,
}

impl Store for Notes {
    fn schema(&self) -> SchemaRef {
        schema()
    }
    fn delta(&mut self) -> Result<Option<RecordBatch>> {
        Ok(None)
    }
    fn slice(&mut self, _rows: usize) -> Result<Slice> {
        Ok(Slice { rows: None, wrapped: true })
    }
    fn apply(&mut self, rows: &RecordBatch) -> Result<()> {
        self.numbers.extend(rows.column(0).as_primitive::<Int64Type>().values());
        Ok(())
    }
    fn expire(&mut self, edge: Watermark) {
        self.edge = Some(edge);
    }
    fn keep(&mut self) {}
    fn undo(&mut self) {}
    fn clear(&mut self) {}
    fn image(&self, _rows: usize) -> Result<Vec<RecordBatch>> {
        Ok(Vec::new())
    }
    fn len(&self) -> usize {
        self.numbers.len()
    }
    fn size(&self) -> usize {
        0
    }
}

/// Messages as they come back from the log; every commit is followed by a marker's hole.
struct Log(Chunk);

impl Log {
    fn new(start: i64) -> Log {
        Log(Chunk::empty(Topic::new("p.g7.agg.changelog").partition(2), NextOffset(start)))
    }

    fn append(&mut self, messages: &Outgoing) {
        let mut next = self.0.next.0;
        for row in 0..messages.len() {
            assert_eq!(messages.partitions[row], 2);
            let headers = messages.row_headers(row).to_vec();
            self.0.push(Offset(next), messages.timestamps[row], messages.keys.get(row), messages.values.get(row), headers);
            next += 1;
        }
        self.0.next = NextOffset(next + 1);
    }

    fn commit(&mut self, number: u64, previous: u64, delta: Option<&RecordBatch>, slice: Option<&RecordBatch>, max: usize) {
        self.append(&encode(&record(number, previous), delta, slice, Partition(2), 5, max).unwrap());
    }

    fn fold(&self, fold: &mut Fold) -> Result<Notes, Error> {
        let mut notes = Notes::default();
        fold.take(&self.0, &mut notes)?;
        Ok(notes)
    }
}

#[test]
fn a_changelog_folds_to_what_was_written() {
    let mut log = Log::new(0);
    log.commit(1, 0, Some(&rows(0..3)), Some(&rows(10..12)), MAX_BYTES);
    log.commit(2, 1, None, None, MAX_BYTES);
    log.commit(5, 2, None, Some(&rows(20..21)), MAX_BYTES);
    let mut fold = Fold::new(7);
    let notes = log.fold(&mut fold).unwrap();
    assert_eq!(notes.numbers, [0, 1, 2, 10, 11, 20]);
    assert_eq!(notes.edge, Some(Watermark(5000)));
    assert_eq!(fold.last(), Some(&record(5, 2)));
    assert!(!fold.unfinished());
}

#[test]
fn messages_stay_below_the_limit_and_come_back_whole() {
    let messages = encode(&record(1, 0), Some(&rows(0..5000)), Some(&rows(5000..5100)), Partition(2), 5, 6_000).unwrap();
    assert!(messages.len() > 5);
    assert!(messages.values.iter().all(|value| value.unwrap().len() <= 6_000));
    let records: Vec<_> = (0..messages.len()).map(|row| commit_record(messages.row_headers(row))).collect();
    assert!(records[..records.len() - 1].iter().all(Option::is_none) && records.last().unwrap() == &Some(record(1, 0)));
    let mut log = Log::new(0);
    log.append(&messages);
    let mut fold = Fold::new(7);
    // In chunks of one message each.
    let mut notes = Notes::default();
    for row in 0..log.0.len() {
        assert_eq!(notes.numbers.len(), 0, "a commit is applied whole or not at all");
        fold.take(&log.0.slice(row, row + 1), &mut notes).unwrap();
    }
    assert_eq!(notes.numbers, (0..5100).collect::<Vec<_>>());

    let error = encode(&record(1, 0), Some(&rows(0..2)), None, Partition(2), 5, 100).unwrap_err();
    assert!(error.message.starts_with("one row takes "), "{error}");
}

#[test]
fn a_log_may_start_in_mid_history() {
    let mut log = Log::new(40);
    log.commit(8, 6, Some(&rows(0..4000)), None, 6_000);
    log.commit(9, 8, Some(&rows([7])), None, MAX_BYTES);
    // The head was deleted within commit 8.
    let tail = Log(log.0.slice(2, log.0.len()));
    let mut fold = Fold::new(7);
    assert_eq!(tail.fold(&mut fold).unwrap().numbers, [7]);
    assert_eq!(fold.last().unwrap().number, 9);
    // Deleted at a commit: any `previous` is taken.
    let mut fold = Fold::new(7);
    assert_eq!(log.fold(&mut fold).unwrap().numbers.len(), 4001);
}

#[test]
fn a_checkpoint_skips_the_commits_that_it_has() {
    let mut log = Log::new(0);
    for number in 1..=4 {
        log.commit(number, number - 1, Some(&rows([number as i64])), None, MAX_BYTES);
    }
    let mut fold = Fold::after(record(2, 1));
    assert_eq!(log.fold(&mut fold).unwrap().numbers, [3, 4]);
    let behind = Log(log.0.slice(3, 4));
    let error = behind.fold(&mut Fold::after(record(2, 1))).err().unwrap();
    assert_eq!(error.kind, Kind::Corrupt);
}

#[test]
fn every_break_is_corrupt_and_names_its_place() {
    let broken = |change: &dyn Fn(&mut Log)| {
        let mut log = Log::new(0);
        log.commit(1, 0, Some(&rows(0..1)), None, MAX_BYTES);
        change(&mut log);
        let error = log.fold(&mut Fold::new(7)).err().expect("a break is noticed");
        assert_eq!(error.kind, Kind::Corrupt);
        error.message
    };
    let place = "topic \"p.g7.agg.changelog\" partition 2: offset 2: ";
    assert_eq!(
        broken(&|log| log.commit(3, 2, None, None, MAX_BYTES)),
        format!("{place}commit 3 follows commit 2, but the last one read is 1")
    );
    assert_eq!(broken(&|log| log.commit(1, 1, None, None, MAX_BYTES)), format!("{place}commit 1 claims to follow commit 1"));
    let with = |change: &dyn Fn(&mut Vec<tidemill::record::Header>, &mut Vec<u8>)| {
        broken(&|log| {
            let messages = encode(&record(2, 1), Some(&rows(0..9)), None, Partition(2), 5, MAX_BYTES).unwrap();
            let (mut headers, mut value) = (messages.row_headers(0).to_vec(), messages.values.get(0).unwrap().to_vec());
            change(&mut headers, &mut value);
            let mut changed = Outgoing::default();
            changed.push(2, 5, None, Some(&value), headers);
            log.append(&changed);
        })
    };
    let set = |name: &'static str, to: &'static str| {
        move |headers: &mut Vec<tidemill::record::Header>, _: &mut Vec<u8>| {
            headers.iter_mut().filter(|h| h.name == name).for_each(|h| h.value = Some(to.into()));
        }
    };
    assert!(with(&set("tidemill.format", "2")).contains("format \"2\""));
    assert_eq!(with(&set("tidemill.part", "2/2")), format!("{place}part 2/2 of a commit follows a finished commit"));
    assert!(with(&set("tidemill.part", "0/1")).contains("missing or malformed"));
    assert!(with(&set("tidemill.commit", "{}")).contains("does not parse"));
    assert!(with(&|headers, _| headers.clear()).contains("no message of a changelog"));
    assert!(with(&|headers, _| headers.truncate(3)).contains("no commit record"));
    assert!(with(&|_, value| value.truncate(100)).contains("do not decode"));
    let mut other = Fold::new(8);
    let mut log = Log::new(0);
    log.commit(1, 0, None, None, MAX_BYTES);
    assert!(log.fold(&mut other).err().unwrap().message.contains("generation 7 in the changelog of generation 8"));
}

#[test]
fn a_lost_part_is_noticed() {
    let mut log = Log::new(0);
    log.commit(1, 0, Some(&rows([1])), None, MAX_BYTES);
    log.commit(2, 1, Some(&rows(0..4000)), None, 6_000);
    let whole = &log.0;
    let mut without = whole.slice(0, 3);
    for row in 4..whole.len() {
        without.push(whole.offsets[row], 5, None, whole.values.get(row), whole.row_headers(row).to_vec());
    }
    let error = Log(without).fold(&mut Fold::new(7)).err().unwrap();
    assert!(error.message.contains("follows part 2/"), "{error}");
    let mut fold = Fold::new(7);
    Log(whole.slice(0, 3)).fold(&mut fold).unwrap();
    assert!(fold.unfinished());
}

/// All parts of a checkpoint; `None`: there is none of use.
fn load(checkpoints: &Checkpoints, task: &str, store: &str) -> Option<(Checkpoint, Vec<RecordBatch>)> {
    let reading = checkpoints.read(task, store).unwrap()?;
    let mut rows = Vec::new();
    for part in 0..reading.checkpoint.parts {
        rows.extend(reading.part(part).unwrap()?);
    }
    Some((reading.checkpoint.clone(), rows))
}

#[test]
fn a_checkpoint_is_replaced_whole_and_survives_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path(), 1 << 20).unwrap();
    assert!(load(&checkpoints, "t0", "agg").is_none());
    checkpoints.save("t0", "agg", &record(1, 0), NextOffset(11), [rows(0..10), rows(10..20)].map(Ok)).unwrap();
    checkpoints.save("t0", "agg2", &record(4, 3), NextOffset(44), [rows([99])].map(Ok)).unwrap();
    checkpoints.save("t0", "agg", &record(2, 1), NextOffset(22), [rows(5..8)].map(Ok)).unwrap();
    checkpoints.save("t1", "agg", &record(3, 2), NextOffset(33), []).unwrap();
    let error = Checkpoints::open(folder.path(), 1 << 20).err().expect("one process at a time");
    assert_eq!(error.kind, Kind::Config, "{error}");
    drop(checkpoints);

    let checkpoints = Checkpoints::open(folder.path(), 1 << 20).unwrap();
    let (found, image) = load(&checkpoints, "t0", "agg").unwrap();
    assert_eq!((found.commit, found.changelog, image), (record(2, 1), NextOffset(22), vec![rows(5..8)]));
    let (other, image) = load(&checkpoints, "t0", "agg2").unwrap();
    assert_eq!((other.changelog, image), (NextOffset(44), vec![rows([99])]));
    assert!(load(&checkpoints, "t1", "agg").unwrap().1.is_empty());
    checkpoints.remove("t0", "agg").unwrap();
    assert!(load(&checkpoints, "t0", "agg").is_none());
    assert!(load(&checkpoints, "t0", "agg2").is_some());
}

#[test]
fn deltas_are_added_behind_an_image_and_those_of_a_process_that_died_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path(), 1 << 20).unwrap();
    checkpoints.append("t0", "agg", &record(1, 0), NextOffset(11), &[rows([1])]).unwrap();
    assert!(load(&checkpoints, "t0", "agg").is_none(), "without an image a delta is not all there is");
    checkpoints.save("t0", "agg", &record(1, 0), NextOffset(11), [rows(0..10)].map(Ok)).unwrap();
    checkpoints.append("t0", "agg", &record(2, 1), NextOffset(22), &[rows([3]), rows([4, 5])]).unwrap();
    checkpoints.append("t0", "agg", &record(3, 2), NextOffset(33), &[]).unwrap();
    let deltas = [rows(0..10), rows([3]), rows([4, 5])];
    let (found, parts) = load(&checkpoints, "t0", "agg").unwrap();
    assert_eq!((found.commit, found.changelog, &parts[..]), (record(3, 2), NextOffset(33), &deltas[..]));
    assert_eq!((found.image_rows, found.delta_rows), (10, 3));
    let parts = found.parts;
    drop(checkpoints);

    // It had written a part, and not made it valid.
    let db = opened(folder.path());
    let (key, value) = db.scan_prefix("part").last().unwrap().unwrap();
    let (head, part) = key.split_at(key.len() - 4);
    assert_eq!(part, (parts - 1).to_be_bytes());
    db.insert([head, &parts.to_be_bytes()].concat(), &b"half of it"[..]).unwrap();
    db.insert([head, &(parts + 1).to_be_bytes()].concat(), value).unwrap();
    db.flush().unwrap();
    drop(db);
    let checkpoints = Checkpoints::open(folder.path(), 1 << 20).unwrap();
    assert_eq!(load(&checkpoints, "t0", "agg").unwrap().1, deltas);
    checkpoints.append("t0", "agg", &record(4, 3), NextOffset(44), &[rows([6])]).unwrap();
    let (found, parts) = load(&checkpoints, "t0", "agg").unwrap();
    assert_eq!((found.commit.number, parts.len(), &parts[3]), (4, 4, &rows([6])));
}

#[test]
fn a_damaged_checkpoint_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path(), 1 << 20).unwrap();
    checkpoints.save("t0", "agg", &record(1, 0), NextOffset(11), [rows(0..10)].map(Ok)).unwrap();
    drop(checkpoints);
    for damaged in ["part", "current"] {
        let db = opened(folder.path());
        let (key, value) = db.scan_prefix(damaged).next().unwrap().unwrap();
        let mut bytes = value.to_vec();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        db.insert(&key, bytes).unwrap();
        db.flush().unwrap();
        drop(db);
        let checkpoints = Checkpoints::open(folder.path(), 1 << 20).unwrap();
        assert!(load(&checkpoints, "t0", "agg").is_none(), "{damaged}");
        checkpoints.save("t0", "agg", &record(2, 1), NextOffset(22), [rows(0..10)].map(Ok)).unwrap();
        assert_eq!(load(&checkpoints, "t0", "agg").unwrap().0.commit.number, 2);
    }
    let db = opened(folder.path());
    db.insert("format", &[0, 0, 0, 9]).unwrap();
    drop(db);
    assert_eq!(Checkpoints::open(folder.path(), 1 << 20).err().unwrap().kind, Kind::Config);
}

/// Once the one that was dropped has let go of its lock.
fn opened(path: &std::path::Path) -> sled::Db {
    let mut tries = 0;
    loop {
        match sled::open(path) {
            Ok(db) => return db,
            Err(error) if tries == 100 => panic!("{error}"),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
        tries += 1;
    }
}
