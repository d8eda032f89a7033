//! The model's way in: which records are rows, and what every partition has reached before and at the end.

use std::collections::BTreeSet;

use crate::case::{Body, Case, Line, Record, Relation, Value, Window};
use crate::expression::{Failed, evaluate, micros, truth};
use crate::model::{END, Model, NONE, Row, Version, lookup, names};

const DAY_MS: i64 = 86_400_000;

impl<'a> Model<'a> {
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

    pub fn ingest(&mut self) {
        let of_source = |value: i64| self.case.sources.iter().map(|source| vec![value; source.partitions as usize]).collect();
        let (mut next, mut marks): (Vec<Vec<i64>>, Vec<Vec<i64>>) = (of_source(0), of_source(NONE));
        let mut idle = BTreeSet::new();
        for (source, line) in self.arrivals() {
            match line {
                Line::Record(record) => {
                    idle.remove(&(source, record.partition as usize));
                    let at = record.partition as usize;
                    let offset = next[source][at];
                    next[source][at] += 1;
                    self.accept(source, offset, record, &mut marks[source][at]);
                }
                Line::Idle { partition } => {
                    let place = (source, *partition as usize);
                    idle.insert(place);
                    self.raise(&mut marks, place, &idle);
                }
                Line::Quiet => {
                    let streams = self.streams_with_time();
                    idle.extend(streams.iter().flat_map(|s| (0..marks[*s].len()).map(move |p| (*s, p))));
                    self.close(&mut marks, &streams);
                }
            }
        }
        if marks.iter().any(|marks| marks.len() != self.case.sources[0].partitions as usize) {
            self.count("unequal partitions", 1);
        }
        let end = |mark: i64| if self.case.finish { END } else { mark };
        self.edges = marks.into_iter().map(|marks| marks.into_iter().map(end).collect()).collect();
    }

    /// An idle partition goes to the lowest of those that move, or to the highest if none does.
    fn raise(&mut self, marks: &mut [Vec<i64>], place: (usize, usize), idle: &BTreeSet<(usize, usize)>) {
        // A stream without WATERMARK has no event time that others could wait for.
        let timed = |s: &usize| self.case.sources[*s].time.is_some() || self.case.sources[*s].table.is_some();
        let all: Vec<(usize, usize)> =
            (0..marks.len()).filter(timed).flat_map(|s| (0..marks[s].len()).map(move |p| (s, p))).collect();
        let mark_of = |(s, p): &(usize, usize)| marks[*s][*p];
        let others = all.iter().filter(|place| !idle.contains(*place)).map(mark_of).min();
        let to = others.unwrap_or_else(|| all.iter().map(mark_of).max().unwrap_or(NONE));
        let mark = &mut marks[place.0][place.1];
        if to > *mark {
            *mark = to;
            self.count(if self.case.sources[place.0].table.is_some() { "idle raises of tables" } else { "idle raises" }, 1);
        }
    }

    fn streams_with_time(&self) -> Vec<usize> {
        let sources = self.case.sources.iter().enumerate();
        sources.filter(|(_, source)| source.table.is_none() && source.time.is_some()).map(|(at, _)| at).collect()
    }

    /// Everything is quiet until all windows have closed that a row so far can lie in, and all rows have met their versions.
    fn close(&mut self, marks: &mut [Vec<i64>], streams: &[usize]) {
        let Some(highest) = self.highest else { return };
        let waits = self.case.statements.iter().filter_map(|statement| self.waits(&statement.query, highest).1);
        let Some(to) = waits.max().filter(|to| *to < END) else { return };
        for stream in streams {
            let behind: Vec<&mut i64> = marks[*stream].iter_mut().filter(|mark| **mark < to).collect();
            self.count("quiet raises", behind.len() as u64);
            behind.into_iter().for_each(|mark| *mark = to);
        }
    }

    /// The latest time of a relation's rows, and what the watermark has to reach until they are all through.
    fn waits(&self, relation: &Relation, highest: i64) -> (Option<i64>, Option<i64>) {
        match relation {
            Relation::Source(source) => (self.streams_with_time().contains(source).then_some(highest), None),
            Relation::Select(select) => self.waits(&select.input, highest),
            Relation::Union(branches) => {
                let of_branches: Vec<_> = branches.iter().map(|branch| self.waits(branch, highest)).collect();
                let (latest, waits): (Vec<_>, Vec<_>) = of_branches.into_iter().unzip();
                (latest.into_iter().flatten().max(), waits.into_iter().flatten().max())
            }
            Relation::Aggregate(aggregate) => {
                let (latest, waits) = self.waits(&aggregate.input, highest);
                let Some(window) = &aggregate.window else { return (latest, waits) };
                let end = latest.and_then(|latest| last_end(window, latest));
                (end.map(|end| end - 1000).or(latest), waits.max(end))
            }
            Relation::Join(join) => {
                let (latest, waits) = self.waits(&join.left, highest);
                // A row goes when the watermark is above its time; windows' rows are at whole milliseconds.
                let above = latest.and_then(|latest| (latest.div_euclid(1000) + 1).checked_mul(1000));
                (latest, waits.max(above))
            }
        }
    }

    fn accept(&mut self, source: usize, offset: i64, record: &Record, mark: &mut i64) {
        let partition = record.partition;
        let declared = &self.case.sources[source];
        let table = declared.table.is_some();
        let mut values = match &record.body {
            Body::Bad(bad) => return self.dead(source, partition, offset, bad.class()),
            // A tombstone has nothing but its key and its record's timestamp.
            Body::Null if table && record.key == Value::Null => return self.dead(source, partition, offset, "key"),
            Body::Null if table => {
                let at = record.timestamp.unwrap_or(0) * 1000;
                return self.version(source, record, offset, (at, Vec::new()), mark);
            }
            Body::Null if declared.tombstones => return self.dead(source, partition, offset, "null"),
            Body::Null => return self.count("null values skipped", 1),
            Body::Good { values, .. } => values.clone(),
        };
        if table {
            let in_value = declared.fields.iter().position(|field| field.name == declared.key.column);
            if record.key == Value::Null || in_value.is_some_and(|at| values[at] != record.key) {
                return self.dead(source, partition, offset, "key");
            }
        }
        if declared.key.only {
            let read = || self.used[source].iter().cloned().chain(names(declared.checks.iter().map(|check| &check.expr)));
            if declared.key.avro && record.key == Value::Null && read().any(|name| name == declared.key.column) {
                // The key's contract has no NULL. A key that nobody reads is not looked at.
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
                Ok(Some(false)) => {
                    self.count(if table { "versions refused by a check" } else { "rows refused by a check" }, 1);
                    return if check.drop {
                        self.count("checks dropped", 1)
                    } else {
                        self.dead(source, partition, offset, "check")
                    };
                }
                Ok(_) => {}
            }
        }
        let stamp = record.timestamp.unwrap_or(0) * 1000;
        let Some(time) = &declared.time else {
            if table {
                return self.version(source, record, offset, (stamp, values), mark);
            }
            let place = (stamp, source, partition, offset);
            return self.streams[source].push(Row { values, watermark: NONE, ..row(partition, place) });
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
        if table {
            return self.version(source, record, offset, (at, values), mark);
        }
        let place = (at, source, partition, offset);
        self.streams[source].push(Row { values, watermark: *mark, ..row(partition, place) });
        self.observe(source, at, mark);
    }

    /// A table's record; no values: a tombstone.
    fn version(&mut self, source: usize, record: &Record, offset: i64, (at, values): (i64, Vec<Value>), mark: &mut i64) {
        let tombstone = values.is_empty();
        let place = (at, source, record.partition, offset);
        let row = Row { values, watermark: *mark, ..row(record.partition, place) };
        self.count("tombstones", u64::from(tombstone));
        self.count("versions older than their table", u64::from(at < *mark));
        let former = self.tables[source].iter().rev().find(|version| version.key == record.key);
        let returned = !tombstone && former.is_some_and(|former| former.tombstone);
        self.count("keys that came back", u64::from(returned));
        self.tables[source].push(Version { key: record.key.clone(), row, tombstone, effective: at.max(*mark) });
        self.observe(source, at, mark);
    }

    fn observe(&mut self, source: usize, at: i64, mark: &mut i64) {
        if self.case.sources[source].table.is_none() {
            self.highest = self.highest.max(Some(at));
        }
        let delay_ms = self.case.sources[source].time.as_ref().map_or(0, |time| time.delay_ms);
        *mark = (*mark).max(at.saturating_sub(delay_ms * 1000).max(NONE + 1));
    }
}

/// End of the last window that begins at or before a time.
fn last_end(window: &Window, time: i64) -> Option<i64> {
    let [size, slide, offset] =
        [window.size_ms, window.slide_ms.unwrap_or(window.size_ms), window.offset_ms].map(|ms| i128::from(ms) * 1000);
    let start = offset + (i128::from(time) - offset).div_euclid(slide) * slide;
    i64::try_from(start + size).ok()
}

fn row(partition: i32, place: (i64, usize, i32, i64)) -> Row {
    Row { values: Vec::new(), task: partition as usize, place, watermark: NONE, derived: false, live: true }
}

/// The lines of all inputs: merged by timestamp, no line before one of its own topic.
fn in_order(case: &Case) -> Vec<(usize, &Line)> {
    let mut queues: Vec<(&str, usize, Vec<(i64, &Line)>)> = Vec::new();
    for (at, source) in case.sources.iter().enumerate() {
        let mut highest = i64::MIN;
        let mut queue = Vec::new();
        for line in &source.lines {
            let stamp = if let Line::Record(record) = line { record.timestamp.unwrap_or(-1) } else { -1 };
            highest = highest.max(stamp);
            queue.push((highest, line));
        }
        queue.reverse();
        queues.push((&source.name, at, queue));
    }
    // Of equal timestamps the topic's name decides.
    queues.sort_by_key(|(name, ..)| *name);
    let mut merged = Vec::new();
    while let Some((_, next)) = (0..queues.len()).filter_map(|q| queues[q].2.last().map(|(at, _)| (*at, q))).min() {
        let source = queues[next].1;
        merged.extend(queues[next].2.pop().map(|(_, line)| (source, line)));
    }
    merged
}
