//! Expected against found: rows compared by type, in any order.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cli::test::case::{Case, Letter};
use crate::cli::test::world::Tables;
use crate::codec::json::same;
use crate::topology::Sink;

/// What differs, one line per row; empty when nothing does.
pub fn differences(case: &Case, tables: &Tables) -> Vec<String> {
    let mut found = Vec::new();
    for sink in &case.topology.sinks {
        let expected = case.expected.get(&sink.name).or_else(|| case.expected.get(sink.topic.as_str()));
        if let Some(expected) = expected {
            rows(sink, expected, &tables.sinks[&sink.name], &mut found);
        }
    }
    if let Some(expected) = &case.dead {
        letters("dead letter", expected, &tables.dead, &mut found);
    }
    if let Some(expected) = &case.late {
        letters("late row", expected, &tables.late, &mut found);
    }
    found
}

/// What differs between two runs of one case.
pub fn between(first: &Tables, second: &Tables) -> Vec<String> {
    let mut found = Vec::new();
    for (sink, rows) in &first.sinks {
        let others = second.sinks.get(sink).cloned().unwrap_or_default();
        let (only_first, only_second) = (minus(rows, &others), minus(&others, rows));
        found.extend(only_first.into_iter().map(|row| format!("{sink}: only in the first: {row}")));
        found.extend(only_second.into_iter().map(|row| format!("{sink}: only in the second: {row}")));
    }
    letters("dead letter", &first.dead, &second.dead, &mut found);
    letters("late row", &first.late, &second.late, &mut found);
    found
}

fn minus(rows: &[Value], others: &[Value]) -> Vec<Value> {
    let mut left = others.to_vec();
    let mut only = Vec::new();
    for row in rows {
        match left.iter().position(|other| other == row) {
            Some(at) => drop(left.swap_remove(at)),
            None => only.push(row.clone()),
        }
    }
    only
}

fn rows(sink: &Sink, expected: &[Value], found: &[Value], differences: &mut Vec<String>) {
    let mut left: Vec<&Value> = found.iter().collect();
    for row in expected {
        match left.iter().position(|found| row_is(sink, row, found)) {
            Some(at) => drop(left.swap_remove(at)),
            None => differences.push(format!("{}: missing {row}", sink.name)),
        }
    }
    differences.extend(left.into_iter().map(|row| format!("{}: unexpected {row}", sink.name)));
}

/// Whether `found` (all columns, flat) is the expected row: flat too, or as `{"key": ..., "value": ...}`.
fn row_is(sink: &Sink, expected: &Value, found: &Value) -> bool {
    let (Value::Object(fields), Value::Object(columns)) = (expected, found) else { return false };
    let nested =
        fields.contains_key("value") && !columns.contains_key("value") && fields.get("value").is_some_and(Value::is_object);
    if nested {
        let key = fields.get("key").filter(|key| key.is_object());
        let mut flat = fields["value"].clone();
        if let (Value::Object(flat), Some(Value::Object(key))) = (&mut flat, key) {
            key.iter().for_each(|(name, value)| {
                flat.entry(name).or_insert(value.clone());
            });
        }
        return row_is(sink, &flat, found);
    }
    let (mut value, mut expected_value) = (columns.clone(), fields.clone());
    let in_value: BTreeSet<&str> = sink.value_columns.iter().map(|c| sink.schema.field(*c).name().as_str()).collect();
    let key_only: Vec<String> = columns.keys().filter(|name| !in_value.contains(name.as_str())).cloned().collect();
    for name in &key_only {
        let (found, expected) = (value.shift_remove(name), expected_value.shift_remove(name));
        let Some(expected) = expected else { continue };
        let equal = match (sink.key.as_ref().and_then(|key| key.avro.as_ref()), found) {
            (Some((_, schema)), Some(found)) => {
                let object = |value: Value| Value::Object([(name.clone(), value)].into_iter().collect());
                key_field_is(schema, name, &object(expected), &object(found))
            }
            (None, Some(found)) => found == expected,
            (_, None) => false,
        };
        if !equal {
            return false;
        }
    }
    same(&sink.value_schema, &Value::Object(expected_value), &Value::Object(value))
}

fn key_field_is(schema: &crate::contract::AvroSchema, name: &str, expected: &Value, found: &Value) -> bool {
    let apache_avro::Schema::Record(record) = &schema.parsed else { return expected == found };
    let Some(field) = record.fields.iter().find(|field| field.name == name) else { return false };
    let text = serde_json::json!({"type": "record", "name": "k", "fields": [{"name": name, "type": field.schema}]}).to_string();
    crate::contract::AvroSchema::parse(&text).is_ok_and(|schema| same(&schema, expected, found))
}

fn letters(what: &str, expected: &BTreeSet<Letter>, found: &BTreeSet<Letter>, differences: &mut Vec<String>) {
    let matches = |expected: &Letter, found: &Letter| {
        (expected.topic.as_str(), expected.partition, expected.offset) == (found.topic.as_str(), found.partition, found.offset)
            && expected.class.as_ref().is_none_or(|class| Some(class) == found.class.as_ref())
    };
    for letter in expected {
        if !found.iter().any(|other| matches(letter, other)) {
            differences.push(format!("missing {what} {}", show(letter)));
        }
    }
    for letter in found {
        if !expected.iter().any(|other| matches(other, letter)) {
            differences.push(format!("unexpected {what} {}", show(letter)));
        }
    }
}

fn show(letter: &Letter) -> String {
    let class = letter.class.as_ref().map_or(String::new(), |class| format!(" class {class}"));
    format!("{}:{} offset {}{class}", letter.topic, letter.partition, letter.offset)
}
