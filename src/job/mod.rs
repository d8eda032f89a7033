//! Live, once, backfill: chooses source, start, end and commit cadence, then hands over to `task`. Computes nothing.
//!
//! [`Site`] is where a job runs: a log, a registry, and [`Settings`] that are about the process and not about the result.
//! [`live::prepare`] and [`backfill::plan`] check everything that can be refused before the first record, and return a
//! [`crate::task::run::Run`] that a [`crate::task::run::Worker`] performs.

pub mod backfill;
pub mod bounds;
mod candidate;
pub mod control;
mod fence;
pub mod jobs;
pub mod ledger;
pub mod live;
pub mod prepare;
pub mod promote;
mod range;
pub mod reset;
pub mod service;
pub mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::Registry;
use crate::log::Log;
use crate::store::memory::Memory;
use crate::task::restorer::Restoring;
use crate::task::run::Delivery;

/// Where a job runs.
#[derive(Clone)]
pub struct Site {
    pub log: Arc<dyn Log>,
    pub registry: Arc<dyn Registry>,
    pub settings: Settings,
}

/// Settings of the process. None of them changes a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What every name that a pipeline owns begins with.
    pub name_prefix: String,
    pub delivery: Delivery,
    /// Age at which a live transaction is committed, in milliseconds.
    pub commit_interval_ms: u64,
    /// A source partition that has been at its end for so long no longer holds back the others; `None`: it does.
    pub idle_after: Option<Duration>,
    /// When all streams have been at their ends for so long, event time goes on by the clock; `None`: the last windows wait.
    pub quiet_after: Option<Duration>,
    pub transaction_timeout: Duration,
    pub topics_create: TopicsCreate,
    /// Replication factor of topics that are created; -1: the broker's default.
    pub replication: i32,
    pub schema_registration: SchemaRegistration,
    /// Holds the lock, the random part of transactional ids and the local copies of state. `None`: nothing is kept on disk
    /// (the embedded log).
    pub state_dir: Option<PathBuf>,
    pub max_poll_records: usize,
    /// Upper bound of a record that is written, in bytes.
    pub max_record_bytes: usize,
    pub checkpoint_interval: Duration,
    /// Shared by all that runs in the process.
    pub memory: Memory,
    pub restoring: Restoring,
    /// Of how many tasks that others own a process keeps warm copies.
    pub standby_tasks: usize,
}

/// `topics.create`: which topics are created when they are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopicsCreate {
    All,
    Internal,
    None,
}

/// `schema.registration`: whether sink schemas are registered or must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaRegistration {
    Register,
    Require,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            name_prefix: "tidemill.".into(),
            delivery: Delivery::ExactlyOnce,
            commit_interval_ms: 100,
            idle_after: Some(Duration::from_secs(30)),
            quiet_after: None,
            transaction_timeout: Duration::from_secs(15),
            topics_create: TopicsCreate::All,
            replication: -1,
            schema_registration: SchemaRegistration::Register,
            state_dir: None,
            max_poll_records: 20_000,
            max_record_bytes: 1_000_000,
            checkpoint_interval: Duration::from_secs(10),
            memory: Memory::default(),
            restoring: Restoring::Threads,
            standby_tasks: 0,
        }
    }
}
