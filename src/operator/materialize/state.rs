//! The store of the materializer: rows with their positions and weights.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, UInt8Array, UInt16Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::{Entry, Marks, Materialize, MaterializeSpec};
use crate::error::Result;
use crate::operator::canonical::key_groups;
use crate::operator::evaluate::{broken, record_batch};
use crate::operator::state::{check_schema, state_column};
use crate::store::{Slice, Store};
use crate::watermark::Watermark;

/// Key columns, `_key_group`, `_event_time`, `_deleted`, the rest of the position, `_weight`, then the other columns. The key of a
/// row of state is all but the weight.
pub fn schema(spec: &MaterializeSpec) -> SchemaRef {
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
