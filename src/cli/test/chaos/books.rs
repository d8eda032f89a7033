//! What every transaction of a run sent and how it ended, kept beside the log and independent of it; compared with what is visible.
//!
//! Every record carries the number of its transaction in a header. In the end a reader with `read_committed` must see all records of every
//! transaction that was committed, and none of any other.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::log::embedded::EmbeddedLog;
use crate::log::{CommittedOffsets, Isolation, Log};
use crate::record::{Header, Outgoing, Topic, TopicPartition};
use crate::task::progress;

const TRANSACTION_HEADER: &str = "simulation.transaction";

#[derive(Debug, Default)]
struct Transaction {
    sent: BTreeMap<TopicPartition, usize>,
    committed: bool,
}

#[derive(Debug, Default)]
pub struct Books {
    transactions: Vec<Transaction>,
    /// By group, as of the transactions that were committed.
    offsets: BTreeMap<String, CommittedOffsets>,
    /// What must never happen and did.
    pub faults: Vec<String>,
}

impl Books {
    pub fn begin(&mut self) -> usize {
        self.transactions.push(Transaction::default());
        self.transactions.len() - 1
    }

    /// The records with the number of their transaction.
    pub fn send(&mut self, number: usize, topic: &Topic, records: &Outgoing) -> Outgoing {
        let mut marked = Outgoing::default();
        for row in 0..records.len() {
            let mut headers = records.row_headers(row).to_vec();
            headers.push(Header::new(TRANSACTION_HEADER, number.to_string()));
            let (key, value) = (records.keys.get(row), records.values.get(row));
            marked.push(records.partitions[row], records.timestamps[row], key, value, headers);
            *self.transactions[number].sent.entry(topic.partition(records.partitions[row])).or_default() += 1;
        }
        marked
    }

    /// The transaction was committed, whatever its producer was told. Numbers of a task's commits follow one another, and no position goes back.
    pub fn committed(&mut self, number: usize, offsets: &CommittedOffsets, group: Option<&str>) {
        self.transactions[number].committed = true;
        let Some(group) = group else { return };
        let known = self.offsets.entry(group.to_owned()).or_default();
        for (partition, now) in offsets {
            let before = known.insert(partition.clone(), now.clone());
            let commit_of = |offset| progress::commit_of(partition, offset).unwrap_or_default();
            let (last, next) = (before.as_ref().map_or(0, commit_of), commit_of(now));
            // Commit 0 is the beginning that is recorded with a generation: nothing may have been processed before it.
            if next != last + 1 && (next, last) != (0, 0) {
                self.faults.push(format!("{partition}: commit {next} follows commit {last}"));
            }
            if before.is_some_and(|before| before.next > now.next) {
                self.faults.push(format!("{partition}: commit {next} goes back to {}", now.next));
            }
        }
    }

    /// Everything that is visible was committed, and everything that was committed is visible.
    pub fn check(&mut self, log: &EmbeddedLog, sources: &BTreeSet<Topic>) -> Result<()> {
        let mut seen: BTreeMap<(usize, TopicPartition), usize> = BTreeMap::new();
        let mut trimmed = BTreeSet::new();
        for info in log.topics("")?.into_iter().filter(|info| !sources.contains(&info.topic)) {
            let partitions = crate::log::partitions_of(&info.topic, info.partitions);
            let starts = log.start_offsets(&partitions)?;
            trimmed.extend(starts.into_iter().filter(|(_, start)| start.0 > 0).map(|(partition, _)| partition));
            for chunk in log.read(&info.topic, Isolation::Committed)? {
                for row in 0..chunk.len() {
                    match number(chunk.row_headers(row)) {
                        Some(number) => *seen.entry((number, chunk.partition.clone())).or_default() += 1,
                        None => {
                            let at = chunk.offsets[row];
                            self.faults.push(format!("{}: offset {at} was written outside of any transaction", chunk.partition));
                        }
                    }
                }
            }
        }
        for ((number, partition), count) in &seen {
            if !self.transactions[*number].committed {
                self.faults
                    .push(format!("{partition}: {count} records of transaction {number} are visible, it was not committed"));
            }
        }
        for (number, transaction) in self.transactions.iter().enumerate().filter(|(_, transaction)| transaction.committed) {
            for (partition, sent) in transaction.sent.iter().filter(|(partition, _)| !trimmed.contains(*partition)) {
                let visible = seen.get(&(number, partition.clone())).copied().unwrap_or(0);
                if visible != *sent {
                    self.faults.push(format!("{partition}: {visible} of {sent} records of transaction {number} are visible"));
                }
            }
        }
        for (group, offsets) in &self.offsets {
            let partitions: Vec<TopicPartition> = offsets.keys().cloned().collect();
            let found = log.committed(group, &partitions)?;
            for (partition, intended) in offsets {
                if found.get(partition) != Some(intended) {
                    let found = found.get(partition).map(|found| found.next);
                    self.faults.push(format!("{partition}: group \"{group}\" is at {found:?}, {} was committed", intended.next));
                }
            }
        }
        Ok(())
    }
}

fn number(headers: &[Header]) -> Option<usize> {
    let header = headers.iter().rev().find(|header| header.name == TRANSACTION_HEADER)?;
    std::str::from_utf8(header.value.as_deref()?).ok()?.parse().ok()
}
