//! A process's view of the log: every call may be its last, may take long while others go on, or may fail.
//!
//! The traits of `log` in front of the embedded one. Before and after each call the [`Storm`] decides the process's fate.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::test::chaos::storm::Storm;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::log::embedded::CommitFault;
use crate::log::{
    CommittedOffsets, Consumer, ConsumerSettings, GroupMetadata, Isolation, Log, NewTopic, Polled, Producer, ProducerSettings,
    Reader, TopicInfo,
};
use crate::record::{OffsetVector, Outgoing, Topic, TopicPartition};
use crate::task::core::{Action, Event};
use crate::task::observe::Observer;

/// How often fate looks at a call, and what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Danger {
    /// A call that is made all the time.
    Small,
    Usual,
    /// What makes or breaks exactly-once.
    Great,
}

#[derive(Clone)]
pub(super) struct Process {
    pub storm: Arc<Storm>,
    pub number: usize,
}

impl Process {
    /// A call that needs an answer of the cluster: it may fail without having been made, or after it was.
    fn call<T>(&self, what: &str, danger: Danger, call: impl FnOnce(&dyn Log) -> Result<T>) -> Result<T> {
        self.storm.fate(self.number, danger, what, "before");
        if self.storm.fails(self.number, danger, what) {
            return Err(away(what));
        }
        let result = call(&self.storm.log);
        self.storm.fate(self.number, danger, what, "after");
        if result.is_ok() && self.storm.fails(self.number, danger, what) {
            return Err(away(what));
        }
        result
    }

    fn wrapped(&self, what: &str) -> Result<()> {
        self.storm.fate(self.number, Danger::Usual, what, "after");
        Ok(())
    }
}

fn away(what: &str) -> Error {
    Error::away(format!("{what}: no answer (an injected fault)"))
}

impl Log for Process {
    fn clock(&self) -> Clock {
        self.storm.log.clock()
    }

    fn cluster_id(&self) -> Result<Option<String>> {
        self.call("cluster_id", Danger::Small, |log| log.cluster_id())
    }

    fn topic(&self, topic: &Topic) -> Result<Option<TopicInfo>> {
        self.call("topic", Danger::Small, |log| log.topic(topic))
    }

    fn topics(&self, prefix: &str) -> Result<Vec<TopicInfo>> {
        self.call("topics", Danger::Small, |log| log.topics(prefix))
    }

    fn create_topics(&self, topics: &[NewTopic]) -> Result<()> {
        self.call("create_topics", Danger::Usual, |log| log.create_topics(topics))
    }

    fn delete_topics(&self, topics: &[Topic]) -> Result<()> {
        self.call("delete_topics", Danger::Usual, |log| log.delete_topics(topics))
    }

    fn delete_records(&self, below: &OffsetVector) -> Result<()> {
        self.call("delete_records", Danger::Great, |log| log.delete_records(below))
    }

    fn delete_group(&self, group: &str) -> Result<()> {
        self.call("delete_group", Danger::Usual, |log| log.delete_group(group))
    }

    fn start_offsets(&self, partitions: &[TopicPartition]) -> Result<OffsetVector> {
        self.call("start_offsets", Danger::Usual, |log| log.start_offsets(partitions))
    }

    fn end_offsets(&self, partitions: &[TopicPartition], isolation: Isolation) -> Result<OffsetVector> {
        self.call("end_offsets", Danger::Great, |log| log.end_offsets(partitions, isolation))
    }

    fn offsets_for_times(&self, partitions: &[TopicPartition], millis: i64) -> Result<OffsetVector> {
        self.call("offsets_for_times", Danger::Small, |log| log.offsets_for_times(partitions, millis))
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<CommittedOffsets> {
        self.call("committed", Danger::Usual, |log| log.committed(group, partitions))
    }

    fn commit(&self, group: &str, offsets: &CommittedOffsets) -> Result<()> {
        self.call("commit offsets", Danger::Usual, |log| log.commit(group, offsets))
    }

    fn consumer(&self, settings: &ConsumerSettings) -> Result<Box<dyn Consumer>> {
        let inner = self.call("join", Danger::Usual, |log| log.consumer(settings))?;
        self.storm.joined(self.number, inner.group_metadata());
        let (process, settings) = (self.clone(), settings.clone());
        Ok(Box::new(Member { process, settings, inner }))
    }

    fn reader(&self, isolation: Isolation, from: &OffsetVector) -> Result<Box<dyn Reader>> {
        let inner = self.call("reader", Danger::Usual, |log| log.reader(isolation, from))?;
        Ok(Box::new(Reading { process: self.clone(), inner }))
    }

    fn outsider(&self, group: &str) -> GroupMetadata {
        GroupMetadata(Arc::new(Held { settings: None, metadata: self.storm.log.outsider(group) }))
    }

    fn producer(&self, settings: &ProducerSettings) -> Result<Box<dyn Producer>> {
        let inner = self.call("open producer", Danger::Great, |log| log.producer(settings))?;
        Ok(Box::new(Writer { process: self.clone(), inner, transaction: None }))
    }
}

struct Member {
    process: Process,
    settings: ConsumerSettings,
    inner: Box<dyn Consumer>,
}

impl Consumer for Member {
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Polled> {
        let Process { storm, number } = &self.process;
        storm.fate(*number, Danger::Small, "poll", "before");
        let Some(max_records) = storm.portion(max_records) else {
            storm.clock.sleep(timeout);
            return Ok(Polled::Idle);
        };
        let polled = self.inner.poll(timeout, max_records);
        // Where it stands in the group now, after it may have joined again.
        storm.joined(*number, self.inner.group_metadata());
        match &polled {
            Ok(Polled::Assigned(partitions)) => storm.holds(*number, |held| held.extend(partitions.iter().cloned())),
            Ok(Polled::Lost(partitions)) => storm.holds(*number, |held| held.retain(|p| !partitions.contains(p))),
            _ => {}
        }
        storm.fate(*number, Danger::Small, "poll", "after");
        polled
    }

    fn start(&mut self, from: &OffsetVector) -> Result<()> {
        self.process.storm.fate(self.process.number, Danger::Usual, "start", "before");
        self.inner.start(from)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.inner.pause(partitions)
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.inner.resume(partitions)
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let Process { storm, number } = &self.process;
        storm.fate(*number, Danger::Great, "release", "before");
        storm.holds(*number, |held| held.retain(|p| !partitions.contains(p)));
        self.inner.release(partitions)?;
        self.process.wrapped("release")
    }

    fn group_metadata(&self) -> GroupMetadata {
        let metadata = self.inner.group_metadata();
        let held = Held { settings: Some(self.settings.clone()), metadata };
        GroupMetadata(Arc::new(held))
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Member { process, inner, .. } = *self;
        process.storm.fate(process.number, Danger::Great, "leave", "before");
        process.storm.holds(process.number, BTreeSet::clear);
        inner.close()?;
        process.wrapped("leave")
    }
}

/// The fence as the inner log wants it, with what tells which lead a partition follows.
struct Held {
    /// `None`: of somebody who is no member.
    settings: Option<ConsumerSettings>,
    metadata: GroupMetadata,
}

struct Reading {
    process: Process,
    inner: Box<dyn Reader>,
}

impl Reader for Reading {
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Vec<crate::record::Chunk>> {
        let Process { storm, number } = &self.process;
        storm.fate(*number, Danger::Usual, "read", "before");
        if storm.fails(*number, Danger::Usual, "read") {
            return Err(away("read"));
        }
        match storm.portion(max_records) {
            Some(max_records) => self.inner.poll(timeout, max_records),
            None => {
                storm.clock.sleep(timeout);
                Ok(Vec::new())
            }
        }
    }

    fn positions(&self) -> OffsetVector {
        self.inner.positions()
    }
}

struct Writer {
    process: Process,
    inner: Box<dyn Producer>,
    /// The number of the open transaction in the books.
    transaction: Option<usize>,
}

impl Writer {
    fn fate(&self, what: &str, when: &str) {
        self.process.storm.fate(self.process.number, Danger::Great, what, when);
    }

    fn fails(&self, what: &str) -> bool {
        self.process.storm.fails(self.process.number, Danger::Great, what)
    }

    /// Commits of the group's offsets hold those of partitions that the process has, and of no others.
    fn check_held(&self, offsets: &CommittedOffsets, settings: &ConsumerSettings) {
        let Process { storm, number } = &self.process;
        for partition in offsets.keys() {
            let lead = settings.lead_of(partition);
            if !lead.as_ref().is_some_and(|lead| storm.is_held(*number, lead)) {
                storm.fault(*number, format!("{partition}: its offset is to be committed, but it was released or lost"));
            }
        }
    }
}

impl Producer for Writer {
    fn begin(&mut self) -> Result<()> {
        self.fate("begin", "before");
        self.inner.begin()?;
        self.transaction = Some(self.process.storm.books(|books| books.begin()));
        self.fate("begin", "after");
        Ok(())
    }

    fn send(&mut self, topic: &Topic, records: &Outgoing) -> Result<()> {
        self.fate("send", "before");
        let Process { storm, number } = &self.process;
        storm.sends(*number, topic, records);
        let marked = match self.transaction {
            Some(transaction) => storm.books(|books| books.send(transaction, topic, records)),
            None => Outgoing::default(),
        };
        self.inner.send(topic, &marked)
    }

    fn commit(&mut self, offsets: &CommittedOffsets, group: Option<(&str, &GroupMetadata)>) -> Result<()> {
        self.fate("commit", "before");
        let Process { storm, number } = &self.process;
        let held: Option<(&str, &Held)> =
            group.map(|(name, metadata)| (name, metadata.0.downcast_ref().expect("the metadata is this log's own")));
        if let Some(settings) = held.and_then(|(_, held)| held.settings.as_ref()) {
            self.check_held(offsets, settings);
        }
        if self.fails("commit") {
            return Err(away("commit"));
        }
        let fault = storm.commit_fault(*number);
        if let Some(fault) = fault {
            storm.log.faults().fail_commit(0, fault);
        }
        let inner = held.map(|(name, held)| (name, &held.metadata));
        let result = self.inner.commit(offsets, inner);
        let lost = matches!(&result, Err(error) if error.kind == Kind::Unknown) && fault == Some(CommitFault::LostAfter);
        storm.log.faults().forget_commits();
        if let Some(transaction) = self.transaction.take()
            && (result.is_ok() || lost)
        {
            storm.books(|books| books.committed(transaction, offsets, inner.map(|(name, _)| name)));
        }
        let outcome = result.as_ref().map_or_else(|error| error.kind.as_str(), |()| "committed");
        storm.note(*number, format!("commit of {} offsets: {outcome}", offsets.len()));
        self.fate("commit", "after");
        result
    }

    fn abort(&mut self) -> Result<()> {
        self.fate("abort", "before");
        if self.fails("abort") {
            return Err(away("abort"));
        }
        self.transaction = None;
        self.inner.abort()?;
        self.fate("abort", "after");
        Ok(())
    }

    fn settle(&mut self, partitions: &[TopicPartition], group: Option<&str>) -> Result<()> {
        self.fate("settle", "before");
        if self.fails("settle") {
            return Err(away("settle"));
        }
        self.inner.settle(partitions, group)
    }
}

impl Observer for Process {
    fn event(&mut self, event: &Event) {
        self.storm.note(self.number, format!("event {event:?}"));
    }

    fn before(&mut self, action: &Action) {
        self.storm.note(self.number, format!("action {action:?}"));
        self.storm.fate(self.number, Danger::Great, "action", "before");
    }

    fn after(&mut self, _: &Action) {
        self.storm.fate(self.number, Danger::Great, "action", "after");
    }
}
