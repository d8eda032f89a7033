//! A quiet partition: the live run raises its watermark and records it; a backfill of the same range follows, and gives the same table.

use std::sync::Arc;
use std::time::Duration;

use tidemill::cli::test::case::{Case, Input};
use tidemill::cli::test::world::{Tables, World};
use tidemill::job::backfill::{self, Request};
use tidemill::job::live;
use tidemill::job::promote::{Promotion, Which};
use tidemill::log::{Isolation, Log};
use tidemill::record::{Timestamp, Topic};
use tidemill::task::decision;
use tidemill::task::lull;
use tidemill::task::run::{Run, Step, Worker};
use tidemill::topology::Options;
use tidemill::watermark::Watermark;

/// Two topics whose windows meet: one that is quiet holds back the other's.
fn case() -> Case {
    golden("union_all_window")
}

fn golden(name: &str) -> Case {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
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

fn live(world: &World, case: &Case, quiet_after: Option<Duration>) -> Run {
    let run = live::prepare(&world.site, &case.topology, None, false).expect("a live run").run;
    Run { quiet_after, ..run }
}

/// Appends the records up to the next line that is none.
fn append(world: &World, inputs: &mut std::slice::Iter<'_, Input>) {
    for input in inputs.by_ref().take_while(|input| matches!(input, Input::Record { .. })) {
        world.append(input).expect("a record");
    }
}

/// On the simulated clock of the log.
fn steps_for(world: &World, workers: &mut [Worker], time: Duration) {
    let (clock, begun) = (world.log.clock(), world.log.clock().now());
    while clock.since(begun) < time {
        for worker in workers.iter_mut() {
            worker.step(Duration::from_millis(50)).expect("a step");
        }
    }
}

fn sinks(world: &World, case: &Case) -> Tables {
    let topics: Vec<Topic> = case.topology.sinks.iter().map(|sink| sink.topic.clone()).collect();
    world.tables(&case.topology, &topics, 1).expect("the sinks are read")
}

fn rows(tables: &Tables) -> usize {
    tables.sinks.values().map(Vec::len).sum()
}

/// The highest event time is 00:04:30, 5 s of disorder are allowed: event time goes on from 00:04:25 at the pace of the clock, and stops where
/// nothing is left to close.
#[test]
fn when_all_is_quiet_the_last_windows_close_by_the_clock() {
    let case = golden("quiet_closes_last_windows");
    let world = World::new(&case).expect("a world");
    let decisions = Topic::new(format!("tidemill.{}.decisions", case.topology.pipeline));
    let quiet_after = Some(Duration::from_secs(20));
    let mut inputs = case.inputs.iter();
    append(&world, &mut inputs);
    let mut workers = [worker(&world, live(&world, &case, quiet_after))];
    steps_for(&world, &mut workers, Duration::from_secs(18));
    assert_eq!(rows(&sinks(&world, &case)), 0, "nothing has been quiet for so long");
    steps_for(&world, &mut workers, Duration::from_secs(10));
    assert_eq!(rows(&sinks(&world, &case)), 2, "00:04:25 and less than 35 s: the window up to 00:05 is open");
    steps_for(&world, &mut workers, Duration::from_secs(10));
    assert_eq!(rows(&sinks(&world, &case)), 3);
    let made = decision::read(&world.log, &decisions).expect("the decisions are read");
    let to = made.iter().map(|decision| decision.to.to_string()).max();
    assert_eq!(to.as_deref(), Some("2026-01-05T00:05:00Z"));
    // Another life, in which nothing is left to close.
    let [first] = workers;
    drop(first);
    let mut workers = [worker(&world, live(&world, &case, quiet_after))];
    steps_for(&world, &mut workers, Duration::from_secs(600));
    assert_eq!(decision::read(&world.log, &decisions).expect("the decisions are read"), made, "it goes no further");
    for _ in 0..3 {
        append(&world, &mut inputs);
        steps_for(&world, &mut workers, Duration::from_secs(120));
    }
    let of_live = sinks(&world, &case);
    // The case leaves the last window open; here everything was quiet once more.
    assert_eq!((rows(&of_live), of_live.late.len()), (6, 3));
    assert_eq!(backfilled(&world, &case, &Request::resume("again")), of_live);
}

/// Each process raises its own partitions, and knows of the others' by what is committed.
#[test]
fn processes_that_share_the_partitions_close_the_last_windows_behind_shuffles() {
    let case = golden("quiet_behind_shuffles");
    let world = World::new(&case).expect("a world");
    let mut inputs = case.inputs.iter();
    append(&world, &mut inputs);
    let quiet_after = Some(Duration::from_secs(45));
    let of_instance = |instance: &str| Run { instance: instance.into(), ..live(&world, &case, quiet_after) };
    let mut workers = ["one", "two", "three"].map(|instance| worker(&world, of_instance(instance)));
    steps_for(&world, &mut workers, Duration::from_secs(40));
    assert_eq!(rows(&sinks(&world, &case)), 0, "nothing has been quiet for so long");
    // All are killed: those that come know the highest event time from what was committed.
    drop(workers);
    let mut workers = ["one", "two", "three"].map(|instance| worker(&world, of_instance(instance)));
    // 00:03:00 and 120 s are the end of the five minutes.
    steps_for(&world, &mut workers, Duration::from_secs(200));
    assert!(workers.iter().filter(|worker| !worker.stands().is_empty()).count() > 1, "several have partitions");
    assert_eq!(rows(&sinks(&world, &case)), 2);
    // One partition speaks: the others wait for it, and with it.
    append(&world, &mut inputs);
    steps_for(&world, &mut workers, Duration::from_secs(20));
    assert_eq!((rows(&sinks(&world, &case)), sinks(&world, &case).late.len()), (2, 1));
    steps_for(&world, &mut workers, Duration::from_secs(600));
    let of_live = sinks(&world, &case);
    assert_eq!(rows(&of_live), 3);
    assert_eq!(backfilled(&world, &case, &Request::resume("again")), of_live);
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn without_quiet_after_the_log_says_once_for_what_the_last_windows_wait() {
    let case = golden("quiet_closes_last_windows");
    let world = World::new(&case).expect("a world");
    append(&world, &mut case.inputs.iter());
    let lines = Lines::default();
    let to = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut workers = [worker(&world, live(&world, &case, None))];
        steps_for(&world, &mut workers, Duration::from_secs(900));
    });
    let text = String::from_utf8(lines.0.lock().expect("no writer panicked").clone()).expect("text");
    let said: Vec<&str> = text.lines().filter(|line| line.contains("everything is quiet")).collect();
    assert_eq!(said.len(), 1, "{text}");
    for part in ["until the watermark is 2026-01-05T00:05:00Z", "2026-01-05T00:05:05Z or later", "quiet_after"] {
        assert!(said[0].contains(part), "{}", said[0]);
    }
    assert_eq!(rows(&sinks(&world, &case)), 2, "those that ended before 00:04:25");
}

/// Windows of one minute, and windows of five over their results.
#[test]
fn event_time_goes_on_from_window_to_window_and_not_beyond_the_last() {
    let at = |minutes: i64, seconds: i64| 1_767_571_200_000_000 + (minutes * 60 + seconds) * 1_000_000;
    let release = |name: &str, until: i64| {
        let to = lull::release(&golden(name).topology, Timestamp(at(3, 5)), Watermark(until));
        to.map(|to| (to.0 - at(0, 0)) / 1_000_000)
    };
    for (until, to) in [(at(3, 59), 180), (at(4, 0), 240), (at(4, 59), 240), (at(5, 0), 300), (at(90, 0), 300), (i64::MAX, 300)] {
        assert_eq!(release("window_over_window", until), Some(to), "{until}");
    }
    assert_eq!(release("filter_project", i64::MAX), None, "nothing waits for time");
    // A row that waits for its version goes when the watermark is above it.
    assert_eq!(release("join_tombstones", at(3, 4)), None);
    assert_eq!(release("join_tombstones", at(3, 6)), Some(185));
}
