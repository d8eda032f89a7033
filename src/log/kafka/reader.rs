//! Reads assigned partitions of a Kafka cluster without a group.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::bindings as rk;

use crate::error::{Error, Result};
use crate::log::{Isolation, Reader};
use crate::record::{Chunk, OffsetVector, Topic};

use super::KafkaLog;
use super::failure::Failure;
use super::fetch::Fetch;
use super::native::Partitions;

pub(super) struct PartitionReader {
    log: KafkaLog,
    isolation: Isolation,
    fetch: Fetch,
}

impl PartitionReader {
    pub fn open(log: &KafkaLog, isolation: Isolation, from: &OffsetVector) -> Result<PartitionReader> {
        Ok(PartitionReader { log: log.clone(), isolation, fetch: assigned(log, isolation, from)? })
    }
}

fn assigned(log: &KafkaLog, isolation: Isolation, from: &OffsetVector) -> Result<Fetch> {
    let level = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::Uncommitted => "read_uncommitted",
    };
    // librdkafka wants a group id for `assign`; nothing joins it and nothing is committed for it.
    let [queue, answer] = log.settings().of_reader();
    let fixed =
        [("isolation.level", level), ("queued.max.messages.kbytes", queue.as_str()), ("fetch.max.bytes", answer.as_str())];
    let client = log.consumer_client("tidemill.reader", &fixed, |_| {})?;
    let mut fetch = Fetch::new(client);
    let list = Partitions::with(from.iter().map(|(partition, next)| (partition, next.0)));
    // SAFETY: client and list live.
    let code = unsafe { rk::rd_kafka_assign(fetch.client.rk, list.0) };
    Failure::check_code(code).map_err(|failure| failure.error("assign partitions"))?;
    fetch.set(from);
    Ok(fetch)
}

/// Which of the topics that are read does not exist any more, if one is missing.
fn missing(log: &KafkaLog, fetch: &Fetch) -> Result<()> {
    let topics: BTreeSet<Topic> = fetch.partitions().map(|partition| partition.topic.clone()).collect();
    let topics: Vec<Topic> = topics.into_iter().collect();
    let found = log.describe(&topics)?;
    match topics.iter().find(|topic| found.iter().all(|found| found.topic != **topic)) {
        Some(gone) => Err(Error::config(format!("topic \"{gone}\" does not exist"))),
        None => Ok(()),
    }
}

impl Reader for PartitionReader {
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Vec<Chunk>> {
        if self.fetch.take_missing() {
            missing(&self.log, &self.fetch)?;
        }
        // Seen once: a reader that fell silent in the middle of a restore. A new client goes on where it stopped.
        if !self.fetch.stuck(self.isolation, |_| false, true)?.is_empty() {
            self.fetch = assigned(&self.log, self.isolation, &self.fetch.positions())?;
        }
        self.fetch.poll(timeout, max_records, || false)
    }

    fn positions(&self) -> OffsetVector {
        self.fetch.positions()
    }
}
