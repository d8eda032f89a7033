//! Performs what `core` decides: polls, feeds the tasks, commits, restores.
//!
//! One worker = one pipeline in one process = one group member, one consumer, one transactional producer. [`Worker::step`] does one
//! round and returns, so a caller can stop, crash or interleave workers between any two rounds (the golden runner and the
//! simulation do). All calls block; a worker has a thread of its own.

mod budget;
mod tasks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{Clock, Moment};
use crate::contract::Registry;
use crate::error::{Error, Kind, Result};
use crate::log::{CommittedOffsets, Consumer, ConsumerSettings, Isolation, Log, Polled, Producer, ProducerSettings};
use crate::metric;
use crate::record::{Chunk, NextOffset, Offset, OffsetVector, Outgoing, Topic, TopicPartition};
use crate::store::memory::{Memory, Seat};
use crate::task::core::{Action, Cadence, Core, Event, Outcome};
use crate::task::decision::{self, Decision};
use crate::task::ends::Ends;
use crate::task::feed::FeedState;
use crate::task::graph::{Prepared, Task};
use crate::task::idle::{self, Quiet, Stand};
use crate::task::letters::{Orphan, Sender};
use crate::task::local::LocalCopies;
use crate::task::lull::{self, Lull};
use crate::task::observe::Observer;
use crate::task::permit::Permit;
use crate::task::plan::{Plan, TaskId};
use crate::task::progress;
use crate::task::restore::{Sources, Warm};
use crate::task::restorer::{Restorer, Restoring};
use crate::task::standby::{Standby, StandbyProgress};
use crate::task::watch::RestoreProgress;
use crate::watermark::Watermark;

/// How outputs are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    ExactlyOnce,
    AtLeastOnce,
}

/// What a worker runs: three values (start, end, cadence) are all that tells live from a bounded run.
#[derive(Clone)]
pub struct Run {
    pub plan: Arc<Plan>,
    /// Where partitions begin that the group has no offset for.
    pub start: OffsetVector,
    /// Where each partition ends; `None`: never.
    pub end: Option<OffsetVector>,
    /// At the end, declare that nothing more will come (`--final`).
    pub finish: bool,
    pub cadence: Cadence,
    pub delivery: Delivery,
    /// To be followed, beside the recorded ones.
    pub decisions: Vec<Decision>,
    /// Whether it follows what other runs have recorded by its start, and records what it decides itself.
    pub shares_decisions: bool,
    /// Quiet for so long a source partition no longer holds back the others; `None`: no such decision is made, recorded ones are followed.
    pub idle_after: Option<Duration>,
    /// All streams quiet for so long, event time goes on by the clock; `None`: no such decision is made, recorded ones are followed.
    pub quiet_after: Option<Duration>,
    /// A table at its end does not hold back the streams that it is joined with: its watermark is raised to theirs, as a decision. In a
    /// bounded run the end is that of the range.
    pub raise_tables: bool,
    /// The random part of the transactional id, kept in the state directory.
    pub instance: String,
    /// Static membership (KIP-345): a process that was killed and comes back with its state directory has its partitions at once,
    /// without waiting for the session of the dead one to expire.
    pub static_member: bool,
    pub transaction_timeout: Duration,
    pub max_poll_records: usize,
    /// The pipeline's folder under the state directory; `None`: no local checkpoints.
    pub state: Option<PathBuf>,
    pub checkpoint_interval: Duration,
    /// Of the process; changes no result.
    pub memory: Memory,
    pub restoring: Restoring,
    /// Of how many tasks that others own this one keeps warm copies.
    pub standby_tasks: usize,
    /// Asked after every assignment before the first commit, and about once a second; `None`: it is always granted.
    pub permit: Option<Arc<dyn Permit>>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing arrived.
    Idle,
    /// Records went through, or the assignment changed.
    Worked,
    /// A transaction was committed.
    Committed,
    /// The run is over and the group left.
    Left,
}

/// Where a worker stands; shared with whoever shows it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Committed positions of the partitions held.
    pub positions: OffsetVector,
    pub watermarks: BTreeMap<TopicPartition, Watermark>,
    pub records_in: u64,
    pub records_out: u64,
    pub dead: u64,
    pub late: u64,
    pub withdrawn: u64,
    pub commits: u64,
    pub state_keys: usize,
    pub state_bytes: usize,
    /// Of the keys, those on disk alone.
    pub spilled_keys: usize,
    pub restoring: bool,
    /// How far each restore is.
    pub restores: Vec<RestoreProgress>,
    /// Tasks are held and deliver.
    pub ready: bool,
    /// Schema ids that the registry could not be asked for; their records wait.
    pub waiting_for_schemas: usize,
    pub left: bool,
    /// Copies of tasks that others own.
    pub standby_tasks: StandbyProgress,
    /// Why it holds no tasks though it runs: another generation is live.
    pub standby: Option<String>,
}

impl Progress {
    /// How much was read of what the tasks that restore have to read, 0 to 1; 1 when none does.
    pub fn restore_ratio(&self) -> f64 {
        match self.restores.len() {
            0 => 1.0,
            tasks => self.restores.iter().map(|restore| restore.ratio).sum::<f64>() / tasks as f64,
        }
    }
}

/// A chunk whose writer schema could not be fetched yet.
struct Parked {
    chunk: Chunk,
    retry_at: Moment,
}

pub struct Worker {
    log: Arc<dyn Log>,
    clock: Clock,
    registry: Arc<dyn Registry>,
    run: Run,
    core: Core,
    consumer: Option<Box<dyn Consumer>>,
    producer: Box<dyn Producer>,
    /// Dropped before `local`, to which it writes.
    standby: Option<Standby>,
    local: Option<LocalCopies>,
    restorer: Restorer,
    tasks: BTreeMap<TaskId, Task>,
    /// Of a bounded run.
    ends: Option<Ends>,
    /// Tasks that were told that nothing more will come.
    finished: BTreeSet<TaskId>,
    parked: BTreeMap<TopicPartition, Parked>,
    /// Polled and not yet taken: what interrupts a round must not lose the rest of a poll.
    polled: VecDeque<Chunk>,
    /// Paused until their tasks, which went back to their last commit, deliver again.
    held_back: BTreeSet<TopicPartition>,
    actions: VecDeque<Action>,
    intended: CommittedOffsets,
    /// Made since the last commit, to be recorded with the next.
    decided: Vec<Decision>,
    quiet: Quiet,
    lull: Lull,
    /// The watermark for which it was said that the last windows wait.
    said_waiting: Option<(Watermark, Moment)>,
    looked_at: Option<Moment>,
    /// Changelog positions at the start of each task's snapshot round.
    rounds: BTreeMap<TaskId, OffsetVector>,
    began: Moment,
    checkpointed_at: Moment,
    asked_ends_at: Option<Moment>,
    standby_at: Option<Moment>,
    /// What the caller gives a step.
    patience: Duration,
    away_since: Option<Moment>,
    said_away_at: Option<Moment>,
    /// When this process was last fenced, at most as often as it takes to suspect a rival.
    fenced_at: VecDeque<Moment>,
    /// Not asked for since the last assignment.
    unpermitted: bool,
    asked_permit_at: Option<Moment>,
    dismissed: bool,
    /// Among the workers that share the memory budget.
    _seat: Seat,
    said_short_at: Option<Moment>,
    observer: Option<Box<dyn Observer>>,
    pub progress: Arc<Mutex<Progress>>,
}

const AWAY_RETRY: Duration = Duration::from_millis(500);
const SCHEMA_RETRY: Duration = Duration::from_secs(1);
/// How often it is said that something is still away, and what it says now.
const SAY_AWAY: Duration = Duration::from_secs(30);
/// Fenced so often within so long, another process is taken to use the same identity.
const RIVALRY: (usize, Duration) = (4, Duration::from_secs(60));
/// How long a record of a dead letter may take to be read again.
const RECORD_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked for quiet partitions.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The same for tables at their ends, which hold back joins.
const LOOK_AT_TABLES_EVERY: Duration = Duration::from_millis(50);
/// How often it is said at most that the last windows wait.
const SAY_WAITING: Duration = Duration::from_secs(300);
/// How often the group's offsets are asked for near the end of a bounded run.
const ENDS_EVERY: Duration = Duration::from_millis(20);
/// How often it is asked whether this run may still commit.
const PERMIT_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked of which tasks copies are kept.
const STANDBY_EVERY: Duration = Duration::from_secs(2);
/// How long a poll may wait while a task restores.
const RESTORING_WAIT: Duration = Duration::from_millis(20);

impl Worker {
    /// Opens the producer (fencing a former one of this instance) and joins the group.
    pub fn open(log: Arc<dyn Log>, registry: Arc<dyn Registry>, mut run: Run) -> Result<Worker> {
        let seat = run.memory.join();
        let local = LocalCopies::of(&run)?;
        let sources = Sources::of(&log, &run, local.as_ref());
        let standby = match run.standby_tasks {
            1.. if run.plan.has_state() && run.end.is_none() => Some(Standby::start(&run, sources.clone(), local.as_ref())?),
            _ => None,
        };
        let clock = log.clock();
        let mut producer = log.producer(&producer_settings(&run))?;
        settle(producer.as_mut(), &run.plan)?;
        // Only now: a transaction of a former life of this process could hold back the reader for ever.
        if run.shares_decisions {
            run.decisions.extend(decision::read(log.as_ref(), &run.plan.names.decisions())?);
        }
        let consumer = join(log.as_ref(), &run)?;
        let ends =
            run.end.as_ref().map(|end| Ends::new(&run.plan, end, run.finish, run.raise_tables, &run.decisions)).transpose()?;
        let of_lead =
            |(lead, _): (&Topic, &Vec<Topic>)| run.plan.task_of(&lead.partition(0)).map(|task| (lead.clone(), task.sub));
        let leads = run.plan.leads().iter().filter_map(of_lead).collect();
        Ok(Worker {
            core: Core::new(run.cadence.within(run.memory.of_commit()), leads),
            standby_at: None,
            restorer: Restorer::new(run.plan.clone(), sources, run.restoring),
            ends,
            log,
            registry,
            run,
            consumer: Some(consumer),
            producer,
            standby,
            local,
            tasks: BTreeMap::new(),
            finished: BTreeSet::new(),
            parked: BTreeMap::new(),
            polled: VecDeque::new(),
            held_back: BTreeSet::new(),
            actions: VecDeque::new(),
            intended: CommittedOffsets::new(),
            decided: Vec::new(),
            quiet: Quiet::default(),
            lull: Lull::default(),
            said_waiting: None,
            looked_at: None,
            rounds: BTreeMap::new(),
            began: clock.now(),
            checkpointed_at: clock.now(),
            clock,
            asked_ends_at: None,
            patience: Duration::ZERO,
            away_since: None,
            said_away_at: None,
            fenced_at: VecDeque::new(),
            unpermitted: true,
            asked_permit_at: None,
            dismissed: false,
            _seat: seat,
            said_short_at: None,
            observer: None,
            progress: Arc::default(),
        })
    }

    /// Copies of tasks that were read ahead before this worker began.
    pub fn bring(&self, warm: BTreeMap<TaskId, Warm>) {
        if let Some(standby) = &self.standby {
            standby.bring(warm);
        }
    }

    /// From now on the observer is told what is decided and done.
    pub fn observe(&mut self, observer: Box<dyn Observer>) {
        self.observer = Some(observer);
    }

    /// One round: what is left to do, or what the log brings, waiting at most `wait`.
    ///
    /// # Errors
    /// What ends the pipeline. An unreachable broker or registry does not: the step is tried again.
    pub fn step(&mut self, wait: Duration) -> Result<Step> {
        let commits = self.core.commits;
        let result = self.round(wait);
        let step = match result {
            Err(error) if error.kind == Kind::Away => {
                self.note_away(&error);
                self.clock.sleep(AWAY_RETRY.min(wait));
                Step::Idle
            }
            Err(error) if error.kind == Kind::Fenced && !self.core.has_left() => {
                self.expelled(&error);
                self.clock.sleep(AWAY_RETRY.min(wait));
                Step::Worked
            }
            // On its way out: what another owns by now is not its business any more, what is left to do is to leave.
            Err(error) if error.kind == Kind::Fenced => {
                tracing::info!(pipeline = self.name(), %error, "fenced while it leaves");
                Step::Worked
            }
            Err(error) => {
                self.give_up();
                return Err(error);
            }
            Ok(step) => {
                if self.away_since.take().is_some() {
                    tracing::info!(pipeline = self.name(), "reachable again");
                }
                step
            }
        };
        if self.core.has_left() && self.actions.is_empty() {
            return Ok(Step::Left);
        }
        Ok(if self.core.commits > commits { Step::Committed } else { step })
    }

    /// Makes a decision now: it is recorded with the next commit, and followed from here on.
    pub fn decide(&mut self, decision: Decision) -> Result<()> {
        // First what is left to do: a `Keep` that waits would take this decision for one that its commit has recorded.
        self.perform()?;
        let task = self.run.plan.task_of(&decision.partition);
        if let Some((id, task)) = task.and_then(|id| Some((id, self.tasks.get_mut(&id)?))) {
            task.follow([&decision])?;
            // Before anything can be sent or undone: what goes back takes it along.
            self.decided.push(decision);
            self.carry_through(id)?;
            self.event(Event::Processed { records: 0, bytes: 0 });
        }
        self.perform()
    }

    /// Commits what is open, writes a checkpoint, leaves the group.
    pub fn stop(&mut self) -> Result<()> {
        self.event(Event::Stop);
        while !(self.core.has_left() && self.actions.is_empty()) {
            self.step(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Runs until the end of the range, or until `stop` says so.
    pub fn run_until(&mut self, mut stop: impl FnMut() -> bool) -> Result<()> {
        loop {
            if self.step(Duration::from_millis(100))? == Step::Left {
                return Ok(());
            }
            if stop() {
                return self.stop();
            }
        }
    }

    pub fn commits(&self) -> u64 {
        self.core.commits
    }

    /// It left, or is leaving, because it may not commit any more.
    pub fn is_dismissed(&self) -> bool {
        self.dismissed
    }

    fn name(&self) -> &str {
        &self.run.plan.names.pipeline
    }

    fn now_ms(&self) -> u64 {
        self.clock.since(self.began).as_millis() as u64
    }

    fn event(&mut self, event: Event) {
        let now = self.now_ms();
        if let Some(observer) = &mut self.observer {
            observer.event(&event);
        }
        let actions = self.core.on(event, now);
        self.actions.extend(actions);
    }

    fn round(&mut self, wait: Duration) -> Result<Step> {
        self.perform()?;
        if self.core.has_left() {
            return Ok(Step::Left);
        }
        self.carry_all()?;
        self.keep_permit()?;
        if self.core.has_left() {
            return Ok(Step::Left);
        }
        self.restorer.step();
        self.take_restored()?;
        self.perform()?;
        self.retry_parked()?;
        self.patience = wait;
        let wait = self.core.due_in_ms(self.now_ms()).map_or(wait, |due| wait.min(Duration::from_millis(due)));
        // A restore that is done is taken in soon.
        let wait = if self.core.is_restoring() { wait.min(RESTORING_WAIT) } else { wait };
        self.take_polled()?;
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            None => self.consumer.insert(join(self.log.as_ref(), &self.run)?),
        };
        let polled = consumer.poll(wait, self.run.max_poll_records).map_err(|error| self.outside(error))?;
        let step = match polled {
            Polled::Idle => Step::Idle,
            Polled::Records(chunks) => {
                self.polled = chunks.into();
                self.take_polled()?;
                Step::Worked
            }
            Polled::Assigned(partitions) => {
                let partitions = self.admit(partitions)?;
                tracing::info!(pipeline = self.name(), partitions = show(&partitions), "assigned");
                self.unpermitted = true;
                self.event(Event::Assigned(partitions));
                Step::Worked
            }
            Polled::Revoked(partitions) => {
                tracing::info!(pipeline = self.name(), partitions = show(&partitions), "revoked");
                self.event(Event::Revoked(partitions));
                Step::Worked
            }
            Polled::Lost(partitions) => {
                tracing::warn!(
                    pipeline = self.name(),
                    partitions = show(&partitions),
                    "partitions were lost: the open transaction is aborted"
                );
                self.event(Event::Lost(partitions));
                Step::Worked
            }
        };
        self.perform()?;
        self.raise_quiet()?;
        self.check_end(step)?;
        self.event(Event::Tick);
        self.perform()?;
        self.show_restores();
        self.stand_by();
        Ok(step)
    }

    /// Leaves when this run may not commit any more.
    fn keep_permit(&mut self) -> Result<()> {
        let asked = !self.unpermitted
            && self.asked_permit_at.is_some_and(|at| self.clock.since(at) < PERMIT_EVERY.min(10 * self.patience));
        if asked || self.dismissed || self.core.has_left() || self.granted()? {
            return Ok(());
        }
        self.dismiss();
        self.perform()
    }

    fn granted(&mut self) -> Result<bool> {
        let granted = self.run.permit.as_ref().map_or(Ok(true), |permit| permit.granted())?;
        self.asked_permit_at = Some(self.clock.now());
        self.unpermitted &= !granted;
        Ok(granted)
    }

    fn dismiss(&mut self) {
        tracing::info!(pipeline = self.name(), generation = self.run.plan.names.generation, "may not commit any more: it leaves");
        self.dismissed = true;
        self.event(Event::Stop);
    }

    /// Partitions that were added to a source while this runs: keys may have moved to them, away from their state. Without state they are
    /// taken up, except by a bounded run, whose range does not hold them.
    fn admit(&mut self, partitions: Vec<TopicPartition>) -> Result<Vec<TopicPartition>> {
        let plan = &self.run.plan;
        let sources: Vec<_> = plan.topology.sources.iter().map(|source| source.topic.clone()).collect();
        let counted = |at: &TopicPartition| {
            let of_topic = sources.iter().zip(&plan.source_partitions).filter(|(topic, _)| **topic == at.topic);
            of_topic.map(|(_, count)| *count).max().unwrap_or(i32::MAX)
        };
        let Some(added) = partitions.iter().filter(|at| at.partition.0 >= counted(at)).max_by_key(|at| at.partition.0).cloned()
        else {
            return Ok(partitions);
        };
        let (topic, before, now) = (&added.topic, counted(&added), added.partition.0 + 1);
        if plan.has_state() {
            let (pipeline, generation) = (&plan.names.pipeline, plan.names.generation);
            return Err(Error::config(format!(
                "topic \"{topic}\" has {now} partitions now, generation {generation} of pipeline \"{pipeline}\" began with {before}"
            ))
            .hint("keys have moved to other partitions than their state: start over with \"tidemill reset\""));
        }
        if let Some(end) = &self.run.end {
            return Ok(partitions.into_iter().filter(|at| end.contains_key(at)).collect());
        }
        tracing::info!(pipeline = self.name(), %topic, before, now, "partitions were added: they are read from their start");
        let wider = |(source, count): (&Topic, &i32)| if source == topic { now.max(*count) } else { *count };
        let counts = sources.iter().zip(&plan.source_partitions).map(wider).collect();
        let (topology, names, targets) = (plan.topology.clone(), plan.names.clone(), plan.targets.clone());
        self.run.plan = Arc::new(Plan::new(topology, names, targets, counts, plan.letter_partitions, plan.message_bytes)?);
        self.restorer.set_plan(self.run.plan.clone());
        Ok(partitions)
    }

    /// What a consumer says of a topic that is gone, or of a place outside of the log, with what this pipeline's user can do.
    fn outside(&self, error: Error) -> Error {
        match &error.hint {
            Some(why) if error.kind == Kind::Config => {
                let pipeline = self.name();
                let hint = format!(
                    "{why}; nothing is passed over silently: start over with \"tidemill reset {pipeline} --yes\" and a --from within the log"
                );
                error.hint(hint)
            }
            _ => error,
        }
    }

    fn take_polled(&mut self) -> Result<()> {
        while let Some(chunk) = self.polled.pop_front() {
            self.take(chunk)?;
        }
        Ok(())
    }

    /// The group went on without this member for good: a static member whose rejoining crossed a lost answer, or whose instance another
    /// process uses (KIP-345). What it held is lost; it joins anew in the next round.
    fn expelled(&mut self, error: &Error) {
        tracing::warn!(pipeline = self.name(), %error, "expelled from the group: the open transaction is aborted, and the group joined again");
        self.note_fenced();
        self.consumer = None;
        self.actions.clear();
        let held = self.core.held();
        self.event(Event::Lost(held));
    }

    /// Two processes of one identity (a copied state directory) fence each other for ever. Correctness does not depend on the identity, so
    /// the one that notices takes another.
    fn note_fenced(&mut self) {
        let (often, within) = RIVALRY;
        self.fenced_at.push_back(self.clock.now());
        if self.fenced_at.len() < often || !self.run.static_member {
            return;
        }
        let since = self.fenced_at.pop_front();
        if since.is_some_and(|since| self.clock.since(since) < within) {
            self.fenced_at.clear();
            let own = self.run.instance.split('-').next().unwrap_or_default();
            let other = format!("{own}-{:08x}", self.clock.chance());
            tracing::error!(
                pipeline = self.name(),
                instance = self.run.instance,
                other,
                "fenced again and again: another process seems to use a copy of this state directory; this one goes on under another id. \
                 Give every process a state directory of its own"
            );
            self.run.instance = other;
        }
    }

    /// One chunk through its task, up to the end of the range.
    fn take(&mut self, chunk: Chunk) -> Result<()> {
        let Some(id) = self.run.plan.task_of(&chunk.partition) else { return Ok(()) };
        let Some(task) = self.tasks.get_mut(&id) else { return Ok(()) };
        let chunk = match self.ends.as_ref().and_then(|ends| ends.get(&chunk.partition)) {
            Some(end) if chunk.next > end => {
                let rows = chunk.offsets.partition_point(|offset| offset.0 < end.0);
                Chunk { next: end, ..chunk.slice(0, rows) }
            }
            _ => chunk,
        };
        let behind = task.positions().get(&chunk.partition).is_some_and(|position| *position >= chunk.next);
        if behind {
            return Ok(());
        }
        for writer in task.missing(&chunk) {
            match self.registry.schema(writer) {
                Ok(schema) => task.add_writer(&chunk, writer, schema.as_ref())?,
                Err(error) if error.kind == Kind::Away => return self.park(chunk, &error),
                Err(error) => return Err(error.context(&chunk.partition)),
            }
        }
        task.process(&chunk)?;
        let records = chunk.len() as u64;
        drop(chunk);
        self.carry_through(id)?;
        let bytes = self.tasks.values_mut().map(|task| task.pending_bytes() + task.touched_bytes()).sum();
        self.event(Event::Processed { records, bytes });
        self.perform()
    }

    /// Brings a step of a task to its end. What it makes is sent on the way, in the transaction of its commit, so that a window of any size
    /// can close.
    fn carry_through(&mut self, id: TaskId) -> Result<()> {
        while self.tasks.get(&id).is_some_and(Task::is_unfinished) {
            self.event(Event::Sending);
            self.perform()?;
            // If the transaction could not be opened, the task has gone back to its last commit.
            let Some(task) = self.tasks.get_mut(&id).filter(|task| task.is_unfinished()) else { return Ok(()) };
            let ready = task.take_ready()?;
            for (topic, records) in &ready {
                if let Err(error) = self.producer.send(topic, records) {
                    // No commit was tried: there is no outcome to be asked for.
                    let kind = if error.kind == Kind::Fenced { Kind::Fenced } else { Kind::Abort };
                    self.commit_failed(Error { kind, ..error });
                    return self.perform();
                }
            }
            task.proceed()?;
        }
        Ok(())
    }

    fn carry_all(&mut self) -> Result<()> {
        let unfinished: Vec<TaskId> = self.tasks.iter().filter(|(_, task)| task.is_unfinished()).map(|(id, _)| *id).collect();
        unfinished.into_iter().try_for_each(|id| self.carry_through(id))
    }

    /// Good records whose schema can't be fetched wait; nothing is diverted, other partitions go on.
    fn park(&mut self, chunk: Chunk, error: &Error) -> Result<()> {
        tracing::warn!(partition = %chunk.partition, %error, "a writer schema can't be fetched: the partition waits");
        let partition = chunk.partition.clone();
        if let Some(consumer) = &mut self.consumer {
            consumer.pause(std::slice::from_ref(&partition))?;
        }
        self.parked.insert(partition, Parked { chunk, retry_at: self.clock.now() + SCHEMA_RETRY });
        Ok(())
    }

    fn retry_parked(&mut self) -> Result<()> {
        let now = self.clock.now();
        let due: Vec<TopicPartition> = self.parked.iter().filter(|(_, p)| p.retry_at <= now).map(|(at, _)| at.clone()).collect();
        for partition in due {
            let Some(parked) = self.parked.remove(&partition) else { continue };
            // Resumed first: what interrupts the chunk must not leave its partition paused. If it has to wait again, it is paused again.
            if let Some(consumer) = &mut self.consumer {
                consumer.resume(std::slice::from_ref(&partition))?;
            }
            self.take(parked.chunk)?;
        }
        Ok(())
    }

    /// A bounded run ends when all that it reads is at its end. Tasks behind a shuffle learn theirs when those before it have committed.
    fn check_end(&mut self, step: Step) -> Result<()> {
        let Some(ends) = &self.ends else { return Ok(()) };
        if self.core.has_left() || self.core.is_restoring() || !self.parked.is_empty() {
            return Ok(());
        }
        if !self.tasks.values().all(|task| ends.sources_reached(task)) {
            return Ok(());
        }
        let has_exchanges = ends.has_exchanges();
        self.finish()?;
        if !self.tables_settled()? {
            // The group's last word on the streams is what is committed.
            if step == Step::Idle {
                self.event(Event::Due);
                self.perform()?;
            }
            return Ok(());
        }
        if self.holds_all() && !has_exchanges {
            return self.ended();
        }
        // Others wait for what is open here; while rows still come it may grow.
        if step == Step::Idle {
            self.event(Event::Due);
            self.perform()?;
        }
        self.look_for_ends()
    }

    /// At the end of a range tables are raised to where the streams have come, once and for all.
    fn tables_settled(&mut self) -> Result<bool> {
        if !self.run.raise_tables || self.run.finish || !self.run.plan.has_tables() {
            return Ok(true);
        }
        if !self.holds_all() {
            let group = self.run.plan.names.group();
            let Some(ends) = &self.ends else { return Ok(true) };
            if self.core.is_open() || !ends.sources_committed(self.log.as_ref(), &group, &self.run.start)? {
                return Ok(false);
            }
        }
        Ok(!self.raise_now()?)
    }

    /// Declares that nothing more will come, where the run does.
    fn finish(&mut self) -> Result<()> {
        if self.run.finish {
            for (id, task) in &mut self.tasks {
                if self.finished.insert(*id) {
                    task.finish()?;
                }
            }
            self.carry_all()?;
        }
        if self.tasks.values().any(Task::is_dirty) && !self.core.is_open() {
            self.event(Event::Processed { records: 0, bytes: 0 });
            self.perform()?;
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<()> {
        self.event(Event::Ended);
        self.perform()
    }

    fn holds_all(&self) -> bool {
        let plan = &self.run.plan;
        let all: usize = (0..plan.subs().count()).map(|sub| plan.tasks(sub) as usize).sum();
        self.tasks.len() == all
    }

    /// What the group has committed says where repartition topics end, and whether other members are done.
    fn look_for_ends(&mut self) -> Result<()> {
        if self.core.has_left() || self.asked_ends_at.is_some_and(|at| self.clock.since(at) < ENDS_EVERY.min(self.patience)) {
            return Ok(());
        }
        self.asked_ends_at = Some(self.clock.now());
        let (all, group) = (self.holds_all(), self.run.plan.names.group());
        let Some(ends) = &mut self.ends else { return Ok(()) };
        ends.find(self.log.as_ref(), &group, &self.run.start)?;
        if !self.tasks.values().all(|task| ends.reached(task)) {
            return Ok(());
        }
        if all || (!self.core.is_open() && ends.all_committed(self.log.as_ref(), &group, &self.run.start)?) {
            return self.ended();
        }
        Ok(())
    }

    /// Performs the actions in order. One that can't be performed because something is away stays and is tried again.
    fn perform(&mut self) -> Result<()> {
        while let Some(action) = self.actions.pop_front() {
            if let Some(observer) = &mut self.observer {
                observer.before(&action);
            }
            let result = self.act(&action);
            if let Some(observer) = &mut self.observer {
                observer.after(&action);
            }
            if let Err(error) = result {
                if error.kind == Kind::Away {
                    self.actions.push_front(action);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::Restore(task) => {
                let warm = self.standby.as_ref().and_then(|standby| standby.take(*task));
                // Shared evenly, until it is known how much each has.
                self.restorer.set_room(self.run.memory.of_stores() / self.core.tasks().len().max(1));
                self.restorer.begin(*task, warm);
                self.show();
                self.take_restored()
            }
            Action::Begin => match self.producer.begin() {
                Err(error) if error.kind != Kind::Away => {
                    self.commit_failed(error);
                    Ok(())
                }
                result => result,
            },
            Action::Commit => self.commit(),
            Action::Keep => self.keep(),
            Action::Abort => match self.producer.abort() {
                // A producer that can't abort is opened anew: that settles its transaction.
                Err(error) => {
                    tracing::warn!(pipeline = self.name(), %error, "abort failed: the producer is opened again");
                    self.actions.push_front(Action::Reopen);
                    Ok(())
                }
                Ok(()) => self.settle(),
            },
            Action::Reopen => {
                self.reopen()?;
                // What may have been committed is asked for first.
                if self.actions.front() == Some(&Action::Ask) { Ok(()) } else { self.settle() }
            }
            Action::Ask => self.ask(),
            Action::GoBack => {
                self.go_back();
                Ok(())
            }
            Action::Drop(task) => {
                self.forget(*task);
                Ok(())
            }
            Action::Release(partitions) => match &mut self.consumer {
                Some(consumer) => consumer.release(partitions),
                None => Ok(()),
            },
            Action::Leave => self.leave(),
            Action::Fail(error) => Err(error.clone()),
        }
    }

    fn commit(&mut self) -> Result<()> {
        if self.unpermitted && !self.granted()? {
            if !self.dismissed {
                self.dismiss();
            }
            self.event(Event::CommitFailed(Error::new(Kind::Abort, "this generation is not live any more")));
            return Ok(());
        }
        let began = self.clock.now();
        let mut offsets = CommittedOffsets::new();
        let mut sent = Ok(());
        for task in self.tasks.values_mut() {
            let Some(Prepared { outgoing, offsets: of_task }) = task.prepare()? else { continue };
            for (topic, records) in &outgoing {
                sent = sent.and_then(|()| self.producer.send(topic, records));
            }
            offsets.extend(of_task);
        }
        for (topic, records) in self.letters_of_orphans() {
            sent = sent.and_then(|()| self.producer.send(&topic, &records));
        }
        if !self.decided.is_empty() && self.run.shares_decisions {
            sent = sent.and_then(|()| self.producer.send(&self.run.plan.names.decisions(), &decision::encode(&self.decided)));
        }
        self.intended = offsets;
        let group = self.run.plan.names.group();
        let metadata = self.consumer.as_ref().map(|consumer| consumer.group_metadata());
        let fence = metadata.as_ref().map(|metadata| (group.as_str(), metadata));
        match sent.and_then(|()| self.producer.commit(&self.intended, fence)) {
            Ok(()) => {
                let pipeline = self.name().to_string();
                metrics::counter!(metric::COMMITS, "pipeline" => pipeline.clone()).increment(1);
                metrics::histogram!(metric::COMMIT_SECONDS, "pipeline" => pipeline).record(self.clock.since(began).as_secs_f64());
                self.event(Event::Committed);
            }
            Err(error) => self.commit_failed(error),
        }
        Ok(())
    }

    /// Letters of records that are no longer in memory: each is read again where it stands. One that can't be read has its place alone.
    fn letters_of_orphans(&mut self) -> Vec<(Topic, Outgoing)> {
        let orphans: Vec<Orphan> = self.tasks.values_mut().flat_map(Task::take_orphans).collect();
        let names = &self.run.plan.names;
        let sender = Sender { pipeline: names.pipeline.clone(), generation: names.generation };
        let (mut dead, mut late) = (Outgoing::default(), Outgoing::default());
        for orphan in &orphans {
            let chunk = self.record_at(&orphan.from, orphan.offset).unwrap_or_else(|error| {
                tracing::warn!(pipeline = self.name(), partition = %orphan.from, offset = orphan.offset.0, %error, "a letter goes without its record");
                None
            });
            sender.orphan(orphan, chunk.as_ref(), self.run.plan.letter_partitions, &mut dead, &mut late);
        }
        let letters = [(self.run.plan.names.dead(), dead), (self.run.plan.names.late(), late)];
        letters.into_iter().filter(|(_, records)| !records.is_empty()).collect()
    }

    /// One record of a source, as its log holds it; `None` when it is gone.
    fn record_at(&self, partition: &TopicPartition, offset: Offset) -> Result<Option<Chunk>> {
        let from = OffsetVector::from([(partition.clone(), NextOffset(offset.0))]);
        let mut reader = self.log.reader(Isolation::Committed, &from)?;
        let began = self.clock.now();
        while reader.positions()[partition] <= NextOffset(offset.0) && self.clock.since(began) < RECORD_TIMEOUT {
            for chunk in reader.poll(Duration::from_millis(50), 1)? {
                if chunk.row_of(offset).is_some() {
                    return Ok(Some(chunk));
                }
            }
        }
        Ok(None)
    }

    fn commit_failed(&mut self, error: Error) {
        let pipeline = self.name().to_string();
        tracing::warn!(pipeline, kind = error.kind.as_str(), %error, "a commit failed");
        metrics::counter!(metric::COMMIT_FAILURES, "pipeline" => pipeline, "kind" => error.kind.as_str()).increment(1);
        if error.kind == Kind::Fenced {
            self.note_fenced();
        }
        self.event(Event::CommitFailed(error));
    }

    fn keep(&mut self) -> Result<()> {
        decision::remember(&mut self.run.decisions, self.decided.drain(..));
        let mut wrapped = Vec::new();
        for (id, task) in &mut self.tasks {
            if task.keep() {
                wrapped.push(*id);
            }
            for (store, delta) in task.take_deltas() {
                if let Some(local) = &mut self.local {
                    local.note(*id, store, delta);
                }
            }
        }
        self.count();
        self.relieve()?;
        self.show();
        for task in wrapped {
            self.trim(task)?;
        }
        let full = self.local.as_ref().is_some_and(LocalCopies::is_full);
        if full || self.clock.since(self.checkpointed_at) >= self.run.checkpoint_interval {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Did the last commit happen? The stable offsets say.
    fn ask(&mut self) -> Result<()> {
        let partitions: Vec<TopicPartition> = self.intended.keys().cloned().collect();
        let now = match self.log.committed(&self.run.plan.names.group(), &partitions) {
            // Perhaps because the transaction was never closed among the offsets.
            Err(error) if error.kind == Kind::Away => return self.settle().and(Err(error)),
            result => result?,
        };
        let before = lock(&self.progress).positions.clone();
        let outcome = if now == self.intended {
            Outcome::Intended
        } else if partitions.iter().all(|p| now.get(p).map(|c| c.next) == before.get(p).copied()) {
            Outcome::Before
        } else {
            Outcome::Neither
        };
        tracing::info!(pipeline = self.name(), ?outcome, "the outcome of the last commit is known");
        if outcome != Outcome::Intended {
            self.settle()?;
        }
        self.event(Event::Outcome(outcome));
        Ok(())
    }

    /// Nothing of a transaction that was given up stays open where this pipeline writes.
    fn settle(&mut self) -> Result<()> {
        match settle(self.producer.as_mut(), &self.run.plan) {
            Err(error) if matches!(error.kind, Kind::Fenced | Kind::Abort | Kind::Unknown) => {
                self.reopen()?;
                Err(Error { kind: Kind::Away, ..error })
            }
            result => result,
        }
    }

    fn reopen(&mut self) -> Result<()> {
        match self.log.producer(&producer_settings(&self.run)) {
            // Another producer of the id was opened: no verdict on the group. It is tried again.
            Err(error) if error.kind == Kind::Fenced => Err(Error { kind: Kind::Away, ..error }),
            result => result.map(|producer| self.producer = producer),
        }
    }

    fn leave(&mut self) -> Result<()> {
        self.restorer.forget_all();
        self.standby = None;
        self.checkpoint()?;
        self.show();
        lock(&self.progress).left = true;
        let left = self.consumer.take().map_or(Ok(()), Consumer::close);
        // Others have the partitions meanwhile.
        self.local.take().map_or(Ok(()), |mut local| local.finish()).and(left)
    }

    /// After an error that ends the run: nothing of the open transaction may become visible.
    fn give_up(&mut self) {
        if self.core.is_open()
            && let Err(error) = self.producer.abort()
        {
            tracing::warn!(pipeline = self.name(), %error, "the open transaction could not be aborted; it times out");
        }
        if let Some(consumer) = self.consumer.take()
            && let Err(error) = consumer.close()
        {
            tracing::warn!(pipeline = self.name(), %error, "the group could not be left; the session times out");
        }
    }

    /// Where the source partitions stand that have event time and are this worker's.
    pub fn stands(&self) -> BTreeMap<TopicPartition, Stand> {
        self.tasks.values().flat_map(Task::stands).collect()
    }

    /// The watermark of a partition that has been quiet for long enough goes to where those that move are, or on by the clock.
    fn raise_quiet(&mut self) -> Result<()> {
        let tables = self.run.raise_tables && self.run.plan.has_tables();
        let every = match self.run.idle_after.into_iter().chain(self.run.quiet_after).min() {
            _ if tables => LOOK_AT_TABLES_EVERY.min(self.patience),
            Some(after) => LOOK_EVERY.min(after),
            None => return Ok(()),
        };
        if self.core.has_left() || self.looked_at.is_some_and(|at| self.clock.since(at) < every) {
            return Ok(());
        }
        self.looked_at = Some(self.clock.now());
        self.raise_now().map(|_| ())
    }

    /// Looks for quiet partitions and raises them. Returns whether there was something to raise.
    fn raise_now(&mut self) -> Result<bool> {
        let awaited = |p: &TopicPartition| self.idle_after(p).or(self.quiet_after(p)).is_some();
        let asked: Vec<TopicPartition> = self.stands().into_keys().filter(awaited).collect();
        let ends = self.ends_of(&asked)?;
        let positions: OffsetVector = self.tasks.values().flat_map(Task::source_positions).collect();
        let now = self.now_ms();
        for partition in &asked {
            let quiet_ms = self.quiet.look(partition, positions[partition], ends[partition], now);
            let quiet_ms = quiet_ms.filter(|_| !self.parked.contains_key(partition)).map(u128::from);
            let for_long =
                |after: Option<Duration>| after.is_some_and(|after| quiet_ms.is_some_and(|ms| ms >= after.as_millis()));
            let (idle, quiet) = (for_long(self.idle_after(partition)), for_long(self.quiet_after(partition)));
            if let Some(task) = self.run.plan.task_of(partition).and_then(|task| self.tasks.get_mut(&task)) {
                task.set_silence(partition, idle, quiet);
            }
        }
        let raises = self.raises()?;
        let raised = !raises.is_empty();
        for (partition, to) in raises {
            let at = positions[&partition];
            tracing::debug!(pipeline = self.name(), %partition, offset = at.0, %to, "quiet: its watermark is raised");
            metrics::counter!(metric::IDLE_RAISES, "pipeline" => self.name().to_string()).increment(1);
            self.decide(Decision { partition, at, to })?;
        }
        if self.tasks.values().any(Task::is_dirty) && !self.core.is_open() {
            self.event(Event::Processed { records: 0, bytes: 0 });
            self.perform()?;
        }
        Ok(raised)
    }

    /// Streams go to where the other streams are, or on by the clock if all are quiet; a table to where the streams are that it meets.
    fn raises(&mut self) -> Result<Vec<(TopicPartition, Watermark)>> {
        let plan = self.run.plan.clone();
        let (tables, own): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.stands().into_iter().partition(|(p, _)| plan.is_table(&p.topic));
        if !own.values().chain(tables.values()).any(|stand| stand.idle || stand.quiet) {
            self.lull = Lull::default();
            return Ok(Vec::new());
        }
        let others = if self.holds_all() { BTreeMap::new() } else { self.stands_of_others()? };
        let mut raises = self.on_by_the_clock(&own, &others);
        if raises.is_empty() {
            raises = idle::raises(&own, &others);
        }
        if raises.is_empty() {
            self.say_waiting(&own, &others);
        }
        for (partition, stand) in tables {
            let known = |p: TopicPartition| own.get(&p).or_else(|| others.get(&p)).map(|stand| (p, *stand));
            let met: BTreeMap<TopicPartition, Stand> = plan.met_by(&partition).into_iter().filter_map(known).collect();
            raises.extend(idle::raises(&BTreeMap::from([(partition, stand)]), &met));
        }
        Ok(raises)
    }

    /// When all streams are quiet, event time goes on as if records went on coming, up to where nothing waits any more.
    fn on_by_the_clock(
        &mut self,
        own: &BTreeMap<TopicPartition, Stand>,
        others: &BTreeMap<TopicPartition, Stand>,
    ) -> Vec<(TopicPartition, Watermark)> {
        let Some(quiet_after) = self.run.quiet_after else { return Vec::new() };
        let now = self.now_ms();
        let Some((highest, lasted_ms)) = self.lull.look(own, others, now) else { return Vec::new() };
        let topology = &self.run.plan.topology;
        let gone_by = i64::try_from((quiet_after + Duration::from_millis(lasted_ms)).as_micros()).unwrap_or(i64::MAX);
        let until = Watermark::after(highest, lull::delay_micros(topology).saturating_sub(gone_by));
        lull::raises(topology, own, highest, until)
    }

    /// When everything is quiet the last windows wait, unless event time goes on by the clock: it is said for what.
    fn say_waiting(&mut self, own: &BTreeMap<TopicPartition, Stand>, others: &BTreeMap<TopicPartition, Stand>) {
        if self.run.quiet_after.is_some() || self.run.idle_after.is_none() {
            return;
        }
        let Some((watermark, to)) = lull::waiting(&self.run.plan.topology, own, others) else { return };
        let said = |(of, at): (Watermark, Moment)| of == to || self.clock.since(at) < SAY_WAITING;
        if self.said_waiting.is_some_and(said) {
            return;
        }
        self.said_waiting = Some((to, self.clock.now()));
        let needed = Watermark(to.0.saturating_add(lull::delay_micros(&self.run.plan.topology)));
        let waits = format!(
            "the last windows wait until the watermark is {to}, for a record with an event time of about {needed} or later"
        );
        let remedy = "[time] quiet_after closes them without one";
        tracing::info!(pipeline = self.name(), %watermark, "everything is quiet: {waits}. {remedy}");
    }

    /// For how long a stream's partition has to be at its end so that event time may go on by the clock; `None`: it never does.
    fn quiet_after(&self, partition: &TopicPartition) -> Option<Duration> {
        self.run.quiet_after.filter(|_| !self.run.plan.is_table(&partition.topic))
    }

    /// For how long a partition has to be at its end to be idle; `None`: it never is.
    fn idle_after(&self, partition: &TopicPartition) -> Option<Duration> {
        match self.run.plan.is_table(&partition.topic) {
            true => self.run.raise_tables.then_some(Duration::ZERO),
            false => self.run.idle_after,
        }
    }

    /// Where partitions end: the range's end, or the log's.
    fn ends_of(&self, partitions: &[TopicPartition]) -> Result<OffsetVector> {
        let known = |p: &TopicPartition| self.ends.as_ref().and_then(|ends| ends.get(p)).map(|end| (p.clone(), end));
        let mut found: OffsetVector = partitions.iter().filter_map(known).collect();
        let open: Vec<TopicPartition> = partitions.iter().filter(|p| !found.contains_key(*p)).cloned().collect();
        if !open.is_empty() {
            found.extend(self.log.end_offsets(&open, Isolation::Uncommitted)?);
        }
        Ok(found)
    }

    /// All source partitions with event time, as of the group's last commits.
    fn stands_of_others(&self) -> Result<BTreeMap<TopicPartition, Stand>> {
        let plan = &self.run.plan;
        // Tables follow streams, so nothing waits for where a table is.
        let streams = plan.topology.sources.iter().filter(|s| s.ingest.has_watermark() && s.table.is_none());
        let timed: BTreeSet<&Topic> = streams.map(|s| &s.topic).collect();
        let partitions: Vec<TopicPartition> = plan.source_partitions().filter(|p| timed.contains(&p.topic)).collect();
        let committed = self.log.committed(&plan.names.group(), &partitions)?;
        let stand = |partition: TopicPartition| {
            let state = committed.get(&partition).and_then(|c| progress::from_committed(&partition, c).ok());
            let nothing = Stand { watermark: Watermark::MIN, highest: None, idle: false, quiet: false };
            let known = |state: FeedState| Stand {
                watermark: state.lowest(),
                highest: state.highest,
                idle: state.idle,
                quiet: state.quiet,
            };
            (partition, state.map_or(nothing, known))
        };
        Ok(partitions.into_iter().map(stand).collect())
    }

    fn note_away(&mut self, error: &Error) {
        self.quiet.forget();
        if self.away_since.is_none() {
            self.away_since = Some(self.clock.now());
            tracing::warn!(pipeline = self.name(), %error, "away: it is tried again until it answers");
        } else if self.said_away_at.is_none_or(|at| self.clock.since(at) >= SAY_AWAY) {
            self.said_away_at = Some(self.clock.now());
            tracing::warn!(pipeline = self.name(), %error, "still away");
        }
    }

    fn count(&mut self) {
        let mut progress = lock(&self.progress);
        let pipeline = self.run.plan.names.pipeline.clone();
        for task in self.tasks.values_mut() {
            let counts = task.take_counts();
            metrics::counter!(metric::RECORDS_IN, "pipeline" => pipeline.clone()).increment(counts.records_in);
            metrics::counter!(metric::RECORDS_OUT, "pipeline" => pipeline.clone()).increment(counts.records_out);
            metrics::counter!(metric::LATE, "pipeline" => pipeline.clone()).increment(counts.late);
            metrics::counter!(metric::WITHDRAWN, "pipeline" => pipeline.clone()).increment(counts.withdrawn);
            metrics::counter!(metric::SKIPPED, "pipeline" => pipeline.clone()).increment(counts.skipped);
            for (class, count) in &counts.dead {
                metrics::counter!(metric::DEAD_LETTERS, "pipeline" => pipeline.clone(), "class" => *class).increment(*count);
            }
            for (class, count) in &counts.dropped {
                metrics::counter!(metric::DROPPED, "pipeline" => pipeline.clone(), "class" => *class).increment(*count);
            }
            progress.records_in += counts.records_in;
            progress.records_out += counts.records_out;
            progress.late += counts.late;
            progress.withdrawn += counts.withdrawn;
            progress.dead += counts.dead.values().sum::<u64>();
            for (operator, key, message) in task.take_withdrawn() {
                tracing::warn!(pipeline, operator, key, message, "a group's result was withdrawn");
            }
        }
    }

    /// Publishes where the tasks stand, as of the last commit.
    fn show(&mut self) {
        let mut progress = lock(&self.progress);
        progress.commits = self.core.commits;
        (progress.state_keys, progress.state_bytes, progress.spilled_keys) = (0, 0, 0);
        for task in self.tasks.values_mut() {
            if !task.is_dirty() {
                progress.positions.extend(task.positions());
                progress.watermarks.extend(task.watermarks());
            }
            progress.state_keys += task.state_rows();
            progress.state_bytes += task.state_bytes();
            progress.spilled_keys += task.spilled().keys;
        }
        progress.restoring = self.core.is_restoring();
        progress.ready = self.core.has_tasks() && !self.core.is_restoring();
        progress.waiting_for_schemas = self.parked.len();
        drop(progress);
        self.show_restores();
    }
}

fn join(log: &dyn Log, run: &Run) -> Result<Box<dyn Consumer>> {
    log.consumer(&ConsumerSettings {
        group: run.plan.names.group(),
        topics: run.plan.leads(),
        instance_id: run.static_member.then(|| run.instance.clone()),
    })
}

fn settle(producer: &mut dyn Producer, plan: &Plan) -> Result<()> {
    producer.settle(&plan.written()?, Some(&plan.names.group()))
}

fn producer_settings(run: &Run) -> ProducerSettings {
    let id = run.plan.names.transactional_id(&run.instance);
    ProducerSettings {
        transactional_id: Some(id).filter(|_| run.delivery == Delivery::ExactlyOnce),
        transaction_timeout: run.transaction_timeout,
    }
}

/// As offset vectors write them: `orders:0,orders:1`.
fn show(partitions: &[TopicPartition]) -> String {
    partitions.iter().map(|at| format!("{}:{}", at.topic, at.partition)).collect::<Vec<_>>().join(",")
}

fn lock(progress: &Mutex<Progress>) -> std::sync::MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
