//! Bytes to rows and back under a contract: wire framing, Avro, raw keys.

use serde::{Deserialize, Serialize};

/// How the keys of a topic are written (`key.format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFormat {
    /// Confluent wire format.
    Avro,
    /// UTF-8.
    String,
    /// Eight bytes, big endian (Kafka's LongSerializer).
    Long,
    /// Four bytes, big endian (Kafka's IntegerSerializer).
    Int,
    Bytes,
}
