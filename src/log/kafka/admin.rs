//! What the cluster knows, and changes of it: queries through librdkafka's own client, changes through the crate's admin client.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_char};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic as NativeTopic, ResourceSpecifier, TopicReplication};
use rdkafka::bindings as rk;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset as NativeOffset, TopicPartitionList};

use crate::error::{Error, Kind, Result};
use crate::log::{Isolation, NewTopic};
use crate::record::{NextOffset, OffsetVector, Topic, TopicPartition};

use super::failure::Failure;
use super::native::{Client, Event, Partitions, Queue, entries, millis, owned};
use super::settings::KafkaSettings;

pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);

/// A topic as the cluster describes it.
pub(super) struct Described {
    pub topic: Topic,
    pub partitions: i32,
    pub id: Option<String>,
    pub has_leaders: bool,
}

/// Asks for topics by name; those that do not exist are left out. Never creates one.
pub(super) fn describe(client: &Client, topics: &[Topic]) -> Result<Vec<Described>> {
    describe_within(client, topics, QUERY_TIMEOUT)
}

pub(super) fn describe_within(client: &Client, topics: &[Topic], timeout: Duration) -> Result<Vec<Described>> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<CString> = topics.iter().map(|topic| CString::new(topic.as_str()).unwrap_or_default()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let event = ask(client, rk::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout, |options, queue| {
        // SAFETY: the collection copies the names and is freed after the request was made.
        unsafe {
            let collection = rk::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            rk::rd_kafka_DescribeTopics(client.rk, collection, options, queue.0);
            rk::rd_kafka_TopicCollection_destroy(collection);
        }
    })
    .map_err(|failure| explained(client, failure.error("describe topics")))?;
    let mut found = Vec::new();
    // SAFETY: the result and all that it points to belong to the event, which lives until the end of this function.
    unsafe {
        let mut count = 0;
        let described = rk::rd_kafka_DescribeTopics_result_topics(rk::rd_kafka_event_DescribeTopics_result(event.0), &mut count);
        for index in 0..count {
            let topic = *described.add(index);
            let name = owned(rk::rd_kafka_TopicDescription_name(topic));
            match Code::from(rk::rd_kafka_error_code(rk::rd_kafka_TopicDescription_error(topic))) {
                Code::NoError | Code::LeaderNotAvailable => found.push(read_description(topic, &name)),
                Code::UnknownTopicOrPartition | Code::UnknownTopic => {}
                code => return Err(Failure::coded(code).error(format!("topic \"{name}\""))),
            }
        }
    }
    Ok(found)
}

/// # Safety
/// The description lives.
unsafe fn read_description(topic: *const rk::rd_kafka_TopicDescription_t, name: &str) -> Described {
    // SAFETY: the caller's promise; what is read belongs to the description.
    unsafe {
        let mut count = 0;
        let partitions = rk::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let has_leader = |index| !rk::rd_kafka_TopicPartitionInfo_leader(*partitions.add(index)).is_null();
        let id = rk::rd_kafka_TopicDescription_topic_id(topic);
        let bits = (rk::rd_kafka_Uuid_most_significant_bits(id), rk::rd_kafka_Uuid_least_significant_bits(id));
        Described {
            topic: Topic::new(name),
            partitions: i32::try_from(count).unwrap_or(i32::MAX),
            id: (bits != (0, 0)).then(|| owned(rk::rd_kafka_Uuid_base64str(id))),
            has_leaders: count > 0 && (0..count).all(has_leader),
        }
    }
}

/// The names of all topics.
pub(super) fn names(client: &Client, timeout: Duration) -> Result<Vec<Topic>> {
    let mut metadata = std::ptr::null();
    // SAFETY: on success the metadata is ours until destroyed.
    unsafe {
        let code = rk::rd_kafka_metadata(client.rk, 1, std::ptr::null_mut(), &mut metadata, millis(timeout));
        Failure::check_code(code).map_err(|failure| explained(client, failure.error("list topics")))?;
        let count = usize::try_from((*metadata).topic_cnt).unwrap_or(0);
        let names = (0..count).map(|index| Topic::new(owned((*(*metadata).topics.add(index)).topic))).collect();
        rk::rd_kafka_metadata_destroy(metadata);
        Ok(names)
    }
}

/// Where to look in a partition.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Start,
    End,
    /// The first record at or after this time in milliseconds.
    Time(i64),
}

/// `None` where there is no such offset (no record at or after the time).
pub(super) fn list_offsets(
    client: &Client,
    partitions: &[TopicPartition],
    place: Place,
    isolation: Isolation,
) -> Result<BTreeMap<TopicPartition, Option<NextOffset>>> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let started = Instant::now();
    loop {
        match list_offsets_once(client, partitions, place, isolation, QUERY_TIMEOUT) {
            // A leader that moved, or a topic just created: soon over. librdkafka goes on with the leaders that it remembers (seen: a broker
            // that came back refused their epoch for minutes), so it is made to ask for all of them again.
            Err(error) if error.kind == Kind::Away && started.elapsed() < QUERY_TIMEOUT / 2 => {
                std::thread::sleep(Duration::from_millis(50));
                names(client, QUERY_TIMEOUT / 2)?;
            }
            result => return result,
        }
    }
}

/// One question; an answer that a moved leader spoils is `Away`.
pub(super) fn list_offsets_once(
    client: &Client,
    partitions: &[TopicPartition],
    place: Place,
    isolation: Isolation,
    timeout: Duration,
) -> Result<BTreeMap<TopicPartition, Option<NextOffset>>> {
    let spec = match place {
        Place::Start => rk::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST as i64,
        Place::End => rk::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64,
        // Below 0 are names of places, not times.
        Place::Time(millis) => millis.max(0),
    };
    let list = Partitions::with(partitions.iter().map(|partition| (partition, spec)));
    let level = match isolation {
        Isolation::Committed => rk::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
        Isolation::Uncommitted => rk::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
    };
    let event = ask(client, rk::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, timeout, |options, queue| {
        // SAFETY: options, list and queue live through the calls, which copy.
        unsafe {
            rk::rd_kafka_error_destroy(rk::rd_kafka_AdminOptions_set_isolation_level(options, level));
            rk::rd_kafka_ListOffsets(client.rk, list.0, options, queue.0);
        }
    })
    .map_err(|failure| unlisted(client, partitions, &failure))?;
    let mut offsets = BTreeMap::new();
    // SAFETY: the result belongs to the event, which lives until the end of this function.
    unsafe {
        let mut count = 0;
        let infos = rk::rd_kafka_ListOffsets_result_infos(rk::rd_kafka_event_ListOffsets_result(event.0), &mut count);
        for index in 0..count {
            let entry = rk::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            let one = rk::rd_kafka_topic_partition_list_s { cnt: 1, size: 1, elems: entry.cast_mut() };
            for entry in entries(&one) {
                let partition = entry.partition();
                if entry.code != Code::NoError {
                    return Err(Failure::coded(entry.code).error(partition));
                }
                // Seen right after a topic was created, and as a broker comes back: there is a start and an end, it does not know them yet.
                if entry.offset < 0 && !matches!(place, Place::Time(_)) {
                    return Err(Error::away(format!("{partition}: the broker does not know its offset")));
                }
                offsets.insert(partition, (entry.offset >= 0).then_some(NextOffset(entry.offset)));
            }
        }
    }
    match partitions.iter().find(|partition| !offsets.contains_key(*partition)) {
        Some(partition) => Err(Error::away(format!("{partition}: no answer to list offsets"))),
        None => Ok(offsets),
    }
}

/// No partition has a leader: either a topic is missing, or the cluster is in trouble.
fn unlisted(client: &Client, partitions: &[TopicPartition], failure: &Failure) -> Error {
    if failure.code != Code::NoEnt {
        return explained(client, failure.error("list offsets"));
    }
    let topics: BTreeSet<Topic> = partitions.iter().map(|partition| partition.topic.clone()).collect();
    let topics: Vec<Topic> = topics.into_iter().collect();
    match describe(client, &topics) {
        Err(error) => error,
        Ok(found) => match topics.iter().find(|topic| found.iter().all(|described| described.topic != **topic)) {
            Some(missing) => Error::config(format!("topic \"{missing}\" does not exist")),
            None => failure.error_of(Kind::Away, "list offsets"),
        },
    }
}

/// One request of the admin protocol, answered into a queue of its own.
fn ask(
    client: &Client,
    operation: rk::rd_kafka_admin_op_t,
    timeout: Duration,
    request: impl FnOnce(*mut rk::rd_kafka_AdminOptions_t, &Queue),
) -> Result<Event, Failure> {
    let queue = Queue::new(client);
    let mut text = [0 as c_char; 256];
    // SAFETY: the options are ours until destroyed.
    unsafe {
        let options = rk::rd_kafka_AdminOptions_new(client.rk, operation);
        rk::rd_kafka_AdminOptions_set_request_timeout(options, millis(timeout), text.as_mut_ptr(), text.len());
        request(options, &queue);
        rk::rd_kafka_AdminOptions_destroy(options);
    }
    let event = queue.poll(timeout + Duration::from_secs(1));
    let event = event.ok_or_else(|| Failure::of(Code::OperationTimedOut, "no answer".to_owned()))?;
    match event.failure() {
        Some(failure) => Err(failure),
        None => Ok(event),
    }
}

/// A call that only timed out gets what the client logged last.
pub(super) fn explained(client: &Client, error: Error) -> Error {
    match (error.kind, client.last_error()) {
        (Kind::Away, Some(last)) => error.hint(format!("the client's last error: {last}")),
        _ => error,
    }
}

/// Changes of the cluster.
pub(super) struct Admin(AdminClient<Quiet>);

/// Sends the admin client's log lines to ours.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
            _ => tracing::warn!(target: "librdkafka", "{facility}: {line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "librdkafka", "{error}: {reason}");
    }
}

impl Admin {
    pub fn connect(settings: &KafkaSettings) -> Result<Admin> {
        let mut config = ClientConfig::new();
        for (name, value) in settings.client(&[], &[]) {
            config.set(name, value);
        }
        let client = config.create_with_context(Quiet).map_err(|error| Error::config(format!("kafka admin client: {error}")))?;
        Ok(Admin(client))
    }

    pub fn create_topics(&self, topics: &[NewTopic]) -> Result<Vec<Topic>> {
        let new = |topic: &NewTopic| {
            let config = topic.config.clone();
            (topic.topic.as_str().to_owned(), topic.partitions, topic.replication, config)
        };
        let owned: Vec<_> = topics.iter().map(new).collect();
        let natives: Vec<NativeTopic<'_>> = owned
            .iter()
            .map(|(name, partitions, replication, config)| {
                let native = NativeTopic::new(name, *partitions, TopicReplication::Fixed(*replication));
                config.iter().fold(native, |native, (key, value)| native.set(key, value))
            })
            .collect();
        let results = block_on(self.0.create_topics(&natives, &options())).map_err(|error| failed("create topics", &error))?;
        let mut existing = Vec::new();
        for result in results {
            match result {
                Ok(_) => {}
                Err((name, Code::TopicAlreadyExists)) => existing.push(Topic::from(name)),
                Err((name, code)) => return Err(Failure::coded(code).error(format!("create topic \"{name}\""))),
            }
        }
        Ok(existing)
    }

    pub fn delete_topics(&self, topics: &[Topic]) -> Result<()> {
        let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
        let results = block_on(self.0.delete_topics(&names, &options())).map_err(|error| failed("delete topics", &error))?;
        for result in results {
            match result {
                Ok(_) | Err((_, Code::UnknownTopicOrPartition)) => {}
                Err((name, code)) => return Err(Failure::coded(code).error(format!("delete topic \"{name}\""))),
            }
        }
        Ok(())
    }

    pub fn delete_records(&self, below: &OffsetVector) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for (partition, below) in below {
            let topic = partition.topic.as_str();
            list.add_partition_offset(topic, partition.partition.0, NativeOffset::Offset(below.0))
                .map_err(|error| failed("delete records", &error))?;
        }
        let result = block_on(self.0.delete_records(&list, &options())).map_err(|error| failed("delete records", &error))?;
        for element in result.elements() {
            if let Err(KafkaError::OffsetFetch(code)) = element.error() {
                let partition = Topic::new(element.topic()).partition(element.partition());
                return Err(Failure::coded(code).error(format!("delete records of {partition}")));
            }
        }
        Ok(())
    }

    pub fn delete_group(&self, group: &str) -> Result<()> {
        let results = block_on(self.0.delete_groups(&[group], &options())).map_err(|error| failed("delete group", &error))?;
        for result in results {
            match result {
                Ok(_) | Err((_, Code::GroupIdNotFound)) => {}
                Err((_, Code::NonEmptyGroup)) => {
                    return Err(Error::config(format!("group \"{group}\" has members")).hint("stop its members first"));
                }
                Err((_, code)) => return Err(Failure::coded(code).error(format!("delete group \"{group}\""))),
            }
        }
        Ok(())
    }

    /// Which of the topics have `compact` in their `cleanup.policy`.
    pub fn compacted(&self, topics: &[Topic]) -> Result<Vec<bool>> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let resources: Vec<ResourceSpecifier<'_>> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic.as_str())).collect();
        let results =
            block_on(self.0.describe_configs(&resources, &options())).map_err(|error| failed("describe topics", &error))?;
        let mut compacted = Vec::new();
        for (topic, result) in topics.iter().zip(results) {
            let config = result.map_err(|code| Failure::coded(code).error(format!("configuration of topic \"{topic}\"")))?;
            let policy = config.get("cleanup.policy").and_then(|entry| entry.value.clone()).unwrap_or_default();
            compacted.push(policy.split(',').any(|policy| policy.trim() == "compact"));
        }
        Ok(compacted)
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(CHANGE_TIMEOUT)).operation_timeout(Some(CHANGE_TIMEOUT))
}

fn failed(what: &str, error: &KafkaError) -> Error {
    let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
    match code {
        Code::Fail => Failure::of(code, error.to_string()).error(what),
        code => Failure::coded(code).error(what),
    }
}

/// Waits for a future on this thread, whatever runtime the caller may be in: the admin client has a thread of its own that wakes us.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
