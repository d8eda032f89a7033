//! Restores beside the worker: each on a thread of its own, a few at a time, while the worker polls, processes and commits for the
//! tasks that it has.
//!
//! ```text
//!   begin ──▶ waiting ──▶ running ──▶ ready ──▶ the worker takes the task in
//!               │            │ Away: again, later
//!               └────────────┴──── forget: told to stop, its result is dropped
//! ```
//! In tests a restore is made by the worker's own step instead ([`Restoring::Steps`]), at once or some steps later, so that a seed
//! reproduces how it falls among the others.
//!
//! Invariant: a restore is begun after its task was assigned, and forgotten before its task is given away. So what it reads is of the time
//! in which this member owns the task; the fence of commits says whether it still does.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::record::OffsetVector;
use crate::task::plan::{Plan, TaskId};
use crate::task::restore::{self, Restored, Sources, Warm};
use crate::task::watch::{RestoreProgress, Watch};

/// Where restores are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restoring {
    /// On threads of their own.
    #[default]
    Threads,
    /// By the worker in its steps: at once (0), or as many steps later as this seed draws.
    Steps(u64),
}

/// Restores at a time: they share processors with the tasks that run.
const THREADS_MAX: usize = 4;
/// After an answer that did not come.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(8);
/// How soon a thread that waits sees that it is to stop.
const STOP_SLICE: Duration = Duration::from_millis(50);
/// A restore in steps is delayed by fewer than so many, twice.
const DELAY_MAX: u64 = 6;

pub struct Restorer {
    plan: Arc<Plan>,
    sources: Sources,
    restoring: Restoring,
    tickets: u64,
    running: BTreeMap<TaskId, Running>,
    queue: Arc<Mutex<Queue>>,
    done: (Sender<Done>, Receiver<Done>),
    threads: Vec<JoinHandle<()>>,
}

struct Running {
    /// Tells the results of two restores of one task apart.
    ticket: u64,
    watch: Arc<Watch>,
    stage: Stage,
}

enum Stage {
    /// On a thread, or waiting for one.
    Threaded,
    /// In steps: made in so many, taken in so many after that.
    Later {
        job: Box<Job>,
        read_in: u64,
        take_in: u64,
    },
    Held {
        restored: Box<Restored>,
        take_in: u64,
    },
    Ready(Box<Restored>),
}

/// Jobs by ticket, and how many threads take from them.
#[derive(Default)]
struct Queue {
    jobs: BTreeMap<u64, Job>,
    threads: usize,
}

/// A restore to be made.
struct Job {
    task: TaskId,
    ticket: u64,
    plan: Arc<Plan>,
    sources: Sources,
    warm: Option<Warm>,
    watch: Arc<Watch>,
}

struct Done {
    task: TaskId,
    ticket: u64,
    result: Result<Box<Restored>>,
}

impl Restorer {
    pub fn new(plan: Arc<Plan>, sources: Sources, restoring: Restoring) -> Restorer {
        Restorer {
            plan,
            sources,
            restoring,
            tickets: 0,
            running: BTreeMap::new(),
            queue: Arc::default(),
            done: channel(),
            threads: Vec::new(),
        }
    }

    /// Partitions were added: restores from here on are made for this plan.
    pub fn set_plan(&mut self, plan: Arc<Plan>) {
        self.plan = plan;
    }

    /// Bytes of rows that each store may hold of those restored from here on.
    pub fn set_room(&mut self, bytes: usize) {
        self.sources.room = bytes;
    }

    /// Begins the restore of a task that this member owns.
    pub fn begin(&mut self, task: TaskId, warm: Option<Warm>) {
        self.forget(task);
        self.tickets += 1;
        let (ticket, watch) = (self.tickets, Arc::new(Watch::default()));
        let job = Job { task, ticket, plan: self.plan.clone(), sources: self.sources.clone(), warm, watch: watch.clone() };
        let stage = match self.restoring {
            Restoring::Threads => {
                self.hand_over(job);
                Stage::Threaded
            }
            Restoring::Steps(seed) => {
                let (read_in, take_in) = delay(seed, ticket);
                Stage::Later { job: Box::new(job), read_in, take_in }
            }
        };
        self.running.insert(task, Running { ticket, watch, stage });
    }

    /// The task is given away, or begun anew: its result is not wanted.
    pub fn forget(&mut self, task: TaskId) {
        if let Some(running) = self.running.remove(&task) {
            running.watch.stop();
            lock(&self.queue).jobs.remove(&running.ticket);
        }
    }

    pub fn forget_all(&mut self) {
        let tasks: Vec<TaskId> = self.running.keys().copied().collect();
        tasks.into_iter().for_each(|task| self.forget(task));
    }

    /// A step of the worker goes by.
    pub fn step(&mut self) {
        for running in self.running.values_mut() {
            match &mut running.stage {
                Stage::Later { read_in: left @ 1.., .. } | Stage::Held { take_in: left, .. } => *left = left.saturating_sub(1),
                _ => {}
            }
        }
    }

    /// A task that is restored, if there is one.
    ///
    /// # Errors
    /// What ends the pipeline, or `Fenced`; in steps `Away`, too: the restore is tried again with the next.
    pub fn ready(&mut self) -> Result<Option<Box<Restored>>> {
        self.receive()?;
        let tasks: Vec<TaskId> = self.running.keys().copied().collect();
        for task in tasks {
            let Some(Running { ticket, watch, stage }) = self.running.remove(&task) else { continue };
            let stage = match stage {
                Stage::Later { mut job, read_in: 0, take_in } => match job.restore() {
                    Ok(restored) => Stage::Held { restored, take_in },
                    Err(error) => {
                        let stage = Stage::Later { job, read_in: 0, take_in };
                        self.running.insert(task, Running { ticket, watch, stage });
                        return Err(error);
                    }
                },
                stage => stage,
            };
            match stage {
                Stage::Ready(restored) | Stage::Held { restored, take_in: 0 } => return Ok(Some(restored)),
                stage => drop(self.running.insert(task, Running { ticket, watch, stage })),
            }
        }
        Ok(None)
    }

    /// A task that was ready and can't be taken in yet.
    pub fn put_back(&mut self, restored: Box<Restored>) {
        self.tickets += 1;
        let (task, watch) = (restored.task.id, Arc::default());
        self.running.insert(task, Running { ticket: self.tickets, watch, stage: Stage::Ready(restored) });
    }

    pub fn progress(&self) -> Vec<RestoreProgress> {
        self.running.iter().map(|(task, running)| running.watch.progress(*task)).collect()
    }

    /// Where the tasks on their way will go on, as far as it is known.
    pub fn positions(&self) -> OffsetVector {
        self.running.values().flat_map(|running| running.watch.positions()).collect()
    }

    /// What threads have brought; what nobody waits for any more is dropped.
    fn receive(&mut self) -> Result<()> {
        while let Ok(Done { task, ticket, result }) = self.done.1.try_recv() {
            if let Some(running) = self.running.get_mut(&task).filter(|running| running.ticket == ticket) {
                running.stage = Stage::Ready(result?);
            }
        }
        Ok(())
    }

    /// Gives a job to the threads; there is one more if there may be.
    fn hand_over(&mut self, job: Job) {
        self.threads.retain(|thread| !thread.is_finished());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Each holds a commit's changes and what its client has read ahead, beside the store.
        let most = cores.min(THREADS_MAX).min(self.sources.memory.restores_at_once());
        let mut queue = lock(&self.queue);
        let (task, ticket) = (job.task, job.ticket);
        queue.jobs.insert(ticket, job);
        if queue.threads >= most {
            return;
        }
        let (shared, done) = (self.queue.clone(), self.done.0.clone());
        match std::thread::Builder::new().name("restore".into()).spawn(move || work(&shared, &done)) {
            Ok(thread) => {
                queue.threads += 1;
                self.threads.push(thread);
            }
            Err(error) if queue.threads == 0 => {
                let result = Err(Error::failed(format!("the thread of a restore can't start: {error}")));
                let _ = self.done.0.send(Done { task, ticket, result });
            }
            Err(_) => {}
        }
    }
}

impl Drop for Restorer {
    /// Waits for the threads: what they hold (the local checkpoints) may be opened again at once.
    fn drop(&mut self) {
        self.forget_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A thread's life: until no job is left.
fn work(queue: &Mutex<Queue>, done: &Sender<Done>) {
    loop {
        let job = {
            let mut queue = lock(queue);
            let Some((_, job)) = queue.jobs.pop_first() else {
                queue.threads -= 1;
                return;
            };
            job
        };
        let (task, ticket) = (job.task, job.ticket);
        // A broken invariant ends its pipeline, not the process.
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| job.work()));
        let result =
            result.unwrap_or_else(|panic| Err(Error::failed(format!("a broken invariant: {}", text_of(panic.as_ref())))));
        // Nobody listens any more: the worker is gone.
        let _ = done.send(Done { task, ticket, result });
    }
}

/// What a panic said.
pub fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

impl Job {
    fn restore(&mut self) -> Result<Box<Restored>> {
        restore::restore(&self.plan, self.task, &self.sources, self.warm.take(), &self.watch).map(Box::new)
    }

    /// Tries until there is an answer, or nobody wants one.
    fn work(mut self) -> Result<Box<Restored>> {
        let mut wait = RETRY;
        loop {
            match self.restore() {
                Err(error) if error.kind == Kind::Away && !self.watch.is_stopped() => {
                    let (pipeline, task) = (&self.plan.names.pipeline, self.task);
                    tracing::warn!(pipeline, %task, %error, "the restore is tried again in {} ms", wait.as_millis());
                    let until = Instant::now() + wait;
                    while Instant::now() < until && !self.watch.is_stopped() {
                        std::thread::sleep(STOP_SLICE);
                    }
                    wait = (2 * wait).min(RETRY_MAX);
                }
                result => return result,
            }
        }
    }
}

/// Half of the restores are made at once; the others wait before they read, before they are taken in, or both.
fn delay(seed: u64, ticket: u64) -> (u64, u64) {
    if seed == 0 {
        return (0, 0);
    }
    // splitmix64: the same draws from the same seed.
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(ticket.wrapping_mul(0xd1b5_4a32_d192_ed03));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    if mixed & 1 == 0 { (0, 0) } else { ((mixed >> 8) % DELAY_MAX, (mixed >> 32) % DELAY_MAX) }
}

fn lock(queue: &Mutex<Queue>) -> std::sync::MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
