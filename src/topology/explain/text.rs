//! A topology as text.

use std::fmt::Write;

use super::{columns, describe, lead, policy, reader_of, reads, repartition, sub_of, value_names};
use crate::operator::ingest::EventTime;
use crate::operator::temporal_join::BeforeFirst;
use crate::topology::interval::shown;
use crate::topology::{Node, NullValue, Operation, Sink, Source, SubTopology, Topology};

/// The topology as text: sources, sub-topologies with their nodes, stores, repartitions, sinks.
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
        write_source(out, topology, source)?;
    }
    let subs = topology.sub_topologies();
    for (number, sub) in subs.iter().enumerate() {
        write_sub(out, topology, number, sub)?;
    }
    write_stores(out, topology, &subs)?;
    write_repartitions(out, topology, &subs)?;
    topology.sinks.iter().try_for_each(|sink| write_sink(out, sink))
}

fn write_sub(out: &mut String, topology: &Topology, number: usize, sub: &SubTopology) -> std::fmt::Result {
    let reads = reads(topology, sub);
    write!(out, "sub-topology {number} (tasks {number}_*)")?;
    match reads.as_slice() {
        [(only, _)] => writeln!(out, ": topic {only}")?,
        several => {
            let topics: Vec<&str> = several.iter().map(|(topic, _)| topic.as_str()).collect();
            writeln!(out, ": topics {}, of which {} leads", topics.join(", "), lead(several).unwrap_or_default())?;
        }
    }
    for node in sub.nodes.iter().map(|node| &topology.nodes[*node]) {
        let inputs: Vec<&str> = node.inputs.iter().map(|n| topology.nodes[*n].id.as_str()).collect();
        let from = if inputs.is_empty() { String::new() } else { format!(" <- {}", inputs.join(", ")) };
        writeln!(out, "  {}{from}: {}", node.id, describe(topology, node))?;
    }
    Ok(())
}

fn write_stores(out: &mut String, topology: &Topology, subs: &[SubTopology]) -> std::fmt::Result {
    let stores: Vec<(usize, &Node)> = topology.nodes.iter().enumerate().filter(|(_, n)| n.operation.stateful()).collect();
    if stores.is_empty() {
        return writeln!(out, "stores: none");
    }
    writeln!(out, "stores")?;
    for (index, node) in stores {
        let tasks = sub_of(subs, index);
        writeln!(out, "  {} (changelog ....{}.changelog, tasks {tasks}_*): {}", node.id, node.id, columns(&node.schema))?;
    }
    Ok(())
}

fn write_repartitions(out: &mut String, topology: &Topology, subs: &[SubTopology]) -> std::fmt::Result {
    let exchanges: Vec<usize> = topology.exchanges().collect();
    if exchanges.is_empty() {
        return writeln!(out, "repartitions: none");
    }
    writeln!(out, "repartitions")?;
    for index in exchanges {
        let node = &topology.nodes[index];
        let Operation::Exchange(spec) = &node.operation else { continue };
        let (from, to) = (sub_of(subs, index), reader_of(subs, index));
        writeln!(out, "  {} (topic {}, from {from}_* to {to}_*): {}", node.id, repartition(node), spec.reason)?;
    }
    Ok(())
}

fn write_source(out: &mut String, topology: &Topology, source: &Source) -> std::fmt::Result {
    let kind = if source.table.is_some() { "table" } else { "source" };
    let count = topology.partitions.get(&source.topic).map_or(String::new(), |count| format!(", {count} partitions"));
    writeln!(out, "{kind} {} (topic {}{count})", source.name, source.topic)?;
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
        writeln!(out, "  key: {}, reads {}", key.format.as_str(), names.join(", "))?;
    }
    if !source.metadata.is_empty() {
        let names: Vec<&str> = source.metadata.iter().map(|m| m.as_str()).collect();
        writeln!(out, "  metadata: {}", names.join(", "))?;
    }
    writeln!(out, "  event time: {}", event_time(source))?;
    if let Some(table) = &source.table {
        let first = match table.before_first {
            BeforeFirst::None => "a row older than the first version joins none",
            BeforeFirst::FirstKnown => "a row older than the first version joins the first known",
        };
        writeln!(out, "  versions: {first}")?;
    }
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

fn write_sink(out: &mut String, sink: &Sink) -> std::fmt::Result {
    let kind = if sink.key.is_some() { "upsert" } else { "append" };
    writeln!(out, "sink {} (topic {}, {kind})", sink.name, sink.topic)?;
    if let Some(key) = &sink.key {
        let names: Vec<&str> = key.columns.iter().map(|c| sink.schema.field(*c).name().as_str()).collect();
        write!(out, "  key: {} ({})", key.format.as_str(), names.join(", "))?;
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
