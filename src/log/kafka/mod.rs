//! A Kafka cluster through librdkafka. All calls block: call from threads of your own, never from an async task.
//!
//! Errors of consumers that retries heal (a broker that is down) are logged under the target `librdkafka` and polls say `Idle`; calls
//! that need an answer say `Away` after about five seconds, with what the client saw last as their hint.

mod admin;
mod consumer;
mod failure;
mod fetch;
mod native;
mod producer;
mod reader;
mod security;
mod settings;
pub mod transactions;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings as rk;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::error::{Error, Kind, Result};
use crate::record::{NextOffset, OffsetVector, Topic, TopicPartition};

use super::{
    CommittedOffset, CommittedOffsets, Consumer, ConsumerSettings, Isolation, Log, NewTopic, Producer, ProducerSettings, Reader,
    TopicInfo,
};

use admin::{Admin, Described, Place, QUERY_TIMEOUT, explained, list_offsets};
use failure::Failure;
use native::{Client, Conf, Queue, configure, millis, owned};
pub use settings::KafkaSettings;

/// Clients kept for `committed`, one per group.
const GROUP_CLIENTS_MAX: usize = 8;
/// How long the first answer of a cluster may take: a refusal comes in under five seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(3_500);
/// How often it is looked at whether the cluster refuses.
const ANSWER_SLICE: Duration = Duration::from_millis(200);
/// How long other brokers have to answer when one refuses.
const REFUSAL_GRACE: Duration = Duration::from_millis(800);
/// How long a connection that was closed may come back, or another broker answer.
const CLOSED_GRACE: Duration = Duration::from_secs(3);
/// How long a new topic may take until all its partitions have leaders.
const CREATION_TIMEOUT: Duration = Duration::from_secs(10);

const CONSUMER_DEFAULTS: &[(&str, &str)] = &[
    // librdkafka's default of a second starves a fast reader: once its queue is full, the fetcher sleeps for so long.
    ("fetch.queue.backoff.ms", "2"),
    ("fetch.wait.max.ms", "100"),
    ("max.partition.fetch.bytes", "4194304"),
    ("fetch.max.bytes", "33554432"),
    ("queued.min.messages", "100000"),
    ("queued.max.messages.kbytes", "65536"),
    // So soon partitions that were added to a source are seen.
    ("topic.metadata.refresh.interval.ms", "30000"),
];

/// A connection to a Kafka cluster.
#[derive(Clone)]
pub struct KafkaLog {
    inner: Arc<Inner>,
}

struct Inner {
    settings: KafkaSettings,
    /// For questions; has no group.
    client: Client,
    admin: OnceLock<Admin>,
    groups: Mutex<BTreeMap<String, Arc<Client>>>,
}

impl KafkaLog {
    /// Checks the settings (`Config`) and that a broker answers (`Away`).
    pub fn connect(settings: KafkaSettings) -> Result<KafkaLog> {
        settings.check()?;
        let client = Client::consumer(configure(&settings.client(CONSUMER_DEFAULTS, CONSUMER_FIXED))?)?;
        let log =
            KafkaLog { inner: Arc::new(Inner { settings, client, admin: OnceLock::new(), groups: Mutex::new(BTreeMap::new()) }) };
        log.first_answer()?;
        Ok(log)
    }

    /// Waits until a broker answers. One that refuses the client would let it try for ever: that is said at once.
    fn first_answer(&self) -> Result<()> {
        let brokers = &self.settings().brokers;
        let began = Instant::now();
        while self.ask_cluster_id(ANSWER_SLICE).is_none() {
            if let Some(refused) = self.inner.client.refused(brokers).filter(|_| began.elapsed() > REFUSAL_GRACE) {
                return Err(refused);
            }
            if let Some(closed) = self.inner.client.closed(brokers).filter(|_| began.elapsed() > CLOSED_GRACE) {
                return Err(closed);
            }
            if began.elapsed() >= ANSWER_TIMEOUT {
                self.check_speaks()?;
                break;
            }
        }
        Ok(())
    }

    /// Without a cluster id, either the broker is too old to have one or nobody answered.
    fn check_speaks(&self) -> Result<()> {
        admin::names(&self.inner.client, ANSWER_TIMEOUT / 8).map(drop).map_err(|error| {
            let error = error.context(format!("kafka at {}", self.settings().brokers));
            match error.hint {
                Some(_) => error,
                // It took the connection and said nothing.
                None => error
                    .hint("check [kafka] brokers and its security settings: what listens there does not speak Kafka as expected"),
            }
        })
    }

    fn ask_cluster_id(&self, wait: Duration) -> Option<String> {
        let client = &self.inner.client;
        // SAFETY: the client lives; the id is ours and freed after copying.
        unsafe {
            let id = rk::rd_kafka_clusterid(client.rk, millis(wait));
            let copy = (!id.is_null()).then(|| owned(id));
            rk::rd_kafka_mem_free(client.rk, id.cast());
            copy
        }
    }

    fn settings(&self) -> &KafkaSettings {
        &self.inner.settings
    }

    fn admin(&self) -> Result<&Admin> {
        if let Some(admin) = self.inner.admin.get() {
            return Ok(admin);
        }
        let admin = Admin::connect(self.settings())?;
        Ok(self.inner.admin.get_or_init(|| admin))
    }

    /// A client for one group, with the properties that every consumer has.
    fn consumer_client(&self, group: &str, more: &[(&str, &str)], prepare: impl FnOnce(&Conf)) -> Result<Arc<Client>> {
        let fixed: Vec<(&str, &str)> = CONSUMER_FIXED.iter().chain(more).copied().chain([("group.id", group)]).collect();
        let conf = configure(&self.settings().client(CONSUMER_DEFAULTS, &fixed))?;
        prepare(&conf);
        Ok(Arc::new(Client::consumer(conf)?))
    }

    /// A client that asks about a group without joining it; read committed, so that pending offsets are waited out (KIP-447).
    fn group_client(&self, group: &str) -> Result<Arc<Client>> {
        let mut groups = self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = groups.get(group) {
            return Ok(client.clone());
        }
        if groups.len() >= GROUP_CLIENTS_MAX {
            groups.clear();
        }
        let client = self.consumer_client(group, &[("isolation.level", "read_committed")], |_| {})?;
        groups.insert(group.to_owned(), client.clone());
        Ok(client)
    }

    /// Only topics that exist.
    fn describe(&self, topics: &[Topic]) -> Result<Vec<Described>> {
        admin::describe(&self.inner.client, topics)
    }

    fn infos(&self, described: Vec<Described>) -> Result<Vec<TopicInfo>> {
        let names: Vec<Topic> = described.iter().map(|topic| topic.topic.clone()).collect();
        let compacted = match self.admin()?.compacted(&names) {
            Ok(compacted) => compacted,
            // Without the right to read configurations a pipeline still runs.
            Err(error) if error.kind == Kind::Config => {
                tracing::warn!("{error}: taken as not compacted");
                vec![false; names.len()]
            }
            Err(error) => return Err(error),
        };
        let infos = described.into_iter().zip(compacted);
        let info = |(topic, compacted): (Described, bool)| TopicInfo {
            topic: topic.topic,
            partitions: topic.partitions,
            id: topic.id,
            compacted,
        };
        Ok(infos.map(info).collect())
    }

    fn offsets(&self, partitions: &[TopicPartition], place: Place, isolation: Isolation) -> Result<OffsetVector> {
        let found = list_offsets(&self.inner.client, partitions, place, isolation)?;
        let known = |(partition, offset): (TopicPartition, Option<NextOffset>)| match offset {
            Some(offset) => Ok((partition, offset)),
            None => Err(Error::away(format!("{partition}: the broker does not know its offset"))),
        };
        found.into_iter().map(known).collect()
    }

    /// A topic that was just created is of use when every partition has a leader.
    fn wait_for_leaders(&self, topics: &[NewTopic]) -> Result<()> {
        let names: Vec<Topic> = topics.iter().map(|new| new.topic.clone()).collect();
        let started = Instant::now();
        loop {
            let ready = |topic: &Described| {
                topic.has_leaders && topics.iter().any(|new| new.topic == topic.topic && new.partitions == topic.partitions)
            };
            if self.describe(&names)?.iter().filter(|topic| ready(topic)).count() == names.len() {
                return Ok(());
            }
            if started.elapsed() > CREATION_TIMEOUT {
                return Err(Error::away(format!("new topics have no leaders yet: {names:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What exactly-once owns of a consumer.
const CONSUMER_FIXED: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("allow.auto.create.topics", "false"),
    ("enable.partition.eof", "false"),
];

impl Log for KafkaLog {
    fn cluster_id(&self) -> Result<Option<String>> {
        let id = self.ask_cluster_id(ANSWER_TIMEOUT);
        if id.is_none() {
            self.check_speaks()?;
        }
        Ok(id)
    }

    fn topic(&self, topic: &Topic) -> Result<Option<TopicInfo>> {
        Ok(self.infos(self.describe(std::slice::from_ref(topic))?)?.pop())
    }

    fn topics(&self, prefix: &str) -> Result<Vec<TopicInfo>> {
        let mut names = admin::names(&self.inner.client, QUERY_TIMEOUT)?;
        names.retain(|name| name.as_str().starts_with(prefix));
        names.sort();
        let mut infos = self.infos(self.describe(&names)?)?;
        infos.sort_by(|a, b| a.topic.cmp(&b.topic));
        Ok(infos)
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<()> {
        if topics.is_empty() {
            return Ok(());
        }
        let existing = self.admin()?.create_topics(topics)?;
        for found in self.describe(&existing)? {
            let (topic, partitions) = (&found.topic, found.partitions);
            let wanted = topics.iter().find(|new| new.topic == *topic).map_or(partitions, |new| new.partitions);
            if wanted != partitions {
                return Err(Error::config(format!("topic \"{topic}\" exists with {partitions} partitions, not {wanted}")));
            }
        }
        self.wait_for_leaders(topics)
    }

    fn delete_topics(&self, topics: &[Topic]) -> Result<()> {
        if topics.is_empty() { Ok(()) } else { self.admin()?.delete_topics(topics) }
    }

    fn delete_records(&self, below: &OffsetVector) -> Result<()> {
        if below.is_empty() { Ok(()) } else { self.admin()?.delete_records(below) }
    }

    fn delete_group(&self, group: &str) -> Result<()> {
        self.admin()?.delete_group(group)
    }

    fn start_offsets(&self, partitions: &[TopicPartition]) -> Result<OffsetVector> {
        self.offsets(partitions, Place::Start, Isolation::Uncommitted)
    }

    fn end_offsets(&self, partitions: &[TopicPartition], isolation: Isolation) -> Result<OffsetVector> {
        self.offsets(partitions, Place::End, isolation)
    }

    /// A broker also finds control markers, whose timestamp is its clock's: then the answer is a marker's offset, behind which lies the
    /// same first record.
    fn offsets_for_times(&self, partitions: &[TopicPartition], millis: i64) -> Result<OffsetVector> {
        // The ends first: a record that becomes visible between the two questions must not lie below the answer.
        let mut offsets = self.end_offsets(partitions, Isolation::Committed)?;
        let found = list_offsets(&self.inner.client, partitions, Place::Time(millis), Isolation::Committed)?;
        offsets.extend(found.into_iter().filter_map(|(partition, offset)| Some((partition, offset?))));
        Ok(offsets)
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<CommittedOffsets> {
        if partitions.is_empty() {
            return Ok(CommittedOffsets::new());
        }
        let client = self.group_client(group)?;
        let list = native::Partitions::with(partitions.iter().map(|partition| (partition, 0)));
        let started = Instant::now();
        loop {
            // SAFETY: client and list live.
            let code = unsafe { rk::rd_kafka_committed(client.rk, list.0, millis(QUERY_TIMEOUT)) };
            match Failure::check_code(code) {
                Ok(()) => break,
                // A coordinator that was just elected, or whose log is being read: soon over.
                Err(failure) if failure.coordinator_moves() && started.elapsed() < QUERY_TIMEOUT / 2 => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(failure) => {
                    return Err(explained(&client, failure.error(format!("committed offsets of group \"{group}\""))));
                }
            }
        }
        let mut committed = CommittedOffsets::new();
        for entry in list.iter() {
            if entry.code != Code::NoError {
                return Err(Failure::coded(entry.code).error(format!("group \"{group}\" {}", entry.partition())));
            }
            if entry.offset >= 0 {
                let metadata = String::from_utf8_lossy(entry.metadata).into_owned();
                committed.insert(entry.partition(), CommittedOffset { next: NextOffset(entry.offset), metadata });
            }
        }
        Ok(committed)
    }

    fn commit(&self, group: &str, offsets: &CommittedOffsets) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let client = self.group_client(group)?;
        commit_offsets(&client, offsets, QUERY_TIMEOUT).map_err(|failure| {
            // The broker takes offsets of an outsider only while the group is empty.
            if failure.lost_membership() {
                return Error::config(format!("group \"{group}\" has members")).hint("stop its members first");
            }
            explained(&client, failure.error(format!("offsets of group \"{group}\"")))
        })
    }

    fn consumer(&self, settings: &ConsumerSettings) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(consumer::GroupMember::join(self, settings)?))
    }

    fn reader(&self, isolation: Isolation, from: &OffsetVector) -> Result<Box<dyn Reader>> {
        Ok(Box::new(reader::PartitionReader::open(self, isolation, from)?))
    }

    fn producer(&self, settings: &ProducerSettings) -> Result<Box<dyn Producer>> {
        Ok(Box::new(producer::Writer::open(self, settings)?))
    }
}

/// Commits offsets through a consumer: as the member that it is, or as an outsider.
fn commit_offsets(client: &Client, offsets: &CommittedOffsets, timeout: Duration) -> Result<(), Failure> {
    let list = producer::list_of(offsets);
    let queue = Queue::new(client);
    // SAFETY: client, list and queue live; the list is copied.
    let code = unsafe { rk::rd_kafka_commit_queue(client.rk, list.0, queue.0, None, std::ptr::null_mut()) };
    Failure::check_code(code)?;
    let event = queue.poll(timeout).ok_or_else(|| Failure::of(Code::OperationTimedOut, "no answer".to_owned()))?;
    event.failure().map_or(Ok(()), Err)?;
    // SAFETY: the list belongs to the event.
    let refused = unsafe { native::entries(rk::rd_kafka_event_topic_partition_list(event.0)) };
    let refused = refused.map(|entry| (entry.code, entry.partition())).find(|(code, _)| *code != Code::NoError);
    refused.map_or(Ok(()), |(code, partition)| Err(Failure::of(code, format!("{partition}: {code}"))))
}
