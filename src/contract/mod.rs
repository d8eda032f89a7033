//! What a topic promises: Avro schemas and their Arrow types, subjects, compatibility, the registry, the lock.
//!
//! A [`Contract`] is the *reader's* view of one subject: a pinned schema and its Arrow columns. A writer's schema is found by the
//! id in the bytes (never "the latest") and resolved to the reader's.

/// The form that fingerprints are made of.
mod canonical;
/// What differs between two versions, field by field.
pub mod changes;
/// Field by field: what a reader's schema can't take from a writer's; compatibility levels.
pub mod compat;
/// Sink schemas from the columns that a query yields.
pub mod derive;
/// A folder of `<subject>.avsc` files.
pub mod files;
/// `pipeline.lock`: the schemas that a pipeline was planned against.
pub mod lock;
/// Schema registries: in this process, and over HTTP.
pub mod registry;
/// How subjects are named.
pub mod subject;
/// Schemas as text: parsing, references, definitions.
mod text;
/// Schemas as a graph of types, and the Arrow type of each.
pub mod tree;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::record::Topic;

pub use files::FileContracts;
pub use lock::{Lock, LockedSink, Pinned};
pub use registry::{HttpRegistry, MemoryRegistry, RegistrySettings};
pub use subject::Strategy;

impl Contract {
    /// `Contract` error naming the field's path when a type has no Arrow column here (recursive types, decimals of more than 76
    /// digits, `big-decimal`).
    pub fn new(subject: impl Into<String>, id: SchemaId, version: u32, schema: Arc<AvroSchema>) -> Result<Contract> {
        let subject = subject.into();
        let name = if subject.ends_with("-key") { "key" } else { "value" };
        let columns = schema.tree()?.columns(name).map_err(|e| e.context(format!("subject \"{subject}\"")))?;
        Ok(Contract { subject, id, version, schema, columns })
    }
}

/// A registry's id of a schema, as it stands in the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaId(pub u32);

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a record names its writer's schema by, in front of its bytes or in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriterId {
    Number(SchemaId),
    Guid(Guid),
}

/// A schema's id across registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

impl From<SchemaId> for WriterId {
    fn from(id: SchemaId) -> WriterId {
        WriterId::Number(id)
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriterId::Number(id) => id.fmt(f),
            WriterId::Guid(guid) => guid.fmt(f),
        }
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A number, or a GUID as text.
impl Serialize for WriterId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            WriterId::Number(id) => id.serialize(serializer),
            WriterId::Guid(guid) => serializer.collect_str(guid),
        }
    }
}

/// A parsed Avro schema, references resolved.
#[derive(Clone, Debug)]
pub struct AvroSchema {
    /// Self-contained JSON: referenced types are written out at their first use.
    pub text: String,
    pub parsed: apache_avro::Schema,
    /// SHA-256, hex, of all that decides which values come out of bytes: types, names, aliases, defaults, logical types.
    pub fingerprint: String,
}

/// A schema as a registry holds it.
#[derive(Clone, Debug)]
pub struct RegisteredSchema {
    pub subject: String,
    pub id: SchemaId,
    /// 0 where the registry did not say.
    pub version: u32,
    pub schema: Arc<AvroSchema>,
}

/// The pinned reader schema of one subject.
#[derive(Clone, Debug)]
pub struct Contract {
    pub subject: String,
    pub id: SchemaId,
    pub version: u32,
    pub schema: Arc<AvroSchema>,
    /// The record's fields as columns, in order, names as in Avro. A schema that is not a record has one column named `value`
    /// (or `key`).
    pub columns: SchemaRef,
}

/// A schema registry. All calls block; errors of kind `Away` mean that it could not be asked, never that a schema is unknown.
pub trait Registry: Send + Sync {
    /// `None`: the registry answered that it knows no such id.
    fn schema(&self, id: WriterId) -> Result<Option<Arc<AvroSchema>>>;

    /// `None`: no such subject.
    fn latest(&self, subject: &str) -> Result<Option<RegisteredSchema>>;

    /// All versions of a subject, oldest first; empty: no such subject.
    fn versions(&self, subject: &str) -> Result<Vec<RegisteredSchema>>;

    fn subjects(&self) -> Result<Vec<String>>;

    /// The compatibility level in force for the subject (its own or the global one), e.g. `BACKWARD`, `NONE`.
    fn compatibility(&self, subject: &str) -> Result<String>;

    /// `None`: compatible under the subject's level (or the subject is new); else what is not, one line per fault.
    fn check(&self, subject: &str, schema: &AvroSchema) -> Result<Option<Vec<String>>>;

    /// The subject's version that holds this very schema; `None`: there is none, or no such subject.
    fn find(&self, subject: &str, schema: &AvroSchema) -> Result<Option<RegisteredSchema>>;

    /// Registers the schema, or finds it if it is registered already. `Contract` error when refused as incompatible.
    fn register(&self, subject: &str, schema: &AvroSchema) -> Result<RegisteredSchema>;
}

/// Where the planner gets contracts from: the lock first, then the registry or a folder of files.
pub trait Contracts {
    /// The value contract of a topic; `None` when there is none. `subject` overrides the naming strategy.
    fn value(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>>;

    fn key(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>>;
}
