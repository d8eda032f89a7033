//! Aggregates at their border, and against a naive model under any split into commits, failures and restores.

mod operator_support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimestampMillisecondType};
use datafusion_expr::Operator as Op;
use operator_support::changelog::spill;
use operator_support::*;
use proptest::prelude::*;
use tidemill::error::Kind;
use tidemill::operator::aggregate::{Aggregate, AggregateCall, AggregateSpec, Function, Group, Phase, WindowColumn};
use tidemill::operator::assign::{Assign, AssignSpec};
use tidemill::operator::consolidate::{Consolidate, ConsolidateSpec};
use tidemill::operator::{Operator, Output};
use tidemill::record::{Batch, Partition, Timestamp};
use tidemill::store::Store;
use tidemill::watermark::{PartitionWatermark, Watermark};

/// Columns before windows are assigned.
fn source() -> SchemaRef {
    schema(&[("t", millis()), ("k", DataType::Utf8), ("a", DataType::Int64), ("d", DataType::Float64)])
}

fn with_windows() -> SchemaRef {
    let mut fields: Vec<_> = source().fields().iter().cloned().collect();
    fields.extend(["window_start", "window_end", "window_time"].map(|name| field(name, millis())));
    Arc::new(arrow::datatypes::Schema::new(fields))
}

fn call(function: Function, args: Vec<Expr>, output: DataType) -> AggregateCall {
    AggregateCall { output: field(function.name(), output), function, args, distinct: false, filter: None }
}

fn spec(input: SchemaRef, windowed: bool, order_free: bool, calls: Vec<AggregateCall>) -> AggregateSpec {
    let mut groups = Vec::new();
    let mut fields = Vec::new();
    if windowed {
        groups.push(Group::WindowStart);
        fields.push(field("window_start", millis()));
    }
    groups.push(Group::Expression(col(&input, "k")));
    fields.push(field("k", DataType::Utf8));
    fields.extend(calls.iter().map(|call| call.output.clone()));
    let window = windowed.then_some(WindowColumn { column: 5, is_start: false, size_micros: SIZE_MS * 1000 });
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    AggregateSpec { input, window, groups, calls, schema, order_free, retracts: order_free, phase: Phase::Complete }
}

const SIZE_MS: i64 = 10;
const SLIDE_MS: i64 = 4;
const DELAY_MS: i64 = 3;

type Row = (i64, Option<&'static str>, Option<i64>, f64);

fn source_rows(given: &[Row]) -> RecordBatch {
    let times: TimestampMillisecondArray = given.iter().map(|r| Some(r.0)).collect();
    let keys: StringArray = given.iter().map(|r| r.1).collect();
    let numbers: Int64Array = given.iter().map(|r| r.2).collect();
    let doubles: Float64Array = given.iter().map(|r| Some(r.3)).collect();
    rows(&source(), vec![column(times.with_timezone("+00:00")), column(keys), column(numbers), column(doubles)])
}

/// Rows with row watermarks at offsets from `first`.
fn arrived(given: &[Row], first: i64, watermark: &mut PartitionWatermark) -> Batch {
    let event_times = Int64Array::from_iter_values(given.iter().map(|r| r.0 * 1000));
    Batch {
        rows: source_rows(given),
        source: 0,
        partition: Partition(2),
        offsets: Int64Array::from_iter_values(first..first + given.len() as i64),
        row_watermarks: watermark.observe(&event_times),
        event_times,
        weights: None,
        derived: false,
    }
}

fn assigned(batch: Batch) -> Option<Batch> {
    let (size_micros, slide_micros) = (SIZE_MS * 1000, SLIDE_MS * 1000);
    let spec = AssignSpec { time_column: 0, size_micros, slide_micros, offset_micros: 0, schema: with_windows() };
    let mut out = Output::default();
    Assign::new(spec).unwrap().push(0, batch, &mut out).unwrap();
    out.batches.pop()
}

fn all_calls(input: &SchemaRef) -> Vec<AggregateCall> {
    let (a, d, k) = (col(input, "a"), col(input, "d"), col(input, "k"));
    let mut calls = vec![
        call(Function::Count, vec![], DataType::Int64),
        call(Function::Count, vec![a.clone()], DataType::Int64),
        call(Function::Count, vec![a.clone()], DataType::Int64),
        call(Function::Sum, vec![a.clone()], DataType::Int64),
        call(Function::Sum, vec![d.clone()], DataType::Float64),
        call(Function::Min, vec![a.clone()], DataType::Int64),
        call(Function::Max, vec![d.clone()], DataType::Float64),
        call(Function::Avg, vec![a.clone()], DataType::Int64),
        call(Function::StddevSamp, vec![d.clone()], DataType::Float64),
        call(Function::FirstValue, vec![a.clone()], DataType::Int64),
        call(Function::LastValue, vec![a.clone()], DataType::Int64),
        call(Function::Max, vec![k], DataType::Utf8),
        call(Function::Sum, vec![op(a.clone(), Op::Plus, lit(1i64))], DataType::Int64),
        call(Function::BoolOr, vec![op(a.clone(), Op::Gt, lit(3i64))], DataType::Boolean),
    ];
    calls[2].distinct = true;
    calls[12].filter = Some(op(a, Op::Gt, lit(0i64)));
    calls
}

/// What the calls above give, written down the simplest way. Rows in order of arrival, with offsets.
fn naive(rows: &[(i64, Row)], exact: bool) -> String {
    let numbers: Vec<i64> = rows.iter().filter_map(|(_, r)| r.2).collect();
    let doubles: Vec<f64> = rows.iter().map(|(_, r)| r.3).collect();
    let count = numbers.len() as i64;
    let or_null = |value: Option<String>| value.unwrap_or_else(|| "NULL".to_owned());
    let some = |value: i64| or_null((count > 0).then(|| value.to_string()));
    let double = |value: f64| value_of(&Float64Array::from(vec![value]));
    let mut placed: Vec<_> = rows.iter().filter(|(_, r)| r.2.is_some()).map(|(o, r)| ((r.0, *o), r.2.unwrap())).collect();
    placed.sort();
    let (mut mean, mut squares) = (0.0, 0.0);
    for (n, d) in doubles.iter().enumerate() {
        let before = d - mean;
        mean += before / (n + 1) as f64;
        squares += before * (d - mean);
    }
    assert!(!exact, "only the order of arrival is modelled");
    let positive: Vec<i64> = numbers.iter().copied().filter(|a| *a > 0).collect();
    [
        rows.len().to_string(),
        count.to_string(),
        numbers.iter().collect::<BTreeSet<_>>().len().to_string(),
        some(numbers.iter().sum()),
        double(doubles.iter().fold(0.0, |sum, d| sum + d)),
        some(numbers.iter().copied().min().unwrap_or(0)),
        double(doubles.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0)),
        some(numbers.iter().sum::<i64>() / count.max(1)),
        or_null((doubles.len() > 1).then(|| double((squares / (doubles.len() - 1) as f64).sqrt()))),
        or_null(placed.first().map(|(_, a)| a.to_string())),
        or_null(placed.last().map(|(_, a)| a.to_string())),
        or_null(rows[0].1.1.map(str::to_owned)),
        or_null((!positive.is_empty()).then(|| positive.iter().map(|a| a + 1).sum::<i64>().to_string())),
        or_null((count > 0).then(|| numbers.iter().any(|a| *a > 3).to_string())),
    ]
    .join(" ")
}

fn value_of(array: &Float64Array) -> String {
    value(&column(array.clone()), 0)
}

/// Lines "start key results" in the order of emission, and the offsets of late rows.
fn naive_windows(given: &[Row]) -> (Vec<String>, Vec<i64>) {
    let mut groups: BTreeMap<(i64, Option<&str>), Vec<(i64, Row)>> = BTreeMap::new();
    let mut late = Vec::new();
    let mut watermark = i64::MIN;
    for (offset, row) in given.iter().enumerate() {
        let starts: Vec<i64> =
            (-30..60).map(|n| n * SLIDE_MS).filter(|start| *start <= row.0 && row.0 < start + SIZE_MS).collect();
        let open: Vec<i64> = starts.into_iter().filter(|start| start + SIZE_MS > watermark).collect();
        if open.is_empty() {
            late.push(offset as i64);
        }
        for start in open {
            groups.entry((start, row.1)).or_default().push((offset as i64, *row));
        }
        watermark = watermark.max(row.0 - DELAY_MS);
    }
    let lines = groups.iter().map(|((start, key), rows)| format!("{start} {} {}", key.unwrap_or("NULL"), naive(rows, false)));
    (lines.collect(), late)
}

fn window_lines(batches: &[Batch]) -> Vec<String> {
    let mut found = Vec::new();
    for batch in batches {
        assert!(batch.derived && batch.weights.is_none());
        let starts = batch.rows.column(0).as_primitive::<TimestampMillisecondType>();
        for row in 0..batch.num_rows() {
            assert_eq!(
                batch.event_times.value(row),
                (starts.value(row) + SIZE_MS - 1) * 1000,
                "a result's time is its end - 1 ms"
            );
            let rest: Vec<String> = batch.rows.columns()[1..].iter().map(|c| value(c, row)).collect();
            found.push(format!("{} {}", starts.value(row), rest.join(" ")));
        }
    }
    found
}

/// A task over one partition: what has been committed, and what has not.
struct Task {
    aggregate: Aggregate,
    watermark: PartitionWatermark,
    at: usize,
    emitted: Vec<String>,
    late: Vec<i64>,
    /// As of the last commit.
    committed: (usize, Watermark, Watermark, usize, usize),
    /// Edge as told to the aggregate.
    edge: Watermark,
    changelog: Vec<(Vec<RecordBatch>, Watermark)>,
    /// Commit with which the round of the rolling snapshot began.
    round: usize,
    /// Commits deleted from the head of the changelog.
    deleted: usize,
}

impl Task {
    fn new() -> Task {
        Task {
            aggregate: windowed(),
            watermark: PartitionWatermark::new(DELAY_MS * 1000),
            at: 0,
            emitted: Vec::new(),
            late: Vec::new(),
            committed: (0, Watermark::MIN, Watermark::MIN, 0, 0),
            edge: Watermark::MIN,
            changelog: Vec::new(),
            round: 0,
            deleted: 0,
        }
    }

    fn push(&mut self, given: &[Row], count: usize) {
        let to = given.len().min(self.at + count);
        let batch = arrived(&given[self.at..to], self.at as i64, &mut self.watermark);
        self.at = to;
        let mut out = Output::default();
        if let Some(batch) = assigned(batch) {
            self.aggregate.push(0, batch, &mut out).unwrap();
        }
        self.late.extend(out.late.iter().map(|late| late.offset.0));
        assert!(out.batches.is_empty() && out.rejected.is_empty());
    }

    fn advance(&mut self, edge: Watermark) {
        // A step at a time, as where output is sent in between.
        loop {
            let mut out = Output { room: Some(1), ..Output::default() };
            let output = self.aggregate.advance(edge, &mut out).unwrap();
            assert!(output <= edge);
            self.emitted.extend(window_lines(&out.batches));
            if !out.more {
                break;
            }
        }
        self.edge = edge;
    }

    fn commit(&mut self, slice: usize, spills: bool) {
        let first = self.aggregate.delta().unwrap();
        assert_eq!(first, self.aggregate.delta().unwrap(), "asking again gives the same rows");
        let slice = self.aggregate.slice(slice).unwrap();
        self.changelog.push((first.into_iter().chain(slice.rows).collect(), self.edge));
        if slice.wrapped {
            self.deleted = self.round;
            self.round = self.changelog.len();
        }
        self.aggregate.keep();
        if spills {
            spill(&mut self.aggregate);
        }
        self.committed = (self.at, self.watermark.current(), self.edge, self.emitted.len(), self.late.len());
    }

    fn back(&mut self) {
        let (at, watermark, edge, emitted, late) = self.committed;
        self.at = at;
        self.watermark = PartitionWatermark::new(DELAY_MS * 1000);
        self.watermark.raise(watermark);
        self.edge = edge;
        self.emitted.truncate(emitted);
        self.late.truncate(late);
    }

    fn fail(&mut self) {
        self.aggregate.undo();
        self.back();
    }

    /// A fresh instance from what the changelog still holds.
    fn crash(&mut self, from_image: bool, spills: bool) {
        if from_image {
            self.fail();
            let image = self.aggregate.image(3).unwrap();
            assert_eq!(image.iter().map(RecordBatch::num_rows).sum::<usize>(), self.aggregate.len());
            self.aggregate = windowed();
            image.iter().for_each(|rows| self.aggregate.apply(rows).unwrap());
        } else {
            self.back();
            self.aggregate.clear();
            for (rows, edge) in &self.changelog[self.deleted..] {
                rows.iter().for_each(|rows| self.aggregate.apply(rows).unwrap());
                if spills {
                    spill(&mut self.aggregate);
                }
                self.aggregate.expire(*edge);
            }
        }
        self.aggregate.expire(self.edge);
        // The next round starts afresh with the new instance's cursor.
        self.round = self.changelog.len();
    }
}

fn windowed() -> Aggregate {
    let input = with_windows();
    Aggregate::new(spec(input.clone(), true, false, all_calls(&input))).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Advance,
    /// Rows of the snapshot's slice; whether the store spills then.
    Commit(usize, bool),
    Fail,
    /// From an image; whether the store spills on the way.
    Crash(bool, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..12usize).prop_map(Step::Push),
        3 => Just(Step::Advance),
        3 => (0..8usize, any::<bool>()).prop_map(|(slice, spills)| Step::Commit(slice, spills)),
        1 => Just(Step::Fail),
        1 => any::<(bool, bool)>().prop_map(|(image, spills)| Step::Crash(image, spills)),
    ];
    prop::collection::vec(step, 0..60)
}

fn some_rows() -> impl Strategy<Value = Vec<Row>> {
    let key = prop_oneof![
        Just(None),
        Just(Some("")),
        Just(Some("a")),
        Just(Some("b")),
        Just(Some("ccccccccccccccccccccccccccccccccc"))
    ];
    let row = (-8..8i64, key, prop::option::of(-5..9i64), prop_oneof![Just(0.1), Just(-3.3), Just(1e9), Just(0.0), Just(-0.0)]);
    prop::collection::vec(row, 0..80).prop_map(|rows| {
        // Time moves on by one millisecond per row, with disorder.
        rows.into_iter().enumerate().map(|(at, (jitter, key, a, d))| (at as i64 - 20 + jitter, key, a, d)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_do_not_depend_on_commits_failures_and_restores(given in some_rows(), steps in steps()) {
        let mut task = Task::new();
        for step in steps {
            match step {
                Step::Push(count) => task.push(&given, count),
                Step::Advance => task.advance(task.watermark.current()),
                Step::Commit(slice, spills) => task.commit(slice, spills),
                Step::Fail => task.fail(),
                Step::Crash(from_image, spills) => task.crash(from_image, spills),
            }
        }
        task.push(&given, given.len());
        task.advance(Watermark::MAX);
        let (expected, late) = naive_windows(&given);
        prop_assert_eq!(&task.emitted, &expected);
        prop_assert_eq!(&task.late, &late);
        prop_assert_eq!(task.aggregate.len(), 0);
    }
}

/// An updating aggregate into an upsert sink, with rows taken out again.
fn updating(order_free: bool) -> Aggregate {
    let input = source();
    let (a, d) = (col(&input, "a"), col(&input, "d"));
    let calls = vec![
        call(Function::Count, vec![], DataType::Int64),
        call(Function::Sum, vec![a.clone()], DataType::Int64),
        call(Function::Avg, vec![a], DataType::Float64),
        call(Function::Sum, vec![d.clone()], DataType::Float64),
        call(Function::VarPop, vec![d], DataType::Float64),
    ];
    Aggregate::new(spec(input, false, order_free, calls)).unwrap()
}

fn fold_table(table: &mut BTreeMap<String, String>, batches: &[Batch]) {
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values: Vec<String> = batch.rows.columns().iter().map(|c| value(c, row)).collect();
            let key = values[0].clone();
            if batch.weight(row) > 0 {
                table.insert(key, values.join(" "))
            } else {
                table.remove(&key)
            };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn updates_fold_to_one_table(given in some_rows(), cuts in prop::collection::vec((1..9usize, 0..4u8), 1..40), seed in any::<u64>()) {
        // Each row comes in, and about every third is taken out again later.
        let mut log: Vec<(Row, i8)> = Vec::new();
        for (at, row) in given.iter().enumerate() {
            log.push((*row, 1));
            if (seed >> (at % 60)) & 3 == 0 {
                let victim = log[(seed as usize).wrapping_mul(at + 1) % log.len()];
                let net: i64 = log.iter().filter(|(r, _)| format!("{r:?}") == format!("{:?}", victim.0)).map(|(_, w)| i64::from(*w)).sum();
                if net > 0 {
                    log.push((victim.0, -1));
                }
            }
        }
        let mut aggregate = updating(true);
        let mut consolidate = Consolidate::new(ConsolidateSpec { key_columns: vec![0], bare: false });
        let mut table = BTreeMap::new();
        let mut changelog: Vec<RecordBatch> = Vec::new();
        let (mut at, mut committed) = (0, 0);
        for (count, end) in cuts.iter().cycle().take(400) {
            let to = log.len().min(at + count);
            let rows: Vec<Row> = log[at..to].iter().map(|(row, _)| *row).collect();
            let weights: Vec<i8> = log[at..to].iter().map(|(_, w)| *w).collect();
            at = to;
            let mut out = Output::default();
            aggregate.push(0, weighted(batch(source_rows(&rows)), &weights), &mut out).unwrap();
            if *end == 0 {
                continue;
            }
            aggregate.flush(&mut out).unwrap();
            for changes in out.batches.drain(..).collect::<Vec<_>>() {
                consolidate.push(0, changes, &mut out).unwrap();
            }
            consolidate.flush(&mut out).unwrap();
            let delta = aggregate.delta().unwrap();
            match end {
                1 => {
                    aggregate.undo();
                    at = committed;
                }
                _ => {
                    fold_table(&mut table, &out.batches);
                    changelog.extend(delta);
                    aggregate.keep();
                    committed = at;
                    if *end == 3 {
                        aggregate = updating(true);
                        for rows in &changelog {
                            aggregate.apply(rows).unwrap();
                            if seed & 1 == 1 {
                                spill(&mut aggregate);
                            }
                        }
                    }
                    if (seed >> (at % 50)) & 3 == 1 {
                        spill(&mut aggregate);
                    }
                }
            }
        }
        let mut out = Output::default();
        aggregate.push(0, weighted(batch(source_rows(&log[at..].iter().map(|l| l.0).collect::<Vec<_>>())), &log[at..].iter().map(|l| l.1).collect::<Vec<_>>()), &mut out).unwrap();
        aggregate.flush(&mut out).unwrap();
        fold_table(&mut table, &out.batches);

        // One pass, the rows that are left, in another order.
        let mut left: Vec<Row> = Vec::new();
        for (row, weight) in &log {
            match weight {
                1 => left.push(*row),
                _ => {
                    let found = left.iter().position(|r| format!("{r:?}") == format!("{row:?}")).unwrap();
                    left.remove(found);
                }
            }
        }
        left.reverse();
        let mut single = updating(true);
        let mut out = Output::default();
        single.push(0, batch(source_rows(&left)), &mut out).unwrap();
        single.flush(&mut out).unwrap();
        let mut expected = BTreeMap::new();
        fold_table(&mut expected, &out.batches);
        prop_assert_eq!(&table, &expected);
        prop_assert_eq!(aggregate.len(), expected.len());
    }
}

#[test]
fn an_updating_aggregate_tells_the_old_row_and_the_new() {
    let mut aggregate = updating(false);
    let mut out = Output::default();
    let given = [(5, Some("x"), Some(4), 1.0), (7, Some("y"), None, 2.0), (3, Some("x"), Some(2), 3.0)];
    aggregate.push(0, batch(source_rows(&given)), &mut out).unwrap();
    aggregate.flush(&mut out).unwrap();
    assert_eq!(lines(&out.batches), ["+1 x 2 6 3.0 4.0 1.0", "+1 y 1 NULL NULL 2.0 0.0"]);
    aggregate.keep();

    let mut out = Output::default();
    aggregate.push(0, batch(source_rows(&[(1, Some("x"), None, 2.0)])), &mut out).unwrap();
    aggregate.flush(&mut out).unwrap();
    assert_eq!(lines(&out.batches), ["-1 x 2 6 3.0 4.0 1.0", "+1 x 3 6 3.0 6.0 0.6666666666666666"]);
    // Flushed twice in one commit, it tells nothing twice.
    let mut out = Output::default();
    aggregate.flush(&mut out).unwrap();
    assert!(out.batches.is_empty());
    let error = aggregate.push(0, weighted(batch(source_rows(&given[..1])), &[-1]), &mut out).unwrap_err();
    assert_eq!(error.kind, Kind::Failed);
}

#[test]
fn a_sum_that_overflows_withdraws_its_row_and_comes_back() {
    let input = source();
    let calls = vec![call(Function::Sum, vec![col(&input, "a")], DataType::Int64)];
    let mut aggregate = Aggregate::new(spec(input, false, true, calls)).unwrap();
    let mut tell = |given: &[Row], weights: &[i8]| {
        let mut out = Output::default();
        aggregate.push(0, weighted(batch(source_rows(given)), weights), &mut out).unwrap();
        aggregate.flush(&mut out).unwrap();
        aggregate.keep();
        let withdrawn: Vec<_> = out.withdrawn.iter().map(|w| format!("{} {}", w.key, w.message)).collect();
        (lines(&out.batches), withdrawn)
    };
    let (max, one) = ((0, Some("x"), Some(i64::MAX), 0.0), (0, Some("x"), Some(1), 0.0));
    assert_eq!(tell(&[max], &[1]), (vec![format!("+1 x {}", i64::MAX)], vec![]));
    let withdrawn = vec![r#"{"k":"x"} "SUM": overflow"#.to_owned()];
    assert_eq!(tell(&[one], &[1]), (vec![format!("-1 x {}", i64::MAX)], withdrawn));
    assert_eq!(tell(&[max], &[-1]), (vec!["+1 x 1".to_owned()], vec![]));
    assert_eq!(tell(&[one], &[-1]), (vec!["-1 x 1".to_owned()], vec![]));
    assert_eq!(tell(&[one], &[1]), (vec!["+1 x 1".to_owned()], vec![]));
}

#[test]
fn a_window_whose_sum_overflows_is_withdrawn_alone() {
    let input = with_windows();
    let calls = vec![call(Function::Sum, vec![col(&input, "a")], DataType::Int64)];
    let mut aggregate = Aggregate::new(spec(input, true, false, calls)).unwrap();
    let mut watermark = PartitionWatermark::new(0);
    let given = [(0, Some("x"), Some(i64::MAX), 0.0), (0, Some("x"), Some(1), 0.0), (0, Some("y"), Some(5), 0.0)];
    let mut out = Output::default();
    aggregate.push(0, assigned(arrived(&given, 0, &mut watermark)).unwrap(), &mut out).unwrap();
    aggregate.advance(Watermark(2_000), &mut out).unwrap();
    assert_eq!(window_lines(&out.batches), ["-8 y 5"]);
    assert_eq!(out.withdrawn.len(), 1);
    assert_eq!(out.withdrawn[0].key, r#"{"window_start":"1969-12-31T23:59:59.992Z","k":"x"}"#);
}

#[test]
fn a_row_is_late_when_all_its_windows_refuse_it() {
    let mut aggregate = windowed();
    let mut watermark = PartitionWatermark::new(0);
    // Windows of 10 ms every 4: 11 lies in [4,14) and [8,18). At watermark 14 the first refuses it, at 18 both do.
    let given = [
        (14, Some("x"), Some(1), 0.0),
        (11, Some("x"), Some(1), 0.0),
        (18, Some("x"), Some(1), 0.0),
        (11, Some("x"), Some(1), 0.0),
    ];
    let mut out = Output::default();
    aggregate.push(0, assigned(arrived(&given, 40, &mut watermark)).unwrap(), &mut out).unwrap();
    let late: Vec<_> = out.late.iter().map(|l| (l.source, l.partition, l.offset.0, l.event_time, l.row_watermark)).collect();
    assert_eq!(late, [(0, Partition(2), 43, Timestamp(11_000), Watermark(18_000))]);
    assert_eq!(aggregate.advance(Watermark(18_900), &mut out).unwrap(), Watermark(18_000));
    let counts: Vec<_> = window_lines(&out.batches).iter().map(|l| l.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(counts, ["8 x 2"]);
}

#[test]
fn a_row_whose_argument_fails_is_in_no_group() {
    let input = source();
    let quotient = op(lit(10i64), Op::Divide, col(&input, "a"));
    let calls =
        vec![call(Function::Count, vec![], DataType::Int64), call(Function::Sum, vec![quotient.clone()], DataType::Int64)];
    let mut aggregate = Aggregate::new(spec(input.clone(), false, false, calls)).unwrap();
    let given = [(0, Some("x"), Some(5), 0.0), (0, Some("x"), Some(0), 0.0), (0, Some("y"), Some(2), 0.0)];
    let mut out = Output::default();
    aggregate.push(0, batch(source_rows(&given)), &mut out).unwrap();
    aggregate.flush(&mut out).unwrap();
    assert_eq!(rejected(&out), ["1 expression division by zero"]);
    assert_eq!(lines(&out.batches), ["+1 x 1 2", "+1 y 1 5"]);

    // FILTER guards the argument.
    let mut guarded = call(Function::Sum, vec![quotient], DataType::Int64);
    guarded.filter = Some(op(col(&input, "a"), Op::NotEq, lit(0i64)));
    let mut aggregate = Aggregate::new(spec(input, false, false, vec![guarded])).unwrap();
    let mut out = Output::default();
    aggregate.push(0, batch(source_rows(&given)), &mut out).unwrap();
    aggregate.flush(&mut out).unwrap();
    assert!(out.rejected.is_empty());
    assert_eq!(lines(&out.batches), ["+1 x 2", "+1 y 5"]);
}

#[test]
fn decimals_are_exact_and_rounded_half_up() {
    use arrow::array::Decimal128Array;
    let input = schema(&[("k", DataType::Utf8), ("p", DataType::Decimal128(10, 2))]);
    let keys = StringArray::from(vec!["x", "x", "x", "y", "y", "y"]);
    let prices = Decimal128Array::from(vec![1, 1, 3, -1, -1, -3]).with_precision_and_scale(10, 2).unwrap();
    let p = col(&input, "p");
    let calls = vec![
        call(Function::Sum, vec![p.clone()], DataType::Decimal128(38, 2)),
        call(Function::Avg, vec![p.clone()], DataType::Decimal128(38, 2)),
        call(Function::Avg, vec![p.clone()], DataType::Decimal128(38, 6)),
        call(Function::Min, vec![p.clone()], DataType::Decimal128(10, 2)),
        call(Function::Sum, vec![p], DataType::Decimal128(2, 2)),
    ];
    let mut aggregate = Aggregate::new(spec(input.clone(), false, false, calls)).unwrap();
    let mut out = Output::default();
    aggregate.push(0, batch(rows(&input, vec![column(keys), column(prices)])), &mut out).unwrap();
    aggregate.flush(&mut out).unwrap();
    assert_eq!(lines(&out.batches), ["+1 x 0.05 0.02 0.016667 0.01 0.05", "+1 y -0.05 -0.02 -0.016667 -0.03 -0.05"]);
}

#[test]
fn keys_of_several_columns_and_kinds() {
    let input = schema(&[("f", DataType::Float64), ("s", DataType::Utf8), ("n", DataType::Int64)]);
    let columns = vec![
        column(Float64Array::from(vec![Some(0.0), Some(-0.0), Some(f64::NAN), Some(-f64::NAN), None])),
        column(StringArray::from(vec![Some("a"), Some("a"), None, None, Some("")])),
        column(Int64Array::from(vec![1, 2, 3, 4, 5])),
    ];
    let groups = vec![Group::Expression(col(&input, "f")), Group::Expression(col(&input, "s"))];
    let sum = call(Function::Sum, vec![col(&input, "n")], DataType::Int64);
    let schema = schema(&[("f", DataType::Float64), ("s", DataType::Utf8), ("sum", DataType::Int64)]);
    let (order_free, retracts, phase) = (false, false, Phase::Complete);
    let spec =
        AggregateSpec { input: input.clone(), window: None, groups, calls: vec![sum], schema, order_free, retracts, phase };
    let mut aggregate = Aggregate::new(spec.clone()).unwrap();
    let mut out = Output::default();
    aggregate.push(0, batch(rows(&input, columns)), &mut out).unwrap();
    aggregate.flush(&mut out).unwrap();
    assert_eq!(lines(&out.batches), ["+1 0.0 a 3", "+1 NaN NULL 7", "+1 NULL  5"]);

    // Restored, they are the same keys.
    let delta = aggregate.delta().unwrap().unwrap();
    let mut restored = Aggregate::new(spec).unwrap();
    restored.apply(&delta).unwrap();
    let more =
        vec![column(Float64Array::from(vec![-0.0])), column(StringArray::from(vec!["a"])), column(Int64Array::from(vec![10]))];
    let mut out = Output::default();
    restored.push(0, batch(rows(&input, more)), &mut out).unwrap();
    restored.flush(&mut out).unwrap();
    assert_eq!(lines(&out.batches), ["-1 0.0 a 3", "+1 0.0 a 13"]);

    let other = arrow::record_batch::RecordBatch::new_empty(source());
    assert_eq!(restored.apply(&other).unwrap_err().kind, Kind::Corrupt);
}

#[test]
fn key_groups_do_not_depend_on_the_width_of_integers() {
    use arrow::array::{ArrayRef, Int32Array};
    use tidemill::operator::canonical::key_groups;
    let narrow: ArrayRef = column(Int32Array::from(vec![Some(1), Some(-7), None]));
    let wide: ArrayRef = column(Int64Array::from(vec![Some(1), Some(-7), None]));
    assert_eq!(key_groups(&[narrow], 3), key_groups(&[wide], 3));
    // Fixed for ever: state rows carry them.
    let names: ArrayRef = column(StringArray::from(vec!["c1", "c2", ""]));
    assert_eq!(key_groups(&[names], 3), GROUPS_OF_NAMES);
}

const GROUPS_OF_NAMES: [u8; 3] = [161, 229, 185];

#[test]
fn an_aggregate_of_the_library_keeps_its_state() {
    use datafusion_functions_aggregate::bit_and_or_xor::bit_xor_udaf;
    use datafusion_physical_expr::aggregate::AggregateExprBuilder;
    let input = source();
    let expr =
        AggregateExprBuilder::new(bit_xor_udaf(), vec![col(&input, "a")]).schema(input.clone()).alias("x").build().unwrap();
    let other = call(Function::Other(Arc::new(expr)), vec![col(&input, "a")], DataType::Int64);
    let make = || Aggregate::new(spec(source(), false, false, vec![other.clone()])).unwrap();
    let mut aggregate = make();
    let mut out = Output::default();
    let given = [(0, Some("x"), Some(5), 0.0), (0, Some("y"), None, 0.0), (0, Some("x"), Some(6), 0.0)];
    aggregate.push(0, batch(source_rows(&given)), &mut out).unwrap();
    aggregate.flush(&mut out).unwrap();
    assert_eq!(lines(&out.batches), ["+1 x 3", "+1 y NULL"]);
    let delta = aggregate.delta().unwrap().unwrap();
    aggregate.keep();
    for mut aggregate in [aggregate, make()] {
        aggregate.apply(&delta).unwrap();
        let mut out = Output::default();
        aggregate.push(0, batch(source_rows(&[(0, Some("x"), Some(8), 0.0)])), &mut out).unwrap();
        aggregate.undo();
        aggregate.push(0, batch(source_rows(&[(0, Some("x"), Some(4), 0.0)])), &mut out).unwrap();
        aggregate.flush(&mut out).unwrap();
        assert_eq!(lines(&out.batches), ["-1 x 3", "+1 x 7"]);
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let input = source();
    let mut distinct = call(Function::Sum, vec![col(&input, "a")], DataType::Int64);
    distinct.distinct = true;
    let error = Aggregate::new(spec(input.clone(), false, false, vec![distinct])).err().unwrap();
    assert_eq!((error.kind, error.message.as_str()), (Kind::Config, "SUM(Int64) as Int64: DISTINCT is not supported"));
    let text = call(Function::Sum, vec![col(&input, "k")], DataType::Int64);
    assert_eq!(Aggregate::new(spec(input.clone(), false, false, vec![text])).err().unwrap().kind, Kind::Config);
    let mut aggregate = Aggregate::new(spec(input, false, false, vec![])).unwrap();
    let given = weighted(batch(source_rows(&[(0, None, Some(1), 0.0)])), &[-1]);
    let error = aggregate.push(0, given, &mut Output::default()).unwrap_err();
    assert_eq!(error.message, "rows are retracted from an aggregate that was planned without retractions");
}

#[test]
fn the_rolling_snapshot_goes_round_while_keys_come() {
    let mut aggregate = updating(false);
    let names: Vec<&'static str> = (0..50).map(|n| &*Box::leak(format!("k{n}").into_boxed_str())).collect();
    let mut seen = BTreeSet::new();
    let mut wraps = 0;
    for name in &names {
        let mut out = Output::default();
        aggregate.push(0, batch(source_rows(&[(0, Some(name), Some(1), 0.0)])), &mut out).unwrap();
        let slice = aggregate.slice(3).unwrap();
        wraps += usize::from(slice.wrapped);
        if let Some(rows) = slice.rows {
            assert!(rows.num_rows() <= 3);
            seen.extend((0..rows.num_rows()).map(|row| value(rows.column(0), row)));
            assert!(rows.column_by_name("_key_group").is_some());
            assert!(rows.column_by_name("1_sum").is_none() && rows.column_by_name("_1_sum").is_some());
        }
        aggregate.keep();
    }
    assert!(wraps > 2 && seen.len() > 30, "{wraps} rounds, {} keys", seen.len());
    assert!(aggregate.slice(1000).unwrap().rows.map_or(0, |r| r.num_rows()) > 0);
    let times = aggregate.image(7).unwrap();
    assert_eq!(times.len(), 8);
    assert_eq!(times[0].column_by_name("_event_time").unwrap().as_primitive::<Int64Type>().null_count(), 0);
}
