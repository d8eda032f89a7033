//! Tidemill: one SQL pipeline over Kafka topics, live and in a backfill, exactly-once, the same table.
//!
//! ```text
//!            contract            topology (from SQL)               contract
//!               |         ┌───────────────┴──────────────┐            |
//!  log ──▶ chunk ──codec──▶ batch ──operator──▶ ... ──operator──▶ batch ──codec──▶ log
//!   ▲     (bytes)          (rows)      │  store                  (rows)          (bytes)
//!   │                                  ▼                                            │
//!   └────────────── one transaction: outputs + deltas + offsets ◀───────────────────┘
//! ```
//!
//! Rooms, from the ground floor up; a room uses only what stands above it in this list (`tests/rooms.rs` checks it):

/// Bytes to rows and back under a contract.
pub mod codec;
/// What a topic promises: Avro schemas, subjects, compatibility, the registry, the lock.
pub mod contract;
/// Error and its kinds: known by what the caller does about it.
pub mod error;
/// Where records come from and go: Kafka, and the embedded log.
pub mod log;
/// One file per operator: pure functions of rows and watermarks.
pub mod operator;
/// The shared words: topics, positions, time, chunks of records (bytes), batches of rows.
pub mod record;
/// Keyed state: memory, changelog, sled.
pub mod store;
/// SQL to a checked graph of operators.
pub mod topology;
/// Event-time progress: row watermark and edge watermark.
pub mod watermark;
