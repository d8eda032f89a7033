//! One partition: records and control markers by offset, the last stable offset, compaction and deletion.

use std::collections::{BTreeMap, BTreeSet};

use crate::log::Isolation;
use crate::record::{Chunk, Header, NextOffset, Offset, TopicPartition};

/// Numbers every transaction of the log; never used again.
pub(super) type TransactionNumber = u64;

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub timestamp: i64,
    pub key: Option<Box<[u8]>>,
    pub value: Option<Box<[u8]>>,
    pub headers: Vec<Header>,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    transaction: Option<TransactionNumber>,
    /// `None`: a control marker, which occupies its offset and is never delivered.
    record: Option<Record>,
}

/// Invariant: entries ascend by offset, with holes where compaction took some; all lie in `start..end`.
#[derive(Debug, Default)]
pub(super) struct PartitionLog {
    entries: Vec<Entry>,
    start: i64,
    end: i64,
    /// Open transactions that wrote here, with their first offset.
    open: BTreeMap<TransactionNumber, i64>,
    aborted: BTreeSet<TransactionNumber>,
    /// Committed transactions whose marker is still on its way: it arrives with the next read.
    late: BTreeSet<TransactionNumber>,
}

impl PartitionLog {
    pub fn start(&self) -> NextOffset {
        NextOffset(self.start)
    }

    pub fn end(&self, isolation: Isolation) -> NextOffset {
        match isolation {
            Isolation::Uncommitted => NextOffset(self.end),
            Isolation::Committed => NextOffset(self.open.values().copied().min().unwrap_or(self.end)),
        }
    }

    pub fn append(&mut self, transaction: Option<TransactionNumber>, record: Record) -> Offset {
        if let Some(number) = transaction {
            self.open.entry(number).or_insert(self.end);
        }
        self.push(transaction, Some(record))
    }

    pub fn has_open(&self, number: TransactionNumber) -> bool {
        self.open.contains_key(&number)
    }

    /// Writes the transaction's control marker: commit or abort.
    pub fn finish(&mut self, number: TransactionNumber, commit: bool) {
        if self.open.remove(&number).is_some() {
            if !commit {
                self.aborted.insert(number);
            }
            self.push(Some(number), None);
        }
    }

    /// The transaction is committed, but its marker comes only with the next read: until then the last stable offset stays where it is.
    pub fn finish_late(&mut self, number: TransactionNumber) {
        if self.open.contains_key(&number) {
            self.late.insert(number);
        }
    }

    /// A read happens: late markers arrive.
    pub fn markers_arrive(&mut self) {
        for number in std::mem::take(&mut self.late) {
            self.finish(number, true);
        }
    }

    fn push(&mut self, transaction: Option<TransactionNumber>, record: Option<Record>) -> Offset {
        let offset = self.end;
        self.entries.push(Entry { offset, transaction, record });
        self.end += 1;
        Offset(offset)
    }

    /// At most `max` records from `from` on; the position moves behind everything that was passed over.
    pub fn read(&self, partition: &TopicPartition, from: NextOffset, isolation: Isolation, max: usize) -> Chunk {
        let bound = self.end(isolation);
        let mut chunk = Chunk::empty(partition.clone(), from);
        let first = self.entries.partition_point(|entry| entry.offset < from.0);
        for entry in &self.entries[first..] {
            if entry.offset >= bound.0 || chunk.len() >= max {
                break;
            }
            match &entry.record {
                Some(record) if isolation == Isolation::Uncommitted || !self.is_aborted(entry) => {
                    let (key, value) = (record.key.as_deref(), record.value.as_deref());
                    chunk.push(Offset(entry.offset), record.timestamp, key, value, record.headers.clone());
                }
                _ => chunk.next = Offset(entry.offset).next(),
            }
        }
        // Trailing holes and markers: nothing deliverable is left below the bound, so the position is the bound.
        if chunk.len() < max && bound > chunk.next {
            chunk.next = bound;
        }
        chunk
    }

    fn is_aborted(&self, entry: &Entry) -> bool {
        entry.transaction.is_some_and(|number| self.aborted.contains(&number))
    }

    /// The first offset below the last stable offset whose record is at or after `millis`; else the last stable offset.
    pub fn offset_for_time(&self, millis: i64) -> NextOffset {
        let bound = self.end(Isolation::Committed);
        self.entries
            .iter()
            .take_while(|entry| entry.offset < bound.0)
            .find(|entry| entry.record.as_ref().is_some_and(|record| record.timestamp >= millis))
            .map_or(bound, |entry| NextOffset(entry.offset))
    }

    /// Drops everything below `below`; the caller checked that it is not above the end.
    pub fn delete_below(&mut self, below: NextOffset) {
        self.start = self.start.max(below.0);
        let kept = self.entries.partition_point(|entry| entry.offset < self.start);
        self.entries.drain(..kept);
    }

    /// Keeps the last value per key among stable records, as a broker's log cleaner does in the end: aborted records and markers go,
    /// tombstones go if asked. Records without a key stay. Offsets stay as they are, so this leaves holes, even at the tail.
    pub fn compact(&mut self, drop_tombstones: bool) {
        let bound = self.end(Isolation::Committed).0;
        let mut newest: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| entry.offset < bound && !self.is_aborted(entry)) {
            if let Some(Record { key: Some(key), .. }) = &entry.record {
                newest.insert(key.to_vec(), entry.offset);
            }
        }
        let aborted = std::mem::take(&mut self.aborted);
        self.entries.retain(|entry| {
            if entry.offset >= bound {
                return true;
            }
            let Some(record) = &entry.record else { return false };
            if entry.transaction.is_some_and(|number| aborted.contains(&number)) {
                return false;
            }
            match &record.key {
                None => true,
                Some(key) => newest[&**key] == entry.offset && !(drop_tombstones && record.value.is_none()),
            }
        });
        // A transaction that was aborted can still have records above the bound.
        self.aborted = aborted;
    }
}
