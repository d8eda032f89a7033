//! A failing case, made as small as it can be while it still fails in the same way.

use std::time::{Duration, Instant};

use crate::case::{Aggregate, Case, Expr, Join, Line, Relation, Statement};

/// Shrinks as long as `fails` holds and there is time.
pub fn shrink(case: Case, time: Duration, fails: impl Fn(&Case) -> bool) -> Case {
    let until = Instant::now() + time;
    let mut smallest = case;
    loop {
        let before = smallest.clone();
        smallest = lines(smallest, until, &fails);
        for smaller in parts(&smallest) {
            if Instant::now() > until {
                return smallest;
            }
            if fails(&smaller) {
                smallest = smaller;
                break;
            }
        }
        if smallest == before || Instant::now() > until {
            return smallest;
        }
    }
}

/// Drops lines: halves, quarters, ... single ones.
fn lines(case: Case, until: Instant, fails: &impl Fn(&Case) -> bool) -> Case {
    let mut smallest = case;
    for source in 0..smallest.sources.len() {
        let mut step = smallest.sources[source].lines.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < smallest.sources[source].lines.len() {
                if Instant::now() > until {
                    return smallest;
                }
                let mut smaller = smallest.clone();
                let all = &mut smaller.sources[source].lines;
                all.drain(at..(at + step).min(all.len()));
                if fails(&smaller) { smallest = smaller } else { at += step }
            }
            if step == 1 {
                break;
            }
            step = step.div_ceil(2);
        }
    }
    smallest
}

/// The case with one part less, for each of its parts.
fn parts(case: &Case) -> Vec<Case> {
    let mut smaller = Vec::new();
    for at in 0..case.statements.len() {
        let mut less = case.clone();
        less.statements.remove(at);
        if !less.statements.is_empty() {
            smaller.push(tidy(less));
        }
        for query in queries(&case.statements[at].query) {
            let mut less = case.clone();
            less.statements[at] = Statement { query, ..less.statements[at].clone() };
            smaller.push(tidy(less));
        }
    }
    for at in 0..case.sources.len() {
        let source = |change: &dyn Fn(&mut crate::case::Source)| {
            let mut less = case.clone();
            change(&mut less.sources[at]);
            less
        };
        for check in 0..case.sources[at].checks.len() {
            smaller.push(source(&|source| drop(source.checks.remove(check))));
        }
        smaller.push(source(&|source| source.dropped.clear()));
        smaller.push(source(&|source| source.tombstones = false));
        let second = |line: &crate::case::Line| matches!(line, crate::case::Line::Record(record) if matches!(record.body, crate::case::Body::Good { second: true, .. }));
        if !case.sources[at].lines.iter().any(second) {
            smaller.push(source(&|source| source.second = None));
        }
    }
    smaller.extend(single(case));
    if !case.finish {
        smaller.push(Case { finish: true, ..case.clone() });
    }
    smaller.retain(|less| less != case);
    smaller
}

/// With one partition of each topic: others would have to hold the keys that they are trusted to hold.
fn single(case: &Case) -> Option<Case> {
    let mut less = case.clone();
    for source in &mut less.sources {
        source.partitions = 1;
        source.lines.iter_mut().for_each(|line| match line {
            Line::Record(record) => record.partition = 0,
            Line::Idle { partition } => *partition = 0,
            Line::Quiet => {}
        });
    }
    (less != *case).then_some(less)
}

/// Smaller queries that still give the columns of the sink's key.
fn queries(query: &Relation) -> Vec<Relation> {
    let mut smaller = Vec::new();
    match query {
        Relation::Source(_) => {}
        Relation::Union(branches) => {
            for (at, branch) in branches.iter().enumerate() {
                smaller.push(branch.clone());
                smaller.extend(queries(branch).into_iter().map(|branch| {
                    let mut branches = branches.clone();
                    branches[at] = branch;
                    Relation::Union(branches)
                }));
            }
        }
        Relation::Select(select) => {
            for at in 0..select.filter.len() {
                let mut less = select.clone();
                less.filter.remove(at);
                smaller.push(Relation::Select(less));
            }
            for at in 0..select.columns.len() {
                let mut less = select.clone();
                less.columns.remove(at);
                smaller.push(Relation::Select(less.clone()));
                for part in select.columns[at].expr.parts() {
                    less.columns.clone_from(&select.columns);
                    less.columns[at].expr = part.clone();
                    smaller.push(Relation::Select(less.clone()));
                }
            }
            smaller.extend(queries(&select.input).into_iter().map(|input| {
                let mut less = select.clone();
                less.input = input;
                Relation::Select(less)
            }));
        }
        Relation::Aggregate(aggregate) => {
            smaller.extend(aggregates(aggregate).into_iter().map(|a| Relation::Aggregate(Box::new(a))))
        }
        Relation::Join(join) => smaller.extend(joins(join).into_iter().map(|join| Relation::Join(Box::new(join)))),
    }
    smaller
}

fn joins(join: &Join) -> Vec<Join> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Join)| {
        let mut less = join.clone();
        change(&mut less);
        smaller.push(less);
    };
    with(&|less| less.on = None);
    with(&|less| less.filter.clear());
    with(&|less| less.outer = false);
    for at in 0..join.columns.len() {
        with(&|less| drop(less.columns.remove(at)));
    }
    for part in join.key.parts() {
        with(&|less| less.key = part.clone());
    }
    for left in queries(&join.left) {
        with(&|less| less.left = left.clone());
    }
    smaller
}

fn aggregates(aggregate: &Aggregate) -> Vec<Aggregate> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Aggregate)| {
        let mut less = aggregate.clone();
        change(&mut less);
        smaller.push(less);
    };
    with(&|less| less.having = None);
    with(&|less| less.filter.clear());
    for at in 0..aggregate.columns.len() {
        with(&|less| drop(less.columns.remove(at)));
        for part in aggregate.columns[at].expr.parts() {
            with(&|less| less.columns[at].expr = part.clone());
        }
    }
    for at in 0..aggregate.groups.len() {
        let name = &aggregate.groups[at].name;
        with(&|less| {
            less.groups.remove(at);
            less.columns.retain(|column| column.expr != Expr::column(name));
        });
    }
    for at in 0..aggregate.calls.len() {
        let name = &aggregate.calls[at].name;
        with(&|less| less.calls[at].filter = None);
        with(&|less| {
            less.calls.remove(at);
            less.columns.retain(|column| column.expr != Expr::column(name));
        });
    }
    for input in queries(&aggregate.input) {
        with(&|less| less.input = input.clone());
    }
    smaller
}

/// Without sinks and sources that nothing uses.
fn tidy(mut case: Case) -> Case {
    for sink in (0..case.sinks.len()).rev() {
        if !case.statements.iter().any(|statement| statement.sink == sink) {
            case.sinks.remove(sink);
            for statement in &mut case.statements {
                statement.sink -= usize::from(statement.sink > sink);
            }
        }
    }
    for source in (0..case.sources.len()).rev() {
        let read = case.sources.iter().any(|other| other.reads == Some(source));
        if !read && !case.statements.iter().any(|statement| statement.query.sources().contains(&source)) {
            case.sources.remove(source);
            for reads in case.sources.iter_mut().filter_map(|other| other.reads.as_mut()) {
                *reads -= usize::from(*reads > source);
            }
            case.statements.iter_mut().for_each(|statement| renumber(&mut statement.query, source));
        }
    }
    case
}

fn renumber(relation: &mut Relation, gone: usize) {
    match relation {
        Relation::Source(source) => *source -= usize::from(*source > gone),
        Relation::Select(select) => renumber(&mut select.input, gone),
        Relation::Aggregate(aggregate) => renumber(&mut aggregate.input, gone),
        Relation::Union(branches) => branches.iter_mut().for_each(|branch| renumber(branch, gone)),
        Relation::Join(join) => {
            renumber(&mut join.left, gone);
            join.table -= usize::from(join.table > gone);
        }
    }
}
