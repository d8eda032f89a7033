//! Tables, aggregates over their changes and the materializer of upsert sinks, against naive models under any interleaving, commits,
//! failures and restores.

mod operator_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_expr::Operator as Op;
use operator_support::changelog::Changelog;
use operator_support::*;
use proptest::prelude::*;
use tidemill::operator::aggregate::{Aggregate, AggregateCall, AggregateSpec, Function, Group, Phase};
use tidemill::operator::materialize::{Materialize, MaterializeSpec};
use tidemill::operator::table::{Table, TableSpec};
use tidemill::operator::{Operator, Output};
use tidemill::record::{Batch, Partition};
use tidemill::store::Store;
use tidemill::watermark::Watermark;

/// The key is the second column; values may be null, the key not.
fn customers() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("g", DataType::Utf8, true),
        Field::new("id", DataType::Utf8, false),
        Field::new("a", DataType::Int64, true),
        Field::new("d", DataType::Float64, true),
    ]))
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    time: i64,
    id: &'static str,
    g: Option<&'static str>,
    a: Option<i64>,
    d: f64,
    tombstone: bool,
}

fn rows_of(given: &[Row]) -> RecordBatch {
    let set: BooleanArray = given.iter().map(|r| Some(r.tombstone)).collect();
    let null = |column| arrow::compute::nullif(column, &set).unwrap();
    let groups: StringArray = given.iter().map(|r| r.g).collect();
    let ids: StringArray = given.iter().map(|r| Some(r.id)).collect();
    let numbers: Int64Array = given.iter().map(|r| r.a).collect();
    let doubles: Float64Array = given.iter().map(|r| Some(r.d)).collect();
    rows(&customers(), vec![null(&groups), column(ids), null(&numbers), null(&doubles)])
}

fn records(given: &[Row], partition: i32, first: i64) -> Batch {
    let weights: Vec<i8> = given.iter().map(|r| if r.tombstone { -1 } else { 1 }).collect();
    Batch {
        source: 1,
        partition: Partition(partition),
        offsets: Int64Array::from_iter_values(first..first + given.len() as i64),
        event_times: Int64Array::from_iter_values(given.iter().map(|r| r.time)),
        row_watermarks: Int64Array::from_value(1_000_000, given.len()),
        ..weighted(batch(rows_of(given)), &weights)
    }
}

fn table() -> Table {
    Table::new(TableSpec { key_columns: vec![1], schema: customers() }).unwrap()
}

fn call(function: Function, args: Vec<Expr>, output: DataType) -> AggregateCall {
    AggregateCall { output: field(function.name(), output), function, args, distinct: false, filter: None }
}

fn by_group(retracts: bool, keyed: bool) -> Aggregate {
    let input = customers();
    let (g, id, a, d) = (col(&input, "g"), col(&input, "id"), col(&input, "a"), col(&input, "d"));
    let large = op(a.clone(), Op::Gt, lit(3i64));
    let mut calls = vec![
        call(Function::Count, vec![], DataType::Int64),
        call(Function::Count, vec![a.clone()], DataType::Int64),
        call(Function::Sum, vec![a.clone()], DataType::Int64),
        call(Function::Sum, vec![d.clone()], DataType::Float64),
        call(Function::Avg, vec![d.clone()], DataType::Float64),
        call(Function::StddevSamp, vec![d.clone()], DataType::Float64),
        call(Function::Min, vec![a.clone()], DataType::Int64),
        call(Function::Max, vec![d.clone()], DataType::Float64),
        call(Function::Min, vec![id.clone()], DataType::Utf8),
        call(Function::FirstValue, vec![a.clone()], DataType::Int64),
        call(Function::LastValue, vec![id], DataType::Utf8),
        call(Function::BoolAnd, vec![large.clone()], DataType::Boolean),
        call(Function::BoolOr, vec![large.clone()], DataType::Boolean),
        call(Function::Max, vec![a], DataType::Int64),
    ];
    calls[1].distinct = true;
    calls[13].filter = Some(op(d, Op::Lt, lit(1.0f64)));
    let mut fields: Vec<_> = calls.iter().map(|call| call.output.clone()).collect();
    let mut groups = Vec::new();
    if keyed {
        fields.insert(0, field("g", DataType::Utf8));
        groups.push(Group::Expression(g));
    }
    let schema = Arc::new(Schema::new(fields));
    let spec = AggregateSpec { input, window: None, groups, calls, schema, order_free: true, retracts, phase: Phase::Complete };
    Aggregate::new(spec).unwrap()
}

/// Position and values of a row.
fn line(batch: &Batch, row: usize) -> String {
    let values: Vec<String> = batch.rows.columns().iter().map(|c| value(c, row)).collect();
    let origin = format!("{} {}/{}", batch.derived, batch.source, batch.partition);
    format!("{} {origin} {}: {}", batch.event_times.value(row), batch.offsets.value(row), values.join(" "))
}

/// Rows with weights: a row that is taken back is there, with its position.
#[derive(Clone, Default, Debug, PartialEq)]
struct Folded(BTreeMap<String, i64>);

impl Folded {
    fn take(&mut self, batches: &[Batch]) {
        for batch in batches {
            for row in 0..batch.num_rows() {
                let line = line(batch, row);
                let weight = self.0.entry(line.clone()).or_default();
                *weight += i64::from(batch.weight(row));
                assert!((0..=1).contains(weight), "{line} has weight {weight}");
                self.0.retain(|_, weight| *weight != 0);
            }
        }
    }

    /// Without positions.
    fn values(&self) -> Vec<String> {
        let mut values: Vec<String> = self.0.keys().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect();
        values.sort();
        values
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize, usize),
    Commit(usize),
    Fail,
    Crash(bool),
}

fn steps(senders: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..senders, 1..9usize).prop_map(|(sender, count)| Step::Push(sender, count)),
        4 => (0..6usize).prop_map(Step::Commit),
        1 => Just(Step::Fail),
        1 => any::<bool>().prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 0..60)
}

/// A table and two aggregates over it, committed together.
struct Chain {
    table: Table,
    grouped: Aggregate,
    global: Aggregate,
    at: [usize; 2],
    folds: [Folded; 3],
    committed: ([usize; 2], [Folded; 3]),
    changelogs: [Changelog; 3],
}

impl Chain {
    fn new() -> Chain {
        let (grouped, global) = (by_group(true, true), by_group(true, false));
        let (at, folds) = ([0, 0], [Folded::default(), Folded::default(), Folded::default()]);
        let changelogs = [Changelog::default(), Changelog::default(), Changelog::default()];
        Chain { table: table(), grouped, global, at, folds: folds.clone(), committed: (at, folds), changelogs }
    }

    fn push(&mut self, logs: &[Vec<Row>], sender: usize, count: usize) {
        let (from, to) = (self.at[sender], logs[sender].len().min(self.at[sender] + count));
        self.at[sender] = to;
        let mut out = Output::default();
        self.table.push(0, records(&logs[sender][from..to], sender as i32, from as i64), &mut out).unwrap();
        for batch in &out.batches {
            assert!(batch.row_watermarks.values().iter().all(|w| *w == i64::MIN), "a table is never late");
            for aggregate in [&mut self.grouped, &mut self.global] {
                aggregate.push(0, batch.clone(), &mut Output::default()).unwrap();
            }
        }
        self.folds[0].take(&out.batches);
    }

    fn commit(&mut self, slice: usize) {
        for (aggregate, fold) in [&mut self.grouped, &mut self.global].into_iter().zip(&mut self.folds[1..]) {
            let mut out = Output::default();
            aggregate.flush(&mut out).unwrap();
            fold.take(&out.batches);
            assert!(out.withdrawn.is_empty() && out.rejected.is_empty());
        }
        let stores: [&mut dyn Store; 3] = [&mut self.table, &mut self.grouped, &mut self.global];
        for (changelog, store) in self.changelogs.iter_mut().zip(stores) {
            changelog.commit(store, Watermark::MIN, slice);
        }
        self.committed = (self.at, self.folds.clone());
    }

    fn fail(&mut self) {
        let stores: [&mut dyn Store; 3] = [&mut self.table, &mut self.grouped, &mut self.global];
        stores.into_iter().for_each(|store| store.undo());
        (self.at, self.folds) = self.committed.clone();
    }

    fn crash(&mut self, from_image: bool) {
        self.fail();
        let mut fresh = Chain::new();
        let old: [&mut dyn Store; 3] = [&mut self.table, &mut self.grouped, &mut self.global];
        let new: [&mut dyn Store; 3] = [&mut fresh.table, &mut fresh.grouped, &mut fresh.global];
        for ((old, new), changelog) in old.into_iter().zip(new).zip(&mut self.changelogs) {
            match from_image {
                true => changelog.restore_image(&old.image(3).unwrap(), new),
                false => changelog.restore(new),
            }
            assert_eq!(old.len(), new.len());
        }
        (self.table, self.grouped, self.global) = (fresh.table, fresh.grouped, fresh.global);
    }
}

/// The rows that a log leaves, with their positions: of records that repeat one another the last counts, as of all others.
fn naive_table(logs: &[Vec<Row>]) -> Vec<(i32, i64, Row)> {
    let mut current: BTreeMap<&str, (i32, i64, Row)> = BTreeMap::new();
    for (partition, log) in logs.iter().enumerate() {
        for (offset, row) in log.iter().enumerate() {
            if row.tombstone {
                current.remove(row.id);
            } else {
                current.insert(row.id, (partition as i32, offset as i64, *row));
            }
        }
    }
    current.into_values().collect()
}

const IDS: [&str; 6] = ["a", "b", "c", "", "ccccccccccccccccccccccccc", "é"];

fn logs() -> impl Strategy<Value = Vec<Vec<Row>>> {
    let group = prop_oneof![Just(None), Just(Some("x")), Just(Some("y"))];
    let double = prop_oneof![Just(0.1), Just(0.2), Just(1e16), Just(-1e16), Just(0.0)];
    let row = (-6..6i64, 0..3usize, group, prop::option::of(0..6i64), double, prop::bool::weighted(0.25));
    let log = prop::collection::vec(row, 0..60);
    prop::collection::vec(log, 2).prop_map(|logs| {
        let row = |sender: usize, at: usize, r: (i64, usize, Option<&'static str>, Option<i64>, f64, bool)| Row {
            time: at as i64 + r.0,
            id: IDS[sender * 3 + r.1],
            g: r.2,
            a: r.3,
            d: r.4,
            tombstone: r.5,
        };
        logs.into_iter()
            .enumerate()
            .map(|(sender, log)| log.into_iter().enumerate().map(|(at, r)| row(sender, at, r)).collect())
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_and_aggregates_over_it_do_not_depend_on_commits_and_restores(logs in logs(), steps in steps(2)) {
        let mut chain = Chain::new();
        for step in steps {
            match step {
                Step::Push(sender, count) => chain.push(&logs, sender, count),
                Step::Commit(slice) => chain.commit(slice),
                Step::Fail => chain.fail(),
                Step::Crash(from_image) => chain.crash(from_image),
            }
        }
        chain.push(&logs, 1, 1000);
        chain.push(&logs, 0, 1000);
        chain.commit(1);

        let rows = naive_table(&logs);
        let batches: Vec<Batch> = rows.iter().map(|(partition, offset, row)| records(&[*row], *partition, *offset)).collect();
        let mut expected = Folded::default();
        expected.take(&batches);
        prop_assert_eq!(&chain.folds[0], &expected);
        prop_assert_eq!(chain.table.len(), rows.len());
        for (at, keyed) in [(1, true), (2, false)] {
            // The same rows, none of which is ever taken back.
            let mut simple = by_group(false, keyed);
            batches.iter().for_each(|batch| simple.push(0, batch.clone(), &mut Output::default()).unwrap());
            let mut out = Output::default();
            simple.flush(&mut out).unwrap();
            let mut expected = Folded::default();
            expected.take(&out.batches);
            prop_assert_eq!(chain.folds[at].values(), expected.values());
            let store: &mut dyn Store = if keyed { &mut chain.grouped } else { &mut chain.global };
            prop_assert_eq!(store.len(), simple.len());
        }
    }
}

fn one(id: &'static str, g: &'static str, a: i64) -> Row {
    Row { time: 5, id, g: Some(g), a: Some(a), d: 0.5, tombstone: false }
}

fn tombstone(id: &'static str) -> Row {
    Row { tombstone: true, ..one(id, "", 0) }
}

fn flushed(operator: &mut dyn Operator) -> Vec<String> {
    let mut out = Output::default();
    operator.flush(&mut out).unwrap();
    operator.store().unwrap().keep();
    lines(&out.batches)
}

#[test]
fn every_record_tells_its_change_wherever_commits_fall() {
    let mut table = table();
    let mut tell = |given: &[Row], first: i64| {
        let mut out = Output::default();
        table.push(0, records(given, 0, first), &mut out).unwrap();
        assert!(flushed(&mut table).is_empty());
        lines(&out.batches)
    };
    let first = ["+1 x a 1 0.5", "+1 x b 1 0.5", "-1 x a 1 0.5", "+1 x a 2 0.5"];
    assert_eq!(tell(&[one("a", "x", 1), one("b", "x", 1), one("a", "x", 2), tombstone("n")], 0), first);
    let changes = ["-1 x a 2 0.5", "+1 x a 3 0.5", "-1 x a 3 0.5", "+1 y a 2 0.5", "-1 x b 1 0.5"];
    assert_eq!(tell(&[one("a", "x", 3), one("a", "y", 2), tombstone("b"), tombstone("b")], 4), changes);
    // A row that is repeated has another position; a tombstone of an unknown key changes nothing.
    assert_eq!(tell(&[one("a", "y", 2), tombstone("b"), tombstone("z")], 8), ["-1 y a 2 0.5", "+1 y a 2 0.5"]);
    let changes = ["+1 x c 1 0.5", "-1 x c 1 0.5", "-1 y a 2 0.5", "+1 y a 2 0.5"];
    assert_eq!(tell(&[one("c", "x", 1), tombstone("c"), tombstone("a"), one("a", "y", 2)], 11), changes);
}

#[test]
fn memory_follows_the_rows_that_are_there() {
    let (mut table, mut aggregate) = (table(), by_group(true, true));
    let mut changelogs = [Changelog::default(), Changelog::default()];
    let mut sizes = Vec::new();
    for round in 0..200i64 {
        let names: Vec<&'static str> = (0..50).map(|n| &*format!("{round}-{n}").leak()).collect();
        // Every key is a group of its own, comes and goes.
        let come: Vec<Row> = names.iter().map(|name| one(name, name, 1)).chain([one("stays", "stays", round)]).collect();
        let go: Vec<Row> = names.iter().map(|name| tombstone(name)).collect();
        for (given, first) in [(come, 0), (go, 100)] {
            let mut out = Output::default();
            table.push(0, records(&given, 0, round * 1000 + first), &mut out).unwrap();
            out.batches.into_iter().for_each(|batch| aggregate.push(0, batch, &mut Output::default()).unwrap());
            aggregate.flush(&mut Output::default()).unwrap();
            changelogs[0].commit(&mut table, Watermark::MIN, 70);
            changelogs[1].commit(&mut aggregate, Watermark::MIN, 70);
        }
        assert_eq!((table.len(), aggregate.len()), (1, 1));
        sizes.push(table.size() + aggregate.size());
    }
    assert!(sizes[199] < 3 * sizes[40], "{sizes:?}");
    let (mut table, mut aggregate) = (self::table(), by_group(true, true));
    changelogs[0].restore(&mut table);
    changelogs[1].restore(&mut aggregate);
    assert_eq!((table.len(), aggregate.len()), (1, 1));
    let mut out = Output::default();
    table.push(0, records(&[tombstone("stays")], 0, 0), &mut out).unwrap();
    assert_eq!(lines(&out.batches), ["-1 stays stays 199 0.5"]);
}

#[test]
fn an_aggregate_over_all_rows_comes_and_goes() {
    let mut aggregate = by_group(true, false);
    let given = [one("a", "x", 1), one("b", "x", 9)];
    aggregate.push(0, records(&given, 0, 0), &mut Output::default()).unwrap();
    assert_eq!(flushed(&mut aggregate), ["+1 2 2 10 1.0 0.5 0.0 1 0.5 a 1 b false true 9"]);
    let back = |at: usize| Batch { weights: Some(vec![-1].into()), ..records(&[given[at]], 0, at as i64) };
    aggregate.push(0, back(1), &mut Output::default()).unwrap();
    let changes = ["-1 2 2 10 1.0 0.5 0.0 1 0.5 a 1 b false true 9", "+1 1 1 1 0.5 0.5 NULL 1 0.5 a 1 a false false 1"];
    assert_eq!(flushed(&mut aggregate), changes);
    aggregate.push(0, back(0), &mut Output::default()).unwrap();
    assert_eq!(flushed(&mut aggregate), ["-1 1 1 1 0.5 0.5 NULL 1 0.5 a 1 a false false 1"]);
    assert_eq!(aggregate.len(), 0);
}

/// A row of a sink, and the sender that takes it back if any does.
#[derive(Clone, Debug)]
struct SinkRow {
    time: i64,
    key: &'static str,
    value: i64,
    weight: i8,
    /// Of the sender that it came from first.
    origin: (bool, i32, i64),
}

fn sink() -> SchemaRef {
    schema(&[("value", DataType::Int64), ("key", DataType::Utf8)])
}

fn sink_batch(row: &SinkRow) -> Batch {
    let columns = vec![column(Int64Array::from(vec![row.value])), column(StringArray::from(vec![row.key]))];
    Batch {
        partition: Partition(row.origin.1),
        offsets: vec![row.origin.2].into(),
        event_times: vec![row.time].into(),
        derived: row.origin.0,
        ..weighted(batch(rows(&sink(), columns)), &[row.weight])
    }
}

fn materialize(retracts: bool) -> Materialize {
    Materialize::new(MaterializeSpec { key_columns: vec![1], schema: sink(), retracts }).unwrap()
}

/// What the senders send, each in order: a row may be taken back by its own sender or by another.
fn sent() -> impl Strategy<Value = Vec<Vec<SinkRow>>> {
    let row = (0..12i64, 0..3usize, 0..4i64, prop::option::weighted(0.5, (0..3usize, any::<bool>())));
    prop::collection::vec(prop::collection::vec(row, 0..25), 3).prop_map(|given| {
        let mut sent = vec![Vec::new(), Vec::new(), Vec::new()];
        for (sender, given) in given.into_iter().enumerate() {
            for (offset, (time, key, value, back)) in given.into_iter().enumerate() {
                let derived = sender == 2;
                let origin = if derived { (true, 0, 0) } else { (false, sender as i32, offset as i64) };
                let row = SinkRow { time, key: IDS[key], value, weight: 1, origin };
                sent[sender].push(row.clone());
                if let Some((by, own)) = back {
                    sent[if own { sender } else { by }].push(SinkRow { weight: -1, ..row });
                }
            }
        }
        sent
    })
}

/// What a sink holds: a value by key.
type Held = BTreeMap<String, String>;

fn naive_sink(sent: &[Vec<SinkRow>], retracts: bool) -> Held {
    let mut net = BTreeMap::new();
    for row in sent.iter().flatten().filter(|row| retracts || row.weight > 0) {
        *net.entry((row.key, row.time, row.origin, row.value)).or_insert(0) += i32::from(row.weight);
    }
    let there = net.into_iter().filter(|(_, weight)| *weight > 0);
    there.map(|((key, _, _, value), _)| (key.to_owned(), value.to_string())).collect()
}

fn write(held: &mut Held, batches: &[Batch]) {
    for batch in batches {
        for row in 0..batch.num_rows() {
            let (new, key) = (value(batch.rows.column(0), row), value(batch.rows.column(1), row));
            if batch.weight(row) > 0 {
                assert_ne!(held.insert(key, new.clone()), Some(new), "what the sink has is not written again");
            } else {
                assert!(held.remove(&key).is_some(), "a tombstone is written for what the sink has");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sink_holds_the_row_with_the_greatest_position(sent in sent(), steps in steps(3), retracts in any::<bool>()) {
        let mut operator = materialize(retracts);
        let mut changelog = Changelog::default();
        let (mut at, mut held) = ([0; 3], Held::new());
        let mut committed = (at, held.clone());
        let end = [Step::Push(2, 1000), Step::Push(0, 1000), Step::Push(1, 1000), Step::Commit(1)];
        for step in steps.into_iter().chain(end) {
            match step {
                Step::Push(sender, count) => {
                    let to = sent[sender].len().min(at[sender] + count);
                    for row in &sent[sender][at[sender]..to] {
                        if retracts || row.weight > 0 {
                            operator.push(0, sink_batch(row), &mut Output::default()).unwrap();
                        }
                    }
                    at[sender] = to;
                }
                Step::Commit(slice) => {
                    let mut out = Output::default();
                    operator.flush(&mut out).unwrap();
                    write(&mut held, &out.batches);
                    changelog.commit(&mut operator, Watermark::MIN, slice);
                    committed = (at, held.clone());
                }
                Step::Fail => {
                    operator.undo();
                    (at, held) = committed.clone();
                }
                Step::Crash(from_image) => {
                    operator.undo();
                    (at, held) = committed.clone();
                    let mut fresh = materialize(retracts);
                    match from_image {
                        true => changelog.restore_image(&operator.image(2).unwrap(), &mut fresh),
                        false => changelog.restore(&mut fresh),
                    }
                    prop_assert_eq!(operator.len(), fresh.len());
                    operator = fresh;
                }
            }
        }
        prop_assert_eq!(&held, &naive_sink(&sent, retracts));
        if !retracts {
            prop_assert_eq!(operator.len(), held.len(), "only the row that is shown is kept");
        }
    }
}

#[test]
fn a_sink_planned_without_retractions_refuses_them() {
    let row = SinkRow { time: 0, key: "a", value: 1, weight: -1, origin: (false, 0, 0) };
    let error = materialize(false).push(0, sink_batch(&row), &mut Output::default()).unwrap_err();
    assert_eq!(error.message, "rows are taken back before a sink that was planned without retractions");
}
