//! A member of a consumer group on the embedded log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::{Consumer, ConsumerSettings, GroupMetadata, Isolation, Polled};
use crate::record::{OffsetVector, TopicPartition};

use super::group::{Event, MemberId, Membership};
use super::state::{State, fenced};
use super::{Shared, Turn};

pub(super) struct Member {
    shared: Arc<Shared>,
    settings: ConsumerSettings,
    /// `None`: the session expired; the next poll joins again.
    id: Option<MemberId>,
    assigned: BTreeSet<TopicPartition>,
    /// Where delivery was started and not revoked since.
    positions: OffsetVector,
    paused: BTreeSet<TopicPartition>,
    /// As of the last poll.
    membership: Membership,
    turn: Turn,
    closed: bool,
}

impl Member {
    pub fn join(shared: Arc<Shared>, settings: &ConsumerSettings) -> Result<Member> {
        let membership = shared.change(|state| {
            state.reachable()?;
            match settings.topics.keys().find(|topic| !state.topics.contains_key(*topic)) {
                Some(topic) => Err(super::unknown(topic)),
                None => Ok(join(state, settings)),
            }
        })?;
        Ok(Member {
            shared,
            settings: settings.clone(),
            id: Some(membership.member),
            assigned: BTreeSet::new(),
            positions: OffsetVector::new(),
            paused: BTreeSet::new(),
            membership,
            turn: Turn::default(),
            closed: false,
        })
    }

    fn attempt(&mut self, state: &mut State, max_records: usize) -> Result<Option<Polled>> {
        if state.plan.away {
            return Ok(None);
        }
        let Some(id) = self.id else {
            self.membership = join(state, &self.settings);
            self.id = Some(self.membership.member);
            // Others may have to give partitions back: let them see it.
            self.shared.changed.notify_all();
            return self.attempt(state, max_records);
        };
        let group = &self.settings.group;
        if state.groups.get(group).and_then(|group| group.member(id)).is_none() {
            return self.expelled();
        }
        let (event, generation) = state.with_group(group, |group, _| {
            let event = group.next_event(id);
            (event, group.member(id).map(|member| member.generation))
        });
        self.membership.generation = generation.unwrap_or(self.membership.generation);
        match event {
            Some(Event::Assigned(partitions)) => {
                self.assigned.extend(partitions.iter().cloned());
                return Ok(Some(Polled::Assigned(partitions)));
            }
            Some(Event::Revoked(partitions)) => {
                let settings = &self.settings;
                self.positions.retain(|partition, _| !settings.lead_of(partition).is_some_and(|lead| partitions.contains(&lead)));
                return Ok(Some(Polled::Revoked(partitions)));
            }
            None => {}
        }
        let (turn, paused) = (&mut self.turn, &self.paused);
        let mut flowing: Vec<_> = self.positions.iter_mut().filter(|(partition, _)| !paused.contains(*partition)).collect();
        let chunks = turn.read(state, Isolation::Committed, max_records, &mut flowing)?;
        Ok(if chunks.is_empty() { None } else { Some(Polled::Records(chunks)) })
    }

    /// The group went on without this member: static members are fenced for good (KIP-345), others lost what they had.
    fn expelled(&mut self) -> Result<Option<Polled>> {
        if let Some(instance) = &self.settings.instance_id {
            let group = &self.settings.group;
            return Err(fenced(format!("group \"{group}\": instance \"{instance}\" was taken over by another member")));
        }
        self.id = None;
        let followers = self.positions.keys().cloned();
        let lost: BTreeSet<TopicPartition> = std::mem::take(&mut self.assigned).into_iter().chain(followers).collect();
        self.positions.clear();
        self.paused.clear();
        Ok(if lost.is_empty() { None } else { Some(Polled::Lost(lost.into_iter().collect())) })
    }

    fn known(&self, partition: &TopicPartition) -> Result<()> {
        if self.settings.lead_of(partition).is_some_and(|lead| self.assigned.contains(&lead)) {
            return Ok(());
        }
        Err(Error::failed(format!("{partition}: is not assigned to this member of group \"{}\"", self.settings.group)))
    }
}

fn join(state: &mut State, settings: &ConsumerSettings) -> Membership {
    let member = state.new_member();
    let (topics, instance_id) = (settings.topics.keys().cloned().collect(), settings.instance_id.clone());
    let generation = state.with_group(&settings.group, |group, counts| {
        group.join(member, topics, instance_id, counts);
        group.member(member).map_or(0, |member| member.generation)
    });
    Membership { group: settings.group.clone(), member, generation }
}

impl Consumer for Member {
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Polled> {
        let shared = self.shared.clone();
        let polled = shared.wait(timeout, |state| self.attempt(state, max_records))?;
        Ok(polled.unwrap_or(Polled::Idle))
    }

    fn start(&mut self, from: &OffsetVector) -> Result<()> {
        let state = self.shared.lock();
        for partition in from.keys() {
            self.known(partition)?;
            state.partition(partition)?;
        }
        drop(state);
        self.positions.extend(from.iter().map(|(partition, next)| (partition.clone(), *next)));
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        partitions.iter().try_for_each(|partition| self.known(partition))?;
        self.paused.extend(partitions.iter().cloned());
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        partitions.iter().try_for_each(|partition| self.known(partition))?;
        self.paused.retain(|partition| !partitions.contains(partition));
        Ok(())
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let settings = &self.settings;
        let goes = |partition: &TopicPartition| settings.lead_of(partition).is_some_and(|lead| partitions.contains(&lead));
        self.assigned.retain(|partition| !partitions.contains(partition));
        self.positions.retain(|partition, _| !goes(partition));
        self.paused.retain(|partition| !goes(partition));
        if let Some(id) = self.id {
            let group = &self.settings.group;
            self.shared.change(|state| state.with_group(group, |group, _| group.release(id, partitions)));
        }
        Ok(())
    }

    fn group_metadata(&self) -> GroupMetadata {
        GroupMetadata(Arc::new(self.membership.clone()))
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        self.closed = true;
        if let Some(id) = self.id {
            self.shared.change(|state| state.with_group(&self.settings.group, |group, counts| group.leave(id, counts)));
        }
        Ok(())
    }
}

impl Drop for Member {
    /// As a killed process: the group keeps the member until its session expires.
    fn drop(&mut self) {
        if let (Some(id), false) = (self.id, self.closed) {
            self.shared.change(|state| state.with_group(&self.settings.group, |group, _| group.mark_dropped(id)));
        }
    }
}
