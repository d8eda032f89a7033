//! One partition group through the topology: `core` decides, `run` performs, `graph` computes.
//!
//! A record's life here: [`run::Worker`] polls a chunk, [`graph::Task::process`] takes it through decode ([`feed`]), operators and encode
//! ([`outlet`]); [`core::Core`] says when to commit; [`graph::Task::prepare`] gives what the transaction holds.

pub mod budget;
pub mod core;
pub mod decision;
pub mod ends;
pub mod exchange;
pub mod feed;
pub mod graph;
pub mod idle;
pub mod letters;
pub mod local;
pub mod lull;
pub mod names;
pub mod observe;
pub mod outlet;
pub mod permit;
pub mod plan;
pub mod progress;
pub mod replica;
pub mod restore;
pub mod restorer;
pub mod run;
pub mod standby;
pub mod watch;
