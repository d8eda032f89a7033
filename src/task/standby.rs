//! Warm copies of tasks that others own: their changelogs are read as they grow, so that a takeover reads only the last of them.
//!
//! One thread per pipeline reads all of them, a little at a time; the worker says which tasks are wanted, and takes the copy of one that
//! becomes its own. Now and then the copies are written as local checkpoints, so that a restart does not begin anew.
//! No member knows what the others have, so each chooses among the tasks that it does not own by a hash with its own name: members choose
//! differently, and keep their choice.
//!
//! Invariant: a copy is what `read_committed` saw of a changelog, nothing else; whether it is of the group's last commit is for the restore
//! to check.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Kind, Result};
use crate::log::{CommittedOffsets, Isolation, Log, Reader};
use crate::record::{Chunk, OffsetVector, TopicPartition};
use crate::task::graph::Task;
use crate::task::local::{LocalCopies, Writer};
use crate::task::plan::{Plan, TaskId};
use crate::task::replica::{POLL_RECORDS, Replica};
use crate::task::restore::{self, Sources, Warm};
use crate::task::restorer::Restoring;
use crate::task::run::Run;
use crate::task::watch::Watch;

/// What a standby reads at once, and how much of it is folded before the worker can ask for a copy again.
const POLL: Duration = Duration::from_millis(200);
const SLICE: usize = 16;
/// After an error.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is asked how far the changelogs are.
const LAG_EVERY: Duration = Duration::from_secs(2);

/// How far the copies are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyProgress {
    /// Tasks of which a copy is kept.
    pub tasks: Vec<TaskId>,
    /// Keys that the copies hold.
    pub rows: usize,
    /// Messages of the changelogs that are not in the copies yet, as of the last look.
    pub lag: u64,
}

/// The copies of one pipeline.
pub struct Standby {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    plan: Arc<Plan>,
    sources: Sources,
    /// Of the local checkpoints, and how often they are written.
    writer: Option<Writer>,
    checkpoint_interval: Duration,
    stopped: AtomicBool,
    copies: Mutex<Copies>,
    reading: Mutex<Reading>,
}

/// What the worker and the thread share.
#[derive(Default)]
struct Copies {
    wanted: BTreeSet<TaskId>,
    warm: BTreeMap<TaskId, Warm>,
    lag: u64,
}

/// What only the one who reads uses.
#[derive(Default)]
struct Reading {
    reader: Option<Box<dyn Reader>>,
    /// The tasks that the reader was opened for.
    of: BTreeSet<TaskId>,
    /// Their local checkpoints have led to errors.
    untrusted: BTreeSet<TaskId>,
    retry_at: Option<Instant>,
    saved_at: Option<Instant>,
    looked_at: Option<Instant>,
}

impl Standby {
    /// Without a thread whoever owns it calls [`Standby::step`].
    pub fn start(run: &Run, sources: Sources, local: Option<&LocalCopies>) -> Result<Standby> {
        let shared = Arc::new(Shared {
            plan: run.plan.clone(),
            sources: Sources { room: run.memory.of_copies() / stores(&run.plan, run.standby_tasks).max(1), ..sources },
            writer: local.map(|local| local.writer().clone()),
            checkpoint_interval: run.checkpoint_interval,
            stopped: AtomicBool::new(false),
            copies: Mutex::default(),
            reading: Mutex::default(),
        });
        let thread = match run.restoring {
            Restoring::Steps(_) => None,
            Restoring::Threads => {
                let shared = shared.clone();
                let run = move || {
                    while !shared.stopped.load(Ordering::Relaxed) {
                        shared.step(POLL);
                    }
                };
                let thread = std::thread::Builder::new().name("standby".into()).spawn(run);
                Some(thread.map_err(|e| Error::failed(format!("the thread of standby tasks can't start: {e}")))?)
            }
        };
        Ok(Standby { shared, thread })
    }

    /// Says of which tasks copies are to be kept from here on, and asks how far they are. `None`: the one who reads is busy with the copies;
    /// nobody waits for it.
    pub fn look(&self, wanted: BTreeSet<TaskId>) -> Option<StandbyProgress> {
        let mut copies = self.shared.copies.try_lock().ok()?;
        if copies.wanted != wanted {
            let names: Vec<String> = wanted.iter().map(TaskId::to_string).collect();
            tracing::info!(pipeline = self.shared.plan.names.pipeline, tasks = names.join(","), "standby tasks");
            copies.warm.retain(|task, _| wanted.contains(task));
            copies.wanted = wanted;
        }
        let rows = copies.warm.values_mut().map(|warm| warm.task.state_rows()).sum();
        Some(StandbyProgress { tasks: copies.warm.keys().copied().collect(), rows, lag: copies.lag })
    }

    /// The copy of a task that becomes this member's own.
    pub fn take(&self, task: TaskId) -> Option<Warm> {
        let mut copies = self.shared.copies();
        copies.wanted.remove(&task);
        copies.warm.remove(&task)
    }

    /// Copies that were made elsewhere.
    pub fn bring(&self, warm: BTreeMap<TaskId, Warm>) {
        let mut copies = self.shared.copies();
        copies.wanted.extend(warm.keys());
        copies.warm.extend(warm);
    }

    /// Ends the reading; the copies are the caller's.
    pub fn stop(mut self) -> BTreeMap<TaskId, Warm> {
        self.join();
        let mut copies = self.shared.copies();
        std::mem::take(&mut copies.warm)
    }

    /// Reads on, where there is no thread.
    pub fn step(&self) {
        if self.thread.is_none() {
            self.shared.step(Duration::ZERO);
        }
    }

    fn join(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.join();
    }
}

/// Reads ahead for a run that is not at work now.
pub struct Ahead {
    // Dropped before `local`, to which it writes.
    standby: Standby,
    local: Option<LocalCopies>,
    wanted: BTreeSet<TaskId>,
}

impl Ahead {
    /// `None`: the run has no state, or keeps no copies.
    pub fn start(log: &Arc<dyn Log>, run: &Run) -> Result<Option<Ahead>> {
        if run.standby_tasks == 0 || !run.plan.has_state() {
            return Ok(None);
        }
        let local = LocalCopies::of(run)?;
        let sources = Sources::of(log, run, local.as_ref());
        let standby = Standby::start(run, sources, local.as_ref())?;
        let wanted = choose(&run.plan, &run.instance, &BTreeSet::new(), run.standby_tasks);
        Ok(Some(Ahead { standby, local, wanted }))
    }

    /// Reads on, where there is no thread; how far it is, if that can be said now.
    pub fn step(&self) -> Option<StandbyProgress> {
        self.standby.step();
        self.standby.look(self.wanted.clone())
    }

    /// The copies, for the worker that begins now; the local checkpoints are free again.
    pub fn stop(self) -> Result<BTreeMap<TaskId, Warm>> {
        let warm = self.standby.stop();
        self.local.map_or(Ok(()), |mut local| local.finish())?;
        Ok(warm)
    }
}

/// How many stores so many tasks have at most.
fn stores(plan: &Plan, tasks: usize) -> usize {
    let mut of_tasks: Vec<usize> =
        (0..plan.subs().count()).flat_map(|sub| vec![plan.stateful_nodes(sub).count(); plan.tasks(sub) as usize]).collect();
    of_tasks.sort_unstable_by_key(|stores| std::cmp::Reverse(*stores));
    of_tasks.into_iter().take(tasks).sum()
}

/// Which of the tasks that are not `held` a member keeps copies of, at most `most`.
pub fn choose(plan: &Plan, instance: &str, held: &BTreeSet<TaskId>, most: usize) -> BTreeSet<TaskId> {
    let stateful = (0..plan.subs().count()).filter(|sub| plan.stateful_nodes(*sub).next().is_some());
    let all = stateful.flat_map(|sub| (0..plan.tasks(sub)).map(move |number| TaskId { sub, number }));
    let mut free: Vec<TaskId> = all.filter(|task| !held.contains(task)).collect();
    free.sort_by_key(|task| xxh3_64(format!("{instance} {task}").as_bytes()));
    free.into_iter().take(most).collect()
}

impl Shared {
    fn copies(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A little further; what fails is tried again later.
    fn step(&self, wait: Duration) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.retry_at.is_some_and(|at| Instant::now() < at) {
            std::thread::sleep(wait);
            return;
        }
        reading.retry_at = None;
        if let Err(error) = self.read(&mut reading, wait) {
            let pipeline = &self.plan.names.pipeline;
            tracing::warn!(pipeline, %error, "standby tasks: it is tried again in {} s", RETRY.as_secs());
            if error.kind != Kind::Away {
                // Perhaps a local checkpoint, perhaps a changelog that was trimmed under the reader: they are read from their start.
                let warm = std::mem::take(&mut self.copies().warm);
                reading.untrusted.extend(warm.into_keys());
            }
            (reading.reader, reading.retry_at) = (None, Some(Instant::now() + RETRY));
        }
    }

    fn read(&self, reading: &mut Reading, wait: Duration) -> Result<()> {
        let missing = {
            let copies = self.copies();
            copies.wanted.iter().find(|task| !copies.warm.contains_key(task)).copied()
        };
        if let Some(task) = missing {
            let warm = self.begin(task, !reading.untrusted.contains(&task))?;
            let mut copies = self.copies();
            if copies.wanted.contains(&task) {
                copies.warm.insert(task, warm);
            }
            // It stands elsewhere than a former copy did.
            reading.reader = None;
            return Ok(());
        }
        self.open(reading)?;
        let Some(reader) = &mut reading.reader else {
            std::thread::sleep(wait);
            return Ok(());
        };
        let chunks = reader.poll(wait, POLL_RECORDS)?;
        let positions = reader.positions();
        for chunk in &chunks {
            for from in (0..chunk.len()).step_by(SLICE) {
                self.fold(&chunk.slice(from, chunk.len().min(from + SLICE)))?;
            }
        }
        self.moved(&positions);
        self.look(reading)?;
        self.save(reading)
    }

    /// A copy as of the local checkpoint, if there is one.
    fn begin(&self, task: TaskId, trusted: bool) -> Result<Warm> {
        let state = restore::committed_state(&self.plan, task, &CommittedOffsets::new(), &self.sources.start)?;
        let mut warm = Warm { task: Task::new(self.plan.clone(), task, &state)?, replicas: BTreeMap::new() };
        let sources = Sources { trusted: trusted && self.sources.trusted, ..self.sources.clone() };
        for (_, id) in self.plan.stateful_nodes(task.sub) {
            let partition = self.plan.names.changelog(id)?.partition(task.number);
            let end = sources.log.end_offsets(std::slice::from_ref(&partition), Isolation::Uncommitted)?[&partition];
            let replica = Replica::begin(&self.plan, task, id, end, &sources, warm.task.store(id), &Watch::default())?;
            warm.replicas.insert(id.to_string(), replica);
        }
        Ok(warm)
    }

    /// A reader for the copies that there are.
    fn open(&self, reading: &mut Reading) -> Result<()> {
        let copies = self.copies();
        let of: BTreeSet<TaskId> = copies.warm.keys().copied().collect();
        if of == reading.of && (reading.reader.is_some() || of.is_empty()) {
            return Ok(());
        }
        let from: OffsetVector =
            copies.warm.values().flat_map(|warm| warm.replicas.values()).map(|r| (r.partition.clone(), r.position)).collect();
        drop(copies);
        reading.reader = None;
        if !from.is_empty() {
            reading.reader = Some(self.sources.log.reader(Isolation::Committed, &from)?);
        }
        reading.of = of;
        Ok(())
    }

    fn fold(&self, chunk: &Chunk) -> Result<()> {
        let mut copies = self.copies();
        for Warm { task, replicas } in copies.warm.values_mut() {
            let found = replicas.iter_mut().find(|(_, replica)| replica.partition == chunk.partition);
            let Some((id, replica)) = found else { continue };
            if chunk.offsets.first().is_some_and(|first| first.0 >= replica.position.0) {
                replica.take(chunk, task.store(id), &self.sources)?;
            }
        }
        Ok(())
    }

    /// Positions move over markers and aborted records, too.
    fn moved(&self, positions: &OffsetVector) {
        let mut copies = self.copies();
        for replica in copies.warm.values_mut().flat_map(|warm| warm.replicas.values_mut()) {
            if let Some(position) = positions.get(&replica.partition) {
                replica.position = replica.position.max(*position);
            }
        }
    }

    fn look(&self, reading: &mut Reading) -> Result<()> {
        if reading.looked_at.is_some_and(|at| at.elapsed() < LAG_EVERY) {
            return Ok(());
        }
        reading.looked_at = Some(Instant::now());
        let at: OffsetVector = {
            let copies = self.copies();
            let replicas = copies.warm.values().flat_map(|warm| warm.replicas.values());
            replicas.map(|replica| (replica.partition.clone(), replica.position)).collect()
        };
        let partitions: Vec<TopicPartition> = at.keys().cloned().collect();
        let ends = self.sources.log.end_offsets(&partitions, Isolation::Committed)?;
        self.copies().lag = at.iter().map(|(partition, at)| (ends[partition].0 - at.0).max(0) as u64).sum();
        Ok(())
    }

    /// The copies as local checkpoints.
    fn save(&self, reading: &mut Reading) -> Result<()> {
        let Some(writer) = &self.writer else { return Ok(()) };
        if reading.saved_at.get_or_insert_with(Instant::now).elapsed() < self.checkpoint_interval {
            return Ok(());
        }
        reading.saved_at = Some(Instant::now());
        let mut copies = self.copies();
        for (of, Warm { task, replicas }) in &mut copies.warm {
            for (id, replica) in replicas.iter_mut().filter(|(_, replica)| replica.is_whole() && replica.has_moved()) {
                writer.hand_over(*of, id, replica.take_basis(task.store(id))?)?;
            }
        }
        Ok(())
    }
}
