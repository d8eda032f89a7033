//! Decisions as data: raises of quiet partitions, in one compacted topic per pipeline, followed by every run.
//!
//! ```text
//! key    {"topic": "orders", "partition": 1, "offset": 120}
//! value  {"v": 1, "watermark": 1767571200000000}          microseconds
//! ```
//! A row at or after that offset sees at least that watermark. Of several records with one key the last holds the highest watermark.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::log::{Isolation, Log, NewTopic};
use crate::record::{NextOffset, OffsetVector, Outgoing, Topic, TopicPartition};
use crate::watermark::Watermark;

/// Format version of the records. Readers accept this and the one before.
const FORMAT: u32 = 1;

/// A recorded raise: rows of the partition at or after `at` see at least `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub partition: TopicPartition,
    pub at: NextOffset,
    pub to: Watermark,
}

#[derive(Serialize, Deserialize)]
struct Key {
    topic: Topic,
    partition: i32,
    offset: i64,
}

#[derive(Serialize, Deserialize)]
struct Value {
    v: u32,
    watermark: i64,
}

/// The topic: compacted, one partition, kept as long as the input.
pub fn new_topic(topic: Topic, replication: i32) -> NewTopic {
    let config = BTreeMap::from([("cleanup.policy".to_string(), "compact".to_string())]);
    NewTopic { topic, partitions: 1, replication, config }
}

/// The records of decisions.
pub fn encode(decisions: &[Decision]) -> Outgoing {
    let mut records = Outgoing::default();
    for Decision { partition, at, to } in decisions {
        let key = Key { topic: partition.topic.clone(), partition: partition.partition.0, offset: at.0 };
        let key = serde_json::to_vec(&key).expect("names and numbers serialize");
        let value = serde_json::to_vec(&Value { v: FORMAT, watermark: to.0 }).expect("numbers serialize");
        records.push(0, 0, Some(&key), Some(&value), Vec::new());
    }
    records
}

/// Adds decisions to those that are known. A partition that stays quiet is raised again and again at one offset: one of them is enough.
pub fn remember(known: &mut Vec<Decision>, decided: impl IntoIterator<Item = Decision>) {
    for decision in decided {
        match known.iter_mut().rev().find(|known| known.partition == decision.partition) {
            Some(last) if last.at == decision.at => last.to = last.to.max(decision.to),
            _ => known.push(decision),
        }
    }
}

/// All decisions of a pipeline; none when the topic does not exist.
///
/// # Errors
/// `Corrupt`, with the place, for a record that this version can't have written.
pub fn read(log: &dyn Log, topic: &Topic) -> Result<Vec<Decision>> {
    Ok(read_since(log, topic, NextOffset(0))?.0)
}

/// The decisions that were recorded at or after a position of the topic, and the position behind them.
///
/// # Errors
/// As [`read`].
pub fn read_since(log: &dyn Log, topic: &Topic, since: NextOffset) -> Result<(Vec<Decision>, NextOffset)> {
    if log.topic(topic)?.is_none() {
        return Ok((Vec::new(), since));
    }
    let partition = topic.partition(0);
    let only = std::slice::from_ref(&partition);
    let start = log.start_offsets(only)?[&partition].max(since);
    // The high watermark: an open transaction must not hide decisions that were recorded after it began.
    let end = log.end_offsets(only, Isolation::Uncommitted)?[&partition];
    let mut found: BTreeMap<(TopicPartition, NextOffset), Watermark> = BTreeMap::new();
    if start < end {
        let mut reader = log.reader(Isolation::Committed, &OffsetVector::from([(partition.clone(), start)]))?;
        let clock = log.clock();
        let deadline = clock.now() + Duration::from_secs(30);
        while reader.positions()[&partition] < end {
            for chunk in reader.poll(Duration::from_millis(100), 10_000)? {
                for row in 0..chunk.len() {
                    let decision = decode(chunk.keys.get(row), chunk.values.get(row));
                    let decision = decision.map_err(|e| e.context(format!("{partition} offset {}", chunk.offsets[row])))?;
                    if let Some(Decision { partition, at, to }) = decision {
                        let known = found.entry((partition, at)).or_insert(to);
                        *known = (*known).max(to);
                    }
                }
            }
            if clock.now() > deadline {
                return Err(Error::away(format!("{partition}: not read to its end {end} within 30 s")));
            }
        }
    }
    let decisions = found.into_iter().map(|((partition, at), to)| Decision { partition, at, to });
    Ok((decisions.collect(), end.max(since)))
}

fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Option<Decision>> {
    let Some(value) = value else { return Ok(None) };
    let wrong = |e: serde_json::Error| Error::corrupt(format!("this is no decision: {e}"));
    let key: Key = serde_json::from_slice(key.unwrap_or_default()).map_err(wrong)?;
    let value: Value = serde_json::from_slice(value).map_err(wrong)?;
    if value.v != FORMAT {
        return Err(Error::corrupt(format!("format {} of a decision, this version reads {FORMAT}", value.v))
            .hint("a newer version of tidemill wrote it: use that version"));
    }
    let partition = key.topic.partition(key.partition);
    Ok(Some(Decision { partition, at: NextOffset(key.offset), to: Watermark(value.watermark) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_stays_quiet_takes_no_more_memory() {
        let raise = |partition: i32, at: i64, to: i64| Decision {
            partition: Topic::new("customers").partition(partition),
            at: NextOffset(at),
            to: Watermark(to),
        };
        let mut known = Vec::new();
        for to in 0..1_000 {
            remember(&mut known, [raise(0, 5, to), raise(1, 7, to)]);
        }
        remember(&mut known, [raise(0, 6, 2_000)]);
        assert_eq!(known, [raise(0, 5, 999), raise(1, 7, 999), raise(0, 6, 2_000)]);
    }

    #[test]
    fn a_decision_comes_back_as_it_was_written() {
        let decision =
            Decision { partition: Topic::new("a.b").partition(3), at: NextOffset(0), to: Watermark(-1_767_571_200_000_000) };
        let records = encode(std::slice::from_ref(&decision));
        assert_eq!(decode(records.keys.get(0), records.values.get(0)).unwrap(), Some(decision));
        assert_eq!(decode(records.keys.get(0), None).unwrap(), None);
        assert!(decode(Some(b"{}"), records.values.get(0)).is_err());
    }
}
