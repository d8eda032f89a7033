//! The program against a real Kafka and a real registry: crashes, outages, bounded reads, refusals, commands over topics.
//!
//! Everything goes through the command line, as a user runs it; what it wrote is read back `read_committed` and compared with
//! `broker/shop.rs`, a model that knows nothing of the engine. Each test has topics and pipelines of its own on one shared broker;
//! those that stop a broker or a registry start their own. `TEST_SEED` repeats a run's random moments.

mod support;

#[path = "broker/bounded.rs"]
mod bounded;
#[path = "broker/commands.rs"]
mod commands;
#[path = "broker/contracts.rs"]
mod contracts;
#[path = "broker/crash.rs"]
mod crash;
#[path = "broker/crew.rs"]
mod crew;
#[path = "broker/cutovers.rs"]
mod cutovers;
#[path = "broker/freeze.rs"]
mod freeze;
#[path = "broker/join.rs"]
mod join;
#[path = "broker/members.rs"]
mod members;
#[path = "broker/moved.rs"]
mod moved;
#[path = "broker/outage.rs"]
mod outage;
#[path = "broker/pair.rs"]
mod pair;
#[path = "broker/program.rs"]
mod program;
#[path = "broker/promote.rs"]
mod promote;
#[path = "broker/refused.rs"]
mod refused;
#[path = "broker/restore.rs"]
mod restore;
#[path = "broker/security.rs"]
mod security;
#[path = "broker/shop.rs"]
mod shop;
#[path = "broker/txn.rs"]
mod txn;
#[path = "broker/world.rs"]
mod world;
