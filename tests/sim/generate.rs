//! Random pipelines: streams, views, unions, aggregates, sinks.

use crate::case::{
    Aggregate, Call, Case, Check, Expr, Function, Group, GroupBy, Named, Relation, Select, Sink, Source, Statement, Type, Window,
};
use crate::dice::Dice;
use crate::expressions::{boolean, check, column, expression, long};
use crate::input;

pub fn case(seed: u64) -> Case {
    let mut dice = Dice::new(seed);
    let dice = &mut dice;
    let style = Style {
        key: dice.pick(&[Type::Text, Type::Text, Type::Long, Type::Int]),
        time: dice.pick(&[Type::Millis, Type::Millis, Type::Micros]),
        wild: dice.chance(8),
        avro: dice.chance(20),
        start_ms: dice.pick(&[1_767_571_200_000, 1_767_571_200_000, 1_767_571_261_123, -90_000, -2_208_988_800_000]),
    };
    let count = dice.pick(&[1, 1, 1, 2, 2, 3]);
    let mut case = Case {
        sources: (0..count).map(|at| input::source(at, count > 1, &style, dice)).collect(),
        sinks: Vec::new(),
        statements: Vec::new(),
        partitions: dice.between(1, 4) as i32,
        finish: dice.chance(60),
    };
    if dice.chance(15) {
        let of = dice.below(count);
        let twin = input::twin(of, &case.sources[of], dice);
        case.sources.push(twin);
    }
    let count = case.sources.len();
    for source in &mut case.sources {
        checks(source, &style, dice);
    }
    let wanted = dice.pick(&[1, 1, 2, 2, 3]).max(count);
    for at in 0..wanted {
        // Every source is read by some statement.
        statement(at % count, &style, &mut case, dice);
    }
    let used: Vec<usize> = case.statements.iter().flat_map(|statement| statement.query.sources()).collect();
    assert!((0..count).all(|source| used.contains(&source)), "every source is used");
    input::fill(&mut case, &style, dice);
    case
}

/// What all of a case has in common.
pub struct Style {
    pub key: Type,
    pub time: Type,
    /// Keys are Avro records.
    pub avro: bool,
    /// Doubles may be NaN or infinite; they are compared with nothing then.
    pub wild: bool,
    pub start_ms: i64,
}

fn checks(source: &mut Source, style: &Style, dice: &mut Dice) {
    let wanted = if dice.chance(35) { dice.between(1, 2) } else { 0 };
    let columns = source.columns();
    for at in 0..wanted {
        let expr = check(&columns, style, dice);
        source.checks.push(Check { name: format!("check{at}"), expr, drop: dice.chance(25) });
    }
}

/// Rows on the way, and what is known of them.
#[derive(Clone)]
struct Rows {
    relation: Relation,
    columns: Vec<(String, Type)>,
    /// The column by which the rows are distributed.
    key: String,
    time: Option<String>,
}

impl Rows {
    /// Columns that are not the key or the time.
    fn others(&self) -> Vec<(String, Type)> {
        let time = self.time.clone().unwrap_or_default();
        self.columns.iter().filter(|(name, _)| *name != self.key && *name != time).cloned().collect()
    }
}

fn statement(source: usize, style: &Style, case: &mut Case, dice: &mut Dice) {
    let rows = stream(source, style, case, dice);
    let name = format!("sink{}", case.sinks.len());
    let (query, key) = match dice.below(10) {
        0..=1 => stateless(&rows, style, dice),
        2 => updating(&rows, style, dice),
        3 if rows.time.is_some() => over_window(&rows, style, dice),
        4 if rows.time.is_some() => over_aggregate(&rows, true, style, dice),
        5 => over_aggregate(&rows, false, style, dice),
        _ if rows.time.is_some() => windowed(&rows, style, dice),
        _ => updating(&rows, style, dice),
    };
    let columns = query.columns(case);
    let data_type = |name: &String| columns.iter().find(|(column, _)| column == name).expect("the key is in the query").1;
    let bare = match key.as_slice() {
        [only] if dice.chance(50) => Some(data_type(only)).filter(|t| matches!(t, Type::Text | Type::Long | Type::Int)),
        _ => None,
    };
    let except_key = !key.is_empty() && key.len() < columns.len() && dice.chance(15);
    case.sinks.push(Sink { name, key: key.clone(), bare_key: bare, except_key });
    let sink = case.sinks.len() - 1;
    if let (true, Relation::Select(select), true) = (key.is_empty(), &query, dice.chance(15)) {
        // A second INSERT into the same sink.
        let mut other = select.clone();
        if matches!(other.input, Relation::Source(_)) {
            other.filter = vec![boolean(&other.input.columns(case), 1, style, dice)];
            case.statements.push(Statement { sink, query: Relation::Select(other) });
        }
    }
    case.statements.push(Statement { sink, query });
}

/// A source, a view of it, or a union of two.
fn stream(source: usize, style: &Style, case: &Case, dice: &mut Dice) -> Rows {
    let plain = |source: usize| Rows {
        relation: Relation::Source(source),
        columns: case.sources[source].columns(),
        key: case.sources[source].key.column.clone(),
        time: case.sources[source].time.as_ref().map(|time| time.column.clone()),
    };
    let rows = plain(source);
    if case.sources.len() > 1 && dice.chance(45) {
        let other = (source + 1 + dice.below(case.sources.len() - 1)) % case.sources.len();
        return union(rows, plain(other), style, dice);
    }
    if dice.chance(30) { view(rows, style, dice) } else { rows }
}

fn view(rows: Rows, style: &Style, dice: &mut Dice) -> Rows {
    let mut columns = Vec::new();
    let key = if dice.chance(30) { "renamed_key".to_owned() } else { rows.key.clone() };
    columns.push(Named { name: key.clone(), ..column(&rows.columns, &rows.key) });
    columns.extend(rows.time.as_ref().map(|time| column(&rows.columns, time)));
    for (name, _) in rows.others() {
        if dice.chance(60) {
            columns.push(column(&rows.columns, &name));
        }
    }
    if dice.chance(60) {
        let (expr, data_type) = expression(&rows.columns, style, dice);
        columns.push(Named { name: "computed".to_owned(), data_type, expr });
    }
    let filter = if dice.chance(50) { vec![boolean(&rows.columns, 2, style, dice)] } else { Vec::new() };
    let named = columns.iter().map(|column| (column.name.clone(), column.data_type)).collect();
    let relation = Relation::Select(Box::new(Select { input: rows.relation, filter, columns }));
    Rows { relation, columns: named, key, time: rows.time }
}

/// Both sides brought to the same columns.
fn union(a: Rows, b: Rows, style: &Style, dice: &mut Dice) -> Rows {
    let both =
        |data_type: Type| a.others().iter().any(|(_, t)| *t == data_type) && b.others().iter().any(|(_, t)| *t == data_type);
    let shared: Vec<Type> =
        [Type::Long, Type::Double, Type::Text, Type::Int, Type::Bool].into_iter().filter(|t| both(*t)).collect();
    let timed = a.time.is_some() && b.time.is_some();
    let mut side = |rows: &Rows| {
        let mut columns = vec![Named { name: "key".to_owned(), ..column(&rows.columns, &rows.key) }];
        if timed {
            let time = rows.time.as_ref().expect("both have one");
            columns.push(Named { name: "at".to_owned(), ..column(&rows.columns, time) });
        }
        for (at, data_type) in shared.iter().enumerate() {
            let of_type: Vec<_> = rows.others().into_iter().filter(|(_, t)| t == data_type).collect();
            let (from, _) = dice.pick(&of_type);
            columns.push(Named { name: format!("shared{at}"), ..column(&rows.columns, &from) });
        }
        let filter = if dice.chance(30) { vec![boolean(&rows.columns, 1, style, dice)] } else { Vec::new() };
        Relation::Select(Box::new(Select { input: rows.relation.clone(), filter, columns }))
    };
    let branches = vec![side(&a), side(&b)];
    let Relation::Select(first) = &branches[0] else { unreachable!("just made") };
    let columns = first.columns.iter().map(|column| (column.name.clone(), column.data_type)).collect();
    let time = timed.then(|| "at".to_owned());
    Rows { relation: Relation::Union(branches), columns, key: "key".to_owned(), time }
}

fn stateless(rows: &Rows, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
    // Which row of a union comes last is not certain.
    let upsert = !rows.relation.mixed() && dice.chance(40);
    let key = if upsert { vec![rows.key.clone()] } else { Vec::new() };
    if dice.chance(10) && !rows.relation.mixed() {
        return (rows.relation.clone(), key);
    }
    let mut columns = vec![column(&rows.columns, &rows.key)];
    for (name, _) in &rows.columns {
        if *name != rows.key && dice.chance(50) {
            columns.push(column(&rows.columns, name));
        }
    }
    for at in 0..dice.between(1, 3) {
        let (expr, data_type) = expression(&rows.columns, style, dice);
        columns.push(Named { name: format!("out{at}"), data_type, expr });
    }
    let filter = conjuncts(rows, style, dice);
    (Relation::Select(Box::new(Select { input: rows.relation.clone(), filter, columns })), key)
}

/// What WHERE says: now and then with arithmetic that may fail.
fn conjuncts(rows: &Rows, style: &Style, dice: &mut Dice) -> Vec<Expr> {
    if dice.chance(45) {
        return Vec::new();
    }
    let mut filter = vec![boolean(&rows.columns, 2, style, dice)];
    if dice.chance(20) {
        filter.push(crate::expressions::failing_condition(&rows.columns, style, dice));
    }
    filter
}

fn windowed(rows: &Rows, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
    let aggregate = aggregate(rows, true, true, style, dice);
    let groups: Vec<(String, bool)> =
        aggregate.groups.iter().map(|group| (group.name.clone(), matches!(group.by, GroupBy::Expr(_)))).collect();
    let by_key = groups.iter().filter(|(_, keyed)| *keyed).map(|(name, _)| name.clone());
    let key = match dice.below(10) {
        0..=3 => Vec::new(),
        // The latest window of each key.
        4 => by_key.collect(),
        _ => {
            let edge = groups.iter().find(|(_, keyed)| !keyed).expect("a window is in GROUP BY").0.clone();
            [edge].into_iter().chain(by_key).collect()
        }
    };
    (Relation::Aggregate(Box::new(aggregate)), key)
}

fn updating(rows: &Rows, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
    let aggregate = aggregate(rows, false, true, style, dice);
    let key = aggregate.groups.iter().map(|group| group.name.clone()).collect();
    (Relation::Aggregate(Box::new(aggregate)), key)
}

/// `SELECT ... FROM (an aggregate) WHERE ...`.
fn over_aggregate(rows: &Rows, windows: bool, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
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
    let key = if windows && dice.chance(50) { Vec::new() } else { groups };
    let input = Relation::Aggregate(Box::new(inner));
    (Relation::Select(Box::new(Select { input, filter, columns })), key)
}

fn over_window(rows: &Rows, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
    let mut inner = aggregate(rows, true, false, style, dice);
    // Rows of one window end and one key of the outer aggregate must be one: their order would be that of the keys' encoding.
    inner.groups.retain(|group| !matches!(&group.by, GroupBy::Expr(_)) || group.name == rows.key);
    inner.columns.retain(|column| match &column.expr {
        Expr::Column(name) => inner.groups.iter().any(|g| g.name == *name) || inner.calls.iter().any(|c| c.name == *name),
        _ => true,
    });
    if !inner.groups.iter().any(|group| group.by == GroupBy::WindowTime) {
        inner.groups.push(Group { name: "inner_time".to_owned(), data_type: style.time, by: GroupBy::WindowTime });
        let expr = Expr::column("inner_time");
        inner.columns.push(Named { name: "inner_time".to_owned(), data_type: Type::Millis, expr });
    }
    for group in &mut inner.groups {
        if group.by == GroupBy::WindowTime {
            group.data_type = Type::Millis;
        }
    }
    let columns: Vec<(String, Type)> = (inner.columns.iter())
        .filter(|column| !["window_start", "window_end"].contains(&column.name.as_str()))
        .map(|column| (column.name.clone(), column.data_type))
        .collect();
    let rows = Rows {
        relation: Relation::Aggregate(Box::new(inner)),
        columns,
        key: rows.key.clone(),
        time: Some("inner_time".to_owned()),
    };
    windowed(&rows, style, dice)
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
    let by = |name: &str, data_type, expr| Group { name: name.to_owned(), data_type, by: GroupBy::Expr(expr) };
    let key = column(&rows.columns, &rows.key);
    groups.push(by(&rows.key, key.data_type, key.expr));
    if dice.chance(35) {
        let fit: Vec<_> = (rows.others().into_iter())
            .filter(|(_, t)| matches!(t, Type::Text | Type::Int | Type::Long | Type::Bool | Type::Decimal(_)))
            .collect();
        if !fit.is_empty() {
            let (name, data_type) = dice.pick(&fit);
            groups.push(match data_type {
                Type::Text if dice.chance(40) => by("upper_group", Type::Text, Expr::Upper(Box::new(Expr::column(&name)))),
                _ => by(&name, data_type, Expr::column(&name)),
            });
        }
    }
    let calls = calls(rows, if outermost { "call" } else { "inner" }, style, dice);
    let results: Vec<(String, Type)> = calls.iter().map(|call| (call.name.clone(), call.result())).collect();
    let having = dice.chance(30).then(|| match dice.below(8) {
        0 => crate::expressions::failing_condition(&results, style, dice),
        _ => boolean(&results, 1, style, dice),
    });
    let mut columns: Vec<Named> = groups
        .iter()
        .map(|group| Named { name: group.name.clone(), data_type: group.data_type, expr: Expr::column(&group.name) })
        .collect();
    for (name, _) in &results {
        columns.push(column(&results, name));
    }
    if outermost && results.iter().any(|(_, t)| matches!(t, Type::Long | Type::Int)) && dice.chance(30) {
        let expr = long(&results, 1, style, dice);
        columns.push(Named { name: "derived".to_owned(), data_type: Type::Long, expr });
    }
    let filter = conjuncts(rows, style, dice);
    let window = windows.then(|| window(rows.time.as_ref().expect("windows need a time"), dice));
    Aggregate { input: rows.relation.clone(), window, filter, groups, calls, having, columns }
}

fn calls(rows: &Rows, prefix: &str, style: &Style, dice: &mut Dice) -> Vec<Call> {
    let mut calls = Vec::new();
    let others: Vec<_> = rows.columns.iter().filter(|(name, _)| *name != rows.key).cloned().collect();
    for at in 0..dice.between(1, 5) {
        let name = format!("{prefix}{at}");
        let count = |name| Call { name, function: Function::Count, arg: None, distinct: false, filter: None };
        if others.is_empty() || dice.chance(20) {
            calls.push(count(name));
            continue;
        }
        let (from, data_type) = dice.pick(&others);
        let mut functions = vec![Function::Count, Function::First, Function::Last];
        functions.extend(match data_type {
            Type::Bool => vec![Function::BoolAnd, Function::BoolOr],
            Type::Text | Type::Millis | Type::Micros => vec![Function::Min, Function::Max],
            Type::Double => {
                vec![Function::Sum, Function::Sum, Function::Sum, Function::Avg, Function::Avg, Function::Min, Function::Max]
            }
            _ => vec![Function::Sum, Function::Sum, Function::Avg, Function::Min, Function::Max],
        });
        let function = dice.pick(&functions);
        let mut arg = Expr::column(&from);
        if data_type == Type::Long && matches!(function, Function::Sum | Function::Max | Function::Count) && dice.chance(25) {
            arg = long(&others, 1, style, dice);
        }
        let distinct = match (function, data_type) {
            (Function::Count, Type::Double) => false,
            (Function::Count, _) => dice.chance(50),
            _ => false,
        };
        let filter = dice.chance(25).then(|| boolean(&others, 1, style, dice));
        calls.push(Call { name, function, arg: Some((arg, data_type)), distinct, filter });
    }
    calls
}
