//! The model's aggregates.

use std::collections::{BTreeMap, BTreeSet};

use crate::case::{Aggregate, GroupBy, Type, Value};
use crate::expression::{Failed, evaluate, passes};
use crate::model::{Model, NONE, Place, Row, ends, lookup, names};
use crate::plan;
use crate::total::result;

/// The rows of a group, as the arguments of its calls (those that FILTER leaves).
struct Members {
    task: usize,
    /// Of its window, microseconds.
    end: i64,
    keys: Vec<Value>,
    args: Vec<Vec<(Place, Value)>>,
    /// Of its newest row.
    time: i64,
    /// Where its rows came from.
    origins: BTreeSet<usize>,
}

impl Model<'_> {
    pub fn edges_of_aggregate(&self, aggregate: &Aggregate) -> Vec<i64> {
        let edges = self.edges(&aggregate.input);
        if plan::moved(self.case, aggregate) { Model::shuffled(&edges) } else { edges }
    }

    pub fn aggregate(&mut self, aggregate: &Aggregate, needed: &BTreeSet<String>) -> Vec<Row> {
        let above = aggregate.columns.iter().filter(|column| needed.contains(&column.name)).map(|column| &column.expr);
        let used = names(above.chain(&aggregate.having));
        let groups = self.groups(aggregate, &used);
        let edges = self.edges_of_aggregate(aggregate);
        let inner: Vec<(String, Type)> = (aggregate.groups.iter().map(|group| (group.name.clone(), group.data_type)))
            .chain(aggregate.calls.iter().map(|call| (call.name.clone(), call.result())))
            .collect();
        let order_free = plan::order_free(self.case, aggregate);
        let mut rows: Vec<Row> = Vec::new();
        for group in groups {
            let windowed = aggregate.window.is_some();
            if windowed && group.end > edges[group.task] {
                self.count("groups left open", 1);
                continue;
            }
            self.count(if windowed { "window results" } else { "updating groups" }, 1);
            if group.origins.len() > 1 {
                self.count(if windowed { "windows with rows of several tasks" } else { "groups with rows of several tasks" }, 1);
            }
            let mut values = group.keys.clone();
            let mut failed = false;
            for (call, args) in aggregate.calls.iter().zip(&group.args) {
                match result(call, args, order_free) {
                    _ if !used.contains(&call.name) => values.push(Value::Null),
                    Ok(value) => values.push(value),
                    Err(Failed) => failed = true,
                }
            }
            let of = lookup(&inner, &values);
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
                    let time = if windowed { group.end.saturating_sub(1000) } else { group.time };
                    let place = (time, 0, 0, 0);
                    rows.push(Row { values, task: group.task, place, watermark: NONE, derived: true, live: true });
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
        let in_windows = aggregate.input.in_windows();
        let time = aggregate.window.as_ref().map(|window| if in_windows { "window_end" } else { window.time.as_str() });
        below.extend(time.map(str::to_owned));
        let moved = plan::moved(self.case, aggregate);
        let mut groups: BTreeMap<(usize, i64, String), Members> = BTreeMap::new();
        let mut vanished = BTreeSet::new();
        for row in self.rows(&aggregate.input, &below) {
            let of = lookup(&columns, &row.values);
            let Some(ends) = self.ends_of(aggregate, &row, &columns, in_windows) else { continue };
            // FROM, with its windows, comes before WHERE; lateness is the aggregate's.
            match passes(&aggregate.filter, &of) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(Failed) => {
                    self.fail(&row, "expression");
                    continue;
                }
            }
            let Some(open) = self.open(aggregate, &row, ends) else { continue };
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
                let task = if moved { 0 } else { row.task };
                let place = (task, end, format!("{keys:?}"));
                if !row.live {
                    vanished.insert(place);
                    continue;
                }
                let group = groups.entry(place).or_insert_with(|| Members {
                    task,
                    end,
                    keys,
                    args: vec![Vec::new(); aggregate.calls.len()],
                    time: NONE,
                    origins: BTreeSet::new(),
                });
                group.time = group.time.max(row.place.0);
                group.origins.insert(row.task);
                for (all, arg) in group.args.iter_mut().zip(&args) {
                    all.extend(arg.clone().map(|arg| (row.place, arg)));
                }
            }
        }
        self.count("groups that vanished", vanished.iter().filter(|place| !groups.contains_key(*place)).count() as u64);
        groups.into_values().collect()
    }

    /// Ends of the windows that a row lies in; `None`: it goes no further.
    fn ends_of(&mut self, aggregate: &Aggregate, row: &Row, columns: &[(String, Type)], in_windows: bool) -> Option<Vec<i64>> {
        let Some(window) = &aggregate.window else { return Some(vec![i64::MAX]) };
        if in_windows {
            let Value::Int(end) = lookup(columns, &row.values)("window_end") else { panic!("a window has an end") };
            return Some(vec![end * 1000]);
        }
        let data_type = columns.iter().find(|(name, _)| *name == window.time).expect("is a column").1;
        let time = lookup(columns, &row.values)(&window.time);
        let Some(ends) = ends(window, &time, data_type) else {
            self.fail(row, "time");
            return None;
        };
        if ends.is_empty() {
            self.count("rows in no window", 1);
            return None;
        }
        Some(ends)
    }

    /// Those of the windows that do not refuse the row.
    fn open(&mut self, aggregate: &Aggregate, row: &Row, ends: Vec<i64>) -> Option<Vec<i64>> {
        let never_late = row.derived || aggregate.window.is_none();
        let open: Vec<i64> = ends.iter().copied().filter(|end| never_late || *end > row.watermark).collect();
        if open.is_empty() {
            self.late(row);
            return None;
        }
        if open.len() < ends.len() {
            self.count("rows late for some windows", 1);
        }
        Some(open)
    }
}
