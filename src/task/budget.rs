//! The dead-letter budget: at most 1 % of the last 10,000 records of a partition may be bad.
//!
//! Counted in records, not minutes, so that live, replay and restart stop at the same record.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Records over which bad ones are counted.
pub const SPAN: u64 = 10_000;
/// More bad records than this within [`SPAN`] stop the pipeline.
pub const ALLOWED: usize = 100;

/// Bad records of one source partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Records seen so far, good and bad.
    seen: u64,
    /// Ordinals of the bad ones among the last [`SPAN`] records, ascending.
    bad: VecDeque<u64>,
}

impl Budget {
    /// Counts the next `records` records, of which those at the given places (from 0, ascending) are bad. Returns the place of the
    /// first one that exceeds the budget.
    pub fn count(&mut self, records: usize, bad: impl IntoIterator<Item = usize>) -> Option<usize> {
        let mut exceeded = None;
        for place in bad {
            let ordinal = self.seen + place as u64;
            self.bad.push_back(ordinal);
            while self.bad.front().is_some_and(|first| first + SPAN <= ordinal) {
                self.bad.pop_front();
            }
            if self.bad.len() > ALLOWED && exceeded.is_none() {
                exceeded = Some(place);
            }
        }
        self.seen += records as u64;
        exceeded
    }

    /// Forgets the bad records counted so far: the user restarted after having looked at them.
    pub fn reset(&mut self) {
        self.bad.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_percent_of_the_last_ten_thousand_is_allowed() {
        let mut budget = Budget::default();
        for _ in 0..100 {
            assert_eq!(budget.count(100, [3]), None, "1 in 100 for ever is within the budget");
        }
        for _ in 0..1000 {
            assert_eq!(budget.count(100, [3]), None);
        }
        assert_eq!(budget.count(100, [0, 1, 2, 3, 4]), Some(0), "one more than 100 in the last 10,000");
    }

    #[test]
    fn chunking_changes_nothing() {
        let bad: Vec<usize> = (0..30_000).filter(|n| n % 97 == 0 || n % 5_000 < 40).collect();
        let mut whole = Budget::default();
        let at = whole.count(30_000, bad.iter().copied());
        let mut parts = Budget::default();
        let mut first = None;
        for start in (0..30_000).step_by(777) {
            let len = 777.min(30_000 - start);
            let part = bad.iter().filter(|b| (start..start + len).contains(*b)).map(|b| b - start);
            first = first.or(parts.count(len, part).map(|place| place + start));
        }
        assert_eq!(at, first);
        assert_eq!(whole, parts);
    }
}
