//! Where a range begins and ends: symbolic bounds are resolved once to numbers, recorded, and never again.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::log::{Isolation, Log};
use crate::record::{NextOffset, OffsetVector, Topic, TopicPartition};

/// A bound as the user gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The log start.
    Earliest,
    /// The last stable offset at the moment of resolving.
    Latest,
    /// The same as `Latest`.
    Now,
    /// The first record whose timestamp is at or above, in milliseconds since the epoch.
    Timestamp(i64),
    /// One offset per partition.
    Offsets(BTreeMap<TopicPartition, NextOffset>),
}

/// Which end of a range a bound is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    From,
    To,
}

impl Which {
    fn option(self) -> &'static str {
        match self {
            Which::From => "--from",
            Which::To => "--to",
        }
    }
}

impl FromStr for Bound {
    type Err = Error;

    fn from_str(text: &str) -> Result<Bound> {
        match text.trim() {
            "earliest" => return Ok(Bound::Earliest),
            "latest" => return Ok(Bound::Latest),
            "now" => return Ok(Bound::Now),
            _ => {}
        }
        if let Ok(at) = chrono::DateTime::parse_from_rfc3339(text.trim()) {
            return Ok(Bound::Timestamp(at.timestamp_millis()));
        }
        let mut offsets = BTreeMap::new();
        for part in text.split(',') {
            let (partition, offset) = parse_offset(part.trim()).ok_or_else(|| {
                Error::config(format!("bound \"{part}\" is not understood"))
                    .hint("give earliest, latest, now, a time such as 2026-01-01T00:00:00Z, or offsets such as orders:0=120,orders:1=95")
            })?;
            if offsets.insert(partition.clone(), offset).is_some() {
                return Err(
                    Error::config(format!("bound \"{text}\" names {partition} twice")).hint("give one offset per partition")
                );
            }
        }
        Ok(Bound::Offsets(offsets))
    }
}

fn parse_offset(text: &str) -> Option<(TopicPartition, NextOffset)> {
    let (place, offset) = text.split_once('=')?;
    let (topic, partition) = place.rsplit_once(':')?;
    let partition: i32 = partition.trim().parse().ok().filter(|p| *p >= 0)?;
    let offset: i64 = offset.trim().parse().ok().filter(|o| *o >= 0)?;
    (!topic.is_empty()).then(|| (Topic::new(topic.trim()).partition(partition), NextOffset(offset)))
}

/// Turns a bound into an offset for every partition.
///
/// # Errors
/// `Config` when an offset lies outside the log (with the exact numbers), a partition is missing, or one is named that is not a source's.
pub fn resolve(log: &dyn Log, partitions: &[TopicPartition], bound: &Bound, which: Which) -> Result<OffsetVector> {
    match bound {
        Bound::Earliest => log.start_offsets(partitions),
        Bound::Latest | Bound::Now => log.end_offsets(partitions, Isolation::Committed),
        Bound::Timestamp(millis) => {
            let mut offsets = log.offsets_for_times(partitions, *millis)?;
            // A time after the last record means the end as a reader sees it.
            let ends = log.end_offsets(partitions, Isolation::Committed)?;
            for (partition, offset) in &mut offsets {
                *offset = (*offset).min(ends[partition]);
            }
            Ok(offsets)
        }
        Bound::Offsets(given) => check(log, partitions, given, which),
    }
}

fn check(
    log: &dyn Log,
    partitions: &[TopicPartition],
    given: &BTreeMap<TopicPartition, NextOffset>,
    which: Which,
) -> Result<OffsetVector> {
    let option = which.option();
    if let Some(foreign) = given.keys().find(|partition| !partitions.contains(partition)) {
        let known: Vec<String> = partitions.iter().map(|p| format!("{}:{}", p.topic, p.partition)).collect();
        return Err(Error::config(format!("{option} names {foreign}, which is no source of the pipeline"))
            .hint(format!("its source partitions are {}", known.join(", "))));
    }
    let starts = log.start_offsets(partitions)?;
    let ends = log.end_offsets(partitions, Isolation::Committed)?;
    let mut offsets = OffsetVector::new();
    for partition in partitions {
        let Some(offset) = given.get(partition).copied() else {
            return Err(Error::config(format!("{option} gives no offset for {partition}")).hint(format!(
                "add {}:{}=OFFSET; its log holds {} to {}",
                partition.topic, partition.partition, starts[partition], ends[partition]
            )));
        };
        if offset < starts[partition] {
            return Err(Error::config(format!(
                "{partition}: {option} offset {offset} is below the log start {}",
                starts[partition]
            ))
            .hint(format!("start at {} or later; what lies below was deleted by retention", starts[partition])));
        }
        if offset > ends[partition] {
            return Err(Error::config(format!("{partition}: {option} offset {offset} is above the end {}", ends[partition]))
                .hint(format!("give {} or less, or wait until the records are there", ends[partition])));
        }
        offsets.insert(partition.clone(), offset);
    }
    Ok(offsets)
}

/// `orders:0=120,orders:1=95`: what [`Bound::from_str`] reads.
pub fn show(offsets: &OffsetVector) -> String {
    let parts: Vec<String> = offsets.iter().map(|(p, offset)| format!("{}:{}={offset}", p.topic, p.partition)).collect();
    parts.join(",")
}
