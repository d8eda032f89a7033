//! Where records come from and go: one set of traits, two logs that pass one shared suite (`tests/log_suite.rs`).
//!
//! [`Log`] is a connection to a cluster: what exists, where it begins and ends, what a group has committed.
//! [`Consumer`] is one member of a consumer group; [`Reader`] reads assigned partitions without a group (restore, control
//! topics, `print`); [`Producer`] writes transactions. All calls block; rdkafka's calls live on threads of their own.
//!
//! Invariant: nothing here knows of Avro, event time or pipelines.

pub mod embedded;
pub mod kafka;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Result;
use crate::record::{Chunk, NextOffset, OffsetVector, Outgoing, Partition, Topic, TopicPartition};

/// What the cluster knows of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    pub topic: Topic,
    pub partitions: i32,
    /// The topic's id where the broker tells it: a topic that was deleted and created again has another.
    pub id: Option<String>,
    /// `cleanup.policy` contains `compact`.
    pub compacted: bool,
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    pub topic: Topic,
    pub partitions: i32,
    /// -1: the broker's default.
    pub replication: i32,
    /// Topic configuration, e.g. `cleanup.policy` = `compact`.
    pub config: BTreeMap<String, String>,
}

/// Which records a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the last stable offset, without aborted records.
    Committed,
    /// Up to the high watermark.
    Uncommitted,
}

/// A group's committed position in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    pub next: NextOffset,
    /// What the committer stored beside it; empty when nothing.
    pub metadata: String,
}

pub type CommittedOffsets = BTreeMap<TopicPartition, CommittedOffset>;

/// A connection to one cluster.
pub trait Log: Send + Sync {
    /// The clock that everything goes by that waits for this log: the machine's, except in a simulation.
    fn clock(&self) -> Clock {
        Clock::machine()
    }

    /// Identifies the cluster, where the broker tells it.
    fn cluster_id(&self) -> Result<Option<String>>;

    /// `None` when the topic does not exist.
    fn topic(&self, topic: &Topic) -> Result<Option<TopicInfo>>;

    /// Every topic whose name starts with `prefix`, sorted by name.
    fn topics(&self, prefix: &str) -> Result<Vec<TopicInfo>>;

    /// Creates topics; one that exists already with as many partitions is no error.
    fn create_topics(&self, topics: &[NewTopic]) -> Result<()>;

    /// Deletes topics; a missing one is no error.
    fn delete_topics(&self, topics: &[Topic]) -> Result<()>;

    /// Deletes all records below the given positions (`DeleteRecords`).
    fn delete_records(&self, below: &OffsetVector) -> Result<()>;

    /// Deletes a consumer group and its offsets; a missing one is no error. Refused (`Config`) while it has members.
    fn delete_group(&self, group: &str) -> Result<()>;

    /// The log start offset of each partition.
    fn start_offsets(&self, partitions: &[TopicPartition]) -> Result<OffsetVector>;

    /// `Committed`: the last stable offset, the right bound of a bounded read. `Uncommitted`: the high watermark, the right
    /// bound of a restore (KAFKA-10167).
    fn end_offsets(&self, partitions: &[TopicPartition], isolation: Isolation) -> Result<OffsetVector>;

    /// The first offset whose record timestamp is at or above `millis`; the partition's end when there is none.
    fn offsets_for_times(&self, partitions: &[TopicPartition], millis: i64) -> Result<OffsetVector>;

    /// The group's committed (stable) offsets; a partition without one is absent. Waits out pending transactional commits.
    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<CommittedOffsets>;

    /// Sets a group's offsets outside a transaction; for tools and jobs at rest. Refused while the group has members.
    fn commit(&self, group: &str, offsets: &CommittedOffsets) -> Result<()>;

    /// Joins a consumer group. Always `read_committed`, never auto-commits, `auto.offset.reset=none`.
    fn consumer(&self, settings: &ConsumerSettings) -> Result<Box<dyn Consumer>>;

    /// Reads partitions that the caller assigns itself.
    fn reader(&self, isolation: Isolation, from: &OffsetVector) -> Result<Box<dyn Reader>>;

    /// Stands in [`Producer::commit`] for a writer that is no member of the group: its offsets are part of its transaction, and fenced by its
    /// transactional id alone. For the offsets with which a group begins, before anybody can be in it.
    fn outsider(&self, group: &str) -> GroupMetadata;

    /// Opens a transactional producer and fences earlier ones of the same id (`init_transactions`).
    fn producer(&self, settings: &ProducerSettings) -> Result<Box<dyn Producer>>;
}

/// How a member joins its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSettings {
    pub group: String,
    /// The topics whose partitions the group shares out, each with topics that follow it: who has a partition of the lead reads those of
    /// the same number, too, from where [`Consumer::start`] says.
    pub topics: BTreeMap<Topic, Vec<Topic>>,
    /// Static membership (KIP-345), if wanted.
    pub instance_id: Option<String>,
}

impl ConsumerSettings {
    /// The partition that the group shares out for this one: itself, or its lead's.
    pub fn lead_of(&self, partition: &TopicPartition) -> Option<TopicPartition> {
        if self.topics.contains_key(&partition.topic) {
            return Some(partition.clone());
        }
        let (lead, _) = self.topics.iter().find(|(_, followers)| followers.contains(&partition.topic))?;
        Some(TopicPartition { topic: lead.clone(), partition: partition.partition })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerSettings {
    /// `None`: at least once, without transactions; `begin` and `abort` then do nothing and `commit` flushes and commits offsets.
    pub transactional_id: Option<String>,
    /// A broker aborts a transaction that is open for longer.
    pub transaction_timeout: Duration,
}

/// What [`Consumer::poll`] brings. A rebalance is an event, never an error.
#[derive(Debug)]
pub enum Polled {
    /// Nothing arrived within the time given.
    Idle,
    /// At most one chunk per partition. A chunk without records only moves the position (over control or aborted records).
    Records(Vec<Chunk>),
    /// Partitions that are now this member's, *in addition* to those it has. Nothing is delivered from them until
    /// [`Consumer::start`] says where from.
    Assigned(Vec<TopicPartition>),
    /// Partitions that will be taken away: finish or abort the open transaction, then call [`Consumer::release`]. Only of leads; their
    /// followers go with them.
    Revoked(Vec<TopicPartition>),
    /// Partitions that were taken away already (session expired): abort; they may belong to another member. No `release`.
    Lost(Vec<TopicPartition>),
}

/// One member of a consumer group.
pub trait Consumer: Send {
    /// Waits at most `timeout` for something; delivers at most about `max_records`.
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Polled>;

    /// Starts (or moves) delivery of assigned partitions at the given positions. Chunks polled later never mix old and new.
    fn start(&mut self, from: &OffsetVector) -> Result<()>;

    /// Stops delivery from a partition until `resume`; what was fetched already is kept or fetched again, never lost.
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()>;

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()>;

    /// Gives revoked partitions back, and what follows them.
    fn release(&mut self, partitions: &[TopicPartition]) -> Result<()>;

    /// The fence for commits: captured when the current assignment was made, so that a process that slept past its session
    /// and rejoined can't push a stale transaction through.
    fn group_metadata(&self) -> GroupMetadata;

    /// Leaves the group.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Opaque to all but the log that made it.
#[derive(Clone)]
pub struct GroupMetadata(pub std::sync::Arc<dyn std::any::Any + Send + Sync>);

/// Reads partitions without a group.
pub trait Reader: Send {
    /// At most one chunk per partition; empty when nothing arrived in time. Positions move over control records too, so a
    /// bounded read ends when `position >= end`, never by waiting for "the last record".
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Vec<Chunk>>;

    /// The first offset not yet delivered of each partition, counting what lies behind control records.
    fn positions(&self) -> OffsetVector;
}

/// Writes transactions, one at a time.
///
/// Errors by kind: `Abort`: abort and go back to the last commit. `Fenced`: another producer of this id, or another owner of the
/// group's partitions: give up the tasks, open a new producer. `Unknown`: the outcome of a commit is not known. `Away`: retry.
pub trait Producer: Send {
    fn begin(&mut self) -> Result<()>;

    /// Queues records of one topic; may block while the queue is full. A failed delivery shows at `commit` as `Abort`.
    fn send(&mut self, topic: &Topic, records: &Outgoing) -> Result<()>;

    /// Commits everything sent since `begin` together with the offsets, all or nothing. `group` fences: a member that no longer owns
    /// its partitions gets `Fenced` or `Abort`. `None`: no offsets.
    fn commit(&mut self, offsets: &CommittedOffsets, group: Option<(&str, &GroupMetadata)>) -> Result<()>;

    fn abort(&mut self) -> Result<()>;

    /// Closes what a former transaction of this id may have left open in these partitions and among the group's offsets, although its
    /// coordinator takes it for aborted: else the next commit there would take the aborted records with it. To be called after an abort, and
    /// after a producer was opened, before the next `begin`. `None`: of a writer whose next transaction holds no offsets.
    fn settle(&mut self, partitions: &[TopicPartition], group: Option<&str>) -> Result<()>;
}

/// All partitions of a topic.
pub fn partitions_of(topic: &Topic, partitions: i32) -> Vec<TopicPartition> {
    (0..partitions).map(|p| TopicPartition { topic: topic.clone(), partition: Partition(p) }).collect()
}
