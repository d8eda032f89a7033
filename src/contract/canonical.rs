//! One text for all schemas that mean the same: the form that fingerprints are made of.
//!
//! Avro's own parsing canonical form leaves out defaults, aliases and logical types, yet those decide which values come out of a
//! writer's bytes. Here they are kept; layout, documentation, unknown properties, the order of attributes, and how a name is
//! written (with a namespace around it or in full) are not.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use super::tree::{Kind, Logical, Names, NodeId, Tree};

pub(super) fn canonical(tree: &Tree) -> String {
    write(tree, tree.root, &mut HashSet::new()).to_string()
}

/// A named type is written out at its first use, and is its full name from there on.
fn write(tree: &Tree, id: NodeId, written: &mut HashSet<NodeId>) -> Value {
    let node = tree.node(id);
    let name = match &node.kind {
        Kind::Fixed { name, .. } | Kind::Enum { name, .. } | Kind::Record { name, .. } => Some(name),
        _ => None,
    };
    if let Some(name) = name
        && !written.insert(id)
    {
        return name.full.as_str().into();
    }
    // Sorted, whatever order serde_json keeps.
    let mut parts: BTreeMap<&str, Value> = BTreeMap::from([("type", node.kind.word().into())]);
    if let Some(Names { full, aliases }) = name {
        parts.insert("name", full.as_str().into());
        if !aliases.is_empty() {
            parts.insert("aliases", json!(aliases));
        }
    }
    if let Some(logical) = node.logical {
        parts.insert("logicalType", logical_type(logical));
    }
    match &node.kind {
        Kind::Fixed { size, .. } => drop(parts.insert("size", json!(size))),
        Kind::Enum { symbols, default, .. } => {
            parts.insert("symbols", json!(symbols.as_ref()));
            if let Some(default) = default {
                parts.insert("default", symbols[*default].as_str().into());
            }
        }
        Kind::Array(of) => drop(parts.insert("items", write(tree, *of, written))),
        Kind::Map(of) => drop(parts.insert("values", write(tree, *of, written))),
        Kind::Union(branches) => {
            parts.insert("branches", branches.iter().map(|branch| write(tree, *branch, written)).collect());
        }
        Kind::Record { fields, .. } => {
            let mut all = Vec::with_capacity(fields.len());
            for field in fields {
                let mut parts =
                    BTreeMap::from([("name", Value::from(field.name.as_str())), ("type", write(tree, field.of, written))]);
                if !field.aliases.is_empty() {
                    parts.insert("aliases", json!(field.aliases));
                }
                if let Some(default) = &field.default {
                    parts.insert("default", sorted(default));
                }
                all.push(object(parts));
            }
            parts.insert("fields", all.into());
        }
        _ => {}
    }
    object(parts)
}

fn logical_type(logical: Logical) -> Value {
    match logical {
        Logical::Decimal { precision, scale } => json!(["decimal", precision, scale]),
        other => other.to_string().into(),
    }
}

fn object(parts: BTreeMap<&str, Value>) -> Value {
    Value::Object(parts.into_iter().map(|(name, part)| (name.to_string(), part)).collect())
}

/// Members of a default have no order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => object(members.iter().map(|(name, member)| (name.as_str(), sorted(member))).collect()),
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}
