//! A quiet partition: the live run raises its watermark and records it; a backfill of the same range follows, and gives the same table.

use std::sync::Arc;
use std::time::Duration;

use tidemill::cli::test::case::Case;
use tidemill::cli::test::world::{Tables, World};
use tidemill::job::backfill::{self, Request};
use tidemill::job::live;
use tidemill::job::promote::{Promotion, Which};
use tidemill::log::{Isolation, Log};
use tidemill::record::Topic;
use tidemill::task::decision;
use tidemill::task::run::{Run, Step, Worker};
use tidemill::topology::Options;

/// Two topics whose windows meet: one that is quiet holds back the other's.
fn case() -> Case {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/union_all_window");
    Case::open(&dir, &Options::default()).expect("the golden case opens")
}

fn worker(world: &World, run: Run) -> Worker {
    Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run).expect("the worker starts")
}

/// Steps until nothing has happened for as long as quiet partitions need.
fn settle(worker: &mut Worker) {
    let mut idle = 0;
    while idle < 30 {
        idle = if worker.step(Duration::from_millis(5)).expect("a step") == Step::Idle { idle + 1 } else { 0 };
    }
}

fn backfilled(world: &World, case: &Case, request: &Request) -> Tables {
    let (planned, run) = backfill::prepare(&world.site, &case.topology, request).expect("the job is planned");
    let mut worker = worker(world, run);
    worker.run_until(|| false).expect("the job ends");
    let topics: Vec<Topic> = planned.outputs.iter().map(|(_, topic)| topic.clone()).collect();
    world.tables(&case.topology, &topics, planned.generation).expect("the shadow is read")
}

#[test]
fn a_raise_made_live_is_followed_by_a_backfill() {
    let case = case();
    let decisions = Topic::new(format!("tidemill.{}.decisions", case.topology.pipeline));
    let world = World::new(&case).expect("a world");
    let mut run = live::prepare(&world.site, &case.topology, None, false).expect("a live run").run;
    run.idle_after = Some(Duration::from_millis(20));
    let mut live = worker(&world, run);
    let mut emitted = 0;
    let topics: Vec<Topic> = case.topology.sinks.iter().map(|sink| sink.topic.clone()).collect();
    for input in &case.inputs {
        world.append(input).expect("a record");
        settle(&mut live);
        let tables = world.tables(&case.topology, &topics, 1).expect("the sinks are read");
        emitted = tables.sinks.values().map(Vec::len).sum();
    }
    assert!(emitted > 0, "without a raise a quiet topic would hold back every window");
    live.stop().expect("it stops");
    let of_live = world.tables(&case.topology, &topics, 1).expect("the sinks are read");
    let again = Request::resume("again");
    assert_eq!(backfilled(&world, &case, &again), of_live);

    let undecided = World::new(&case).expect("another world");
    undecided.append_all(&case).expect("the records");
    let plain = backfilled(&undecided, &case, &again);
    assert!(of_live.late.len() > plain.late.len(), "the raises are seen: records behind them are late");

    let recorded = decision::read(&world.log, &decisions).expect("the decisions are read");
    let without = Request { ignore_decisions: true, ..Request::resume("without") };
    assert_eq!(backfilled(&world, &case, &without), plain, "without the decisions it is as if none had been made");
    assert_eq!(decision::read(&world.log, &decisions).expect("the decisions are read"), recorded, "and none were recorded");
    let refused = Promotion::open(&world.site, &case.topology, &Which::Job("without".into()), "00000000").err();
    let refused = refused.expect("it can't become live").to_string();
    assert!(refused.contains("--ignore-decisions"), "{refused}");
}

/// The default of 30 s, on the clock of the log: nobody waits for it.
#[test]
fn a_partition_is_raised_when_it_has_been_quiet_for_idle_after_and_not_before() {
    let case = case();
    let world = World::new(&case).expect("a world");
    let run = live::prepare(&world.site, &case.topology, None, false).expect("a live run").run;
    let (idle_after, group, decisions) =
        (run.idle_after.expect("live runs have one"), run.plan.names.group(), run.plan.names.decisions());
    assert_eq!(idle_after, Duration::from_secs(30));
    world.append_all(&case).expect("the records");
    let sources = run.plan.source_partitions().collect::<Vec<_>>();
    let mut live = worker(&world, run);
    settle(&mut live);
    let ends = world.log.end_offsets(&sources, Isolation::Committed).expect("ends");
    let committed = world.log.committed(&group, &sources).expect("offsets");
    assert!(ends.iter().all(|(partition, end)| committed.get(partition).is_none_or(|at| at.next == *end)), "all is read");
    let clock = world.log.clock();
    let quiet_since = clock.now();
    let made = |log: &dyn Log| decision::read(log, &decisions).expect("the decisions").len();
    while clock.since(quiet_since) < idle_after - Duration::from_secs(2) {
        live.step(Duration::from_millis(100)).expect("a step");
    }
    assert_eq!(made(&world.log), 0, "nothing has been quiet for {idle_after:?}");
    while clock.since(quiet_since) < idle_after + Duration::from_secs(2) {
        live.step(Duration::from_millis(100)).expect("a step");
    }
    assert!(made(&world.log) > 0, "a partition has been quiet for {idle_after:?}");
}
