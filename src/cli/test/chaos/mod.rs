//! The mode "chaos": several processes on one log, and whatever can happen to them, drawn from one seed.
//!
//! The real workers run in processes that are killed at any call or action, sleep through their sessions and go on, leave and come back;
//! commits time out with either outcome, markers and records come late, the cluster goes away, local state is lost or old. The clock is
//! simulated and there is one thread, so a seed is a run: [`run`] gives its trace, too. Every run must give the same tables as the other
//! modes, and these must hold:
//! - Of every transaction all records are visible, or none; positions and commit numbers follow one another (`books`).
//! - A commit holds the offsets of partitions that its process has, of no others (`process`).
//! - Every task's state and offsets are of one commit in the end, its changelog without a gap.
//! - The decisions that were made are recorded, each in its place.

mod books;
mod crew;
mod process;
mod storm;
mod tide;
mod trace;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::cli::test::case::Case;
use crate::cli::test::chaos::crew::{Folder, Phase, Slot};
use crate::cli::test::chaos::process::Process;
use crate::cli::test::chaos::storm::Storm;
use crate::cli::test::chaos::tide::Tide;
use crate::cli::test::modes::{Mode, is_short_of_memory};
use crate::cli::test::world::{Tables, World};
use crate::error::{Error, Result};
use crate::job::backfill::{self, Request};
use crate::job::bounds::Bound;
use crate::job::{Settings, Site, live};
use crate::record::Topic;
use crate::store::memory::Memory;
use crate::task::core::Cadence;
use crate::task::decision::{self, Decision};
use crate::task::names::Names;
use crate::task::plan::TaskId;
use crate::task::restore::{self, Sources};
use crate::task::run::Run;
use crate::task::watch::Watch;

/// Ticks after which a run is taken to hang.
const PATIENCE: u32 = 60_000;
/// Until then everything that is on its way has arrived, and every transaction is decided.
const SETTLES: Duration = Duration::from_secs(90);

/// What a run gave, and what happened in it.
pub struct Outcome {
    pub tables: Result<Tables>,
    /// Everything that happened, with its simulated time.
    pub trace: Vec<String>,
    /// Of all lines of the trace.
    pub hash: u64,
    /// Rows that went to disk while they waited for a watermark.
    pub waiting_spilled: u64,
}

/// Runs a case through the weather of a seed.
pub fn run(case: &Case, seed: u64, decisions: &[Decision]) -> Outcome {
    let mut world = match World::new(case) {
        Ok(world) => world,
        Err(error) => return Outcome { tables: Err(error), trace: Vec::new(), hash: 0, waiting_spilled: 0 },
    };
    if is_short_of_memory(Mode::Chaos, seed) {
        world.site.settings.memory = Memory::of(0);
    }
    world.log.interleave(seed.wrapping_add(1));
    let mut plan = Plan::draw(seed);
    let tide = match (plan.backfills, plan.decides) {
        (true, _) => Tide::default(),
        (false, true) => Tide::new(case, decisions),
        (false, false) => Tide::new(case, &[]),
    };
    let storm = Storm::new(world.log.clone(), seed, plan.processes, tide);
    let odds = storm.inner().odds;
    storm.note(None, format!("seed {seed}: {plan:?}, {odds:?}"));
    if plan.eager {
        world.log.rebalance_eagerly();
    }
    let tables = through(case, &world, &storm, &mut plan, decisions);
    storm.inner().phase = None;
    let crew = std::mem::take(&mut *storm.slots());
    drop(crew);
    let mut inner = storm.inner();
    let waiting_spilled = world.site.settings.memory.spills().waiting();
    Outcome { tables, hash: inner.trace.hash(), trace: std::mem::take(&mut inner.trace.lines), waiting_spilled }
}

/// What a seed makes of a run before it begins.
#[derive(Debug)]
struct Plan {
    /// A bounded job over the whole range; else live, and then to the end.
    backfills: bool,
    processes: usize,
    /// Every rebalance takes everything first.
    eager: bool,
    /// Static members (KIP-345).
    static_members: bool,
    /// Local checkpoints at so many milliseconds.
    checkpoints: Option<u64>,
    /// Decisions are made on the way, and recorded; else they are known from the start.
    decides: bool,
    cadence: Cadence,
    dice: StdRng,
}

impl Plan {
    fn draw(seed: u64) -> Plan {
        let mut dice = StdRng::seed_from_u64(!seed);
        let interval_ms = [20, 100, 1_000, 5_000][dice.random_range(0..4)];
        let cadence = Cadence { max_records: dice.random_range(1..=8), ..Cadence::live(interval_ms) };
        Plan {
            backfills: dice.random_bool(0.25),
            processes: dice.random_range(1..=4),
            eager: dice.random_bool(0.3),
            static_members: dice.random_bool(0.3),
            checkpoints: [None, None, Some(0), Some(500)][dice.random_range(0..4)],
            decides: dice.random_bool(0.6),
            cadence,
            dice,
        }
    }
}

/// What a process runs, planned anew in each of its lives.
type Runs = Box<dyn Fn(&Site) -> Result<Run> + Send + Sync>;

fn through(case: &Case, world: &World, storm: &Arc<Storm>, plan: &mut Plan, decisions: &[Decision]) -> Result<Tables> {
    if plan.backfills {
        return backfilled(case, world, storm, plan, decisions);
    }
    let group = Names::new(&world.site.settings.name_prefix, &case.topology.pipeline, 1)?.group();
    let known = (!plan.decides).then(|| decisions.to_vec());
    // The first start is made in peace (no misfortune is left yet). Known gap: of two first starts at one moment, one that sleeps before it
    // writes the offsets that a stateless pipeline begins with puts them back behind what the other has committed since.
    let site = Site { log: Arc::new(Process { storm: storm.clone(), number: 0 }), ..world.site.clone() };
    runs(case, plan.cadence, None, None)(&site)?;
    let live = phase(world, storm, plan, &group, false, runs(case, plan.cadence, known.clone(), None))?;
    go(storm, plan, live, |storm| storm.inner().tide.is_empty())?;
    part(storm, plan);
    let last = phase(world, storm, plan, &group, true, runs(case, plan.cadence, known, Some(case.finish)))?;
    go(storm, plan, last, all_left)?;
    storm.clock.sleep(SETTLES);
    storm.clear_up();
    check(case, world, storm, &runs(case, plan.cadence, None, None)(&world.site)?)?;
    if plan.decides {
        check_decisions(world, &case.topology.pipeline, decisions)?;
    }
    let sinks: Vec<Topic> = case.topology.sinks.iter().map(|sink| sink.topic.clone()).collect();
    world.tables(&case.topology, &sinks, 1)
}

/// The whole range by a job, into shadows.
fn backfilled(case: &Case, world: &World, storm: &Arc<Storm>, plan: &mut Plan, decisions: &[Decision]) -> Result<Tables> {
    world.append_all(case)?;
    let request = Request { to: Bound::Latest, finish: case.finish, ..Request::resume("chaos") };
    // No misfortune is left yet: it is planned in peace.
    let site = Site { log: Arc::new(Process { storm: storm.clone(), number: 0 }), ..world.site.clone() };
    let (planned, run) = backfill::prepare(&site, &case.topology, &request)?;
    let (topology, decisions, cadence) = (case.topology.clone(), decisions.to_vec(), plan.cadence);
    let job: Runs = Box::new(move |site| {
        let (_, mut run) = backfill::prepare(site, &topology, &request)?;
        run.decisions = decisions.clone();
        run.raise_tables = false;
        run.cadence = cadence;
        Ok(run)
    });
    let job = phase(world, storm, plan, &run.plan.names.group(), true, job)?;
    go(storm, plan, job, all_left)?;
    storm.clock.sleep(SETTLES);
    storm.clear_up();
    check(case, world, storm, &run)?;
    let shadows: Vec<Topic> = planned.outputs.iter().map(|(_, topic)| topic.clone()).collect();
    world.tables(&case.topology, &shadows, planned.generation)
}

fn phase(world: &World, storm: &Arc<Storm>, plan: &Plan, group: &str, ends: bool, run: Runs) -> Result<Phase> {
    Ok(Phase {
        storm: storm.clone(),
        registry: Arc::new(world.registry.clone()),
        settings: Settings { max_poll_records: 1_000, ..world.site.settings.clone() },
        group: group.to_owned(),
        run,
        static_members: plan.static_members,
        leavers: !ends,
        state: plan.checkpoints.map(|_| Folder::new()).transpose()?,
        checkpoint_interval: Duration::from_millis(plan.checkpoints.unwrap_or_default()),
    })
}

fn all_left(storm: &Storm) -> bool {
    storm.slots().iter().all(|slot| matches!(slot, Slot::Left))
}

/// Live, or (`finish`) to the captured end. Without known decisions those that are recorded are followed.
fn runs(case: &Case, cadence: Cadence, known: Option<Vec<Decision>>, finish: Option<bool>) -> Runs {
    let topology = case.topology.clone();
    Box::new(move |site| {
        let mut run = live::prepare(site, &topology, None, finish.is_some())?.run;
        run.idle_after = None;
        run.raise_tables = false;
        run.finish = finish == Some(true);
        run.decisions = known.clone().unwrap_or(run.decisions);
        run.cadence = cadence;
        Ok(run)
    })
}

/// Until it is done.
fn go(storm: &Arc<Storm>, plan: &mut Plan, phase: Phase, done: impl Fn(&Storm) -> bool) -> Result<()> {
    let now = storm.clock.now();
    let late = |dice: &mut StdRng| if dice.random_bool(0.6) { 0 } else { dice.random_range(0..10_000) };
    let slots = (0..plan.processes)
        .map(|_| Slot::Dead { since: now, until: now + Duration::from_millis(late(&mut plan.dice)) })
        .collect();
    *storm.slots() = slots;
    {
        let mut inner = storm.inner();
        inner.phase = Some(Arc::new(phase));
        inner.left = plan.dice.random_range(4..40);
    }
    for _ in 0..PATIENCE {
        if done(storm) {
            return Ok(());
        }
        storm.tick();
        if let Some(error) = storm.inner().failed.clone() {
            return Err(error);
        }
    }
    Err(Error::failed("the run hangs"))
}

/// The live run is over: all are killed. Their sessions and transactions may be over, too, before others come.
fn part(storm: &Arc<Storm>, plan: &mut Plan) {
    let crew = std::mem::take(&mut *storm.slots());
    storm.note(None, "all are killed");
    drop(crew);
    (0..plan.processes).for_each(|number| storm.died(number));
    if plan.dice.random_bool(0.5) {
        storm.clock.sleep(Duration::from_secs(20));
        storm.log.expire_members();
    }
}

/// What must hold whatever happened, once everything is decided.
fn check(case: &Case, world: &World, storm: &Storm, run: &Run) -> Result<()> {
    let sources = case.topology.sources.iter().map(|source| source.topic.clone());
    let sources: BTreeSet<Topic> = sources.chain(case.inputs.iter().map(|input| input.place().0.clone())).collect();
    storm.books(|books| books.check(&world.log, &sources))?;
    let faults = storm.books(|books| std::mem::take(&mut books.faults));
    if !faults.is_empty() {
        return Err(Error::corrupt(faults.join("\n")));
    }
    for sub in 0..run.plan.subs().count() {
        for number in 0..run.plan.tasks(sub) {
            let sources = Sources::of(&world.site.log, run, None);
            let restored = restore::restore(&run.plan, TaskId { sub, number }, &sources, None, &Watch::default());
            restored.map_err(|e| e.context("restored in the end"))?;
        }
    }
    Ok(())
}

/// Those that were made are recorded; of several in one place the highest is all that matters.
fn check_decisions(world: &World, pipeline: &str, decisions: &[Decision]) -> Result<()> {
    let names = Names::new(&world.site.settings.name_prefix, pipeline, 1)?;
    let recorded = decision::read(&world.log, &names.decisions())?;
    let covers = |recorded: &Decision, made: &Decision| {
        recorded.partition == made.partition && recorded.at == made.at && recorded.to >= made.to
    };
    match decisions.iter().find(|made| !recorded.iter().any(|recorded| covers(recorded, made))) {
        Some(missing) => Err(Error::corrupt(format!("the decision {missing:?} was made, but is not recorded"))),
        None => Ok(()),
    }
}
