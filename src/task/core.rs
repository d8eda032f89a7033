//! What a worker does next: takes an [`Event`], returns [`Action`]s; `run` performs them.
//!
//! ```text
//!              Assigned             Restored            Processed (first)
//!   ── none ─────────────▶ restoring ─────────▶ running ─────────────────▶ open transaction
//!        ▲                   ▲                    ▲ ▲  Committed: keep          │ due, revoked, ended, stopped
//!        │ Revoked: commit   │                    │ └────────────────── committing ◀──┘
//!        │ first, then       │ go back to the     │                        │ failed
//!        │ release           │ last commit        │                        ▼
//!        │ Lost: abort       └──────────────────────────────────────── abort, those that ran
//!        └────────────────────────────────────────┘
//! ```
//! A task restores beside the others: those that run go on, and the transaction that is open goes on, too.
//!
//! Invariant: no clock and no I/O; time comes in as milliseconds of any monotonic clock. A rebalance is an event, never an error.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Kind};
use crate::record::{Topic, TopicPartition};
use crate::task::plan::TaskId;

/// When a transaction is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Age in milliseconds at which a transaction is due while the worker keeps up.
    pub interval_ms: u64,
    /// Age at which it is due in any case. Far below the transaction timeout.
    pub backlog_interval_ms: u64,
    /// A transaction with at least so many records counts as backlog: it may grow until `backlog_interval_ms`.
    pub backlog_records: u64,
    /// It is due at so many records, whatever its age.
    pub max_records: u64,
    /// It is due at so many bytes of output and touched state, whatever its age.
    pub max_bytes: usize,
}

impl Cadence {
    /// Small transactions, by latency; larger ones in a backlog.
    pub fn live(interval_ms: u64) -> Cadence {
        Cadence {
            interval_ms,
            backlog_interval_ms: interval_ms.max(1_000),
            backlog_records: 50_000,
            max_records: 500_000,
            max_bytes: 64 << 20,
        }
    }

    /// Large transactions, by throughput (a bounded run).
    pub fn bulk() -> Cadence {
        Cadence {
            interval_ms: 1_000,
            backlog_interval_ms: 2_000,
            backlog_records: 50_000,
            max_records: 1_000_000,
            max_bytes: 64 << 20,
        }
    }

    /// With a commit's data in at most so many bytes.
    pub fn within(self, bytes: usize) -> Cadence {
        Cadence { max_bytes: self.max_bytes.min(bytes.max(1)), ..self }
    }

    fn due(&self, open: &Open, now_ms: u64) -> bool {
        let age = now_ms.saturating_sub(open.since_ms);
        let interval = if open.records >= self.backlog_records { self.backlog_interval_ms } else { self.interval_ms };
        age >= interval || open.records >= self.max_records || open.bytes >= self.max_bytes
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    since_ms: u64,
    records: u64,
    bytes: usize,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>),
    Lost(Vec<TopicPartition>),
    /// The task is restored and delivers.
    Restored(TaskId),
    /// Records went through the tasks; `bytes` is what waits for the commit in all: output, and what was touched.
    Processed {
        records: u64,
        bytes: usize,
    },
    /// Output of a step that has stopped in between is about to be sent: it needs an open transaction, and no commit before its end.
    Sending,
    Tick,
    /// What is open is wanted by others: it is committed without waiting for its age.
    Due,
    /// Every partition is at its end.
    Ended,
    /// SIGTERM or the caller's wish.
    Stop,
    Committed,
    CommitFailed(Error),
    /// What the stable offsets said after a commit of unknown outcome.
    Outcome(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The offsets are as before: it did not happen.
    Before,
    /// They are what was intended: it happened.
    Intended,
    /// Neither: another owner has been here.
    Neither,
}

/// What to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin to build the task from its committed state; `Restored` says that it delivers.
    Restore(TaskId),
    Begin,
    Commit,
    /// The commit succeeded: tasks keep what they hold.
    Keep,
    /// Abort the open transaction, if the producer still can.
    Abort,
    /// Open the producer anew (fences the former one and settles its transaction).
    Reopen,
    /// Read the stable offsets: did the last commit happen?
    Ask,
    /// All tasks that run are forgotten: a `Restore` of each follows.
    GoBack,
    /// Forget the task.
    Drop(TaskId),
    Release(Vec<TopicPartition>),
    /// Leave the group; the run is over.
    Leave,
    Fail(Error),
}

/// The decisions of one worker.
#[derive(Debug)]
pub struct Core {
    cadence: Cadence,
    now_ms: u64,
    open: Option<Open>,
    committing: bool,
    /// The sub-topology that a lead topic stands for: its partitions are tasks.
    leads: BTreeMap<Topic, usize>,
    held: BTreeSet<TaskId>,
    /// Of these.
    restoring: BTreeSet<TaskId>,
    /// To be released once the open transaction is over.
    revoked: Vec<TopicPartition>,
    ended: bool,
    stopping: bool,
    left: bool,
    /// Commits that failed in a row.
    failures: u32,
    pub commits: u64,
}

/// Commits that may fail one after the other before the run fails.
const MAX_FAILURES: u32 = 30;

impl Core {
    pub fn new(cadence: Cadence, leads: BTreeMap<Topic, usize>) -> Core {
        Core {
            cadence,
            now_ms: 0,
            open: None,
            committing: false,
            leads,
            held: BTreeSet::new(),
            restoring: BTreeSet::new(),
            revoked: Vec::new(),
            ended: false,
            stopping: false,
            left: false,
            failures: 0,
            commits: 0,
        }
    }

    /// Whether a transaction is open: rows may wait for its commit.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub fn has_left(&self) -> bool {
        self.left
    }

    pub fn is_restoring(&self) -> bool {
        !self.restoring.is_empty()
    }

    pub fn has_tasks(&self) -> bool {
        !self.held.is_empty()
    }

    /// The tasks that are this member's, restored or not.
    pub fn tasks(&self) -> &BTreeSet<TaskId> {
        &self.held
    }

    /// Every lead partition held.
    pub fn held(&self) -> Vec<TopicPartition> {
        let lead =
            |task: &TaskId| self.leads.iter().find(|(_, sub)| **sub == task.sub).map(|(topic, _)| topic.partition(task.number));
        self.held.iter().filter_map(lead).collect()
    }

    fn tasks_of(&self, partitions: &[TopicPartition]) -> BTreeSet<TaskId> {
        let task = |p: &TopicPartition| self.leads.get(&p.topic).map(|sub| TaskId { sub: *sub, number: p.partition.0 });
        partitions.iter().filter_map(task).collect()
    }

    /// Milliseconds until the open transaction is due; `None` when none is open.
    pub fn due_in_ms(&self, now_ms: u64) -> Option<u64> {
        let open = self.open?;
        Some((open.since_ms + self.cadence.interval_ms).saturating_sub(now_ms))
    }

    pub fn on(&mut self, event: Event, now_ms: u64) -> Vec<Action> {
        self.now_ms = now_ms;
        match event {
            Event::Assigned(partitions) => self.assigned(partitions),
            Event::Revoked(partitions) => self.revoked(partitions),
            Event::Lost(partitions) => self.lost(&partitions),
            Event::Restored(task) => {
                self.restoring.remove(&task);
                Vec::new()
            }
            Event::Processed { records, bytes } => self.processed(records, bytes),
            Event::Sending => self.begin(),
            Event::Tick => self.tick(),
            Event::Due if self.open.is_some() && !self.committing => self.commit(),
            Event::Due => Vec::new(),
            Event::Ended => {
                self.ended = true;
                self.finish_or_leave()
            }
            Event::Stop => {
                self.stopping = true;
                self.finish_or_leave()
            }
            Event::Committed => self.committed(),
            Event::CommitFailed(error) => self.commit_failed(error),
            Event::Outcome(outcome) => self.outcome(outcome),
        }
    }

    fn assigned(&mut self, partitions: Vec<TopicPartition>) -> Vec<Action> {
        let tasks = self.tasks_of(&partitions);
        self.held.extend(&tasks);
        self.restoring.extend(&tasks);
        tasks.into_iter().map(Action::Restore).collect()
    }

    /// What a failed transaction did is undone: the tasks that ran are restored. Those that restore have done nothing yet.
    fn go_back(&mut self) -> Vec<Action> {
        let ran: Vec<TaskId> = self.held.difference(&self.restoring).copied().collect();
        self.restoring.extend(&ran);
        std::iter::once(Action::GoBack).chain(ran.into_iter().map(Action::Restore)).collect()
    }

    fn revoked(&mut self, partitions: Vec<TopicPartition>) -> Vec<Action> {
        self.revoked.extend(partitions);
        if self.open.is_some() { self.commit() } else { self.release() }
    }

    fn lost(&mut self, partitions: &[TopicPartition]) -> Vec<Action> {
        let mut actions = Vec::new();
        let open = self.open.take().is_some();
        if open {
            self.committing = false;
            actions.push(Action::Abort);
        }
        self.revoked.retain(|partition| !partitions.contains(partition));
        actions.extend(self.forget(partitions));
        if open {
            actions.extend(self.go_back());
        }
        self.ended = false;
        if self.stopping {
            actions.extend(self.finish_or_leave());
        }
        actions
    }

    fn processed(&mut self, records: u64, bytes: usize) -> Vec<Action> {
        let mut actions = self.begin();
        if let Some(open) = &mut self.open {
            open.records += records;
            open.bytes = bytes;
        }
        actions.extend(self.tick());
        actions
    }

    fn begin(&mut self) -> Vec<Action> {
        if self.open.is_some() {
            return Vec::new();
        }
        self.open = Some(Open { since_ms: self.now_ms, records: 0, bytes: 0 });
        vec![Action::Begin]
    }

    fn tick(&mut self) -> Vec<Action> {
        match &self.open {
            Some(open) if !self.committing && self.cadence.due(open, self.now_ms) => self.commit(),
            _ => Vec::new(),
        }
    }

    fn commit(&mut self) -> Vec<Action> {
        assert!(self.open.is_some(), "there is something to commit");
        self.committing = true;
        vec![Action::Commit]
    }

    fn committed(&mut self) -> Vec<Action> {
        self.failures = 0;
        self.settled(vec![Action::Keep])
    }

    /// The transaction is over, one way or the other.
    fn settled(&mut self, mut actions: Vec<Action>) -> Vec<Action> {
        self.open = None;
        self.committing = false;
        if actions.contains(&Action::Keep) {
            self.commits += 1;
        }
        actions.extend(self.release());
        actions.extend(self.finish_or_leave());
        actions
    }

    fn finish_or_leave(&mut self) -> Vec<Action> {
        if !(self.ended || self.stopping) || self.left || self.committing {
            return Vec::new();
        }
        if self.open.is_some() {
            return self.commit();
        }
        self.left = true;
        vec![Action::Leave]
    }

    fn release(&mut self) -> Vec<Action> {
        let revoked = std::mem::take(&mut self.revoked);
        if revoked.is_empty() {
            return Vec::new();
        }
        let mut actions = self.forget(&revoked);
        actions.push(Action::Release(revoked));
        actions
    }

    fn forget(&mut self, partitions: &[TopicPartition]) -> Vec<Action> {
        let tasks = self.tasks_of(partitions);
        self.held.retain(|task| !tasks.contains(task));
        self.restoring.retain(|task| !tasks.contains(task));
        tasks.into_iter().map(Action::Drop).collect()
    }

    fn commit_failed(&mut self, error: Error) -> Vec<Action> {
        self.failures += 1;
        if self.failures > MAX_FAILURES {
            return vec![Action::Fail(error.context(format!("{MAX_FAILURES} commits failed one after the other")))];
        }
        match error.kind {
            Kind::Abort => self.undone(vec![Action::Abort]),
            Kind::Fenced => self.undone(vec![Action::Reopen]),
            Kind::Unknown | Kind::Away => vec![Action::Reopen, Action::Ask],
            _ => vec![Action::Fail(error)],
        }
    }

    fn undone(&mut self, mut actions: Vec<Action>) -> Vec<Action> {
        // An end that was reached in the transaction is reached again after going back.
        self.ended = false;
        self.open = None;
        self.committing = false;
        actions.extend(self.release());
        actions.extend(self.go_back());
        if self.stopping {
            actions.extend(self.finish_or_leave());
        }
        actions
    }

    fn outcome(&mut self, outcome: Outcome) -> Vec<Action> {
        match outcome {
            Outcome::Intended => self.committed(),
            Outcome::Before | Outcome::Neither => self.undone(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Topic;

    fn partition(n: i32) -> TopicPartition {
        Topic::new("orders").partition(n)
    }

    fn task(number: i32) -> TaskId {
        TaskId { sub: 0, number }
    }

    fn running() -> Core {
        let mut core = Core::new(Cadence::live(100), BTreeMap::from([(Topic::new("orders"), 0)]));
        assert_eq!(
            core.on(Event::Assigned(vec![partition(0), partition(1)]), 0),
            [Action::Restore(task(0)), Action::Restore(task(1))]
        );
        core.on(Event::Restored(task(0)), 1);
        core.on(Event::Restored(task(1)), 1);
        core
    }

    #[test]
    fn commits_when_the_transaction_is_old_enough() {
        let mut core = running();
        assert_eq!(core.on(Event::Processed { records: 10, bytes: 1 }, 10), [Action::Begin]);
        assert_eq!(core.on(Event::Tick, 109), []);
        assert_eq!(core.on(Event::Tick, 110), [Action::Commit]);
        assert_eq!(core.on(Event::Committed, 115), [Action::Keep]);
        assert_eq!(core.on(Event::Tick, 900), []);
    }

    #[test]
    fn output_that_is_sent_ahead_opens_a_transaction_and_commits_nothing() {
        let mut core = running();
        assert_eq!(core.on(Event::Sending, 10), [Action::Begin]);
        assert_eq!(core.on(Event::Sending, 500), []);
        assert_eq!(core.on(Event::Processed { records: 1, bytes: 1 }, 501), [Action::Commit]);
    }

    #[test]
    fn a_task_restores_beside_those_that_run() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        assert_eq!(core.on(Event::Assigned(vec![partition(2)]), 20), [Action::Restore(task(2))]);
        assert!(core.is_restoring() && core.is_open());
        assert_eq!(core.on(Event::Tick, 110), [Action::Commit]);
        assert_eq!(core.on(Event::Committed, 115), [Action::Keep]);
        core.on(Event::Restored(task(2)), 120);
        assert!(!core.is_restoring());
    }

    #[test]
    fn a_failed_commit_restores_those_that_ran() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        core.on(Event::Assigned(vec![partition(2)]), 20);
        core.on(Event::Tick, 200);
        let aborted = Error::new(Kind::Abort, "generation id is not valid");
        let actions = core.on(Event::CommitFailed(aborted), 201);
        assert_eq!(actions, [Action::Abort, Action::GoBack, Action::Restore(task(0)), Action::Restore(task(1))]);
        assert!(core.is_restoring(), "nothing has come to its end meanwhile");
        // Nothing is open, so nothing has to be undone.
        assert_eq!(core.on(Event::Lost(vec![partition(2)]), 202), [Action::Drop(task(2))]);
    }

    #[test]
    fn what_is_lost_in_a_transaction_undoes_it_for_all() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        let lost = core.on(Event::Lost(vec![partition(1)]), 20);
        assert_eq!(lost, [Action::Abort, Action::Drop(task(1)), Action::GoBack, Action::Restore(task(0))]);
    }

    #[test]
    fn a_revocation_commits_first_and_releases_then() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        assert_eq!(core.on(Event::Revoked(vec![partition(1)]), 20), [Action::Commit]);
        assert_eq!(core.on(Event::Committed, 25), [Action::Keep, Action::Drop(task(1)), Action::Release(vec![partition(1)])]);
    }

    #[test]
    fn a_revocation_with_nothing_open_releases_at_once() {
        let mut core = running();
        assert_eq!(core.on(Event::Revoked(vec![partition(0)]), 20), [Action::Drop(task(0)), Action::Release(vec![partition(0)])]);
    }

    #[test]
    fn a_failed_commit_goes_back() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        core.on(Event::Tick, 200);
        let aborted = Error::new(Kind::Abort, "generation id is not valid");
        let back = [Action::Abort, Action::GoBack, Action::Restore(task(0)), Action::Restore(task(1))];
        assert_eq!(core.on(Event::CommitFailed(aborted), 201), back);
    }

    #[test]
    fn an_unknown_outcome_is_asked_for() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        core.on(Event::Tick, 200);
        let unknown = Error::new(Kind::Unknown, "timed out");
        assert_eq!(core.on(Event::CommitFailed(unknown), 201), [Action::Reopen, Action::Ask]);
        assert_eq!(core.on(Event::Outcome(Outcome::Intended), 202), [Action::Keep]);
        assert_eq!(core.commits, 1);
    }

    #[test]
    fn stopping_commits_what_is_open_and_leaves() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        assert_eq!(core.on(Event::Stop, 20), [Action::Commit]);
        assert_eq!(core.on(Event::Committed, 25), [Action::Keep, Action::Leave]);
        assert!(core.has_left());
    }

    #[test]
    fn what_is_lost_while_it_is_revoked_is_not_released() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        assert_eq!(core.on(Event::Revoked(vec![partition(0)]), 20), [Action::Commit]);
        assert_eq!(core.held(), [partition(0), partition(1)]);
        let lost = core.on(Event::Lost(core.held()), 30);
        assert_eq!(lost, [Action::Abort, Action::Drop(task(0)), Action::Drop(task(1)), Action::GoBack]);
        assert_eq!(core.on(Event::Tick, 500), []);
    }

    #[test]
    fn a_loss_does_not_forget_that_it_was_asked_to_stop() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        assert_eq!(core.on(Event::Stop, 20), [Action::Commit]);
        assert_eq!(core.on(Event::Lost(core.held()), 30).last(), Some(&Action::Leave));
    }

    #[test]
    fn lost_partitions_abort() {
        let mut core = running();
        core.on(Event::Processed { records: 10, bytes: 1 }, 10);
        assert_eq!(
            core.on(Event::Lost(vec![partition(0), partition(1)]), 20),
            [Action::Abort, Action::Drop(task(0)), Action::Drop(task(1)), Action::GoBack]
        );
    }
}
