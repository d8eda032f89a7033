//! A process's view of the embedded log, behind which others take their turn: before each of its calls, as if it slept there.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill::clock::Clock;
use tidemill::error::Result;
use tidemill::log::embedded::EmbeddedLog;
use tidemill::log::{
    CommittedOffsets, Consumer, ConsumerSettings, GroupMetadata, Isolation, Log, NewTopic, Producer, ProducerSettings, Reader,
    TopicInfo,
};
use tidemill::record::{Chunk, OffsetVector, Outgoing, Topic, TopicPartition};

#[derive(Clone)]
pub struct Gate {
    log: EmbeddedLog,
    others: Arc<Mutex<Others>>,
}

struct Others {
    calls: usize,
    /// A transaction is open: whoever reads what it holds back waits for it.
    writing: bool,
    closed: bool,
    turn: Box<dyn FnMut(usize, bool) + Send>,
}

impl Gate {
    /// `turn` is called before each call, with its number, and whether it is made within a transaction.
    pub fn new(log: &EmbeddedLog, turn: impl FnMut(usize, bool) + Send + 'static) -> Gate {
        let others = Others { calls: 0, writing: false, closed: false, turn: Box::new(turn) };
        Gate { log: log.clone(), others: Arc::new(Mutex::new(others)) }
    }

    /// From now on nobody comes in between.
    pub fn close(&self) {
        self.others.lock().expect("nobody panicked").closed = true;
    }

    fn writes(&self, writing: bool) {
        self.others.lock().expect("nobody panicked").writing = writing;
    }

    pub fn calls(&self) -> usize {
        self.others.lock().expect("nobody panicked").calls
    }

    /// The log, after the others had their turn.
    fn turn(&self) -> &EmbeddedLog {
        let mut others = self.others.lock().expect("nobody panicked");
        if others.closed {
            return &self.log;
        }
        let (call, writing) = (others.calls, others.writing);
        others.calls += 1;
        (others.turn)(call, writing);
        &self.log
    }
}

impl Log for Gate {
    fn clock(&self) -> Clock {
        self.log.clock()
    }

    fn cluster_id(&self) -> Result<Option<String>> {
        self.turn().cluster_id()
    }

    fn topic(&self, topic: &Topic) -> Result<Option<TopicInfo>> {
        self.turn().topic(topic)
    }

    fn topics(&self, prefix: &str) -> Result<Vec<TopicInfo>> {
        self.turn().topics(prefix)
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<()> {
        self.turn().create_topics(topics)
    }

    fn delete_topics(&self, topics: &[Topic]) -> Result<()> {
        self.turn().delete_topics(topics)
    }

    fn delete_records(&self, below: &OffsetVector) -> Result<()> {
        self.turn().delete_records(below)
    }

    fn delete_group(&self, group: &str) -> Result<()> {
        self.turn().delete_group(group)
    }

    fn start_offsets(&self, partitions: &[TopicPartition]) -> Result<OffsetVector> {
        self.turn().start_offsets(partitions)
    }

    fn end_offsets(&self, partitions: &[TopicPartition], isolation: Isolation) -> Result<OffsetVector> {
        self.turn().end_offsets(partitions, isolation)
    }

    fn offsets_for_times(&self, partitions: &[TopicPartition], millis: i64) -> Result<OffsetVector> {
        self.turn().offsets_for_times(partitions, millis)
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<CommittedOffsets> {
        self.turn().committed(group, partitions)
    }

    fn commit(&self, group: &str, offsets: &CommittedOffsets) -> Result<()> {
        self.turn().commit(group, offsets)
    }

    /// A member's own calls are no others' turn: what is interleaved here are decisions over the control topic.
    fn consumer(&self, settings: &ConsumerSettings) -> Result<Box<dyn Consumer>> {
        self.turn().consumer(settings)
    }

    fn reader(&self, isolation: Isolation, from: &OffsetVector) -> Result<Box<dyn Reader>> {
        let inner = self.turn().reader(isolation, from)?;
        Ok(Box::new(Reading { gate: self.clone(), inner }))
    }

    fn outsider(&self, group: &str) -> GroupMetadata {
        self.log.outsider(group)
    }

    fn producer(&self, settings: &ProducerSettings) -> Result<Box<dyn Producer>> {
        let inner = self.turn().producer(settings)?;
        self.writes(false);
        Ok(Box::new(Writing { gate: self.clone(), inner }))
    }
}

struct Reading {
    gate: Gate,
    inner: Box<dyn Reader>,
}

impl Reader for Reading {
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Vec<Chunk>> {
        self.gate.turn();
        self.inner.poll(timeout, max_records)
    }

    fn positions(&self) -> OffsetVector {
        self.inner.positions()
    }
}

struct Writing {
    gate: Gate,
    inner: Box<dyn Producer>,
}

impl Producer for Writing {
    fn begin(&mut self) -> Result<()> {
        self.gate.turn();
        self.gate.writes(true);
        self.inner.begin()
    }

    fn send(&mut self, topic: &Topic, records: &Outgoing) -> Result<()> {
        self.gate.turn();
        self.inner.send(topic, records)
    }

    fn commit(&mut self, offsets: &CommittedOffsets, group: Option<(&str, &GroupMetadata)>) -> Result<()> {
        self.gate.turn();
        self.gate.writes(false);
        self.inner.commit(offsets, group)
    }

    fn abort(&mut self) -> Result<()> {
        self.gate.turn();
        self.gate.writes(false);
        self.inner.abort()
    }

    fn settle(&mut self, partitions: &[TopicPartition], group: Option<&str>) -> Result<()> {
        self.gate.turn();
        self.inner.settle(partitions, group)
    }
}
