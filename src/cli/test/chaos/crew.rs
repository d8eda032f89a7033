//! The processes of a run: started, stepped, asked to leave, killed and started again.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cli::test::chaos::process::Process;
use crate::cli::test::chaos::storm::{Killed, SESSION, Storm};
use crate::clock::Moment;
use crate::contract::Registry;
use crate::error::{Error, Kind, Result};
use crate::job::{Settings, Site};
use crate::log::Log;
use crate::task::decision::Decision;
use crate::task::progress;
use crate::task::run::{Run, Step, Worker};

/// What the processes of a part of a run run.
pub(super) struct Phase {
    pub storm: Arc<Storm>,
    pub registry: Arc<dyn Registry>,
    pub settings: Settings,
    pub group: String,
    pub run: Box<dyn Fn(&Site) -> Result<Run> + Send + Sync>,
    pub static_members: bool,
    /// Whether processes leave in mid-run, to come back later.
    pub leavers: bool,
    /// Where each process keeps its state; `None`: nowhere.
    pub state: Option<Folder>,
    pub checkpoint_interval: Duration,
}

pub(super) enum Slot {
    /// On the stack: it steps, or sleeps in the middle of a step.
    Busy,
    Running(Box<Worker>),
    Dead {
        since: Moment,
        until: Moment,
    },
    Left,
}

const LOCK_TRIES: u32 = 1_000;
/// Asked for a decision, a worker that has not committed it after so long is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Storm {
    pub fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thing happens: records arrive, a decision is due, the weather changes, a process makes a step.
    pub fn tick(&self) {
        if self.inner().failed.is_some() {
            return;
        }
        self.weather();
        self.arrive();
        self.decide();
        self.bury();
        self.step_one();
    }

    fn fail(&self, error: Error) {
        self.note(None, format!("failed: {error}"));
        self.inner().failed.get_or_insert(error);
    }

    fn arrive(&self) {
        for _ in 0..self.draw(0..3) {
            let inner = &mut *self.inner();
            let Some(crate::cli::test::case::Input::Record { topic, partition, timestamp, key, value, headers }) =
                inner.tide.record(&mut inner.dice)
            else {
                return;
            };
            inner.trace.note(self.clock.now(), None, format!("a record arrives in {topic}:{partition}"));
            if let Err(error) = self.log.append(&topic, partition, timestamp, key.as_deref(), value.as_deref(), headers) {
                inner.failed.get_or_insert(error);
            }
        }
    }

    /// Dead members leave the group when their sessions are over.
    fn bury(&self) {
        let now = self.clock.now();
        let over = |slot: &Slot| matches!(slot, Slot::Dead { since, .. } if now.saturating_since(*since) >= SESSION);
        if self.slots().iter().any(over) {
            self.log.expire_members();
        }
    }

    fn step_one(&self) {
        let now = self.clock.now();
        let ready = |slot: &Slot| matches!(slot, Slot::Running(_)) || matches!(slot, Slot::Dead { until, .. } if *until <= now);
        let able: Vec<usize> = self.slots().iter().enumerate().filter(|(_, slot)| ready(slot)).map(|(at, _)| at).collect();
        if able.is_empty() {
            return self.clock.sleep(Duration::from_millis(100));
        }
        let number = able[self.draw(0..able.len() as u32) as usize];
        let taken = std::mem::replace(&mut self.slots()[number], Slot::Busy);
        let after = match taken {
            Slot::Running(worker) => self.step(number, worker),
            _ => self.start(number),
        };
        self.slots()[number] = after;
    }

    fn step(&self, number: usize, mut worker: Box<Worker>) -> Slot {
        let leaves = self.leaves();
        let wait = [0, 1, 20, 100][self.draw(0..4) as usize];
        let step = self.alive(
            number,
            |_| false,
            || match leaves {
                true => {
                    self.note(number, "is asked to leave");
                    worker.stop().map(|()| Step::Left)
                }
                false => worker.step(Duration::from_millis(wait)),
            },
        );
        match step {
            Some(Step::Left) => {
                drop(worker);
                self.note(number, "left");
                self.died(number);
                if leaves { self.dead(number, 0..5_000) } else { Slot::Left }
            }
            Some(_) => Slot::Running(worker),
            None => {
                drop(worker);
                self.dead(number, 0..20_000)
            }
        }
    }

    /// A new life of a process; it may end before it has begun.
    fn start(&self, number: usize) -> Slot {
        let Some(phase) = self.inner().phase.clone() else { return Slot::Left };
        self.note(number, "starts");
        // What a start is refused for in passing is tried again by whoever restarts processes.
        let passes = |error: &Error| matches!(error.kind, Kind::Away | Kind::Fenced | Kind::Abort | Kind::Unknown);
        match self.alive(number, passes, || phase.open(number)) {
            Some(worker) => Slot::Running(Box::new(worker)),
            None => self.dead(number, 0..3_000),
        }
    }

    /// `None`: the process is no more. Unless it was killed, or it is an error that passes, the whole run has failed.
    fn alive<T>(&self, number: usize, passes: impl Fn(&Error) -> bool, life: impl FnOnce() -> Result<T>) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(life)) {
            Ok(Ok(returned)) => return Some(returned),
            Ok(Err(error)) if passes(&error) => self.note(number, format!("ends: {error}")),
            Ok(Err(error)) => self.fail(error.context(format!("process {number}"))),
            Err(panic) if panic.is::<Killed>() => {}
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                self.fail(Error::failed(format!("process {number} panicked: {}", text.unwrap_or("without a text"))));
            }
        }
        None
    }

    fn dead(&self, number: usize, millis: Range<u64>) -> Slot {
        self.died(number);
        let phase = self.inner().phase.clone();
        if let Some(folder) = phase.as_ref().and_then(|phase| phase.state.as_ref()) {
            folder.after_death(number, self.draw(0..8));
        }
        // Many come back at once.
        let millis = if self.draw(0..2) == 0 { 0..10 } else { millis };
        let since = self.clock.now();
        Slot::Dead { since, until: since + self.millis(millis) }
    }

    /// Decisions that are due are made by who stands there, until one is committed.
    fn decide(&self) {
        let due = self.inner().tide.due();
        for (decision, asked_at) in due {
            if self.is_decided(&decision) {
                self.note(None, format!("decided: {}:{}", decision.partition, decision.at));
                self.inner().tide.decided(&decision);
            } else if asked_at.is_none_or(|at| self.clock.since(at) >= ASK_AGAIN) {
                self.ask_to_decide(&decision);
            }
        }
    }

    /// The group's committed watermark says so.
    fn is_decided(&self, Decision { partition, to, .. }: &Decision) -> bool {
        let Some(group) = self.inner().phase.as_ref().map(|phase| phase.group.clone()) else { return false };
        let Ok(committed) = self.log.committed(&group, std::slice::from_ref(partition)) else { return false };
        let state = committed.get(partition).and_then(|committed| progress::from_committed(partition, committed).ok());
        state.is_some_and(|state| state.lowest() >= *to)
    }

    fn ask_to_decide(&self, decision: &Decision) {
        let stands = |slot: &Slot| match slot {
            Slot::Running(worker) => {
                let progress = worker.progress.lock().unwrap_or_else(PoisonError::into_inner);
                progress.positions.get(&decision.partition) == Some(&decision.at)
            }
            _ => false,
        };
        let Some(number) = self.slots().iter().position(stands) else { return };
        self.inner().tide.asked(&decision.partition, self.clock.now());
        let Slot::Running(mut worker) = std::mem::replace(&mut self.slots()[number], Slot::Busy) else { return };
        self.note(number, format!("is asked to decide {}:{}", decision.partition, decision.at));
        let passes = |error: &Error| error.kind == Kind::Fenced;
        let alive = self.alive(number, passes, || match worker.decide(decision.clone()) {
            // It goes on with what it was doing in its next step.
            Err(error) if error.kind == Kind::Away => Ok(()),
            result => result,
        });
        let after = match alive {
            Some(()) => Slot::Running(worker),
            None => {
                drop(worker);
                self.dead(number, 0..20_000)
            }
        };
        self.slots()[number] = after;
    }
}

impl Phase {
    /// A killed process lets go of its files at once. Here sled's threads may hold them for a moment longer; the state is opened before
    /// anything else, so nobody sees that it is tried again.
    fn unlocked(&self, open: impl Fn() -> Result<Worker>) -> Result<Worker> {
        for _ in 0..LOCK_TRIES {
            match open() {
                Err(error) if self.state.is_some() && error.message.contains("could not acquire lock") => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
        open()
    }

    fn open(&self, number: usize) -> Result<Worker> {
        let process = Process { storm: self.storm.clone(), number };
        let site = Site { log: Arc::new(process.clone()), registry: self.registry.clone(), settings: self.settings.clone() };
        let mut run = (self.run)(&site)?;
        run.instance = format!("{number:08}");
        run.static_member = self.static_members;
        run.state = self.state.as_ref().map(|folder| folder.of(number));
        run.checkpoint_interval = self.checkpoint_interval;
        let mut worker = self.unlocked(|| Worker::open(site.log.clone(), site.registry.clone(), run.clone()))?;
        worker.observe(Box::new(process));
        Ok(worker)
    }
}

/// State directories of a run; they go with it.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Result<Folder> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let name = format!("tidemill-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?;
        Ok(Folder(path))
    }

    pub fn of(&self, number: usize) -> PathBuf {
        self.0.join(number.to_string())
    }

    /// The process comes back on the same machine, on another one, or on one that was restored from an old copy.
    fn after_death(&self, number: usize, draw: u32) {
        let (own, old) = (self.of(number), self.0.join(format!("{number}-old")));
        match draw {
            0 => drop(std::fs::remove_dir_all(&own)),
            1 | 2 if !old.exists() => copy(&own, &old),
            3 if old.exists() => {
                let _ = std::fs::remove_dir_all(&own);
                copy(&old, &own);
                let _ = std::fs::remove_dir_all(&old);
            }
            _ => {}
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A copy that can't be made is one that is not there.
fn copy(from: &Path, to: &Path) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    let _ = std::fs::create_dir_all(to);
    for entry in entries.flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            let _ = std::fs::copy(entry.path(), to);
        }
    }
}
