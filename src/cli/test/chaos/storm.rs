//! What befalls the processes of a run: everything is drawn from one seed, on one simulated clock and one thread.
//!
//! A process is killed by unwinding its stack: whatever it held is dropped, as by `kill -9`. One that sleeps in the middle of a call stays on
//! the stack while the others are stepped from there ([`Storm::tick`]), so that it wakes up in another world, with its memory and its open
//! transaction as they were.
//!
//! Invariant: no lock is held while a process is stepped.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::cli::test::chaos::books::Books;
use crate::cli::test::chaos::crew::{Phase, Slot};
use crate::cli::test::chaos::process::Danger;
use crate::cli::test::chaos::tide::Tide;
use crate::cli::test::chaos::trace::Trace;
use crate::clock::{Clock, Moment};
use crate::error::Error;
use crate::log::Log;
use crate::log::embedded::{CommitFault, EmbeddedLog};
use crate::log::{GroupMetadata, partitions_of};
use crate::record::{Outgoing, Topic, TopicPartition};

/// After so long a silence the group goes on without a member.
pub(super) const SESSION: Duration = Duration::from_secs(10);
/// Sleepers within sleepers.
const MAX_DEPTH: usize = 2;

/// What unwinds the stack of a process that is killed.
pub(super) struct Killed;

/// The weather of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Odds {
    /// A dangerous call goes wrong once in so many.
    every: u32,
    kill: u32,
    sleep: u32,
    fail: u32,
    /// A commit goes wrong once in so many.
    commit: u32,
    /// Markers of a commit come late once in so many.
    slow: u32,
    outage: u32,
    hold: u32,
    /// A process leaves, to come back later, once in so many steps.
    leave: u32,
}

/// Never, as odds.
const NEVER: u32 = u32::MAX;

impl Odds {
    fn draw(dice: &mut StdRng) -> Odds {
        let mut pick = |of: &[u32]| of[dice.random_range(0..of.len())];
        Odds {
            every: pick(&[10, 20, 40, 100, 300]),
            kill: pick(&[0, 1, 2, 4]),
            sleep: pick(&[0, 1, 2, 4]),
            fail: pick(&[15, 60, 200, NEVER]),
            commit: pick(&[3, 6, 15, NEVER]),
            slow: pick(&[2, 4, NEVER]),
            outage: pick(&[100, 400, NEVER, NEVER]),
            hold: pick(&[10, 40, NEVER]),
            leave: pick(&[20, 60, NEVER]),
        }
    }
}

pub(super) struct Storm {
    pub log: EmbeddedLog,
    pub clock: Clock,
    pub crew: Mutex<Vec<Slot>>,
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub dice: StdRng,
    pub odds: Odds,
    /// Misfortunes that are still to come: then the run goes on in peace, so that it ends.
    pub left: u32,
    pub trace: Trace,
    pub books: Books,
    pub tide: Tide,
    pub phase: Option<Arc<Phase>>,
    pub failed: Option<Error>,
    /// By process: who it is in the group, and the lead partitions that it has.
    members: Vec<Option<GroupMetadata>>,
    held: Vec<BTreeSet<TopicPartition>>,
    depth: usize,
    away_until: Option<Moment>,
}

impl Storm {
    pub fn new(log: EmbeddedLog, seed: u64, processes: usize, tide: Tide) -> Arc<Storm> {
        let mut dice = StdRng::seed_from_u64(seed);
        let odds = Odds::draw(&mut dice);
        let inner = Inner {
            dice,
            odds,
            left: 0,
            trace: Trace::default(),
            books: Books::default(),
            tide,
            phase: None,
            failed: None,
            members: (0..processes).map(|_| None).collect(),
            held: vec![BTreeSet::new(); processes],
            depth: 0,
            away_until: None,
        };
        Arc::new(Storm { clock: log.clock(), log, crew: Mutex::default(), inner: Mutex::new(inner) })
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn books<T>(&self, change: impl FnOnce(&mut Books) -> T) -> T {
        change(&mut self.inner().books)
    }

    pub fn note(&self, process: impl Into<Option<usize>>, what: impl std::fmt::Display) {
        let now = self.clock.now();
        self.inner().trace.note(now, process.into(), what);
    }

    /// What must not happen did.
    pub fn fault(&self, number: usize, what: String) {
        self.note(number, format!("VIOLATION {what}"));
        self.inner().books.faults.push(what);
    }

    pub fn draw(&self, range: std::ops::Range<u32>) -> u32 {
        self.inner().dice.random_range(range)
    }

    pub fn millis(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.inner().dice.random_range(range))
    }

    /// Once in so many times, as long as misfortunes are left.
    fn strikes(&self, once_in: u32) -> bool {
        let mut inner = self.inner();
        let strikes = inner.left > 0 && once_in != NEVER && inner.dice.random_range(0..once_in) == 0;
        inner.left -= u32::from(strikes);
        strikes
    }

    fn once_in(&self, danger: Danger) -> u32 {
        self.inner().odds.every.saturating_mul(match danger {
            Danger::Great => 1,
            Danger::Usual => 3,
            Danger::Small => 15,
        })
    }

    /// At a call of the process: it may be its end, or it sleeps.
    pub fn fate(&self, number: usize, danger: Danger, what: &str, when: &str) {
        self.clear_up();
        let Odds { kill, sleep, .. } = self.inner().odds;
        if kill + sleep == 0 || !self.strikes(self.once_in(danger)) {
            return;
        }
        if self.draw(0..kill + sleep) < kill {
            self.note(number, format!("killed {when} {what}"));
            // The hook that prints a panic is not called.
            resume_unwind(Box::new(Killed));
        }
        self.sleep(number, what, when);
    }

    /// Whether the call gets no answer.
    pub fn fails(&self, number: usize, danger: Danger, what: &str) -> bool {
        let often = self.inner().odds.fail;
        let once_in = often.saturating_mul(if danger == Danger::Small { 5 } else { 1 });
        let fails = self.strikes(once_in);
        if fails {
            self.note(number, format!("no answer: {what}"));
        }
        fails
    }

    /// How many records a poll brings at most; `None`: none arrives.
    pub fn portion(&self, max_records: usize) -> Option<usize> {
        let mut inner = self.inner();
        match inner.dice.random_range(0..8) {
            0 if inner.left > 0 => None,
            1..=3 => Some(inner.dice.random_range(1..=max_records.clamp(1, 5))),
            _ => Some(max_records),
        }
    }

    pub fn commit_fault(&self, number: usize) -> Option<CommitFault> {
        let odds = self.inner().odds;
        let fault = if self.strikes(odds.commit) {
            let faults = [CommitFault::LostBefore, CommitFault::LostAfter, CommitFault::Abort, CommitFault::Fenced];
            faults[self.draw(0..4) as usize]
        } else if odds.slow != NEVER && self.draw(0..odds.slow) == 0 {
            match self.draw(0..3) {
                0 => CommitFault::LateMarkers,
                _ => CommitFault::SlowMarkers(u64::from(self.draw(0..u32::MAX))),
            }
        } else {
            return None;
        };
        self.note(number, format!("fault {fault:?}"));
        Some(fault)
    }

    /// What a process sends, by its bytes. The control topic holds times of the machine.
    pub fn sends(&self, number: usize, topic: &Topic, records: &Outgoing) {
        let mut hash = crc32fast::Hasher::new();
        for row in 0..records.len() {
            hash.update(&records.partitions[row].to_be_bytes());
            hash.update(records.keys.get(row).unwrap_or_default());
            hash.update(records.values.get(row).unwrap_or_default());
            for header in records.row_headers(row) {
                hash.update(header.value.as_deref().unwrap_or_default());
            }
        }
        let hash = if topic.as_str().ends_with(".control") { 0 } else { hash.finalize() };
        self.note(number, format!("sends {} records to {topic}: {hash:08x}", records.len()));
    }

    pub fn joined(&self, number: usize, member: GroupMetadata) {
        self.inner().members[number] = Some(member);
    }

    pub fn holds(&self, number: usize, change: impl FnOnce(&mut BTreeSet<TopicPartition>)) {
        change(&mut self.inner().held[number]);
    }

    pub fn is_held(&self, number: usize, lead: &TopicPartition) -> bool {
        self.inner().held[number].contains(lead)
    }

    /// Whether the process that steps now is asked to leave.
    pub fn leaves(&self) -> bool {
        let leave = self.inner().odds.leave;
        self.inner().phase.as_ref().is_some_and(|phase| phase.leavers) && self.strikes(leave)
    }

    /// The process is no more; its member stays in the group until its session is over.
    pub fn died(&self, number: usize) {
        let mut inner = self.inner();
        inner.members[number] = None;
        inner.held[number].clear();
    }

    /// The process stands still where it is, and the others go on.
    fn sleep(&self, number: usize, what: &str, when: &str) {
        if self.inner().depth >= MAX_DEPTH {
            return;
        }
        let time = match self.draw(0..5) {
            0 => self.millis(5..500),
            1 => self.millis(1_000..9_000),
            // Past the session, before the transaction times out.
            2 | 3 => self.millis(10_500..14_000),
            _ => self.millis(16_000..60_000),
        };
        self.note(number, format!("sleeps for {time:?} {when} {what}"));
        self.inner().depth += 1;
        let (asleep_at, rounds) = (self.clock.now(), self.draw(1..40));
        let mut expelled = false;
        for _ in 0..rounds {
            self.clock.sleep(time / rounds);
            if !expelled && self.clock.since(asleep_at) >= SESSION {
                expelled = true;
                self.expel(number);
            }
            for _ in 0..self.draw(0..6) {
                self.tick();
            }
        }
        self.inner().depth -= 1;
        self.note(number, "wakes up");
    }

    /// Its session is over.
    fn expel(&self, number: usize) {
        let Some(member) = self.inner().members[number].clone() else { return };
        self.note(number, "session is over");
        self.log.expel(&member);
    }

    /// Trouble that comes to all alike.
    pub fn weather(&self) {
        self.clear_up();
        let odds = self.inner().odds;
        if self.inner().away_until.is_none() && self.strikes(odds.outage) {
            let time = self.millis(100..8_000);
            let until = self.clock.now() + time;
            self.note(None, format!("the cluster is away for {time:?}"));
            self.inner().away_until = Some(until);
            self.log.faults().set_away(true);
        }
        if odds.hold != NEVER && self.inner().left > 0 && self.draw(0..odds.hold) == 0 {
            self.hold();
        }
    }

    /// One partition delivers later than the others.
    fn hold(&self) {
        let Ok(topics) = self.log.topics("") else { return };
        let partitions: Vec<TopicPartition> =
            topics.iter().flat_map(|info| partitions_of(&info.topic, info.partitions)).collect();
        let held = &partitions[self.draw(0..partitions.len() as u32) as usize];
        let time = self.millis(10..4_000);
        self.note(None, format!("{held} delivers nothing for {time:?}"));
        self.log.faults().hold(held, time);
    }

    /// The outage is over when its time is.
    pub fn clear_up(&self) {
        let over = self.inner().away_until.is_some_and(|until| until <= self.clock.now());
        if over {
            self.inner().away_until = None;
            self.note(None, "the cluster is back");
            self.log.faults().set_away(false);
        }
    }
}
