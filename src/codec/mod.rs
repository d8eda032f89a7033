//! Bytes to rows and back under a contract: wire framing, Avro, raw keys.
//!
//! Decoding and encoding work on columns of byte strings; a bad value never harms its neighbours: it is taken out, with its row,
//! class and reason, and the rest goes on.

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::contract::WriterId;
use crate::error::BadClass;
use crate::record::Bytes;

/// Avro bodies to columns and back.
pub mod avro;
/// JSON to Avro bodies and back: test cases, `print`.
pub mod json;
/// Keys: Avro, JSON objects, text, numbers, bytes.
pub mod key;
/// Java's partitioner.
pub mod partition;
/// Where a record names its writer's schema: in front of its bytes, or in a header.
pub mod wire;

pub use avro::{AvroDecoder, AvroEncoder};
pub use key::{KeyDecoder, KeyEncoder};

/// How the keys of a topic are written (`key.format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFormat {
    /// Confluent wire format.
    Avro,
    /// An object with a member per key column, without a schema.
    Json,
    /// UTF-8.
    String,
    /// Eight bytes, big endian (Kafka's LongSerializer).
    Long,
    /// Four bytes, big endian (Kafka's IntegerSerializer).
    Int,
    Bytes,
}

impl KeyFormat {
    /// As `key.format` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyFormat::Avro => "avro",
            KeyFormat::Json => "json",
            KeyFormat::String => "string",
            KeyFormat::Long => "long",
            KeyFormat::Int => "int",
            KeyFormat::Bytes => "bytes",
        }
    }
}

/// A value that was not decoded or encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    /// The row within what was given.
    pub row: u32,
    pub class: BadClass,
    /// Lower case, names the field and what was found.
    pub message: String,
    /// Where the value was well framed.
    pub schema_id: Option<WriterId>,
}

/// What a column of byte strings decoded to.
#[derive(Clone, Debug)]
pub struct Decoded {
    pub rows: RecordBatch,
    /// The row, within what was given, of each row of `rows`; ascending.
    pub kept: Vec<u32>,
    /// The rows whose bytes were null, ascending. A null value is not in `rows`; a null key is, with NULL columns.
    pub nulls: Vec<u32>,
    /// Ascending by row.
    pub bad: Vec<BadValue>,
}

/// What rows encoded to.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    pub values: Bytes,
    /// The row, within what was given, of each value; ascending.
    pub kept: Vec<u32>,
    /// Ascending by row.
    pub bad: Vec<BadValue>,
}
