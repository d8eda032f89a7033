//! The store of the materializer: rows with their positions and weights.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, UInt8Array, UInt16Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::{Entry, Marks, Materialize, MaterializeSpec, Place};
use crate::error::Result;
use crate::operator::canonical::key_groups;
use crate::operator::cold::{Cold, Cursor, Leaving, together};
use crate::operator::evaluate::{broken, record_batch};
use crate::operator::state::{check_schema, state_column};
use crate::store::spill::Spills;
use crate::store::{Slice, Spilled, Store};
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

    /// The entries in rows of state: key column values, place, row, weight (0 if deleted).
    fn entries_of(&self, rows: &RecordBatch, mut take: impl FnMut(usize, Place, &[u8], i64)) -> Result<()> {
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
        for row in 0..rows.num_rows() {
            let origin = (derived.value(row), sources.value(row), partitions.value(row));
            let place = (times.value(row), origin.0, origin.1, origin.2, offsets.value(row));
            take(row, place, values.row(row).data(), if deleted.value(row) { 0 } else { weights.value(row) });
        }
        Ok(())
    }

    /// Takes keys that were read back from disk, each with so many rows. Nothing has touched them yet; `undo` forgets them again.
    pub(super) fn load(&mut self, rows: &RecordBatch, counts: &[usize]) -> Result<()> {
        let keys = self.shape.encode(&rows.columns()[..self.spec.key_columns.len()])?;
        let mut entries = Vec::with_capacity(rows.num_rows());
        self.entries_of(rows, |_, place, row, weight| entries.push(Entry { place, row: row.into(), weight, kept: weight }))?;
        let (mut entries, mut first) = (entries.into_iter(), 0);
        for count in counts {
            let key = self.keys.intern(&keys, first);
            assert_eq!(key as usize, self.by_key.len(), "a key is read back only while it is not in memory");
            let of_key: Vec<Entry> = entries.by_ref().take(*count).collect();
            self.entries += count;
            self.bytes += of_key.iter().map(|entry| entry.row.len()).sum::<usize>();
            self.by_key.push(of_key);
            self.spilled.push(*count as u32);
            first += count;
        }
        Ok(())
    }

    fn size_of_rows(&self) -> usize {
        let entries = self.entries * size_of::<Entry>() + self.bytes;
        entries + self.keys.size() + self.by_key.capacity() * (size_of::<Vec<Entry>>() + 4)
    }

    /// Keys without a row are forgotten once they are most; not while they have to be known as gone on disk.
    fn forget(&mut self) {
        self.kept_keys = self.keys.len();
        if self.cold.as_ref().is_some_and(|cold| !cold.is_empty()) {
            return;
        }
        // There is at least one entry per key that has one: few entries are few keys.
        if !self.unflushed.is_empty() || self.keys.len() < 1024 || self.entries * 2 > self.keys.len() {
            return;
        }
        let live: Vec<u32> = (0..self.keys.len() as u32).filter(|key| !self.by_key[*key as usize].is_empty()).collect();
        if let Some(next) = &mut self.cursor.memory {
            *next = live.partition_point(|key| (*key as usize) < *next);
        }
        self.keys = self.keys.subset(&live);
        self.by_key = live.iter().map(|key| std::mem::take(&mut self.by_key[*key as usize])).collect();
        self.spilled = vec![0; live.len()];
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
        let rows = rows.max(1);
        let (mut keys, mut count) = (Vec::new(), 0);
        if let Some(mut next) = self.cursor.memory {
            while count < rows && next < self.by_key.len() {
                count += self.by_key[next].len();
                keys.push(next as u32);
                next += 1;
            }
            self.cursor.memory = Some(next).filter(|next| *next < self.by_key.len());
        }
        let mut wrapped = self.cursor.memory.is_none();
        let mut on_disk = None;
        if wrapped && let Some(cold) = &self.cold {
            wrapped = false;
            if count < rows {
                let found = cold.slice(&self.shape, &self.keys, &self.cursor.cold, rows - count)?;
                keys.extend(found.numbers);
                on_disk = found.alone;
                wrapped = found.next.is_none();
                self.cursor.cold = found.next.unwrap_or_default();
            }
        }
        if wrapped {
            self.cursor = Cursor::start();
        }
        let entries = keys.iter().flat_map(|key| &self.by_key[*key as usize]);
        let entries: Vec<&Entry> = entries.filter(|entry| entry.weight != 0).collect();
        let in_memory = if entries.is_empty() { None } else { Some(self.export(&entries)?) };
        Ok(Slice { rows: together(&self.state, in_memory.into_iter().chain(on_disk))?, wrapped })
    }

    fn apply(&mut self, rows: &RecordBatch) -> Result<()> {
        check_schema(&self.state, rows)?;
        let keys = self.intern(&rows.columns()[..self.spec.key_columns.len()], rows.num_rows())?;
        let mut entries = Vec::with_capacity(keys.len());
        self.entries_of(rows, |row, place, bytes, weight| entries.push((keys[row], place, Box::<[u8]>::from(bytes), weight)))?;
        for (key, place, bytes, weight) in entries {
            let at = self.entry(key, place, &bytes);
            self.by_key[key as usize][at].weight = weight;
            self.touched.mark(key);
        }
        // What is restored is in the sink.
        self.unflushed.clear();
        self.unflushed_marks.take();
        self.keep();
        // All of it has to be written again.
        (self.cursor, self.kept_cursor) = (Cursor::start(), Cursor::start());
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
        self.kept_cursor = self.cursor.clone();
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
        // Keys that were read back keep what they had on disk.
        for entry in self.by_key.drain(self.kept_keys.min(self.by_key.len())..).flatten() {
            self.entries -= 1;
            self.bytes -= entry.row.len();
        }
        self.spilled.truncate(self.kept_keys);
        self.cursor = self.kept_cursor.clone();
    }

    fn clear(&mut self) {
        self.keys = self.shape.table();
        self.by_key.clear();
        (self.touched, self.unflushed_marks) = (Marks::default(), Marks::default());
        self.unflushed.clear();
        (self.spilled, self.cold) = (Vec::new(), None);
        (self.kept_keys, self.entries, self.bytes) = (0, 0, 0);
        (self.cursor, self.kept_cursor) = (Cursor::start(), Cursor::start());
    }

    fn image(&self, rows: usize) -> Result<Vec<RecordBatch>> {
        let entries: Vec<&Entry> = self.by_key.iter().flatten().filter(|entry| entry.weight != 0).collect();
        let mut image = entries.chunks(rows.max(1)).map(|part| self.export(part)).collect::<Result<Vec<_>>>()?;
        if let Some(cold) = &self.cold {
            image.extend(cold.image(&self.shape, &self.keys, rows.max(1))?);
        }
        Ok(image)
    }

    fn len(&self) -> usize {
        self.entries + self.spilled().keys
    }

    fn size(&self) -> usize {
        self.size_of_rows() + self.spilled().size
    }

    fn pending(&self) -> usize {
        self.touched.list.len() * 4 * (self.size_of_rows() / self.by_key.len().max(1))
    }

    fn spill(&mut self, spills: &Arc<Spills>) -> Result<bool> {
        assert!(self.touched.list.is_empty() && self.unflushed.is_empty(), "a store spills only between two commits");
        if self.by_key.is_empty() {
            return Ok(true);
        }
        let mut cold = self.cold.take().unwrap_or_else(|| Cold::new(spills, self.state.clone()));
        let leaving = |number: u32| Leaving {
            number,
            rows: self.by_key[number as usize].len(),
            known: self.spilled[number as usize] as usize,
        };
        let leaving: Vec<Leaving> = self.keys.sorted().into_iter().map(leaving).collect();
        let export = |keys: &[u32]| self.export(&keys.iter().flat_map(|key| &self.by_key[*key as usize]).collect::<Vec<_>>());
        let written = cold.write(&self.shape, &self.keys, &leaving, export);
        self.cold = Some(cold);
        written?;
        self.keys = self.shape.table();
        (self.by_key, self.spilled) = (Vec::new(), Vec::new());
        (self.touched, self.unflushed_marks) = (Marks::default(), Marks::default());
        (self.kept_keys, self.entries, self.bytes) = (0, 0, 0);
        self.cursor.memory = None;
        self.kept_cursor = self.cursor.clone();
        Ok(true)
    }

    fn spilled(&self) -> Spilled {
        let in_memory: usize = self.spilled.iter().map(|rows| *rows as usize).sum();
        let cold = self.cold.as_ref();
        Spilled { keys: cold.map_or(0, |cold| cold.rows() - in_memory), size: cold.map_or(0, Cold::size) }
    }
}
