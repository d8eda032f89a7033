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

/// One file per subcommand.
pub mod cli;
/// The time that waits go by: the machine's, or a simulated one.
pub mod clock;
/// Bytes to rows and back under a contract.
pub mod codec;
/// Settings: as typed, then checked.
pub mod config;
/// What a topic promises: Avro schemas, subjects, compatibility, the registry, the lock.
pub mod contract;
/// Error and its kinds: known by what the caller does about it.
pub mod error;
/// Live, once, backfill: chooses source, start, end and commit cadence; computes nothing.
pub mod job;
/// Where records come from and go: Kafka, and the embedded log.
pub mod log;
/// Every metric's name, unit and labels.
pub mod metric;
/// One file per operator: pure functions of rows and watermarks.
pub mod operator;
/// The shared words: topics, positions, time, chunks of records (bytes), batches of rows.
pub mod record;
/// HTTP: metrics, health, readiness.
pub mod serve;
/// Keyed state: memory, changelog, sled.
pub mod store;
/// One partition group through the topology: core decides, run performs, restore rebuilds.
pub mod task;
/// SQL to a checked graph of operators.
pub mod topology;
/// Event-time progress: row watermark and edge watermark.
pub mod watermark;

pub use cli::Cli;
