//! A join with a table's latest version: what was read before decides, event times do not, and a restart changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidemill::cli::test::case::{Case, Input};
use tidemill::cli::test::world::World;
use tidemill::job::backfill::{self, Request};
use tidemill::job::live;
use tidemill::job::promote::{Promotion, Which};
use tidemill::record::Topic;
use tidemill::task::run::{Step, Worker};
use tidemill::topology::Options;

fn worker(world: &World, case: &Case) -> Worker {
    let run = live::prepare(&world.site, &case.topology, None, false).expect("a live run").run;
    Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run).expect("the worker starts")
}

/// Steps until what is there has been read and committed.
fn settle(worker: &mut Worker) {
    let mut idle = 0;
    while idle < 60 {
        idle = if worker.step(Duration::from_millis(5)).expect("a step") == Step::Idle { idle + 1 } else { 0 };
    }
}

/// What the sinks hold after every input, one after the other, with or without a crash before each.
fn tables(crash: bool) -> Vec<(String, Vec<Value>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/latest");
    let case = Case::open(&dir, &Options::default()).expect("the case opens");
    let world = World::new(&case).expect("a world");
    let mut live = worker(&world, &case);
    settle(&mut live);
    for input in case.inputs.iter().filter(|input| matches!(input, Input::Record { .. })) {
        world.append(input).expect("a record");
        settle(&mut live);
        if crash {
            drop(live);
            live = worker(&world, &case);
            settle(&mut live);
        }
    }
    let topics: Vec<Topic> = case.topology.sinks.iter().map(|sink| sink.topic.clone()).collect();
    let found = world.tables(&case.topology, &topics, 1).expect("the sinks are read");
    assert!(found.late.is_empty() && found.dead.is_empty(), "no row is late for a join that waits for nothing");
    found.sinks.into_iter().collect()
}

fn expected() -> Vec<(String, Vec<Value>)> {
    let row = |order: i64, country: Option<&str>| json!({"order_id": order, "country": country});
    // The version of order 3 is refused by ON, order 4 came when the customer was gone.
    let joined = [row(0, None), row(1, Some("nl")), row(2, Some("fr")), row(3, None), row(4, None), row(5, Some("us"))];
    let shuffled = [row(1, Some("nl")), row(2, Some("fr")), row(3, Some("de")), row(5, Some("us"))];
    let per_country = ["de", "fr", "nl", "us"].map(|country| json!({"country": country, "orders": 1}));
    [("joined", joined.to_vec()), ("per_country", per_country.to_vec()), ("shuffled", shuffled.to_vec())]
        .map(|(sink, rows)| (sink.to_string(), rows))
        .into()
}

fn sorted(mut tables: Vec<(String, Vec<Value>)>) -> Vec<(String, Vec<Value>)> {
    tables.iter_mut().for_each(|(_, rows)| rows.sort_by_key(|row| (row["order_id"].as_i64(), row["country"].to_string())));
    tables
}

#[test]
fn a_row_meets_the_version_that_was_read_before_it() {
    assert_eq!(sorted(tables(false)), expected());
}

#[test]
fn a_crash_before_every_record_changes_nothing() {
    assert_eq!(sorted(tables(true)), expected());
}

#[test]
fn explain_says_that_a_replay_may_differ() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/latest");
    let case = Case::open(&dir, &Options::default()).expect("the case opens");
    let text = tidemill::topology::explain(&case.topology);
    assert!(text.contains("nondeterministic: ") && text.contains("with the latest version"), "{text}");
}

#[test]
fn what_can_not_be_repeated_can_not_take_over() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/latest");
    let case = Case::open(&dir, &Options::default()).expect("the case opens");
    let world = World::new(&case).expect("a world");
    worker(&world, &case).stop().expect("it stops");
    let (planned, run) = backfill::prepare(&world.site, &case.topology, &Request::resume("again")).expect("a job");
    let mut job = Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run).expect("the job starts");
    job.run_until(|| false).expect("the job ends");
    backfill::finish(&world.site, &case.topology, &planned).expect("it is recorded");
    let refused = Promotion::open(&world.site, &case.topology, &Which::Job("again".into()), "00000000").err();
    let refused = refused.expect("it can't become live").to_string();
    assert!(refused.contains("'nondeterministic'"), "{refused}");
}
