//! The last stage before an upsert sink whose primary key does not follow from how its rows are distributed.
//!
//! Rows of one key come from several senders, whose order of arrival means nothing. So all rows of a key are kept, by weight, ordered
//! by position: (event time, source rows before derived ones, source, partition, offset), then by their values. At `flush` a touched
//! key has the row with the greatest position, or a tombstone when none is left; what the sink has already is not written again.
//!
//! Invariant: a retraction has the position and the values of the row that it takes back, and may come before it.

mod state;

use arrow::array::{ArrayRef, Int8Array, Int64Array};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};

use super::cold::{Cold, Cursor};
use super::evaluate::{broken, record_batch};
use super::key::{KeyShape, KeyTable};
use super::{Operator, Output};
use crate::error::{Error, Result};
use crate::record::{Batch, Partition};
use crate::store::Store;
use crate::watermark::Watermark;

#[derive(Clone, Debug)]
pub struct MaterializeSpec {
    /// The sink's PRIMARY KEY in `schema`.
    pub key_columns: Vec<usize>,
    /// Of the input and of the output.
    pub schema: SchemaRef,
    /// Whether rows can be taken back. If not, only the row with the greatest position is kept.
    pub retracts: bool,
}

/// Runs a [`MaterializeSpec`] in one task.
pub struct Materialize {
    spec: MaterializeSpec,
    shape: KeyShape,
    keys: KeyTable,
    /// Rows as bytes that sort as their values do.
    order: RowConverter,
    /// By the key's number, ascending.
    by_key: Vec<Vec<Entry>>,
    touched: Marks,
    /// Keys with what the sink had before, in the order of their first touch.
    unflushed: Vec<(u32, Option<Shown>)>,
    unflushed_marks: Marks,
    kept_keys: usize,
    entries: usize,
    bytes: usize,
    state: SchemaRef,
    /// By the key's number: how many rows it has on disk, as it was when it was read back.
    spilled: Vec<u32>,
    /// Keys on disk; `None` until the store spills for the first time.
    cold: Option<Cold>,
    /// Where the rolling snapshot goes on.
    cursor: Cursor,
    kept_cursor: Cursor,
}

/// Event time, derived, source, partition, offset.
type Place = (i64, bool, u16, i32, i64);

/// Equal rows of one position.
struct Entry {
    place: Place,
    row: Box<[u8]>,
    /// How many; below zero while a retraction waits for its row.
    weight: i64,
    /// At the last `keep`.
    kept: i64,
}

/// A row that the sink has.
struct Shown {
    place: Place,
    row: Box<[u8]>,
}

#[derive(Default)]
struct Marks {
    set: Vec<bool>,
    list: Vec<u32>,
}

impl Marks {
    /// Whether it is the first time.
    fn mark(&mut self, key: u32) -> bool {
        let at = key as usize;
        if self.set.len() <= at {
            self.set.resize(at + 1, false);
        }
        let first = !std::mem::replace(&mut self.set[at], true);
        if first {
            self.list.push(key);
        }
        first
    }

    fn take(&mut self) -> Vec<u32> {
        self.list.iter().for_each(|key| self.set[*key as usize] = false);
        std::mem::take(&mut self.list)
    }
}

impl Materialize {
    /// # Errors
    /// A key of a type that can't be one, or a column that has no order, named.
    pub fn new(spec: MaterializeSpec) -> Result<Materialize> {
        let types = spec.key_columns.iter().map(|c| spec.schema.field(*c).data_type().clone()).collect();
        let shape = KeyShape::new(types).map_err(|e| e.context("PRIMARY KEY"))?;
        let fields = spec.schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let order = RowConverter::new(fields).map_err(|e| Error::config(format!("rows that are to be ordered: {e}")))?;
        Ok(Materialize {
            keys: shape.table(),
            shape,
            order,
            by_key: Vec::new(),
            touched: Marks::default(),
            unflushed: Vec::new(),
            unflushed_marks: Marks::default(),
            kept_keys: 0,
            entries: 0,
            bytes: 0,
            state: state::schema(&spec),
            spilled: Vec::new(),
            cold: None,
            cursor: Cursor::start(),
            kept_cursor: Cursor::start(),
            spec,
        })
    }

    fn key_columns(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        self.spec.key_columns.iter().map(|c| columns[*c].clone()).collect()
    }

    fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let encoded = self.shape.encode(keys)?;
        if let Some(cold) = self.cold.as_ref().filter(|cold| !cold.is_empty())
            && let Some((found, counts)) = cold.recall(&encoded, rows, &self.keys)?
        {
            self.load(&found, &counts)?;
        }
        let keys = (0..rows).map(|row| self.keys.intern(&encoded, row)).collect();
        self.by_key.resize_with(self.keys.len(), Vec::new);
        self.spilled.resize(self.keys.len(), 0);
        Ok(keys)
    }

    /// Where equal rows of that position stand; `Err`: where they would.
    fn find(&self, key: u32, place: Place, row: &[u8]) -> Result<usize, usize> {
        self.by_key[key as usize].binary_search_by(|entry| (entry.place, &*entry.row).cmp(&(place, row)))
    }

    /// The entry of equal rows of that position, made if need be.
    fn entry(&mut self, key: u32, place: Place, row: &[u8]) -> usize {
        self.find(key, place, row).unwrap_or_else(|at| {
            self.entries += 1;
            self.bytes += row.len();
            self.by_key[key as usize].insert(at, Entry { place, row: row.into(), weight: 0, kept: 0 });
            at
        })
    }

    /// The entry that the key has in the sink.
    fn winner(&self, key: u32) -> Option<&Entry> {
        self.by_key[key as usize].iter().rev().find(|entry| entry.weight > 0)
    }

    fn shown(&self, key: u32) -> Option<Shown> {
        self.winner(key).map(|entry| Shown { place: entry.place, row: entry.row.clone() })
    }

    fn add(&mut self, key: u32, place: Place, row: &[u8], weight: i8) {
        self.touched.mark(key);
        if self.unflushed_marks.mark(key) {
            let shown = self.shown(key);
            self.unflushed.push((key, shown));
        }
        let at = self.entry(key, place, row);
        self.by_key[key as usize][at].weight += i64::from(weight);
        if !self.spec.retracts {
            let entries = &mut self.by_key[key as usize];
            let last = entries.iter().rposition(|entry| entry.weight > 0).unwrap_or(0);
            entries[..last].iter_mut().for_each(|entry| entry.weight = 0);
            entries[last].weight = 1;
        }
    }

    fn convert(&self, columns: &[ArrayRef]) -> Result<Rows> {
        self.order.convert_columns(columns).map_err(|e| broken("rows as bytes", e))
    }

    fn columns<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.order.parser();
        self.order.convert_rows(rows.map(|row| parser.parse(row))).map_err(|e| broken("rows of bytes", e))
    }
}

impl Operator for Materialize {
    fn push(&mut self, _port: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        let count = batch.num_rows();
        if count == 0 {
            return Ok(());
        }
        if !self.spec.retracts && batch.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|w| *w < 0)) {
            return Err(Error::failed("rows are taken back before a sink that was planned without retractions"));
        }
        let rows = self.convert(batch.rows.columns())?;
        let keys = self.intern(&self.key_columns(batch.rows.columns()), count)?;
        for (at, key) in keys.into_iter().enumerate() {
            let (time, offset) = (batch.event_times.value(at), batch.offsets.value(at));
            let place = (time, batch.derived, batch.source, batch.partition.0, offset);
            self.add(key, place, rows.row(at).data(), batch.weight(at));
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Output) -> Result<()> {
        self.unflushed_marks.take();
        let mut shown: Vec<(Place, &[u8], i8)> = Vec::new();
        let unflushed = std::mem::take(&mut self.unflushed);
        for (key, old) in &unflushed {
            match (old, self.winner(*key)) {
                (Some(old), Some(new)) if old.row == new.row => {}
                (_, Some(new)) => shown.push((new.place, &new.row, 1)),
                (Some(old), None) => shown.push((old.place, &old.row, -1)),
                (None, None) => {}
            }
        }
        // Rows of one origin become one batch: their order does not matter, there is one per key.
        let origin = |place: &Place| (place.1, place.2, place.3);
        shown.sort_by_key(|(place, _, _)| origin(place));
        for part in shown.chunk_by(|a, b| origin(&a.0) == origin(&b.0)) {
            let columns = self.columns(part.iter().map(|(_, row, _)| *row))?;
            let rows = record_batch(&self.spec.schema, columns, part.len()).map_err(|e| broken("rows of a sink", e))?;
            let (derived, source, partition) = origin(&part[0].0);
            out.batches.push(Batch {
                rows,
                source,
                partition: Partition(partition),
                offsets: part.iter().map(|(place, _, _)| Some(place.4)).collect(),
                event_times: part.iter().map(|(place, _, _)| Some(place.0)).collect(),
                row_watermarks: Int64Array::from_value(Watermark::MIN.0, part.len()),
                weights: part.iter().any(|p| p.2 < 0).then(|| Int8Array::from_iter_values(part.iter().map(|p| p.2))),
                derived,
            });
        }
        Ok(())
    }

    fn store(&mut self) -> Option<&mut dyn Store> {
        Some(self)
    }
}
