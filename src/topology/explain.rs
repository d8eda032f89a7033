//! A topology as people read it, and as programs do.

use std::fmt::Write;

use arrow::datatypes::SchemaRef;
use serde_json::{Value, json};

use super::interval::shown;
use super::types::sql_name;
use super::{Node, NullValue, Operation, Sink, Source, Topology};
use crate::codec::KeyFormat;
use crate::operator::aggregate::{AggregateSpec, Function, Group};
use crate::operator::ingest::{EventTime, OnViolation};
use crate::operator::temporal_join::{BeforeFirst, JoinKind};

/// The topology as text: sources, nodes, stores, repartitions, sinks.
pub fn explain(topology: &Topology) -> String {
    let mut text = String::new();
    // Writing to a String never fails.
    let _ = write_all(&mut text, topology);
    text
}

fn write_all(out: &mut String, topology: &Topology) -> std::fmt::Result {
    writeln!(out, "pipeline {}{}", topology.pipeline, if topology.named { "" } else { " (named after its file)" })?;
    if topology.nondeterministic {
        writeln!(out, "nondeterministic: a replay may give another table, and this pipeline can't be promoted")?;
    }
    for source in &topology.sources {
        write_source(out, source)?;
    }
    writeln!(out, "nodes")?;
    for node in &topology.nodes {
        let inputs: Vec<&str> = node.inputs.iter().map(|n| topology.nodes[*n].id.as_str()).collect();
        let from = if inputs.is_empty() { String::new() } else { format!(" <- {}", inputs.join(", ")) };
        writeln!(out, "  {}{from}: {}", node.id, describe(topology, node))?;
    }
    let stores: Vec<&Node> = topology.nodes.iter().filter(|n| n.operation.stateful()).collect();
    match stores.as_slice() {
        [] => writeln!(out, "stores: none")?,
        stores => {
            writeln!(out, "stores")?;
            for node in stores {
                writeln!(out, "  {} (changelog ....{}.changelog): {}", node.id, node.id, columns(&node.schema))?;
            }
        }
    }
    write_repartitions(out, topology)?;
    topology.sinks.iter().try_for_each(|sink| write_sink(out, sink))
}

fn write_repartitions(out: &mut String, topology: &Topology) -> std::fmt::Result {
    let exchanges: Vec<usize> = topology.exchanges().collect();
    if exchanges.is_empty() {
        return writeln!(out, "repartitions: none");
    }
    writeln!(out, "repartitions")?;
    for node in exchanges.into_iter().map(|node| &topology.nodes[node]) {
        let Operation::Exchange(spec) = &node.operation else { continue };
        writeln!(out, "  {} (topic ....{}.repartition): {}", node.id, node.id, spec.reason)?;
    }
    Ok(())
}

fn write_source(out: &mut String, source: &Source) -> std::fmt::Result {
    let kind = if source.table.is_some() { "table" } else { "source" };
    writeln!(out, "{kind} {} (topic {})", source.name, source.topic)?;
    writeln!(
        out,
        "  value: {} version {} id {}, reads {} of {} columns: {}",
        source.value.subject,
        source.value.version,
        source.value.id,
        source.value_columns.len(),
        source.value.columns.fields().len(),
        value_names(source).join(", ")
    )?;
    if let Some(key) = &source.key {
        let names: Vec<&str> = key.fields.iter().map(|f| f.name().as_str()).collect();
        writeln!(out, "  key: {}, reads {}", format_name(key.format), names.join(", "))?;
    }
    if !source.metadata.is_empty() {
        let names: Vec<&str> = source.metadata.iter().map(|m| m.as_str()).collect();
        writeln!(out, "  metadata: {}", names.join(", "))?;
    }
    writeln!(out, "  event time: {}", event_time(source))?;
    for check in &source.ingest.checks {
        writeln!(out, "  check {}: {} on violation {}", check.name, check.text, policy(check.on_violation))?;
    }
    for (class, policy_of) in &source.on_bad {
        writeln!(out, "  bad records of class {class}: {}", policy(*policy_of))?;
    }
    if source.null_value == NullValue::DeadLetter {
        writeln!(out, "  tombstones: dead_letter")?;
    }
    Ok(())
}

fn value_names(source: &Source) -> Vec<&str> {
    source.value_columns.iter().map(|n| source.value.columns.field(*n).name().as_str()).collect()
}

fn event_time(source: &Source) -> String {
    match source.ingest.event_time {
        EventTime::RecordTimestamp => "the record's timestamp, no watermark".into(),
        EventTime::VersionTimestamp => "the record's timestamp, watermark at it".into(),
        EventTime::Column { column, delay_micros, max_ahead_micros } => {
            let name = source.ingest.schema.field(column).name();
            let ahead = max_ahead_micros.map_or("not checked".to_owned(), shown);
            format!("{name}, watermark {} behind, at most {ahead} ahead of the record", shown(delay_micros))
        }
    }
}

fn policy(on_violation: OnViolation) -> &'static str {
    match on_violation {
        OnViolation::DeadLetter => "dead_letter",
        OnViolation::Drop => "drop",
        OnViolation::Fail => "fail",
    }
}

fn format_name(format: KeyFormat) -> &'static str {
    match format {
        KeyFormat::Avro => "avro",
        KeyFormat::Json => "json",
        KeyFormat::String => "string",
        KeyFormat::Long => "long",
        KeyFormat::Int => "int",
        KeyFormat::Bytes => "bytes",
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
            let first = match spec.before_first {
                BeforeFirst::None => "",
                BeforeFirst::FirstKnown => ", before the first version: the first",
            };
            format!("{kind} as of the row's time on {}{filter}{first}", keys.join(" AND "))
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
    let order = if spec.order_free { ", exact sums" } else { "" };
    format!(
        "{} group by {} ({window}{order})",
        if calls.is_empty() { "keys".to_owned() } else { calls.join(", ") },
        groups.join(", ")
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

fn write_sink(out: &mut String, sink: &Sink) -> std::fmt::Result {
    let kind = if sink.key.is_some() { "upsert" } else { "append" };
    writeln!(out, "sink {} (topic {}, {kind})", sink.name, sink.topic)?;
    if let Some(key) = &sink.key {
        let names: Vec<&str> = key.columns.iter().map(|c| sink.schema.field(*c).name().as_str()).collect();
        write!(out, "  key: {} ({})", format_name(key.format), names.join(", "))?;
        match &key.avro {
            Some((subject, schema)) => writeln!(out, ", {subject}: {}", schema.text)?,
            None => writeln!(out)?,
        }
    }
    if let Some(column) = sink.timestamp_column {
        writeln!(out, "  timestamp: {}", sink.schema.field(column).name())?;
    }
    writeln!(out, "  columns: {}", columns(&sink.schema))?;
    writeln!(out, "  value: {}: {}", sink.value_subject, sink.value_schema.text)
}

/// The same as JSON.
pub fn explain_json(topology: &Topology) -> Value {
    let names = |schema: &SchemaRef| -> Vec<Value> {
        let column = |f: &arrow::datatypes::FieldRef| json!({"name": f.name(), "type": sql_name(f.data_type()), "nullable": f.is_nullable()});
        schema.fields().iter().map(column).collect()
    };
    let sources = topology.sources.iter().map(|source| {
        let key = source.key.as_ref().map(|key| {
            let names: Vec<&str> = key.fields.iter().map(|f| f.name().as_str()).collect();
            json!({"format": format_name(key.format), "columns": names})
        });
        let checks =
            source.ingest.checks.iter().map(|c| json!({"name": c.name, "check": c.text, "on_violation": policy(c.on_violation)}));
        let time = match source.ingest.event_time {
            EventTime::RecordTimestamp | EventTime::VersionTimestamp => json!({"column": null}),
            EventTime::Column { column, delay_micros, max_ahead_micros } => json!({
                "column": source.ingest.schema.field(column).name(),
                "delay_micros": delay_micros,
                "max_ahead_micros": max_ahead_micros,
            }),
        };
        json!({
            "name": source.name,
            "topic": source.topic.as_str(),
            "subject": source.value.subject,
            "schema_id": source.value.id.0,
            "value_columns": value_names(source),
            "key": key,
            "metadata": source.metadata.iter().map(|m| m.as_str()).collect::<Vec<_>>(),
            "event_time": time,
            "checks": checks.collect::<Vec<_>>(),
        })
    });
    let nodes = topology.nodes.iter().map(|node| {
        json!({
            "id": node.id,
            "kind": node.operation.kind(),
            "inputs": node.inputs.iter().map(|n| topology.nodes[*n].id.as_str()).collect::<Vec<_>>(),
            "what": describe(topology, node),
            "columns": names(&node.schema),
            "stateful": node.operation.stateful(),
        })
    });
    let avro = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let sinks = topology.sinks.iter().map(|sink| {
        let key = sink.key.as_ref().map(|key| {
            let names: Vec<&str> = key.columns.iter().map(|c| sink.schema.field(*c).name().as_str()).collect();
            let (subject, schema) = match &key.avro {
                Some((subject, schema)) => (json!(subject), avro(&schema.text)),
                None => (Value::Null, Value::Null),
            };
            json!({"columns": names, "format": format_name(key.format), "subject": subject, "schema": schema})
        });
        json!({
            "name": sink.name,
            "topic": sink.topic.as_str(),
            "mode": if sink.key.is_some() { "upsert" } else { "append" },
            "columns": names(&sink.schema),
            "key": key,
            "value_subject": sink.value_subject,
            "value_schema": avro(&sink.value_schema.text),
        })
    });
    json!({
        "pipeline": topology.pipeline,
        "named": topology.named,
        "nondeterministic": topology.nondeterministic,
        "sources": sources.collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
        "stores": topology.nodes.iter().filter(|n| n.operation.stateful()).map(|n| n.id.as_str()).collect::<Vec<_>>(),
        "repartitions": [],
        "sinks": sinks.collect::<Vec<_>>(),
    })
}
