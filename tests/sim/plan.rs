//! How rows lie, as DESIGN section 13 has it: by which columns rows of equal keys are known to meet in one task. What does not meet is
//! shuffled, and that shows: in sums of doubles, in which windows close, in which row of an upsert sink is the last.

use std::collections::BTreeSet;

use crate::case::{Aggregate, Case, Expr, GroupBy, Join, Named, Relation};

/// What is known of a relation's rows.
#[derive(Clone, Debug)]
pub struct Laid {
    /// Into how many parts of a key they are dealt; `None`: nothing is known.
    parts: Option<usize>,
    /// Whose partitions they lie in; none: behind a shuffle.
    topics: BTreeSet<usize>,
    /// Equal keys of other topics are known to lie alike.
    trusted: bool,
    columns: Vec<Column>,
    pub order: Order,
    /// Rows may be taken back.
    pub updating: bool,
    /// Columns of GROUP BY (of a table: its key) that tell an updating row from all others; `None`: nothing does.
    groups: Option<usize>,
    /// Results of windows: which columns hold the expressions of GROUP BY.
    results: Option<Vec<Option<usize>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Column {
    /// Of the key.
    part: Option<usize>,
    /// Of `groups`.
    group: Option<usize>,
}

/// In which order rows of one key come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By offset, or in that of the operator's results.
    Offset,
    /// By event time: behind a join.
    Time,
    /// As several inputs interleave.
    Unknown,
}

impl Laid {
    fn lacks(&self, held: &BTreeSet<usize>) -> bool {
        self.parts.is_none_or(|parts| (0..parts).any(|part| !held.contains(&part)))
    }
}

pub fn laid(case: &Case, relation: &Relation) -> Laid {
    match relation {
        Relation::Source(source) => of_source(case, *source),
        Relation::Select(select) => passed(laid(case, &select.input), &names(case, &select.input), &select.columns),
        Relation::Union(branches) => of_union(case, &branches.iter().map(|branch| laid(case, branch)).collect::<Vec<_>>()),
        Relation::Aggregate(aggregate) => of_aggregate(case, aggregate),
        Relation::Join(join) => of_join(case, join),
    }
}

fn names(case: &Case, relation: &Relation) -> Vec<String> {
    relation.columns(case).into_iter().map(|(name, _)| name).collect()
}

fn topic(case: &Case, source: usize) -> usize {
    case.sources[source].reads.unwrap_or(source)
}

/// Whether topics have equal numbers of partitions.
fn even(case: &Case, topics: &BTreeSet<usize>) -> bool {
    let counts: BTreeSet<i32> = topics.iter().map(|topic| case.sources[*topic].partitions).collect();
    counts.len() < 2
}

fn of_source(case: &Case, source: usize) -> Laid {
    let declared = &case.sources[source];
    let table = declared.table.is_some();
    let key = |name: &str| (name == declared.key.column && !declared.key.unnamed).then_some(0);
    let column = |(name, _): (String, _)| Column { part: key(&name), group: key(&name).filter(|_| table) };
    Laid {
        parts: (!declared.key.unnamed).then_some(1),
        topics: [topic(case, source)].into(),
        trusted: !declared.key.avro || declared.key.trusted,
        columns: declared.columns().into_iter().map(column).collect(),
        order: Order::Offset,
        updating: table,
        groups: Some(usize::from(table)),
        results: None,
    }
}

/// Through a projection: plain columns keep what they are.
fn passed(below: Laid, names: &[String], columns: &[Named]) -> Laid {
    let from = |expr: &Expr| match expr {
        Expr::Column(name) => names.iter().position(|n| n == name),
        _ => None,
    };
    let places: Vec<Option<usize>> = columns.iter().map(|column| from(&column.expr)).collect();
    let results = below.results.as_ref().map(|results| {
        let now = |before: &Option<usize>| before.and_then(|before| places.iter().position(|place| *place == Some(before)));
        results.iter().map(now).collect()
    });
    let columns = places.iter().map(|place| place.map_or_else(Column::default, |at| below.columns[at])).collect();
    Laid { columns, results, ..below }
}

fn of_union(case: &Case, branches: &[Laid]) -> Laid {
    let first = &branches[0];
    let parts_of = |at: usize| branches.iter().map(move |branch| branch.columns[at].part);
    let column =
        |at: usize| Column { part: first.columns[at].part.filter(|part| parts_of(at).all(|p| p == Some(*part))), group: None };
    let columns: Vec<Column> = (0..first.columns.len()).map(column).collect();
    let topics: BTreeSet<usize> = branches.iter().flat_map(|branch| branch.topics.iter().copied()).collect();
    let trusted = branches.iter().all(|branch| branch.trusted);
    let alike = branches.iter().all(|branch| branch.parts == first.parts && !branch.topics.is_empty());
    let held = |part: usize| columns.iter().any(|column| column.part == Some(part));
    let known =
        alike && (topics.len() == 1 || trusted) && first.parts.is_some_and(|parts| (0..parts).all(held)) && even(case, &topics);
    Laid {
        parts: first.parts.filter(|_| known),
        topics,
        trusted,
        columns,
        order: Order::Unknown,
        updating: branches.iter().any(|branch| branch.updating),
        groups: None,
        results: branches.iter().any(|branch| branch.results.is_some()).then(|| vec![None]),
    }
}

/// Whether the rows of a group have to move to meet.
pub fn moved(case: &Case, aggregate: &Aggregate) -> bool {
    let below = laid(case, &aggregate.input);
    let names = names(case, &aggregate.input);
    below.lacks(&aggregate.groups.iter().filter_map(|group| column_of(&group.by, &names, &below).part).collect())
}

fn column_of(by: &GroupBy, names: &[String], below: &Laid) -> Column {
    match by {
        GroupBy::Expr(Expr::Column(name)) => below.columns[names.iter().position(|n| n == name).expect("is a column")],
        _ => Column::default(),
    }
}

/// Whether a group's rows may come in several orders: sums of doubles are exact then.
pub fn order_free(case: &Case, aggregate: &Aggregate) -> bool {
    let below = laid(case, &aggregate.input);
    below.order != Order::Offset || below.updating || moved(case, aggregate)
}

fn of_aggregate(case: &Case, aggregate: &Aggregate) -> Laid {
    let below = laid(case, &aggregate.input);
    let names = names(case, &aggregate.input);
    let moved = moved(case, aggregate);
    let mut columns = Vec::new();
    let mut keys = Vec::new();
    for (at, group) in aggregate.groups.iter().enumerate() {
        let keyed = matches!(group.by, GroupBy::Expr(_));
        let part = if !moved { column_of(&group.by, &names, &below).part } else { keyed.then_some(keys.len()) };
        columns.push(Column { part, group: Some(at) });
        keys.extend(keyed.then_some(at));
    }
    columns.extend(aggregate.calls.iter().map(|_| Column::default()));
    let updating = aggregate.window.is_none();
    let result = Laid {
        parts: if moved { Some(keys.len()) } else { below.parts },
        topics: if moved { BTreeSet::new() } else { below.topics },
        trusted: below.trusted && !moved,
        columns,
        order: Order::Offset,
        updating,
        groups: Some(aggregate.groups.len()),
        results: (!updating).then(|| keys.into_iter().map(Some).collect()),
    };
    let inner: Vec<String> = aggregate
        .groups
        .iter()
        .map(|group| group.name.clone())
        .chain(aggregate.calls.iter().map(|call| call.name.clone()))
        .collect();
    passed(result, &inner, &aggregate.columns)
}

/// Whether rows and the versions that they join may lie in different tasks.
pub fn apart(case: &Case, join: &Join) -> bool {
    let (left, table) = (laid(case, &join.left), of_source(case, join.table));
    let met: BTreeSet<usize> = left.topics.iter().chain(&table.topics).copied().collect();
    let by_key = left.parts == Some(1) && key_of(case, join, &left).part == Some(0);
    let meet = !left.topics.is_empty() && by_key && left.trusted && table.trusted && even(case, &met);
    !meet
}

fn key_of(case: &Case, join: &Join, left: &Laid) -> Column {
    let place = match &join.key {
        Expr::Column(name) => join.left.columns(case).iter().position(|(n, _)| Some(n.as_str()) == name.strip_prefix("l.")),
        _ => None,
    };
    place.map_or_else(Column::default, |at| left.columns[at])
}

fn of_join(case: &Case, join: &Join) -> Laid {
    let apart = apart(case, join);
    let left = laid(case, &join.left);
    let scope: Vec<String> = join.scope(case).into_iter().map(|(name, _)| name).collect();
    let mut columns = left.columns.clone();
    columns.resize(scope.len(), Column::default());
    if apart {
        columns.iter_mut().for_each(|column| column.part = None);
    }
    let key = match &join.key {
        Expr::Column(name) => scope.iter().position(|n| n == name),
        _ => None,
    };
    if let Some(at) = key.filter(|_| apart) {
        columns[at].part = Some(0);
    }
    // In an inner join the table's key is what the left side's is.
    if !join.outer {
        let name = format!("r.{}", case.sources[join.table].key.column);
        let at = scope.iter().position(|n| *n == name).expect("the key is a column");
        columns[at].part = if apart { Some(0) } else { key.and_then(|key| columns[key].part) };
    }
    let joined = Laid {
        parts: if apart { Some(1) } else { left.parts },
        topics: if apart { BTreeSet::new() } else { left.topics },
        trusted: left.trusted && !apart,
        columns,
        order: if apart || left.order == Order::Unknown { Order::Unknown } else { Order::Time },
        updating: false,
        groups: Some(0),
        results: left.results,
    };
    passed(joined, &scope, &join.columns)
}

/// Whether the last stage before a sink of this key brings rows of several tasks together, of which the greatest position wins.
pub fn materialized(case: &Case, query: &Relation, key: &[String]) -> bool {
    let laid = laid(case, query);
    let names = names(case, query);
    let held: Vec<Column> = key.iter().filter_map(|key| names.iter().position(|n| n == key)).map(|at| laid.columns[at]).collect();
    if laid.updating {
        let held: BTreeSet<usize> = held.iter().filter_map(|column| column.group).collect();
        return laid.groups.is_none_or(|groups| (0..groups).any(|group| !held.contains(&group)));
    }
    laid.lacks(&held.iter().filter_map(|column| column.part).collect()) || laid.order == Order::Unknown
}

/// Whether the order of a window's results under one key of the sink does not matter: it would be that of the keys' encoding.
pub fn sink_is_certain(case: &Case, query: &Relation, key: &[String]) -> bool {
    let laid = laid(case, query);
    let Some(results) = laid.results.as_ref().filter(|_| !key.is_empty() && !laid.updating) else { return true };
    let names = names(case, query);
    let held = |column: &Option<usize>| column.is_some_and(|at| key.contains(&names[at]));
    materialized(case, query, key) || results.iter().all(held)
}

/// The same for all that is aggregated.
pub fn is_certain(case: &Case, relation: &Relation) -> bool {
    match relation {
        Relation::Source(_) => true,
        Relation::Select(select) => is_certain(case, &select.input),
        Relation::Union(branches) => branches.iter().all(|branch| is_certain(case, branch)),
        Relation::Join(join) => is_certain(case, &join.left),
        Relation::Aggregate(aggregate) => {
            let names = names(case, &aggregate.input);
            let groups: Vec<&str> = (aggregate.groups.iter())
                .filter_map(|group| if let GroupBy::Expr(Expr::Column(name)) = &group.by { Some(name.as_str()) } else { None })
                .collect();
            let held = |column: &Option<usize>| column.is_some_and(|at| groups.contains(&names[at].as_str()));
            let results = laid(case, &aggregate.input).results;
            let certain = order_free(case, aggregate) || results.is_none_or(|results| results.iter().all(held));
            certain && is_certain(case, &aggregate.input)
        }
    }
}
