//! The model's joins AS OF.

use std::collections::BTreeSet;

use crate::case::{Join, Type, Value};
use crate::expression::{Failed, evaluate, passes, truth};
use crate::model::{END, Model, Row, Version, by_position, ends, lookup, lowest, names};
use crate::plan;

impl Model<'_> {
    pub fn edges_of_join(&self, join: &Join) -> Vec<i64> {
        let (left, table) = (self.edges(&join.left), &self.edges[join.table]);
        match plan::apart(self.case, join) {
            true => lowest(&Model::shuffled(&left), &Model::shuffled(table)),
            false => lowest(&left, table),
        }
    }

    pub fn join(&mut self, join: &Join, needed: &BTreeSet<String>) -> Vec<Row> {
        let kept: Vec<_> =
            join.columns.iter().filter(|column| needed.contains(&column.name)).map(|column| &column.expr).collect();
        let used = names(kept.into_iter().chain(&join.filter).chain(&join.on).chain([&join.key]));
        let of_left = join.left.columns(self.case).into_iter().map(|(name, _)| name);
        let below = of_left.filter(|name| used.contains(&format!("l.{name}")) || *name == join.time).collect();
        self.used[join.table].extend(used.iter().filter_map(|name| name.strip_prefix("r.")).map(str::to_owned));
        let (scope, edges, apart) = (join.scope(self.case), self.edges_of_join(join), plan::apart(self.case, join));
        self.count(if apart { "joins that are shuffled" } else { "joins that are not" }, 1);
        let mut rows = Vec::new();
        for row in self.rows(&join.left, &below) {
            let Some(copies) = self.copies(join, &row) else { continue };
            if !row.derived && row.place.0 < row.watermark {
                self.count("rows late for a join", 1);
                self.late(&row);
                continue;
            }
            let task = if apart { 0 } else { row.task };
            if edges[task] != END && row.place.0 >= edges[task] {
                self.count("rows that wait for a join", 1);
                continue;
            }
            for left in copies {
                rows.extend(self.joined(join, needed, &scope, Row { values: left, task, ..row.clone() }));
            }
        }
        if !apart {
            rows.sort_by(|a, b| a.task.cmp(&b.task).then_with(|| by_position(a, b)));
        }
        rows
    }

    /// The left side's values, once for each window; `None`: the row goes no further.
    fn copies(&mut self, join: &Join, row: &Row) -> Option<Vec<Vec<Value>>> {
        let Some(window) = &join.window else { return Some(vec![row.values.clone()]) };
        let columns = join.left.columns(self.case);
        let data_type = columns.iter().find(|(name, _)| *name == window.time).expect("is a column").1;
        let Some(ends) = ends(window, &lookup(&columns, &row.values)(&window.time), data_type) else {
            self.fail(row, "time");
            return None;
        };
        if ends.is_empty() {
            self.count("rows in no window", 1);
            return None;
        }
        let edges = |end: i64| [Value::Int(end / 1000 - window.size_ms), Value::Int(end / 1000), Value::Int(end / 1000 - 1)];
        Some(ends.into_iter().map(|end| row.values.iter().cloned().chain(edges(end)).collect()).collect())
    }

    fn joined(&mut self, join: &Join, needed: &BTreeSet<String>, scope: &[(String, Type)], row: Row) -> Option<Row> {
        let width = self.case.sources[join.table].columns().len();
        let nothing = || vec![Value::Null; width];
        let left: Vec<Value> = row.values.iter().cloned().chain(nothing()).collect();
        let key = evaluate(&join.key, &lookup(scope, &left)).expect("keys do not fail");
        let found = self.found(join, &key, row.place.0).map(|version| version.row.values);
        let mut values: Vec<Value> = row.values.iter().cloned().chain(found.clone().unwrap_or_else(nothing)).collect();
        let mut matched = found.is_some();
        if let (true, Some(on)) = (matched, &join.on) {
            match truth(on, &lookup(scope, &values)) {
                Err(Failed) => {
                    self.count("ON failed", 1);
                    self.fail(&row, "expression");
                    return None;
                }
                Ok(truth) => matched = truth == Some(true),
            }
            self.count("rows that ON refused", u64::from(!matched));
        }
        match (matched, join.outer) {
            (true, _) => self.count("rows that joined a version", 1),
            (false, true) => self.count("rows that a LEFT JOIN kept", 1),
            (false, false) => {
                self.count("rows that joined nothing", 1);
                return None;
            }
        }
        if !matched {
            values = left;
        }
        let of = lookup(scope, &values);
        let columns = passes(&join.filter, &of).and_then(|passed| {
            let value = |name: &str, expr| if needed.contains(name) { evaluate(expr, &of) } else { Ok(Value::Null) };
            let columns = || join.columns.iter().map(|column| value(&column.name, &column.expr)).collect::<Result<Vec<_>, _>>();
            if passed { columns().map(Some) } else { Ok(None) }
        });
        match columns {
            Ok(columns) => columns.map(|values| Row { values, ..row }),
            Err(Failed) => {
                self.fail(&row, "expression");
                None
            }
        }
    }

    /// The version that held at a time: the newest that is not above it, by effective time and offset. One older than all of them may
    /// join the first, among those whose partition had not passed the time when they came.
    fn found(&mut self, join: &Join, key: &Value, time: i64) -> Option<Version> {
        if *key == Value::Null {
            return None;
        }
        let mut versions: Vec<&Version> = self.tables[join.table].iter().filter(|version| version.key == *key).collect();
        versions.sort_by_key(|version| (version.effective, version.row.place.3));
        let held = versions.iter().rev().find(|version| version.effective <= time);
        let first_known = self.case.sources[join.table].table.as_ref().is_some_and(|table| table.first_known);
        let first = || versions.iter().find(|version| first_known && version.row.watermark <= time);
        let found = held.or_else(first).map(|version| Version::clone(version));
        if held.is_none() && found.is_some() {
            self.count("rows that joined the first version", 1);
        }
        if found.as_ref().is_some_and(|version| version.tombstone) {
            self.count("rows that found a tombstone", 1);
        }
        found.filter(|version| !version.tombstone)
    }
}
