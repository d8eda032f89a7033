//! The store of an aggregate: slots and accumulators as Arrow rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt8Array};
use arrow::compute::{concat, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use hashbrown::HashSet;

use super::accumulator::{Accumulator, state_column, state_field};
use super::slots::Slots;
use super::{Aggregate, AggregateSpec};
use crate::error::Result;
use crate::operator::canonical::key_groups;
use crate::operator::evaluate::{broken, record_batch};
use crate::operator::state::check_schema;
use crate::store::spill::Spills;
use crate::store::{Slice, Spilled, Store};
use crate::watermark::Watermark;

/// What the store knows beside slots and accumulators.
pub struct State {
    pub schema: SchemaRef,
    /// Contents of slots at the last `keep`, as they were before they were touched.
    undo: Vec<Saved>,
    cursor: Cursor,
    kept_cursor: Cursor,
    /// What a group takes in memory, about, as of the last commit.
    row_bytes: usize,
}

/// Before anything is known of it.
const ROW_BYTES: usize = 128;

/// Where the rolling snapshot goes on: through memory, then through what is on disk. What is in memory later than that was touched in
/// this round, and is in its delta.
#[derive(Clone)]
struct Cursor {
    /// Window end and number of the key; `None`: memory is through.
    memory: Option<(i64, usize)>,
    /// The key on disk.
    cold: Vec<u8>,
}

impl Cursor {
    fn start() -> Cursor {
        Cursor { memory: Some((i64::MIN, 0)), cold: Vec::new() }
    }
}

struct Saved {
    slots: Vec<u32>,
    event_times: Vec<i64>,
    rows: Vec<i64>,
    columns: Vec<Vec<ArrayRef>>,
}

impl State {
    /// Key columns, `_window_end`, `_key_group`, `_event_time`, `_deleted`, `_rows` (where rows can be retracted), columns of the calls.
    pub fn new(spec: &AggregateSpec, keys: &[DataType], accumulators: &[Box<dyn Accumulator>]) -> State {
        let mut fields: Vec<Field> =
            keys.iter().enumerate().map(|(at, key)| Field::new(format!("key_{at}"), key.clone(), true)).collect();
        if spec.window.is_some() {
            fields.push(Field::new("_window_end", DataType::Int64, false));
        }
        fields.push(Field::new("_key_group", DataType::UInt8, false));
        fields.push(Field::new("_event_time", DataType::Int64, false));
        fields.push(Field::new("_deleted", DataType::Boolean, false));
        if spec.retracts {
            fields.push(Field::new("_rows", DataType::Int64, false));
        }
        for (call, accumulator) in accumulators.iter().enumerate() {
            fields.extend(accumulator.fields().into_iter().map(|(name, data_type)| state_field(call, name, data_type)));
        }
        let (cursor, kept_cursor) = (Cursor::start(), Cursor::start());
        State { schema: Arc::new(Schema::new(fields)), undo: Vec::new(), cursor, kept_cursor, row_bytes: ROW_BYTES }
    }

    /// What the snapshot had not come to in memory, it meets on disk.
    pub fn memory_spilled(&mut self) {
        self.cursor.memory = None;
        self.kept_cursor = self.cursor.clone();
    }
}

impl Store for Aggregate {
    fn schema(&self) -> SchemaRef {
        self.state.schema.clone()
    }

    fn delta(&mut self) -> Result<Option<RecordBatch>> {
        let slots = self.slots.touched();
        if slots.is_empty() { Ok(None) } else { self.export(&slots).map(Some) }
    }

    fn slice(&mut self, rows: usize) -> Result<Slice> {
        let rows = rows.max(1);
        let mut slots = Vec::new();
        if let Some(from) = self.state.cursor.memory {
            (slots, self.state.cursor.memory) = self.memory_slice(from, rows);
        }
        let mut wrapped = self.state.cursor.memory.is_none();
        let mut on_disk = None;
        if wrapped && self.cold.is_some() {
            wrapped = false;
            if slots.len() < rows {
                let part = self.cold_part(&self.state.cursor.cold, rows - slots.len())?;
                // No group comes twice in one batch.
                let given: HashSet<u32> = slots.iter().copied().collect();
                slots.extend(part.slots.iter().filter(|slot| !given.contains(*slot)));
                on_disk = part.alone;
                wrapped = part.next.is_none();
                self.state.cursor.cold = part.next.unwrap_or_default();
            }
        }
        if wrapped {
            self.state.cursor = Cursor::start();
        }
        let in_memory = if slots.is_empty() { None } else { Some(self.export(&slots)?) };
        let rows = match (in_memory, on_disk) {
            (Some(in_memory), Some(on_disk)) => {
                let parts = [in_memory, on_disk];
                Some(concat_batches(&self.state.schema, &parts).map_err(|e| broken("rows of state", e))?)
            }
            (in_memory, on_disk) => in_memory.or(on_disk),
        };
        Ok(Slice { rows, wrapped })
    }

    fn apply(&mut self, rows: &RecordBatch) -> Result<()> {
        check_schema(&self.state.schema, rows)?;
        let keys = self.shape.encode(&rows.columns()[..self.keys.len()])?;
        let ends = self.window_ends(rows)?;
        self.recall(&keys, ends.as_deref(), rows.num_rows())?;
        let touched = self.slots.intern(&self.shape, &keys, ends.as_deref(), rows.num_rows());
        self.import(rows, &touched.slots)?;
        self.slots.restored();
        // All of it has to be written again.
        (self.state.cursor, self.state.kept_cursor) = (Cursor::start(), Cursor::start());
        Ok(())
    }

    fn expire(&mut self, edge: Watermark) {
        if self.spec.window.is_some() {
            self.slots.close(edge);
        }
        self.slots.edge = self.slots.edge.max(edge);
        self.slots.restored();
        self.tidy();
    }

    fn keep(&mut self) {
        self.state.undo.clear();
        let touched = self.slots.keep();
        if !touched.is_empty() {
            self.state.row_bytes = (self.rows_size() / self.slots.capacity()).max(ROW_BYTES / 2);
        }
        self.forget(&touched);
        self.tidy();
        self.state.kept_cursor = self.state.cursor.clone();
    }

    fn undo(&mut self) {
        self.slots.undo();
        for saved in std::mem::take(&mut self.state.undo) {
            for (at, slot) in saved.slots.iter().enumerate() {
                self.slots.event_times[*slot as usize] = saved.event_times[at];
                self.slots.rows[*slot as usize] = saved.rows[at];
            }
            for (accumulator, columns) in self.accumulators.iter_mut().zip(&saved.columns) {
                accumulator.import(&saved.slots, columns).expect("an accumulator takes back what it exported");
            }
        }
        self.before.clear();
        self.closing = None;
        self.state.cursor = self.state.kept_cursor.clone();
    }

    fn clear(&mut self) {
        self.slots = Slots::default();
        for accumulator in &mut self.accumulators {
            accumulator.grow(0);
        }
        self.before.clear();
        self.state.undo.clear();
        (self.cold, self.closing) = (None, None);
        (self.state.cursor, self.state.kept_cursor) = (Cursor::start(), Cursor::start());
    }

    fn image(&self, rows: usize) -> Result<Vec<RecordBatch>> {
        let slots: Vec<u32> = self.slots.windows.values().flat_map(|window| window.slots.iter().copied()).collect();
        let slots: Vec<u32> = slots.into_iter().filter(|slot| self.present(*slot)).collect();
        let mut image = slots.chunks(rows.max(1)).map(|part| self.export(part)).collect::<Result<Vec<_>>>()?;
        image.extend(self.cold_image(rows.max(1))?);
        Ok(image)
    }

    fn len(&self) -> usize {
        let windows = self.slots.windows.values();
        let in_memory: usize = match self.spec.retracts {
            false => windows.map(|window| window.slots.len()).sum(),
            true => windows.map(|window| window.slots.iter().filter(|slot| self.present(**slot)).count()).sum(),
        };
        in_memory + self.cold_len()
    }

    fn size(&self) -> usize {
        self.rows_size() + self.spilled().size
    }

    /// Before and after: saved for a failed commit and the next flush, and in the delta as columns and as bytes.
    fn pending(&self) -> usize {
        self.slots.touched_count() * 4 * self.state.row_bytes
    }

    fn spill(&mut self, spills: &Arc<Spills>) -> Result<bool> {
        self.spill_all(spills).map(|()| true)
    }

    fn spilled(&self) -> Spilled {
        let size = self.cold.as_ref().map_or(0, |cold| cold.spill.size());
        Spilled { keys: self.cold_len(), size }
    }
}

impl Aggregate {
    fn rows_size(&self) -> usize {
        self.slots.size() + self.accumulators.iter().map(|accumulator| accumulator.size()).sum::<usize>()
    }

    /// After a commit: windows on disk that have closed go.
    fn tidy(&mut self) {
        // What can't be removed takes room on disk, until the store spills again and fails with the reason.
        if let Err(error) = self.forget_closed() {
            tracing::warn!(%error, "closed windows stay on disk");
        }
    }

    /// Groups in memory from a window's end and a number on, and where to go on; `None` at the end.
    fn memory_slice(&self, (mut end, mut number): (i64, usize), rows: usize) -> (Vec<u32>, Option<(i64, usize)>) {
        let mut slots = Vec::new();
        for (window_end, window) in self.slots.windows.range(end..) {
            if *window_end != end {
                (end, number) = (*window_end, 0);
            }
            // Groups come in the order of their numbers, which new ones never change.
            let from = number.min(window.slots.len());
            let more = rows - slots.len();
            let to = window.slots.len().min(from + more);
            slots.extend(window.slots[from..to].iter().filter(|slot| self.present(**slot)));
            number = to;
            if slots.len() >= rows || to - from == more {
                break;
            }
        }
        let last = self.slots.windows.last_key_value();
        let through = last.is_none_or(|(last, window)| *last < end || (*last == end && number >= window.slots.len()));
        (slots, (!through).then_some((end, number)))
    }

    /// Takes rows of state into the given slots.
    pub(super) fn import(&mut self, rows: &RecordBatch, slots: &[u32]) -> Result<()> {
        let columns = rows.columns();
        let mut at = self.keys.len() + usize::from(self.spec.window.is_some());
        let event_times = state_column::<Int64Array>(columns, at + 1)?;
        let deleted = state_column::<BooleanArray>(columns, at + 2)?;
        at += 3;
        for (slot, time) in slots.iter().zip(event_times.values()) {
            self.slots.event_times[*slot as usize] = *time;
        }
        if self.spec.retracts {
            let weights = state_column::<Int64Array>(columns, at)?;
            for (row, slot) in slots.iter().enumerate() {
                self.slots.rows[*slot as usize] = if deleted.value(row) { 0 } else { weights.value(row) };
            }
            at += 1;
        }
        for accumulator in &mut self.accumulators {
            let width = accumulator.fields().len();
            accumulator.grow(self.slots.capacity());
            accumulator.import(slots, &columns[at..at + width])?;
            at += width;
        }
        Ok(())
    }
    /// Whether the group has a result.
    pub(super) fn alive(&self, slot: u32) -> bool {
        !self.spec.retracts || self.slots.rows[slot as usize] > 0
    }

    /// Whether the group has state: it is gone when its rows were all retracted.
    pub(super) fn present(&self, slot: u32) -> bool {
        !self.spec.retracts || self.slots.rows[slot as usize] != 0
    }

    /// Empties the groups among `touched` that are gone, and forgets such groups once they are most.
    fn forget(&mut self, touched: &[u32]) {
        if !self.spec.retracts || self.spec.window.is_some() {
            return;
        }
        let spilled = self.cold.as_ref().is_some_and(|cold| !cold.spill.is_empty());
        for slot in touched.iter().filter(|slot| self.slots.rows[**slot as usize] == 0) {
            self.accumulators.iter_mut().for_each(|accumulator| accumulator.reset(*slot));
        }
        // A group that is on disk too has to be known until it is gone there.
        if !spilled
            && let Some(numbers) = self.slots.forget()
            && let Some((_, next)) = &mut self.state.cursor.memory
        {
            *next = numbers.partition_point(|number| (*number as usize) < *next);
        }
    }

    /// Saves the contents of slots before they are touched.
    pub(super) fn save(&mut self, slots: &[u32]) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let columns = self.accumulators.iter().map(|accumulator| accumulator.export(slots)).collect::<Result<_>>()?;
        let pick = |values: &[i64]| slots.iter().map(|slot| values[*slot as usize]).collect();
        let (event_times, rows) = (pick(&self.slots.event_times), pick(&self.slots.rows));
        self.state.undo.push(Saved { slots: slots.to_vec(), event_times, rows, columns });
        Ok(())
    }

    /// Key columns of slots that are ordered by window.
    pub(super) fn key_columns(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let ends = &self.slots.ends;
        let mut parts = Vec::new();
        for slots in slots.chunk_by(|a, b| ends[*a as usize] == ends[*b as usize]) {
            let window = self.slots.windows.get(&ends[slots[0] as usize]).expect("a slot in use belongs to an open window");
            let numbers: Vec<u32> = slots.iter().map(|slot| self.slots.numbers[*slot as usize]).collect();
            parts.push(self.shape.decode(&window.keys, &numbers)?);
        }
        if parts.is_empty() {
            let types = self.state.schema.fields()[..self.keys.len()].iter();
            return Ok(types.map(|field| arrow::array::new_empty_array(field.data_type())).collect());
        }
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let column = |at: usize| {
            let arrays: Vec<&dyn Array> = parts.iter().map(|part: &Vec<ArrayRef>| part[at].as_ref()).collect();
            concat(&arrays).map_err(|e| broken("keys", e))
        };
        (0..self.keys.len()).map(column).collect()
    }

    /// Rows of state.
    pub(super) fn export(&self, slots: &[u32]) -> Result<RecordBatch> {
        let by_slot = |values: &[i64]| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(slots.iter().map(|slot| values[*slot as usize])))
        };
        let mut columns = self.key_columns(slots)?;
        let groups = key_groups(&columns, slots.len());
        if self.spec.window.is_some() {
            columns.push(by_slot(&self.slots.ends));
        }
        columns.push(Arc::new(UInt8Array::from(groups)));
        columns.push(by_slot(&self.slots.event_times));
        columns.push(Arc::new(slots.iter().map(|slot| Some(!self.present(*slot))).collect::<BooleanArray>()));
        if self.spec.retracts {
            columns.push(by_slot(&self.slots.rows));
        }
        for accumulator in &self.accumulators {
            columns.extend(accumulator.export(slots)?);
        }
        record_batch(&self.state.schema, columns, slots.len()).map_err(|e| broken("rows of state", e))
    }
}
