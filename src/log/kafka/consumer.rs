//! One member of a consumer group, whose rebalances are events.
//!
//! librdkafka asks for an answer to every rebalance. An assignment is answered at once, with nothing: the group goes on, and partitions
//! are handed to the fetcher when [`Consumer::start`] says from where, however long a restore takes. A revocation is answered in
//! [`Consumer::release`], after the transaction: until then the group waits, and nobody else gets the partitions.
//!
//! ```text
//!   ASSIGN ──▶ answered with nothing ──▶ Polled::Assigned ──▶ start ──▶ fetched
//!   REVOKE ──▶ Polled::Revoked ──▶ (commit or abort) ──▶ release ──▶ answered
//!   REVOKE, lost ──▶ answered ──▶ Polled::Lost
//! ```
//! Both cooperative-sticky and `group.protocol=consumer` (KIP-848) are incremental in this sense.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::bindings as rk;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};

use crate::error::{Error, Kind, Result};
use crate::log::{Consumer, ConsumerSettings, GroupMetadata, Isolation, Polled};
use crate::record::{OffsetVector, Topic, TopicPartition};

use super::failure::Failure;
use super::fetch::Fetch;
use super::native::{Client, Partitions, Queue, Shared, entries, millis, owned};
use super::{KafkaLog, admin};

const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const UNSUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked whether the topics are still the same.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) type Rebalances = VecDeque<Rebalance>;

pub(super) enum Rebalance {
    Assigned(Vec<TopicPartition>, Option<Captured>),
    Revoked(Vec<TopicPartition>, Option<Captured>),
    Lost(Vec<TopicPartition>),
}

pub(super) struct GroupMember {
    fetch: Fetch,
    settings: ConsumerSettings,
    assigned: BTreeSet<TopicPartition>,
    paused: BTreeSet<TopicPartition>,
    /// Revoked, not yet released: librdkafka waits for the answer while any is left.
    revoked: BTreeSet<TopicPartition>,
    /// Released, to be taken from the fetcher with the answer.
    released: Vec<TopicPartition>,
    /// The topics as they were when the group was joined.
    seen: BTreeMap<Topic, Seen>,
    looked_at: Instant,
    membership: Arc<Membership>,
}

/// Of a topic.
struct Seen {
    /// Where the broker tells it.
    id: Option<String>,
    partitions: i32,
}

/// What [`GroupMetadata`] holds here: the member as it was when the assignment was made.
pub(super) struct Membership {
    pub group: String,
    /// `None` before the first assignment.
    pub captured: Option<Captured>,
    /// The broker did not accept it: the next poll looks whether the member just has a newer epoch (KIP-848 raises it without a rebalance).
    pub refused: AtomicBool,
    /// For commits at least once, which go through the member's own client.
    pub client: Weak<Client>,
}

impl Membership {
    /// Of somebody who is no member: fenced by nothing but a transactional id.
    pub fn outsider(group: &str) -> GroupMetadata {
        let captured = Some(Captured::outsider(group));
        let membership = Membership { group: group.to_owned(), captured, refused: AtomicBool::new(false), client: Weak::new() };
        GroupMetadata(Arc::new(membership))
    }
}

/// librdkafka's copy of member id and generation; without either a commit would fence nothing, so such are not kept for a member.
pub(super) struct Captured {
    pub native: *mut rk::rd_kafka_consumer_group_metadata_t,
    pub member: String,
    pub generation: i32,
}

// SAFETY: immutable after it was made.
unsafe impl Send for Captured {}
// SAFETY: as above.
unsafe impl Sync for Captured {}

impl Captured {
    /// Nobody's, in this group.
    pub fn outsider(group: &str) -> Captured {
        let name = CString::new(group).unwrap_or_default();
        // SAFETY: the name is copied; the copy is ours and freed on drop.
        let native = unsafe { rk::rd_kafka_consumer_group_metadata_new(name.as_ptr()) };
        Captured { native, member: String::new(), generation: -1 }
    }

    /// # Safety
    /// The handle is a live consumer with a group.
    unsafe fn now(client: *mut rk::rd_kafka_t) -> Option<Captured> {
        // SAFETY: the copy is ours and freed on drop.
        let captured = unsafe {
            let native = rk::rd_kafka_consumer_group_metadata(client);
            if native.is_null() {
                return None;
            }
            let member = owned(rk::rd_kafka_consumer_group_metadata_member_id(native));
            Captured { native, member, generation: rk::rd_kafka_consumer_group_metadata_generation_id(native) }
        };
        (captured.generation > 0 && !captured.member.is_empty()).then_some(captured)
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: the last use.
        unsafe { rk::rd_kafka_consumer_group_metadata_destroy(self.native) };
    }
}

/// Runs inside of a poll, on the polling thread.
unsafe extern "C" fn on_rebalance(
    client: *mut rk::rd_kafka_t,
    code: RDKafkaRespErr,
    list: *mut rk::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: the opaque is the client's `Shared`; client and list live through the callback.
    let (shared, partitions): (&Shared, Vec<_>) =
        unsafe { (&*opaque.cast::<Shared>(), entries(list).map(|entry| entry.partition()).collect()) };
    let event = match Code::from(code) {
        Code::AssignPartitions => {
            // SAFETY: as above. The metadata is taken while the group waits for the answer, so it is that of this assignment.
            let captured = unsafe { Captured::now(client) };
            assign(client, &Partitions::new());
            Rebalance::Assigned(partitions, captured)
        }
        Code::RevokePartitions => {
            // SAFETY: as above.
            let lost = unsafe { rk::rd_kafka_assignment_lost(client) } != 0;
            if lost || shared.closing.load(Ordering::Relaxed) {
                unassign(client, |partition| shared.member.get().is_none_or(|member| goes_with(member, &partitions, partition)));
            }
            if lost {
                Rebalance::Lost(partitions)
            } else {
                // SAFETY: as above. What is not lost is still this member's until it answers, and the group has a new generation already:
                // the commit that comes before the answer needs that one. A member that was expelled has none.
                Rebalance::Revoked(partitions, unsafe { Captured::now(client) })
            }
        }
        code => {
            tracing::warn!(?code, "rebalance failed");
            unassign(client, |_| true);
            Rebalance::Lost(partitions)
        }
    };
    shared.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
}

/// Whether a partition is among the given ones of leads, or follows one of them.
fn goes_with(member: &ConsumerSettings, leads: &[TopicPartition], partition: &TopicPartition) -> bool {
    member.lead_of(partition).is_some_and(|lead| leads.contains(&lead))
}

fn assign(client: *mut rk::rd_kafka_t, list: &Partitions) {
    // SAFETY: the client lives, the list is ours.
    let result = Failure::check(unsafe { rk::rd_kafka_incremental_assign(client, list.0) });
    if let Err(failure) = result {
        tracing::error!("incremental assign: {}", failure.text);
    }
}

/// Takes from the fetcher what it has and `which` chooses; also the answer to a revocation.
fn unassign(client: *mut rk::rd_kafka_t, which: impl Fn(&TopicPartition) -> bool) {
    let mut current = ptr::null_mut();
    // SAFETY: the client lives; the list is ours on success.
    if unsafe { rk::rd_kafka_assignment(client, &mut current) } != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return;
    }
    let current = Partitions(current);
    let chosen = Partitions::new();
    for partition in current.iter().map(|entry| entry.partition()).filter(which) {
        chosen.add(&partition, i64::from(rk::RD_KAFKA_OFFSET_INVALID), "");
    }
    // SAFETY: as above.
    let result = Failure::check(unsafe { rk::rd_kafka_incremental_unassign(client, chosen.0) });
    if let Err(failure) = result {
        tracing::error!("incremental unassign: {}", failure.text);
    }
}

impl GroupMember {
    pub fn join(log: &KafkaLog, settings: &ConsumerSettings) -> Result<GroupMember> {
        let names: Vec<Topic> =
            settings.topics.iter().flat_map(|(lead, followers)| [lead].into_iter().chain(followers)).cloned().collect();
        let seen: BTreeMap<Topic, Seen> = log
            .describe(&names)?
            .into_iter()
            .map(|topic| (topic.topic, Seen { id: topic.id, partitions: topic.partitions }))
            .collect();
        if let Some(missing) = names.iter().find(|topic| !seen.contains_key(*topic)) {
            return Err(Error::config(format!("topic \"{missing}\" does not exist")));
        }
        let mut fixed = vec![("isolation.level", "read_committed")];
        if !log.settings().group_protocol_consumer() {
            fixed.push(("partition.assignment.strategy", "cooperative-sticky"));
            // A killed process holds its partitions for this long; one that comes back under its instance id has them at once.
            let session = [("session.timeout.ms", "10000"), ("heartbeat.interval.ms", "2000")];
            fixed.extend(session.iter().filter(|(name, _)| !log.settings().properties.contains_key(*name)));
        }
        // A large restore happens between two polls.
        let poll = ("max.poll.interval.ms", "3600000");
        fixed.extend(Some(poll).filter(|(name, _)| !log.settings().properties.contains_key(*name)));
        // Under KIP-848 a killed static member keeps its place until its session ends, and its successor is refused as long
        // (UNRELEASED_INSTANCE_ID): there the instance would only be in its own way.
        let mut settings = settings.clone();
        settings.instance_id = settings.instance_id.filter(|_| !log.settings().group_protocol_consumer());
        let settings = &settings;
        if let Some(instance) = &settings.instance_id {
            fixed.push(("group.instance.id", instance));
        }
        let client = log.consumer_client(&settings.group, &fixed, |conf| conf.on_rebalance(on_rebalance))?;
        let topics = Partitions::new();
        settings.topics.keys().for_each(|topic| topics.add_topic(topic));
        client.shared().member.set(settings.clone()).expect("the client is this member's alone");
        // SAFETY: client and list live.
        Failure::check_code(unsafe { rk::rd_kafka_subscribe(client.rk, topics.0) })
            .map_err(|failure| failure.error(format!("group \"{}\"", settings.group)))?;
        let membership = Membership {
            group: settings.group.clone(),
            captured: None,
            refused: AtomicBool::new(false),
            client: Arc::downgrade(&client),
        };
        Ok(GroupMember {
            fetch: Fetch::new(client),
            settings: settings.clone(),
            assigned: BTreeSet::new(),
            paused: BTreeSet::new(),
            revoked: BTreeSet::new(),
            released: Vec::new(),
            seen,
            looked_at: Instant::now(),
            membership: Arc::new(membership),
        })
    }

    fn next_rebalance(&self) -> Option<Rebalance> {
        self.fetch.client.shared().rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Turns what the callback saw into an event, if there is something to say.
    fn rebalanced(&mut self) -> Option<Polled> {
        while let Some(rebalance) = self.next_rebalance() {
            match rebalance {
                Rebalance::Assigned(partitions, captured) => {
                    self.remember(captured);
                    self.assigned.extend(partitions.iter().cloned());
                    if !partitions.is_empty() {
                        return Some(Polled::Assigned(partitions));
                    }
                }
                Rebalance::Revoked(partitions, _) if partitions.is_empty() => unassign(self.fetch.client.rk, |_| false),
                Rebalance::Revoked(partitions, captured) => {
                    self.remember(captured);
                    self.fetch.stop(&self.going(&partitions));
                    self.revoked.extend(partitions.iter().cloned());
                    return Some(Polled::Revoked(partitions));
                }
                Rebalance::Lost(mut partitions) => {
                    let followers = self.going(&partitions);
                    partitions
                        .extend(followers.into_iter().filter(|follower| !self.settings.topics.contains_key(&follower.topic)));
                    self.forget(&partitions);
                    self.revoked.retain(|partition| !partitions.contains(partition));
                    if !partitions.is_empty() {
                        return Some(Polled::Lost(partitions));
                    }
                }
            }
        }
        None
    }

    /// A newer epoch of the same member is the same owner: nothing was lost in between, or `Lost` would have come first.
    fn refresh(&mut self) {
        if !self.membership.refused.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: the client lives.
        let captured = unsafe { Captured::now(self.fetch.client.rk) };
        let same = |new: &Captured, old: &Captured| new.member == old.member && new.generation > old.generation;
        if let (Some(new), Some(old)) = (&captured, &self.membership.captured)
            && same(new, old)
        {
            self.remember(captured);
        }
    }

    fn remember(&mut self, captured: Option<Captured>) {
        if captured.is_some() {
            self.membership = Arc::new(Membership {
                group: self.settings.group.clone(),
                captured,
                refused: AtomicBool::new(false),
                client: Arc::downgrade(&self.fetch.client),
            });
        }
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.fetch.remove(partitions);
        self.assigned.retain(|partition| !partitions.contains(partition));
        self.paused.retain(|partition| !partitions.contains(partition));
    }

    fn known(&self, partition: &TopicPartition) -> Result<()> {
        if self.settings.lead_of(partition).is_some_and(|lead| self.assigned.contains(&lead)) {
            return Ok(());
        }
        Err(Error::failed(format!("{partition}: is not assigned to this member of group \"{}\"", self.settings.group)))
    }

    /// What is fetched of the given partitions of leads and of those that follow them.
    fn going(&self, leads: &[TopicPartition]) -> Vec<TopicPartition> {
        self.fetch.partitions().filter(|partition| goes_with(&self.settings, leads, partition)).cloned().collect()
    }

    /// Moves partitions that are fetched already. One that is not started yet (a rebalance holds it back) is assigned anew.
    fn seek(&mut self, moved: &OffsetVector) -> Result<()> {
        let list = Partitions::with(moved.iter().map(|(partition, next)| (partition, next.0)));
        // SAFETY: client and list live.
        let result = Failure::check(unsafe { rk::rd_kafka_seek_partitions(self.fetch.client.rk, list.0, millis(SEEK_TIMEOUT)) });
        result.map_err(|failure| failure.error("seek"))?;
        let unstarted: Vec<_> = list.iter().filter(|entry| entry.code != Code::NoError).map(|entry| entry.partition()).collect();
        if !unstarted.is_empty() {
            let again: OffsetVector = unstarted.into_iter().map(|partition| (partition.clone(), moved[&partition])).collect();
            self.restart(&again)?;
        }
        Ok(())
    }

    /// Takes partitions from the fetcher and gives them back.
    fn restart(&mut self, at: &OffsetVector) -> Result<()> {
        unassign(self.fetch.client.rk, |partition| at.contains_key(partition));
        self.fetch.wait_until_let_go(at)?;
        self.hand_over(at.iter().map(|(partition, next)| (partition, next.0)))?;
        self.fetch.set(at);
        let paused: Vec<_> = self.paused.iter().filter(|partition| at.contains_key(*partition)).cloned().collect();
        if paused.is_empty() { Ok(()) } else { self.set_paused(&paused, true) }
    }

    /// What is read is the topic that was there when the group was joined: not one of the same name, and not nothing.
    fn look_at_topics(&mut self) -> Result<()> {
        if !self.fetch.take_missing() && self.looked_at.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked_at = Instant::now();
        let Some(fault) = self.fault() else { return Ok(()) };
        // A broker that was just started may not know all of them yet.
        std::thread::sleep(LOOK_AGAIN);
        match self.fault() {
            Some(again) if again == fault => Err(Error::config(fault.0).hint(fault.1)),
            _ => Ok(()),
        }
    }

    /// What differs, with a reason; `None` also when nobody answers.
    fn fault(&self) -> Option<(String, &'static str)> {
        let names: Vec<Topic> = self.seen.keys().cloned().collect();
        let found = admin::describe_within(&self.fetch.client, &names, LOOK_TIMEOUT).ok()?;
        self.seen.iter().find_map(|(topic, known)| {
            let Some(now) = found.iter().find(|found| found.topic == *topic) else {
                return Some((format!("topic \"{topic}\" was deleted while it was read"), "what was not read yet is gone"));
            };
            if now.id != known.id {
                let what = format!("topic \"{topic}\" was deleted and created again while it was read");
                return Some((what, "what was not read yet is gone"));
            }
            // The group shares out new partitions of a lead; nobody would ever read those of a follower.
            let (before, now) = (known.partitions, now.partitions);
            (before != now && !self.settings.topics.contains_key(topic)).then(|| {
                let what = format!("topic \"{topic}\" has {now} partitions now, and had {before} when it was begun to be read");
                (what, "a restart takes them up where no state depends on how keys are distributed")
            })
        })
    }

    fn hand_over<'a>(&self, from: impl IntoIterator<Item = (&'a TopicPartition, i64)>) -> Result<()> {
        let list = Partitions::with(from);
        // SAFETY: client and list live.
        let result = Failure::check(unsafe { rk::rd_kafka_incremental_assign(self.fetch.client.rk, list.0) });
        result.map_err(|failure| match failure.code {
            // The group went on meanwhile, which the next poll would say.
            Code::State | Code::Conflict => failure.error_of(Kind::Fenced, "assign partitions"),
            _ => failure.error("assign partitions"),
        })
    }

    fn set_paused(&self, partitions: &[TopicPartition], paused: bool) -> Result<()> {
        let flowing = partitions.iter().filter(|partition| self.fetch.has(partition)).map(|partition| (partition, 0));
        let list = Partitions::with(flowing);
        // SAFETY: client and list live.
        let code = unsafe {
            if paused {
                rk::rd_kafka_pause_partitions(self.fetch.client.rk, list.0)
            } else {
                rk::rd_kafka_resume_partitions(self.fetch.client.rk, list.0)
            }
        };
        Failure::check_code(code).map_err(|failure| failure.error("pause or resume partitions"))
    }

    /// A static member that closes does not leave (KIP-345): its partitions would stay without an owner until the session ends. One that
    /// unsubscribes does. Its member id is gone once the broker has been told; if that takes too long the session must end after all.
    fn unsubscribe(&self, client: &Client) {
        // SAFETY: the client lives.
        let code = unsafe { rk::rd_kafka_unsubscribe(client.rk) };
        if let Err(failure) = Failure::check_code(code) {
            tracing::debug!("unsubscribe: {}", failure.text);
            return;
        }
        let started = Instant::now();
        // SAFETY: the client lives; the id is ours and freed after copying.
        let member = || unsafe {
            let id = rk::rd_kafka_memberid(client.rk);
            let copy = (!id.is_null()).then(|| owned(id));
            rk::rd_kafka_mem_free(client.rk, id.cast());
            copy.unwrap_or_default()
        };
        while !member().is_empty() && started.elapsed() < UNSUBSCRIBE_TIMEOUT {
            self.fetch.queue().serve(Duration::from_millis(20));
        }
    }

    /// Leaves the group; callbacks that are still due run here.
    fn leave(&mut self) -> Result<()> {
        let client = self.fetch.client.clone();
        client.shared().closing.store(true, Ordering::Relaxed);
        if !self.revoked.is_empty() || !self.released.is_empty() {
            let open: Vec<_> = std::mem::take(&mut self.revoked).into_iter().chain(std::mem::take(&mut self.released)).collect();
            unassign(client.rk, |partition| open.contains(partition));
        }
        if self.settings.instance_id.is_some() {
            self.unsubscribe(&client);
        }
        let queue = Queue::new(&client);
        // SAFETY: client and queue live.
        Failure::check(unsafe { rk::rd_kafka_consumer_close_queue(client.rk, queue.0) })
            .map_err(|failure| failure.error(format!("leave group \"{}\"", self.settings.group)))?;
        let started = Instant::now();
        // SAFETY: the client lives.
        while unsafe { rk::rd_kafka_consumer_closed(client.rk) } == 0 {
            if started.elapsed() > CLOSE_TIMEOUT {
                let group = &self.settings.group;
                client.shared().abandoned.store(true, Ordering::Relaxed);
                return Err(Error::away(format!("group \"{group}\": no answer to leaving it, the session will expire")));
            }
            queue.serve(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        let shared = self.fetch.client.shared();
        if !shared.closing.load(Ordering::Relaxed) {
            // Answers an assignment that nobody polled for.
            self.fetch.queue().serve(Duration::ZERO);
            shared.abandoned.store(true, Ordering::Relaxed);
        }
    }
}

impl Consumer for GroupMember {
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Polled> {
        if let Some(event) = self.rebalanced() {
            return Ok(event);
        }
        self.refresh();
        self.look_at_topics()?;
        let stuck = self.fetch.stuck(Isolation::Committed, |partition| self.paused.contains(partition), false)?;
        if !stuck.is_empty() {
            self.restart(&stuck)?;
        }
        let client = self.fetch.client.clone();
        let interrupted = || !client.shared().rebalances.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let chunks = self.fetch.poll(timeout, max_records, interrupted)?;
        if !chunks.is_empty() {
            return Ok(Polled::Records(chunks));
        }
        Ok(self.rebalanced().unwrap_or(Polled::Idle))
    }

    fn start(&mut self, from: &OffsetVector) -> Result<()> {
        from.keys().try_for_each(|partition| self.known(partition))?;
        let gone = |partition: &TopicPartition| {
            let lead = self.settings.lead_of(partition);
            lead.is_some_and(|lead| self.revoked.contains(&lead) || self.released.contains(&lead))
        };
        let from: OffsetVector = from.iter().filter(|(p, _)| !gone(p)).map(|(p, next)| (p.clone(), *next)).collect();
        let (moved, new): (OffsetVector, OffsetVector) = from.clone().into_iter().partition(|(p, _)| self.fetch.has(p));
        if !moved.is_empty() {
            self.seek(&moved)?;
        }
        if !new.is_empty() {
            self.hand_over(new.iter().map(|(partition, next)| (partition, next.0)))?;
        }
        self.fetch.set(&from);
        // librdkafka keeps the pause of a partition that was taken away while it was paused.
        let flowing: Vec<_> = new.keys().filter(|partition| !self.paused.contains(*partition)).cloned().collect();
        if !flowing.is_empty() {
            self.set_paused(&flowing, false)?;
        }
        let paused: Vec<_> = self.paused.iter().filter(|partition| from.contains_key(*partition)).cloned().collect();
        if paused.is_empty() { Ok(()) } else { self.set_paused(&paused, true) }
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        partitions.iter().try_for_each(|partition| self.known(partition))?;
        self.paused.extend(partitions.iter().cloned());
        self.set_paused(partitions, true)
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        partitions.iter().try_for_each(|partition| self.known(partition))?;
        self.paused.retain(|partition| !partitions.contains(partition));
        self.set_paused(partitions, false)
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.revoked.retain(|partition| !partitions.contains(partition));
        let going: Vec<TopicPartition> = self.going(partitions).into_iter().chain(partitions.iter().cloned()).collect();
        self.forget(&going);
        self.released.extend(going);
        // One answer for all: after the first the group goes on, whatever is still held.
        if self.revoked.is_empty() {
            let released = std::mem::take(&mut self.released);
            unassign(self.fetch.client.rk, |partition| released.contains(partition));
        }
        Ok(())
    }

    fn group_metadata(&self) -> GroupMetadata {
        GroupMetadata(self.membership.clone())
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        self.leave()
    }
}
