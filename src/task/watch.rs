//! How far a restore is: written by whoever restores, read by whoever shows it, and the way to tell it to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::record::OffsetVector;
use crate::task::plan::TaskId;

/// One restore as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoreProgress {
    pub task: TaskId,
    /// Of what is to be read, 0 to 1.
    pub ratio: f64,
    /// Rows read so far, from the local checkpoint and the changelog; a key may come more than once.
    pub rows: u64,
    pub elapsed: Duration,
    /// It waits for a transaction in the changelog that is not decided yet.
    pub held_up: bool,
}

impl RestoreProgress {
    pub fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.elapsed.as_secs_f64().max(0.001)
    }
}

/// Shared between a restore and those who look at it.
#[derive(Debug, Default)]
pub struct Watch {
    stopped: AtomicBool,
    /// Parts of checkpoints and messages of changelogs.
    done: AtomicU64,
    total: AtomicU64,
    rows: AtomicU64,
    held_up: AtomicBool,
    begun: Mutex<Begun>,
}

#[derive(Debug, Default)]
struct Begun {
    at: Option<Instant>,
    /// Where the task will go on: known before its stores are.
    positions: OffsetVector,
}

impl Watch {
    /// Begins, perhaps again: what was counted before is forgotten.
    pub fn begin(&self) {
        self.begun().at.get_or_insert_with(Instant::now);
        for count in [&self.done, &self.total, &self.rows] {
            count.store(0, Ordering::Relaxed);
        }
        self.held_up.store(false, Ordering::Relaxed);
    }

    pub fn found(&self, positions: OffsetVector) {
        self.begun().positions = positions;
    }

    pub fn positions(&self) -> OffsetVector {
        self.begun().positions.clone()
    }

    pub fn expect(&self, more: u64) {
        self.total.fetch_add(more, Ordering::Relaxed);
    }

    pub fn advance(&self, done: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    pub fn take_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub fn hold_up(&self, held_up: bool) {
        self.held_up.store(held_up, Ordering::Relaxed);
    }

    /// Nobody wants the result any more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// # Errors
    /// `Away` when it was told to stop: nobody looks at the result.
    pub fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(Error::away("the restore was given up")) } else { Ok(()) }
    }

    pub fn progress(&self, task: TaskId) -> RestoreProgress {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (done, total) = (count(&self.done), count(&self.total));
        RestoreProgress {
            task,
            ratio: if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) },
            rows: count(&self.rows),
            elapsed: self.begun().at.map_or(Duration::ZERO, |at| at.elapsed()),
            held_up: self.held_up.load(Ordering::Relaxed),
        }
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
