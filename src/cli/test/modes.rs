//! The modes of the promise, each a way to run a case on the embedded log.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::cli::test::case::{Case, Input};
use crate::cli::test::world::{Tables, World};
use crate::error::{Error, Result};
use crate::job::backfill::{self, Output, Request};
use crate::job::bounds::Bound;
use crate::job::live;
use crate::log::embedded::CommitFault;
use crate::record::Topic;
use crate::task::core::Cadence;
use crate::task::run::{Decision, Run, Step, Worker};
use crate::watermark::Watermark;

/// A way to run a pipeline; all must give the same tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Records arrive while the pipeline runs.
    Live,
    /// The whole range at once into shadow topics.
    Backfill,
    /// Killed after every commit, and started again.
    CrashAfterCommit,
    /// Killed with an open transaction at random moments, and started again.
    CrashBeforeCommit,
    /// Every other commit fails: lost before, lost after, aborted, fenced.
    CommitFaults,
    /// Stopped and started with its group kept, as `run --until-caught-up` from cron.
    Once,
    /// A backfill killed at random moments and resumed by its job name.
    Resumed,
}

impl Mode {
    pub const ALL: [Mode; 7] = [
        Mode::Live,
        Mode::Backfill,
        Mode::CrashAfterCommit,
        Mode::CrashBeforeCommit,
        Mode::CommitFaults,
        Mode::Once,
        Mode::Resumed,
    ];

    /// What DESIGN promises and this release does not run: listed, never counted as passed.
    pub const MISSING: [&str; 2] = ["cutover at an offset in the middle", "other numbers of workers"];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Live => "live",
            Mode::Backfill => "backfill",
            Mode::CrashAfterCommit => "crash-after-commit",
            Mode::CrashBeforeCommit => "crash-before-commit",
            Mode::CommitFaults => "commit-faults",
            Mode::Once => "once",
            Mode::Resumed => "resumed",
        }
    }
}

/// Steps without progress after which a run is taken to hang.
const PATIENCE: u32 = 2_000;
const WAIT: Duration = Duration::from_millis(2);

/// The idle decisions of a case: made once, in the order of the input, and followed by every run.
pub fn decisions(case: &Case) -> Result<Vec<Decision>> {
    if !case.inputs.iter().any(|input| matches!(input, Input::Idle { .. })) {
        return Ok(Vec::new());
    }
    let world = World::new(case)?;
    let mut worker = open(&world, live_run(&world, case, &[], 1)?)?;
    settle(&mut worker)?;
    let mut decisions: Vec<Decision> = Vec::new();
    let mut idle = std::collections::BTreeSet::new();
    let partitions: Vec<_> =
        case.topology.sources.iter().flat_map(|s| crate::log::partitions_of(&s.topic, case.partitions)).collect();
    let mut next: std::collections::BTreeMap<_, i64> = Default::default();
    for input in &case.inputs {
        let (topic, partition) = input.place();
        let partition = topic.partition(partition);
        match input {
            Input::Record { .. } => {
                idle.remove(&partition);
                *next.entry(partition).or_default() += 1;
                world.append(input)?;
                settle(&mut worker)?;
            }
            Input::Idle { .. } => {
                idle.insert(partition.clone());
                let known = worker.progress.lock().map(|progress| progress.watermarks.clone()).unwrap_or_default();
                let of = |p: &crate::record::TopicPartition| known.get(p).copied().unwrap_or(Watermark::MIN);
                let others = partitions.iter().filter(|p| !idle.contains(*p)).map(of);
                let to = others.min().or_else(|| partitions.iter().map(of).max()).unwrap_or(Watermark::MIN);
                let at = crate::record::NextOffset(next.get(&partition).copied().unwrap_or(0));
                let decision = Decision { partition, at, to };
                worker.decide(decision.clone())?;
                settle(&mut worker)?;
                decisions.push(decision);
            }
        }
    }
    Ok(decisions)
}

/// Runs a case in one mode under one interleaving.
pub fn run(case: &Case, mode: Mode, seed: u64, decisions: &[Decision]) -> Result<Tables> {
    let world = World::new(case)?;
    world.log.interleave(seed);
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mode as u64);
    match mode {
        Mode::Live => live(&world, case, decisions, &mut rng, Crash::Never),
        Mode::CrashAfterCommit => {
            // Every other commit is one whose markers are still on their way when the next owner restores (KAFKA-10167).
            (1..200).step_by(2).for_each(|nth| world.log.faults().fail_commit(nth, CommitFault::LateMarkers));
            live(&world, case, decisions, &mut rng, Crash::AfterCommit)
        }
        Mode::CrashBeforeCommit => live(&world, case, decisions, &mut rng, Crash::AtRandom),
        Mode::CommitFaults => {
            plan_faults(&world, &mut rng);
            live(&world, case, decisions, &mut rng, Crash::Never)
        }
        Mode::Once => once(&world, case, decisions, &mut rng),
        Mode::Backfill => backfilled(&world, case, decisions, &mut rng, Crash::Never),
        Mode::Resumed => backfilled(&world, case, decisions, &mut rng, Crash::AtRandom),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Crash {
    Never,
    AfterCommit,
    AtRandom,
}

fn live(world: &World, case: &Case, decisions: &[Decision], rng: &mut StdRng, crash: Crash) -> Result<Tables> {
    let mut order = Arrivals::new(case);
    let mut worker = open(world, live_run(world, case, decisions, rng.random_range(1..=4))?)?;
    while !order.is_empty() {
        for _ in 0..rng.random_range(1..=4) {
            if let Some(input) = order.next(rng) {
                world.append(input)?;
            }
        }
        for _ in 0..rng.random_range(1..=4) {
            let step = worker.step(WAIT)?;
            if dies(crash, step, rng) {
                drop(worker);
                worker = open(world, live_run(world, case, decisions, rng.random_range(1..=4))?)?;
            }
        }
    }
    drop(worker);
    finish(world, case, decisions, rng, crash)
}

fn dies(crash: Crash, step: Step, rng: &mut StdRng) -> bool {
    match crash {
        Crash::Never => false,
        Crash::AfterCommit => step == Step::Committed,
        Crash::AtRandom => rng.random_bool(0.3),
    }
}

/// The last run of a live generation: to the captured end, final if the case says so.
fn finish(world: &World, case: &Case, decisions: &[Decision], rng: &mut StdRng, crash: Crash) -> Result<Tables> {
    let run = |records| -> Result<Run> {
        let mut run = live::prepare(&world.site, &case.topology, None, true)?.run;
        run.decisions = decisions.to_vec();
        run.finish = case.finish;
        run.cadence = cadence(records);
        Ok(run)
    };
    let records = rng.random_range(1..=4);
    to_the_end(world, || run(records), rng, crash)?;
    let topics: Vec<Topic> = case.topology.sinks.iter().map(|sink| sink.topic.clone()).collect();
    world.tables(&case.topology, &topics, 1)
}

fn once(world: &World, case: &Case, decisions: &[Decision], rng: &mut StdRng) -> Result<Tables> {
    let mut order = Arrivals::new(case);
    while !order.is_empty() {
        for _ in 0..rng.random_range(1..=8) {
            if let Some(input) = order.next(rng) {
                world.append(input)?;
            }
        }
        let records = rng.random_range(1..=6);
        let run = || -> Result<Run> {
            let mut run = live::prepare(&world.site, &case.topology, None, true)?.run;
            // A decision at an offset that is still to come is made when it comes.
            run.decisions = decisions.to_vec();
            run.cadence = cadence(records);
            Ok(run)
        };
        to_the_end(world, run, rng, Crash::Never)?;
    }
    finish(world, case, decisions, rng, Crash::Never)
}

fn backfilled(world: &World, case: &Case, decisions: &[Decision], rng: &mut StdRng, crash: Crash) -> Result<Tables> {
    world.append_all(case)?;
    let request = Request {
        from: Bound::Earliest,
        to: Bound::Latest,
        job: Some("golden".into()),
        output: Output::Shadow,
        finish: case.finish,
    };
    let planned = backfill::plan(&world.site, &case.topology, &request)?;
    let records = rng.random_range(1..=20);
    let run = || -> Result<Run> {
        let (_, mut run) = backfill::prepare(&world.site, &case.topology, &request)?;
        run.decisions = decisions.to_vec();
        run.cadence = cadence(records);
        Ok(run)
    };
    to_the_end(world, run, rng, crash)?;
    backfill::finish(&world.site, &case.topology, &planned)?;
    let topics: Vec<Topic> = planned.outputs.iter().map(|(_, topic)| topic.clone()).collect();
    world.tables(&case.topology, &topics, planned.generation)
}

/// Runs to the end of a range, killed and started again on the way.
fn to_the_end(world: &World, run: impl Fn() -> Result<Run>, rng: &mut StdRng, crash: Crash) -> Result<()> {
    let mut worker = open(world, run()?)?;
    let mut idle = 0;
    // Commits make progress, so a run that dies at random ends; the last lives are spared to keep the test short.
    let mut lives = 40;
    loop {
        let step = worker.step(WAIT)?;
        if step == Step::Left {
            return Ok(());
        }
        idle = if step == Step::Idle { idle + 1 } else { 0 };
        if idle > PATIENCE {
            return Err(Error::failed(format!("the run hangs before the end of its range: {:?}", worker.progress)));
        }
        if lives > 0 && dies(crash, step, rng) {
            lives -= 1;
            drop(worker);
            worker = open(world, run()?)?;
        }
    }
}

fn plan_faults(world: &World, rng: &mut StdRng) {
    let faults = [CommitFault::LostBefore, CommitFault::LostAfter, CommitFault::Abort, CommitFault::Fenced];
    // The first commits write the control topic: they are not the worker's.
    for nth in (3..60).step_by(2) {
        world.log.faults().fail_commit(nth, faults[rng.random_range(0..faults.len())]);
    }
}

fn live_run(world: &World, case: &Case, decisions: &[Decision], records: u64) -> Result<Run> {
    let mut run = live::prepare(&world.site, &case.topology, None, false)?.run;
    run.decisions = decisions.to_vec();
    run.cadence = cadence(records);
    Ok(run)
}

/// Commits by count, so that a seed reproduces a run.
fn cadence(records: u64) -> Cadence {
    Cadence {
        interval_ms: 60_000,
        backlog_interval_ms: 60_000,
        backlog_records: u64::MAX,
        max_records: records,
        max_bytes: usize::MAX,
    }
}

fn open(world: &World, run: Run) -> Result<Worker> {
    Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run)
}

/// Steps until nothing arrives any more.
fn settle(worker: &mut Worker) -> Result<()> {
    let mut idle = 0;
    while idle < 3 {
        idle = if worker.step(WAIT)? == Step::Idle { idle + 1 } else { 0 };
    }
    Ok(())
}

/// The records of a case in a random order that keeps each partition's own.
struct Arrivals<'a> {
    partitions: Vec<std::collections::VecDeque<&'a Input>>,
}

impl<'a> Arrivals<'a> {
    fn new(case: &'a Case) -> Arrivals<'a> {
        let mut places = std::collections::BTreeMap::<_, std::collections::VecDeque<&Input>>::new();
        for input in case.inputs.iter().filter(|input| matches!(input, Input::Record { .. })) {
            places.entry(input.place()).or_default().push_back(input);
        }
        Arrivals { partitions: places.into_values().collect() }
    }

    fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    fn next(&mut self, rng: &mut StdRng) -> Option<&'a Input> {
        if self.partitions.is_empty() {
            return None;
        }
        let at = rng.random_range(0..self.partitions.len());
        let input = self.partitions[at].pop_front();
        self.partitions.retain(|partition| !partition.is_empty());
        input
    }
}
