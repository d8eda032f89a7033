//! What an updating aggregate tells: old rows out, new rows in.

use arrow::array::{Array, ArrayRef, make_comparator};
use arrow::compute::{SortOptions, interleave};
use hashbrown::HashMap;

use super::{Aggregate, Results};
use crate::error::Result;
use crate::operator::Output;
use crate::operator::evaluate::broken;

/// Rows to emit.
#[derive(Default)]
pub struct Changes {
    /// Each row's place among the slots that were flushed.
    pub rows: Vec<u32>,
    pub weights: Vec<i8>,
    /// Of an old row as it was emitted: a row is taken back with the position that it came with.
    pub event_times: Vec<i64>,
    /// Result columns, without the groups'.
    pub columns: Vec<ArrayRef>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Aggregate {
    /// Compares the results of `slots` with what they were at the last flush. A group that can't be computed any more is withdrawn.
    pub(super) fn changes(&self, slots: &[u32], new: &Results, keys: &[ArrayRef], out: &mut Output) -> Result<Changes> {
        let mut old_places: HashMap<u32, (usize, usize)> = HashMap::new();
        for (part, before) in self.before.iter().enumerate() {
            let failed = failed_rows(&before.rows, before.slots.len());
            let rows = before.slots.iter().enumerate().filter(|(row, _)| !failed[*row]);
            old_places.extend(rows.map(|(row, slot)| (*slot, (part + 1, row))));
        }
        let failed = failed_rows(new, slots.len());
        let same = self.comparators(new)?;
        let (mut rows, mut weights, mut event_times, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let time_of = |(part, at): (usize, usize)| match part {
            0 => self.slots.event_times[slots[at] as usize],
            _ => self.before[part - 1].event_times[at],
        };
        let mut failures = new.failures.iter().peekable();
        for (row, slot) in slots.iter().enumerate() {
            let alive = self.alive(*slot);
            let old = old_places.get(slot).copied();
            let mut now = (alive && !failed[row]).then_some((0, row));
            let mut before = old;
            // An equal row of another time is told as well, or a row's time would depend on where commits fall.
            if let (Some((part, at)), Some(place)) = (old, now)
                && time_of((part, at)) == time_of(place)
                && same[part - 1].iter().all(|compare| compare(at, row).is_eq())
            {
                (before, now) = (None, None);
            }
            for (place, weight) in [(before, -1), (now, 1)] {
                if let Some(place) = place {
                    rows.push(row as u32);
                    weights.push(weight);
                    event_times.push(time_of(place));
                    places.push(place);
                }
            }
            while failures.peek().is_some_and(|(at, _, _)| *at < row) {
                failures.next();
            }
            if let Some((_, call, what)) = failures.next_if(|(at, _, _)| alive && *at == row) {
                out.withdrawn.push(self.withdrawn(keys, slots, row, *call, what)?);
            }
        }
        let columns = (0..new.columns.len()).map(|column| {
            let parts: Vec<&dyn Array> = std::iter::once(&new.columns[column])
                .chain(self.before.iter().map(|before| &before.rows.columns[column]))
                .map(|column| column.as_ref())
                .collect();
            interleave(&parts, &places).map_err(|e| broken("changes", e))
        });
        let columns = if rows.is_empty() { Vec::new() } else { columns.collect::<Result<_>>()? };
        Ok(Changes { rows, weights, event_times, columns })
    }

    /// Per part of `before` and column: compares an old value with a new one.
    fn comparators(&self, new: &Results) -> Result<Vec<Vec<arrow::array::DynComparator>>> {
        let parts = self.before.iter().map(|before| {
            let columns = before.rows.columns.iter().zip(&new.columns);
            columns
                .map(|(old, new)| make_comparator(old, new, SortOptions::default()).map_err(|e| broken("changes", e)))
                .collect()
        });
        parts.collect()
    }
}

fn failed_rows(results: &Results, rows: usize) -> Vec<bool> {
    let mut failed = vec![false; rows];
    results.failures.iter().for_each(|(row, _, _)| failed[*row] = true);
    failed
}
