//! A windowed aggregate in two halves gives what the whole gives, whatever the interleaving, commits, failures and restores.

mod operator_support;

use std::sync::Arc;

use arrow::array::{
    AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_expr::Operator as Op;
use datafusion_functions_aggregate::bit_and_or_xor::bit_xor_udaf;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use operator_support::changelog::Changelog;
use operator_support::*;
use proptest::prelude::*;
use tidemill::error::Kind;
use tidemill::operator::aggregate::{Aggregate, AggregateCall, AggregateSpec, Function, Group, Phase, WindowColumn};
use tidemill::operator::assign::{Assign, AssignSpec};
use tidemill::operator::{Operator, Output};
use tidemill::record::{Batch, Partition};
use tidemill::store::Store;
use tidemill::watermark::{PartitionWatermark, Watermark};

const SIZE_MS: i64 = 10;
const SLIDE_MS: i64 = 4;
const DELAY_MS: [i64; 3] = [3, 0, 5];
/// The local half that each partition belongs to.
const TASK: [usize; 3] = [0, 0, 1];

fn source() -> SchemaRef {
    schema(&[
        ("t", millis()),
        ("k", DataType::Utf8),
        ("a", DataType::Int64),
        ("d", DataType::Float64),
        ("p", DataType::Decimal128(10, 2)),
    ])
}

fn with_windows() -> SchemaRef {
    let mut fields: Vec<_> = source().fields().iter().cloned().collect();
    fields.extend(["window_start", "window_end", "window_time"].map(|name| field(name, millis())));
    Arc::new(Schema::new(fields))
}

fn call(function: Function, args: Vec<Expr>, output: DataType) -> AggregateCall {
    AggregateCall { output: field(function.name(), output), function, args, distinct: false, filter: None }
}

fn spec(retracts: bool) -> AggregateSpec {
    let input = with_windows();
    let (k, a, d, p) = (col(&input, "k"), col(&input, "a"), col(&input, "d"), col(&input, "p"));
    let mut calls = vec![
        call(Function::Count, vec![], DataType::Int64),
        call(Function::Count, vec![a.clone()], DataType::Int64),
        call(Function::Sum, vec![a.clone()], DataType::Int64),
        call(Function::Avg, vec![a.clone()], DataType::Float64),
        call(Function::Sum, vec![d.clone()], DataType::Float64),
        call(Function::Avg, vec![d.clone()], DataType::Float64),
        call(Function::StddevSamp, vec![d.clone()], DataType::Float64),
        call(Function::VarPop, vec![a.clone()], DataType::Float64),
        call(Function::Sum, vec![p.clone()], DataType::Decimal128(38, 2)),
        call(Function::Avg, vec![p], DataType::Decimal128(38, 6)),
        call(Function::Min, vec![a.clone()], DataType::Int64),
        call(Function::Max, vec![d.clone()], DataType::Float64),
        call(Function::Max, vec![k.clone()], DataType::Utf8),
        call(Function::FirstValue, vec![a.clone()], DataType::Int64),
        call(Function::LastValue, vec![d], DataType::Float64),
        call(Function::BoolAnd, vec![op(a.clone(), Op::Gt, lit(0i64))], DataType::Boolean),
        // Overflows for the largest value: the group is withdrawn.
        call(Function::Sum, vec![a.clone()], DataType::Int8),
    ];
    calls[1].distinct = true;
    calls[2].filter = Some(op(a.clone(), Op::Gt, lit(0i64)));
    if !retracts {
        let expr = AggregateExprBuilder::new(bit_xor_udaf(), vec![a.clone()]).schema(input.clone()).alias("x").build().unwrap();
        calls.push(call(Function::Other(Arc::new(expr)), vec![a], DataType::Int64));
    }
    let groups = vec![Group::WindowStart, Group::Expression(k), Group::WindowTime];
    let mut fields = vec![field("window_start", millis()), field("k", DataType::Utf8), field("window_time", millis())];
    fields.extend(calls.iter().map(|call| call.output.clone()));
    let window = Some(WindowColumn { column: 5, is_start: true, size_micros: SIZE_MS * 1000 });
    let schema = Arc::new(Schema::new(fields));
    AggregateSpec { input, window, groups, calls, schema, order_free: true, retracts, phase: Phase::Complete }
}

type Row = (i64, Option<&'static str>, Option<i64>, f64, i8);

fn arrived(partition: usize, given: &[Row], first: i64, watermark: &mut PartitionWatermark) -> Option<Batch> {
    let times: TimestampMillisecondArray = given.iter().map(|r| Some(r.0)).collect();
    let keys: StringArray = given.iter().map(|r| r.1).collect();
    let numbers: Int64Array = given.iter().map(|r| r.2).collect();
    let doubles: Float64Array = given.iter().map(|r| Some(r.3)).collect();
    let prices: Decimal128Array = given.iter().map(|r| r.2.map(i128::from)).collect();
    let prices = prices.with_precision_and_scale(10, 2).unwrap();
    let columns = vec![column(times.with_timezone("+00:00")), column(keys), column(numbers), column(doubles), column(prices)];
    let event_times = Int64Array::from_iter_values(given.iter().map(|r| r.0 * 1000));
    let weights: Vec<i8> = given.iter().map(|r| r.4).collect();
    let batch = Batch {
        partition: Partition(partition as i32),
        // A row is taken back with its own position.
        offsets: (first..).zip(given).map(|(offset, row)| Some(offset - i64::from(row.4 < 0))).collect(),
        row_watermarks: watermark.observe(&event_times),
        event_times,
        ..weighted(batch(rows(&source(), columns)), &weights)
    };
    let (size_micros, slide_micros) = (SIZE_MS * 1000, SLIDE_MS * 1000);
    let spec = AssignSpec { time_column: 0, size_micros, slide_micros, offset_micros: 0, schema: with_windows() };
    let mut out = Output::default();
    Assign::new(spec).unwrap().push(0, batch, &mut out).unwrap();
    out.batches.pop()
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    emitted: Vec<String>,
    late: Vec<(i32, i64)>,
    withdrawn: Vec<String>,
}

impl Told {
    fn take(&mut self, out: Output) {
        self.emitted.extend(out.batches.iter().flat_map(|batch| {
            assert!(batch.derived && batch.weights.is_none());
            let times = batch.event_times.values().iter();
            lines(std::slice::from_ref(batch))
                .into_iter()
                .zip(times)
                .map(|(line, time)| format!("{time} {line}"))
                .collect::<Vec<_>>()
        }));
        self.late.extend(out.late.iter().map(|late| (late.partition.0, late.offset.0)));
        self.withdrawn.extend(out.withdrawn.into_iter().map(|w| format!("{} {}", w.key, w.message)));
        assert!(out.rejected.is_empty());
    }

    fn sorted(mut self) -> Told {
        self.emitted.sort();
        self.late.sort();
        self.withdrawn.sort();
        self
    }
}

#[derive(Clone)]
struct Position {
    at: [usize; 3],
    watermarks: [PartitionWatermark; 3],
    told: Told,
}

/// Two local halves, two global ones that share the keys.
struct Halves {
    retracts: bool,
    operators: Vec<Aggregate>,
    changelogs: Vec<Changelog>,
    edges: [Watermark; 4],
    now: Position,
    committed: (Position, [Watermark; 4]),
}

fn operators(retracts: bool) -> Vec<Aggregate> {
    let phases = [Phase::Local, Phase::Local, Phase::Global, Phase::Global];
    phases.into_iter().map(|phase| Aggregate::new(AggregateSpec { phase, ..spec(retracts) }).unwrap()).collect()
}

impl Halves {
    fn new(retracts: bool) -> Halves {
        let watermarks = DELAY_MS.map(|delay| PartitionWatermark::new(delay * 1000));
        let now = Position { at: [0; 3], watermarks, told: Told::default() };
        let changelogs = (0..4).map(|_| Changelog::default()).collect();
        let edges = [Watermark::MIN; 4];
        Halves { retracts, operators: operators(retracts), changelogs, edges, committed: (now.clone(), edges), now }
    }

    fn push(&mut self, logs: &[Vec<Row>], partition: usize, count: usize) {
        let (from, to) = (self.now.at[partition], logs[partition].len().min(self.now.at[partition] + count));
        self.now.at[partition] = to;
        let given = &logs[partition][from..to];
        if let Some(batch) = arrived(partition, given, from as i64, &mut self.now.watermarks[partition]) {
            let mut out = Output::default();
            self.operators[TASK[partition]].push(0, batch, &mut out).unwrap();
            assert!(out.batches.is_empty());
            self.now.told.take(out);
        }
    }

    /// The local half closes windows; its rows go to the global ones by key, and then they learn of its watermark.
    fn advance(&mut self, task: usize, edge: Watermark) {
        let mut out = Output::default();
        self.edges[task] = self.operators[task].advance(edge, &mut out).unwrap();
        let partial = spec(self.retracts).partial_schema().unwrap();
        for batch in out.batches {
            assert_eq!(batch.rows.schema(), partial);
            let keys = batch.rows.column(0).as_string::<i32>();
            for half in 0..2 {
                let mine = keys.iter().enumerate().filter(|(_, key)| key.is_some_and(|key| key > "a") == (half == 1));
                let mine: UInt32Array = mine.map(|(row, _)| Some(row as u32)).collect();
                self.operators[2 + half].push(0, batch.take(&mine).unwrap(), &mut Output::default()).unwrap();
            }
        }
        for half in 2..4 {
            let mut out = Output::default();
            self.edges[half] = self.operators[half].advance(self.edges[0].min(self.edges[1]), &mut out).unwrap();
            self.now.told.take(out);
        }
    }

    fn edge(&self, task: usize) -> Watermark {
        let own = (0..3).filter(|partition| TASK[*partition] == task);
        own.map(|partition| self.now.watermarks[partition].current()).min().unwrap()
    }

    fn commit(&mut self, slice: usize) {
        for (at, operator) in self.operators.iter_mut().enumerate() {
            self.changelogs[at].commit(operator, self.edges[at], slice);
        }
        self.committed = (self.now.clone(), self.edges);
    }

    fn fail(&mut self) {
        self.operators.iter_mut().for_each(|operator| operator.undo());
        (self.now, self.edges) = self.committed.clone();
    }

    fn crash(&mut self, from_image: bool) {
        self.fail();
        for (at, mut fresh) in operators(self.retracts).into_iter().enumerate() {
            match from_image {
                true => {
                    let image: Vec<RecordBatch> = self.operators[at].image(3).unwrap();
                    self.changelogs[at].restore_image(&image, &mut fresh);
                }
                false => self.changelogs[at].restore(&mut fresh),
            }
            assert_eq!(fresh.len(), self.operators[at].len());
            self.operators[at] = fresh;
        }
    }
}

/// Everything first, then the end: only rows in the order of one partition after the other.
fn whole(logs: &[Vec<Row>], retracts: bool) -> Told {
    let mut aggregate = Aggregate::new(spec(retracts)).unwrap();
    let mut told = Told::default();
    for (partition, log) in logs.iter().enumerate() {
        let mut out = Output::default();
        let mut watermark = PartitionWatermark::new(DELAY_MS[partition] * 1000);
        if let Some(batch) = arrived(partition, log, 0, &mut watermark) {
            aggregate.push(0, batch, &mut out).unwrap();
        }
        told.take(out);
    }
    let mut out = Output::default();
    aggregate.advance(Watermark::MAX, &mut out).unwrap();
    told.take(out);
    told.sorted()
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize, usize),
    Advance(usize),
    Commit(usize),
    Fail,
    Crash(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3usize, 1..9usize).prop_map(|(partition, count)| Step::Push(partition, count)),
        5 => (0..2usize).prop_map(Step::Advance),
        3 => (0..6usize).prop_map(Step::Commit),
        1 => Just(Step::Fail),
        1 => any::<bool>().prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 0..60)
}

fn logs(retracts: bool) -> impl Strategy<Value = Vec<Vec<Row>>> {
    let key = prop_oneof![Just(None), Just(Some("a")), Just(Some("b")), Just(Some(""))];
    let number = prop_oneof![4 => (-5..9i64).prop_map(Some), 1 => Just(None), 1 => Just(Some(120))];
    let double = prop_oneof![Just(0.1), Just(-3.3), Just(1e16), Just(-1e16), Just(f64::NAN), Just(1e300), Just(0.0)];
    let row = (-6..6i64, key, number, double, prop::bool::weighted(0.4));
    prop::collection::vec(prop::collection::vec(row, 0..40), 3).prop_map(move |logs| {
        let log = |given: Vec<(i64, Option<&'static str>, Option<i64>, f64, bool)>| {
            let mut log: Vec<Row> = Vec::new();
            for (at, (jitter, key, number, double, back)) in given.into_iter().enumerate() {
                let row = (at as i64 - 10 + jitter, key, number, double, 1);
                log.push(row);
                if back && retracts {
                    log.push((row.0, key, number, double, -1));
                }
            }
            log
        };
        logs.into_iter().map(log).collect()
    })
}

fn cases() -> impl Strategy<Value = (bool, Vec<Vec<Row>>)> {
    any::<bool>().prop_flat_map(|retracts| (Just(retracts), logs(retracts)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_halves_are_a_whole((retracts, logs) in cases(), steps in steps()) {
        let mut halves = Halves::new(retracts);
        for step in steps {
            match step {
                Step::Push(partition, count) => halves.push(&logs, partition, count),
                Step::Advance(task) => halves.advance(task, halves.edge(task)),
                Step::Commit(slice) => halves.commit(slice),
                Step::Fail => halves.fail(),
                Step::Crash(from_image) => halves.crash(from_image),
            }
        }
        [1, 2, 0].into_iter().for_each(|partition| halves.push(&logs, partition, 1000));
        halves.advance(1, Watermark::MAX);
        halves.advance(0, Watermark::MAX);
        let lens: Vec<usize> = halves.operators.iter().map(|operator| operator.len()).collect();
        prop_assert_eq!(lens, vec![0; 4]);
        // Each global half emits by (window, key); the halves interleave.
        let (mut halves, mut whole) = (halves.now.told.sorted(), whole(&logs, retracts));
        if retracts {
            // A row and its retraction share an offset: which of them is late is no question of a source's rows.
            (halves.late, whole.late) = (Vec::new(), Vec::new());
        }
        prop_assert_eq!(halves, whole);
    }
}

#[test]
fn what_can_not_be_split_is_refused() {
    let updating = AggregateSpec { window: None, groups: vec![], phase: Phase::Local, ..spec(false) };
    let error = Aggregate::new(updating).err().unwrap();
    assert_eq!(error.message, "an aggregate in two halves, but no window that closes the first");
    let mut global = Aggregate::new(AggregateSpec { phase: Phase::Global, ..spec(false) }).unwrap();
    let mut watermark = PartitionWatermark::new(0);
    let given = arrived(0, &[(0, Some("a"), Some(1), 0.0, 1)], 0, &mut watermark).unwrap();
    assert_eq!(global.push(0, given, &mut Output::default()).unwrap_err().kind, Kind::Corrupt);

    // A function of the library can't take rows back.
    let other = AggregateSpec { retracts: true, ..spec(false) };
    let error = Aggregate::new(other).err().unwrap();
    assert_eq!(error.kind, Kind::Config);
    assert!(error.message.ends_with("not supported over rows that are taken back"), "{}", error.message);
}
