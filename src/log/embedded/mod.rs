//! The embedded log: an in-process cluster for `demo`, `test` and most tests. No network, no files.
//!
//! [`EmbeddedLog`] is a handle; clones share one log, which lives as long as the last of them. What a process's death leaves behind:
//! - A [`Producer`] dropped with an open transaction leaves it open: it holds back committed readers until a producer of the same
//!   transactional id is opened, or [`EmbeddedLog::expire_transactions`] is called.
//! - A [`Consumer`] dropped without `close` leaves its member, and its partitions, in the group until somebody joins the group (so a
//!   restarted worker gets them at once), or commits for it or deletes it as a tool, or [`EmbeddedLog::expire_members`] is called.
//!
//! So a crash is: drop everything, open the same ids again.
//!
//! Time is a [`Clock`]'s. On a simulated one a wait is a jump: to the next thing that time brings (a marker on its way, a partition that was
//! held back, a transaction that has been open for too long), or to the end of the wait. Real time brings none of these.
//!
//! Invariant: two runs that make the same calls in the same order see the same log, polls included.

mod consumer;
mod fault;
mod group;
mod partition;
mod producer;
mod reader;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::record::{Chunk, Header, NextOffset, Offset, OffsetVector, Topic, TopicPartition};

use super::{
    CommittedOffsets, Consumer, ConsumerSettings, GroupMetadata, Isolation, Log, NewTopic, Producer, ProducerSettings, Reader,
    TopicInfo,
};

pub use fault::{CommitFault, Faults};
use partition::{PartitionLog, Record};
use state::{State, TopicLog};

/// How long `committed` waits for an undecided transaction before it says `Away`, as a Kafka client does in the end.
const PENDING_OFFSETS_WAIT: Duration = Duration::from_secs(2);

/// A log in this process's memory.
#[derive(Clone, Default)]
pub struct EmbeddedLog {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    clock: Clock,
}

impl Shared {
    /// A panic of another thread leaves the state between two whole calls: usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.clock.is_simulated() {
            state.time_is(self.clock.now());
        }
        state
    }

    /// Changes the state and wakes whoever waits in a poll.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Tries until `attempt` brings something or the time is over: never waits while there is something.
    fn wait<T>(&self, timeout: Duration, mut attempt: impl FnMut(&mut State) -> Result<Option<T>>) -> Result<Option<T>> {
        let mut state = self.lock();
        let started = self.clock.now();
        loop {
            if let Some(found) = attempt(&mut state)? {
                return Ok(Some(found));
            }
            let left = timeout.saturating_sub(self.clock.since(started));
            if left.is_zero() {
                return Ok(None);
            }
            if self.clock.is_simulated() {
                let next = state.next_at().map_or(left, |at| at.saturating_since(self.clock.now()).min(left));
                self.clock.sleep(next.max(Duration::from_nanos(1)));
                state.time_is(self.clock.now());
                continue;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl EmbeddedLog {
    pub fn new() -> EmbeddedLog {
        EmbeddedLog::default()
    }

    /// A log that waits by the given clock.
    pub fn on(clock: Clock) -> EmbeddedLog {
        EmbeddedLog { shared: Arc::new(Shared { clock, ..Shared::default() }) }
    }

    pub fn faults(&self) -> Faults {
        Faults(self.shared.clone())
    }

    /// Writes one record outside of any transaction, as a plain producer does. The timestamp is in milliseconds.
    pub fn append(
        &self,
        topic: &Topic,
        partition: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Vec<Header>,
    ) -> Result<Offset> {
        let record = Record { timestamp, key: key.map(Box::from), value: value.map(Box::from), headers };
        self.shared.change(|state| state.append(&topic.partition(partition), None, record))
    }

    /// All records of a topic that a reader of this isolation sees now, one chunk per partition.
    pub fn read(&self, topic: &Topic, isolation: Isolation) -> Result<Vec<Chunk>> {
        let mut state = self.shared.lock();
        let count = state.topics.get(topic).map_or(0, |topic| topic.info.partitions);
        let partitions = super::partitions_of(topic, count);
        for partition in &partitions {
            state.partition_mut(partition)?.markers_arrive();
        }
        partitions
            .iter()
            .map(|partition| state.read(partition, state.partition(partition)?.start(), isolation, usize::MAX))
            .collect()
    }

    /// Compacts a topic now, whatever its `cleanup.policy`: below the last stable offset the last value per key stays, and what was
    /// aborted goes, as do tombstones if asked. Leaves holes; the ends stay where they are.
    pub fn compact(&self, topic: &Topic, drop_tombstones: bool) -> Result<()> {
        self.shared.change(|state| {
            let log = state.topics.get_mut(topic).ok_or_else(|| unknown(topic))?;
            log.partitions.iter_mut().for_each(|partition| partition.compact(drop_tombstones));
            Ok(())
        })
    }

    /// Aborts every open transaction, as a broker does after `transaction.timeout.ms`. Producers that still live are fenced.
    pub fn expire_transactions(&self) {
        self.shared.change(State::expire_transactions);
    }

    /// Expels the members whose consumer was dropped.
    pub fn expire_members(&self) {
        self.shared.change(|state| {
            let counts = state.partition_counts();
            state.groups.values_mut().for_each(|group| group.expire_dropped(&counts));
        });
    }

    /// Lets the sessions of all members of a group expire, also of those that live: each gets `Lost` in its next poll, and joins again
    /// in the one after.
    pub fn expel_members(&self, group: &str) {
        self.shared.change(|state| state.with_group(group, |group, counts| group.expel_all(counts)));
    }

    /// Lets the session of one member expire, which need not know it: whoever has this metadata is out of the group.
    pub fn expel(&self, member: &GroupMetadata) {
        if let Some(group::Membership { group, member, .. }) = group::Membership::of(member) {
            self.shared.change(|state| state.with_group(group, |group, counts| group.leave(*member, counts)));
        }
    }

    /// From now on every rebalance takes all partitions from all members before it deals them out again (the eager protocol), instead of
    /// those that change hands.
    pub fn rebalance_eagerly(&self) {
        self.shared.change(|state| state.eager = true);
    }

    /// From now on polls take partitions in an order, and in portions, drawn from this seed; 0: in turn.
    pub fn interleave(&self, seed: u64) {
        self.shared.change(|state| state.interleaving = seed);
    }
}

impl Log for EmbeddedLog {
    fn clock(&self) -> Clock {
        self.shared.clock.clone()
    }

    fn cluster_id(&self) -> Result<Option<String>> {
        self.shared.lock().reachable()?;
        Ok(Some("embedded".to_owned()))
    }

    fn topic(&self, topic: &Topic) -> Result<Option<TopicInfo>> {
        let state = self.shared.lock();
        state.reachable()?;
        Ok(state.topics.get(topic).map(|log| log.info.clone()))
    }

    fn topics(&self, prefix: &str) -> Result<Vec<TopicInfo>> {
        let state = self.shared.lock();
        state.reachable()?;
        let found = state
            .topics
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(topic, _)| topic.as_str().starts_with(prefix));
        Ok(found.map(|(_, log)| log.info.clone()).collect())
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<()> {
        self.shared.change(|state| {
            state.reachable()?;
            topics.iter().try_for_each(|new| create_topic(state, new))?;
            state.topics_changed(&topics.iter().map(|new| new.topic.clone()).collect());
            Ok(())
        })
    }

    fn delete_topics(&self, topics: &[Topic]) -> Result<()> {
        self.shared.change(|state| {
            state.reachable()?;
            let deleted: BTreeSet<Topic> = topics.iter().filter(|topic| state.topics.remove(*topic).is_some()).cloned().collect();
            for group in state.groups.values_mut() {
                group.offsets.retain(|partition, _| !deleted.contains(&partition.topic));
            }
            state.topics_changed(&deleted);
            Ok(())
        })
    }

    fn delete_records(&self, below: &OffsetVector) -> Result<()> {
        self.shared.change(|state| {
            state.reachable()?;
            for (partition, below) in below {
                let log = state.partition_mut(partition)?;
                let end = log.end(Isolation::Uncommitted);
                if *below > end {
                    return Err(Error::config(format!("{partition}: can't delete below {below}, the end is {end}")));
                }
                log.delete_below(*below);
            }
            Ok(())
        })
    }

    fn delete_group(&self, group: &str) -> Result<()> {
        self.shared.change(|state| {
            state.reachable()?;
            at_rest(state, group)?;
            state.groups.remove(group);
            Ok(())
        })
    }

    fn start_offsets(&self, partitions: &[TopicPartition]) -> Result<OffsetVector> {
        self.shared.lock().positions(partitions, PartitionLog::start)
    }

    fn end_offsets(&self, partitions: &[TopicPartition], isolation: Isolation) -> Result<OffsetVector> {
        self.shared.lock().positions(partitions, |log| log.end(isolation))
    }

    fn offsets_for_times(&self, partitions: &[TopicPartition], millis: i64) -> Result<OffsetVector> {
        self.shared.lock().positions(partitions, |log| log.offset_for_time(millis))
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<CommittedOffsets> {
        let pending = |state: &State| {
            let undecided = state.groups.get(group).into_iter().flat_map(|group| group.pending.values());
            undecided.flatten().any(|(partition, _)| partitions.contains(partition))
        };
        let stable = self.shared.wait(PENDING_OFFSETS_WAIT, |state| {
            state.reachable()?;
            if pending(state) {
                return Ok(None);
            }
            let offsets = state.groups.get(group).map(|group| &group.offsets);
            let found = partitions.iter().filter_map(|p| Some((p.clone(), offsets?.get(p)?.clone())));
            Ok(Some(found.collect()))
        })?;
        stable.ok_or_else(|| {
            Error::away(format!("group \"{group}\": offsets in an open transaction are not stable"))
                .hint("open the producer of that transactional id first, it settles the transaction")
        })
    }

    fn commit(&self, group: &str, offsets: &CommittedOffsets) -> Result<()> {
        self.shared.change(|state| {
            state.reachable()?;
            at_rest(state, group)?;
            state.check_partitions(offsets)?;
            state.with_group(group, |group, _| group.offsets.extend(offsets.clone()));
            Ok(())
        })
    }

    fn consumer(&self, settings: &ConsumerSettings) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(consumer::Member::join(self.shared.clone(), settings)?))
    }

    fn reader(&self, isolation: Isolation, from: &OffsetVector) -> Result<Box<dyn Reader>> {
        Ok(Box::new(reader::PartitionReader::open(self.shared.clone(), isolation, from)?))
    }

    fn outsider(&self, group: &str) -> GroupMetadata {
        group::Membership::outsider(group)
    }

    fn producer(&self, settings: &ProducerSettings) -> Result<Box<dyn Producer>> {
        Ok(Box::new(producer::Writer::open(self.shared.clone(), settings)?))
    }
}

fn create_topic(state: &mut State, new: &NewTopic) -> Result<()> {
    let NewTopic { topic, partitions, config, .. } = new;
    if let Some(existing) = state.topics.get(topic) {
        let found = existing.info.partitions;
        if found == *partitions {
            return Ok(());
        }
        return Err(Error::config(format!("topic \"{topic}\" exists with {found} partitions, not {partitions}")));
    }
    if *partitions < 1 {
        return Err(Error::config(format!("topic \"{topic}\": {partitions} partitions, at least 1 is needed")));
    }
    let compacted = config.get("cleanup.policy").is_some_and(|policy| policy.split(',').any(|p| p.trim() == "compact"));
    let info = TopicInfo { topic: topic.clone(), partitions: *partitions, id: Some(state.new_topic_id()), compacted };
    let partitions = (0..*partitions).map(|_| PartitionLog::default()).collect();
    state.topics.insert(topic.clone(), TopicLog { info, partitions });
    Ok(())
}

/// Refuses a tool's change while the group has members whose consumers live.
fn at_rest(state: &mut State, name: &str) -> Result<()> {
    if !state.groups.contains_key(name) {
        return Ok(());
    }
    state.with_group(name, |group, counts| {
        group.expire_dropped(counts);
        if group.has_live_members() {
            return Err(Error::config(format!("group \"{name}\" has members")).hint("stop its members first"));
        }
        Ok(())
    })
}

fn unknown(topic: &Topic) -> Error {
    Error::config(format!("topic \"{topic}\" does not exist"))
}

/// Reads partitions in turn, or as a seed draws them: the delivery of both consumer and reader.
#[derive(Debug, Default)]
struct Turn {
    polls: u64,
}

impl Turn {
    /// Reads at most about `max` records and moves the positions; empty when there is nothing. A chunk comes only where the position moves.
    fn read(
        &mut self,
        state: &mut State,
        isolation: Isolation,
        max: usize,
        positions: &mut [(&TopicPartition, &mut NextOffset)],
    ) -> Result<Vec<Chunk>> {
        if positions.is_empty() || state.plan.away {
            return Ok(Vec::new());
        }
        let share = (max / positions.len()).max(1);
        let mut chunks = Vec::new();
        let mut draw = Draw(state.interleaving.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.polls));
        let first = self.polls as usize % positions.len();
        positions.rotate_left(first);
        if state.interleaving != 0 {
            for last in (1..positions.len()).rev() {
                positions.swap(last, draw.below(last + 1));
            }
        }
        for (partition, position) in positions.iter_mut() {
            let portion = if state.interleaving == 0 { share } else { draw.below(share.min(64) + 1) };
            // Whoever comes last delivers at least one record if nobody before did, so that every poll makes progress.
            let portion = if chunks.is_empty() { portion.max(1) } else { portion };
            if portion == 0 || state.is_held(partition) {
                continue;
            }
            state.partition_mut(partition)?.markers_arrive();
            let chunk = state.read(partition, **position, isolation, portion)?;
            if chunk.next > **position {
                **position = chunk.next;
                chunks.push(chunk);
            }
        }
        if !chunks.is_empty() {
            self.polls += 1;
        }
        Ok(chunks)
    }
}

/// splitmix64: the same draws from the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
