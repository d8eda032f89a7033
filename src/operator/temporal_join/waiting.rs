//! Rows that wait on disk: those of a stream that is ahead of its table.
//!
//! ```text
//! key     event time | derived | source | partition | offset | the row's values as bytes that sort | id
//! value   row watermark | the row itself, where a column's type would not come back from bytes that sort
//! ```
//!
//! Keys ascend as rows are released, so a release is a scan from the front, a part at a time, and what is behind it goes in ranges. A row on
//! disk never comes back to memory before its turn.
//!
//! Invariant: what was released is there until `keep`, so that `undo` only moves the front.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, UInt16Array};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};

use super::buffer::Place;
use crate::error::{Error, Result};
use crate::operator::evaluate::{broken, record_batch};
use crate::operator::key::{sortable, unsortable};
use crate::operator::position::{self, Positions};
use crate::operator::rows::{RowCodec, comes_back};
use crate::store::spill::{Push, Spill, Spills};
use crate::watermark::Watermark;

/// Bytes of a place, and of an id.
const PLACE: usize = 23;
const ID: usize = 8;
/// Rows are read in parts of fewer bytes than this.
const PART_BYTES: usize = 4 << 20;

/// Rows, positions and ids as bytes, and back.
pub struct WaitingRows {
    /// As they are held: columns, position, id.
    schema: SchemaRef,
    width: usize,
    order: RowConverter,
    /// Where a row does not come back from its key.
    whole: Option<RowCodec>,
}

impl WaitingRows {
    /// # Errors
    /// A column that has no order.
    pub fn new(schema: SchemaRef, width: usize) -> Result<WaitingRows> {
        let types = schema.fields()[..width].iter().map(|field| field.data_type());
        let back = types.clone().all(comes_back);
        let order = RowConverter::new(types.cloned().map(SortField::new).collect());
        let order = order.map_err(|e| Error::config(format!("rows that are to be ordered: {e}")))?;
        let whole = if back { None } else { Some(RowCodec::new(schema.clone())) };
        Ok(WaitingRows { schema, width, order, whole })
    }

    /// The values of rows, as bytes that sort; `None` when there are no columns.
    pub fn values(&self, rows: &RecordBatch) -> Result<Option<arrow::row::Rows>> {
        match self.width {
            0 => Ok(None),
            width => self.order.convert_columns(&rows.columns()[..width]).map(Some).map_err(|e| broken("rows in order", e)),
        }
    }

    pub fn positions(&self, rows: &RecordBatch) -> Positions {
        Positions::from_columns(&rows.columns()[self.width..self.width + position::COLUMNS])
    }

    pub fn ids(&self, rows: &RecordBatch) -> Int64Array {
        rows.column(self.width + position::COLUMNS).as_primitive::<Int64Type>().clone()
    }

    /// The keys of rows.
    pub fn keys(&self, rows: &RecordBatch) -> Result<Vec<Vec<u8>>> {
        let (values, positions, ids) = (self.values(rows)?, self.positions(rows), self.ids(rows));
        let key = |row: usize| {
            let values = values.as_ref().map(|values| values.row(row));
            let mut key = Vec::with_capacity(PLACE + ID + values.as_ref().map_or(0, |values| values.data().len()));
            write_place(super::buffer::place(&positions, row), &mut key);
            key.extend_from_slice(values.as_ref().map_or(&[], |values| values.data()));
            key.extend(sortable(ids.value(row)));
            key
        };
        Ok((0..rows.num_rows()).map(key).collect())
    }

    /// Pushes rows with their keys, in order.
    fn write(&self, rows: &RecordBatch, push: &mut Push<'_>) -> Result<()> {
        let (keys, watermarks) = (self.keys(rows)?, self.positions(rows).row_watermarks);
        let mut whole: Vec<Vec<u8>> = vec![Vec::new(); if self.whole.is_some() { keys.len() } else { 0 }];
        if let Some(codec) = &self.whole {
            codec.encode(rows, |row, bytes| {
                whole[row] = bytes.to_vec();
                Ok(())
            })?;
        }
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by(|a, b| keys[*a].cmp(&keys[*b]));
        let mut value = Vec::new();
        for row in order {
            value.clear();
            value.extend(sortable(watermarks.value(row)));
            value.extend(whole.get(row).into_iter().flatten());
            push(&keys[row], Some(&value))?;
        }
        Ok(())
    }

    /// Rows as they are held.
    pub fn read(&self, entries: &[(Vec<u8>, Vec<u8>)]) -> Result<RecordBatch> {
        let damaged = || Error::corrupt("a waiting row of spilled state is damaged");
        if entries.iter().any(|(key, value)| key.len() < PLACE + ID || value.len() < 8) {
            return Err(damaged());
        }
        if let Some(codec) = &self.whole {
            return codec.decode(entries.iter().map(|(_, value)| &value[8..]));
        }
        let mut columns: Vec<ArrayRef> = match self.width {
            0 => Vec::new(),
            _ => {
                let parser = self.order.parser();
                let values = entries.iter().map(|(key, _)| parser.parse(&key[PLACE..key.len() - ID]));
                self.order.convert_rows(values).map_err(|e| broken("rows of bytes", e))?
            }
        };
        let places: Vec<Place> = entries.iter().map(|(key, _)| read_place(key)).collect();
        columns.extend([
            Arc::new(Int64Array::from_iter_values(places.iter().map(|place| place.0))) as ArrayRef,
            Arc::new(Int64Array::from_iter_values(entries.iter().map(|(_, value)| unsortable(&value[..8])))),
            Arc::new(UInt16Array::from_iter_values(places.iter().map(|place| place.2))),
            Arc::new(Int32Array::from_iter_values(places.iter().map(|place| place.3))),
            Arc::new(Int64Array::from_iter_values(places.iter().map(|place| place.4))),
            Arc::new(BooleanArray::from(places.iter().map(|place| place.1).collect::<Vec<_>>())),
            Arc::new(Int64Array::from_iter_values(entries.iter().map(|(key, _)| unsortable(&key[key.len() - ID..])))),
        ]);
        record_batch(&self.schema, columns, entries.len()).map_err(|e| broken("waiting rows", e))
    }
}

fn write_place((time, derived, source, partition, offset): Place, key: &mut Vec<u8>) {
    key.extend(sortable(time));
    key.push(u8::from(derived));
    key.extend(source.to_be_bytes());
    key.extend((partition as u32 ^ 1 << 31).to_be_bytes());
    key.extend(sortable(offset));
}

/// Of a key that is long enough.
pub fn read_place(key: &[u8]) -> Place {
    let partition = u32::from_be_bytes([key[11], key[12], key[13], key[14]]) ^ 1 << 31;
    (unsortable(&key[..8]), key[8] != 0, u16::from_be_bytes([key[9], key[10]]), partition as i32, unsortable(&key[15..23]))
}

/// Above all keys of rows below `edge`, and above none of the others.
fn front(edge: Watermark) -> Vec<u8> {
    if edge == Watermark::MAX { vec![0xff; 9] } else { sortable(edge.0).to_vec() }
}

/// Rows on disk.
pub struct Waiting {
    spill: Spill,
    /// What lies before it was released.
    from: Vec<u8>,
    kept_from: Vec<u8>,
    /// From there on.
    rows: usize,
    kept_rows: usize,
    /// No row has a time below it.
    least: i64,
}

/// Some rows on disk, in order.
#[derive(Default)]
pub struct Part {
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// There are more behind them.
    pub more: bool,
}

impl Waiting {
    pub fn new(spills: &Arc<Spills>) -> Waiting {
        let (from, kept_from) = (Vec::new(), Vec::new());
        Waiting { spill: Spill::new(spills), from, kept_from, rows: 0, kept_rows: 0, least: i64::MAX }
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    /// Bytes in memory.
    pub fn size(&self) -> usize {
        self.spill.size()
    }

    /// Writes a run: `parts` of rows, each of them behind the one before it. None of them is on disk yet.
    pub fn write(&mut self, codec: &WaitingRows, count: usize, parts: impl Iterator<Item = Result<RecordBatch>>) -> Result<()> {
        let mut parts = parts;
        let mut least = i64::MAX;
        self.spill.write(count, |push| {
            parts.try_for_each(|rows| {
                let rows = rows?;
                least = codec.positions(&rows).event_times.values().iter().copied().fold(least, i64::min);
                codec.write(&rows, push)
            })
        })?;
        self.spill.note_waiting(count);
        self.least = self.least.min(least);
        (self.rows, self.kept_rows) = (self.rows + count, self.kept_rows + count);
        Ok(())
    }

    /// The first rows below `edge`, at most `count`.
    pub fn first(&mut self, edge: Watermark, count: usize) -> Result<Part> {
        if self.rows == 0 || (edge != Watermark::MAX && edge.0 <= self.least) {
            return Ok(Part::default());
        }
        let found = self.part(&self.from, Some(edge), count)?;
        self.least = match found.entries.first() {
            Some((key, _)) => unsortable(key),
            None => edge.0,
        };
        Ok(found)
    }

    /// Rows from `from` on that were not released.
    pub fn rest(&self, from: &[u8], count: usize) -> Result<Part> {
        self.part(from.max(&self.from), None, count)
    }

    fn part(&self, from: &[u8], edge: Option<Watermark>, count: usize) -> Result<Part> {
        let until = edge.map(front);
        let mut scan = self.spill.scan(from)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while let Some((key, value)) = scan.next()? {
            if until.as_ref().is_some_and(|until| key >= *until) {
                break;
            }
            if entries.len() == count || bytes > PART_BYTES {
                return Ok(Part { entries, more: true });
            }
            bytes += key.len() + value.len();
            entries.push((key, value));
        }
        Ok(Part { entries, more: false })
    }

    /// The first `count` rows are released, `last` the last of them.
    pub fn release(&mut self, count: usize, last: &[u8]) {
        self.rows -= count;
        self.from = behind(last);
    }

    /// Which of the given rows have neither been here nor are here.
    pub fn unknown(&self, keys: &[Vec<u8>]) -> Result<BooleanArray> {
        let mut sorted: Vec<&Vec<u8>> = keys.iter().filter(|key| **key >= self.from).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let sorted: Vec<Vec<u8>> = sorted.into_iter().cloned().collect();
        let found = self.spill.get(&sorted)?;
        let is_new = |key: &Vec<u8>| sorted.binary_search(key).is_ok_and(|at| found[at].is_none());
        Ok(keys.iter().map(|key| Some(is_new(key))).collect())
    }

    /// Rows below `edge` were released before the state was written.
    pub fn expire(&mut self, edge: Watermark) -> Result<()> {
        loop {
            let part = self.first(edge, usize::MAX)?;
            if let Some((last, _)) = part.entries.last() {
                let last = last.clone();
                self.release(part.entries.len(), &last);
            }
            if !part.more {
                break;
            }
        }
        self.from = std::mem::take(&mut self.from).max(front(edge));
        Ok(())
    }

    /// What was released goes.
    pub fn keep(&mut self) -> Result<()> {
        self.kept_rows = self.rows;
        if self.kept_from != self.from {
            self.kept_from.clone_from(&self.from);
            self.spill.remove_below(&self.from)?;
        }
        Ok(())
    }

    pub fn undo(&mut self) {
        self.from.clone_from(&self.kept_from);
        (self.rows, self.least) = (self.kept_rows, i64::MIN);
    }
}

/// The key that follows.
pub fn behind(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}
