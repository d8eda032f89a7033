//! A topology as JSON.

use arrow::datatypes::SchemaRef;
use serde_json::{Value, json};

use super::{describe, lead, policy, reader_of, reads, repartition, sub_of, value_names};
use crate::operator::ingest::EventTime;
use crate::operator::temporal_join::BeforeFirst;
use crate::topology::types::sql_name;
use crate::topology::{Operation, SubTopology, Topology};

/// The same as JSON.
pub fn explain_json(topology: &Topology) -> Value {
    let names = |schema: &SchemaRef| -> Vec<Value> {
        let column = |f: &arrow::datatypes::FieldRef| json!({"name": f.name(), "type": sql_name(f.data_type()), "nullable": f.is_nullable()});
        schema.fields().iter().map(column).collect()
    };
    let subs = topology.sub_topologies();
    let sources = topology.sources.iter().map(|source| {
        let key = source.key.as_ref().map(|key| {
            let names: Vec<&str> = key.fields.iter().map(|f| f.name().as_str()).collect();
            json!({"format": key.format.as_str(), "columns": names})
        });
        let checks =
            source.ingest.checks.iter().map(|c| json!({"name": c.name, "check": c.text, "on_violation": policy(c.on_violation)}));
        let time = match source.ingest.event_time {
            EventTime::RecordTimestamp => json!({"column": null, "watermark": false}),
            EventTime::VersionTimestamp => json!({"column": null, "watermark": true}),
            EventTime::Column { column, delay_micros, max_ahead_micros } => json!({
                "column": source.ingest.schema.field(column).name(),
                "watermark": true,
                "delay_micros": delay_micros,
                "max_ahead_micros": max_ahead_micros,
            }),
        };
        let table = source.table.as_ref().map(|table| {
            let first = match table.before_first {
                BeforeFirst::None => "none",
                BeforeFirst::FirstKnown => "first_known",
            };
            json!({"before_first": first})
        });
        json!({
            "name": source.name,
            "table": table,
            "topic": source.topic.as_str(),
            "partitions": topology.partitions.get(&source.topic),
            "subject": source.value.subject,
            "schema_id": source.value.id.0,
            "value_columns": value_names(source),
            "key": key,
            "metadata": source.metadata.iter().map(|m| m.as_str()).collect::<Vec<_>>(),
            "event_time": time,
            "checks": checks.collect::<Vec<_>>(),
        })
    });
    let nodes = topology.nodes.iter().enumerate().map(|(index, node)| {
        json!({
            "id": node.id,
            "sub_topology": sub_of(&subs, index),
            "kind": node.operation.kind(),
            "inputs": node.inputs.iter().map(|n| topology.nodes[*n].id.as_str()).collect::<Vec<_>>(),
            "what": describe(topology, node),
            "columns": names(&node.schema),
            "stateful": node.operation.stateful(),
        })
    });
    let of_sub = |(number, sub): (usize, &SubTopology)| {
        let reads = reads(topology, sub);
        json!({
            "number": number,
            "tasks": format!("{number}_*"),
            "lead": lead(&reads),
            "topics": reads.iter().map(|(topic, _)| topic).collect::<Vec<_>>(),
            "nodes": sub.nodes.iter().map(|node| topology.nodes[*node].id.as_str()).collect::<Vec<_>>(),
        })
    };
    let repartitions = topology.exchanges().filter_map(|index| {
        let node = &topology.nodes[index];
        let Operation::Exchange(spec) = &node.operation else { return None };
        Some(json!({
            "node": node.id,
            "topic": repartition(node),
            "keys": spec.keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "from": sub_of(&subs, index),
            "to": reader_of(&subs, index),
            "reason": spec.reason,
        }))
    });
    let avro = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let sinks = topology.sinks.iter().map(|sink| {
        let key = sink.key.as_ref().map(|key| {
            let names: Vec<&str> = key.columns.iter().map(|c| sink.schema.field(*c).name().as_str()).collect();
            let (subject, schema) = match &key.avro {
                Some((subject, schema)) => (json!(subject), avro(&schema.text)),
                None => (Value::Null, Value::Null),
            };
            json!({"columns": names, "format": key.format.as_str(), "subject": subject, "schema": schema})
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
        "sub_topologies": subs.iter().enumerate().map(of_sub).collect::<Vec<_>>(),
        "repartitions": repartitions.collect::<Vec<_>>(),
        "sinks": sinks.collect::<Vec<_>>(),
    })
}
