//! Faults on demand, for tests and for the crash modes of golden cases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::record::TopicPartition;

use super::Shared;

/// What happens to one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// The commit never reaches the log, which is not known: the producer gets `Unknown`, the transaction hangs until its id comes back.
    LostBefore,
    /// The commit happens, its answer is lost: the producer gets `Unknown`.
    LostAfter,
    /// The commit succeeds and the group's offsets are there at once, but the markers reach the partitions late, as between a real
    /// coordinator and its brokers: until the next read the last stable offset is below what was committed.
    LateMarkers,
    /// The commit succeeds, and markers and offsets arrive some time within three seconds, each on its own, drawn from this seed; the next
    /// transaction of the same id waits for them. Needs a simulated clock.
    SlowMarkers(u64),
    /// The log asks for an abort: the producer gets `Abort`, nothing is committed.
    Abort,
    /// Another producer of the same id turned up: the producer gets `Fenced`, its transaction is aborted.
    Fenced,
}

/// The faults of one [`super::EmbeddedLog`]; all clones share them.
#[derive(Clone)]
pub struct Faults(pub(super) Arc<Shared>);

impl Faults {
    /// Lets the `nth` commit from now on fail: 0 is the next one. Commits of all producers count, in the order in which they arrive.
    pub fn fail_commit(&self, nth: u64, fault: CommitFault) {
        let mut state = self.0.lock();
        let at = state.commits + nth;
        state.plan.commits.insert(at, fault);
    }

    /// No commit to come fails.
    pub fn forget_commits(&self) {
        self.0.lock().plan.commits.clear();
    }

    /// While set, every call that needs the cluster's answer gets `Away`, and nothing is delivered.
    pub fn set_away(&self, away: bool) {
        self.0.change(|state| state.plan.away = away);
    }

    /// While set, a transaction that is aborted because its producer is gone stays open, as after a coordinator that took its partitions for
    /// deleted: only its own id closes it, by [`crate::log::Producer::settle`], and the id's next commit would commit it after all.
    pub fn lose_aborts(&self, lose: bool) {
        self.0.change(|state| state.plan.lose_aborts = lose);
    }

    /// From this partition nothing is delivered for so long. Needs a simulated clock.
    pub fn hold(&self, partition: &TopicPartition, time: Duration) {
        self.0.change(|state| state.hold(partition.clone(), time));
    }

    pub fn clear(&self) {
        self.0.change(|state| state.plan = Plan::default());
    }

    /// Commits that producers tried so far, the failed ones counted.
    pub fn commits(&self) -> u64 {
        self.0.lock().commits
    }
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// By the number of the commit.
    pub commits: BTreeMap<u64, CommitFault>,
    pub away: bool,
    pub lose_aborts: bool,
}
