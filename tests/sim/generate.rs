//! Random pipelines: sources, sinks, statements. What the statements compute is in `queries`.

use crate::case::{Case, Check, Named, Relation, Select, Sink, Statement, Type};
use crate::dice::Dice;
use crate::expressions::{boolean, check, column, expression};
use crate::queries::{self, Rows};
use crate::{input, plan};

pub fn case(seed: u64) -> Case {
    let mut dice = Dice::new(seed);
    let dice = &mut dice;
    let style = Style {
        key: dice.pick(&[Type::Text, Type::Text, Type::Long, Type::Int]),
        time: dice.pick(&[Type::Millis, Type::Millis, Type::Micros]),
        wild: dice.chance(8),
        avro: dice.chance(20),
        start_ms: dice.pick(&[1_767_571_200_000, 1_767_571_200_000, 1_767_571_261_123, -90_000, -2_208_988_800_000]),
        partitions: dice.pick(&[1, 2, 2, 3, 3, 4]),
    };
    let (streams, tables) = (dice.pick(&[1, 1, 1, 2, 2, 3]), dice.pick(&[0, 0, 1, 1, 2]));
    let count = streams + tables;
    let mut case = Case { sources: Vec::new(), sinks: Vec::new(), statements: Vec::new(), finish: dice.chance(60) };
    for at in 0..count {
        case.sources.push(input::source(at, at >= streams, streams > 1, &style, dice));
    }
    // A source's place in the SQL decides about rows of one time.
    dice.shuffle(&mut case.sources);
    if dice.chance(15) {
        let of = dice.below(count);
        if case.sources[of].table.is_none() {
            let twin = input::twin(of, &case.sources[of], dice);
            case.sources.push(twin);
        }
    }
    for source in &mut case.sources {
        checks(source, &style, dice);
    }
    let wanted = dice.pick(&[1, 1, 2, 2, 3]).max(case.sources.len() - tables);
    let of_streams: Vec<usize> = (0..case.sources.len()).filter(|at| case.sources[*at].table.is_none()).collect();
    for at in 0..wanted {
        // Every source is read by some statement.
        statement(of_streams[at % of_streams.len()], &style, &mut case, dice);
    }
    for table in 0..case.sources.len() {
        let used = case.statements.iter().any(|statement| statement.query.sources().contains(&table));
        if case.sources[table].table.is_some() && (!used || dice.chance(40)) {
            statement(table, &style, &mut case, dice);
        }
    }
    let used: Vec<usize> = case.statements.iter().flat_map(|statement| statement.query.sources()).collect();
    assert!((0..case.sources.len()).all(|source| used.contains(&source)), "every source is used");
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
    /// Of most topics.
    pub partitions: i32,
}

fn checks(source: &mut crate::case::Source, style: &Style, dice: &mut Dice) {
    let wanted = if dice.chance(35) { dice.between(1, 2) } else { 0 };
    let columns = source.columns();
    for at in 0..wanted {
        let expr = check(&columns, style, dice);
        source.checks.push(Check { name: format!("check{at}"), expr, drop: dice.chance(25) });
    }
}

fn statement(source: usize, style: &Style, case: &mut Case, dice: &mut Dice) {
    let (query, key) = loop {
        let (query, natural) = query(source, style, case, dice);
        let key = key_of_sink(&query, natural, case, dice);
        // Where the order of keys' encodings would decide, another query is made.
        if plan::is_certain(case, &query) && plan::sink_is_certain(case, &query, &key) {
            break (query, key);
        }
    };
    let columns = query.columns(case);
    let data_type = |name: &String| columns.iter().find(|(column, _)| column == name).expect("the key is in the query").1;
    let bare = match key.as_slice() {
        [only] if dice.chance(50) => Some(data_type(only)).filter(|t| matches!(t, Type::Text | Type::Long | Type::Int)),
        _ => None,
    };
    let except_key = !key.is_empty() && key.len() < columns.len() && dice.chance(15);
    let name = format!("sink{}", case.sinks.len());
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

/// A query that begins at a source, with the columns that tell its rows apart; none: it tells nothing of that.
fn query(source: usize, style: &Style, case: &Case, dice: &mut Dice) -> (Relation, Vec<String>) {
    let mut rows = stream(source, style, case, dice);
    if rows.time.is_some() && dice.chance(40) {
        rows = queries::joined(rows, style, case, dice);
        if dice.chance(25) {
            rows = queries::joined(rows, style, case, dice);
        }
    }
    let timed = rows.time.is_some();
    match dice.below(10) {
        0..=1 => stateless(&rows, style, dice),
        2 => queries::updating(&rows, style, dice),
        3 if timed => queries::over_window(&rows, style, case, dice),
        4 if timed => queries::over_aggregate(&rows, true, style, dice),
        4 => queries::over_updating(&rows, style, dice),
        5 => queries::over_aggregate(&rows, false, style, dice),
        6 if dice.chance(30) => queries::over_updating(&rows, style, dice),
        _ if timed => queries::windowed(&rows, style, dice),
        _ => queries::updating(&rows, style, dice),
    }
}

/// PRIMARY KEY: what tells rows apart, or any other columns, under which rows replace one another; none for an append sink.
fn key_of_sink(query: &Relation, natural: Vec<String>, case: &Case, dice: &mut Dice) -> Vec<String> {
    let updating = plan::laid(case, query).updating;
    if !updating && dice.chance(35) {
        return Vec::new();
    }
    if !natural.is_empty() && dice.chance(70) {
        return natural;
    }
    let columns = query.columns(case);
    let mut fit: Vec<String> = columns.into_iter().filter(|(_, t)| *t != Type::Double).map(|(name, _)| name).collect();
    if fit.is_empty() {
        return natural;
    }
    dice.shuffle(&mut fit);
    fit.truncate(dice.pick(&[1, 1, 2]));
    fit
}

/// A source, a view of it, or a union of two.
fn stream(source: usize, style: &Style, case: &Case, dice: &mut Dice) -> Rows {
    let table = case.sources[source].table.is_some();
    let plain = |source: usize| Rows {
        relation: Relation::Source(source),
        columns: case.sources[source].columns(),
        key: Some(case.sources[source].key.column.clone()),
        time: (case.sources[source].time.as_ref())
            .filter(|_| case.sources[source].table.is_none())
            .map(|time| time.column.clone()),
    };
    let rows = plain(source);
    let alike = |other: &usize| case.sources[*other].table.is_some() == table;
    // Now and then rows of a table and of a stream.
    let any = dice.chance(10);
    let others: Vec<usize> = (0..case.sources.len()).filter(|at| *at != source && (any || alike(at))).collect();
    if !others.is_empty() && dice.chance(40) {
        return union(rows, plain(dice.pick(&others)), style, dice);
    }
    if dice.chance(30) { view(rows, style, dice) } else { rows }
}

fn view(rows: Rows, style: &Style, dice: &mut Dice) -> Rows {
    let mut columns = Vec::new();
    let before = rows.key.clone().expect("a source has a key");
    let key = if dice.chance(30) { "renamed_key".to_owned() } else { before.clone() };
    let keyed = dice.chance(90);
    if keyed {
        columns.push(Named { name: key.clone(), ..column(&rows.columns, &before) });
    }
    columns.extend(rows.time.as_ref().map(|time| column(&rows.columns, time)));
    for (name, _) in rows.others() {
        if dice.chance(60) {
            columns.push(column(&rows.columns, &name));
        }
    }
    if dice.chance(60) || columns.is_empty() {
        let (expr, data_type) = expression(&rows.columns, style, dice);
        columns.push(Named { name: "computed".to_owned(), data_type, expr });
    }
    let filter = if dice.chance(50) { vec![boolean(&rows.columns, 2, style, dice)] } else { Vec::new() };
    let named = columns.iter().map(|column| (column.name.clone(), column.data_type)).collect();
    let relation = Relation::Select(Box::new(Select { input: rows.relation, filter, columns }));
    Rows { relation, columns: named, key: keyed.then_some(key), time: rows.time }
}

/// Both sides brought to the same columns.
fn union(a: Rows, b: Rows, style: &Style, dice: &mut Dice) -> Rows {
    let both =
        |data_type: Type| a.others().iter().any(|(_, t)| *t == data_type) && b.others().iter().any(|(_, t)| *t == data_type);
    let shared: Vec<Type> =
        [Type::Long, Type::Double, Type::Text, Type::Int, Type::Bool].into_iter().filter(|t| both(*t)).collect();
    let timed = a.time.is_some() && b.time.is_some();
    let mut side = |rows: &Rows| {
        let key = rows.key.as_ref().expect("a source has a key");
        let mut columns = vec![Named { name: "key".to_owned(), ..column(&rows.columns, key) }];
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
    Rows { relation: Relation::Union(branches), columns, key: Some("key".to_owned()), time }
}

fn stateless(rows: &Rows, style: &Style, dice: &mut Dice) -> (Relation, Vec<String>) {
    let key: Vec<String> = rows.key.clone().into_iter().collect();
    if dice.chance(10) && matches!(rows.relation, Relation::Source(_)) {
        return (rows.relation.clone(), key);
    }
    let mut columns: Vec<Named> = key.iter().map(|key| column(&rows.columns, key)).collect();
    for (name, _) in &rows.columns {
        if !key.contains(name) && dice.chance(50) {
            columns.push(column(&rows.columns, name));
        }
    }
    for at in 0..dice.between(1, 3) {
        let (expr, data_type) = expression(&rows.columns, style, dice);
        columns.push(Named { name: format!("out{at}"), data_type, expr });
    }
    let filter = queries::conjuncts(rows, style, dice);
    (Relation::Select(Box::new(Select { input: rows.relation.clone(), filter, columns })), key)
}
