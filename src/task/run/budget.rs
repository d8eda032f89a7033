//! The worker's share of the process's memory: between two commits, state that has outgrown it goes to disk.

use super::{SAY_AWAY, Worker};
use crate::error::Result;
use crate::store::memory;

impl Worker {
    /// Between two commits: stores go to disk when they have outgrown their share, or the process its budget.
    pub(super) fn relieve(&mut self) -> Result<()> {
        let share = self.run.memory.of_stores();
        let held = self.rows_held();
        let short = self.run.memory.is_short();
        if held <= share && !short {
            return Ok(());
        }
        // Filters and indexes of what is on disk stay in memory, so a few rows are not worth a run.
        let least = share / 16 / self.tasks.len().max(1);
        let mut freed = 0;
        for task in self.tasks.values_mut().filter(|task| !task.is_dirty()) {
            freed += task.spill(self.run.memory.spills(), least)?;
        }
        if freed > 0 || short {
            memory::trim();
        }
        let left = held.saturating_sub(freed);
        if self.run.memory.budget() > 0 && (left > share || (short && freed == 0)) {
            self.say_short(left);
        }
        Ok(())
    }

    /// Bytes of rows that stores hold in memory.
    fn rows_held(&mut self) -> usize {
        self.tasks.values_mut().map(|task| task.state_bytes().saturating_sub(task.spilled().size)).sum()
    }

    fn say_short(&mut self, state: usize) {
        if self.said_short_at.is_some_and(|at| self.clock.since(at) < SAY_AWAY) {
            return;
        }
        self.said_short_at = Some(self.clock.now());
        let mebibytes = |bytes: usize| bytes >> 20;
        let budget = self.run.memory.budget();
        let process = memory::resident_bytes().unwrap_or_default();
        tracing::warn!(
            pipeline = self.name(),
            budget_mb = mebibytes(budget),
            process_mb = mebibytes(process),
            state_mb = mebibytes(state),
            "near the memory budget, and what is in memory can't go to disk: raise [memory] budget, or add processes"
        );
    }
}
