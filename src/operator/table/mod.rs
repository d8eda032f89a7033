//! A table: the current row of every key, told as changes.
//!
//! Input are the records of a compacted topic: weight +1 sets a key's row, -1 (a tombstone, whose key columns and position count)
//! removes it. A key lives in one partition, so the order of arrival is that of offsets, and the last record holds. Every record that
//! changes something tells it at once: the old row with weight -1, then the new one with +1. The net change of a commit would be less,
//! but then it would depend on where commits fall which rows an expression behind the table is tried on.
//!
//! Invariant: a row is taken back exactly as it was emitted, position included. A record that repeats its key's row is told, too: which
//! columns are compared would depend on what other statements read, and the row's position is that of the key's last record.

mod state;

use arrow::array::{ArrayRef, BooleanArray, Int8Array, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;

use super::cold::{Cold, Cursor};
use super::evaluate::{broken, record_batch};
use super::held::{Held, NONE};
use super::key::{KeyShape, KeyTable};
use super::position::{self, Positions};
use super::{Operator, Output};
use crate::error::Result;
use crate::record::Batch;
use crate::store::Store;
use crate::watermark::Watermark;

#[derive(Clone, Debug)]
pub struct TableSpec {
    /// The table's PRIMARY KEY in `schema`.
    pub key_columns: Vec<usize>,
    /// Of the input and of the output.
    pub schema: SchemaRef,
}

/// Runs a [`TableSpec`] in one task. Its rows are never late: they carry no row watermark.
pub struct Table {
    spec: TableSpec,
    shape: KeyShape,
    keys: KeyTable,
    /// Rows with their positions.
    held: Held,
    /// By the key's number: its row, or [`NONE`].
    current: Vec<u32>,
    /// By the key's number: event time of its last change.
    event_times: Vec<i64>,
    /// What touched keys had at the last `keep`, in the order of their first touch.
    touched: Changed,
    kept_keys: usize,
    live: usize,
    kept_live: usize,
    state: SchemaRef,
    /// By the key's number: whether it is on disk too, as it was when it was read back.
    spilled: Vec<bool>,
    /// Keys on disk; `None` until the store spills for the first time.
    cold: Option<Cold>,
    /// Where the rolling snapshot goes on.
    cursor: Cursor,
    kept_cursor: Cursor,
}

/// Keys with what they had before.
#[derive(Default)]
struct Changed {
    marks: Vec<bool>,
    /// Key, its row, its event time.
    list: Vec<(u32, u32, i64)>,
}

impl Changed {
    fn note(&mut self, key: u32, row: u32, event_time: i64) {
        let at = key as usize;
        if self.marks.len() <= at {
            self.marks.resize(at + 1, false);
        }
        if !std::mem::replace(&mut self.marks[at], true) {
            self.list.push((key, row, event_time));
        }
    }

    fn take(&mut self) -> Vec<(u32, u32, i64)> {
        self.list.iter().for_each(|(key, _, _)| self.marks[*key as usize] = false);
        std::mem::take(&mut self.list)
    }
}

impl Table {
    /// # Errors
    /// A key column of a type that can't be a key, named.
    pub fn new(spec: TableSpec) -> Result<Table> {
        let types = spec.key_columns.iter().map(|c| spec.schema.field(*c).data_type().clone()).collect();
        let shape = KeyShape::new(types).map_err(|e| e.context("PRIMARY KEY"))?;
        let state = state::schema(&spec, &shape);
        Ok(Table {
            keys: shape.table(),
            held: Held::new(position::schema(&spec.schema)),
            spec,
            shape,
            current: Vec::new(),
            event_times: Vec::new(),
            touched: Changed::default(),
            kept_keys: 0,
            live: 0,
            kept_live: 0,
            state,
            spilled: Vec::new(),
            cold: None,
            cursor: Cursor::start(),
            kept_cursor: Cursor::start(),
        })
    }

    /// Gives a key another row; the old one goes.
    fn set(&mut self, key: u32, row: u32, event_time: i64) {
        let at = key as usize;
        let (old, old_time) = (self.current[at], self.event_times[at]);
        self.touched.note(key, old, old_time);
        if old != NONE {
            self.held.remove(old);
            self.live -= 1;
        }
        self.live += usize::from(row != NONE);
        self.current[at] = row;
        self.event_times[at] = old_time.max(event_time);
    }

    fn intern(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let encoded = self.shape.encode(columns)?;
        if let Some(cold) = self.cold.as_ref().filter(|cold| !cold.is_empty())
            && let Some((found, _)) = cold.recall(&encoded, rows, &self.keys)?
        {
            self.load(&found)?;
        }
        let keys: Vec<u32> = (0..rows).map(|row| self.keys.intern(&encoded, row)).collect();
        self.current.resize(self.keys.len(), NONE);
        self.event_times.resize(self.keys.len(), i64::MIN);
        self.spilled.resize(self.keys.len(), false);
        Ok(keys)
    }

    /// The numbers of the batch's rows; [`NONE`] for tombstones.
    fn hold(&mut self, batch: &Batch) -> Result<Vec<u32>> {
        let rows = position::attach(batch, self.held.schema())?;
        let Some(weights) = batch.weights.as_ref().filter(|w| w.values().iter().any(|w| *w < 0)) else {
            return Ok(self.held.add(rows));
        };
        let upserts: BooleanArray = weights.values().iter().map(|w| Some(*w > 0)).collect();
        let rows = filter_record_batch(&rows, &upserts).map_err(|e| broken("filter", e))?;
        let mut numbers = self.held.add(rows).into_iter();
        let number = |upsert| if upsert { numbers.next().expect("every upsert is held") } else { NONE };
        Ok(upserts.values().iter().map(number).collect())
    }
}

impl Table {
    /// Emits rows by number, each with its weight.
    fn tell(&self, changes: Vec<(u32, i8)>, out: &mut Output) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let (numbers, weights): (Vec<u32>, Vec<i8>) = changes.into_iter().unzip();
        let rows = self.held.take(&numbers)?;
        let positions = Positions::of(&rows);
        let columns = rows.columns()[..self.spec.schema.fields().len()].to_vec();
        let rows = record_batch(&self.spec.schema, columns, numbers.len()).map_err(|e| broken("rows of a table", e))?;
        positions.batches(&rows, Some(&Int8Array::from(weights)), &mut out.batches);
        Ok(())
    }
}

impl Operator for Table {
    fn push(&mut self, _port: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let rows = batch.num_rows();
        let batch = Batch { row_watermarks: Int64Array::from_value(Watermark::MIN.0, rows), ..batch };
        let columns: Vec<ArrayRef> = self.spec.key_columns.iter().map(|c| batch.rows.column(*c).clone()).collect();
        let keys = self.intern(&columns, rows)?;
        let numbers = self.hold(&batch)?;

        let mut changes = Vec::new();
        for (row, (key, number)) in keys.into_iter().zip(numbers).enumerate() {
            let old = self.current[key as usize];
            if number != NONE || old != NONE {
                changes.extend([(old, -1), (number, 1)].into_iter().filter(|(number, _)| *number != NONE));
                self.set(key, number, batch.event_times.value(row));
            }
        }
        self.tell(changes, out)
    }

    fn store(&mut self) -> Option<&mut dyn Store> {
        Some(self)
    }
}
