//! The worker's tasks come and go: restored beside the others, taken in, copied to the local disk, sent back to their last commit, forgotten;
//! and the copies of tasks that others have.

use super::{STANDBY_EVERY, Worker, lock};
use crate::error::{Kind, Result};
use crate::log::Isolation;
use crate::metric;
use crate::record::{OffsetVector, TopicPartition};
use crate::task::core::Event;
use crate::task::graph::{Flow, Task};
use crate::task::local::LocalCopies;
use crate::task::plan::TaskId;
use crate::task::replica::{Basis, Tail};
use crate::task::restore::Restored;
use crate::task::restorer::Restoring;
use crate::task::standby;

impl Worker {
    /// Takes in the tasks that are restored by now.
    pub(super) fn take_restored(&mut self) -> Result<()> {
        while let Some(restored) = self.restorer.ready()? {
            self.take_in(restored)?;
        }
        Ok(())
    }

    /// The task delivers from its last commit on.
    pub(super) fn take_in(&mut self, mut restored: Box<Restored>) -> Result<()> {
        let id = restored.task.id;
        let plan = self.run.plan.clone();
        let of_task = |partition: &TopicPartition| plan.task_of(partition) == Some(id);
        // What was polled while it went back comes once more.
        self.polled.retain(|chunk| !of_task(&chunk.partition));
        let decisions = self.run.decisions.iter().chain(&self.decided);
        restored.task.set_flow(Flow { rows: self.run.memory.rows_at_once(), bytes: self.run.memory.of_output() });
        restored.task.follow(decisions.filter(|decision| of_task(&decision.partition)))?;
        if let Err(error) = self.deliver(&restored.task.positions()) {
            if error.kind == Kind::Away {
                self.restorer.put_back(restored);
            }
            return Err(error);
        }
        self.quiet.forget();
        let Restored { task, rows, from_checkpoint, from_changelog, from_standby, elapsed, changelogs, bases } = *restored;
        if rows + from_checkpoint + from_changelog > 0 {
            let (pipeline, ms) = (plan.names.pipeline.clone(), elapsed.as_millis() as u64);
            tracing::info!(pipeline, task = %id, rows, standby = from_standby, checkpoint = from_checkpoint, changelog = from_changelog, ms, "restored");
            metrics::counter!(metric::RESTORED_ROWS, "pipeline" => pipeline).increment(rows);
        }
        if let Some(local) = &mut self.local {
            local.copied(id, changelogs.clone());
            bases.into_iter().try_for_each(|(store, basis)| local.writer().hand_over(id, &store, basis))?;
        }
        if !changelogs.is_empty() {
            self.rounds.insert(id, changelogs);
        }
        let dirty = task.is_dirty();
        self.finished.remove(&id);
        self.tasks.insert(id, task);
        self.event(Event::Restored(id));
        if dirty {
            self.event(Event::Processed { records: 0, bytes: 0 });
        }
        self.show();
        Ok(())
    }

    /// Delivery of a task's partitions begins, or begins anew.
    pub(super) fn deliver(&mut self, from: &OffsetVector) -> Result<()> {
        let Some(consumer) = &mut self.consumer else { return Ok(()) };
        consumer.start(from)?;
        let held_back: Vec<TopicPartition> =
            from.keys().filter(|partition| self.held_back.contains(*partition)).cloned().collect();
        if !held_back.is_empty() {
            consumer.resume(&held_back)?;
            self.held_back.retain(|partition| !held_back.contains(partition));
        }
        Ok(())
    }

    /// Notes where the changelogs of a task stand as its snapshot round begins.
    pub(super) fn begin_round(&mut self, task: TaskId) -> Result<()> {
        let plan = &self.run.plan;
        let changelogs = plan.stateful_nodes(task.sub).map(|(_, id)| Ok(plan.names.changelog(id)?.partition(task.number)));
        let changelogs = changelogs.collect::<Result<Vec<_>>>()?;
        if !changelogs.is_empty() {
            let ends = self.log.end_offsets(&changelogs, Isolation::Uncommitted)?;
            self.rounds.insert(task, ends);
        }
        Ok(())
    }

    /// Every live row has been written again since the round began: what lies below may go, once the local copies do not need it any more.
    pub(super) fn trim(&mut self, task: TaskId) -> Result<()> {
        let needed = |local: &LocalCopies| self.rounds.get(&task).is_some_and(|below| !local.reaches(task, below));
        if self.local.as_ref().is_some_and(needed) {
            return Ok(());
        }
        if let Some(below) = self.rounds.get(&task)
            && let Err(error) = self.log.delete_records(below)
        {
            tracing::warn!(pipeline = self.name(), %task, %error, "the changelog could not be trimmed; it is tried again next round");
        }
        self.begin_round(task)
    }

    /// What the local copies of all stores lack, as of the last commit.
    pub(super) fn checkpoint(&mut self) -> Result<()> {
        self.checkpointed_at = self.clock.now();
        let Some(local) = &mut self.local else { return Ok(()) };
        let plan = self.run.plan.clone();
        let mut moved = Vec::new();
        for (of, task) in self.tasks.iter().filter(|(_, task)| !task.is_dirty()) {
            if !local.moved(*of, task.commit_number()) {
                continue;
            }
            for (_, id) in plan.stateful_nodes(of.sub) {
                moved.push((*of, id, plan.names.changelog(id)?.partition(of.number)));
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        let partitions: Vec<TopicPartition> = moved.iter().map(|(_, _, partition)| partition.clone()).collect();
        // Nothing of a later commit is in the changelogs: none is being sent.
        let ends = self.log.end_offsets(&partitions, Isolation::Uncommitted)?;
        for (of, id, partition) in moved {
            let commit = Some(self.tasks[&of].last_commit_record(id));
            let tail = Tail { rows: local.take_noted(of, id), commit, changelog: ends[&partition] };
            local.writer().hand_over(of, id, Basis::Tail(tail))?;
            local.copied(of, OffsetVector::from([(partition.clone(), ends[&partition])]));
        }
        Ok(())
    }

    /// The tasks that run are forgotten, to be built anew from their last commit; nothing is delivered to them meanwhile.
    pub(super) fn go_back(&mut self) {
        self.decided.clear();
        self.polled.clear();
        let partitions: Vec<TopicPartition> =
            self.tasks.values().flat_map(Task::positions).map(|(partition, _)| partition).collect();
        let tasks: Vec<TaskId> = self.tasks.keys().copied().collect();
        tasks.into_iter().for_each(|task| self.forget(task));
        if let Some(consumer) = &mut self.consumer
            && !partitions.is_empty()
        {
            match consumer.pause(&partitions) {
                Ok(()) => self.held_back.extend(partitions),
                // What comes for them is passed over.
                Err(error) => tracing::debug!(%error, "partitions of tasks that go back are not paused"),
            }
        }
    }

    pub(super) fn forget(&mut self, task: TaskId) {
        self.restorer.forget(task);
        // What it decided and did not commit was never used: recorded, it would be followed by others alone.
        let plan = self.run.plan.clone();
        self.decided.retain(|decision| plan.task_of(&decision.partition) != Some(task));
        if let Some(local) = &mut self.local {
            local.forget(task);
        }
        self.tasks.remove(&task);
        self.finished.remove(&task);
        self.rounds.remove(&task);
        let of_task = |partition: &TopicPartition| plan.task_of(partition) == Some(task);
        let waiting: Vec<TopicPartition> = self.parked.keys().filter(|p| of_task(p)).cloned().collect();
        for partition in &waiting {
            self.parked.remove(partition);
        }
        if let Some(consumer) = &mut self.consumer
            && !waiting.is_empty()
            && let Err(error) = consumer.resume(&waiting)
        {
            tracing::debug!(%error, "a partition that waited is gone");
        }
        self.held_back.retain(|partition| !of_task(partition));
        let mut progress = lock(&self.progress);
        progress.positions.retain(|partition, _| !of_task(partition));
        progress.watermarks.retain(|partition, _| !of_task(partition));
    }

    /// Publishes how far restores are, and where their tasks will go on.
    pub(super) fn show_restores(&mut self) {
        let mut progress = lock(&self.progress);
        if self.core.is_restoring() {
            progress.positions.extend(self.restorer.positions());
            progress.restores = self.restorer.progress();
        } else {
            progress.restores.clear();
        }
    }

    /// Looks now and then of which tasks of others to keep copies, and how far these are. Not while tasks of its own restore, nor before the
    /// group has had the time to hand some out.
    pub(super) fn stand_by(&mut self) {
        let Some(standby) = &self.standby else { return };
        standby.step();
        let patient = self.run.restoring == Restoring::Threads;
        let soon = patient && self.clock.since(self.standby_at.unwrap_or(self.began)) < STANDBY_EVERY;
        if soon || self.core.is_restoring() || self.core.has_left() {
            return;
        }
        self.standby_at = Some(self.clock.now());
        let wanted = standby::choose(&self.run.plan, &self.run.instance, self.core.tasks(), self.run.standby_tasks);
        if let Some(progress) = standby.look(wanted) {
            lock(&self.progress).standby_tasks = progress;
        }
    }
}
