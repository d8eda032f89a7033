//! When a quiet partition's watermark is raised: the one place where a clock speaks.
//!
//! A partition that has been at its end for `idle_after` is idle. Its owner may raise its watermark to the lowest of the partitions that
//! are not idle, or, if all are, to the highest of all. What others own is known from the metadata of the group's committed offsets.
//! Every raise is a [`Decision`](super::decision::Decision), recorded in the transaction that uses it.
//!
//! Invariant: no clock here; time comes in as milliseconds of any monotonic clock.

use std::collections::BTreeMap;

use crate::record::{NextOffset, Timestamp, TopicPartition};
use crate::watermark::Watermark;

/// Where a source partition of the pipeline stands, whoever owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    pub watermark: Watermark,
    /// The highest event time of a record; raises do not move it.
    pub highest: Option<Timestamp>,
    pub idle: bool,
    /// At its end for `quiet_after`.
    pub quiet: bool,
}

/// How long partitions have been at their ends.
#[derive(Debug, Default)]
pub struct Quiet {
    seen: BTreeMap<TopicPartition, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    position: NextOffset,
    since_ms: u64,
}

impl Quiet {
    /// Notes that a partition stands at `position` of a log that ends at `end`. Returns for how many milliseconds it has been at its
    /// end; `None` when it is not.
    pub fn look(&mut self, partition: &TopicPartition, position: NextOffset, end: NextOffset, now_ms: u64) -> Option<u64> {
        if position < end {
            self.seen.remove(partition);
            return None;
        }
        let seen = self.seen.entry(partition.clone()).or_insert(Seen { position, since_ms: now_ms });
        if seen.position != position {
            *seen = Seen { position, since_ms: now_ms };
        }
        Some(now_ms.saturating_sub(seen.since_ms))
    }

    /// Nothing is known any more: the log could not be asked, or partitions have moved.
    pub fn forget(&mut self) {
        self.seen.clear();
    }
}

/// The raises that the owner of `own` may make, given all other partitions of the pipeline.
pub fn raises(
    own: &BTreeMap<TopicPartition, Stand>,
    others: &BTreeMap<TopicPartition, Stand>,
) -> Vec<(TopicPartition, Watermark)> {
    let all = || own.iter().chain(others.iter().filter(|(partition, _)| !own.contains_key(*partition))).map(|(_, stand)| stand);
    let active = all().filter(|stand| !stand.idle).map(|stand| stand.watermark).min();
    let Some(to) = active.or_else(|| all().map(|stand| stand.watermark).max()) else { return Vec::new() };
    // Nothing known yet, or the end of all time: neither is a place in time to raise to.
    if to == Watermark::MIN || to == Watermark::MAX {
        return Vec::new();
    }
    own.iter().filter(|(_, stand)| stand.idle && stand.watermark < to).map(|(partition, _)| (partition.clone(), to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Topic;

    fn stands(of: &[(i32, i64, bool)]) -> BTreeMap<TopicPartition, Stand> {
        let stand = |(p, watermark, idle): &(i32, i64, bool)| {
            let stand = Stand { watermark: Watermark(*watermark), highest: None, idle: *idle, quiet: false };
            (Topic::new("orders").partition(*p), stand)
        };
        of.iter().map(stand).collect()
    }

    fn raised(own: &[(i32, i64, bool)], others: &[(i32, i64, bool)]) -> Vec<(i32, i64)> {
        raises(&stands(own), &stands(others)).into_iter().map(|(p, w)| (p.partition.0, w.0)).collect()
    }

    #[test]
    fn an_idle_partition_goes_to_the_lowest_of_those_that_move() {
        assert_eq!(raised(&[(0, 10, true), (1, 50, false), (2, 70, false)], &[]), [(0, 50)]);
        assert_eq!(raised(&[(0, 10, true), (1, 50, false)], &[(2, 30, false)]), [(0, 30)]);
        assert_eq!(raised(&[(0, 60, true), (1, 50, false)], &[]), []);
    }

    #[test]
    fn when_all_are_idle_they_go_to_the_highest() {
        assert_eq!(raised(&[(0, 10, true), (1, 50, true)], &[(2, 90, true)]), [(0, 90), (1, 90)]);
    }

    #[test]
    fn nothing_is_raised_while_one_that_moves_has_no_watermark() {
        assert_eq!(raised(&[(0, 10, true), (1, i64::MIN, false)], &[]), []);
        assert_eq!(raised(&[(0, i64::MIN, true)], &[]), []);
    }

    #[test]
    fn a_record_or_a_silence_of_the_log_begins_the_count_anew() {
        let (mut quiet, p) = (Quiet::default(), Topic::new("orders").partition(0));
        assert_eq!(quiet.look(&p, NextOffset(5), NextOffset(5), 1_000), Some(0));
        assert_eq!(quiet.look(&p, NextOffset(5), NextOffset(5), 31_000), Some(30_000));
        assert_eq!(quiet.look(&p, NextOffset(6), NextOffset(6), 32_000), Some(0));
        assert_eq!(quiet.look(&p, NextOffset(6), NextOffset(8), 40_000), None);
        assert_eq!(quiet.look(&p, NextOffset(8), NextOffset(8), 41_000), Some(0));
        quiet.forget();
        assert_eq!(quiet.look(&p, NextOffset(8), NextOffset(8), 90_000), Some(0));
    }
}
