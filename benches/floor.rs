//! The floor: what the client library alone does on a topic, for `scripts/bench` to measure Tidemill against.
//!
//! `floor consume|pass BROKERS TOPIC [OUT]` reads the topic to its captured end through the C calls for batches; `pass` writes every
//! record to OUT, which it creates with as many partitions, in transactions of 100 ms that hold the group's offsets too. It decodes
//! nothing and keeps no state.

use std::ffi::CString;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::bindings as c;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_secs(30);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (mode, brokers, topic) = match args.as_slice() {
        [mode, brokers, topic, ..] if mode == "consume" || mode == "pass" => (mode.as_str(), brokers.as_str(), topic.as_str()),
        _ => {
            eprintln!("floor consume|pass BROKERS TOPIC [OUT]");
            std::process::exit(2);
        }
    };
    let consumer = consumer(brokers);
    let out = (mode == "pass").then(|| {
        let out = args.get(3).expect("pass needs a topic to write to");
        create(brokers, out, partitions(&consumer, topic));
        Writer::open(brokers, out)
    });
    let began = Instant::now();
    let records = copy(&consumer, topic, out.as_ref());
    println!("{{\"mode\":\"{mode}\",\"records\":{records},\"seconds\":{:.3}}}", began.elapsed().as_secs_f64());
}

fn consumer(brokers: &str) -> BaseConsumer {
    let group = format!("floor-{}", std::process::id());
    let mut config = ClientConfig::new();
    for (key, value) in [
        ("bootstrap.servers", brokers),
        ("group.id", &group),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("isolation.level", "read_committed"),
        ("fetch.queue.backoff.ms", "2"),
        ("max.partition.fetch.bytes", "4194304"),
        ("fetch.max.bytes", "33554432"),
        ("queued.min.messages", "200000"),
        ("queued.max.messages.kbytes", "131072"),
    ] {
        config.set(key, value);
    }
    config.create().expect("the consumer's settings are right")
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> usize {
    consumer.fetch_metadata(Some(topic), TIMEOUT).expect("the broker answers").topics()[0].partitions().len()
}

fn create(brokers: &str, topic: &str, partitions: usize) {
    let mut config = ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        config.set("bootstrap.servers", brokers).create().expect("the settings are right");
    let new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(-1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
    let results = runtime.block_on(admin.create_topics(&[new], &AdminOptions::new())).expect("the broker answers");
    results.into_iter().for_each(|result| drop(result.expect("the topic can be created")));
}

fn copy(consumer: &BaseConsumer, topic: &str, out: Option<&Writer>) -> u64 {
    let partitions = partitions(consumer, topic);
    let (mut assignment, mut ends, mut next) = (TopicPartitionList::new(), vec![0; partitions], vec![-1; partitions]);
    for (partition, end) in ends.iter_mut().enumerate() {
        let (low, high) = consumer.fetch_watermarks(topic, partition as i32, TIMEOUT).expect("the broker answers");
        assignment.add_partition_offset(topic, partition as i32, Offset::Offset(low)).expect("the offset is valid");
        *end = if low == high { 0 } else { high };
    }
    consumer.assign(&assignment).expect("the assignment is valid");
    let mut open = ends.iter().filter(|end| **end > 0).count();
    // SAFETY: the consumer outlives the queue handle, which is used on this thread only.
    let queue = unsafe { c::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
    let mut messages = vec![null_mut(); 4_096];
    let (mut records, mut since) = (0, Instant::now());
    out.inspect(|out| out.begin());
    while open > 0 {
        // SAFETY: the array has as many slots as are announced.
        let count = unsafe { c::rd_kafka_consume_batch_queue(queue, 20, messages.as_mut_ptr(), messages.len()) };
        for message in &messages[..count.max(0) as usize] {
            // SAFETY: the call above filled this slot; the message is destroyed once, below.
            let m = unsafe { &**message };
            assert_eq!(m.err, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, "the topic is read without errors");
            let partition = m.partition as usize;
            if m.offset < ends[partition] {
                out.inspect(|out| out.produce(m));
                records += 1;
                next[partition] = m.offset + 1;
                open -= usize::from(m.offset + 1 == ends[partition]);
            }
            // SAFETY: see above.
            unsafe { c::rd_kafka_message_destroy(*message) };
        }
        if since.elapsed() >= Duration::from_millis(100) || open == 0 {
            out.inspect(|out| out.commit(consumer, topic, &next, open > 0));
            since = Instant::now();
        }
    }
    records
}

/// A transactional producer over the C interface.
struct Writer {
    producer: *mut c::rd_kafka_t,
    topic: *mut c::rd_kafka_topic_t,
}

impl Writer {
    fn open(brokers: &str, topic: &str) -> Writer {
        let mut config = ClientConfig::new();
        for (key, value) in [
            ("bootstrap.servers", brokers),
            ("transactional.id", "floor"),
            ("linger.ms", "10"),
            ("batch.size", "1048576"),
            ("batch.num.messages", "50000"),
            ("queue.buffering.max.messages", "1000000"),
            ("queue.buffering.max.kbytes", "1048576"),
            ("delivery.report.only.error", "true"),
        ] {
            config.set(key, value);
        }
        let native = config.create_native_config().expect("the producer's settings are right");
        let name = CString::new(topic).expect("a topic's name has no NUL");
        let mut error = [0; 256];
        // SAFETY: the configuration is handed over (and forgotten here); the error buffer is as long as announced.
        unsafe {
            c::rd_kafka_conf_set_events(native.ptr(), c::RD_KAFKA_EVENT_DR | c::RD_KAFKA_EVENT_ERROR);
            let producer =
                c::rd_kafka_new(c::rd_kafka_type_t::RD_KAFKA_PRODUCER, native.ptr(), error.as_mut_ptr() as *mut _, error.len());
            assert!(!producer.is_null(), "the producer can be created");
            std::mem::forget(native);
            check(c::rd_kafka_init_transactions(producer, 30_000));
            Writer { producer, topic: c::rd_kafka_topic_new(producer, name.as_ptr(), null_mut()) }
        }
    }

    fn begin(&self) {
        // SAFETY: the handle lives as long as this writer.
        check(unsafe { c::rd_kafka_begin_transaction(self.producer) });
    }

    fn produce(&self, m: &c::rd_kafka_message_t) {
        loop {
            // SAFETY: key and value are copied by the call (MSG_F_COPY).
            let result = unsafe {
                let flags = c::RD_KAFKA_MSG_F_COPY;
                c::rd_kafka_produce(self.topic, m.partition, flags, m.payload, m.len, m.key, m.key_len, null_mut())
            };
            if result == 0 {
                return;
            }
            // SAFETY: no arguments, and the handle lives.
            let error = unsafe { c::rd_kafka_last_error() };
            assert_eq!(error, RDKafkaRespErr::RD_KAFKA_RESP_ERR__QUEUE_FULL, "records can be queued");
            unsafe { c::rd_kafka_poll(self.producer, 1) };
        }
    }

    fn commit(&self, consumer: &BaseConsumer, topic: &str, next: &[i64], more: bool) {
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in next.iter().enumerate().filter(|(_, offset)| **offset >= 0) {
            offsets.add_partition_offset(topic, partition as i32, Offset::Offset(*offset)).expect("the offset is valid");
        }
        // SAFETY: all handles live; the metadata is destroyed after its use.
        unsafe {
            assert_eq!(c::rd_kafka_flush(self.producer, 30_000), RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
            let group = c::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
            check(c::rd_kafka_send_offsets_to_transaction(self.producer, offsets.ptr(), group, 30_000));
            c::rd_kafka_consumer_group_metadata_destroy(group);
            check(c::rd_kafka_commit_transaction(self.producer, 30_000));
        }
        if more {
            self.begin();
        }
    }
}

fn check(error: *mut c::rd_kafka_error_t) {
    if error != null::<c::rd_kafka_error_t>().cast_mut() {
        // SAFETY: the library gives a C string that lives as long as the error.
        panic!("{}", unsafe { std::ffi::CStr::from_ptr(c::rd_kafka_error_string(error)) }.to_string_lossy());
    }
}
