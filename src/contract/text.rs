//! Schemas as text: parsing, references between subjects, and named types written out where they are first used.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::AvroSchema;
use super::canonical::canonical;
use super::tree::Tree;
use crate::error::{Error, Result};

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

impl AvroSchema {
    /// `Contract` error: not JSON (with line and column), not Avro, or a name that is not defined.
    pub fn parse(text: &str) -> Result<AvroSchema> {
        AvroSchema::parse_with_references(text, &[])
    }

    /// `refs` are the schemas that `text` refers to, and those that they refer to: name as the registry has it, and text.
    pub fn parse_with_references(text: &str, refs: &[(String, String)]) -> Result<AvroSchema> {
        let json = parse_json(text)?;
        let text = if refs.is_empty() {
            text.trim().to_string()
        } else {
            let mut known = Definitions::default();
            for (name, text) in refs {
                known.collect(&parse_json(text).map_err(|e| e.context(format!("reference \"{name}\"")))?, "");
            }
            Inliner::new(&known).write(&json, "")?.to_string()
        };
        let parsed = apache_avro::Schema::parse_str(&text).map_err(|e| Error::contract(format!("not an Avro schema: {e}")))?;
        let tree = Tree::new(&parse_json(&text)?)?;
        Ok(AvroSchema { fingerprint: hex(&Sha256::digest(canonical(&tree))), text, parsed })
    }

    /// The schema as a graph of types.
    pub fn tree(&self) -> Result<Tree> {
        Tree::new(&self.json())
    }

    /// The full name of a record, enum or fixed.
    pub fn full_name(&self) -> Option<String> {
        self.parsed.name().map(|name| name.fullname(None))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("the text was parsed when the schema was made")
    }
}

/// A bare name (`"string"`) stands for itself: registries hold such schemas without quotes too.
fn parse_json(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| {
        Error::contract(format!("line {} column {}: not JSON: {e}", e.line().max(1), e.column()))
            .hint("an Avro schema is JSON: {\"type\": \"record\", \"name\": ..., \"fields\": [...]}")
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The full name of a type named `name` where `namespace` encloses it.
pub(super) fn full_name(name: &str, namespace: &str) -> String {
    match name.strip_prefix('.') {
        Some(bare) => bare.to_string(),
        None if name.contains('.') || namespace.is_empty() => name.to_string(),
        None => format!("{namespace}.{name}"),
    }
}

pub(super) fn namespace_of(full: &str) -> &str {
    full.rsplit_once('.').map_or("", |(namespace, _)| namespace)
}

pub(super) fn is_primitive(name: &str) -> bool {
    PRIMITIVES.contains(&name)
}

/// The full name of a definition within `namespace`; `None` when it defines no named type.
pub(super) fn defined_name(definition: &Map<String, Value>, namespace: &str) -> Option<String> {
    let kind = definition.get("type")?.as_str()?;
    if !matches!(kind, "record" | "error" | "enum" | "fixed") {
        return None;
    }
    let name = definition.get("name")?.as_str()?;
    let own = definition.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
    Some(full_name(name, own))
}

/// Named types by full name, each as it was written and with the namespace that encloses what is inside it.
#[derive(Debug, Default)]
pub(crate) struct Definitions(HashMap<String, Value>);

impl Definitions {
    pub(crate) fn collect(&mut self, schema: &Value, namespace: &str) {
        match schema {
            Value::Array(branches) => branches.iter().for_each(|branch| self.collect(branch, namespace)),
            Value::Object(definition) => {
                let name = defined_name(definition, namespace);
                let inner = name.as_deref().map_or(namespace, namespace_of).to_string();
                if let Some(name) = name {
                    self.0.entry(name).or_insert_with(|| schema.clone());
                }
                for field in definition.get("fields").and_then(Value::as_array).into_iter().flatten() {
                    if let Some(of) = field.get("type") {
                        self.collect(of, &inner);
                    }
                }
                for part in ["items", "values", "type"] {
                    if let Some(of) = definition.get(part).filter(|of| !of.is_string()) {
                        self.collect(of, &inner);
                    }
                }
            }
            _ => {}
        }
    }

    /// Those of the named types that a type is made of. What else its contract defines does not matter to it, the contract's own record
    /// above all: many topics call theirs by one name.
    pub(crate) fn used_by(&self, schema: &Value, namespace: &str) -> Definitions {
        let mut used = Definitions::default();
        self.reach(schema, namespace, &mut used);
        used
    }

    fn reach(&self, schema: &Value, namespace: &str, used: &mut Definitions) {
        match schema {
            Value::String(name) if is_primitive(name) => {}
            Value::String(name) => {
                let name = full_name(name, namespace);
                if let Some(definition) = self.0.get(&name).filter(|_| !used.0.contains_key(&name)) {
                    self.reach(definition, namespace_of(&name), used);
                }
            }
            Value::Array(branches) => branches.iter().for_each(|branch| self.reach(branch, namespace, used)),
            Value::Object(definition) => {
                let name = defined_name(definition, namespace);
                let inner = name.as_deref().map_or(namespace, namespace_of).to_string();
                if let Some(name) = name
                    && used.0.insert(name, schema.clone()).is_some()
                {
                    return;
                }
                for field in definition.get("fields").and_then(Value::as_array).into_iter().flatten() {
                    field.get("type").into_iter().for_each(|of| self.reach(of, &inner, used));
                }
                for part in ["items", "values", "type"] {
                    definition.get(part).filter(|of| !is_kind(of)).into_iter().for_each(|of| self.reach(of, &inner, used));
                }
            }
            _ => {}
        }
    }

    /// Takes over what `other` defines; an error names a type that both define differently.
    pub(crate) fn merge(&mut self, other: Definitions) -> Result<(), String> {
        for (name, definition) in other.0 {
            match self.0.get(&name) {
                Some(ours) if *ours != definition => return Err(name),
                Some(_) => {}
                None => drop(self.0.insert(name, definition)),
            }
        }
        Ok(())
    }
}

/// Writes schemas so that each named type is defined at its first use, whoever defined it.
pub(crate) struct Inliner<'a> {
    known: &'a Definitions,
    written: HashSet<String>,
    /// The namespace around the place that is being written.
    at: String,
}

impl<'a> Inliner<'a> {
    pub(crate) fn new(known: &'a Definitions) -> Inliner<'a> {
        Inliner { known, written: HashSet::new(), at: String::new() }
    }

    /// What is written from here on stands within a record of this name that the caller defines.
    pub(crate) fn within(mut self, name: &str) -> Inliner<'a> {
        self.written.insert(name.to_string());
        self.at = namespace_of(name).to_string();
        self
    }

    /// `namespace` is the one around `schema` where it was read from.
    pub(crate) fn write(&mut self, schema: &Value, namespace: &str) -> Result<Value> {
        match schema {
            Value::String(name) if is_primitive(name) => Ok(schema.clone()),
            Value::String(name) => self.named(&full_name(name, namespace)),
            Value::Array(branches) => branches.iter().map(|branch| self.write(branch, namespace)).collect(),
            Value::Object(definition) => match defined_name(definition, namespace) {
                Some(name) if self.written.contains(&name) => Ok(self.reference(&name)),
                Some(name) => self.definition(definition, &name),
                None => self.parts(definition, namespace),
            },
            other => Err(Error::contract(format!("not an Avro type: {other}"))),
        }
    }

    fn named(&mut self, name: &str) -> Result<Value> {
        if self.written.contains(name) {
            return Ok(self.reference(name));
        }
        match self.known.0.get(name) {
            Some(Value::Object(definition)) => self.definition(definition, name),
            _ => Err(Error::contract(format!("type \"{name}\" is used but not defined"))
                .hint("register the subject that defines it as a reference of this schema")),
        }
    }

    /// A name without namespace needs a leading dot where another namespace is around it.
    fn reference(&self, name: &str) -> Value {
        let bare = name.contains('.') || self.at.is_empty();
        Value::String(if bare { name.to_string() } else { format!(".{name}") })
    }

    fn definition(&mut self, definition: &Map<String, Value>, name: &str) -> Result<Value> {
        self.written.insert(name.to_string());
        let namespace = namespace_of(name).to_string();
        let around = std::mem::replace(&mut self.at, namespace.clone());
        let parts = self.parts(definition, &namespace);
        self.at = around;
        let mut out = parts?;
        if namespace != self.at {
            let object = out.as_object_mut().expect("an object stays one");
            object.insert("name".into(), Value::String(name.rsplit('.').next().unwrap_or(name).to_string()));
            object.insert("namespace".into(), Value::String(namespace));
        }
        Ok(out)
    }

    fn parts(&mut self, definition: &Map<String, Value>, namespace: &str) -> Result<Value> {
        let mut out = definition.clone();
        for (part, of) in out.iter_mut() {
            match part.as_str() {
                "items" | "values" => *of = self.write(of, namespace)?,
                "type" if !is_kind(of) => *of = self.write(of, namespace)?,
                "fields" => {
                    for field in of.as_array_mut().into_iter().flatten() {
                        if let Some(of) = field.get_mut("type") {
                            *of = self.write(of, namespace)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(Value::Object(out))
    }
}

fn is_kind(of: &Value) -> bool {
    of.as_str().is_some_and(|kind| is_primitive(kind) || matches!(kind, "record" | "error" | "enum" | "fixed" | "array" | "map"))
}
