//! The naive model: it knows the whole input, keeps every row, and computes what DESIGN section 1 says, with no code of the engine.
//!
//! `ingest` reads the inputs, `group` aggregates, `join` joins, and here stand what is left and how rows come into sinks.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::case::{Case, Expr, Relation, Select, Sink, Statement, Type, Value, Window};
use crate::expression::{Failed, evaluate, micros, order_of_rows, passes};
use crate::plan;

/// No watermark yet.
pub const NONE: i64 = i64::MIN;
/// Nothing more will come.
pub const END: i64 = i64::MAX;

/// What every run must leave.
#[derive(Debug, Default)]
pub struct Expected {
    /// By sink: rows of (column, type, value).
    pub sinks: Vec<Vec<Vec<(String, Type, Value)>>>,
    /// Source, partition, offset, class.
    pub dead: BTreeSet<(usize, i32, i64, &'static str)>,
    pub late: BTreeSet<(usize, i32, i64)>,
    /// How often each thing happened.
    pub counts: BTreeMap<String, u64>,
}

/// A row's place among those that order decides about: time, source, partition, offset.
pub type Place = (i64, usize, i32, i64);

#[derive(Clone, Debug)]
pub struct Row {
    pub values: Vec<Value>,
    /// The partition number: rows of one number are computed together. Behind a shuffle all are 0, for they all know the same.
    pub task: usize,
    pub place: Place,
    /// What its partition had reached just before it.
    pub watermark: i64,
    /// No record stands behind it.
    pub derived: bool,
    /// Whether it still is there. A table's row that was replaced is looked at all the same: expressions were tried on it.
    pub live: bool,
}

/// A record of a table.
#[derive(Clone, Debug)]
pub struct Version {
    pub key: Value,
    pub row: Row,
    pub tombstone: bool,
    /// The larger of its event time and its row watermark.
    pub effective: i64,
}

pub fn expected(case: &Case) -> Expected {
    let mut model = Model {
        case,
        streams: vec![Vec::new(); case.sources.len()],
        tables: vec![Vec::new(); case.sources.len()],
        edges: case.sources.iter().map(|source| vec![END; source.partitions as usize]).collect(),
        highest: None,
        used: vec![BTreeSet::new(); case.sources.len()],
        found: Expected::default(),
    };
    // Over nothing, to see which columns are read.
    for statement in &case.statements {
        model.written(statement);
    }
    model.found = Expected::default();
    model.ingest();
    for sink in 0..case.sinks.len() {
        let mut rows = Vec::new();
        for statement in case.statements.iter().filter(|statement| statement.sink == sink) {
            rows.extend(model.written(statement));
        }
        model.found.sinks.push(rows);
    }
    let found = &mut model.found;
    found.counts.insert("late rows".into(), found.late.len() as u64);
    for (_, _, _, class) in found.dead.clone() {
        *found.counts.entry(format!("dead letters: {class}")).or_default() += 1;
    }
    model.found
}

pub struct Model<'a> {
    pub case: &'a Case,
    /// Accepted rows by source, each partition in offset order.
    pub streams: Vec<Vec<Row>>,
    /// Accepted records of tables, by source, each partition in offset order.
    pub tables: Vec<Vec<Version>>,
    /// What every partition has reached at the end, by source and partition.
    pub edges: Vec<Vec<i64>>,
    /// The highest event time of an accepted row of any stream.
    pub highest: Option<i64>,
    /// Columns that a statement reads, by source.
    pub used: Vec<BTreeSet<String>>,
    pub found: Expected,
}

impl Model<'_> {
    pub fn count(&mut self, what: &str, times: u64) {
        *self.found.counts.entry(what.to_owned()).or_default() += times;
    }

    /// The source whose topic a stream reads.
    pub fn topic(&self, source: usize) -> usize {
        self.case.sources[source].reads.unwrap_or(source)
    }

    pub fn dead(&mut self, source: usize, partition: i32, offset: i64, class: &'static str) {
        if self.case.sources[source].dropped.contains(&class) {
            self.count("bad records dropped", 1);
        } else {
            self.found.dead.insert((self.topic(source), partition, offset, class));
        }
    }

    /// A row on which an expression failed: a record is a dead letter, a derived row is withdrawn.
    pub fn fail(&mut self, row: &Row, class: &'static str) {
        if row.derived {
            self.count("withdrawn rows", 1);
        } else {
            self.dead(row.place.1, row.place.2, row.place.3, class);
        }
    }

    pub fn late(&mut self, row: &Row) {
        let topic = self.topic(row.place.1);
        self.found.late.insert((topic, row.place.2, row.place.3));
    }

    /// What a statement leaves in its sink.
    fn written(&mut self, statement: &Statement) -> Vec<Vec<(String, Type, Value)>> {
        let sink = &self.case.sinks[statement.sink];
        let columns = statement.query.columns(self.case);
        let all = columns.iter().map(|(name, _)| name.clone()).collect();
        let mut rows = self.rows(&statement.query, &all);
        rows.retain(|row| !self.without_bare_key(sink, &columns, row));
        rows.retain(|row| row.live);
        self.count(&statement.shape(self.case), 1);
        if !sink.key.is_empty() {
            rows = self.last_of_each_key(statement, &columns, rows);
        }
        let named = |row: Row| columns.iter().zip(row.values).map(|((name, t), value)| (name.clone(), *t, value)).collect();
        rows.into_iter().map(named).collect()
    }

    /// A bare key can't be NULL: such a row can't be written.
    fn without_bare_key(&mut self, sink: &Sink, columns: &[(String, Type)], row: &Row) -> bool {
        let null = sink.bare_key.is_some() && lookup(columns, &row.values)(&sink.key[0]) == Value::Null;
        if null {
            self.fail(row, "key");
        }
        null
    }

    /// The last row of each key: in the order in which they come, or, where rows of several tasks meet, by their position.
    fn last_of_each_key(&mut self, statement: &Statement, columns: &[(String, Type)], rows: Vec<Row>) -> Vec<Row> {
        let key = &self.case.sinks[statement.sink].key;
        let meet = plan::materialized(self.case, &statement.query, key);
        let mut last: BTreeMap<String, Row> = BTreeMap::new();
        for row in rows {
            let key: Vec<Value> = key.iter().map(|name| lookup(columns, &row.values)(name)).collect();
            let key = format!("{key:?}");
            let former = last.get(&key);
            if former.is_some() && meet {
                self.count("rows that met under a sink's key", 1);
            }
            if former.is_none_or(|former| !meet || by_position(former, &row).is_lt()) {
                last.insert(key, row);
            }
        }
        last.into_values().collect()
    }

    /// Rows of a relation, those of one task in the order in which it gives them. Columns that nobody needs stay NULL.
    pub fn rows(&mut self, relation: &Relation, needed: &BTreeSet<String>) -> Vec<Row> {
        match relation {
            Relation::Source(source) => {
                self.used[*source].extend(needed.iter().cloned());
                if self.case.sources[*source].table.is_some() { self.current(*source) } else { self.streams[*source].clone() }
            }
            Relation::Union(branches) => branches.iter().flat_map(|branch| self.rows(branch, needed)).collect(),
            Relation::Select(select) => self.select(select, needed),
            Relation::Aggregate(aggregate) => self.aggregate(aggregate, needed),
            Relation::Join(join) => self.join(join, needed),
        }
    }

    /// A table's records as rows: of each key that of the highest offset is there, unless it is a tombstone.
    fn current(&mut self, source: usize) -> Vec<Row> {
        let versions = self.tables[source].clone();
        let last: BTreeMap<String, i64> = versions.iter().map(|v| (format!("{:?}", v.key), v.row.place.3)).collect();
        let gone = versions.iter().filter(|v| v.tombstone && last[&format!("{:?}", v.key)] == v.row.place.3).count();
        self.count("rows of a table that are gone at the end", gone as u64);
        let row = |version: Version| {
            let live = last[&format!("{:?}", version.key)] == version.row.place.3;
            Row { live, watermark: NONE, ..version.row }
        };
        versions.into_iter().filter(|version| !version.tombstone).map(row).collect()
    }

    fn select(&mut self, select: &Select, needed: &BTreeSet<String>) -> Vec<Row> {
        let columns = select.input.columns(self.case);
        let kept: Vec<_> = select.columns.iter().filter(|column| needed.contains(&column.name)).collect();
        let below = names(kept.iter().map(|column| &column.expr).chain(&select.filter));
        let mut rows = Vec::new();
        for row in self.rows(&select.input, &below) {
            let of = lookup(&columns, &row.values);
            let values = match passes(&select.filter, &of) {
                Ok(false) => continue,
                Ok(true) => {
                    let value = |name: &str, expr| if needed.contains(name) { evaluate(expr, &of) } else { Ok(Value::Null) };
                    select.columns.iter().map(|column| value(&column.name, &column.expr)).collect::<Result<Vec<_>, _>>()
                }
                Err(failed) => Err(failed),
            };
            match values {
                Ok(values) => rows.push(Row { values, ..row }),
                Err(Failed) => self.fail(&row, "expression"),
            }
        }
        rows
    }

    /// How far each task's rows are at the end, behind a shuffle all of them as one: a receiver is as far as its last sender.
    pub fn edges(&self, relation: &Relation) -> Vec<i64> {
        match relation {
            Relation::Source(source) => self.edges[*source].clone(),
            Relation::Select(select) => self.edges(&select.input),
            Relation::Union(branches) => {
                branches.iter().map(|branch| self.edges(branch)).reduce(|a, b| lowest(&a, &b)).expect("branches")
            }
            Relation::Aggregate(aggregate) => {
                let edges = self.edges_of_aggregate(aggregate);
                // A result's time is in whole milliseconds.
                let cut = |edge: i64| if [NONE, END].contains(&edge) { edge } else { edge.div_euclid(1000) * 1000 };
                edges.into_iter().map(|edge| if aggregate.window.is_some() { cut(edge) } else { edge }).collect()
            }
            Relation::Join(join) => self.edges_of_join(join),
        }
    }

    /// The lowest of all tasks.
    pub fn shuffled(edges: &[i64]) -> Vec<i64> {
        vec![edges.iter().copied().min().unwrap_or(END)]
    }
}

/// Task by task; one that has no partition of an input waits for nothing there.
pub fn lowest(a: &[i64], b: &[i64]) -> Vec<i64> {
    let of = |edges: &[i64], task: usize| edges.get(task).copied().unwrap_or(END);
    (0..a.len().max(b.len())).map(|task| of(a, task).min(of(b, task))).collect()
}

/// Event time, records before derived rows, source, partition, offset, and the rows themselves where nothing else tells them apart.
pub fn by_position(a: &Row, b: &Row) -> Ordering {
    let place = |row: &Row| (row.place.0, row.derived, row.place);
    place(a).cmp(&place(b)).then_with(|| order_of_rows(&a.values, &b.values))
}

/// Ends of the windows in which a time lies, microseconds; `None` where they do not fit.
pub fn ends(window: &Window, time: &Value, data_type: Type) -> Option<Vec<i64>> {
    let time = i128::from(micros(time, data_type)?);
    let size = i128::from(window.size_ms) * 1000;
    let slide = i128::from(window.slide_ms.unwrap_or(window.size_ms)) * 1000;
    let offset = i128::from(window.offset_ms) * 1000;
    let mut start = offset + (time - offset).div_euclid(slide) * slide;
    // A time before which no window can be named is out of range, whether or not it lies in one.
    i64::try_from(start).ok()?;
    let mut ends = Vec::new();
    // The earliest window first.
    while start > time - size {
        ends.insert(0, start + size);
        i64::try_from(start).ok()?;
        start -= slide;
    }
    ends.into_iter().map(|end| i64::try_from(end).ok()).collect()
}

pub fn lookup<'a>(columns: &'a [(String, Type)], values: &'a [Value]) -> impl Fn(&str) -> Value + Copy + 'a {
    move |name| {
        let at = columns.iter().position(|(column, _)| column == name).unwrap_or_else(|| panic!("{name} is not of {columns:?}"));
        values[at].clone()
    }
}

/// The columns that expressions use.
pub fn names<'a>(exprs: impl IntoIterator<Item = &'a Expr>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left: Vec<&Expr> = exprs.into_iter().collect();
    while let Some(expr) = left.pop() {
        if let Expr::Column(name) = expr {
            found.insert(name.clone());
        }
        left.extend(expr.parts());
    }
    found
}
