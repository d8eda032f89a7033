//! Restores on threads and local checkpoints, on the embedded log: workers are killed at any moment, and what they published is the same.
//!
//! `cargo test --release --test restore -- --ignored --nocapture` measures a state of 1,000,000 keys (`TEST_KEYS` for another number).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tidemill::cli::test::case::{Case, Input};
use tidemill::cli::test::world::{Tables, World};
use tidemill::codec::json::to_avro;
use tidemill::codec::wire::frame;
use tidemill::contract::{AvroSchema, MemoryRegistry, Pinned, SchemaId, Strategy};
use tidemill::job::live;
use tidemill::log::Log;
use tidemill::log::embedded::EmbeddedLog;
use tidemill::record::Topic;
use tidemill::store::memory::Memory;
use tidemill::task::core::Cadence;
use tidemill::task::local::LocalCopies;
use tidemill::task::plan::TaskId;
use tidemill::task::restore::{self, Restored, Sources};
use tidemill::task::restorer::Restoring;
use tidemill::task::run::{Run, Step, Worker};
use tidemill::task::watch::Watch;
use tidemill::topology::{self, Options, SqlFile, Topology};

const WAIT: Duration = Duration::from_millis(1);

fn case(name: &str) -> Case {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    Case::open(&dir, &Options::default()).expect("the golden case opens")
}

fn worker(world: &World, run: Run) -> Worker {
    Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run).expect("the worker starts")
}

fn tables(case: &Case, world: &World) -> Tables {
    let sinks: Vec<Topic> = case.topology.sinks.iter().map(|sink| sink.topic.clone()).collect();
    world.tables(&case.topology, &sinks, 1).expect("the sinks are read")
}

/// A worker with a state directory of its own, kept over its lives.
struct Member {
    run: Box<dyn Fn() -> Run>,
    worker: Option<Worker>,
}

impl Member {
    fn step(&mut self, world: &World) -> Step {
        let run = &self.run;
        self.worker.get_or_insert_with(|| worker(world, run())).step(WAIT).expect("a step")
    }
}

fn live_run(world: &World, case: &Case, until_caught_up: bool) -> Run {
    let mut run = live::prepare(&world.site, &case.topology, None, until_caught_up).expect("a live run").run;
    (run.idle_after, run.raise_tables) = (None, false);
    run.finish = until_caught_up && case.finish;
    run.cadence = Cadence { max_records: 3, interval_ms: 50, ..Cadence::live(50) };
    run
}

/// Two workers with local checkpoints, killed at random while records arrive; restores on threads, or in seeded steps.
fn killed(name: &str, seed: u64, restoring: Restoring) -> Tables {
    let case = case(name);
    let mut world = World::new(&case).expect("a world");
    world.site.settings.restoring = restoring;
    world.log.interleave(seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let member = |at: usize, until_caught_up: bool| {
        let (site, topology) = (world.site.clone(), case.topology.clone());
        let (state, finish) = (folder.path().join(at.to_string()), case.finish);
        let run = move || {
            let mut run = live::prepare(&site, &topology, None, until_caught_up).expect("a live run").run;
            (run.idle_after, run.raise_tables) = (None, false);
            run.finish = until_caught_up && finish;
            run.cadence = Cadence { max_records: 3, interval_ms: 50, ..Cadence::live(50) };
            (run.state, run.instance) = (Some(state.clone()), format!("{at:08}"));
            run.checkpoint_interval = Duration::ZERO;
            run
        };
        Member { run: Box::new(run), worker: None }
    };
    let mut members = [member(0, false), member(1, false)];
    let mut records = case.inputs.iter().filter(|input| matches!(input, Input::Record { .. }));
    let mut deaths = 0;
    loop {
        let arrived = records.next().map(|record| world.append(record).expect("a record")).is_some();
        for _ in 0..rng.random_range(0..6) {
            let member = &mut members[rng.random_range(0..2)];
            member.step(&world);
            if rng.random_bool(0.08) {
                member.worker = None;
                deaths += 1;
            }
        }
        if !arrived {
            break;
        }
    }
    drop(members);
    world.log.expire_members();
    let mut last = [member(0, true), member(1, true)];
    let began = Instant::now();
    let mut left = [false; 2];
    while left != [true; 2] {
        assert!(began.elapsed() < Duration::from_secs(60), "{name} seed {seed}: the run hangs after {deaths} deaths");
        for at in 0..2 {
            left[at] = left[at] || last[at].step(&world) == Step::Left;
        }
    }
    tables(&case, &world)
}

fn undisturbed(name: &str) -> Tables {
    let case = case(name);
    let world = World::new(&case).expect("a world");
    world.append_all(&case).expect("the records");
    worker(&world, live_run(&world, &case, true)).run_until(|| false).expect("it comes to its end");
    tables(&case, &world)
}

#[test]
fn workers_killed_while_they_restore_and_write_local_copies_publish_the_same() {
    for name in ["updating_totals", "temporal_join", "shuffle_by_country", "table_rows_leave_and_return", "tumble_late_rows"] {
        let expected = undisturbed(name);
        assert!(expected.sinks.values().any(|rows| !rows.is_empty()), "{name} publishes something");
        for seed in 1..=3 {
            assert_eq!(killed(name, seed, Restoring::Threads), expected, "{name} seed {seed}, on threads");
            assert_eq!(killed(name, seed, Restoring::Steps(seed)), expected, "{name} seed {seed}, in steps");
        }
    }
}

const ORDER: &str =
    r#"{"type":"record","name":"Order","fields":[{"name":"customer","type":"string"},{"name":"amount","type":"long"}]}"#;
const TOTALS: &str = "SET 'pipeline.name' = 'totals';
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer');
CREATE SINK totals (PRIMARY KEY (customer)) WITH ('topic' = 'totals', 'format' = 'avro');
INSERT INTO totals SELECT customer, COUNT(*) AS orders, SUM(amount) AS total FROM orders GROUP BY customer;";

/// Totals by customer, of which there are many.
struct Totals {
    world: World,
    topology: Topology,
    folder: tempfile::TempDir,
}

impl Totals {
    fn open(customers: usize) -> Totals {
        let schema = AvroSchema::parse(ORDER).expect("a schema");
        let registry = MemoryRegistry::new();
        registry.register_as("orders-value", SchemaId(11), schema.clone()).expect("it is registered");
        let orders = Topic::new("orders");
        let mut world = World::with(registry.clone(), [&orders], 1).expect("a world");
        world.site.settings.restoring = Restoring::Threads;
        world.site.settings.max_poll_records = 20_000;
        let file = SqlFile { name: "totals.sql".into(), text: TOTALS.into() };
        let topology = topology::compile(&file, &Pinned::new(None, &registry, Strategy::TopicName), &Options::default())
            .expect("it compiles");
        let totals = Totals { world, topology, folder: tempfile::tempdir().expect("a folder") };
        append(&totals.world.log, &orders, &schema, customers);
        totals
    }

    /// `state`: a folder for local checkpoints.
    fn worker(&self, state: Option<&str>) -> Worker {
        worker(&self.world, self.run(state))
    }

    fn run(&self, state: Option<&str>) -> Run {
        let mut run = live::prepare(&self.world.site, &self.topology, None, false).expect("a live run").run;
        run.cadence = Cadence { max_records: 20_000, ..Cadence::live(1_000) };
        run.state = state.map(|name| self.folder.path().join(name));
        run.checkpoint_interval = Duration::from_secs(1);
        run
    }

    /// The only task, from its last commit, as a worker that begins would have it.
    fn restored(&self, state: &str) -> Box<Restored> {
        let run = self.run(Some(state));
        let local = LocalCopies::of(&run).expect("the folder is free");
        let log: Arc<dyn Log> = Arc::new(self.world.log.clone());
        let sources = Sources::of(&log, &run, local.as_ref());
        let task = TaskId { sub: 0, number: 0 };
        Box::new(restore::restore(&run.plan, task, &sources, None, &Watch::default()).expect("it is restored"))
    }
}

fn append(log: &EmbeddedLog, topic: &Topic, schema: &AvroSchema, customers: usize) {
    for number in 0..customers {
        let customer = format!("customer-{number:08}");
        let mut value = frame(SchemaId(11)).to_vec();
        value.extend(to_avro(schema, &json!({"customer": customer, "amount": number})).expect("a value"));
        log.append(topic, 0, 0, Some(customer.as_bytes()), Some(&value), Vec::new()).expect("a record");
    }
}

/// Steps until the log brings nothing more; returns the longest step.
fn settle(worker: &mut Worker) -> Duration {
    let (mut idle, mut longest) = (0, Duration::ZERO);
    while idle < 20 || !worker.progress.lock().expect("no panic").ready {
        let began = Instant::now();
        idle = if worker.step(WAIT).expect("a step") == Step::Idle { idle + 1 } else { 0 };
        longest = longest.max(began.elapsed());
    }
    longest
}

/// Until the tasks deliver.
fn ready(worker: &mut Worker) -> Duration {
    let began = Instant::now();
    while !worker.progress.lock().expect("no panic").ready {
        worker.step(WAIT).expect("a step");
    }
    began.elapsed()
}

#[test]
fn state_on_disk_has_a_local_copy() {
    let customers = 20_000;
    let mut totals = Totals::open(customers);
    totals.world.site.settings.memory = Memory::of(6 << 20);
    let (orders, schema) = (Topic::new("orders"), AvroSchema::parse(ORDER).expect("a schema"));
    let spilled = |worker: &Worker| worker.progress.lock().expect("no panic").spilled_keys;
    let mut first = totals.worker(Some("a"));
    // So many changes that they are folded into an image.
    for _ in 0..4 {
        settle(&mut first);
        append(&totals.world.log, &orders, &schema, customers);
    }
    settle(&mut first);
    assert!(spilled(&first) > 0, "the state outgrows the budget");
    drop(first);
    let mut restored = totals.restored("a");
    assert!(restored.from_checkpoint >= customers as u64, "{} rows came from the local copy", restored.from_checkpoint);
    assert!(restored.from_changelog < customers as u64, "{} rows came from the changelog", restored.from_changelog);
    assert_eq!(restored.rows, customers as u64);
    assert!(restored.task.spilled().keys > 0);
    drop(restored);
    let mut again = totals.worker(Some("a"));
    append(&totals.world.log, &orders, &schema, customers);
    settle(&mut again);
    assert!(spilled(&again) > 0);
    drop(again);
    let tables = totals.world.tables(&totals.topology, &[Topic::new("totals")], 1).expect("the sink is read");
    let rows = &tables.sinks["totals"];
    assert_eq!(rows.len(), customers);
    assert!(rows.iter().all(|row| row["orders"] == json!(6)), "every order counts once: {}", rows[0]);
}

#[test]
#[ignore = "a measurement: build it optimised"]
fn a_large_state() {
    let keys: usize = std::env::var("TEST_KEYS").map_or(1_000_000, |text| text.parse().expect("a number of keys"));
    let totals = Totals::open(keys);
    let mut first = totals.worker(Some("a"));
    let began = Instant::now();
    let longest = settle(&mut first);
    let state = first.progress.lock().expect("no panic").state_keys;
    eprintln!("{state} keys built in {:.2?}, longest step {longest:.2?}", began.elapsed());
    let began = Instant::now();
    first.stop().expect("it stops");
    eprintln!("stopped in {:.2?}", began.elapsed());
    drop(first);
    for (what, state) in [("changelog", None), ("changelog, with a new local copy", Some("b")), ("checkpoint", Some("a"))] {
        let began = Instant::now();
        let mut again = totals.worker(state);
        let opened = began.elapsed();
        let took = ready(&mut again);
        let held = again.progress.lock().expect("no panic").state_keys;
        let rate = held as f64 / took.as_secs_f64();
        eprintln!("{what}: {held} keys in {took:.2?}: {rate:.0}/s (opened in {opened:.2?})");
        assert_eq!(held, keys);
        // As kill -9 does.
        drop(again);
    }
}
