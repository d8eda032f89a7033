//! The modes of the promise, each a way to run a case on the embedded log, with one worker or several.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::cli::test::case::{Case, Input};
use crate::cli::test::chaos;
use crate::cli::test::crew::{Crash, Crew, settle};
use crate::cli::test::world::{Tables, World};
use crate::error::Result;
use crate::job::backfill::{self, Planned, Request};
use crate::job::bounds::Bound;
use crate::job::live;
use crate::job::promote::{Promotion, Status, Which};
use crate::log::embedded::CommitFault;
use crate::record::{NextOffset, Topic, TopicPartition};
use crate::store::memory::Memory;
use crate::task::core::Cadence;
use crate::task::decision::Decision;
use crate::task::idle::{self, Stand};
use crate::task::lull;
use crate::task::restorer::Restoring;
use crate::task::run::{Run, Worker};
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
    /// A backfill up to random offsets in the middle, whose generation then is live from exactly there.
    Cutover,
    /// Several processes that are killed, sleep and come back at any moment, on a log with faults of all kinds.
    Chaos,
}

impl Mode {
    pub const ALL: [Mode; 9] = [
        Mode::Live,
        Mode::Backfill,
        Mode::CrashAfterCommit,
        Mode::CrashBeforeCommit,
        Mode::CommitFaults,
        Mode::Once,
        Mode::Resumed,
        Mode::Cutover,
        Mode::Chaos,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Live => "live",
            Mode::Backfill => "backfill",
            Mode::CrashAfterCommit => "crash-after-commit",
            Mode::CrashBeforeCommit => "crash-before-commit",
            Mode::CommitFaults => "commit-faults",
            Mode::Once => "once",
            Mode::Resumed => "resumed",
            Mode::Cutover => "cutover",
            Mode::Chaos => "chaos",
        }
    }
}

/// The decisions of a case about quiet partitions: made once, in the order of the input, and followed by every run.
pub fn decisions(case: &Case) -> Result<Vec<Decision>> {
    if !case.inputs.iter().any(|input| matches!(input, Input::Idle { .. } | Input::Quiet { .. })) {
        return Ok(Vec::new());
    }
    let world = World::new(case)?;
    let run = live_run(&world, case, &[], 1)?;
    let mut worker = Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run)?;
    settle(&mut worker)?;
    let mut decisions: Vec<Decision> = Vec::new();
    let mut quiet: BTreeSet<TopicPartition> = BTreeSet::new();
    let mut next: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let tables: BTreeSet<&Topic> = case.topology.sources.iter().filter(|s| s.table.is_some()).map(|s| &s.topic).collect();
    for input in &case.inputs {
        let (topic, partition) = input.place();
        let partition = topic.partition(partition);
        let stands = worker.stands();
        let raises = match input {
            Input::Record { .. } => {
                quiet.remove(&partition);
                *next.entry(partition).or_default() += 1;
                world.append(input)?;
                settle(&mut worker)?;
                continue;
            }
            Input::Idle { .. } => {
                quiet.insert(partition.clone());
                let stand = |(p, stand): (TopicPartition, Stand)| (p.clone(), Stand { idle: quiet.contains(&p), ..stand });
                let raises = idle::raises(&stands.into_iter().map(stand).collect(), &BTreeMap::new());
                raises.into_iter().filter(|(raised, _)| *raised == partition).collect()
            }
            Input::Quiet { .. } => {
                let streams: BTreeMap<_, _> = stands.into_iter().filter(|(p, _)| !tables.contains(&p.topic)).collect();
                quiet.extend(streams.keys().cloned());
                let highest = streams.values().filter_map(|stand| stand.highest).max();
                // For so long that the last windows close.
                highest.map_or_else(Vec::new, |highest| lull::raises(&case.topology, &streams, highest, Watermark::MAX))
            }
        };
        for (partition, to) in raises {
            let at = NextOffset(next.get(&partition).copied().unwrap_or(0));
            let decision = Decision { partition, at, to };
            worker.decide(decision.clone())?;
            settle(&mut worker)?;
            decisions.push(decision);
        }
    }
    Ok(decisions)
}

/// Numbers of workers, dealt out to the interleavings in turn.
const WORKERS: [usize; 3] = [1, 2, 5];

/// How many workers share an interleaving of the given seed.
pub fn workers(seed: u64) -> usize {
    WORKERS[(seed.wrapping_sub(1) % WORKERS.len() as u64) as usize]
}

/// Whether an interleaving runs without memory for state: every store goes to disk after every commit, and output is sent as it is made.
pub fn is_short_of_memory(mode: Mode, seed: u64) -> bool {
    (seed / WORKERS.len() as u64 + mode as u64).is_multiple_of(2)
}

/// What became of a run.
pub struct Ran {
    pub tables: Result<Tables>,
    /// Rows that went to disk while they waited for a watermark.
    pub waiting_spilled: u64,
}

/// Runs a case in one mode under one interleaving.
pub fn run(case: &Case, mode: Mode, seed: u64, decisions: &[Decision]) -> Ran {
    // On a log of its own.
    if mode == Mode::Chaos {
        let outcome = chaos::run(case, seed, decisions);
        return Ran { tables: outcome.tables, waiting_spilled: outcome.waiting_spilled };
    }
    let mut world = match World::new(case) {
        Ok(world) => world,
        Err(error) => return Ran { tables: Err(error), waiting_spilled: 0 },
    };
    if is_short_of_memory(mode, seed) {
        world.site.settings.memory = Memory::of(0);
    }
    let tables = through(case, &mut world, mode, seed, decisions);
    Ran { tables, waiting_spilled: world.site.settings.memory.spills().waiting() }
}

fn through(case: &Case, world: &mut World, mode: Mode, seed: u64, decisions: &[Decision]) -> Result<Tables> {
    world.log.interleave(seed);
    // Half of the restores take a while, in which the other tasks go on.
    world.site.settings.restoring = Restoring::Steps(seed);
    world.site.settings.standby_tasks = (seed % 3) as usize;
    let rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ mode as u64);
    let mut stage = Stage { world, case, decisions, rng, workers: workers(seed) };
    match mode {
        Mode::Live => stage.live(Crash::Never),
        Mode::CrashAfterCommit => {
            // Every other commit is one whose markers are still on their way when the next owner restores (KAFKA-10167).
            (1..200).step_by(2).for_each(|nth| world.log.faults().fail_commit(nth, CommitFault::LateMarkers));
            stage.live(Crash::AfterCommit)
        }
        Mode::CrashBeforeCommit => stage.live(Crash::AtRandom),
        Mode::CommitFaults => {
            plan_faults(stage.world, &mut stage.rng);
            stage.live(Crash::Never)
        }
        Mode::Once => stage.once(),
        Mode::Backfill => stage.backfilled(Crash::Never),
        Mode::Resumed => stage.backfilled(Crash::AtRandom),
        Mode::Cutover => stage.cut_over(),
        Mode::Chaos => unreachable!("chaos has a log of its own"),
    }
}

/// A case on its way through a mode.
struct Stage<'a> {
    world: &'a World,
    case: &'a Case,
    decisions: &'a [Decision],
    rng: StdRng,
    workers: usize,
}

impl Stage<'_> {
    fn live(&mut self, crash: Crash) -> Result<Tables> {
        self.arriving(Arrivals::new(self.case), crash)?;
        self.finish(crash)?;
        self.world.tables(&self.case.topology, &self.sinks(), 1)
    }

    /// The live topics.
    fn sinks(&self) -> Vec<Topic> {
        self.case.topology.sinks.iter().map(|sink| sink.topic.clone()).collect()
    }

    /// Live, while records arrive.
    fn arriving(&mut self, mut order: Arrivals<'_>, crash: Crash) -> Result<()> {
        let records = self.rng.random_range(1..=4);
        let (world, case, decisions) = (self.world, self.case, self.decisions);
        let mut crew = Crew::new(world, self.workers, crash, || live_run(world, case, decisions, records))?;
        while !order.is_empty() {
            for _ in 0..self.rng.random_range(1..=4) {
                if let Some(input) = order.next(&mut self.rng) {
                    world.append(input)?;
                }
            }
            for _ in 0..self.rng.random_range(1..=4 * self.workers) {
                crew.step(&mut self.rng)?;
            }
        }
        Ok(())
    }

    /// The last run of a live generation: to the captured end, final if the case says so.
    fn finish(&mut self, crash: Crash) -> Result<()> {
        self.once_more(self.case.finish, 4, crash)
    }

    /// `run --until-caught-up`, all of the crew with the same ends.
    fn once_more(&mut self, finish: bool, most: u64, crash: Crash) -> Result<()> {
        let records = self.rng.random_range(1..=most);
        let (world, case, decisions) = (self.world, self.case, self.decisions);
        let run = || -> Result<Run> {
            let mut run = live::prepare(&world.site, &case.topology, None, true)?.run;
            // A decision at an offset that is still to come is made when it comes.
            run.decisions = decisions.to_vec();
            run.raise_tables = false;
            run.finish = finish;
            run.cadence = cadence(records);
            Ok(run)
        };
        Crew::new(world, self.workers, crash, run)?.run_to_the_end(&mut self.rng)
    }

    fn once(&mut self) -> Result<Tables> {
        let mut order = Arrivals::new(self.case);
        while !order.is_empty() {
            for _ in 0..self.rng.random_range(1..=8) {
                if let Some(input) = order.next(&mut self.rng) {
                    self.world.append(input)?;
                }
            }
            self.once_more(false, 6, Crash::Never)?;
        }
        self.finish(Crash::Never)?;
        self.world.tables(&self.case.topology, &self.sinks(), 1)
    }

    fn backfilled(&mut self, crash: Crash) -> Result<Tables> {
        self.world.append_all(self.case)?;
        let planned = self.backfill(Bound::Latest, self.case.finish, crash)?;
        self.world.tables(&self.case.topology, &shadows(&planned), planned.generation)
    }

    /// Up to offsets in the middle in a shadow, then live from exactly there: the shadow's rows and then the live ones are the table.
    fn cut_over(&mut self) -> Result<Tables> {
        let mut order = Arrivals::new(self.case);
        let mut middle = BTreeMap::new();
        for (topic, partition, records) in order.places(self.case) {
            let at = self.rng.random_range(0..=records);
            // Some is there already when the job ends, the rest arrives when it is live.
            for _ in 0..self.rng.random_range(at..=records) {
                order.append_next(self.world, &topic, partition)?;
            }
            middle.insert(topic.partition(partition), NextOffset(at as i64));
        }
        let crashes = [Crash::Never, Crash::AtRandom];
        let crash = crashes[self.rng.random_range(0..2)];
        let planned = self.backfill(Bound::Offsets(middle), false, crash)?;
        let job = Which::Job(planned.job.clone());
        let mut promotion = Promotion::open(&self.world.site, &self.case.topology, &job, "00000000")?;
        while promotion.step(Duration::ZERO)? != Status::Live {}
        let crash = crashes[self.rng.random_range(0..2)];
        self.arriving(order, crash)?;
        self.finish(crash)?;
        let topics: Vec<Vec<Topic>> = shadows(&planned).into_iter().zip(self.sinks()).map(|(old, new)| vec![old, new]).collect();
        self.world.tables_over(&self.case.topology, &topics, planned.generation)
    }

    /// From the start into shadow topics.
    fn backfill(&mut self, to: Bound, finish: bool, crash: Crash) -> Result<Planned> {
        let (world, case, decisions) = (self.world, self.case, self.decisions);
        let request = Request { to, finish, ..Request::resume("golden") };
        let planned = backfill::plan(&world.site, &case.topology, &request)?;
        let records = self.rng.random_range(1..=20);
        let run = || -> Result<Run> {
            let (_, mut run) = backfill::prepare(&world.site, &case.topology, &request)?;
            run.decisions = decisions.to_vec();
            run.raise_tables = false;
            run.cadence = cadence(records);
            Ok(run)
        };
        Crew::new(world, self.workers, crash, run)?.run_to_the_end(&mut self.rng)?;
        backfill::finish(&world.site, &case.topology, &planned)?;
        Ok(planned)
    }
}

fn shadows(planned: &Planned) -> Vec<Topic> {
    planned.outputs.iter().map(|(_, topic)| topic.clone()).collect()
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
    run.idle_after = None;
    run.raise_tables = false;
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

/// The records of a case in a random order that keeps each partition's own.
struct Arrivals<'a> {
    partitions: Vec<VecDeque<&'a Input>>,
}

impl<'a> Arrivals<'a> {
    fn new(case: &'a Case) -> Arrivals<'a> {
        let mut places = BTreeMap::<_, VecDeque<&Input>>::new();
        for input in case.inputs.iter().filter(|input| matches!(input, Input::Record { .. })) {
            places.entry(input.place()).or_default().push_back(input);
        }
        Arrivals { partitions: places.into_values().collect() }
    }

    fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Every source partition, with how many records it will have.
    fn places(&self, case: &Case) -> Vec<(Topic, i32, usize)> {
        let topics: BTreeSet<&Topic> = case.topology.sources.iter().map(|source| &source.topic).collect();
        let records = |topic: &Topic, partition: i32| {
            let queue = self.partitions.iter().find(|queue| queue.front().is_some_and(|next| next.place() == (topic, partition)));
            queue.map_or(0, VecDeque::len)
        };
        let of_topic =
            |topic: &Topic| (0..case.partitions(topic)).map(|p| (topic.clone(), p, records(topic, p))).collect::<Vec<_>>();
        topics.into_iter().flat_map(of_topic).collect()
    }

    /// Appends the next record of one partition.
    fn append_next(&mut self, world: &World, topic: &Topic, partition: i32) -> Result<()> {
        let of_place = |queue: &&mut VecDeque<&Input>| queue.front().is_some_and(|next| next.place() == (topic, partition));
        let next = self.partitions.iter_mut().find(of_place).and_then(VecDeque::pop_front);
        self.partitions.retain(|queue| !queue.is_empty());
        next.map_or(Ok(()), |input| world.append(input))
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
