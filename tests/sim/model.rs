//! The naive model: it knows the whole input, keeps every row, and computes what DESIGN section 1 says, with no code of the engine.

use std::collections::{BTreeMap, BTreeSet};

use crate::case::{Aggregate, Body, Case, GroupBy, Line, Record, Relation, Select, Sink, Type, Value, Window};
use crate::expression::{Failed, evaluate, micros, passes, truth};
use crate::total::result;

/// No watermark yet.
const NONE: i64 = i64::MIN;
const DAY_MS: i64 = 86_400_000;

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

/// A row's place among those that order decides about: time, source, partition, offset; derived rows count within their task.
pub type Place = (i64, usize, i32, i64);

#[derive(Clone, Debug)]
struct Row {
    values: Vec<Value>,
    /// The partition number: rows of one number are computed together.
    task: i32,
    place: Place,
    /// What its partition had reached just before it.
    watermark: i64,
    derived: bool,
}

pub fn expected(case: &Case) -> Expected {
    let mut model = Model { case, streams: vec![Vec::new(); case.sources.len()], edges: Vec::new(), found: Expected::default() };
    model.ingest();
    for sink in 0..case.sinks.len() {
        let mut rows = Vec::new();
        for statement in case.statements.iter().filter(|statement| statement.sink == sink) {
            let columns = statement.query.columns(case);
            let all = columns.iter().map(|(name, _)| name.clone()).collect();
            for row in model.rows(&statement.query, &all) {
                if model.without_bare_key(&case.sinks[sink], &columns, &row) {
                    continue;
                }
                rows.push(
                    columns.iter().zip(row.values).map(|((name, data_type), value)| (name.clone(), *data_type, value)).collect(),
                );
            }
            model.count(&statement.shape(case), 1);
        }
        model.found.sinks.push(table(&case.sinks[sink], rows));
    }
    let found = &mut model.found;
    found.counts.insert("late rows".into(), found.late.len() as u64);
    for (_, _, _, class) in found.dead.clone() {
        *found.counts.entry(format!("dead letters: {class}")).or_default() += 1;
    }
    model.found
}

/// The last value per key; all rows of an append sink.
fn table(sink: &Sink, rows: Vec<Vec<(String, Type, Value)>>) -> Vec<Vec<(String, Type, Value)>> {
    if sink.key.is_empty() {
        return rows;
    }
    let mut last = BTreeMap::new();
    for row in rows {
        let key: Vec<&Value> =
            sink.key.iter().map(|name| &row.iter().find(|(n, ..)| n == name).expect("in the query").2).collect();
        last.insert(format!("{key:?}"), row);
    }
    last.into_values().collect()
}

struct Model<'a> {
    case: &'a Case,
    /// Accepted rows by source, each partition in offset order.
    streams: Vec<Vec<Row>>,
    /// What every partition has reached at the end, by source and partition.
    edges: Vec<Vec<i64>>,
    found: Expected,
}

impl<'a> Model<'a> {
    fn count(&mut self, what: &str, times: u64) {
        *self.found.counts.entry(what.to_owned()).or_default() += times;
    }

    /// The source whose topic a stream reads.
    fn topic(&self, source: usize) -> usize {
        self.case.sources[source].reads.unwrap_or(source)
    }

    fn dead(&mut self, source: usize, partition: i32, offset: i64, class: &'static str) {
        if self.case.sources[source].dropped.contains(&class) {
            self.count("bad records dropped", 1);
        } else {
            self.found.dead.insert((self.topic(source), partition, offset, class));
        }
    }

    /// A row on which an expression failed: a record is a dead letter, a derived row is withdrawn.
    fn fail(&mut self, row: &Row, class: &'static str) {
        if row.derived {
            self.count("withdrawn rows", 1);
        } else {
            self.dead(row.place.1, row.place.2, row.place.3, class);
        }
    }

    /// A bare key can't be NULL: such a row can't be written.
    fn without_bare_key(&mut self, sink: &Sink, columns: &[(String, Type)], row: &Row) -> bool {
        let null = sink.bare_key.is_some() && lookup(columns, &row.values)(&sink.key[0]) == Value::Null;
        if null {
            self.fail(row, "key");
        }
        null
    }

    /// Every line once per stream that reads its topic. A stream that no statement uses is not read.
    fn arrivals(&self) -> Vec<(usize, &'a Line)> {
        let used: BTreeSet<usize> = self.case.statements.iter().flat_map(|statement| statement.query.sources()).collect();
        let mut arrivals = Vec::new();
        for (topic, line) in in_order(self.case) {
            let streams = used.iter().filter(|stream| self.topic(**stream) == topic);
            arrivals.extend(streams.map(|stream| (*stream, line)));
        }
        arrivals
    }

    fn ingest(&mut self) {
        let partitions = self.case.partitions;
        let mut next = vec![vec![0i64; partitions as usize]; self.case.sources.len()];
        let mut marks = vec![vec![NONE; partitions as usize]; self.case.sources.len()];
        let mut idle = BTreeSet::new();
        for (source, line) in self.arrivals() {
            match line {
                Line::Record(record) => {
                    idle.remove(&(source, record.partition));
                    let at = record.partition as usize;
                    let offset = next[source][at];
                    next[source][at] += 1;
                    self.accept(source, offset, record, &mut marks[source][at]);
                }
                Line::Idle { partition } => {
                    idle.insert((source, *partition));
                    // A stream without WATERMARK has no event time that others could wait for.
                    let timed = (0..marks.len()).filter(|s| self.case.sources[*s].time.is_some());
                    let all: Vec<(usize, i32)> = timed.flat_map(|s| (0..partitions).map(move |p| (s, p))).collect();
                    let mark_of = |(s, p): &(usize, i32)| marks[*s][*p as usize];
                    let others: Vec<i64> = all.iter().filter(|place| !idle.contains(*place)).map(mark_of).collect();
                    let highest = all.iter().map(mark_of).max().unwrap_or(NONE);
                    let to = others.into_iter().min().unwrap_or(highest);
                    let mark = &mut marks[source][*partition as usize];
                    if to > *mark {
                        self.count("idle raises", 1);
                    }
                    *mark = (*mark).max(to);
                }
            }
        }
        let end = |mark: i64| if self.case.finish { i64::MAX } else { mark };
        self.edges = marks.into_iter().map(|marks| marks.into_iter().map(end).collect()).collect();
    }

    fn accept(&mut self, source: usize, offset: i64, record: &Record, mark: &mut i64) {
        let partition = record.partition;
        let declared = &self.case.sources[source];
        let mut values = match &record.body {
            Body::Null if declared.tombstones => return self.dead(source, partition, offset, "null"),
            Body::Null => return self.count("null values skipped", 1),
            Body::Bad(bad) => return self.dead(source, partition, offset, bad.class()),
            Body::Good { values, .. } => values.clone(),
        };
        if declared.key.only {
            if declared.key.avro && record.key == Value::Null {
                // The key's contract has no NULL.
                return self.dead(source, partition, offset, "key");
            }
            values.push(record.key.clone());
        }
        let columns = declared.columns();
        for column in &declared.computed {
            let value = evaluate(&column.expr, &lookup(&columns, &values)).expect("computed columns do not fail");
            values.push(value);
        }
        for check in &declared.checks {
            match truth(&check.expr, &lookup(&columns, &values)) {
                Err(Failed) => return self.dead(source, partition, offset, "expression"),
                Ok(Some(false)) if check.drop => return self.count("checks dropped", 1),
                Ok(Some(false)) => return self.dead(source, partition, offset, "check"),
                Ok(_) => {}
            }
        }
        let Some(time) = &declared.time else {
            let at = record.timestamp.unwrap_or(0) * 1000;
            let place = (at, source, partition, offset);
            return self.streams[source].push(Row { values, task: partition, place, watermark: NONE, derived: false });
        };
        let value = lookup(&columns, &values)(&time.column);
        if value == Value::Null {
            return self.dead(source, partition, offset, "time");
        }
        let Some(at) = micros(&value, time.data_type) else { return self.dead(source, partition, offset, "time") };
        let max_ahead = i128::from(time.max_ahead_ms.unwrap_or(DAY_MS)) * 1000;
        if record.timestamp.is_some_and(|stamp| i128::from(at) - i128::from(stamp) * 1000 > max_ahead) {
            return self.dead(source, partition, offset, "future");
        }
        let place = (at, source, partition, offset);
        self.streams[source].push(Row { values, task: partition, place, watermark: *mark, derived: false });
        *mark = (*mark).max(at.saturating_sub(time.delay_ms * 1000).max(NONE + 1));
    }

    /// Rows of a relation, those of one task in the order in which it gives them. Columns that nobody needs stay NULL.
    fn rows(&mut self, relation: &Relation, needed: &BTreeSet<String>) -> Vec<Row> {
        match relation {
            Relation::Source(source) => self.streams[*source].clone(),
            Relation::Union(branches) => branches.iter().flat_map(|branch| self.rows(branch, needed)).collect(),
            Relation::Select(select) => self.select(select, needed),
            Relation::Aggregate(aggregate) => self.aggregate(aggregate, needed),
        }
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

    fn aggregate(&mut self, aggregate: &Aggregate, needed: &BTreeSet<String>) -> Vec<Row> {
        let above = aggregate.columns.iter().filter(|column| needed.contains(&column.name)).map(|column| &column.expr);
        let used = names(above.chain(&aggregate.having));
        let groups = self.groups(aggregate, &used);
        let edges: Vec<i64> = (0..self.case.partitions as usize)
            .map(|task| aggregate.input.sources().into_iter().map(|s| self.edges[s][task]).min().expect("has a source"))
            .collect();
        let names: Vec<(String, Type)> = (aggregate.groups.iter().map(|group| (group.name.clone(), group.data_type)))
            .chain(aggregate.calls.iter().map(|call| (call.name.clone(), call.result())))
            .collect();
        let mixed = aggregate.input.mixed();
        let mut rows: Vec<Row> = Vec::new();
        for group in groups {
            let windowed = aggregate.window.is_some();
            if windowed && group.end > edges[group.task as usize] {
                self.count("groups left open", 1);
                continue;
            }
            self.count(if windowed { "window results" } else { "updating groups" }, 1);
            let mut values = group.keys.clone();
            let mut failed = false;
            for (call, args) in aggregate.calls.iter().zip(&group.args) {
                match result(call, args, mixed) {
                    _ if !used.contains(&call.name) => values.push(Value::Null),
                    Ok(value) => values.push(value),
                    Err(Failed) => failed = true,
                }
            }
            let of = lookup(&names, &values);
            let passed = if failed { Err(Failed) } else { passes(aggregate.having.as_slice(), &of) };
            let columns = passed.and_then(|passed| match passed {
                false => Ok(None),
                true => {
                    let value = |name: &str, expr| if needed.contains(name) { evaluate(expr, &of) } else { Ok(Value::Null) };
                    aggregate.columns.iter().map(|c| value(&c.name, &c.expr)).collect::<Result<Vec<_>, _>>().map(Some)
                }
            });
            match columns {
                Err(Failed) => self.count("withdrawn rows", 1),
                Ok(None) => self.count("groups refused by HAVING", 1),
                Ok(Some(values)) => {
                    let place = (group.end.saturating_sub(1000), 0, 0, rows.len() as i64);
                    rows.push(Row { values, task: group.task, place, watermark: NONE, derived: true });
                }
            }
        }
        rows
    }

    /// Ordered by task and window's end.
    fn groups(&mut self, aggregate: &Aggregate, used: &BTreeSet<String>) -> Vec<Members> {
        let columns = aggregate.input.columns(self.case);
        let calls: Vec<_> = aggregate.calls.iter().filter(|call| used.contains(&call.name)).collect();
        let by = aggregate.groups.iter().filter_map(|group| if let GroupBy::Expr(expr) = &group.by { Some(expr) } else { None });
        let args = calls.iter().flat_map(|call| call.filter.iter().chain(call.arg.as_ref().map(|(expr, _)| expr)));
        let mut below = names(by.chain(args).chain(&aggregate.filter));
        below.extend(aggregate.window.iter().map(|window| window.time.clone()));
        let mut groups: BTreeMap<(i32, i64, String), Members> = BTreeMap::new();
        for row in self.rows(&aggregate.input, &below) {
            let of = lookup(&columns, &row.values);
            let ends = match &aggregate.window {
                None => vec![i64::MAX],
                Some(window) => {
                    let data_type = columns.iter().find(|(name, _)| *name == window.time).expect("is a column").1;
                    match ends(window, &of(&window.time), data_type) {
                        Some(ends) => ends,
                        None => {
                            self.fail(&row, "time");
                            continue;
                        }
                    }
                }
            };
            if ends.is_empty() {
                self.count("rows in no window", 1);
                continue;
            }
            // FROM, with its windows, comes before WHERE; lateness is the aggregate's.
            match passes(&aggregate.filter, &of) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(Failed) => {
                    self.fail(&row, "expression");
                    continue;
                }
            }
            let never_late = row.derived || aggregate.window.is_none();
            let open: Vec<i64> = ends.iter().copied().filter(|end| never_late || *end > row.watermark).collect();
            if open.is_empty() {
                let topic = self.topic(row.place.1);
                self.found.late.insert((topic, row.place.2, row.place.3));
                continue;
            }
            if open.len() < ends.len() {
                self.count("rows late for some windows", 1);
            }
            let evaluated = aggregate.calls.iter().map(|call| -> Result<Option<Value>, Failed> {
                if !used.contains(&call.name) || !passes(call.filter.as_slice(), &of)? {
                    return Ok(None);
                }
                call.arg.as_ref().map_or(Ok(Value::Bool(true)), |(expr, _)| evaluate(expr, &of)).map(Some)
            });
            let Ok(args) = evaluated.collect::<Result<Vec<_>, Failed>>() else {
                self.fail(&row, "expression");
                continue;
            };
            for end in open {
                let start = end - aggregate.window.as_ref().map_or(0, |window| window.size_ms * 1000);
                let keys = aggregate.groups.iter().map(|group| match &group.by {
                    GroupBy::WindowStart => Value::Int(start / 1000),
                    GroupBy::WindowEnd => Value::Int(end / 1000),
                    GroupBy::WindowTime => Value::Int(end / 1000 - 1),
                    GroupBy::Expr(expr) => evaluate(expr, &of).expect("groups do not fail"),
                });
                let keys: Vec<Value> = keys.collect();
                let group = groups.entry((row.task, end, format!("{keys:?}"))).or_insert_with(|| Members {
                    task: row.task,
                    end,
                    keys,
                    args: vec![Vec::new(); aggregate.calls.len()],
                });
                for (all, arg) in group.args.iter_mut().zip(&args) {
                    all.extend(arg.clone().map(|arg| (row.place, arg)));
                }
            }
        }
        groups.into_values().collect()
    }
}

/// The rows of a group, as the arguments of its calls (those that FILTER leaves).
struct Members {
    task: i32,
    /// Of its window, microseconds.
    end: i64,
    keys: Vec<Value>,
    args: Vec<Vec<(Place, Value)>>,
}

/// Ends of the windows in which a time lies, microseconds; `None` where they do not fit.
fn ends(window: &Window, time: &Value, data_type: Type) -> Option<Vec<i64>> {
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

/// The lines of all inputs: merged by timestamp, no line before one of its own topic.
fn in_order(case: &Case) -> Vec<(usize, &Line)> {
    let mut queues: Vec<Vec<(i64, &Line)>> = Vec::new();
    for source in &case.sources {
        let mut highest = i64::MIN;
        let mut queue = Vec::new();
        for line in &source.lines {
            let stamp = if let Line::Record(record) = line { record.timestamp.unwrap_or(-1) } else { -1 };
            highest = highest.max(stamp);
            queue.push((highest, line));
        }
        queue.reverse();
        queues.push(queue);
    }
    let mut merged = Vec::new();
    while let Some((_, source)) = (0..queues.len()).filter_map(|s| queues[s].last().map(|(at, _)| (*at, s))).min() {
        merged.extend(queues[source].pop().map(|(_, line)| (source, line)));
    }
    merged
}

fn lookup<'a>(columns: &'a [(String, Type)], values: &'a [Value]) -> impl Fn(&str) -> Value + 'a {
    move |name| {
        let at = columns.iter().position(|(column, _)| column == name).unwrap_or_else(|| panic!("{name} is not of {columns:?}"));
        values[at].clone()
    }
}

/// The columns that expressions use.
fn names<'a>(exprs: impl IntoIterator<Item = &'a crate::case::Expr>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left: Vec<&crate::case::Expr> = exprs.into_iter().collect();
    while let Some(expr) = left.pop() {
        if let crate::case::Expr::Column(name) = expr {
            found.insert(name.clone());
        }
        left.extend(expr.parts());
    }
    found
}
