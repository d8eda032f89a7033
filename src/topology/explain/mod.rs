//! A topology as people read it, and as programs do.

/// As JSON.
mod json;
/// As text.
mod text;

use arrow::datatypes::SchemaRef;

use super::interval::shown;
use super::types::sql_name;
use super::{Node, Operation, Source, SubTopology, Topology};
use crate::operator::aggregate::{AggregateSpec, Function, Group, Phase};
use crate::operator::exchange::MAX_PARTITIONS;
use crate::operator::ingest::OnViolation;
use crate::operator::temporal_join::{BeforeFirst, JoinKind, Meets};

pub use json::explain_json;
pub use text::explain;

/// What a sub-topology reads: topics of sources, then repartition topics, each with its partition count where that is known.
fn reads(topology: &Topology, sub: &SubTopology) -> Vec<(String, Option<i32>)> {
    let mut all: Vec<(String, Option<i32>)> = Vec::new();
    for source in sub.sources.iter().map(|source| &topology.sources[*source]) {
        let topic = source.topic.to_string();
        if !all.iter().any(|(known, _)| *known == topic) {
            all.push((topic, topology.partitions.get(&source.topic).copied()));
        }
    }
    let most = topology.sources.iter().map(|source| topology.partitions.get(&source.topic).copied());
    let shuffled = most.collect::<Option<Vec<i32>>>().and_then(|counts| counts.into_iter().max());
    let shuffled = shuffled.map(|most| most.clamp(1, MAX_PARTITIONS));
    all.extend(sub.inboxes.iter().map(|node| (repartition(&topology.nodes[*node]), shuffled)));
    all
}

/// The topic that the group shares out: the first with the most partitions.
fn lead(reads: &[(String, Option<i32>)]) -> Option<&str> {
    let most = reads.iter().map(|(_, count)| *count).max().flatten();
    let lead = reads.iter().find(|(_, count)| *count == most || reads.iter().any(|(_, count)| count.is_none()));
    lead.map(|(topic, _)| topic.as_str())
}

/// A node's repartition topic without what the pipeline's name and generation put before it.
fn repartition(node: &Node) -> String {
    format!("....{}.repartition", node.id)
}

/// The number of the sub-topology that a node runs in; an exchange is on the side that sends.
fn sub_of(subs: &[SubTopology], node: usize) -> usize {
    subs.iter().position(|sub| sub.nodes.contains(&node)).unwrap_or_default()
}

/// The number of the sub-topology that reads an exchange.
fn reader_of(subs: &[SubTopology], exchange: usize) -> usize {
    subs.iter().position(|sub| sub.inboxes.contains(&exchange)).unwrap_or_default()
}

fn value_names(source: &Source) -> Vec<&str> {
    source.value_columns.iter().map(|n| source.value.columns.field(*n).name().as_str()).collect()
}

fn policy(on_violation: OnViolation) -> &'static str {
    match on_violation {
        OnViolation::DeadLetter => "dead_letter",
        OnViolation::Drop => "drop",
        OnViolation::Fail => "fail",
    }
}

fn columns(schema: &SchemaRef) -> String {
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|f| format!("{} {}{}", f.name(), sql_name(f.data_type()), if f.is_nullable() { "" } else { " NOT NULL" }))
        .collect();
    columns.join(", ")
}

fn describe(topology: &Topology, node: &Node) -> String {
    match &node.operation {
        Operation::Source(index) => format!("source {}", topology.sources[*index].name),
        Operation::Filter(spec) => {
            let conjuncts: Vec<String> = spec.conjuncts.iter().map(ToString::to_string).collect();
            format!("filter {}", conjuncts.join(" AND "))
        }
        Operation::Project(spec) => {
            let exprs: Vec<String> =
                spec.exprs.iter().zip(spec.schema.fields()).map(|(e, f)| format!("{e} AS {}", f.name())).collect();
            format!("project {}", exprs.join(", "))
        }
        Operation::Assign(spec) => {
            let time = node.schema.field(spec.time_column).name();
            let offset = if spec.offset_micros == 0 { String::new() } else { format!(", offset {}", shown(spec.offset_micros)) };
            if spec.size_micros == spec.slide_micros {
                format!("tumble by {time}, size {}{offset}", shown(spec.size_micros))
            } else {
                format!("hop by {time}, slide {}, size {}{offset}", shown(spec.slide_micros), shown(spec.size_micros))
            }
        }
        Operation::Union => "union all".into(),
        Operation::Aggregate(spec) => aggregate(spec),
        Operation::Consolidate(spec) => {
            let keys: Vec<&str> = spec.key_columns.iter().map(|c| node.schema.field(*c).name().as_str()).collect();
            format!("last row per {} and commit", keys.join(", "))
        }
        Operation::Table(spec) => {
            let keys: Vec<&str> = spec.key_columns.iter().map(|c| node.schema.field(*c).name().as_str()).collect();
            format!("changes of the rows by {}", keys.join(", "))
        }
        Operation::TemporalJoin(spec) => {
            let keys: Vec<String> = spec
                .left_keys
                .iter()
                .zip(&spec.right_keys)
                .map(|(left, right)| format!("{left} = {}", spec.right.field(*right).name()))
                .collect();
            let kind = match spec.kind {
                JoinKind::Inner => "join",
                JoinKind::Left => "left join",
            };
            let filter = spec.filter.as_ref().map_or(String::new(), |filter| format!(" AND {filter}"));
            let (version, first) = match spec.meets {
                Meets::AsOf(BeforeFirst::None) => ("as of the row's time", ""),
                Meets::AsOf(BeforeFirst::FirstKnown) => ("as of the row's time", ", before the first version: the first"),
                Meets::Latest => ("with the latest version", ", which a replay may see otherwise"),
            };
            format!("{kind} {version} on {}{filter}{first}", keys.join(" AND "))
        }
        Operation::Materialize(spec) => {
            let keys: Vec<&str> = spec.key_columns.iter().map(|c| node.schema.field(*c).name().as_str()).collect();
            format!("the row of the greatest position per {}", keys.join(", "))
        }
        Operation::Exchange(spec) => {
            let keys: Vec<String> = spec.keys.iter().map(ToString::to_string).collect();
            format!("shuffle by {}", if keys.is_empty() { "nothing: all rows meet in one task".into() } else { keys.join(", ") })
        }
        Operation::Sink(index) => format!("sink {}", topology.sinks[*index].name),
    }
}

fn aggregate(spec: &AggregateSpec) -> String {
    let groups: Vec<String> = spec
        .groups
        .iter()
        .map(|group| match group {
            Group::WindowStart => "window_start".into(),
            Group::WindowEnd => "window_end".into(),
            Group::WindowTime => "window_time".into(),
            Group::Expression(expr) => expr.to_string(),
        })
        .collect();
    let calls: Vec<String> = spec
        .calls
        .iter()
        .map(|call| {
            let args: Vec<String> = call.args.iter().map(ToString::to_string).collect();
            let args = if args.is_empty() { "*".to_owned() } else { args.join(", ") };
            let distinct = if call.distinct { "DISTINCT " } else { "" };
            let filter = call.filter.as_ref().map_or(String::new(), |f| format!(" FILTER ({f})"));
            format!("{}({distinct}{args}){filter}", function(&call.function))
        })
        .collect();
    let window = match &spec.window {
        Some(window) => format!("windows of {}, emitted once", shown(window.size_micros)),
        None => "updating".into(),
    };
    let order = if spec.exact() { ", exact sums" } else { "" };
    let phase = match spec.phase {
        Phase::Complete => "",
        Phase::Local => ", local half",
        Phase::Global => ", global half",
    };
    format!(
        "{} group by {} ({window}{order}{phase})",
        if calls.is_empty() { "keys".to_owned() } else { calls.join(", ") },
        if groups.is_empty() { "nothing: one group".to_owned() } else { groups.join(", ") }
    )
}

fn function(function: &Function) -> String {
    match function {
        Function::Count => "count".into(),
        Function::Sum => "sum".into(),
        Function::Min => "min".into(),
        Function::Max => "max".into(),
        Function::Avg => "avg".into(),
        Function::StddevPop => "stddev_pop".into(),
        Function::StddevSamp => "stddev_samp".into(),
        Function::VarPop => "var_pop".into(),
        Function::VarSamp => "var_samp".into(),
        Function::FirstValue => "first_value".into(),
        Function::LastValue => "last_value".into(),
        Function::BoolAnd => "bool_and".into(),
        Function::BoolOr => "bool_or".into(),
        Function::Other(other) => other.fun().name().to_owned(),
    }
}
