//! Reads assigned partitions of a Kafka cluster without a group.

use std::time::Duration;

use rdkafka::bindings as rk;

use crate::error::Result;
use crate::log::{Isolation, Reader};
use crate::record::{Chunk, OffsetVector};

use super::KafkaLog;
use super::failure::Failure;
use super::fetch::Fetch;
use super::native::Partitions;

pub(super) struct PartitionReader {
    fetch: Fetch,
}

impl PartitionReader {
    pub fn open(log: &KafkaLog, isolation: Isolation, from: &OffsetVector) -> Result<PartitionReader> {
        let isolation = match isolation {
            Isolation::Committed => "read_committed",
            Isolation::Uncommitted => "read_uncommitted",
        };
        // librdkafka wants a group id for `assign`; nothing joins it and nothing is committed for it.
        let client = log.consumer_client("tidemill.reader", &[("isolation.level", isolation)], |_| {})?;
        let mut fetch = Fetch::new(client);
        let list = Partitions::with(from.iter().map(|(partition, next)| (partition, next.0)));
        // SAFETY: client and list live.
        let code = unsafe { rk::rd_kafka_assign(fetch.client.rk, list.0) };
        Failure::check_code(code).map_err(|failure| failure.error("assign partitions"))?;
        fetch.set(from);
        Ok(PartitionReader { fetch })
    }
}

impl Reader for PartitionReader {
    fn poll(&mut self, timeout: Duration, max_records: usize) -> Result<Vec<Chunk>> {
        self.fetch.poll(timeout, max_records, || false)
    }

    fn positions(&self) -> OffsetVector {
        self.fetch.positions()
    }
}
