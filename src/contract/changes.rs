//! What differs between two versions of a schema, field by field, whether it matters to a reader or not.

use std::collections::HashSet;

use serde_json::Value;

use super::AvroSchema;
use super::tree::{Kind, Names, NodeId, RecordField, Tree};

/// One line per difference; empty only when the texts are the same.
pub fn changes(old: &AvroSchema, new: &AvroSchema) -> Vec<String> {
    let mut found = match (old.tree(), new.tree()) {
        (Ok(old), Ok(new)) => {
            let mut compare = Compare { old: &old, new: &new, seen: HashSet::new(), found: Vec::new() };
            compare.types(old.root, new.root, "");
            compare.found
        }
        (Err(e), _) | (_, Err(e)) => vec![e.message],
    };
    if found.is_empty() && old.text != new.text {
        found.push("only documentation, properties or layout differ".to_string());
    }
    found
}

struct Compare<'a> {
    old: &'a Tree,
    new: &'a Tree,
    /// Pairs that were compared: recursion ends here, and a type that is used twice is told once.
    seen: HashSet<(NodeId, NodeId)>,
    found: Vec<String>,
}

impl Compare<'_> {
    fn types(&mut self, old: NodeId, new: NodeId, path: &str) {
        if !self.seen.insert((old, new)) {
            return;
        }
        let (was, is) = (self.old.node(old), self.new.node(new));
        if std::mem::discriminant(&was.kind) != std::mem::discriminant(&is.kind) || was.logical != is.logical {
            return self.note(path, format!("was {}, is {}", self.old.describe(old), self.new.describe(new)));
        }
        match (&was.kind, &is.kind) {
            (Kind::Record { name: a, fields: was }, Kind::Record { name: b, fields: is }) => {
                self.names(a, b, path);
                self.fields(was, is, path);
            }
            (
                Kind::Enum { name: a, symbols: was, default: old_default },
                Kind::Enum { name: b, symbols: is, default: new_default },
            ) => {
                self.names(a, b, path);
                self.symbols(was, is, path);
                let symbol = |of: &[String], at: &Option<usize>| at.map_or("none".to_string(), |at| format!("\"{}\"", of[at]));
                let (old_default, new_default) = (symbol(was, old_default), symbol(is, new_default));
                if old_default != new_default {
                    self.note(path, format!("the enum's default was {old_default}, is {new_default}"));
                }
            }
            (Kind::Fixed { name: a, size: was }, Kind::Fixed { name: b, size: is }) => {
                self.names(a, b, path);
                if was != is {
                    self.note(path, format!("had {was} bytes, has {is}"));
                }
            }
            (Kind::Array(old), Kind::Array(new)) => self.types(*old, *new, &format!("{path}[]")),
            (Kind::Map(old), Kind::Map(new)) => self.types(*old, *new, &format!("{path}{{}}")),
            (Kind::Union(was), Kind::Union(is)) => {
                let same =
                    was.len() == is.len() && was.iter().zip(is).all(|(a, b)| self.old.type_name(*a) == self.new.type_name(*b));
                if !same {
                    return self.note(path, format!("was {}, is {}", self.old.describe(old), self.new.describe(new)));
                }
                was.iter().zip(is).for_each(|(old, new)| self.types(*old, *new, path));
            }
            _ => {}
        }
    }

    fn names(&mut self, old: &Names, new: &Names, path: &str) {
        if old.full != new.full {
            self.note(path, format!("type {} is called {} now", old.full, new.full));
        }
        self.aliases(&old.aliases, &new.aliases, path);
    }

    fn aliases(&mut self, old: &[String], new: &[String], path: &str) {
        if old != new {
            let list = |aliases: &[String]| if aliases.is_empty() { "none".to_string() } else { aliases.join(", ") };
            self.note(path, format!("aliases were {}, are {}", list(old), list(new)));
        }
    }

    fn symbols(&mut self, old: &[String], new: &[String], path: &str) {
        let only = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|symbol| !those.contains(symbol)).map(|symbol| format!("\"{symbol}\"")).collect()
        };
        let (gone, added) = (only(old, new), only(new, old));
        if !gone.is_empty() {
            self.note(path, format!("the enum lost {}", gone.join(", ")));
        }
        if !added.is_empty() {
            self.note(path, format!("the enum got {}", added.join(", ")));
        }
        if gone.is_empty() && added.is_empty() && old != new {
            self.note(path, "the enum's symbols stand in another order".to_string());
        }
    }

    fn fields(&mut self, old: &[RecordField], new: &[RecordField], path: &str) {
        let within = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        for was in old {
            let path = within(&was.name);
            let Some(is) = new.iter().find(|field| field.name == was.name) else {
                self.note(&path, format!("is gone (was {})", self.old.describe(was.of)));
                continue;
            };
            self.types(was.of, is.of, &path);
            if was.default != is.default {
                self.note(&path, format!("default was {}, is {}", default(&was.default), default(&is.default)));
            }
            self.aliases(&was.aliases, &is.aliases, &path);
        }
        for is in new.iter().filter(|field| !old.iter().any(|was| was.name == field.name)) {
            self.note(&within(&is.name), format!("is new: {}, default {}", self.new.describe(is.of), default(&is.default)));
        }
        let order = |these: &[RecordField], those: &[RecordField]| -> Vec<String> {
            these.iter().map(|f| f.name.clone()).filter(|name| those.iter().any(|f| f.name == *name)).collect()
        };
        if order(old, new) != order(new, old) {
            self.note(path, "fields stand in another order".to_string());
        }
    }

    fn note(&mut self, path: &str, what: String) {
        let place = if path.is_empty() { String::new() } else { format!("field \"{path}\" ") };
        self.found.push(format!("{place}{what}"));
    }
}

fn default(of: &Option<Value>) -> String {
    of.as_ref().map_or("none".to_string(), Value::to_string)
}
