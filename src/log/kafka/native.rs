//! The librdkafka objects that this log drives itself, each behind a small safe type that frees it.
//!
//! The `rdkafka` crate copies messages one by one, flushes in slices of 100 ms and answers rebalances at once; the hot path
//! (`fetch`, `producer`) and the postponed hand-over of partitions (`consumer`) need the C calls.
//!
//! Invariant: whatever belongs to a client (queue, topic, message) is freed before it, else `rd_kafka_destroy` never returns.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rdkafka::bindings as rk;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use crate::error::{Error, Result};
use crate::log::ConsumerSettings;
use crate::record::{Topic, TopicPartition};

use super::consumer::Rebalances;
use super::failure::Failure;
use super::security;

const TEXT: usize = 512;

/// What callbacks of one client share with its owner.
#[derive(Default)]
pub(super) struct Shared {
    pub rebalances: Mutex<Rebalances>,
    /// Of a group's member: says which partitions follow which.
    pub member: OnceLock<ConsumerSettings>,
    pub closing: AtomicBool,
    /// The client is dropped as if the process had been killed.
    pub abandoned: AtomicBool,
    /// The last line that the client logged as an error: says more than the code of a call that timed out.
    last_error: Mutex<Option<String>>,
    /// The last line that says that the broker does not take this client.
    refused: Mutex<Option<String>>,
    /// The last line that says that a broker closed the connection.
    closed: Mutex<Option<String>>,
}

/// A configuration on its way to a client.
pub(super) struct Conf(*mut rk::rd_kafka_conf_t);

impl Conf {
    pub fn new() -> Conf {
        // SAFETY: never null, freed by `drop` or taken over by `rd_kafka_new`.
        Conf(unsafe { rk::rd_kafka_conf_new() })
    }

    pub fn set(&self, name: &str, value: &str) -> Result<(), Failure> {
        let (Ok(c_name), Ok(c_value)) = (CString::new(name), CString::new(value)) else {
            return Err(Failure::of(RDKafkaErrorCode::InvalidArgument, format!("\"{name}\": NUL byte")));
        };
        let mut text = [0 as c_char; TEXT];
        // SAFETY: all pointers live through the call, the text is NUL-terminated by it.
        let result = unsafe { rk::rd_kafka_conf_set(self.0, c_name.as_ptr(), c_value.as_ptr(), text.as_mut_ptr(), text.len()) };
        match result {
            rk::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Ok(()),
            rk::rd_kafka_conf_res_t::RD_KAFKA_CONF_UNKNOWN => Err(Failure::of(RDKafkaErrorCode::NoEnt, text_of(&text))),
            rk::rd_kafka_conf_res_t::RD_KAFKA_CONF_INVALID => Err(Failure::of(RDKafkaErrorCode::InvalidArgument, text_of(&text))),
        }
    }

    /// Every property that librdkafka knows and has a value for.
    pub fn names(&self) -> Vec<String> {
        let mut count = 0usize;
        // SAFETY: the dump is an array of `count` pointers to name, value, name, value...; it is freed after copying.
        unsafe {
            let dump = rk::rd_kafka_conf_dump(self.0, &mut count);
            let names = (0..count).step_by(2).map(|i| owned(*dump.add(i))).collect();
            rk::rd_kafka_conf_dump_free(dump, count);
            names
        }
    }

    pub fn deliver_events(&self) {
        // SAFETY: plain setter.
        unsafe { rk::rd_kafka_conf_set_events(self.0, rk::RD_KAFKA_EVENT_DR | rk::RD_KAFKA_EVENT_ERROR) };
    }

    pub fn on_rebalance(
        &self,
        callback: unsafe extern "C" fn(
            *mut rk::rd_kafka_t,
            RDKafkaRespErr,
            *mut rk::rd_kafka_topic_partition_list_t,
            *mut c_void,
        ),
    ) {
        // SAFETY: plain setter; the callback runs inside of calls on the consumer's queue.
        unsafe { rk::rd_kafka_conf_set_rebalance_cb(self.0, Some(callback)) };
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: no client took it over.
            unsafe { rk::rd_kafka_conf_destroy(self.0) };
        }
    }
}

/// A librdkafka client. Its calls are thread-safe, as librdkafka's are.
pub(super) struct Client {
    pub rk: *mut rk::rd_kafka_t,
    shared: Arc<Shared>,
    consumer: bool,
}

// SAFETY: librdkafka's handle is thread-safe; `Shared` has locks.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    pub fn consumer(conf: Conf) -> Result<Client> {
        let client = Client::new(conf, rk::rd_kafka_type_t::RD_KAFKA_CONSUMER)?;
        // SAFETY: the handle is a live consumer.
        unsafe { rk::rd_kafka_poll_set_consumer(client.rk) };
        Ok(client)
    }

    pub fn producer(conf: Conf) -> Result<Client> {
        Client::new(conf, rk::rd_kafka_type_t::RD_KAFKA_PRODUCER)
    }

    fn new(mut conf: Conf, kind: rk::rd_kafka_type_t) -> Result<Client> {
        let shared = Arc::new(Shared::default());
        let mut text = [0 as c_char; TEXT];
        // SAFETY: `shared` stays where it is, and lives as long as the handle. The configuration is the client's from here on if the call
        // succeeds.
        let rk = unsafe {
            rk::rd_kafka_conf_set_opaque(conf.0, Arc::as_ptr(&shared).cast_mut().cast());
            rk::rd_kafka_conf_set_log_cb(conf.0, Some(on_log));
            rk::rd_kafka_new(kind, conf.0, text.as_mut_ptr(), text.len())
        };
        if rk.is_null() {
            return Err(Error::config(format!("kafka client: {}", text_of(&text)))
                .hint("check the settings and files that it names under [kafka.properties]"));
        }
        conf.0 = ptr::null_mut();
        Ok(Client { rk, shared, consumer: kind == rk::rd_kafka_type_t::RD_KAFKA_CONSUMER })
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    pub fn last_error(&self) -> Option<String> {
        self.shared.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the broker does not take this client, if it said so.
    pub fn refused(&self, brokers: &str) -> Option<Error> {
        let line = self.shared.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        security::refusal(&line).map(|refusal| refusal.error(brokers, &line))
    }

    /// That a broker took the connection and closed it.
    pub fn closed(&self, brokers: &str) -> Option<Error> {
        let line = self.shared.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(security::closed(brokers, &line))
    }

    /// What made the client unusable: the code behind `RD_KAFKA_RESP_ERR__FATAL`.
    pub fn fatal(&self) -> Option<Failure> {
        let mut text = [0 as c_char; TEXT];
        // SAFETY: the text is NUL-terminated by the call.
        let code = RDKafkaErrorCode::from(unsafe { rk::rd_kafka_fatal_error(self.rk, text.as_mut_ptr(), text.len()) });
        (code != RDKafkaErrorCode::NoError).then(|| Failure { fatal: true, ..Failure::of(code, text_of(&text)) })
    }
}

impl Drop for Client {
    /// A consumer that was not closed does not leave its group: as if the process had been killed. librdkafka never ends one that owes
    /// the answer to an assignment (`rd_kafka_cgrp_try_terminate` waits for it), which can come at any moment: so nobody waits for that.
    fn drop(&mut self) {
        let flags = if self.consumer { rk::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE } else { 0 };
        let handle = Handle(self.rk);
        if !self.shared.abandoned.load(Ordering::Relaxed) {
            handle.destroy(flags);
            return;
        }
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            handle.destroy(flags);
            // Callbacks use it until the end.
            drop(shared);
        });
    }
}

struct Handle(*mut rk::rd_kafka_t);

// SAFETY: librdkafka's handle is thread-safe.
unsafe impl Send for Handle {}

impl Handle {
    fn destroy(self, flags: c_int) {
        // SAFETY: the last use of the handle; queues and topics were freed by their owners.
        unsafe { rk::rd_kafka_destroy_flags(self.0, flags) };
    }
}

/// librdkafka's log lines become ours; it may be called before the client's constructor returned.
unsafe extern "C" fn on_log(rk: *const rk::rd_kafka_t, level: c_int, facility: *const c_char, line: *const c_char) {
    // SAFETY: both strings are NUL-terminated and live through the call.
    let (facility, line) = unsafe { (CStr::from_ptr(facility).to_string_lossy(), CStr::from_ptr(line).to_string_lossy()) };
    // SAFETY: the opaque was set to a `Shared` that outlives the client.
    let shared = (!rk.is_null()).then(|| unsafe { rk::rd_kafka_opaque(rk).cast::<Shared>().as_ref() }).flatten();
    if let Some(shared) = shared
        && line.contains("Disconnected: ")
    {
        *shared.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(line.to_string());
    }
    // That all brokers are down is less than why one is.
    if level <= 3
        && !line.ends_with("brokers are down")
        && let Some(shared) = shared
    {
        *shared.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(line.to_string());
        if security::refusal(&line).is_some() {
            *shared.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(line.to_string());
        }
    }
    match level {
        // A property of consumers on a producer, or the other way round: intended, both get all properties.
        _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
        _ if line.ends_with("brokers are down") => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
        0..=3 => tracing::error!(target: "librdkafka", "{facility}: {line}"),
        4 => tracing::warn!(target: "librdkafka", "{facility}: {line}"),
        5 | 6 => tracing::info!(target: "librdkafka", "{facility}: {line}"),
        _ => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
    }
}

/// An event queue of a client; to be dropped before it.
pub(super) struct Queue(pub *mut rk::rd_kafka_queue_t);

// SAFETY: librdkafka's queues have a lock of their own.
unsafe impl Send for Queue {}

impl Queue {
    pub fn new(client: &Client) -> Queue {
        // SAFETY: the handle lives.
        Queue(unsafe { rk::rd_kafka_queue_new(client.rk) })
    }

    pub fn of_consumer(client: &Client) -> Queue {
        // SAFETY: the handle lives and is a consumer with a group id.
        Queue(unsafe { rk::rd_kafka_queue_get_consumer(client.rk) })
    }

    pub fn main(client: &Client) -> Queue {
        // SAFETY: the handle lives.
        Queue(unsafe { rk::rd_kafka_queue_get_main(client.rk) })
    }

    pub fn poll(&self, timeout: Duration) -> Option<Event> {
        // SAFETY: the queue lives; the event is freed by `Event`.
        let event = unsafe { rk::rd_kafka_queue_poll(self.0, millis(timeout)) };
        (!event.is_null()).then_some(Event(event))
    }

    /// Runs the callbacks that wait in the queue of a consumer that closes; messages that are still in it are dropped.
    pub fn serve(&self, timeout: Duration) {
        let mut messages = [ptr::null_mut(); 64];
        // SAFETY: the queue lives; the array has room for as many pointers as are asked for, and what comes is ours to free.
        unsafe {
            let taken = rk::rd_kafka_consume_batch_queue(self.0, millis(timeout), messages.as_mut_ptr(), messages.len());
            for message in &messages[..usize::try_from(taken).unwrap_or(0)] {
                rk::rd_kafka_message_destroy(*message);
            }
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the last use of our reference.
        unsafe { rk::rd_kafka_queue_destroy(self.0) };
    }
}

/// Something that a client reports.
pub(super) struct Event(pub *mut rk::rd_kafka_event_t);

impl Event {
    pub fn kind(&self) -> i32 {
        // SAFETY: the event lives.
        unsafe { rk::rd_kafka_event_type(self.0) }
    }

    pub fn failure(&self) -> Option<Failure> {
        // SAFETY: the event lives; its text is its own and copied.
        unsafe {
            let code = RDKafkaErrorCode::from(rk::rd_kafka_event_error(self.0));
            let text = || owned(rk::rd_kafka_event_error_string(self.0));
            (code != RDKafkaErrorCode::NoError).then(|| Failure::of(code, text()))
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the last use.
        unsafe { rk::rd_kafka_event_destroy(self.0) };
    }
}

/// A list of partitions with an offset and metadata each.
pub(super) struct Partitions(pub *mut rk::rd_kafka_topic_partition_list_t);

// SAFETY: plain memory.
unsafe impl Send for Partitions {}

/// One line of [`Partitions`].
pub(super) struct PartitionEntry<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub metadata: &'a [u8],
    pub code: RDKafkaErrorCode,
}

impl PartitionEntry<'_> {
    pub fn partition(&self) -> TopicPartition {
        Topic::new(self.topic).partition(self.partition)
    }
}

impl Partitions {
    pub fn new() -> Partitions {
        // SAFETY: never null.
        Partitions(unsafe { rk::rd_kafka_topic_partition_list_new(16) })
    }

    pub fn with<'a>(entries: impl IntoIterator<Item = (&'a TopicPartition, i64)>) -> Partitions {
        let list = Partitions::new();
        for (partition, offset) in entries {
            list.add(partition, offset, "");
        }
        list
    }

    pub fn add(&self, partition: &TopicPartition, offset: i64, metadata: &str) {
        let topic = CString::new(partition.topic.as_str()).unwrap_or_default();
        // SAFETY: the list lives and copies the name; the metadata is allocated as the list frees it.
        unsafe {
            let entry = rk::rd_kafka_topic_partition_list_add(self.0, topic.as_ptr(), partition.partition.0);
            (*entry).offset = offset;
            if !metadata.is_empty() {
                let copy = rk::rd_kafka_mem_malloc(ptr::null_mut(), metadata.len());
                ptr::copy_nonoverlapping(metadata.as_ptr(), copy.cast(), metadata.len());
                (*entry).metadata = copy;
                (*entry).metadata_size = metadata.len();
            }
        }
    }

    pub fn add_topic(&self, topic: &Topic) {
        self.add(&topic.partition(-1), i64::from(rk::RD_KAFKA_OFFSET_INVALID), "");
    }

    pub fn iter(&self) -> impl Iterator<Item = PartitionEntry<'_>> {
        // SAFETY: the list lives as long as the iterator borrows it.
        unsafe { entries(self.0) }
    }
}

/// Reads a list that somebody else owns.
///
/// # Safety
/// The list must live, unchanged, as long as what is read from it.
pub(super) unsafe fn entries<'a>(list: *const rk::rd_kafka_topic_partition_list_t) -> impl Iterator<Item = PartitionEntry<'a>> {
    // SAFETY: the caller's promise; a list without elements may have a null array.
    let elements = unsafe {
        if list.is_null() || (*list).cnt == 0 {
            &[]
        } else {
            std::slice::from_raw_parts((*list).elems, usize::try_from((*list).cnt).unwrap_or(0))
        }
    };
    elements.iter().map(|entry| {
        // SAFETY: names are NUL-terminated; metadata has the length given.
        let (topic, metadata) = unsafe {
            let metadata: &[u8] = if entry.metadata.is_null() {
                &[]
            } else {
                std::slice::from_raw_parts(entry.metadata.cast::<u8>(), entry.metadata_size)
            };
            (CStr::from_ptr(entry.topic).to_str().unwrap_or_default(), metadata)
        };
        let code = RDKafkaErrorCode::from(entry.err);
        PartitionEntry { topic, partition: entry.partition, offset: entry.offset, metadata, code }
    })
}

impl Drop for Partitions {
    fn drop(&mut self) {
        // SAFETY: the last use.
        unsafe { rk::rd_kafka_topic_partition_list_destroy(self.0) };
    }
}

/// Sets many properties at once; what the caller's own code gives is known to be right.
pub(super) fn configure(properties: &BTreeMap<String, String>) -> Result<Conf> {
    let conf = Conf::new();
    for (name, value) in properties {
        conf.set(name, value).map_err(|failure| Error::config(format!("kafka property \"{name}\": {}", failure.text)))?;
    }
    Ok(conf)
}

pub(super) fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// # Safety
/// Null, or a NUL-terminated string.
pub(super) unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn text_of(text: &[c_char; TEXT]) -> String {
    // SAFETY: librdkafka terminates what it writes; the array starts zeroed.
    unsafe { owned(text.as_ptr()) }
}
