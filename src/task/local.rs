//! The local copies of the tasks' stores: written by a thread of its own, so that the hot path pays for neither encoding nor disk.
//!
//! A checkpoint is an image and the deltas since ([`Checkpoints`]). What a commit changed is at hand when it is made; so every few seconds
//! only that is handed over. When the deltas have outgrown the image, the thread folds both into a store of its own and writes a new image:
//! no store that works is ever exported.
//!
//! What is on its way takes memory: when there is more than the budget's share of it, who hands over waits for the disk. Folding takes no more
//! than a share either, since that store spills as any other does.
//!
//! Invariant: what is handed over for a store is written in that order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::record::OffsetVector;
use crate::store::Store;
use crate::store::checkpoint::Checkpoints;
use crate::store::memory::Memory;
use crate::task::graph;
use crate::task::plan::{Plan, TaskId};
use crate::task::replica::{Basis, IMAGE_ROWS, Tail, spill_above};
use crate::task::restorer::Restoring;
use crate::task::run::Run;

/// Deltas of more rows than the image has, and than this, are folded into it; so are deltas in more parts than this.
const MANY_ROWS: u64 = 65_536;
const MANY_PARTS: u32 = 1_024;

pub struct LocalCopies {
    pub checkpoints: Arc<Checkpoints>,
    writer: Option<Writer>,
    thread: Option<JoinHandle<()>>,
    /// Of commits that are known, not handed over yet.
    pending: BTreeMap<(TaskId, String), Vec<RecordBatch>>,
    pending_bytes: usize,
    /// Noted or on their way, there are at most about so many bytes.
    room: usize,
    /// The commit of each task that was handed over last, and where its changelogs ended then.
    commits: BTreeMap<TaskId, u64>,
    positions: BTreeMap<TaskId, OffsetVector>,
}

/// Hands over to the thread, which ends with the last of them.
#[derive(Clone)]
pub struct Writer {
    sender: Sender<Job>,
    /// Handed over and, as far as is known, not written yet: bytes, and what says that it is.
    under_way: Arc<Mutex<VecDeque<(usize, Receiver<()>)>>>,
    /// Of these, bytes at most.
    room: usize,
    /// Until it is written: where a seed is to reproduce a run.
    waits: bool,
    /// What the thread could not write.
    failed: Arc<Mutex<Option<Error>>>,
}

impl Writer {
    /// Hands over what the copy of a store lacks.
    ///
    /// # Errors
    /// What the thread could not write before.
    pub fn hand_over(&self, task: TaskId, store: &str, basis: Basis) -> Result<()> {
        let (done, written) = channel();
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.push_back((basis.size(), written));
        let sent = self.sender.send(Job { task, store: store.to_string(), basis, _done: done });
        sent.map_err(|_| self.failed().clone().unwrap_or_else(broken))?;
        let mut bytes: usize = under_way.iter().map(|(bytes, _)| bytes).sum();
        while let Some((of, written)) = under_way.front() {
            // Nothing is ever sent: the other end goes with the job.
            match written.try_recv() {
                Err(TryRecvError::Empty) if self.waits || bytes > self.room => drop(written.recv()),
                Err(TryRecvError::Empty) => break,
                _ => {}
            }
            bytes -= of;
            under_way.pop_front();
        }
        Ok(())
    }

    fn failed(&self) -> MutexGuard<'_, Option<Error>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Job {
    task: TaskId,
    store: String,
    basis: Basis,
    _done: Sender<()>,
}

impl LocalCopies {
    /// Opens the run's folder; `None` where it has none, or no state.
    ///
    /// # Errors
    /// `Config` when another process holds it.
    pub fn of(run: &Run) -> Result<Option<LocalCopies>> {
        match &run.state {
            Some(dir) if run.plan.has_state() => {
                let waits = run.restoring != Restoring::Threads;
                let checkpoints = Checkpoints::open(dir, run.memory.of_local_cache())?;
                LocalCopies::start(checkpoints, run.plan.clone(), run.memory.clone(), waits).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn start(checkpoints: Checkpoints, plan: Arc<Plan>, memory: Memory, waits: bool) -> Result<LocalCopies> {
        let checkpoints = Arc::new(checkpoints);
        let (sender, jobs) = channel();
        let room = memory.of_local() / 2;
        let writer = Writer { sender, under_way: Arc::default(), room, waits, failed: Arc::default() };
        let (on, found) = (checkpoints.clone(), writer.failed.clone());
        let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(move || {
            if let Err(error) = write(&on, &plan, &memory, &jobs) {
                *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        let thread = thread.map_err(|e| Error::failed(format!("the thread of local checkpoints can't start: {e}")))?;
        Ok(LocalCopies {
            checkpoints,
            writer: Some(writer),
            thread: Some(thread),
            pending: BTreeMap::new(),
            pending_bytes: 0,
            room,
            commits: BTreeMap::new(),
            positions: BTreeMap::new(),
        })
    }

    /// What a commit changed in a store.
    pub fn note(&mut self, task: TaskId, store: String, delta: RecordBatch) {
        self.pending_bytes += delta.get_array_memory_size();
        self.pending.entry((task, store)).or_default().push(delta);
    }

    /// Whether so much is noted that it is better handed over now.
    pub fn is_full(&self) -> bool {
        self.pending_bytes > self.room
    }

    /// What was noted and not handed over is not needed any more: the task's next restore says anew what the copy lacks.
    pub fn forget(&mut self, task: TaskId) {
        self.commits.remove(&task);
        self.positions.remove(&task);
        self.pending.retain(|(of, _), _| *of != task);
        self.pending_bytes = self.pending.values().flatten().map(RecordBatch::get_array_memory_size).sum();
    }

    /// Whether the task has committed since this was last asked.
    pub fn moved(&mut self, task: TaskId, commit: u64) -> bool {
        self.commits.insert(task, commit) != Some(commit)
    }

    /// The copies of a task are as of its changelogs up to there.
    pub fn copied(&mut self, task: TaskId, changelogs: OffsetVector) {
        self.positions.entry(task).or_default().extend(changelogs);
    }

    /// Whether the copies of a task would be of use if its changelogs began at `below`.
    pub fn reaches(&self, task: TaskId, below: &OffsetVector) -> bool {
        let positions = self.positions.get(&task);
        below.iter().all(|(partition, below)| positions.and_then(|known| known.get(partition)).is_some_and(|at| at >= below))
    }

    /// Takes what was noted for a store.
    pub fn take_noted(&mut self, task: TaskId, store: &str) -> Vec<RecordBatch> {
        let rows = self.pending.remove(&(task, store.to_string())).unwrap_or_default();
        self.pending_bytes -= rows.iter().map(RecordBatch::get_array_memory_size).sum::<usize>().min(self.pending_bytes);
        rows
    }

    pub fn writer(&self) -> &Writer {
        self.writer.as_ref().expect("it is there until it is finished")
    }

    /// Waits until everything is written; all other handles must be gone.
    ///
    /// # Errors
    /// What could not be.
    pub fn finish(&mut self) -> Result<()> {
        let Some(Writer { sender, failed, .. }) = self.writer.take() else { return Ok(()) };
        drop(sender);
        let ended = self.thread.take().map(JoinHandle::join);
        match failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None if matches!(ended, Some(Err(_))) => Err(broken()),
            None => Ok(()),
        }
    }
}

impl Drop for LocalCopies {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!(%error, "the local checkpoint is not as of the last commit");
        }
    }
}

fn broken() -> Error {
    Error::failed("the thread of local checkpoints is gone")
}

fn write(checkpoints: &Checkpoints, plan: &Plan, memory: &Memory, jobs: &Receiver<Job>) -> Result<()> {
    // Stores without a commit yet: their first deltas are all that they hold.
    let mut empty = BTreeSet::new();
    // Stores of which no copy is kept until they are restored again.
    let mut gone = BTreeSet::new();
    for Job { task, store, basis, _done } in jobs {
        let name = task.to_string();
        let of = (task, store.clone());
        match basis {
            Basis::Image(Tail { rows, commit: Some(commit), changelog }) => {
                // A restore before the first deltas were handed over: they are in the image.
                empty.remove(&of);
                gone.remove(&of);
                checkpoints.save(&name, &store, &commit, changelog, rows.into_iter().map(Ok))?;
            }
            Basis::Image(Tail { commit: None, .. }) => {
                gone.remove(&of);
                checkpoints.remove(&name, &store)?;
                empty.insert(of);
            }
            Basis::Gone if gone.contains(&of) => continue,
            Basis::Gone => {
                checkpoints.remove(&name, &store)?;
                gone.insert(of);
                continue;
            }
            Basis::Tail(_) if gone.contains(&of) => continue,
            Basis::Tail(Tail { rows, commit: Some(commit), changelog }) => match empty.remove(&of) {
                true => checkpoints.save(&name, &store, &commit, changelog, rows.into_iter().map(Ok))?,
                false => checkpoints.append(&name, &store, &commit, changelog, &rows)?,
            },
            Basis::Tail(Tail { commit: None, .. }) => {}
        }
        fold(checkpoints, plan, memory, &name, &store)?;
    }
    Ok(())
}

/// Writes a new image where the deltas have outgrown the one that is there.
fn fold(checkpoints: &Checkpoints, plan: &Plan, memory: &Memory, task: &str, id: &str) -> Result<()> {
    let Some(reading) = checkpoints.read(task, id)? else { return Ok(()) };
    let checkpoint = reading.checkpoint.clone();
    let many_rows = checkpoint.delta_rows > checkpoint.image_rows.max(MANY_ROWS);
    let image_parts = (checkpoint.image_rows / IMAGE_ROWS as u64) as u32;
    if !many_rows && checkpoint.parts < image_parts + MANY_PARTS {
        return Ok(());
    }
    let Some(mut operator) = graph::stateful_operator(plan, id)? else { return Ok(()) };
    let store = operator.store().expect("a stateful operator has a store");
    let room = memory.of_stores() / 8;
    for part in 0..checkpoint.parts {
        let Some(batches) = reading.part(part)? else { return Ok(()) };
        for rows in &batches {
            store.apply(rows)?;
            spill_above(store, memory, room)?;
        }
    }
    drop(reading);
    store.expire(checkpoint.commit.edge);
    checkpoints.save(task, id, &checkpoint.commit, checkpoint.changelog, Image { store, memory, room, done: false })
}

/// All of a store as a round of its rolling snapshot, so that it is never in memory as a whole.
struct Image<'a> {
    store: &'a mut dyn Store,
    memory: &'a Memory,
    room: usize,
    done: bool,
}

impl Image<'_> {
    fn part(&mut self) -> Result<Option<RecordBatch>> {
        while !self.done {
            let slice = self.store.slice(IMAGE_ROWS)?;
            self.done = slice.wrapped;
            self.store.keep();
            spill_above(self.store, self.memory, self.room)?;
            if slice.rows.is_some() {
                return Ok(slice.rows);
            }
        }
        Ok(None)
    }
}

impl Iterator for Image<'_> {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Result<RecordBatch>> {
        self.part().transpose()
    }
}
