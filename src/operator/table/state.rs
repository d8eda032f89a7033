//! The store of a table: one row per key, deleted when a tombstone came.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt8Array, UInt32Array, new_null_array};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use hashbrown::HashSet;

use super::{Changed, Table, TableSpec};
use crate::error::{Error, Result};
use crate::operator::canonical::key_groups;
use crate::operator::cold::{Cold, Cursor, Leaving, together};
use crate::operator::evaluate::{broken, record_batch};
use crate::operator::held::NONE;
use crate::operator::key::KeyShape;
use crate::operator::position;
use crate::operator::state::{check_schema, state_column};
use crate::store::spill::Spills;
use crate::store::{Slice, Spilled, Store};
use crate::watermark::Watermark;

/// Key columns, `_key_group`, `_event_time`, `_deleted`, the row's position, then its other columns.
pub fn schema(spec: &TableSpec, shape: &KeyShape) -> SchemaRef {
    let keys = shape.types().iter().enumerate().map(|(n, t)| Field::new(format!("key_{n}"), t.clone(), true));
    let own = [("_key_group", DataType::UInt8), ("_event_time", DataType::Int64), ("_deleted", DataType::Boolean)];
    let positions = position::FIELDS.into_iter().map(|(name, t)| Field::new(format!("_row{name}"), t, true));
    let others = others(spec).map(|c| Field::new(format!("value_{c}"), spec.schema.field(c).data_type().clone(), true));
    let own = own.into_iter().map(|(name, t)| Field::new(name, t, false));
    Arc::new(Schema::new(keys.chain(own).chain(positions).chain(others).collect::<Vec<_>>()))
}

/// Columns that are not of the key.
fn others(spec: &TableSpec) -> impl Iterator<Item = usize> {
    (0..spec.schema.fields().len()).filter(|c| !spec.key_columns.contains(c))
}

impl Table {
    /// Rows of state.
    fn export(&self, keys: &[u32]) -> Result<RecordBatch> {
        let numbers: Vec<u32> = keys.iter().map(|key| self.current[*key as usize]).collect();
        let live: Vec<u32> = numbers.iter().copied().filter(|number| *number != NONE).collect();
        let rows = self.held.take(&live)?;
        let mut next = 0;
        let places: UInt32Array = numbers
            .iter()
            .map(|number| {
                (*number != NONE).then(|| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        let column = |c: usize| match live.is_empty() {
            true => Ok(new_null_array(rows.column(c).data_type(), keys.len())),
            false => take(rows.column(c), &places, None).map_err(|e| broken("rows of state", e)),
        };
        let mut columns = self.shape.decode(&self.keys, keys)?;
        let groups = key_groups(&columns, keys.len());
        columns.push(Arc::new(UInt8Array::from(groups)));
        columns.push(Arc::new(Int64Array::from_iter_values(keys.iter().map(|key| self.event_times[*key as usize]))));
        columns.push(Arc::new(numbers.iter().map(|number| Some(*number == NONE)).collect::<BooleanArray>()));
        let width = self.spec.schema.fields().len();
        for c in (width..width + position::COLUMNS).chain(others(&self.spec)) {
            columns.push(column(c)?);
        }
        record_batch(&self.state, columns, keys.len()).map_err(|e| broken("rows of state", e))
    }

    /// Rows as they are held, from rows of state none of which is deleted.
    fn restored(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let keys = self.spec.key_columns.len();
        let values = keys + 3 + position::COLUMNS;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.spec.schema.fields().len()];
        self.spec.key_columns.iter().enumerate().for_each(|(n, c)| columns[*c] = Some(rows.column(n).clone()));
        others(&self.spec).enumerate().for_each(|(n, c)| columns[c] = Some(rows.column(values + n).clone()));
        let columns = columns.into_iter().flatten().chain(rows.columns()[keys + 3..values].iter().cloned()).collect();
        record_batch(self.held.schema(), columns, rows.num_rows()).map_err(|e| Error::corrupt(format!("a table's state: {e}")))
    }

    /// Takes keys that were read back from disk. Nothing has touched them yet; `undo` forgets them again.
    pub(super) fn load(&mut self, rows: &RecordBatch) -> Result<()> {
        let width = self.spec.key_columns.len();
        let times = state_column::<Int64Array>(rows.columns(), width + 1)?;
        let keys = self.shape.encode(&rows.columns()[..width])?;
        for (row, number) in self.held.add(self.restored(rows)?).into_iter().enumerate() {
            let key = self.keys.intern(&keys, row);
            assert_eq!(key as usize, self.current.len(), "a key is read back only while it is not in memory");
            self.current.push(number);
            self.event_times.push(times.value(row));
            self.spilled.push(true);
            self.live += 1;
        }
        Ok(())
    }

    fn spilled_in_memory(&self) -> usize {
        self.spilled.iter().filter(|spilled| **spilled).count()
    }

    fn size_of_rows(&self) -> usize {
        self.keys.size() + self.held.size() + self.current.capacity() * 15
    }

    /// Keys without a row are forgotten once they are most; not while they have to be known as gone on disk.
    fn forget(&mut self) {
        self.kept_keys = self.keys.len();
        if self.cold.as_ref().is_some_and(|cold| !cold.is_empty()) {
            return;
        }
        if self.keys.len() < 1024 || self.live * 2 > self.keys.len() {
            return;
        }
        let has_row = |key: &u32| self.current[*key as usize] != NONE;
        let live: Vec<u32> = (0..self.keys.len() as u32).filter(has_row).collect();
        if let Some(next) = &mut self.cursor.memory {
            *next = live.partition_point(|key| (*key as usize) < *next);
        }
        self.keys = self.keys.subset(&live);
        self.current = live.iter().map(|key| self.current[*key as usize]).collect();
        self.event_times = live.iter().map(|key| self.event_times[*key as usize]).collect();
        self.spilled = vec![false; live.len()];
        self.kept_keys = live.len();
    }
}

impl Store for Table {
    fn schema(&self) -> SchemaRef {
        self.state.clone()
    }

    fn delta(&mut self) -> Result<Option<RecordBatch>> {
        let keys: Vec<u32> = self.touched.list.iter().map(|(key, _, _)| *key).collect();
        if keys.is_empty() { Ok(None) } else { self.export(&keys).map(Some) }
    }

    fn slice(&mut self, rows: usize) -> Result<Slice> {
        let (rows, mut keys) = (rows.max(1), Vec::new());
        if let Some(mut next) = self.cursor.memory {
            while keys.len() < rows && next < self.current.len() {
                keys.extend(Some(next as u32).filter(|_| self.current[next] != NONE));
                next += 1;
            }
            self.cursor.memory = Some(next).filter(|next| *next < self.current.len());
        }
        let mut wrapped = self.cursor.memory.is_none();
        let mut on_disk = None;
        if wrapped && let Some(cold) = &self.cold {
            wrapped = false;
            if keys.len() < rows {
                let found = cold.slice(&self.shape, &self.keys, &self.cursor.cold, rows - keys.len())?;
                // No key comes twice in one batch.
                let given: HashSet<u32> = keys.iter().copied().collect();
                let live = |key: &u32| !given.contains(key) && self.current[*key as usize] != NONE;
                keys.extend(found.numbers.into_iter().filter(live));
                on_disk = found.alone;
                wrapped = found.next.is_none();
                self.cursor.cold = found.next.unwrap_or_default();
            }
        }
        if wrapped {
            self.cursor = Cursor::start();
        }
        let in_memory = if keys.is_empty() { None } else { Some(self.export(&keys)?) };
        Ok(Slice { rows: together(&self.state, in_memory.into_iter().chain(on_disk))?, wrapped })
    }

    fn apply(&mut self, rows: &RecordBatch) -> Result<()> {
        check_schema(&self.state, rows)?;
        let width = self.spec.key_columns.len();
        let times = state_column::<Int64Array>(rows.columns(), width + 1)?;
        let deleted = state_column::<BooleanArray>(rows.columns(), width + 2)?;
        let keys = self.intern(&rows.columns()[..width], rows.num_rows())?;
        let live: BooleanArray = deleted.values().iter().map(|deleted| Some(!deleted)).collect();
        let held = self.restored(&filter_record_batch(rows, &live).map_err(|e| broken("filter", e))?)?;
        let mut numbers = self.held.add(held).into_iter();
        for (row, key) in keys.into_iter().enumerate() {
            let number = if deleted.value(row) { NONE } else { numbers.next().expect("every live row is held") };
            self.set(key, number, times.value(row));
        }
        self.keep();
        // All of it has to be written again.
        (self.cursor, self.kept_cursor) = (Cursor::start(), Cursor::start());
        Ok(())
    }

    fn expire(&mut self, _edge: Watermark) {}

    fn keep(&mut self) {
        self.touched.take();
        self.held.keep();
        self.kept_live = self.live;
        self.forget();
        self.kept_cursor = self.cursor.clone();
    }

    fn undo(&mut self) {
        for (key, row, event_time) in self.touched.take() {
            self.current[key as usize] = row;
            self.event_times[key as usize] = event_time;
        }
        self.keys.truncate(self.kept_keys);
        self.current.truncate(self.kept_keys);
        self.event_times.truncate(self.kept_keys);
        self.spilled.truncate(self.kept_keys);
        self.held.undo();
        self.live = self.kept_live;
        self.cursor = self.kept_cursor.clone();
    }

    fn clear(&mut self) {
        self.keys = self.shape.table();
        self.held.clear();
        (self.current, self.event_times) = (Vec::new(), Vec::new());
        self.touched = Changed::default();
        (self.spilled, self.cold) = (Vec::new(), None);
        (self.kept_keys, self.live, self.kept_live) = (0, 0, 0);
        (self.cursor, self.kept_cursor) = (Cursor::start(), Cursor::start());
    }

    fn image(&self, rows: usize) -> Result<Vec<RecordBatch>> {
        let keys: Vec<u32> = (0..self.current.len() as u32).filter(|key| self.current[*key as usize] != NONE).collect();
        let mut image = keys.chunks(rows.max(1)).map(|part| self.export(part)).collect::<Result<Vec<_>>>()?;
        if let Some(cold) = &self.cold {
            image.extend(cold.image(&self.shape, &self.keys, rows.max(1))?);
        }
        Ok(image)
    }

    fn len(&self) -> usize {
        self.live + self.spilled().keys
    }

    fn size(&self) -> usize {
        self.size_of_rows() + self.spilled().size
    }

    fn pending(&self) -> usize {
        self.touched.list.len() * 4 * (self.size_of_rows() / self.current.len().max(1))
    }

    fn spill(&mut self, spills: &Arc<Spills>) -> Result<bool> {
        assert!(self.touched.list.is_empty(), "a store spills only between two commits");
        if self.current.is_empty() {
            return Ok(true);
        }
        let mut cold = self.cold.take().unwrap_or_else(|| Cold::new(spills, self.state.clone()));
        let leaving = |number: u32| Leaving {
            number,
            rows: usize::from(self.current[number as usize] != NONE),
            known: usize::from(self.spilled[number as usize]),
        };
        let leaving: Vec<Leaving> = self.keys.sorted().into_iter().map(leaving).collect();
        let written = cold.write(&self.shape, &self.keys, &leaving, |keys| self.export(keys));
        self.cold = Some(cold);
        written?;
        self.keys = self.shape.table();
        self.held.clear();
        (self.current, self.event_times, self.spilled) = (Vec::new(), Vec::new(), Vec::new());
        self.touched = Changed::default();
        (self.kept_keys, self.live, self.kept_live) = (0, 0, 0);
        self.cursor.memory = None;
        self.kept_cursor = self.cursor.clone();
        Ok(true)
    }

    fn spilled(&self) -> Spilled {
        let cold = self.cold.as_ref();
        let keys = cold.map_or(0, |cold| cold.rows() - self.spilled_in_memory());
        Spilled { keys, size: cold.map_or(0, Cold::size) }
    }
}
