//! Everything the log holds, behind one lock: topics, groups, transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::Moment;
use crate::error::{Error, Kind, Result};
use crate::log::{CommittedOffsets, GroupMetadata, Isolation, TopicInfo};
use crate::record::{Chunk, NextOffset, Offset, OffsetVector, Topic, TopicPartition};

use super::fault::Plan;
use super::group::{Group, MemberId, Membership, Stale};
use super::partition::{PartitionLog, Record, TransactionNumber};

#[derive(Debug)]
pub(super) struct TopicLog {
    pub info: TopicInfo,
    pub partitions: Vec<PartitionLog>,
}

/// What the log remembers of a transactional id.
#[derive(Debug, Default)]
pub(super) struct Transactional {
    /// Raised by every `init_transactions`: a producer of an earlier epoch is fenced.
    pub epoch: i32,
    pub open: Option<TransactionNumber>,
    /// When the open transaction times out; only on a simulated clock.
    expires_at: Option<Moment>,
    /// Committed, with markers still on their way: the next transaction waits for them.
    arriving: Option<TransactionNumber>,
    /// Aborted, but still open where it wrote.
    left: Option<TransactionNumber>,
}

/// What reaches its place some time after its transaction was committed.
#[derive(Debug)]
enum Late {
    Marker(TopicPartition),
    Offsets(String),
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub topics: BTreeMap<Topic, TopicLog>,
    pub groups: BTreeMap<String, Group>,
    pub transactional: BTreeMap<String, Transactional>,
    pub plan: Plan,
    pub commits: u64,
    /// Seeds the interleaving of partitions in polls; 0: round and round.
    pub interleaving: u64,
    /// Rebalances take everything from everybody first.
    pub eager: bool,
    /// As of the last call, on a simulated clock.
    now: Moment,
    late: BTreeMap<(Moment, TransactionNumber), Vec<Late>>,
    held: BTreeMap<TopicPartition, Moment>,
    topics_made: u64,
    members_made: MemberId,
    transactions_made: TransactionNumber,
}

impl State {
    pub fn reachable(&self) -> Result<()> {
        if self.plan.away { Err(Error::away("embedded log: away (an injected fault)")) } else { Ok(()) }
    }

    pub fn new_topic_id(&mut self) -> String {
        self.topics_made += 1;
        format!("embedded-{}", self.topics_made)
    }

    pub fn new_member(&mut self) -> MemberId {
        self.members_made += 1;
        self.members_made
    }

    pub fn partition(&self, partition: &TopicPartition) -> Result<&PartitionLog> {
        self.topics
            .get(&partition.topic)
            .and_then(|topic| topic.partitions.get(usize::try_from(partition.partition.0).ok()?))
            .ok_or_else(|| missing(partition))
    }

    pub fn partition_mut(&mut self, partition: &TopicPartition) -> Result<&mut PartitionLog> {
        self.topics
            .get_mut(&partition.topic)
            .and_then(|topic| topic.partitions.get_mut(usize::try_from(partition.partition.0).ok()?))
            .ok_or_else(|| missing(partition))
    }

    pub fn positions(&self, partitions: &[TopicPartition], of: impl Fn(&PartitionLog) -> NextOffset) -> Result<OffsetVector> {
        self.reachable()?;
        partitions.iter().map(|partition| Ok((partition.clone(), of(self.partition(partition)?)))).collect()
    }

    /// Reads as a client with `auto.offset.reset=none`: a position outside of the log is an error, never moved.
    pub fn read(&self, partition: &TopicPartition, from: NextOffset, isolation: Isolation, max: usize) -> Result<Chunk> {
        let log = self.partition(partition)?;
        let (start, end) = (log.start(), log.end(Isolation::Uncommitted));
        if from < start {
            return Err(Error::config(format!("{partition}: offset {from} is below the log start {start}")));
        }
        if from > end {
            return Err(Error::config(format!("{partition}: offset {from} is above the end {end}")));
        }
        Ok(log.read(partition, from, isolation, max))
    }

    pub fn partition_counts(&self) -> BTreeMap<Topic, i32> {
        self.topics.iter().map(|(topic, log)| (topic.clone(), log.info.partitions)).collect()
    }

    /// Changes a group together with what the topics are now.
    pub fn with_group<T>(&mut self, name: &str, change: impl FnOnce(&mut Group, &BTreeMap<Topic, i32>) -> T) -> T {
        let counts = self.partition_counts();
        let group = self.groups.entry(name.to_owned()).or_default();
        group.eager = self.eager;
        change(group, &counts)
    }

    pub fn topics_changed(&mut self, changed: &BTreeSet<Topic>) {
        let counts = self.partition_counts();
        self.groups.values_mut().filter(|group| group.subscribes(changed)).for_each(|group| group.rebalance(&counts));
    }

    /// `init_transactions`: raises the epoch and aborts what an earlier producer of the id left open.
    pub fn open_producer(&mut self, id: &str) -> i32 {
        self.arrive_now(id);
        let transactional = self.transactional.entry(id.to_owned()).or_default();
        transactional.epoch += 1;
        let (epoch, open) = (transactional.epoch, transactional.open.take());
        if let Some(number) = open {
            self.abort_orphan(id, number);
        }
        epoch
    }

    /// Nobody is there any more to abort it.
    fn abort_orphan(&mut self, id: &str, number: TransactionNumber) {
        if self.plan.lose_aborts {
            self.transactional.entry(id.to_owned()).or_default().left = Some(number);
        } else {
            self.finish(number, false);
        }
    }

    /// Decides what a former transaction of this id has left open.
    pub fn finish_left(&mut self, id: &str, commit: bool) {
        if let Some(left) = self.transactional.get_mut(id).and_then(|transactional| transactional.left.take()) {
            self.finish(left, commit);
        }
    }

    pub fn transactional(&mut self, id: &str, epoch: i32) -> Result<&mut Transactional> {
        let transactional = self.transactional.entry(id.to_owned()).or_default();
        if transactional.epoch != epoch {
            let newer = transactional.epoch;
            return Err(fenced(format!("transactional id \"{id}\": epoch {epoch} is fenced by epoch {newer}")));
        }
        Ok(transactional)
    }

    pub fn begin(&mut self, id: &str, epoch: i32, timeout: Duration) -> Result<TransactionNumber> {
        let (next, expires_at) = (self.transactions_made + 1, self.now + timeout);
        let transactional = self.transactional(id, epoch)?;
        if transactional.open.is_some() {
            return Err(Error::failed(format!("transactional id \"{id}\": a transaction is open already")));
        }
        transactional.open = Some(next);
        transactional.expires_at = Some(expires_at);
        self.arrive_now(id);
        self.transactions_made = next;
        Ok(next)
    }

    /// Decides a transaction: its markers are written, its offsets become the groups' or vanish.
    pub fn finish(&mut self, number: TransactionNumber, commit: bool) {
        self.topics.values_mut().flat_map(|topic| &mut topic.partitions).for_each(|log| log.finish(number, commit));
        for group in self.groups.values_mut() {
            if let Some(offsets) = group.pending.remove(&number)
                && commit
            {
                group.offsets.extend(offsets);
            }
        }
    }

    /// Commits a transaction whose markers reach the partitions later than its offsets the group.
    pub fn finish_late(&mut self, number: TransactionNumber) {
        self.topics.values_mut().flat_map(|topic| &mut topic.partitions).for_each(|log| log.finish_late(number));
        for group in self.groups.values_mut() {
            if let Some(offsets) = group.pending.remove(&number) {
                group.offsets.extend(offsets);
            }
        }
    }

    /// Commits a transaction whose markers reach each partition, and its offsets the group, at a time of their own: `delay` draws it.
    pub fn finish_slowly(&mut self, id: &str, number: TransactionNumber, mut delay: impl FnMut() -> Duration) {
        let mut late = Vec::new();
        for (topic, log) in &self.topics {
            let wrote = (0..).zip(&log.partitions).filter(|(_, log)| log.has_open(number));
            late.extend(wrote.map(|(at, _)| Late::Marker(topic.partition(at))));
        }
        let groups = self.groups.iter().filter(|(_, group)| group.pending.contains_key(&number));
        late.extend(groups.map(|(name, _)| Late::Offsets(name.clone())));
        for late in late {
            self.late.entry((self.now + delay(), number)).or_default().push(late);
        }
        self.transactional.entry(id.to_owned()).or_default().arriving = Some(number);
    }

    /// What is still on its way of the last transaction of this id: the log lets the next one wait for it.
    fn arrive_now(&mut self, id: &str) {
        let Some(number) = self.transactional.get_mut(id).and_then(|transactional| transactional.arriving.take()) else { return };
        let keys: Vec<_> = self.late.keys().filter(|(_, of)| *of == number).copied().collect();
        keys.into_iter().for_each(|key| self.arrive(key));
    }

    fn arrive(&mut self, key: (Moment, TransactionNumber)) {
        for late in self.late.remove(&key).into_iter().flatten() {
            match late {
                Late::Marker(partition) => {
                    // The topic may be gone.
                    if let Ok(log) = self.partition_mut(&partition) {
                        log.finish(key.1, true);
                    }
                }
                Late::Offsets(group) => {
                    if let Some(group) = self.groups.get_mut(&group)
                        && let Some(offsets) = group.pending.remove(&key.1)
                    {
                        group.offsets.extend(offsets);
                    }
                }
            }
        }
    }

    /// What time has brought by now.
    pub fn time_is(&mut self, now: Moment) {
        self.now = now;
        while let Some(key) = self.late.keys().next().copied().filter(|(at, _)| *at <= now) {
            self.arrive(key);
        }
        self.held.retain(|_, until| *until > now);
        self.expire_transactions_if(|transactional| transactional.expires_at.is_some_and(|at| at <= now));
    }

    /// When time brings something next.
    pub fn next_at(&self) -> Option<Moment> {
        let late = self.late.keys().next().map(|(at, _)| *at);
        let held = self.held.values().min().copied();
        let open = self.transactional.values().filter(|transactional| transactional.open.is_some());
        let expiry = open.filter_map(|transactional| transactional.expires_at).min();
        late.into_iter().chain(held).chain(expiry).min()
    }

    /// Nothing is delivered from the partition before then.
    pub fn hold(&mut self, partition: TopicPartition, time: Duration) {
        self.held.insert(partition, self.now + time);
    }

    pub fn is_held(&self, partition: &TopicPartition) -> bool {
        self.held.contains_key(partition)
    }

    /// Aborts every open transaction, as the broker does after `transaction.timeout.ms`; their producers are fenced.
    pub fn expire_transactions(&mut self) {
        self.expire_transactions_if(|_| true);
    }

    fn expire_transactions_if(&mut self, expired: impl Fn(&Transactional) -> bool) {
        let mut aborted = Vec::new();
        for (id, transactional) in self.transactional.iter_mut().filter(|(_, transactional)| expired(transactional)) {
            if let Some(number) = transactional.open.take() {
                transactional.epoch += 1;
                aborted.push((id.clone(), number));
            }
        }
        aborted.into_iter().for_each(|(id, number)| self.abort_orphan(&id, number));
    }

    pub fn append(&mut self, partition: &TopicPartition, number: Option<TransactionNumber>, record: Record) -> Result<Offset> {
        Ok(self.partition_mut(partition)?.append(number, record))
    }

    /// Whether a commit of the group's offsets under this metadata is still the group's business.
    pub fn check_member(&self, group: &str, metadata: &GroupMetadata) -> Result<()> {
        let membership = Membership::of(metadata)
            .filter(|membership| membership.group == group)
            .ok_or_else(|| Error::failed(format!("group \"{group}\": metadata of another log or group")))?;
        if membership.is_outsider() {
            return Ok(());
        }
        let generation = membership.generation;
        match self.groups.get(group).map_or(Err(Stale::Expelled), |group| group.check(membership)) {
            Ok(()) => Ok(()),
            Err(Stale::Expelled) => Err(fenced(format!("group \"{group}\": the member left or was expelled"))),
            Err(Stale::Generation) => {
                Err(Error::new(Kind::Abort, format!("group \"{group}\": generation {generation} is not valid any more")))
            }
        }
    }

    pub fn check_partitions(&self, offsets: &CommittedOffsets) -> Result<()> {
        offsets.keys().try_for_each(|partition| self.partition(partition).map(|_| ()))
    }
}

pub(super) fn fenced(message: String) -> Error {
    Error::new(Kind::Fenced, message)
}

fn missing(partition: &TopicPartition) -> Error {
    Error::config(format!("{partition}: does not exist"))
}
