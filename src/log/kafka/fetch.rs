//! The hot path of reading: messages in batches from librdkafka's queue into chunks, by column.
//!
//! One C call brings up to thousands of messages; each is copied once, into its partition's arena, and freed. Nothing is allocated
//! per record (headers aside): arenas grow as vectors do, and start as large as the partition's last chunk was.
//!
//! Invariant: a chunk's records lie at or above the slot's position, which then moves behind them; control and aborted records are never
//! messages, they show only in `rd_kafka_position`, which is asked when nothing comes and now and then.

use std::ffi::CStr;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::bindings as rk;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};

use crate::error::{Error, Kind, Result};
use crate::log::Isolation;
use crate::record::{Bytes, Chunk, Header, NextOffset, Offset, OffsetVector, TopicPartition};

use super::admin::{Place, list_offsets, list_offsets_once, names};
use super::failure::Failure;
use super::native::{Client, Partitions, Queue, millis};

/// A wait is cut into such pieces, because librdkafka's call returns for messages only: not for a rebalance, not for a position that moved.
const SLICE: Duration = Duration::from_millis(20);
/// How often positions are asked for while records keep coming.
const POSITIONS_EVERY: Duration = Duration::from_millis(100);
/// The most messages that one call takes.
const BATCH_MAX: usize = 1 << 16;

/// A partition from which nothing comes for so long, though there is something, is started again; after twice as long the next time.
const SILENCE: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(320);
/// A caller that did not poll for so long can't tell silence.
const UNPOLLED: Duration = Duration::from_secs(1);
/// When a partition with a fault is started again, and how often before bytes that can't be read are given up.
const RETRY: Duration = Duration::from_millis(500);
const BROKEN_TRIES: u32 = 10;
const LET_GO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the question may take whether there is something.
const WATCH_TIMEOUT: Duration = Duration::from_secs(1);

/// One partition that is being read.
struct Slot {
    partition: TopicPartition,
    /// librdkafka's topic object, known from the first message on: identifies the partition without comparing names.
    topic: *mut rk::rd_kafka_topic_t,
    position: NextOffset,
    /// Messages are dropped: the partition is revoked and will be released.
    stopped: bool,
    /// An error came in the place of its records.
    fault: Option<Fault>,
    /// How often it was started again since it last moved.
    restarts: u32,
    /// When it last moved.
    moved_at: Instant,
    /// How long it may be silent before somebody asks.
    patience: Duration,
    chunk: Option<Chunk>,
    /// Rows, key bytes and value bytes of the last chunk.
    capacity: (usize, usize, usize),
}

/// The client counts such an error as a record: its position, and what it delivers next, may lie behind records that were never seen. Nothing
/// is believed until the partition was started again where it stood.
struct Fault {
    at: Instant,
    /// The position seemed to be outside of the log.
    outside: bool,
    /// The bytes themselves are bad, which the next try may find again.
    broken: bool,
    text: String,
}

impl Slot {
    fn moved(&mut self, now: Instant) {
        self.moved_at = now;
        self.patience = SILENCE;
        self.restarts = 0;
    }
}

/// Reads the partitions assigned to one librdkafka consumer.
pub(super) struct Fetch {
    // Freed before the client.
    queue: Queue,
    pub client: Arc<Client>,
    slots: Vec<Slot>,
    /// All slots, for `rd_kafka_position`; made anew when the slots change.
    asked: Partitions,
    asked_at: Instant,
    /// The slot of the previous message: messages come in runs.
    last: usize,
    messages: Vec<*mut rk::rd_kafka_message_t>,
    error: Option<Error>,
    /// A topic was said not to exist.
    missing: bool,
    polled_at: Instant,
    /// The last look into the queue took all that was in it.
    drained: bool,
}

// SAFETY: the raw pointers are librdkafka's, whose objects are thread-safe; `messages` holds none between calls.
unsafe impl Send for Fetch {}

impl Fetch {
    pub fn new(client: Arc<Client>) -> Fetch {
        Fetch {
            queue: Queue::of_consumer(&client),
            client,
            slots: Vec::new(),
            asked: Partitions::new(),
            asked_at: Instant::now(),
            last: 0,
            messages: Vec::new(),
            error: None,
            missing: false,
            polled_at: Instant::now(),
            drained: false,
        }
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// What is delivered from, and up to where it was.
    pub fn positions(&self) -> OffsetVector {
        self.slots.iter().map(|slot| (slot.partition.clone(), slot.position)).collect()
    }

    pub fn has(&self, partition: &TopicPartition) -> bool {
        self.slots.iter().any(|slot| slot.partition == *partition)
    }

    pub fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.slots.iter().map(|slot| &slot.partition)
    }

    /// Adds partitions, or moves those that are there. The caller made librdkafka start or seek there.
    pub fn set(&mut self, from: &OffsetVector) {
        for (partition, position) in from {
            match self.slots.iter_mut().find(|slot| slot.partition == *partition) {
                Some(slot) => {
                    slot.position = *position;
                    slot.fault = None;
                    slot.moved_at = Instant::now();
                }
                None => self.slots.push(Slot {
                    partition: partition.clone(),
                    topic: ptr::null_mut(),
                    position: *position,
                    stopped: false,
                    fault: None,
                    restarts: 0,
                    moved_at: Instant::now(),
                    patience: SILENCE,
                    chunk: None,
                    capacity: (0, 0, 0),
                }),
            }
        }
        self.renew();
    }

    pub fn stop(&mut self, partitions: &[TopicPartition]) {
        self.slots.iter_mut().filter(|slot| partitions.contains(&slot.partition)).for_each(|slot| slot.stopped = true);
    }

    pub fn remove(&mut self, partitions: &[TopicPartition]) {
        self.slots.retain(|slot| !partitions.contains(&slot.partition));
        self.renew();
    }

    /// Topic objects can be freed, and their address used again, once nothing is read from them.
    fn renew(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.topic = ptr::null_mut());
        self.last = 0;
        let invalid = i64::from(rk::RD_KAFKA_OFFSET_INVALID);
        self.asked = Partitions::with(self.slots.iter().map(|slot| (&slot.partition, invalid)));
    }

    /// Waits for records, at most for `timeout`, or until `interrupted` (asked between the pieces of the wait).
    pub fn poll(&mut self, timeout: Duration, max: usize, interrupted: impl Fn() -> bool) -> Result<Vec<Chunk>> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.polled_at.elapsed() > UNPOLLED {
            self.slots.iter_mut().for_each(|slot| slot.moved_at = Instant::now());
        }
        let started = Instant::now();
        let chunks = self.poll_until(started + timeout, max, interrupted);
        self.polled_at = Instant::now();
        chunks
    }

    fn poll_until(&mut self, until: Instant, max: usize, interrupted: impl Fn() -> bool) -> Result<Vec<Chunk>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let taken = self.take(left.min(SLICE), max.clamp(1, BATCH_MAX))?;
            if taken == 0 || self.asked_at.elapsed() >= POSITIONS_EVERY {
                self.move_positions();
            }
            let chunks = self.finish_chunks();
            if !chunks.is_empty() {
                return Ok(chunks);
            }
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            if left.is_zero() || interrupted() {
                return Ok(Vec::new());
            }
        }
    }

    /// Waits for the first message, then takes what is there: asked for many, librdkafka would wait until it has them all.
    fn take(&mut self, timeout: Duration, max: usize) -> Result<usize> {
        if self.messages.len() < max {
            self.messages.resize(max, ptr::null_mut());
        }
        let array = self.messages.as_mut_ptr();
        // SAFETY: the array has room for `max` pointers; the queue lives.
        let first = unsafe { rk::rd_kafka_consume_batch_queue(self.queue.0, millis(timeout), array, 1) };
        let rest = match first {
            // SAFETY: as above, one pointer is taken.
            1 if max > 1 => unsafe { rk::rd_kafka_consume_batch_queue(self.queue.0, 0, array.add(1), max - 1) },
            _ => 0,
        };
        let taken = usize::try_from(first).unwrap_or(0) + usize::try_from(rest).unwrap_or(0);
        self.drained = taken < max;
        let now = Instant::now();
        for i in 0..taken {
            let message = self.messages[i];
            // SAFETY: librdkafka filled the first `taken` pointers with messages of ours, each freed here and once.
            unsafe {
                self.push(&*message, now);
                rk::rd_kafka_message_destroy(message);
            }
        }
        match (first, self.client.fatal()) {
            (..0, Some(failure)) => Err(failure.error_of(Kind::Fenced, "kafka consumer")),
            _ => Ok(taken),
        }
    }

    /// # Safety
    /// The message lives and is one of this client's.
    unsafe fn push(&mut self, message: &rk::rd_kafka_message_t, now: Instant) {
        if message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            // SAFETY: passed on.
            unsafe { self.fail(message) };
            return;
        }
        // SAFETY: passed on.
        let Some(at) = (unsafe { self.slot(message) }) else { return };
        let slot = &mut self.slots[at];
        if slot.stopped || slot.fault.is_some() || message.offset < slot.position.0 {
            return;
        }
        let (mut kind, mut headers) = (rk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE, Vec::new());
        // SAFETY: key and payload are null or have the lengths given, and live as long as the message.
        let (timestamp, key, value) = unsafe {
            let mut raw = ptr::null_mut();
            if rk::rd_kafka_message_headers(message, &mut raw) == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                headers = read_headers(raw);
            }
            (
                rk::rd_kafka_message_timestamp(message, &mut kind),
                bytes(message.key, message.key_len),
                bytes(message.payload, message.len),
            )
        };
        let (partition, position, capacity) = (&slot.partition, slot.position, slot.capacity);
        let chunk = slot.chunk.get_or_insert_with(|| sized(partition, position, capacity));
        chunk.log_append_time |= kind == rk::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME;
        chunk.push(Offset(message.offset), timestamp, key, value, headers);
        slot.position = chunk.next;
        slot.moved(now);
    }

    /// # Safety
    /// The message lives.
    unsafe fn slot(&mut self, message: &rk::rd_kafka_message_t) -> Option<usize> {
        let is = |slot: &Slot| slot.topic == message.rkt && slot.partition.partition.0 == message.partition;
        if self.slots.get(self.last).is_some_and(is) {
            return Some(self.last);
        }
        let found = self.slots.iter().position(is).or_else(|| {
            // SAFETY: the topic object lives as long as the message; its name is NUL-terminated.
            let name = unsafe { CStr::from_ptr(rk::rd_kafka_topic_name(message.rkt)) }.to_str().ok()?;
            let named = |slot: &Slot| slot.partition.partition.0 == message.partition && slot.partition.topic.as_str() == name;
            let at = self.slots.iter().position(named)?;
            self.slots[at].topic = message.rkt;
            Some(at)
        })?;
        self.last = found;
        Some(found)
    }

    /// An error comes in the place of a message. What retries can heal is only logged.
    ///
    /// # Safety
    /// The message lives.
    unsafe fn fail(&mut self, message: &rk::rd_kafka_message_t) {
        let code = Code::from(message.err);
        // SAFETY: an error's text is NUL-terminated and lives as long as the message.
        let (text, at) = unsafe {
            let text = super::native::owned(rk::rd_kafka_message_errstr(message));
            (text, if message.rkt.is_null() { None } else { self.slot(message) })
        };
        let failure = Failure::of(code, text);
        let what = at.map_or("kafka consumer".to_owned(), |at| self.slots[at].partition.to_string());
        let error = match code {
            Code::Fatal => match self.client.fatal() {
                Some(fatal) if fatal.fenced() => fatal.error(what),
                Some(fatal) => fatal.error_of(Kind::Failed, what),
                None => failure.error_of(Kind::Failed, what),
            },
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId => {
                tracing::info!(code = ?code, "{what}: {}", failure.text);
                self.missing = true;
                return;
            }
            Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed => failure.error(what),
            _ => {
                tracing::warn!(code = ?code, "{what}: {}", failure.text);
                let outside = matches!(code, Code::AutoOffsetReset | Code::OffsetOutOfRange);
                if let Some(at) = at.filter(|_| outside || message.offset >= 0) {
                    let fault = Fault { at: Instant::now(), outside, broken: broken(code), text: failure.text };
                    self.slots[at].fault.get_or_insert(fault);
                }
                return;
            }
        };
        self.error.get_or_insert(error);
    }

    /// Moves positions over what is never delivered.
    fn move_positions(&mut self) {
        self.asked_at = Instant::now();
        if self.slots.is_empty() {
            return;
        }
        // SAFETY: client and list live.
        let code = unsafe { rk::rd_kafka_position(self.client.rk, self.asked.0) };
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        // The list keeps its order: it was made from the slots.
        for (slot, entry) in self.slots.iter_mut().zip(self.asked.iter()) {
            if slot.stopped || slot.fault.is_some() || entry.code != Code::NoError || entry.offset <= slot.position.0 {
                continue;
            }
            slot.position = NextOffset(entry.offset);
            slot.moved(self.asked_at);
            slot.chunk.get_or_insert_with(|| Chunk::empty(slot.partition.clone(), slot.position)).next = slot.position;
        }
    }

    /// Whether a topic was said not to exist, since it was asked last.
    pub fn take_missing(&mut self) -> bool {
        std::mem::take(&mut self.missing)
    }

    /// Partitions that have to be started again at their positions: an error came in the place of their records, or nothing comes. `doubtful`:
    /// those of which nobody says whether there is something, too.
    ///
    /// # Errors
    /// `Config` when a position is outside of the log, with the numbers; `Failed` when what is there can't be read.
    pub fn stuck(
        &mut self,
        isolation: Isolation,
        paused: impl Fn(&TopicPartition) -> bool,
        doubtful: bool,
    ) -> Result<OffsetVector> {
        let mut stuck = self.faulty()?;
        if self.drained {
            stuck.extend(self.silent(isolation, paused, doubtful));
        }
        Ok(stuck)
    }

    /// Partitions with a fault, once it is old enough to try again.
    fn faulty(&mut self) -> Result<OffsetVector> {
        let due = |fault: &Fault| fault.outside || fault.at.elapsed() >= RETRY;
        let due: Vec<usize> = (0..self.slots.len())
            .filter(|at| !self.slots[*at].stopped && self.slots[*at].fault.as_ref().is_some_and(due))
            .collect();
        let outside = |slot: &&Slot| slot.fault.as_ref().is_some_and(|fault| fault.outside);
        let asked = due.iter().map(|at| &self.slots[*at]).filter(outside).map(|slot| (slot.partition.clone(), slot.position));
        self.check_inside(&asked.collect())?;
        let mut faulty = OffsetVector::new();
        for at in due {
            let slot = &mut self.slots[at];
            slot.restarts += 1;
            if let Some(fault) = slot.fault.as_ref().filter(|fault| fault.broken && slot.restarts > BROKEN_TRIES) {
                return Err(Error::failed(format!("{}: offset {} can't be read: {}", slot.partition, slot.position, fault.text))
                    .hint("nothing is passed over: look at the broker's log, and at \"receive.message.max.bytes\" for large records"));
            }
            faulty.insert(slot.partition.clone(), slot.position);
        }
        Ok(faulty)
    }

    /// The client says that a position is outside of the log also when a leader was only about to come back: the broker's numbers count.
    fn check_inside(&self, positions: &OffsetVector) -> Result<()> {
        let partitions: Vec<TopicPartition> = positions.keys().cloned().collect();
        let starts = list_offsets(&self.client, &partitions, Place::Start, Isolation::Uncommitted)?;
        let ends = list_offsets(&self.client, &partitions, Place::End, Isolation::Uncommitted)?;
        for (partition, position) in positions {
            if let (Some(start), Some(end)) = (starts[partition], ends[partition])
                && (*position < start || *position > end)
            {
                return Err(outside(partition, *position, start, end));
            }
        }
        Ok(())
    }

    /// Waits until the client has let go of partitions that were taken from it: until then it tells their old positions.
    pub fn wait_until_let_go(&self, partitions: &OffsetVector) -> Result<()> {
        let invalid = i64::from(rk::RD_KAFKA_OFFSET_INVALID);
        let list = Partitions::with(partitions.keys().map(|partition| (partition, invalid)));
        let started = Instant::now();
        loop {
            // SAFETY: client and list live.
            unsafe { rk::rd_kafka_position(self.client.rk, list.0) };
            if list.iter().all(|entry| entry.code != Code::NoError || entry.offset < 0) {
                return Ok(());
            }
            if started.elapsed() > LET_GO_TIMEOUT {
                return Err(Error::away("the client does not let go of partitions"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Partitions that have not moved for a while though nothing waits in the queue and the log goes on behind their position.
    fn silent(&mut self, isolation: Isolation, paused: impl Fn(&TopicPartition) -> bool, doubtful: bool) -> OffsetVector {
        let quiet = |slot: &Slot| slot.moved_at.elapsed() >= slot.patience && !slot.stopped && !paused(&slot.partition);
        let asked: Vec<TopicPartition> =
            self.slots.iter().filter(|slot| quiet(slot)).map(|slot| slot.partition.clone()).collect();
        if asked.is_empty() {
            return OffsetVector::new();
        }
        let ends = list_offsets_once(&self.client, &asked, Place::End, isolation, WATCH_TIMEOUT);
        if ends.is_err() {
            // librdkafka goes on with the leaders that it remembers, until it is made to ask again.
            let _ = names(&self.client, WATCH_TIMEOUT);
        }
        let mut silent = OffsetVector::new();
        for slot in self.slots.iter_mut().filter(|slot| asked.contains(&slot.partition)) {
            slot.moved_at = Instant::now();
            let behind = match &ends {
                Ok(ends) => ends.get(&slot.partition).is_some_and(|end| *end > Some(slot.position)),
                Err(_) => doubtful,
            };
            if behind || ends.is_err() {
                slot.patience = (slot.patience * 2).min(SILENCE_MAX);
            }
            if behind {
                tracing::warn!(partition = %slot.partition, position = %slot.position, "nothing comes: reading is started again");
                silent.insert(slot.partition.clone(), slot.position);
            }
        }
        silent
    }

    fn finish_chunks(&mut self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for slot in &mut self.slots {
            if let Some(chunk) = slot.chunk.take() {
                slot.capacity = (chunk.len(), chunk.keys.size(), chunk.values.size());
                chunks.push(chunk);
            }
        }
        chunks
    }
}

fn broken(code: Code) -> bool {
    matches!(
        code,
        Code::BadMessage
            | Code::BadCompression
            | Code::NotImplemented
            | Code::MessageSizeTooLarge
            | Code::InvalidMessage
            | Code::InvalidMessageSize
    )
}

fn outside(partition: &TopicPartition, position: NextOffset, start: NextOffset, end: NextOffset) -> Error {
    if position < start {
        return Error::config(format!("{partition}: offset {position} is below the log start {start} (its end is {end})"))
            .hint("the records in between were deleted before they were read");
    }
    Error::config(format!("{partition}: offset {position} is above the end {end} (its start is {start})"))
        .hint("the topic was deleted and created again, or it is another cluster")
}

fn sized(partition: &TopicPartition, position: NextOffset, (rows, key_bytes, value_bytes): (usize, usize, usize)) -> Chunk {
    let mut chunk = Chunk::empty(partition.clone(), position);
    chunk.offsets.reserve(rows);
    chunk.timestamps.reserve(rows);
    chunk.keys = Bytes::with_capacity(rows, key_bytes);
    chunk.values = Bytes::with_capacity(rows, value_bytes);
    chunk
}

/// # Safety
/// Null, or `len` readable bytes that live as long as the result is used.
unsafe fn bytes<'a>(start: *const std::ffi::c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) })
}

/// # Safety
/// The headers belong to a message that lives.
unsafe fn read_headers(raw: *mut rk::rd_kafka_headers_t) -> Vec<Header> {
    let mut headers = Vec::new();
    for index in 0.. {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0usize);
        // SAFETY: the pointers are set on success and live as long as the message.
        unsafe {
            if rk::rd_kafka_header_get_all(raw, index, &mut name, &mut value, &mut size)
                != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                break;
            }
            headers.push(Header { name: super::native::owned(name), value: bytes(value, size).map(<[u8]>::to_vec) });
        }
    }
    headers
}
