//! The last stage before an upsert sink whose primary key does not follow from how its rows are distributed.
//!
//! Rows of one key come from several senders, whose order of arrival means nothing. So all rows of a key are kept, by weight, ordered
//! by position: (event time, source rows before derived ones, source, partition, offset), then by their values. At `flush` a touched
//! key has the row with the greatest position, or a tombstone when none is left; what the sink has already is not written again.
//!
//! Invariant: a retraction has the position and the values of the row that it takes back, and may come before it.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int8Array, Int32Array, Int64Array, RecordBatch, UInt8Array, UInt16Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};

use super::canonical::key_groups;
use super::evaluate::{broken, record_batch};
use super::key::{KeyShape, KeyTable};
use super::state::{check_schema, state_column};
use super::{Operator, Output};
use crate::error::{Error, Result};
use crate::record::{Batch, Partition};
use crate::store::{Slice, Store};
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
    /// The key at which the rolling snapshot goes on.
    cursor: usize,
    kept_cursor: usize,
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
            state: state_schema(&spec),
            cursor: 0,
            kept_cursor: 0,
            spec,
        })
    }

    fn key_columns(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        self.spec.key_columns.iter().map(|c| columns[*c].clone()).collect()
    }

    fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let encoded = self.shape.encode(keys)?;
        let keys = (0..rows).map(|row| self.keys.intern(&encoded, row)).collect();
        self.by_key.resize_with(self.keys.len(), Vec::new);
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

/// Key columns, `_key_group`, `_event_time`, `_deleted`, the rest of the position, `_weight`, then the other columns. The key of a
/// row of state is all but the weight.
fn state_schema(spec: &MaterializeSpec) -> SchemaRef {
    let column = |name: String, c: usize| Field::new(name, spec.schema.field(c).data_type().clone(), true);
    let mut fields: Vec<Field> = spec.key_columns.iter().enumerate().map(|(n, c)| column(format!("key_{n}"), *c)).collect();
    let own = [
        ("_key_group", DataType::UInt8),
        ("_event_time", DataType::Int64),
        ("_deleted", DataType::Boolean),
        ("_derived", DataType::Boolean),
        ("_source", DataType::UInt16),
        ("_partition", DataType::Int32),
        ("_offset", DataType::Int64),
        ("_weight", DataType::Int64),
    ];
    fields.extend(own.into_iter().map(|(name, data_type)| Field::new(name, data_type, false)));
    fields.extend(others(spec).map(|c| column(format!("value_{c}"), c)));
    Arc::new(Schema::new(fields))
}

/// Columns that are not of the key.
fn others(spec: &MaterializeSpec) -> impl Iterator<Item = usize> {
    (0..spec.schema.fields().len()).filter(|c| !spec.key_columns.contains(c))
}

impl Materialize {
    /// Rows of state.
    fn export(&self, entries: &[&Entry]) -> Result<RecordBatch> {
        let rows = self.columns(entries.iter().map(|entry| &*entry.row))?;
        let mut columns = self.key_columns(&rows);
        let groups = key_groups(&columns, entries.len());
        let int64 = |of: fn(&Entry) -> i64| Arc::new(entries.iter().map(|e| Some(of(e))).collect::<Int64Array>()) as ArrayRef;
        columns.extend([
            Arc::new(UInt8Array::from(groups)) as ArrayRef,
            int64(|e| e.place.0),
            Arc::new(entries.iter().map(|e| Some(e.weight == 0)).collect::<BooleanArray>()),
            Arc::new(entries.iter().map(|e| Some(e.place.1)).collect::<BooleanArray>()),
            Arc::new(entries.iter().map(|e| Some(e.place.2)).collect::<UInt16Array>()),
            Arc::new(entries.iter().map(|e| Some(e.place.3)).collect::<Int32Array>()),
            int64(|e| e.place.4),
            int64(|e| e.weight),
        ]);
        columns.extend(others(&self.spec).map(|c| rows[c].clone()));
        record_batch(&self.state, columns, entries.len()).map_err(|e| broken("rows of state", e))
    }

    /// Forgets entries without weight of the given keys.
    fn purge(&mut self, keys: &[u32]) {
        for key in keys {
            let entries = &mut self.by_key[*key as usize];
            let before = entries.len();
            entries.retain(|entry| {
                if entry.weight == 0 {
                    self.bytes -= entry.row.len();
                }
                entry.weight != 0
            });
            self.entries -= before - entries.len();
        }
    }

    /// Keys without a row are forgotten once they are most.
    fn forget(&mut self) {
        self.kept_keys = self.keys.len();
        // There is at least one entry per key that has one: few entries are few keys.
        if !self.unflushed.is_empty() || self.keys.len() < 1024 || self.entries * 2 > self.keys.len() {
            return;
        }
        let live: Vec<u32> = (0..self.keys.len() as u32).filter(|key| !self.by_key[*key as usize].is_empty()).collect();
        self.cursor = live.partition_point(|key| (*key as usize) < self.cursor);
        self.keys = self.keys.subset(&live);
        self.by_key = live.iter().map(|key| std::mem::take(&mut self.by_key[*key as usize])).collect();
        self.kept_keys = live.len();
    }
}

impl Store for Materialize {
    fn schema(&self) -> SchemaRef {
        self.state.clone()
    }

    fn delta(&mut self) -> Result<Option<RecordBatch>> {
        let entries = self.touched.list.iter().flat_map(|key| &self.by_key[*key as usize]);
        let changed: Vec<&Entry> = entries.filter(|entry| entry.weight != entry.kept).collect();
        if changed.is_empty() { Ok(None) } else { self.export(&changed).map(Some) }
    }

    fn slice(&mut self, rows: usize) -> Result<Slice> {
        let mut entries: Vec<&Entry> = Vec::new();
        while entries.len() < rows.max(1) && self.cursor < self.by_key.len() {
            entries.extend(self.by_key[self.cursor].iter().filter(|entry| entry.weight != 0));
            self.cursor += 1;
        }
        let wrapped = self.cursor == self.by_key.len();
        let rows = if entries.is_empty() { None } else { Some(self.export(&entries)?) };
        if wrapped {
            self.cursor = 0;
        }
        Ok(Slice { rows, wrapped })
    }

    fn apply(&mut self, rows: &RecordBatch) -> Result<()> {
        check_schema(&self.state, rows)?;
        let (width, all) = (self.spec.key_columns.len(), rows.columns());
        let times = state_column::<Int64Array>(all, width + 1)?;
        let deleted = state_column::<BooleanArray>(all, width + 2)?;
        let derived = state_column::<BooleanArray>(all, width + 3)?;
        let sources = state_column::<UInt16Array>(all, width + 4)?;
        let partitions = state_column::<Int32Array>(all, width + 5)?;
        let offsets = state_column::<Int64Array>(all, width + 6)?;
        let weights = state_column::<Int64Array>(all, width + 7)?;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.spec.schema.fields().len()];
        self.spec.key_columns.iter().enumerate().for_each(|(n, c)| columns[*c] = Some(all[n].clone()));
        others(&self.spec).enumerate().for_each(|(n, c)| columns[c] = Some(all[width + 8 + n].clone()));
        let values = self.convert(&columns.into_iter().flatten().collect::<Vec<_>>())?;
        let keys = self.intern(&all[..width], rows.num_rows())?;
        for (row, key) in keys.into_iter().enumerate() {
            let origin = (derived.value(row), sources.value(row), partitions.value(row));
            let place = (times.value(row), origin.0, origin.1, origin.2, offsets.value(row));
            let at = self.entry(key, place, values.row(row).data());
            self.by_key[key as usize][at].weight = if deleted.value(row) { 0 } else { weights.value(row) };
            self.touched.mark(key);
        }
        // What is restored is in the sink.
        self.unflushed.clear();
        self.unflushed_marks.take();
        self.keep();
        Ok(())
    }

    fn expire(&mut self, _edge: Watermark) {}

    fn keep(&mut self) {
        let touched = self.touched.take();
        self.purge(&touched);
        for key in touched {
            self.by_key[key as usize].iter_mut().for_each(|entry| entry.kept = entry.weight);
        }
        self.forget();
        self.kept_cursor = self.cursor;
    }

    fn undo(&mut self) {
        self.unflushed.clear();
        self.unflushed_marks.take();
        let touched = self.touched.take();
        for key in &touched {
            self.by_key[*key as usize].iter_mut().for_each(|entry| entry.weight = entry.kept);
        }
        self.purge(&touched);
        self.keys.truncate(self.kept_keys);
        self.by_key.truncate(self.kept_keys);
        self.cursor = self.kept_cursor;
    }

    fn clear(&mut self) {
        self.keys = self.shape.table();
        self.by_key.clear();
        (self.touched, self.unflushed_marks) = (Marks::default(), Marks::default());
        self.unflushed.clear();
        (self.kept_keys, self.entries, self.bytes, self.cursor, self.kept_cursor) = (0, 0, 0, 0, 0);
    }

    fn image(&self, rows: usize) -> Result<Vec<RecordBatch>> {
        let entries: Vec<&Entry> = self.by_key.iter().flatten().filter(|entry| entry.weight != 0).collect();
        entries.chunks(rows.max(1)).map(|part| self.export(part)).collect()
    }

    fn len(&self) -> usize {
        self.entries
    }

    fn size(&self) -> usize {
        let entries = self.entries * size_of::<Entry>() + self.bytes;
        entries + self.keys.size() + self.by_key.capacity() * size_of::<Vec<Entry>>()
    }
}
