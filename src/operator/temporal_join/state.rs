//! The store of a temporal join: versions and waiting rows in one.
//!
//! A row of state is a version (`_side` 0) or a row that waits (`_side` 1, known by `_id`). Both leave by the edge watermark and are
//! never deleted. A key's versions are always written together: one that is left out has gone by watermark.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, UInt8Array, UInt16Array, UInt32Array, new_null_array,
};
use arrow::compute::{concat_batches, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::versions::Version;
use super::{TemporalJoin, TemporalJoinSpec, nullable};
use crate::error::{Error, Result};
use crate::operator::canonical;
use crate::operator::cold::{Cold, together};
use crate::operator::evaluate::{broken, record_batch};
use crate::operator::held::NONE;
use crate::operator::key::EncodedKeys;
use crate::operator::state::{check_schema, state_column};
use crate::store::spill::Spills;
use crate::store::{Slice, Spilled, Store};
use crate::watermark::Watermark;

/// Where the rolling snapshot goes on: keys in memory, rows that wait there, keys on disk, rows that wait there. What comes to memory later was
/// touched in this round.
#[derive(Clone)]
pub struct Cursor {
    /// Number of the key, then of the waiting row, then the keys on disk; `None`: they are through.
    key: Option<u32>,
    row: Option<u32>,
    cold_key: Option<Vec<u8>>,
    cold_row: Option<Vec<u8>>,
}

impl Cursor {
    pub fn start() -> Cursor {
        Cursor { key: Some(0), row: Some(0), cold_key: Some(Vec::new()), cold_row: Some(Vec::new()) }
    }

    /// Keys were numbered anew.
    fn renumber(&mut self, others: &[u32]) {
        if let Some(key) = &mut self.key {
            *key = others.partition_point(|other| other < key) as u32;
        }
    }
}

const VERSION: u8 = 0;
const WAITING: u8 = 1;

/// Columns between the key's and those of the inputs. `_event_time` of a version is its effective time.
const OWN: [(&str, DataType); 11] = [
    ("_key_group", DataType::UInt8),
    ("_event_time", DataType::Int64),
    ("_deleted", DataType::Boolean),
    ("_side", DataType::UInt8),
    ("_id", DataType::Int64),
    ("_row_watermark", DataType::Int64),
    ("_source", DataType::UInt16),
    ("_partition", DataType::Int32),
    ("_offset", DataType::Int64),
    ("_derived", DataType::Boolean),
    ("_tombstone", DataType::Boolean),
];

pub fn schema(spec: &TemporalJoinSpec, kept: &Schema) -> SchemaRef {
    let keys = spec.right_keys.iter().enumerate();
    let mut fields: Vec<Field> =
        keys.map(|(n, c)| Field::new(format!("key_{n}"), spec.right.field(*c).data_type().clone(), true)).collect();
    fields.extend(OWN.into_iter().map(|(name, data_type)| Field::new(name, data_type, false)));
    fields.extend(nullable("left", &spec.left));
    fields.extend(nullable("right", kept));
    Arc::new(Schema::new(fields))
}

fn same<T: Copy>(value: T, rows: usize) -> Vec<T> {
    vec![value; rows]
}

impl TemporalJoin {
    fn left_width(&self) -> usize {
        self.spec.left.fields().len()
    }

    /// Rows of state: versions with the numbers of their keys.
    fn export_versions(&self, versions: &[(u32, Version)]) -> Result<RecordBatch> {
        let (numbers, versions): (Vec<u32>, Vec<Version>) = versions.iter().copied().unzip();
        let count = versions.len();
        let mut columns = self.versions.shape.decode(&self.versions.keys, &numbers)?;
        let groups = canonical::key_groups(&columns, count);
        let int64 = |of: fn(&Version) -> i64| Arc::new(Int64Array::from_iter_values(versions.iter().map(of))) as ArrayRef;
        columns.extend([
            Arc::new(UInt8Array::from(groups)) as ArrayRef,
            int64(|v| v.effective),
            Arc::new(BooleanArray::from(same(false, count))),
            Arc::new(UInt8Array::from(same(VERSION, count))),
            Arc::new(Int64Array::from(same(0, count))),
            int64(|v| v.row_watermark),
            Arc::new(UInt16Array::from(same(0, count))),
            Arc::new(Int32Array::from_iter_values(versions.iter().map(|v| v.partition))),
            int64(|v| v.offset),
            Arc::new(BooleanArray::from(same(false, count))),
            Arc::new(versions.iter().map(|v| Some(v.row == NONE)).collect::<BooleanArray>()),
        ]);
        columns.extend(self.spec.left.fields().iter().map(|field| new_null_array(field.data_type(), count)));
        let rows: Vec<u32> = versions.iter().map(|v| v.row).filter(|row| *row != NONE).collect();
        let rows = self.versions.held.take(&rows)?;
        let mut next = 0..;
        let places: UInt32Array = versions.iter().map(|v| if v.row == NONE { None } else { next.next() }).collect();
        for column in rows.columns() {
            columns.push(match rows.num_rows() {
                0 => new_null_array(column.data_type(), count),
                _ => take(column, &places, None).map_err(|e| broken("rows of state", e))?,
            });
        }
        record_batch(&self.state, columns, count).map_err(|e| broken("rows of state", e))
    }

    /// Rows of state: some of the rows that wait in memory.
    fn export_waiting(&self, rows: &[u32]) -> Result<RecordBatch> {
        self.export_held(&self.buffer.held.take(rows)?)
    }

    /// Rows of state: rows that wait, as they are held.
    fn export_held(&self, held: &RecordBatch) -> Result<RecordBatch> {
        let (count, width) = (held.num_rows(), self.left_width());
        let left = record_batch(&self.spec.left, held.columns()[..width].to_vec(), count).map_err(|e| broken("left rows", e))?;
        let positions = self.buffer.positions(held);
        let keys = self.state.fields()[..self.spec.right_keys.len()].iter();
        let mut columns: Vec<ArrayRef> = keys.map(|field| new_null_array(field.data_type(), count)).collect();
        columns.extend([
            Arc::new(UInt8Array::from(self.key_groups(&left)?)) as ArrayRef,
            Arc::new(positions.event_times),
            Arc::new(BooleanArray::from(same(false, count))),
            Arc::new(UInt8Array::from(same(WAITING, count))),
            held.column(held.num_columns() - 1).clone(),
            Arc::new(positions.row_watermarks),
            Arc::new(positions.sources),
            Arc::new(positions.partitions),
            Arc::new(positions.offsets),
            Arc::new(positions.derived),
            Arc::new(BooleanArray::from(same(false, count))),
        ]);
        columns.extend(left.columns().iter().cloned());
        let right = self.versions.held.schema().fields().iter();
        columns.extend(right.map(|field| new_null_array(field.data_type(), count)));
        record_batch(&self.state, columns, count).map_err(|e| broken("rows of state", e))
    }

    fn export(&self, versions: &[(u32, Version)], rows: &[u32]) -> Result<Option<RecordBatch>> {
        let mut parts = Vec::new();
        if !versions.is_empty() {
            parts.push(self.export_versions(versions)?);
        }
        if !rows.is_empty() {
            parts.push(self.export_waiting(rows)?);
        }
        match parts.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            parts => concat_batches(&self.state, parts).map(Some).map_err(|e| broken("rows of state", e)),
        }
    }

    /// The part of the snapshot that comes from disk; keys that are in memory too are as they are there.
    fn slice_of_disk(&mut self, mut room: usize, versions: &mut Vec<(u32, Version)>) -> Result<Vec<RecordBatch>> {
        let mut found = Vec::new();
        if let Some(from) = self.cursor.cold_key.take_if(|_| room > 0 || self.versions.cold.is_none())
            && let Some(cold) = &self.versions.cold
        {
            let part = cold.slice(&self.versions.shape, &self.versions.keys, &from, room)?;
            versions.extend(part.numbers.iter().flat_map(|key| self.versions.of(*key)));
            room = room.saturating_sub(part.numbers.len() + part.alone.as_ref().map_or(0, RecordBatch::num_rows));
            self.cursor.cold_key = part.next;
            if let Some(alone) = part.alone {
                let (over, others) = self.part_over(&alone)?;
                found.push(others);
                versions.extend(self.recall_over(&over)?);
            }
        }
        if self.cursor.cold_key.is_none()
            && let Some(from) = self.cursor.cold_row.take_if(|_| room > 0 || self.buffer.on_disk() == 0)
        {
            let (waiting, next) = self.buffer.cold_slice(&from, room)?;
            found.extend(waiting.map(|held| self.export_held(&held)).transpose()?);
            self.cursor.cold_row = next;
        }
        Ok(found)
    }

    /// Reads keys back of which the edge has passed something, without that.
    fn recall_over(&mut self, rows: &RecordBatch) -> Result<Vec<(u32, Version)>> {
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let keys = self.versions.shape.encode(&rows.columns()[..self.spec.right_keys.len()])?;
        let first = self.versions.by_key.len() as u32;
        self.recall(&keys, rows.num_rows())?;
        self.versions.prune(self.over());
        Ok((first..self.versions.by_key.len() as u32).flat_map(|key| self.versions.of(key)).collect())
    }

    fn apply_versions(&mut self, rows: &RecordBatch) -> Result<()> {
        let encoded = self.versions.shape.encode(&rows.columns()[..self.spec.right_keys.len()])?;
        self.recall(&encoded, rows.num_rows())?;
        for (row, version) in self.hold_versions(rows)?.into_iter().enumerate() {
            let key = self.versions.intern(&encoded, row);
            if !self.versions.insert(key, version) && version.row != NONE {
                self.versions.held.remove(version.row);
            }
        }
        Ok(())
    }

    /// Reads back the keys that are on disk alone.
    pub(super) fn recall(&mut self, keys: &EncodedKeys, rows: usize) -> Result<()> {
        let Some(cold) = self.versions.cold.as_ref().filter(|cold| !cold.is_empty()) else { return Ok(()) };
        let Some((found, counts)) = cold.recall(keys, rows, &self.versions.keys)? else { return Ok(()) };
        let encoded = self.versions.shape.encode(&found.columns()[..self.spec.right_keys.len()])?;
        let mut versions = self.hold_versions(&found)?.into_iter();
        let mut row = 0;
        for count in counts {
            self.versions.load(&encoded, row, versions.by_ref().take(count).collect());
            row += count;
        }
        Ok(())
    }

    /// Keys among rows of state from disk, of which the edge has passed something: their rows, and the others.
    fn part_over(&self, rows: &RecordBatch) -> Result<(RecordBatch, RecordBatch)> {
        let keys = self.spec.right_keys.len();
        let times = state_column::<Int64Array>(rows.columns(), keys + 1)?;
        let tombstones = state_column::<BooleanArray>(rows.columns(), keys + 10)?;
        let encoded = self.versions.shape.encode(&rows.columns()[..keys])?;
        let key = |row: usize| {
            let mut key = Vec::new();
            encoded.write(row, &mut key);
            key
        };
        let keys: Vec<Vec<u8>> = (0..rows.num_rows()).map(key).collect();
        let (mut over, mut from) = (Vec::with_capacity(keys.len()), 0);
        for same in keys.chunk_by(|a, b| a == b) {
            let versions = (from..from + same.len()).map(|row| (times.value(row), tombstones.value(row)));
            over.extend(std::iter::repeat_n(self.versions.is_over(versions, self.over()), same.len()));
            from += same.len();
        }
        let over = BooleanArray::from(over);
        let failed = |e| broken("filter", e);
        let others = arrow::compute::not(&over).and_then(|others| filter_record_batch(rows, &others)).map_err(failed)?;
        Ok((filter_record_batch(rows, &over).map_err(failed)?, others))
    }

    /// The versions in rows of state, their rows held.
    fn hold_versions(&mut self, rows: &RecordBatch) -> Result<Vec<Version>> {
        let (keys, first) = (self.spec.right_keys.len(), self.spec.right_keys.len() + OWN.len() + self.left_width());
        let columns = rows.columns();
        let times = state_column::<Int64Array>(columns, keys + 1)?;
        let watermarks = state_column::<Int64Array>(columns, keys + 5)?;
        let partitions = state_column::<Int32Array>(columns, keys + 7)?;
        let offsets = state_column::<Int64Array>(columns, keys + 8)?;
        let tombstones = state_column::<BooleanArray>(columns, keys + 10)?;
        let upserts: BooleanArray = tombstones.values().iter().map(|tombstone| Some(!tombstone)).collect();
        let held = record_batch(self.versions.held.schema(), columns[first..].to_vec(), rows.num_rows());
        let held = match held {
            Ok(held) if upserts.true_count() == rows.num_rows() => Ok(held),
            // The columns of tombstones are NULL, which the table's own need not allow.
            _ => filter_record_batch(rows, &upserts)
                .and_then(|rows| record_batch(self.versions.held.schema(), rows.columns()[first..].to_vec(), rows.num_rows())),
        };
        let mut numbers =
            self.versions.held.add(held.map_err(|e| Error::corrupt(format!("versions of a join: {e}")))?).into_iter();
        let version = |row: usize| Version {
            effective: times.value(row),
            offset: offsets.value(row),
            partition: partitions.value(row),
            row_watermark: watermarks.value(row),
            row: if tombstones.value(row) { NONE } else { numbers.next().expect("every version is held") },
        };
        Ok((0..rows.num_rows()).map(version).collect())
    }

    fn apply_waiting(&mut self, rows: &RecordBatch) -> Result<()> {
        let keys = self.spec.right_keys.len();
        let first = keys + OWN.len();
        let column = |at: usize| rows.column(keys + at).clone();
        let mut columns: Vec<ArrayRef> = rows.columns()[first..first + self.left_width()].to_vec();
        columns.extend([1, 5, 6, 7, 8, 9, 4].map(column));
        let rows = record_batch(self.buffer.held.schema(), columns, rows.num_rows());
        self.buffer.restore(rows.map_err(|e| Error::corrupt(format!("waiting rows of a join: {e}")))?)
    }
}

impl Store for TemporalJoin {
    fn schema(&self) -> SchemaRef {
        self.state.clone()
    }

    fn delta(&mut self) -> Result<Option<RecordBatch>> {
        self.export(&self.versions.grown(), &self.buffer.added())
    }

    fn slice(&mut self, rows: usize) -> Result<Slice> {
        let rows = rows.max(1);
        let mut versions: Vec<(u32, Version)> = Vec::new();
        while let Some(key) = self.cursor.key.filter(|_| versions.len() < rows) {
            if key as usize >= self.versions.by_key.len() {
                self.cursor.key = None;
            } else {
                versions.extend(self.versions.of(key));
                self.cursor.key = Some(key + 1);
            }
        }
        let mut waiting = Vec::new();
        if self.cursor.key.is_none()
            && versions.len() < rows
            && let Some(row) = self.cursor.row
        {
            (waiting, self.cursor.row) = self.buffer.slice(row, rows - versions.len());
        }
        let mut on_disk = Vec::new();
        if self.cursor.key.is_none() && self.cursor.row.is_none() {
            let room = rows.saturating_sub(versions.len() + waiting.len());
            on_disk = self.slice_of_disk(room, &mut versions)?;
        }
        let wrapped = self.cursor.cold_row.is_none();
        if wrapped {
            self.cursor = Cursor::start();
        }
        let in_memory = self.export(&versions, &waiting)?;
        Ok(Slice { rows: together(&self.state, in_memory.into_iter().chain(on_disk))?, wrapped })
    }

    fn apply(&mut self, rows: &RecordBatch) -> Result<()> {
        check_schema(&self.state, rows)?;
        let sides = state_column::<UInt8Array>(rows.columns(), self.spec.right_keys.len() + 3)?;
        for side in [VERSION, WAITING] {
            let mask: BooleanArray = sides.values().iter().map(|found| Some(*found == side)).collect();
            if mask.true_count() == 0 {
                continue;
            }
            let part = filter_record_batch(rows, &mask).map_err(|e| broken("filter", e))?;
            if side == VERSION { self.apply_versions(&part)? } else { self.apply_waiting(&part)? }
        }
        self.keep();
        // All of it has to be written again.
        (self.cursor, self.kept_cursor) = (Cursor::start(), Cursor::start());
        Ok(())
    }

    fn expire(&mut self, edge: Watermark) {
        self.edge = self.edge.max(edge);
        // What is left on disk is released to nobody: the state and its edge would disagree, which the task finds out.
        if let Err(error) = self.buffer.expire(self.edge) {
            tracing::warn!(%error, "rows that were released before can't be passed over");
        }
        self.versions.prune(self.over());
        self.keep();
    }

    fn keep(&mut self) {
        self.buffer.keep();
        if let Some(live) = self.versions.keep() {
            self.cursor.renumber(&live);
        }
        self.kept_cursor = self.cursor.clone();
        self.kept_edge = self.edge;
    }

    fn undo(&mut self) {
        self.buffer.undo();
        self.versions.undo();
        self.cursor = self.kept_cursor.clone();
        (self.edge, self.releasing) = (self.kept_edge, None);
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.versions.clear();
        (self.cursor, self.kept_cursor) = (Cursor::start(), Cursor::start());
        (self.edge, self.kept_edge, self.releasing) = (Watermark::MIN, Watermark::MIN, None);
    }

    fn image(&self, rows: usize) -> Result<Vec<RecordBatch>> {
        let versions: Vec<_> = (0..self.versions.by_key.len() as u32).flat_map(|key| self.versions.of(key)).collect();
        let mut parts = versions.chunks(rows.max(1)).map(|part| self.export_versions(part)).collect::<Result<Vec<_>>>()?;
        for part in self.buffer.rows().chunks(rows.max(1)) {
            parts.push(self.export_waiting(part)?);
        }
        if let Some(cold) = &self.versions.cold {
            parts.extend(cold.image(&self.versions.shape, &self.versions.keys, rows.max(1))?);
        }
        let mut from = Some(Vec::new());
        while let Some(key) = from {
            let (waiting, next) = self.buffer.cold_slice(&key, rows.max(1))?;
            parts.extend(waiting.map(|held| self.export_held(&held)).transpose()?);
            from = next;
        }
        Ok(parts)
    }

    fn len(&self) -> usize {
        self.versions.len() + self.versions.cold_len() + self.buffer.len()
    }

    fn size(&self) -> usize {
        self.versions.size() + self.buffer.size() + self.spilled().size
    }

    fn pending(&self) -> usize {
        let row = (self.versions.size() + self.buffer.size()) / (self.versions.len() + self.buffer.in_memory()).max(1);
        (self.versions.touched_count() + self.buffer.held.added().len()) * 2 * row
    }

    fn spill(&mut self, spills: &Arc<Spills>) -> Result<bool> {
        self.buffer.spill(spills)?;
        let leaving = self.versions.leaving();
        if !leaving.is_empty() {
            let mut cold = self.versions.cold.take().unwrap_or_else(|| Cold::new(spills, self.state.clone()));
            let export = |keys: &[u32]| {
                let versions: Vec<(u32, Version)> = keys.iter().flat_map(|key| self.versions.of(*key)).collect();
                self.export_versions(&versions)
            };
            let written = cold.write(&self.versions.shape, &self.versions.keys, &leaving, export);
            self.versions.cold = Some(cold);
            written?;
            self.versions.left();
        }
        // Nothing is left in memory.
        (self.cursor.key, self.cursor.row) = (None, None);
        self.kept_cursor = self.cursor.clone();
        Ok(true)
    }

    fn spilled(&self) -> Spilled {
        let keys = self.versions.cold_len() + self.buffer.on_disk();
        let size = self.versions.cold.as_ref().map_or(0, Cold::size) + self.buffer.cold_size();
        Spilled { keys, size }
    }
}
