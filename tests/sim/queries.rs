//! Random aggregates and joins over given rows.

use crate::case::{Aggregate, Call, Case, Expr, Function, Group, GroupBy, Join, Named, Relation, Select, Type, Value, Window};
use crate::dice::Dice;
use crate::expressions::{boolean, column, expression, failing_condition, long};
use crate::generate::Style;

/// Columns of windows.
const EDGES: [&str; 3] = ["window_start", "window_end", "window_time"];

/// Rows on the way, and what is known of them.
#[derive(Clone)]
pub struct Rows {
    pub relation: Relation,
    pub columns: Vec<(String, Type)>,
    /// The column by which the rows were distributed once.
    pub key: Option<String>,
    pub time: Option<String>,
}

impl Rows {
    /// Columns that are not the key or the time.
    pub fn others(&self) -> Vec<(String, Type)> {
        let known = |name: &String| self.key.as_ref() == Some(name) || self.time.as_ref() == Some(name);
        self.columns.iter().filter(|(name, _)| !known(name)).cloned().collect()
    }
}

/// What WHERE says: now and then with arithmetic that may fail.
pub fn conjuncts(rows: &Rows, style: &Style, dice: &mut Dice) -> Vec<Expr> {
    if dice.chance(45) {
        return Vec::new();
    }
    let mut filter = vec![boolean(&rows.columns, 2, style, dice)];
    if dice.chance(20) {
        filter.push(failing_condition(&rows.columns, style, dice));
    }
    filter
}

/// The rows with what a table held at their time; unchanged where there is no table that they could join.
pub fn joined(rows: Rows, style: &Style, case: &Case, dice: &mut Dice) -> Rows {
    let tables: Vec<usize> = (0..case.sources.len()).filter(|at| case.sources[*at].table.is_some()).collect();
    let fit: Vec<String> = rows.columns.iter().filter(|(_, t)| *t == style.key).map(|(name, _)| format!("l.{name}")).collect();
    let (Some(time), false, false) = (rows.time.clone(), tables.is_empty(), fit.is_empty()) else { return rows };
    let table = dice.pick(&tables);
    let key = match &rows.key {
        Some(key) if rows.columns.iter().any(|(name, t)| name == key && *t == style.key) && dice.chance(55) => format!("l.{key}"),
        _ => dice.pick(&fit),
    };
    let plain = Expr::column(&key);
    let key_expr = match style.key {
        Type::Text if dice.chance(10) => {
            Expr::Coalesce(Box::new(plain), Box::new(Expr::Literal(Value::Text("c1".into()), Type::Text)))
        }
        _ => plain,
    };
    let mut join = Join {
        left: rows.relation.clone(),
        window: dice.chance(25).then(|| window(&time, dice)),
        time: time.clone(),
        table,
        outer: dice.chance(45),
        key: key_expr,
        on: None,
        filter: Vec::new(),
        columns: Vec::new(),
    };
    let scope = join.scope(case);
    let usable = |name: &str| !name.starts_with("hidden.") && !EDGES.contains(&&name[2..]);
    let usable: Vec<(String, Type)> = scope.iter().filter(|(name, _)| usable(name)).cloned().collect();
    if dice.chance(25) {
        let fails = dice.chance(20);
        join.on = Some(if fails { failing_condition(&usable, style, dice) } else { boolean(&usable, 1, style, dice) });
    }
    if dice.chance(30) {
        join.filter = vec![boolean(&usable, 1, style, dice)];
    }
    join.columns = columns_of_join(&rows, &join, &usable, style, dice);
    let columns = join.columns.iter().map(|column| (column.name.clone(), column.data_type)).collect();
    let relation = Relation::Join(Box::new(join));
    if relation.in_windows() {
        // Rows in windows are grouped next.
        let rows = Rows { relation, columns, key: rows.key, time: Some(time) };
        return windows_below(rows, style, dice);
    }
    Rows { relation, columns, key: rows.key, time: Some(time) }
}

/// Key and time, some of the others, some of the table's, now and then one that is computed from both.
fn columns_of_join(rows: &Rows, join: &Join, usable: &[(String, Type)], style: &Style, dice: &mut Dice) -> Vec<Named> {
    let left = |name: &String| Named { name: name.clone(), ..column(usable, &format!("l.{name}")) };
    let mut columns: Vec<Named> = rows.key.iter().chain(&rows.time).map(left).collect();
    for (name, _) in rows.others() {
        if dice.chance(50) {
            columns.push(left(&name));
        }
    }
    let of_table: Vec<&(String, Type)> = usable.iter().filter(|(name, _)| name.starts_with("r.")).collect();
    for (at, (name, data_type)) in of_table.into_iter().enumerate() {
        // Chained joins have several tables.
        let free =
            (0..).map(|n| format!("joined{at}{}", "x".repeat(n))).find(|name| !rows.columns.iter().any(|(n, _)| n == name));
        if dice.chance(45) {
            columns.push(Named { name: free.expect("some name is free"), data_type: *data_type, expr: Expr::column(name) });
        }
    }
    if dice.chance(25) && !rows.columns.iter().any(|(name, _)| name == "both") {
        let (expr, data_type) = expression(usable, style, dice);
        columns.push(Named { name: "both".to_owned(), data_type, expr });
    }
    if join.window.is_some() {
        for edge in EDGES {
            columns.push(Named { name: edge.to_owned(), data_type: Type::Millis, expr: Expr::column(&format!("l.{edge}")) });
        }
    }
    columns
}

pub fn windowed(rows: &Rows, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
    let aggregate = aggregate(rows, true, true, style, dice);
    let expressions = aggregate.groups.iter().filter(|group| matches!(group.by, GroupBy::Expr(_))).map(|g| g.name.clone());
    // Now and then the latest window of each key.
    let latest = expressions.clone().next().is_some() && dice.chance(15);
    let edge = aggregate.groups.iter().find(|group| !matches!(group.by, GroupBy::Expr(_))).map(|group| group.name.clone());
    let key = edge.filter(|_| !latest).into_iter().chain(expressions).collect();
    (Relation::Aggregate(Box::new(aggregate)), key)
}

pub fn updating(rows: &Rows, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
    let aggregate = aggregate(rows, false, true, style, dice);
    let key = aggregate.groups.iter().map(|group| group.name.clone()).collect();
    (Relation::Aggregate(Box::new(aggregate)), key)
}

/// Groups of groups: what an aggregate tells of its rows is taken back when it changes.
pub fn over_updating(rows: &Rows, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
    let inner = aggregate(rows, false, false, style, dice);
    let columns = inner.columns.iter().map(|column| (column.name.clone(), column.data_type)).collect();
    let key = inner.groups.first().map(|group| group.name.clone());
    let rows = Rows { relation: Relation::Aggregate(Box::new(inner)), columns, key, time: None };
    updating(&rows, style, dice)
}

/// `SELECT ... FROM (an aggregate) WHERE ...`.
pub fn over_aggregate(rows: &Rows, windows: bool, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
    let inner = aggregate(rows, windows, false, style, dice);
    let groups: Vec<String> = inner.groups.iter().map(|group| group.name.clone()).collect();
    let named: Vec<(String, Type)> = inner.columns.iter().map(|column| (column.name.clone(), column.data_type)).collect();
    let results: Vec<(String, Type)> = named.iter().filter(|(name, _)| !groups.contains(name)).cloned().collect();
    let mut columns: Vec<Named> = groups.iter().map(|group| column(&named, group)).collect();
    columns.extend(results.iter().map(|(name, _)| column(&named, name)));
    if results.iter().any(|(_, t)| matches!(t, Type::Long | Type::Int)) && dice.chance(50) {
        let expr = long(&results, 1, style, dice);
        columns.push(Named { name: "derived".to_owned(), data_type: Type::Long, expr });
    }
    let filter = if dice.chance(60) { vec![boolean(&results, 1, style, dice)] } else { Vec::new() };
    let input = Relation::Aggregate(Box::new(inner));
    (Relation::Select(Box::new(Select { input, filter, columns })), groups)
}

/// A window, or a join, over the results of a window.
pub fn over_window(rows: &Rows, style: &Style, case: &Case, dice: &mut Dice) -> (Relation, Vec<String>) {
    let mut rows = windows_below(rows.clone(), style, dice);
    if dice.chance(30) {
        rows = joined(rows, style, case, dice);
    }
    if dice.chance(15) { over_aggregate(&rows, false, style, dice) } else { windowed(&rows, style, dice) }
}

/// The results of a window as rows with an event time.
fn windows_below(rows: Rows, style: &Style, dice: &mut Dice) -> Rows {
    let mut inner = aggregate(&rows, true, false, style, dice);
    let time =
        (0..).map(|n| format!("inner_time{n}")).find(|name| !rows.columns.iter().any(|(n, _)| n == name)).expect("is free");
    inner.groups.push(Group { name: time.clone(), data_type: Type::Millis, by: GroupBy::WindowTime });
    inner.columns.push(Named { name: time.clone(), data_type: Type::Millis, expr: Expr::column(&time) });
    let columns: Vec<(String, Type)> = (inner.columns.iter())
        .filter(|column| !EDGES.contains(&column.name.as_str()))
        .map(|column| (column.name.clone(), column.data_type))
        .collect();
    let key = inner.groups.iter().find(|group| matches!(group.by, GroupBy::Expr(_))).map(|group| group.name.clone());
    Rows { relation: Relation::Aggregate(Box::new(inner)), columns, key, time: Some(time) }
}

fn window(time: &str, dice: &mut Dice) -> Window {
    let size_ms = dice.pick(&[7_000, 10_000, 30_000, 60_000, 60_000, 300_000, 3_600_000, 86_400_000]);
    let slide_ms = match dice.below(10) {
        0..=5 => None,
        6 | 7 => Some(size_ms / 2),
        8 => Some(size_ms / 5 * 2),
        _ => Some(size_ms / 2 * 3),
    };
    let offset_ms = if dice.chance(15) { dice.pick(&[1_000, 3_000]) } else { 0 };
    Window { time: time.to_owned(), size_ms, slide_ms, offset_ms }
}

/// `outermost`: results may be computed on, with errors.
fn aggregate(rows: &Rows, windows: bool, outermost: bool, style: &Style, dice: &mut Dice) -> Aggregate {
    let mut groups = Vec::new();
    if windows {
        let edges = [("window_start", GroupBy::WindowStart), ("window_end", GroupBy::WindowEnd)];
        let chosen = dice.below(3);
        for (at, (name, by)) in edges.into_iter().enumerate() {
            if chosen == 2 || chosen == at {
                groups.push(Group { name: name.to_owned(), data_type: Type::Millis, by });
            }
        }
    }
    groups.extend(expressions_of_group(rows, dice));
    let calls = calls(rows, if outermost { "call" } else { "inner" }, style, dice);
    let results: Vec<(String, Type)> = calls.iter().map(|call| (call.name.clone(), call.result())).collect();
    let having = dice.chance(30).then(|| match dice.below(8) {
        0 => failing_condition(&results, style, dice),
        _ => boolean(&results, 1, style, dice),
    });
    let mut columns: Vec<Named> = groups
        .iter()
        .map(|group| Named { name: group.name.clone(), data_type: group.data_type, expr: Expr::column(&group.name) })
        .collect();
    if groups.is_empty() {
        // All rows are one group: a name for it, so that a sink may have a key.
        let expr = Expr::Literal(Value::Text("all".into()), Type::Text);
        columns.push(Named { name: "scope".to_owned(), data_type: Type::Text, expr });
    }
    for (name, _) in &results {
        columns.push(column(&results, name));
    }
    if outermost && results.iter().any(|(_, t)| matches!(t, Type::Long | Type::Int)) && dice.chance(30) {
        let expr = long(&results, 1, style, dice);
        columns.push(Named { name: "derived".to_owned(), data_type: Type::Long, expr });
    }
    let filter = conjuncts(rows, style, dice);
    let window = match &rows.relation {
        Relation::Join(join) if join.window.is_some() => join.window.clone(),
        _ => windows.then(|| window(rows.time.as_ref().expect("windows need a time"), dice)),
    };
    Aggregate { input: rows.relation.clone(), window, filter, groups, calls, having, columns }
}

/// By the key, with or without others; by others, so that rows have to move; or by nothing.
fn expressions_of_group(rows: &Rows, dice: &mut Dice) -> Vec<Group> {
    let by = |name: &str, data_type, expr| Group { name: name.to_owned(), data_type, by: GroupBy::Expr(expr) };
    let fit: Vec<_> = (rows.others().into_iter())
        .filter(|(name, _)| !EDGES.contains(&name.as_str()))
        .filter(|(_, t)| matches!(t, Type::Text | Type::Int | Type::Long | Type::Bool | Type::Decimal(_)))
        .collect();
    // Columns of few values, under which rows meet.
    let few: Vec<_> = fit.iter().filter(|(_, t)| matches!(t, Type::Text | Type::Bool)).cloned().collect();
    let mut groups = Vec::new();
    let by_key = rows.key.clone().filter(|_| dice.chance(60));
    if let Some(key) = &by_key {
        let key = column(&rows.columns, key);
        groups.push(by(&key.name, key.data_type, key.expr));
    }
    let more = match by_key {
        Some(_) => dice.pick(&[0, 0, 1]),
        None => dice.pick(&[0, 1, 1, 1, 1, 2]),
    };
    for _ in 0..more {
        if fit.is_empty() {
            break;
        }
        let from = if !few.is_empty() && dice.chance(50) { &few } else { &fit };
        let (name, data_type) = dice.pick(from);
        let group = match data_type {
            Type::Text if dice.chance(30) => by("upper_group", Type::Text, Expr::Upper(Box::new(Expr::column(&name)))),
            _ => by(&name, data_type, Expr::column(&name)),
        };
        let taken = |other: &Group| other.name == group.name;
        let taken =
            groups.iter().any(taken) || (group.name == "upper_group" && rows.columns.iter().any(|(n, _)| n == "upper_group"));
        if !taken {
            groups.push(group);
        }
    }
    groups
}

fn calls(rows: &Rows, prefix: &str, style: &Style, dice: &mut Dice) -> Vec<Call> {
    let mut calls = Vec::new();
    let edge = |name: &String| EDGES.contains(&name.as_str());
    let others: Vec<_> =
        rows.columns.iter().filter(|(name, _)| rows.key.as_ref() != Some(name) && !edge(name)).cloned().collect();
    // Of several aggregates in a row.
    let mut prefix = prefix.to_owned();
    while rows.columns.iter().any(|(name, _)| name.starts_with(&prefix)) {
        prefix.push('_');
    }
    let doubles: Vec<_> = others.iter().filter(|(_, t)| *t == Type::Double).cloned().collect();
    for at in 0..dice.between(1, 5) {
        let name = format!("{prefix}{at}");
        let count = |name| Call { name, function: Function::Count, arg: None, distinct: false, filter: None };
        if others.is_empty() || dice.chance(20) {
            calls.push(count(name));
            continue;
        }
        // Where rows of several partitions meet, it shows in sums of doubles.
        let chosen = if !doubles.is_empty() && dice.chance(30) { &doubles } else { &others };
        let (from, data_type) = dice.pick(chosen);
        let mut functions = vec![Function::Count, Function::First, Function::Last];
        functions.extend(match data_type {
            Type::Bool => vec![Function::BoolAnd, Function::BoolOr],
            Type::Text | Type::Millis | Type::Micros => vec![Function::Min, Function::Max],
            Type::Double => {
                vec![Function::Sum, Function::Sum, Function::Sum, Function::Avg, Function::Avg, Function::Min, Function::Max]
            }
            _ => vec![Function::Sum, Function::Sum, Function::Avg, Function::Min, Function::Max],
        });
        if data_type == Type::Int {
            functions.extend([Function::StddevPop, Function::StddevSamp]);
        }
        let function = dice.pick(&functions);
        let mut arg = (Expr::column(&from), data_type);
        if data_type == Type::Long && matches!(function, Function::Sum | Function::Max | Function::Count) && dice.chance(25) {
            arg.0 = long(&others, 1, style, dice);
        }
        if matches!(function, Function::StddevPop | Function::StddevSamp) {
            arg = (Expr::ToDouble(Box::new(arg.0)), Type::Double);
        }
        let distinct = match (function, data_type) {
            (Function::Count, Type::Double) => false,
            (Function::Count, _) => dice.chance(50),
            _ => false,
        };
        let filter = dice.chance(25).then(|| boolean(&others, 1, style, dice));
        calls.push(Call { name, function, arg: Some(arg), distinct, filter });
    }
    calls
}
