//! Schema resolution, field by field: what a reader's schema can't take from a writer's; compatibility levels.
//!
//! The rules are Avro's (specification, "Schema Resolution"), with two of our own: records are matched by their fields, whatever
//! their names, except among a union's branches (as Java reads them); and two different logical types never resolve, because
//! the number would change its meaning (milliseconds read as microseconds).

use std::collections::HashSet;

use super::tree::{Kind, Names, NodeId, RecordField, Tree};
use super::{AvroSchema, RegisteredSchema};
use crate::error::{Error, Result};

/// A registry's compatibility level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    None,
    /// The new schema reads what the last version wrote.
    Backward,
    BackwardTransitive,
    /// The last version reads what the new schema writes.
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}

impl Level {
    pub fn parse(name: &str) -> Result<Level> {
        Ok(match name {
            "NONE" => Level::None,
            "BACKWARD" => Level::Backward,
            "BACKWARD_TRANSITIVE" => Level::BackwardTransitive,
            "FORWARD" => Level::Forward,
            "FORWARD_TRANSITIVE" => Level::ForwardTransitive,
            "FULL" => Level::Full,
            "FULL_TRANSITIVE" => Level::FullTransitive,
            other => return Err(Error::contract(format!("compatibility level \"{other}\" is not known"))),
        })
    }

    fn backward(self) -> bool {
        matches!(self, Level::Backward | Level::BackwardTransitive | Level::Full | Level::FullTransitive)
    }

    fn forward(self) -> bool {
        matches!(self, Level::Forward | Level::ForwardTransitive | Level::Full | Level::FullTransitive)
    }

    fn transitive(self) -> bool {
        matches!(self, Level::BackwardTransitive | Level::ForwardTransitive | Level::FullTransitive)
    }
}

/// What is not compatible under `level` between a new schema and the versions of its subject (oldest first); empty: nothing.
pub fn check(level: Level, new: &AvroSchema, versions: &[RegisteredSchema]) -> Vec<String> {
    let from = if level.transitive() { 0 } else { versions.len().saturating_sub(1) };
    let mut faults = Vec::new();
    for old in versions[from..].iter().rev() {
        if level.backward() {
            let found = differences(new, &old.schema);
            faults.extend(found.into_iter().map(|fault| format!("the new schema can't read version {}: {fault}", old.version)));
        }
        if level.forward() {
            let found = differences(&old.schema, new);
            faults.extend(found.into_iter().map(|fault| format!("version {} can't read the new schema: {fault}", old.version)));
        }
    }
    faults
}

/// What `reader` can't take from `writer`, one line per fault; empty when every value that `writer` can write can be read.
pub fn differences(reader: &AvroSchema, writer: &AvroSchema) -> Vec<String> {
    match (reader.tree(), writer.tree()) {
        (Ok(reader), Ok(writer)) => tree_differences(&reader, &writer, true),
        (Err(e), _) | (_, Err(e)) => vec![e.message],
    }
}

/// `strict`: every value of the writer must be readable. Otherwise a writer's union resolves if one of its branches does, and
/// unknown enum symbols are left to the value that has one.
pub(crate) fn tree_differences(reader: &Tree, writer: &Tree, strict: bool) -> Vec<String> {
    let mut compare = Compare { reader, writer, strict, seen: HashSet::new(), faults: Vec::new() };
    compare.types(reader.root, writer.root, "");
    compare.faults
}

/// The reader's branch that takes values of the writer's type: the same named type if there is one, else the same kind of type,
/// else the first that resolves.
pub(crate) fn branch_for(reader: &Tree, branches: &[NodeId], writer: &Tree, w: NodeId) -> Option<usize> {
    let fits = |r: NodeId| {
        let mut compare = Compare { reader, writer, strict: false, seen: HashSet::new(), faults: Vec::new() };
        compare.types(r, w, "");
        compare.faults.is_empty()
    };
    let written = writer.node(w);
    let rank = |r: NodeId| {
        let read = reader.node(r);
        let same_kind = std::mem::discriminant(&read.kind) == std::mem::discriminant(&written.kind);
        match (names(&read.kind), names(&written.kind)) {
            _ if !same_kind => 3,
            (Some(a), Some(b)) if a.full == b.full || a.aliases.contains(&b.full) => 0,
            (Some(a), Some(b)) if a.short() == b.short() => 1,
            (Some(_), Some(_)) => 2,
            _ if read.logical == written.logical => 0,
            _ => 1,
        }
    };
    let mut order: Vec<usize> = (0..branches.len()).collect();
    order.sort_by_key(|i| rank(branches[*i]));
    order.into_iter().find(|i| fits(branches[*i]))
}

/// The index of the writer's field that a reader's field is read from: by name, then by the reader's aliases.
pub(crate) fn field_for(reader: &RecordField, writer: &[RecordField]) -> Option<usize> {
    writer.iter().position(|w| w.name == reader.name).or_else(|| writer.iter().position(|w| reader.aliases.contains(&w.name)))
}

pub(crate) fn promotes(writer: &Kind, reader: &Kind) -> bool {
    matches!(
        (writer, reader),
        (Kind::Int, Kind::Long | Kind::Float | Kind::Double)
            | (Kind::Long, Kind::Float | Kind::Double)
            | (Kind::Float, Kind::Double)
            | (Kind::String, Kind::Bytes)
            | (Kind::Bytes, Kind::String)
    )
}

fn names(kind: &Kind) -> Option<&Names> {
    match kind {
        Kind::Fixed { name, .. } | Kind::Enum { name, .. } | Kind::Record { name, .. } => Some(name),
        _ => None,
    }
}

struct Compare<'a> {
    reader: &'a Tree,
    writer: &'a Tree,
    strict: bool,
    /// Pairs that are being, or were, compared: recursion ends here.
    seen: HashSet<(NodeId, NodeId)>,
    faults: Vec<String>,
}

impl Compare<'_> {
    fn types(&mut self, r: NodeId, w: NodeId, path: &str) {
        if !self.seen.insert((r, w)) {
            return;
        }
        let (reader, writer) = (self.reader, self.writer);
        let (read, written) = (reader.node(r), writer.node(w));
        match (&read.kind, &written.kind) {
            (_, Kind::Union(branches)) => self.writer_union(r, w, branches, path),
            (Kind::Union(branches), _) => self.reader_union(r, branches, w, path),
            _ if matches!((read.logical, written.logical), (Some(a), Some(b)) if !a.takes(b)) => self.mismatch(r, w, path),
            (Kind::Record { fields: read, .. }, Kind::Record { fields: written, .. }) => self.fields(read, written, path),
            (Kind::Enum { symbols: known, default, name }, Kind::Enum { symbols, name: other, .. }) => {
                if !self.same_name(name, other) {
                    return self.mismatch(r, w, path);
                }
                let unknown: Vec<&String> = symbols.iter().filter(|symbol| !known.contains(symbol)).collect();
                if self.strict && default.is_none() && !unknown.is_empty() {
                    let unknown = unknown.iter().map(|symbol| format!("\"{symbol}\"")).collect::<Vec<_>>().join(", ");
                    self.fault(
                        path,
                        format!("writer's enum {} has {unknown}, which reader's does not, nor a default", other.full),
                    );
                }
            }
            (Kind::Fixed { name, size }, Kind::Fixed { name: other, size: wrote }) => {
                if size != wrote || !self.same_name(name, other) {
                    self.mismatch(r, w, path);
                }
            }
            (Kind::Array(read), Kind::Array(written)) => self.types(*read, *written, &format!("{path}[]")),
            (Kind::Map(read), Kind::Map(written)) => self.types(*read, *written, &format!("{path}{{}}")),
            (a, b) if std::mem::discriminant(a) == std::mem::discriminant(b) || promotes(b, a) => {}
            _ => self.mismatch(r, w, path),
        }
    }

    /// As the specification has it: by the unqualified name, or an alias.
    fn same_name(&self, reader: &Names, writer: &Names) -> bool {
        let is_writer = |alias: &String| *alias == writer.full || alias.rsplit('.').next() == Some(writer.short());
        reader.short() == writer.short() || reader.aliases.iter().any(is_writer)
    }

    fn writer_union(&mut self, r: NodeId, w: NodeId, branches: &[NodeId], path: &str) {
        let found: Vec<Vec<String>> = branches
            .iter()
            .map(|branch| {
                let mut inner = Compare { seen: self.seen.clone(), faults: Vec::new(), ..*self };
                inner.types(r, *branch, path);
                inner.faults
            })
            .collect();
        if self.strict {
            self.faults.extend(found.into_iter().flatten());
        } else if !found.iter().any(Vec::is_empty) {
            self.mismatch(r, w, path);
        }
    }

    fn reader_union(&mut self, r: NodeId, branches: &[NodeId], w: NodeId, path: &str) {
        let faults_of = |branch: NodeId| {
            let mut inner = Compare { seen: self.seen.clone(), faults: Vec::new(), ..*self };
            inner.types(branch, w, path);
            inner.faults
        };
        let mut nearest: Option<Vec<String>> = None;
        for branch in branches {
            let faults = faults_of(*branch);
            if faults.is_empty() {
                return;
            }
            let same =
                std::mem::discriminant(&self.reader.node(*branch).kind) == std::mem::discriminant(&self.writer.node(w).kind);
            if same && nearest.is_none() {
                nearest = Some(faults);
            }
        }
        match nearest {
            Some(faults) if matches!(self.writer.node(w).kind, Kind::Record { .. } | Kind::Array(_) | Kind::Map(_)) => {
                self.faults.extend(faults);
            }
            _ => self.mismatch(r, w, path),
        }
    }

    fn fields(&mut self, reader: &[RecordField], writer: &[RecordField], path: &str) {
        for field in reader {
            let path = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
            match field_for(field, writer) {
                Some(at) => self.types(field.of, writer[at].of, &path),
                None if field.default.is_some() => {}
                None => self.fault(&path, "writer does not have it, and reader has no default".into()),
            }
        }
    }

    fn mismatch(&mut self, r: NodeId, w: NodeId, path: &str) {
        let (wrote, wants) = (self.writer.describe(w), self.reader.describe(r));
        self.fault(path, format!("writer has {wrote}, reader wants {wants}"));
    }

    fn fault(&mut self, path: &str, what: String) {
        let place = if path.is_empty() { String::new() } else { format!("field \"{path}\": ") };
        self.faults.push(format!("{place}{what}"));
    }
}
