//! Consumer groups: who shares which partitions, cooperative hand-over, generations, committed offsets.
//!
//! ```text
//!   target says B, A owns:   A: Revoked ──▶ A: release ──▶ nobody owns ──▶ B: Assigned
//! ```
//! Every change of membership, and every release, is a rebalance and raises the generation. A member learns it in its next poll.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::log::{CommittedOffsets, GroupMetadata};
use crate::record::{Topic, TopicPartition};

use super::partition::TransactionNumber;

pub(super) type MemberId = u64;

#[derive(Debug)]
pub(super) enum Event {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>),
}

#[derive(Debug)]
pub(super) struct Member {
    pub topics: Vec<Topic>,
    pub instance_id: Option<String>,
    pub events: VecDeque<Event>,
    /// Owned partitions that it was told to give back.
    revoking: BTreeSet<TopicPartition>,
    /// The generation as of its last poll.
    pub generation: i32,
    /// Its consumer was dropped without `close`, as a killed process's.
    pub dropped: bool,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    members: BTreeMap<MemberId, Member>,
    generation: i32,
    /// A rebalance takes all partitions from all members before it deals them out again.
    pub eager: bool,
    target: BTreeMap<TopicPartition, MemberId>,
    owner: BTreeMap<TopicPartition, MemberId>,
    pub offsets: CommittedOffsets,
    /// Offsets in transactions that are not decided.
    pub pending: BTreeMap<TransactionNumber, CommittedOffsets>,
}

/// What [`GroupMetadata`] holds here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub group: String,
    pub member: MemberId,
    pub generation: i32,
}

/// The generation that somebody names who is no member.
const NO_GENERATION: i32 = -1;

impl Membership {
    /// Kafka's classic groups take offsets in a transaction of somebody who names no member, whoever is in the group.
    pub fn outsider(group: &str) -> GroupMetadata {
        GroupMetadata(Arc::new(Membership { group: group.to_owned(), member: 0, generation: NO_GENERATION }))
    }

    pub fn is_outsider(&self) -> bool {
        self.generation == NO_GENERATION
    }

    pub fn of(metadata: &GroupMetadata) -> Option<&Membership> {
        metadata.0.downcast_ref()
    }
}

/// Why a commit under some group metadata is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// The member is not in the group any more.
    Expelled,
    /// The group went on to another generation: poll, then try again.
    Generation,
}

impl Group {
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Members that hold the group: those whose consumer still lives.
    pub fn has_live_members(&self) -> bool {
        self.members.values().any(|member| !member.dropped)
    }

    pub fn subscribes(&self, topics: &BTreeSet<Topic>) -> bool {
        self.members.values().any(|member| member.topics.iter().any(|topic| topics.contains(topic)))
    }

    pub fn join(&mut self, id: MemberId, topics: Vec<Topic>, instance_id: Option<String>, counts: &BTreeMap<Topic, i32>) {
        self.expire_dropped(counts);
        if instance_id.is_some() {
            // KIP-345: the newcomer takes the place of the member of the same instance, which is fenced.
            self.members.retain(|_, member| member.instance_id != instance_id);
        }
        let member = Member {
            topics,
            instance_id,
            events: VecDeque::new(),
            revoking: BTreeSet::new(),
            generation: self.generation,
            dropped: false,
        };
        self.members.insert(id, member);
        self.rebalance(counts);
    }

    pub fn leave(&mut self, id: MemberId, counts: &BTreeMap<Topic, i32>) {
        if self.members.remove(&id).is_some() {
            self.rebalance(counts);
        }
    }

    pub fn mark_dropped(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.dropped = true;
        }
    }

    pub fn expire_dropped(&mut self, counts: &BTreeMap<Topic, i32>) {
        let before = self.members.len();
        self.members.retain(|_, member| !member.dropped);
        if self.members.len() < before {
            self.rebalance(counts);
        }
    }

    /// Every session expires, also of members that live: they find out at their next poll.
    pub fn expel_all(&mut self, counts: &BTreeMap<Topic, i32>) {
        self.members.clear();
        self.rebalance(counts);
    }

    /// The member's next event. It has now seen the group's generation.
    pub fn next_event(&mut self, id: MemberId) -> Option<Event> {
        let generation = self.generation;
        let member = self.members.get_mut(&id)?;
        member.generation = generation;
        member.events.pop_front()
    }

    pub fn release(&mut self, id: MemberId, partitions: &[TopicPartition]) {
        let mut released = false;
        for partition in partitions {
            if self.owner.get(partition) == Some(&id) {
                self.owner.remove(partition);
                released = true;
            }
        }
        if let Some(member) = self.members.get_mut(&id) {
            partitions.iter().for_each(|partition| {
                member.revoking.remove(partition);
            });
        }
        if released {
            self.generation += 1;
            self.settle();
        }
    }

    pub fn check(&self, membership: &Membership) -> Result<(), Stale> {
        if !self.members.contains_key(&membership.member) {
            return Err(Stale::Expelled);
        }
        if membership.generation != self.generation {
            return Err(Stale::Generation);
        }
        Ok(())
    }

    /// Sticky and even: every member keeps what it has, as far as the numbers differ by one at most.
    pub fn rebalance(&mut self, counts: &BTreeMap<Topic, i32>) {
        self.generation += 1;
        let members = &self.members;
        let subscribed: BTreeSet<&Topic> = members.values().flat_map(|member| &member.topics).collect();
        let partitions: Vec<TopicPartition> = subscribed
            .into_iter()
            .filter_map(|topic| counts.get(topic).map(|count| (topic, *count)))
            .flat_map(|(topic, count)| crate::log::partitions_of(topic, count))
            .collect();
        self.owner.retain(|_, id| members.contains_key(id));
        let mut target: BTreeMap<TopicPartition, MemberId> = BTreeMap::new();
        let mut load: BTreeMap<MemberId, usize> = members.keys().map(|id| (*id, 0)).collect();
        let eligible = |id: &MemberId, partition: &TopicPartition| {
            members.get(id).is_some_and(|member| member.topics.contains(&partition.topic))
        };
        let mut free = Vec::new();
        for partition in partitions {
            let former = self.target.get(&partition).or_else(|| self.owner.get(&partition));
            match former.filter(|id| eligible(id, &partition)) {
                Some(id) => {
                    *load.entry(*id).or_default() += 1;
                    target.insert(partition, *id);
                }
                None => free.push(partition),
            }
        }
        for partition in free {
            let least = load.iter().filter(|(id, _)| eligible(id, &partition)).min_by_key(|(id, load)| (**load, **id));
            if let Some((&id, _)) = least {
                *load.entry(id).or_default() += 1;
                target.insert(partition, id);
            }
        }
        while let Some((partition, from, to)) = uneven(&target, &load, eligible) {
            target.insert(partition, to);
            *load.entry(from).or_default() -= 1;
            *load.entry(to).or_default() += 1;
        }
        let changed = self.target != target || self.owner.len() != target.len();
        self.target = target;
        if self.eager && changed {
            self.revoke_all();
        }
        self.settle();
    }

    /// The eager protocol: nobody keeps what it has through a rebalance, even if it will have it again.
    fn revoke_all(&mut self) {
        for (id, member) in &mut self.members {
            let owned = self.owner.iter().filter(|(_, owner)| *owner == id).map(|(partition, _)| partition.clone());
            let new: Vec<TopicPartition> = owned.filter(|partition| member.revoking.insert(partition.clone())).collect();
            if !new.is_empty() {
                member.events.push_back(Event::Revoked(new));
            }
        }
    }

    /// Turns the difference between who owns and who should own into events.
    fn settle(&mut self) {
        if self.eager && self.members.values().any(|member| !member.revoking.is_empty()) {
            return;
        }
        let mut assigned: BTreeMap<MemberId, Vec<TopicPartition>> = BTreeMap::new();
        let mut revoked: BTreeMap<MemberId, Vec<TopicPartition>> = BTreeMap::new();
        for (partition, id) in &self.target {
            match self.owner.get(partition) {
                None => {
                    self.owner.insert(partition.clone(), *id);
                    assigned.entry(*id).or_default().push(partition.clone());
                }
                Some(owner) if owner != id => revoked.entry(*owner).or_default().push(partition.clone()),
                Some(_) => {}
            }
        }
        for (partition, owner) in &self.owner {
            if !self.target.contains_key(partition) {
                revoked.entry(*owner).or_default().push(partition.clone());
            }
        }
        for (id, partitions) in revoked {
            let member = self.members.get_mut(&id).expect("an owner is a member");
            let new: Vec<TopicPartition> = partitions.into_iter().filter(|p| member.revoking.insert(p.clone())).collect();
            if !new.is_empty() {
                member.events.push_back(Event::Revoked(new));
            }
        }
        for (id, partitions) in assigned {
            let member = self.members.get_mut(&id).expect("a target is a member");
            member.events.push_back(Event::Assigned(partitions));
        }
    }
}

/// A partition to move from a member to one that has at least two fewer.
fn uneven(
    target: &BTreeMap<TopicPartition, MemberId>,
    load: &BTreeMap<MemberId, usize>,
    eligible: impl Fn(&MemberId, &TopicPartition) -> bool,
) -> Option<(TopicPartition, MemberId, MemberId)> {
    let mut poorest_first: Vec<_> = load.iter().map(|(id, load)| (*load, *id)).collect();
    poorest_first.sort_unstable();
    for &(few, to) in &poorest_first {
        for &(many, from) in poorest_first.iter().rev() {
            if many < few + 2 {
                break;
            }
            let moved = target.iter().rev().find(|(partition, owner)| **owner == from && eligible(&to, partition));
            if let Some((partition, _)) = moved {
                return Some((partition.clone(), from, to));
            }
        }
    }
    None
}
