//! Writes to Kafka: one transaction at a time, or at least once.
//!
//! Delivery reports come for failures only. A failed delivery puts librdkafka's transaction into a state in which it can only be aborted,
//! so a commit can't miss one. All waiting is cut into pieces between which the reports are taken, because neither flush nor abort
//! returns while one lies in the queue.
//!
//! After `Fenced` or `Unknown` the producer is dead: open a new one, which also settles the transaction (`init_transactions`), then ask
//! for the committed offsets.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::bindings as rk;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};

use crate::error::{Error, Kind, Result};
use crate::log::{CommittedOffset, CommittedOffsets, GroupMetadata, Isolation, Producer, ProducerSettings};
use crate::record::{Header, NextOffset, Outgoing, Topic, TopicPartition};

use super::KafkaLog;
use super::admin::{Place, list_offsets};
use super::consumer::Membership;
use super::failure::Failure;
use super::native::{Client, Event, Partitions, Queue, configure, millis};

/// Flush waits in such pieces; delivery reports are taken in between.
const SLICE: Duration = Duration::from_millis(50);
/// So do commit and abort, which are resumed by calling them again. Not shorter: librdkafka takes the answer of a first step that timed
/// out for that of the next (a machine that is busy enough makes 50 ms too short for its own thread to run).
const RESUMED_SLICE: Duration = Duration::from_millis(500);
const INIT_TIMEOUT: Duration = Duration::from_secs(30);
/// A transaction that is still open after so long is not about to be decided.
const UNDECIDED: Duration = Duration::from_secs(4);
/// How often a producer is opened again when another one of its id was opened at the same moment.
const INIT_TRIES: u32 = 3;
/// How long flush, offsets and commit may take, each; a longer transaction is the broker's to abort anyway.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

const DEFAULTS: &[(&str, &str)] = &[
    ("linger.ms", "5"),
    ("batch.size", "1048576"),
    ("batch.num.messages", "50000"),
    ("queue.buffering.max.messages", "500000"),
    ("queue.buffering.max.kbytes", "262144"),
];

pub(super) struct Writer {
    // Freed before the client.
    topics: BTreeMap<Topic, TopicHandle>,
    reports: Queue,
    client: Arc<Client>,
    transactional_id: Option<String>,
    timeout: Duration,
    open: bool,
    dead: bool,
    /// The first delivery that failed since `begin`.
    undelivered: Option<Failure>,
}

struct TopicHandle(*mut rk::rd_kafka_topic_t);

// SAFETY: librdkafka's topic objects are thread-safe.
unsafe impl Send for TopicHandle {}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: the last use of our reference.
        unsafe { rk::rd_kafka_topic_destroy(self.0) };
    }
}

impl Writer {
    /// Another producer of the id that is opened at the same moment fences this one: that is no verdict on the group, so it is opened again.
    pub fn open(log: &KafkaLog, settings: &ProducerSettings) -> Result<Writer> {
        for _ in 1..INIT_TRIES {
            match Writer::open_once(log, settings) {
                Err(error) if error.kind == Kind::Fenced => tracing::warn!("{error}: it is opened again"),
                result => return result,
            }
        }
        Writer::open_once(log, settings)
    }

    fn open_once(log: &KafkaLog, settings: &ProducerSettings) -> Result<Writer> {
        let timeout = settings.transaction_timeout.as_millis().to_string();
        let mut fixed = vec![("enable.idempotence", "true"), ("delivery.report.only.error", "true")];
        if let Some(id) = &settings.transactional_id {
            fixed.extend([("transactional.id", id.as_str()), ("transaction.timeout.ms", &timeout)]);
        }
        let conf = configure(&log.settings().client(DEFAULTS, &fixed))?;
        conf.deliver_events();
        let client = Arc::new(Client::producer(conf)?);
        let writer = Writer {
            topics: BTreeMap::new(),
            reports: Queue::main(&client),
            client,
            transactional_id: settings.transactional_id.clone(),
            timeout: settings.transaction_timeout.min(CALL_TIMEOUT),
            open: false,
            dead: false,
            undelivered: None,
        };
        if writer.transactional_id.is_some() {
            writer.init()?;
        }
        Ok(writer)
    }

    /// Fences earlier producers of the id and waits until their transaction is settled.
    fn init(&self) -> Result<()> {
        // SAFETY: the client lives.
        let result = Failure::check(unsafe { rk::rd_kafka_init_transactions(self.client.rk, millis(INIT_TIMEOUT)) });
        result.map_err(|failure| self.explain(failure.error(self.name())))
    }

    fn name(&self) -> String {
        match &self.transactional_id {
            Some(id) => format!("transactional id \"{id}\""),
            None => "kafka producer".to_owned(),
        }
    }

    /// A call that only timed out gets what the client logged last.
    fn explain(&self, error: Error) -> Error {
        match (error.kind, self.client.last_error()) {
            (Kind::Away, Some(last)) => error.hint(format!("the client's last error: {last}")),
            _ => error,
        }
    }

    fn alive(&self) -> Result<()> {
        if self.dead {
            return Err(
                Error::new(Kind::Fenced, format!("{}: ended by an earlier error", self.name())).hint("open a new producer")
            );
        }
        Ok(())
    }

    /// The error for the caller; remembers what ends this producer.
    fn failed(&mut self, failure: &Failure, during: &str) -> Error {
        let what = format!("{}: {during}", self.name());
        let cause = if failure.fatal || failure.code == Code::Fatal { self.client.fatal() } else { None };
        let cause = cause.as_ref().unwrap_or(failure);
        // A call that is not valid in the client's state: what librdkafka holds of the transaction is not what was asked for.
        let error = if cause.fatal || cause.fenced() || cause.code == Code::State {
            match cause.error(&what) {
                config if config.kind == Kind::Config => config,
                // Whatever is fatal to one producer, a new one can go on.
                _ => cause.error_of(Kind::Fenced, &what),
            }
        } else if cause.requires_abort || cause.lost_membership() {
            cause.error_of(Kind::Abort, &what)
        } else {
            cause.error(&what)
        };
        self.dead |= error.kind == Kind::Fenced || cause.fatal;
        self.explain(error)
    }

    /// Takes reports of failed deliveries, and what the client has to say.
    fn take_reports(&mut self) {
        while let Some(event) = self.reports.poll(Duration::ZERO) {
            match event.kind() {
                rk::RD_KAFKA_EVENT_DR => self.note_failures(&event),
                rk::RD_KAFKA_EVENT_ERROR => {
                    if let Some(failure) = event.failure() {
                        tracing::warn!(code = ?failure.code, "{}: {}", self.name(), failure.text);
                    }
                }
                _ => {}
            }
        }
    }

    fn note_failures(&mut self, event: &Event) {
        loop {
            // SAFETY: the event lives and owns its messages.
            let (code, topic) = unsafe {
                let Some(message) = rk::rd_kafka_event_message_next(event.0).as_ref() else { return };
                (Code::from(message.err), super::native::owned(rk::rd_kafka_topic_name(message.rkt)))
            };
            if !matches!(code, Code::NoError | Code::PurgeQueue | Code::PurgeInflight) && self.undelivered.is_none() {
                self.undelivered = Some(Failure::of(code, format!("topic \"{topic}\": delivery failed: {code}")));
            }
        }
    }

    /// What a failed delivery means: what would fail again is not worth an abort.
    fn undelivered(&mut self) -> Result<()> {
        let Some(failure) = &self.undelivered else { return Ok(()) };
        let kind = match failure.code {
            Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidTimestamp | Code::InvalidMessage => Kind::Failed,
            Code::TopicAuthorizationFailed | Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
                Kind::Config
            }
            _ if failure.fenced() => Kind::Fenced,
            _ => Kind::Abort,
        };
        self.dead |= kind == Kind::Fenced;
        Err(failure.error_of(kind, self.name()))
    }

    fn flush(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            // SAFETY: the client lives.
            let code = Code::from(unsafe { rk::rd_kafka_flush(self.client.rk, millis(SLICE)) });
            self.take_reports();
            self.undelivered()?;
            match code {
                Code::NoError => return Ok(()),
                _ if started.elapsed() < self.timeout => {}
                code => {
                    let failure = Failure::of(code, "records are not delivered in time".to_owned());
                    return Err(self.explain(failure.error_of(Kind::Abort, self.name())));
                }
            }
        }
    }

    /// One call of the transaction protocol, repeated while it says that it may be; the failure of the last try when the time is over.
    fn retried(
        &mut self,
        timeout: Duration,
        slice: Duration,
        call: impl Fn(*mut rk::rd_kafka_t, i32) -> *mut rk::rd_kafka_error_t,
    ) -> Retried {
        let started = Instant::now();
        let mut tries = 0;
        loop {
            let left = timeout.saturating_sub(started.elapsed()).max(SLICE);
            let result = Failure::check(call(self.client.rk, millis(slice.min(left))));
            self.take_reports();
            match result {
                Ok(()) => return Ok(()),
                Err(failure) if failure.retriable && started.elapsed() < timeout => {
                    tries += 1;
                    // A timed-out call waited already; others must not spin.
                    if failure.code != Code::OperationTimedOut {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
                Err(failure) => return Err((failure, tries)),
            }
        }
    }

    fn send_offsets(&mut self, offsets: &CommittedOffsets, group: &str, metadata: &GroupMetadata) -> Result<()> {
        let membership = membership_of(group, metadata)?;
        let Some(captured) = &membership.captured else {
            return Err(Error::new(Kind::Abort, format!("group \"{group}\": no partitions were assigned yet")));
        };
        let list = list_of(offsets);
        // In one piece: it is not resumed, and librdkafka gives the transaction up when its own requests take longer than the piece.
        let result = self.retried(self.timeout, self.timeout, |client, timeout| {
            // SAFETY: client, list and metadata live through the call.
            unsafe { rk::rd_kafka_send_offsets_to_transaction(client, list.0, captured.native, timeout) }
        });
        result.map_err(|(failure, _)| {
            if failure.lost_membership() {
                membership.refused.store(true, Ordering::Relaxed);
            }
            // Nothing is decided yet, so whatever is not the end of this producer is an abort.
            match self.failed(&failure, &format!("offsets of group \"{group}\"")) {
                error if matches!(error.kind, Kind::Fenced | Kind::Config) => error,
                error => Error { kind: Kind::Abort, ..error },
            }
        })
    }

    fn commit_transaction(&mut self) -> Result<()> {
        let result = self.retried(self.timeout, RESUMED_SLICE, |client, timeout| {
            // SAFETY: the client lives.
            unsafe { rk::rd_kafka_commit_transaction(client, timeout) }
        });
        let Err((failure, tries)) = result else {
            self.open = false;
            return Ok(());
        };
        let error = self.failed(&failure, "commit");
        // An answer after a try without one may be the answer to that try's success.
        if (error.kind == Kind::Abort && tries == 0) || error.kind == Kind::Fenced {
            return Err(error);
        }
        self.dead = true;
        Err(Error { kind: Kind::Unknown, ..error }.hint("open the producer again, then ask for the committed offsets"))
    }

    /// Commits through the member's own client, under whatever generation that member has now: at least once needs no more.
    fn commit_at_least_once(&mut self, offsets: &CommittedOffsets, group: &str, metadata: &GroupMetadata) -> Result<()> {
        let membership = membership_of(group, metadata)?;
        let what = format!("offsets of group \"{group}\"");
        let (Some(_), Some(member)) = (&membership.captured, membership.client.upgrade()) else {
            return Err(Error::new(Kind::Fenced, format!("{what}: the member is gone")));
        };
        match super::commit_offsets(&member, offsets, self.timeout) {
            Ok(()) => Ok(()),
            Err(failure) if failure.lost_membership() => {
                membership.refused.store(true, Ordering::Relaxed);
                Err(failure.error_of(Kind::Abort, what))
            }
            Err(failure) => Err(self.explain(failure.error(what))),
        }
    }

    /// Partitions in which a transaction stays open for longer than one takes to be decided.
    fn held_back(&self, partitions: &[TopicPartition]) -> Result<Vec<TopicPartition>> {
        let ends = list_offsets(&self.client, partitions, Place::End, Isolation::Uncommitted)?;
        let started = Instant::now();
        loop {
            let stable = list_offsets(&self.client, partitions, Place::End, Isolation::Committed)?;
            let held = ends.iter().filter(|(partition, end)| stable[*partition] < **end).map(|(partition, _)| partition.clone());
            let held: Vec<TopicPartition> = held.collect();
            if held.is_empty() || started.elapsed() >= UNDECIDED {
                return Ok(held);
            }
            std::thread::sleep(SLICE);
        }
    }

    /// A record in each partition, and the offsets of the group in any case (what is pending among them shows nowhere), in the open
    /// transaction, which is aborted then.
    fn touch(&mut self, partitions: &[TopicPartition], group: &str, any: &TopicPartition) -> Result<()> {
        for partition in partitions {
            let mut record = Outgoing::default();
            // A topic that is compacted takes no record without a key.
            record.push(partition.partition.0, 1, Some(b"tidemill"), None, Vec::new());
            self.send(&partition.topic, &record)?;
        }
        self.flush()?;
        let list = list_of(&[(any.clone(), CommittedOffset { next: NextOffset(0), metadata: String::new() })].into());
        let name = CString::new(group).map_err(|_| Error::config(format!("group \"{group}\": NUL byte in its name")))?;
        // SAFETY: the name is copied; the metadata is ours until destroyed.
        let outsider = unsafe { rk::rd_kafka_consumer_group_metadata_new(name.as_ptr()) };
        let result = self.retried(self.timeout, self.timeout, |client, timeout| {
            // SAFETY: client, list and metadata live through the call.
            unsafe { rk::rd_kafka_send_offsets_to_transaction(client, list.0, outsider, timeout) }
        });
        // SAFETY: the last use.
        unsafe { rk::rd_kafka_consumer_group_metadata_destroy(outsider) };
        match result {
            // Refused or not: the group's offsets are part of the transaction by now.
            Err((failure, _)) if !failure.lost_membership() => Err(self.failed(&failure, "settle")),
            _ => Ok(()),
        }
    }

    fn topic(&mut self, topic: &Topic) -> Result<*mut rk::rd_kafka_topic_t> {
        if let Some(handle) = self.topics.get(topic) {
            return Ok(handle.0);
        }
        let name = CString::new(topic.as_str()).map_err(|_| Error::config(format!("topic \"{topic}\": NUL byte in its name")))?;
        // SAFETY: client and name live; the handle is freed before the client.
        let handle = unsafe { rk::rd_kafka_topic_new(self.client.rk, name.as_ptr(), ptr::null_mut()) };
        if handle.is_null() {
            // SAFETY: reads the thread's last error.
            let failure = Failure::check_code(unsafe { rk::rd_kafka_last_error() });
            return Err(failure.err().map_or_else(
                || Error::failed(format!("topic \"{topic}\": no handle")),
                |failure| failure.error(format!("topic \"{topic}\"")),
            ));
        }
        self.topics.insert(topic.clone(), TopicHandle(handle));
        Ok(handle)
    }

    /// The queue is full, or the record can't be queued: waits for room, or says why not.
    fn refused(&mut self, failure: &Failure, topic: &Topic, started: Instant) -> Result<()> {
        self.take_reports();
        self.undelivered()?;
        match failure.code {
            Code::QueueFull if started.elapsed() < self.timeout => {
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            }
            Code::QueueFull => Err(self.explain(failure.error_of(Kind::Abort, format!("topic \"{topic}\"")))),
            // librdkafka refuses records while the transaction waits to be aborted.
            Code::State if self.open => Err(failure.error_of(Kind::Abort, format!("topic \"{topic}\""))),
            Code::MessageSizeTooLarge => Err(failure
                .error_of(Kind::Failed, format!("topic \"{topic}\""))
                .hint("raise \"message.max.bytes\" here and \"max.message.bytes\" of the topic")),
            _ => Err(self.failed(failure, &format!("topic \"{topic}\""))),
        }
    }
}

/// The failure, and how many tries before it stayed without an answer.
type Retried = Result<(), (Failure, u32)>;

fn membership_of<'a>(group: &str, metadata: &'a GroupMetadata) -> Result<&'a Membership> {
    let membership = metadata.0.downcast_ref::<Membership>().filter(|membership| membership.group == group);
    membership.ok_or_else(|| Error::failed(format!("group \"{group}\": metadata of another log or group")))
}

pub(super) fn list_of(offsets: &CommittedOffsets) -> Partitions {
    let list = Partitions::new();
    for (partition, committed) in offsets {
        list.add(partition, committed.next.0, &committed.metadata);
    }
    list
}

/// Values of one `rd_kafka_produceva` call.
struct Message {
    parts: [rk::rd_kafka_vu_t; 7],
}

impl Message {
    fn new(topic: *mut rk::rd_kafka_topic_t) -> Message {
        use rk::rd_kafka_vtype_t as Part;
        let part = |vtype| rk::rd_kafka_vu_t { vtype, u: rk::rd_kafka_vu_s__bindgen_ty_1 { i64_: 0 } };
        let mut parts = [
            part(Part::RD_KAFKA_VTYPE_RKT),
            part(Part::RD_KAFKA_VTYPE_MSGFLAGS),
            part(Part::RD_KAFKA_VTYPE_PARTITION),
            part(Part::RD_KAFKA_VTYPE_TIMESTAMP),
            part(Part::RD_KAFKA_VTYPE_KEY),
            part(Part::RD_KAFKA_VTYPE_VALUE),
            part(Part::RD_KAFKA_VTYPE_HEADERS),
        ];
        parts[0].u.rkt = topic;
        parts[1].u.i = rk::RD_KAFKA_MSG_F_COPY;
        Message { parts }
    }

    fn set(&mut self, partition: i32, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        let bytes = |bytes: Option<&[u8]>| rk::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
            ptr: bytes.map_or(ptr::null_mut(), |bytes| bytes.as_ptr().cast_mut().cast::<c_void>()),
            size: bytes.map_or(0, <[u8]>::len),
        };
        self.parts[2].u.i32_ = partition;
        // librdkafka takes 0 for "now", and the broker refuses what is below: nothing here may follow a clock.
        self.parts[3].u.i64_ = timestamp.max(1);
        self.parts[4].u.mem = bytes(key);
        self.parts[5].u.mem = bytes(value);
    }

    /// Queues a copy of the record.
    fn produce(&mut self, client: &Client, headers: Option<&Headers>) -> Result<(), Failure> {
        self.parts[6].u.headers = headers.map_or(ptr::null_mut(), |headers| headers.0);
        let count = if headers.is_some() { self.parts.len() } else { self.parts.len() - 1 };
        // SAFETY: topic, key and value live through the call, which copies the bytes and takes the headers over if it succeeds.
        Failure::check(unsafe { rk::rd_kafka_produceva(client.rk, self.parts.as_ptr(), count) })
    }
}

/// Headers on their way into a record, which owns them once it is queued.
struct Headers(*mut rk::rd_kafka_headers_t);

impl Headers {
    fn new(headers: &[Header]) -> Headers {
        // SAFETY: the list copies names and values; a null value has no bytes.
        unsafe {
            let list = rk::rd_kafka_headers_new(headers.len());
            for Header { name, value } in headers {
                let (start, len) = value.as_ref().map_or((ptr::null(), 0), |value| (value.as_ptr().cast(), value.len()));
                let (name_len, len) = (isize::try_from(name.len()), isize::try_from(len));
                let (name_len, len) = (name_len.expect("a slice fits isize"), len.expect("a slice fits isize"));
                rk::rd_kafka_header_add(list, name.as_ptr().cast(), name_len, start, len);
            }
            Headers(list)
        }
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        // SAFETY: no record took it over.
        unsafe { rk::rd_kafka_headers_destroy(self.0) };
    }
}

impl Producer for Writer {
    fn begin(&mut self) -> Result<()> {
        self.alive()?;
        self.take_reports();
        self.undelivered = None;
        if self.transactional_id.is_none() {
            return Ok(());
        }
        // SAFETY: the client lives.
        match Failure::check(unsafe { rk::rd_kafka_begin_transaction(self.client.rk) }) {
            Ok(()) => {
                self.open = true;
                Ok(())
            }
            Err(failure) => Err(self.failed(&failure, "begin")),
        }
    }

    fn send(&mut self, topic: &Topic, records: &Outgoing) -> Result<()> {
        self.alive()?;
        if self.transactional_id.is_some() && !self.open {
            return Err(Error::failed(format!("{}: no transaction is open", self.name())));
        }
        let mut message = Message::new(self.topic(topic)?);
        let mut with_headers = records.headers.iter().peekable();
        for row in 0..records.len() {
            let headers = with_headers.next_if(|(at, _)| *at == row).map(|(_, headers)| Headers::new(headers));
            message.set(records.partitions[row], records.timestamps[row], records.keys.get(row), records.values.get(row));
            let mut refused_at = None;
            while let Err(failure) = message.produce(&self.client, headers.as_ref()) {
                self.refused(&failure, topic, *refused_at.get_or_insert_with(Instant::now))?;
            }
            std::mem::forget(headers);
        }
        Ok(())
    }

    fn commit(&mut self, offsets: &CommittedOffsets, group: Option<(&str, &GroupMetadata)>) -> Result<()> {
        self.alive()?;
        if group.is_none() && !offsets.is_empty() {
            return Err(Error::failed("offsets without a group to commit them for"));
        }
        if self.transactional_id.is_some() && !self.open {
            return Err(Error::failed(format!("{}: no transaction is open", self.name())));
        }
        self.flush()?;
        if self.transactional_id.is_none() {
            return group.map_or(Ok(()), |(group, metadata)| self.commit_at_least_once(offsets, group, metadata));
        }
        if let Some((group, metadata)) = group {
            self.send_offsets(offsets, group, metadata)?;
        }
        self.commit_transaction()
    }

    fn abort(&mut self) -> Result<()> {
        if self.transactional_id.is_none() {
            // What is queued belongs to the attempt that is given up.
            let flags = rk::RD_KAFKA_PURGE_F_QUEUE | rk::RD_KAFKA_PURGE_F_INFLIGHT;
            // SAFETY: the client lives.
            let code = unsafe { rk::rd_kafka_purge(self.client.rk, flags) };
            debug_assert_eq!(code, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, "a producer can purge");
            self.take_reports();
            self.undelivered = None;
            return Ok(());
        }
        self.alive()?;
        if !self.open {
            return Ok(());
        }
        let result = self.retried(CALL_TIMEOUT, RESUMED_SLICE, |client, timeout| {
            // SAFETY: the client lives.
            unsafe { rk::rd_kafka_abort_transaction(client, timeout) }
        });
        if let Err((failure, _)) = result {
            return Err(self.failed(&failure, "abort"));
        }
        (self.open, self.undelivered) = (false, None);
        Ok(())
    }

    /// Seen with Kafka 4.3: a coordinator that aborts a transaction while partitions have no leader (their broker was killed and comes back)
    /// takes them for deleted and writes no marker. They then hold back every reader, and the next commit of the same producer id would
    /// commit what was aborted. An aborted transaction that touches them writes the markers after all.
    fn settle(&mut self, partitions: &[TopicPartition], group: &str) -> Result<()> {
        if self.transactional_id.is_none() {
            return Ok(());
        }
        let Some(any) = partitions.first() else { return Ok(()) };
        let held = self.held_back(partitions)?;
        if !held.is_empty() {
            let (name, count) = (self.name(), held.len());
            tracing::warn!("{name}: a transaction stays open in {count} partitions: it is closed if it is one of this id");
        }
        self.begin()?;
        let touched = self.touch(&held, group, any);
        self.abort()?;
        touched
    }
}
