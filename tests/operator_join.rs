//! The join AS OF at its border, and against a naive model under any interleaving, commits, failures and restores.

mod operator_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_expr::Operator as Op;
use operator_support::changelog::Changelog;
use operator_support::*;
use proptest::prelude::*;
use tidemill::error::Kind;
use tidemill::operator::temporal_join::{BeforeFirst, JoinKind, Meets, TemporalJoin, TemporalJoinSpec};
use tidemill::operator::{Operator, Output};
use tidemill::record::{Batch, Partition};
use tidemill::store::Store;
use tidemill::watermark::{PartitionWatermark, Watermark};

fn left() -> SchemaRef {
    schema(&[("k", DataType::Utf8), ("v", DataType::Int64)])
}

/// The key is not the first column, and the last one is not joined.
fn right() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("w", DataType::Int64, true),
        Field::new("id", DataType::Utf8, false),
        Field::new("unused", DataType::Int64, true),
    ]))
}

fn joined() -> SchemaRef {
    schema(&[("k", DataType::Utf8), ("v", DataType::Int64), ("id", DataType::Utf8), ("w", DataType::Int64)])
}

fn spec(kind: JoinKind, before_first: BeforeFirst, filtered: bool) -> TemporalJoinSpec {
    let schema = joined();
    TemporalJoinSpec {
        left: left(),
        right: right(),
        left_keys: vec![col(&left(), "k")],
        right_keys: vec![1],
        right_columns: vec![1, 0],
        kind,
        meets: Meets::AsOf(before_first),
        ordered: true,
        filter: filtered.then(|| op(op(col(&schema, "v"), Op::Divide, col(&schema, "w")), Op::GtEq, lit(1i64))),
        schema,
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    time: i64,
    key: Option<&'static str>,
    value: i64,
    /// Of the table.
    tombstone: bool,
}

const DERIVED: usize = 2;
const TABLE: usize = 3;
const SENDERS: usize = 5;

/// Two partitions of the stream, derived rows, two partitions of the table.
type Logs = Vec<Vec<Row>>;

fn delay(sender: usize) -> i64 {
    [3, 6, 0, 2, 5][sender]
}

fn row_batch(sender: usize, given: &[Row], first: i64, watermark: &mut PartitionWatermark) -> Batch {
    let keys: StringArray = given.iter().map(|r| r.key).collect();
    let values: Int64Array = given.iter().map(|r| Some(r.value)).collect();
    let event_times = Int64Array::from_iter_values(given.iter().map(|r| r.time));
    let row_watermarks = watermark.observe(&event_times);
    let derived = sender == DERIVED;
    let count = given.len();
    let rows = match sender < TABLE {
        true => rows(&left(), vec![column(keys), column(values)]),
        false => {
            let given_values: BooleanArray = given.iter().map(|r| Some(!r.tombstone)).collect();
            let values = arrow::compute::nullif(&values, &arrow::compute::not(&given_values).unwrap()).unwrap();
            rows(&right(), vec![values, column(keys), column(Int64Array::from_value(7, count))])
        }
    };
    let weights: Vec<i8> = given.iter().map(|r| if r.tombstone { -1 } else { 1 }).collect();
    Batch {
        rows,
        source: u16::from(sender >= TABLE),
        partition: Partition(match sender {
            DERIVED => 0,
            s if s >= TABLE => (s - TABLE) as i32,
            s => s as i32,
        }),
        offsets: if derived {
            Int64Array::from_value(0, count)
        } else {
            Int64Array::from_iter_values(first..first + count as i64)
        },
        row_watermarks: if derived { Int64Array::from_value(i64::MIN, count) } else { row_watermarks },
        event_times,
        weights: (sender >= TABLE).then(|| weights.into()),
        derived,
    }
}

/// What is emitted: position and values.
fn join_lines(batches: &[Batch]) -> Vec<String> {
    let mut found = Vec::new();
    for batch in batches {
        assert!(batch.weights.is_none());
        for row in 0..batch.num_rows() {
            let (time, offset) = (batch.event_times.value(row), batch.offsets.value(row));
            let values: Vec<String> = batch.rows.columns().iter().map(|c| value(c, row)).collect();
            let origin = format!("{} {}/{} {}", batch.derived, batch.source, batch.partition, batch.row_watermarks.value(row));
            found.push(format!("{time} {origin} {offset}: {}", values.join(" ")));
        }
    }
    found
}

#[derive(Debug, Default, PartialEq)]
struct Told {
    emitted: Vec<String>,
    late: Vec<(i32, i64)>,
    failed: Vec<String>,
}

/// Sorts everything first.
fn naive(logs: &Logs, spec: &TemporalJoinSpec) -> Told {
    #[derive(Clone, Copy)]
    struct Version {
        order: (i64, i64),
        row_watermark: i64,
        value: Option<i64>,
    }
    let mut versions: BTreeMap<&str, Vec<Version>> = BTreeMap::new();
    for (sender, log) in logs.iter().enumerate().skip(TABLE) {
        let mut watermark = i64::MIN;
        for (offset, row) in log.iter().enumerate() {
            let order = (row.time.max(watermark), offset as i64);
            let value = (!row.tombstone).then_some(row.value);
            versions.entry(row.key.unwrap()).or_default().push(Version { order, row_watermark: watermark, value });
            watermark = watermark.max(row.time - delay(sender));
        }
    }
    versions.values_mut().for_each(|versions| versions.sort_by_key(|v| v.order));

    let mut told = Told::default();
    let mut placed = Vec::new();
    for (sender, log) in logs.iter().enumerate().take(TABLE) {
        let mut watermark = i64::MIN;
        for (offset, row) in log.iter().enumerate() {
            let derived = sender == DERIVED;
            if !derived && row.time < watermark {
                told.late.push((sender as i32, offset as i64));
            } else {
                let partition = if derived { 0 } else { sender as i32 };
                let offset = if derived { 0 } else { offset as i64 };
                let ties = if derived { (row.key, row.value) } else { (None, 0) };
                placed.push(((row.time, derived, partition, offset, ties), if derived { i64::MIN } else { watermark }, *row));
            }
            watermark = watermark.max(row.time - delay(sender));
        }
    }
    placed.sort_by_key(|(order, _, _)| *order);
    for ((time, derived, partition, offset, _), watermark, row) in placed {
        let known = row.key.and_then(|key| versions.get(key)).map_or(&[][..], |v| v);
        let joins = match known.iter().rev().find(|v| v.order.0 <= time) {
            Some(version) => version.value,
            None if spec.meets == Meets::AsOf(BeforeFirst::FirstKnown) => {
                known.iter().find(|v| v.row_watermark <= time).and_then(|v| v.value)
            }
            None => None,
        };
        let values = format!("{} {}", row.key.unwrap_or("NULL"), row.value);
        let joins = match joins {
            Some(0) if spec.filter.is_some() => {
                told.failed.push(if derived { values } else { format!("{partition}/{offset}") });
                continue;
            }
            Some(w) if spec.filter.is_some() && row.value / w < 1 => None,
            found => found,
        };
        if joins.is_none() && spec.kind == JoinKind::Inner {
            continue;
        }
        let version = joins.map_or("NULL NULL".to_owned(), |w| format!("{} {w}", row.key.unwrap()));
        told.emitted.push(format!("{time} {derived} 0/{partition} {watermark} {offset}: {values} {version}"));
    }
    told.late.sort();
    told.failed.sort();
    told
}

#[derive(Clone)]
struct Position {
    at: Vec<usize>,
    watermarks: Vec<PartitionWatermark>,
    edge: Watermark,
    told: (usize, usize, usize),
}

struct Task {
    spec: TemporalJoinSpec,
    join: TemporalJoin,
    now: Position,
    committed: Position,
    told: Told,
    changelog: Changelog,
}

impl Task {
    fn new(spec: TemporalJoinSpec) -> Task {
        let watermarks = (0..SENDERS).map(|sender| PartitionWatermark::new(delay(sender))).collect();
        let start = Position { at: vec![0; SENDERS], watermarks, edge: Watermark::MIN, told: (0, 0, 0) };
        Task {
            join: TemporalJoin::new(spec.clone()).unwrap(),
            spec,
            now: start.clone(),
            committed: start,
            told: Told::default(),
            changelog: Changelog::default(),
        }
    }

    fn note(&mut self, out: Output) {
        self.told.emitted.extend(join_lines(&out.batches));
        self.told.late.extend(out.late.iter().map(|late| (late.partition.0, late.offset.0)));
        for rejected in &out.rejected {
            assert_eq!((rejected.class.as_str(), rejected.message.as_str()), ("expression", "division by zero"));
            self.told.failed.push(format!("{}/{}", rejected.partition, rejected.offset));
        }
        for withdrawn in &out.withdrawn {
            let row: serde_json::Value = serde_json::from_str(&withdrawn.key).unwrap();
            self.told.failed.push(format!("{} {}", row["k"].as_str().unwrap_or("NULL"), row["v"]));
        }
    }

    fn push(&mut self, logs: &Logs, sender: usize, count: usize) {
        let (from, log) = (self.now.at[sender], &logs[sender]);
        let to = log.len().min(from + count);
        self.now.at[sender] = to;
        let batch = row_batch(sender, &log[from..to], from as i64, &mut self.now.watermarks[sender]);
        let mut out = Output::default();
        self.join.push(usize::from(sender >= TABLE), batch, &mut out).unwrap();
        assert!(out.batches.is_empty(), "rows are released by the edge alone");
        self.note(out);
    }

    /// With room for so many rows at a time.
    fn advance(&mut self, edge: Watermark, room: Option<usize>) {
        loop {
            let mut out = Output { room, ..Output::default() };
            let output = self.join.advance(edge, &mut out).unwrap();
            assert_eq!(output, edge);
            assert!(out.batches.iter().all(|b| b.event_times.values().iter().all(|time| *time < edge.0)));
            assert!(self.spec.ordered || room.is_some() || out.batches.len() <= TABLE, "one batch per origin");
            let (made, more) = (out.batches.iter().map(Batch::num_rows).sum::<usize>(), out.more);
            assert!(room.is_none_or(|room| made <= room && (!more || made == room)), "{made} rows, room for {room:?}");
            self.note(out);
            if !more {
                break;
            }
        }
        self.now.edge = edge;
    }

    fn edge(&self) -> Watermark {
        self.now.watermarks.iter().map(PartitionWatermark::current).min().unwrap()
    }

    fn commit(&mut self, slice: usize) {
        self.changelog.commit(&mut self.join, self.now.edge, slice);
        self.now.told = (self.told.emitted.len(), self.told.late.len(), self.told.failed.len());
        self.committed = self.now.clone();
    }

    fn back(&mut self) {
        self.now = self.committed.clone();
        self.told.emitted.truncate(self.now.told.0);
        self.told.late.truncate(self.now.told.1);
        self.told.failed.truncate(self.now.told.2);
    }

    fn crash(&mut self, from_image: bool) {
        if from_image {
            self.join.undo();
            let image = self.join.image(3).unwrap();
            let rows: usize = image.iter().map(|rows| rows.num_rows()).sum();
            assert_eq!(rows, self.join.len());
            self.join = TemporalJoin::new(self.spec.clone()).unwrap();
            self.changelog.restore_image(&image, &mut self.join);
            // On disk there may be versions that the edge has passed.
            assert!(self.join.len() <= rows);
        } else {
            self.join.clear();
            self.changelog.restore(&mut self.join);
        }
        self.back();
        // The task tells the edge of the last commit again: nothing is emitted twice.
        let mut out = Output::default();
        self.join.advance(self.now.edge, &mut out).unwrap();
        assert!(out.batches.is_empty());
    }

    fn end(mut self, logs: &Logs) -> Told {
        for sender in [3, 0, 4, 2, 1] {
            self.push(logs, sender, usize::MAX / 2);
        }
        self.advance(Watermark::MAX, None);
        assert_eq!(self.join.waiting(), 0);
        self.commit(1);
        // A whole round of the rolling snapshot comes by all that is on disk.
        for _ in 0..2 {
            while !self.join.slice(3).unwrap().wrapped {}
        }
        // Of each key at most the newest version is left.
        assert!(self.join.len() <= KEYS.len());
        self.told.late.sort();
        self.told.failed.sort();
        self.told
    }
}

const KEYS: [&str; 4] = ["a", "b", "", "dddddddddddddddddddddd"];

#[derive(Clone, Debug)]
enum Step {
    Push(usize, usize),
    Advance(Option<usize>),
    Commit(usize),
    Fail,
    Crash(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..SENDERS, 1..9usize).prop_map(|(sender, count)| Step::Push(sender, count)),
        5 => prop::option::of(1..6usize).prop_map(Step::Advance),
        3 => (0..6usize).prop_map(Step::Commit),
        1 => Just(Step::Fail),
        1 => any::<bool>().prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 0..120)
}

fn logs() -> impl Strategy<Value = Logs> {
    let row = (-6..6i64, 0..9usize, 0..6i64, prop::bool::weighted(0.25), 1..4i64);
    let log = prop::collection::vec(row, 0..50);
    prop::collection::vec(log, SENDERS).prop_map(|logs| {
        let row = |sender: usize, base: i64, (jitter, key, value, tombstone, _): (i64, usize, i64, bool, i64)| Row {
            time: base + jitter,
            // A key of the table lives in one partition; the stream has keys that the table has not, and NULLs.
            key: match sender {
                3 => Some(KEYS[key % 2]),
                4 => Some(KEYS[2 + key % 2]),
                _ => [None, Some("none")].get(key).copied().unwrap_or(Some(KEYS[key % 4])),
            },
            value,
            tombstone: sender >= TABLE && tombstone,
        };
        let log = |(sender, given): (usize, Vec<_>)| {
            let mut base = -20;
            let mut log: Vec<Row> = given
                .into_iter()
                .map(|given: (i64, usize, i64, bool, i64)| {
                    base += given.4 - 1;
                    row(sender, base, given)
                })
                .collect();
            if sender == DERIVED {
                log.sort_by_key(|row| row.time);
            }
            log
        };
        logs.into_iter().enumerate().map(log).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_row_joins_the_same_version_whatever_the_interleaving(logs in logs(), steps in steps(), left in any::<bool>(), first in any::<bool>(), filtered in any::<bool>(), ordered in any::<bool>()) {
        let kind = if left { JoinKind::Left } else { JoinKind::Inner };
        let before_first = if first { BeforeFirst::FirstKnown } else { BeforeFirst::None };
        let spec = TemporalJoinSpec { ordered, ..spec(kind, before_first, filtered) };
        let mut task = Task::new(spec.clone());
        for step in steps {
            match step {
                Step::Push(sender, count) => task.push(&logs, sender, count),
                Step::Advance(room) => task.advance(task.edge(), room),
                Step::Commit(slice) => task.commit(slice),
                Step::Fail => { task.join.undo(); task.back() }
                Step::Crash(from_image) => task.crash(from_image),
            }
        }
        let (mut found, mut expected) = (task.end(&logs), naive(&logs, &spec));
        if !ordered {
            found.emitted.sort();
            expected.emitted.sort();
        }
        prop_assert_eq!(found, expected);
    }
}

fn table_row(time: i64, key: &'static str, value: i64) -> Row {
    Row { time, key: Some(key), value, tombstone: false }
}

#[test]
fn memory_of_the_table_is_bounded_by_its_keys() {
    let mut join = TemporalJoin::new(spec(JoinKind::Inner, BeforeFirst::None, false)).unwrap();
    let mut watermark = PartitionWatermark::new(0);
    let mut sizes = Vec::new();
    let mut changelog = Changelog::default();
    for round in 0..200i64 {
        // New keys come and go with every round, one stays.
        let mut given = vec![table_row(round * 10, "stays", round)];
        let names: Vec<&'static str> = (0..50).map(|n| &*format!("{round}-{n}").leak()).collect();
        given.extend(names.iter().map(|name| table_row(round * 10, name, 1)));
        given.extend(names.iter().map(|name| Row { time: round * 10 + 1, key: Some(name), value: 0, tombstone: true }));
        join.push(1, row_batch(3, &given, round * 1000, &mut watermark), &mut Output::default()).unwrap();
        join.advance(watermark.current(), &mut Output::default()).unwrap();
        changelog.commit(&mut join, watermark.current(), 100);
        assert_eq!(join.len(), 1);
        sizes.push(join.size());
    }
    assert!(sizes[199] < 3 * sizes[30], "{sizes:?}");
    assert!(changelog.deleted > 0);
    let mut restored = TemporalJoin::new(spec(JoinKind::Inner, BeforeFirst::None, false)).unwrap();
    changelog.restore(&mut restored);
    assert_eq!(restored.len(), 1);
}

/// A stream of many rows, some of one time, and many derived rows of one place, in pieces; `spills` after each.
fn released(spills: bool, ordered: bool) -> (Vec<String>, usize) {
    let mut join = TemporalJoin::new(TemporalJoinSpec { ordered, ..spec(JoinKind::Left, BeforeFirst::None, false) }).unwrap();
    let mut changelog = Changelog::default();
    let mut watermarks: Vec<PartitionWatermark> = (0..SENDERS).map(|_| PartitionWatermark::new(1_000_000)).collect();
    let given = [table_row(2_000, "a", 10), table_row(9_000, "a", 20)];
    join.push(1, row_batch(3, &given, 0, &mut watermarks[3]), &mut Output::default()).unwrap();
    let mut most = 0;
    for piece in 0..6i64 {
        let row = |n: i64| Row { time: (n * 7 + piece) % 10_000, key: Some(KEYS[n as usize % 2]), value: n, tombstone: false };
        for sender in [0, 1] {
            let given: Vec<Row> = (0..5_000).map(row).collect();
            let batch = row_batch(sender, &given, piece * 5_000, &mut watermarks[sender]);
            join.push(0, batch, &mut Output::default()).unwrap();
        }
        let derived: Vec<Row> = (0..7_000).map(|n| Row { time: 5_000, ..row((n * 13 + piece * 3) % 7_000) }).collect();
        join.push(0, row_batch(DERIVED, &derived, 0, &mut watermarks[DERIVED]), &mut Output::default()).unwrap();
        changelog.commit(&mut join, Watermark::MIN, if spills { 1 } else { 0 });
        most = most.max(join.waiting_on_disk());
    }
    let (size, mut out) = (join.size(), Output::default());
    for edge in [3_000, 5_000, 5_001, i64::MAX] {
        out.room = Some(3_000);
        loop {
            out.more = false;
            let before = out.batches.iter().map(Batch::num_rows).sum::<usize>();
            join.advance(Watermark(edge), &mut out).unwrap();
            let made = out.batches.iter().map(Batch::num_rows).sum::<usize>() - before;
            assert!(made <= 3_000, "a part at a time");
            if !out.more {
                break;
            }
        }
    }
    assert_eq!((join.waiting(), join.waiting_on_disk()), (0, 0));
    assert!(!spills || size < 4 * most, "{size} bytes for {most} rows on disk");
    (join_lines(&out.batches), most)
}

#[test]
fn a_backlog_on_disk_is_released_as_one_in_memory() {
    for ordered in [true, false] {
        let ((mut in_memory, none), (mut on_disk, most)) = (released(false, ordered), released(true, ordered));
        assert_eq!((none, most, in_memory.len()), (0, 102_000, 102_000));
        if !ordered {
            // Where parts end is not the same.
            in_memory.sort();
            on_disk.sort();
        }
        assert!(in_memory == on_disk, "the same rows in the same order");
    }
}

#[test]
fn a_join_may_take_nothing_from_the_table() {
    let spec = TemporalJoinSpec { right_columns: vec![], schema: left(), ..spec(JoinKind::Inner, BeforeFirst::None, false) };
    let mut join = TemporalJoin::new(spec.clone()).unwrap();
    let mut watermark = PartitionWatermark::new(0);
    let given = [table_row(1, "a", 1), table_row(1, "b", 1), Row { tombstone: true, ..table_row(1, "b", 1) }];
    join.push(1, row_batch(3, &given, 0, &mut watermark), &mut Output::default()).unwrap();
    let mut watermark = PartitionWatermark::new(5);
    let given = [table_row(3, "b", 10), table_row(2, "a", 20), table_row(1, "a", 30)];
    join.push(0, row_batch(0, &given, 0, &mut watermark), &mut Output::default()).unwrap();
    let delta = join.delta().unwrap().unwrap();
    join.keep();
    for mut join in [join, TemporalJoin::new(spec).unwrap()] {
        join.apply(&delta).unwrap();
        let mut out = Output::default();
        join.advance(Watermark(100), &mut out).unwrap();
        assert_eq!(lines(&out.batches), ["a 30", "a 20"]);
    }
}

#[test]
fn a_key_that_cannot_be_computed_rejects_its_row_when_it_comes() {
    let input = schema(&[("n", DataType::Int64), ("d", DataType::Int64)]);
    let table = schema(&[("id", DataType::Int64), ("w", DataType::Int64)]);
    let output = schema(&[("n", DataType::Int64), ("d", DataType::Int64), ("w", DataType::Int64)]);
    let spec = TemporalJoinSpec {
        left_keys: vec![op(col(&input, "n"), Op::Divide, col(&input, "d"))],
        left: input.clone(),
        right: table.clone(),
        right_keys: vec![0],
        right_columns: vec![1],
        kind: JoinKind::Left,
        meets: Meets::AsOf(BeforeFirst::None),
        ordered: true,
        filter: None,
        schema: output,
    };
    let mut join = TemporalJoin::new(spec.clone()).unwrap();
    let mut out = Output::default();
    let versions = rows(&table, vec![column(Int64Array::from(vec![3, 4])), column(Int64Array::from(vec![30, 40]))]);
    join.push(1, batch(versions), &mut out).unwrap();
    let given = vec![column(Int64Array::from(vec![6, 1, 8])), column(Int64Array::from(vec![2, 0, 2]))];
    join.push(0, batch(rows(&input, given)), &mut out).unwrap();
    assert_eq!(rejected(&out), ["1 expression division by zero"]);
    join.advance(Watermark(0), &mut out).unwrap();
    assert!(out.batches.is_empty(), "the edge is not above the rows' time yet");
    join.advance(Watermark(1), &mut out).unwrap();
    assert_eq!(lines(&out.batches), ["6 2 30", "8 2 40"]);
    assert_eq!(out.batches[0].offsets.values().to_vec(), [0, 2]);

    // What does not fit is refused.
    let wrong = TemporalJoinSpec { right_keys: vec![], ..spec.clone() };
    assert_eq!(TemporalJoin::new(wrong).err().unwrap().kind, Kind::Failed);
    let fields = vec![
        Field::new("n", DataType::Int64, true),
        Field::new("d", DataType::Int64, true),
        Field::new("w", DataType::Int64, false),
    ];
    let wrong = TemporalJoinSpec { schema: Arc::new(Schema::new(fields)), ..spec };
    assert_eq!(
        TemporalJoin::new(wrong).err().unwrap().message,
        "a left join gives NULLs, but a column of the table may not be null"
    );
    assert_eq!(join.apply(&arrow::array::RecordBatch::new_empty(left())).unwrap_err().kind, Kind::Corrupt);
}
