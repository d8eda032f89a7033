//! One memory budget for the process, and how it is divided.
//!
//! ```text
//! 1/6 rows of stores | 1/12 a commit's pending data | 1/8 producer queue | 1/16 consumer queue | 1/16 cache of spilled state
//! 1/24 rows of warm copies | 1/32 changes on their way to local copies | 1/64 cache of local copies
//! the rest: the program itself, filters and indexes of spilled state, batches under way, what the allocator keeps
//! ```
//!
//! Estimates are corrected by what the system says: stores spill as well when the process comes near its budget.
//!
//! Invariant: nothing here changes a result. What is spilled is read back when it is needed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::spill::Spills;

/// Of a process that is given none.
pub const DEFAULT_BUDGET: usize = 1 << 30;

#[derive(Clone, Debug)]
pub struct Memory {
    budget: usize,
    spills: Arc<Spills>,
    /// Workers that share the budget.
    workers: Arc<AtomicUsize>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::of(DEFAULT_BUDGET)
    }
}

impl PartialEq for Memory {
    fn eq(&self, other: &Memory) -> bool {
        self.budget == other.budget
    }
}

impl Eq for Memory {}

/// A worker's place among those that share the budget.
#[derive(Debug)]
pub struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Memory {
    /// `budget` in bytes. With 0 every store spills after every commit, and output is sent as it is made; commits are as large as ever (tests).
    pub fn of(budget: usize) -> Memory {
        let spills = Arc::new(Spills::new((budget / 16).min(128 << 20)));
        Memory { budget, spills, workers: Arc::default() }
    }

    pub fn budget(&self) -> usize {
        self.budget
    }

    pub fn spills(&self) -> &Arc<Spills> {
        &self.spills
    }

    /// Where cold state goes: below the state directory.
    pub fn keep_below(&self, state_dir: &Path) {
        self.spills.place(&state_dir.join("spill"));
    }

    /// One more worker shares the budget, as long as its seat lives.
    pub fn join(&self) -> Seat {
        self.workers.fetch_add(1, Ordering::Relaxed);
        Seat(self.workers.clone())
    }

    fn share(&self, part: usize) -> usize {
        self.budget / part / self.workers.load(Ordering::Relaxed).max(1)
    }

    /// Of the rows that a worker's stores hold in memory.
    pub fn of_stores(&self) -> usize {
        self.share(6)
    }

    /// Of the rows that a worker's warm copies of other tasks hold in memory.
    pub fn of_copies(&self) -> usize {
        self.share(24)
    }

    /// Of what waits for a worker's commit: output, and what the commit touched. A commit is due when there is more.
    pub fn of_commit(&self) -> usize {
        if self.budget == 0 { usize::MAX } else { self.share(12) }
    }

    /// Output that is sent ahead of the commit when there is more of it, where one step makes a lot.
    pub fn of_output(&self) -> usize {
        self.share(16)
    }

    /// Of what consumers of `pipelines` have read ahead, each.
    pub fn of_consumer(&self, pipelines: usize) -> usize {
        self.budget / 16 / pipelines.max(1)
    }

    /// Of a producer's queue.
    pub fn of_producer(&self, pipelines: usize) -> usize {
        self.budget / 8 / pipelines.max(1)
    }

    /// Of changes that a worker's local copies lack, whether noted or on their way to the disk.
    pub fn of_local(&self) -> usize {
        if self.budget == 0 { usize::MAX } else { self.share(32) }
    }

    /// Of the cache of a worker's local copies.
    pub fn of_local_cache(&self) -> usize {
        self.share(64).clamp(1 << 20, 16 << 20)
    }

    /// Restores at a time.
    pub fn restores_at_once(&self) -> usize {
        (self.budget >> 29).max(1)
    }

    /// Rows of output that an operator makes before they may be sent.
    pub fn rows_at_once(&self) -> usize {
        (self.share(16) / 256).clamp(1, 65_536)
    }

    /// Whether the process, by the system's account, is near its budget.
    pub fn is_short(&self) -> bool {
        resident_bytes().is_some_and(|resident| resident > self.budget / 20 * 17)
    }
}

/// The process's resident memory; `None` where the system does not tell.
pub fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<usize>().ok().map(|kilobytes| kilobytes << 10)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator {
    unsafe extern "C" {
        fn mallopt(parameter: i32, value: i32) -> i32;
        fn malloc_trim(pad: usize) -> i32;
    }

    const M_MMAP_THRESHOLD: i32 = -3;
    const M_ARENA_MAX: i32 = -8;

    /// Large pieces go back to the system when they are freed, and threads share few arenas.
    pub fn tune() {
        // SAFETY: plain setters of the C library's allocator.
        unsafe {
            mallopt(M_MMAP_THRESHOLD, 256 << 10);
            mallopt(M_ARENA_MAX, 2);
        }
    }

    /// Gives what is free back to the system.
    pub fn trim() {
        // SAFETY: only looks at free memory.
        unsafe {
            malloc_trim(0);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod allocator {
    pub fn tune() {}

    pub fn trim() {}
}

pub use allocator::{trim, tune};
