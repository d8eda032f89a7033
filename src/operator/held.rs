//! Rows kept by number: batches stay whole as they came, a number leads to a row.
//!
//! Nothing is copied or allocated per row. What goes stays in its batch until most of the batch has gone; then the rest moves to
//! a new one. A number is stable while its row lives, and is used again afterwards.
//!
//! Invariant: a row that was removed is there until `keep`, so that `undo` brings it back.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;

use super::evaluate::{broken, record_batch};
use crate::error::Result;

/// No row, where a number could stand.
pub const NONE: u32 = u32::MAX;

/// Batches of fewer rows than this are brought together once there are [`SMALL_BATCHES`] of them.
const SMALL_ROWS: usize = 128;
const SMALL_BATCHES: usize = 64;
/// So many dead rows are left where they are, whatever their share.
const DEAD_ROWS: usize = 8192;
const MERGED_ROWS: usize = 8192;

pub struct Held {
    schema: SchemaRef,
    chunks: Vec<Chunk>,
    free_chunks: Vec<u32>,
    /// By number: chunk and row.
    places: Vec<(u32, u32)>,
    free: Vec<u32>,
    /// Since the last `keep`.
    added: Vec<u32>,
    removed: Vec<u32>,
}

struct Chunk {
    rows: RecordBatch,
    /// By row; [`NONE`] where it has gone.
    numbers: Vec<u32>,
    live: usize,
    bytes: usize,
}

impl Held {
    pub fn new(schema: SchemaRef) -> Held {
        let (places, free, added, removed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Held { schema, chunks: Vec::new(), free_chunks: Vec::new(), places, free, added, removed }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Takes all rows of a batch; returns their numbers, in order.
    pub fn add(&mut self, rows: RecordBatch) -> Vec<u32> {
        debug_assert_eq!(rows.num_columns(), self.schema.fields().len(), "rows have the columns that they are held with");
        if rows.num_rows() == 0 {
            return Vec::new();
        }
        let numbers: Vec<u32> = (0..rows.num_rows())
            .map(|_| {
                self.free.pop().unwrap_or_else(|| {
                    self.places.push((NONE, 0));
                    self.places.len() as u32 - 1
                })
            })
            .collect();
        self.added.extend(&numbers);
        self.store(rows, numbers.clone());
        numbers
    }

    /// The row is not needed any more; it is dropped by `keep`.
    pub fn remove(&mut self, number: u32) {
        self.removed.push(number);
    }

    /// Rows that were added since there were so many added ones are not needed any more: they go now. None of them may have been removed.
    pub fn forget(&mut self, added: usize) {
        for number in self.added.split_off(added) {
            self.drop_row(number);
        }
    }

    /// Rows added since the last `keep`.
    pub fn added(&self) -> &[u32] {
        &self.added
    }

    /// Rows of the given numbers, in that order.
    pub fn take(&self, numbers: &[u32]) -> Result<RecordBatch> {
        if self.schema.fields().is_empty() {
            return record_batch(&self.schema, Vec::new(), numbers.len()).map_err(|e| broken("held rows", e));
        }
        let mut used: Vec<u32> = numbers.iter().map(|number| self.places[*number as usize].0).collect();
        used.sort_unstable();
        used.dedup();
        let failed = |e| broken("held rows", e);
        match used.as_slice() {
            [] => Ok(RecordBatch::new_empty(self.schema.clone())),
            [one] => {
                let rows = &self.chunks[*one as usize].rows;
                let at = |number: &u32| self.places[*number as usize].1;
                let first = at(&numbers[0]);
                if numbers.iter().enumerate().all(|(n, number)| at(number) as usize == first as usize + n) {
                    return Ok(rows.slice(first as usize, numbers.len()));
                }
                take_record_batch(rows, &numbers.iter().map(at).collect::<UInt32Array>()).map_err(failed)
            }
            _ => {
                let chunks: Vec<&RecordBatch> = used.iter().map(|chunk| &self.chunks[*chunk as usize].rows).collect();
                let place = |number: &u32| {
                    let (chunk, row) = self.places[*number as usize];
                    (used.binary_search(&chunk).expect("every chunk in use is listed"), row as usize)
                };
                interleave_record_batch(&chunks, &numbers.iter().map(place).collect::<Vec<_>>()).map_err(failed)
            }
        }
    }

    /// Where a row stands.
    pub fn row(&self, number: u32) -> (&RecordBatch, usize) {
        let (chunk, row) = self.places[number as usize];
        (&self.chunks[chunk as usize].rows, row as usize)
    }

    /// The commit succeeded: removed rows go, and batches that are mostly gone are brought together.
    pub fn keep(&mut self) {
        self.added.clear();
        for number in std::mem::take(&mut self.removed) {
            self.drop_row(number);
        }
        self.tidy();
    }

    /// The commit failed: removed rows are there again, added ones go.
    pub fn undo(&mut self) {
        self.removed.clear();
        for number in std::mem::take(&mut self.added) {
            self.drop_row(number);
        }
    }

    pub fn clear(&mut self) {
        *self = Held::new(self.schema.clone());
    }

    /// One above the highest number in use.
    pub fn numbers(&self) -> u32 {
        self.places.len() as u32
    }

    /// Whether a row (removed or not) has the number.
    pub fn has(&self, number: u32) -> bool {
        self.places[number as usize].0 != NONE
    }

    /// Estimated memory in bytes.
    pub fn size(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes + chunk.numbers.capacity() * 4).sum::<usize>() + self.places.capacity() * 12
    }

    fn store(&mut self, rows: RecordBatch, numbers: Vec<u32>) {
        let chunk = self.free_chunks.pop().unwrap_or(self.chunks.len() as u32);
        for (row, number) in numbers.iter().enumerate() {
            self.places[*number as usize] = (chunk, row as u32);
        }
        let chunk_of = Chunk { bytes: rows.get_array_memory_size(), live: rows.num_rows(), rows, numbers };
        match self.chunks.get_mut(chunk as usize) {
            Some(place) => *place = chunk_of,
            None => self.chunks.push(chunk_of),
        }
    }

    fn drop_row(&mut self, number: u32) {
        let (at, row) = std::mem::replace(&mut self.places[number as usize], (NONE, 0));
        assert!(at != NONE, "a row is removed once");
        self.free.push(number);
        let chunk = &mut self.chunks[at as usize];
        chunk.numbers[row as usize] = NONE;
        chunk.live -= 1;
        if chunk.live == 0 {
            self.drop_chunk(at);
        }
    }

    fn drop_chunk(&mut self, at: u32) {
        let rows = RecordBatch::new_empty(self.schema.clone());
        self.chunks[at as usize] = Chunk { rows, numbers: Vec::new(), live: 0, bytes: 0 };
        self.free_chunks.push(at);
    }

    fn tidy(&mut self) {
        let worn = |chunk: &Chunk| chunk.live > 0 && (chunk.live * 2 < chunk.numbers.len() || chunk.live < SMALL_ROWS);
        let (mut count, mut dead, mut live) = (0, 0, 0);
        for chunk in self.chunks.iter().filter(|chunk| worn(chunk)) {
            (count, live, dead) = (count + 1, live + chunk.live, dead + chunk.numbers.len() - chunk.live);
        }
        if count <= SMALL_BATCHES && dead <= live + DEAD_ROWS {
            return;
        }
        let chunks: Vec<u32> = (0..self.chunks.len() as u32).filter(|at| worn(&self.chunks[*at as usize])).collect();
        let numbers = chunks.iter().flat_map(|at| self.chunks[*at as usize].numbers.iter().copied());
        let numbers: Vec<u32> = numbers.filter(|number| *number != NONE).collect();
        let merged = numbers.chunks(MERGED_ROWS).map(|part| Ok((self.take(part)?, part.to_vec()))).collect::<Result<Vec<_>>>();
        // More text than one array can hold: the rows stay where they are.
        let Ok(merged) = merged else { return };
        chunks.into_iter().for_each(|at| self.drop_chunk(at));
        for (rows, numbers) in merged {
            self.store(rows, numbers);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use proptest::prelude::*;

    use super::*;

    fn rows(values: std::ops::Range<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(values))]).unwrap()
    }

    fn check(held: &Held, model: &BTreeMap<u32, i64>) {
        let numbers: Vec<u32> = model.keys().rev().copied().collect();
        let taken = held.take(&numbers).unwrap();
        let values: Vec<i64> = model.values().rev().copied().collect();
        assert_eq!(taken.column(0).as_primitive::<Int64Type>().values().to_vec(), values);
    }

    proptest! {
        #[test]
        fn rows_stay_under_their_numbers(steps in prop::collection::vec((0..7u8, 0..200usize), 1..300)) {
            let mut held = Held::new(rows(0..0).schema());
            let (mut now, mut kept, mut next) = (BTreeMap::new(), BTreeMap::new(), 0);
            for (step, size) in steps {
                match step {
                    0..=2 => {
                        let size = size as i64 / if step == 0 { 1 } else { 50 };
                        for (number, value) in held.add(rows(next..next + size)).into_iter().zip(next..) {
                            prop_assert!(now.insert(number, value).is_none());
                        }
                        next += size;
                    }
                    3 => {
                        let gone: Vec<u32> = now.keys().copied().filter(|n| !(*n as usize + size).is_multiple_of(3)).collect();
                        gone.iter().for_each(|number| { now.remove(number); held.remove(*number) });
                    }
                    4 => { held.keep(); kept = now.clone() }
                    5 => {
                        let before = held.added().len();
                        held.add(rows(next..next + size as i64));
                        next += size as i64;
                        held.forget(before);
                    }
                    _ => { held.undo(); now = kept.clone() }
                }
                check(&held, &now);
            }
            now.keys().for_each(|number| held.remove(*number));
            held.keep();
            prop_assert!(held.chunks.iter().all(|chunk| chunk.bytes == 0));
        }
    }
}
