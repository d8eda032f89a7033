//! Rows that wait until both inputs have passed their time.
//!
//! Order of release: (event time, source rows before derived ones, source, partition, offset); rows of one place (derived rows, copies
//! of one record) by their values, so that not even then the order of arrival counts.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use hashbrown::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::operator::evaluate::{broken, record_batch};
use crate::operator::held::Held;
use crate::operator::position::{self, Positions};
use crate::record::Batch;
use crate::watermark::Watermark;

/// Event time, derived, source, partition, offset.
type Place = (i64, bool, u16, i32, i64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    place: Place,
    pub row: u32,
}

pub struct Buffer {
    /// Rows, their positions, and a number by which the state knows them.
    pub held: Held,
    /// In order.
    waiting: VecDeque<Waiting>,
    /// Not in order yet, and the first time among them. Rows mostly come in order, and stay here until the edge has come so far.
    fresh: Vec<Waiting>,
    fresh_from: i64,
    /// Since the last `keep`.
    released: Vec<Waiting>,
    next_id: i64,
    kept_next_id: i64,
    /// Row by id while rows are restored; rows of one id replace one another.
    restored: Option<HashMap<i64, u32>>,
    /// Columns that are not position and id.
    width: usize,
    order: RowConverter,
}

impl Buffer {
    /// # Errors
    /// A column that has no order.
    pub fn new(rows: &Schema) -> Result<Buffer> {
        let fields = rows.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let order = RowConverter::new(fields).map_err(|e| Error::config(format!("rows that are to be ordered: {e}")))?;
        let id = Arc::new(Field::new("_id", DataType::Int64, false));
        let schema = Schema::new(position::schema(rows).fields().iter().cloned().chain([id]).collect::<Vec<_>>());
        Ok(Buffer {
            held: Held::new(Arc::new(schema)),
            waiting: VecDeque::new(),
            fresh: Vec::new(),
            fresh_from: i64::MAX,
            released: Vec::new(),
            next_id: 0,
            kept_next_id: 0,
            restored: None,
            width: rows.fields().len(),
            order,
        })
    }

    pub fn push(&mut self, batch: &Batch, schema: &SchemaRef) -> Result<()> {
        let count = batch.num_rows();
        let mut columns = position::attach(batch, schema)?.columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(self.next_id..self.next_id + count as i64)));
        let rows = record_batch(self.held.schema(), columns, count).map_err(|e| broken("waiting rows", e))?;
        self.next_id += count as i64;
        self.restored = None;
        self.wait(rows);
        Ok(())
    }

    fn wait(&mut self, rows: RecordBatch) -> Vec<u32> {
        let positions = self.positions(&rows);
        let numbers = self.held.add(rows);
        self.fresh.extend(numbers.iter().enumerate().map(|(at, row)| Waiting { place: place(&positions, at), row: *row }));
        self.fresh_from = positions.event_times.values().iter().copied().fold(self.fresh_from, i64::min);
        numbers
    }

    /// Brings all that waits into order.
    fn settle(&mut self) {
        self.fresh.sort();
        self.fresh_from = i64::MAX;
        let Some(first) = self.fresh.first() else { return };
        // Two ascending runs: sorting them is one merge.
        let later = self.waiting.split_off(self.waiting.partition_point(|waiting| waiting < first));
        if !later.is_empty() {
            self.fresh.extend(later);
            self.fresh.sort();
        }
        self.waiting.extend(self.fresh.drain(..));
    }

    fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().chain(&self.fresh)
    }

    fn retain(&mut self, keep: impl Fn(&Waiting) -> bool) {
        self.waiting.retain(&keep);
        self.fresh.retain(&keep);
    }

    /// Positions of rows as they are held.
    pub fn positions(&self, rows: &RecordBatch) -> Positions {
        Positions::from_columns(&rows.columns()[self.width..self.width + position::COLUMNS])
    }

    /// Takes out the rows below `edge`, in order, or by origin and then in order.
    pub fn release(&mut self, edge: Watermark, ordered: bool) -> Result<Vec<u32>> {
        self.restored = None;
        let from = self.released.len();
        self.take_below(edge);
        if !ordered {
            self.released[from..].sort_by_key(|Waiting { place, .. }| (place.1, place.2, place.3));
        }
        let mut rows: Vec<u32> = self.released[from..].iter().map(|released| released.row).collect();
        let places: Vec<Place> = self.released[from..].iter().map(|released| released.place).collect();
        self.order_ties(&places, &mut rows)?;
        Ok(rows)
    }

    fn take_below(&mut self, edge: Watermark) {
        let all = edge == Watermark::MAX;
        if all || self.fresh_from < edge.0 {
            self.settle();
        }
        let below = self.waiting.partition_point(|waiting| all || waiting.place.0 < edge.0);
        for waiting in self.waiting.drain(..below) {
            self.held.remove(waiting.row);
            self.released.push(waiting);
        }
    }

    /// Puts rows of one place into the order of their values.
    fn order_ties(&self, places: &[Place], rows: &mut [u32]) -> Result<()> {
        let mut ranges = Vec::new();
        let mut from = 0;
        for same in places.chunk_by(|a, b| a == b) {
            if same.len() > 1 {
                ranges.push(from..from + same.len());
            }
            from += same.len();
        }
        if ranges.is_empty() || self.width == 0 {
            return Ok(());
        }
        let tied: Vec<u32> = ranges.iter().flat_map(|range| rows[range.clone()].iter().copied()).collect();
        let columns: Vec<ArrayRef> = self.held.take(&tied)?.columns()[..self.width].to_vec();
        let values = self.order.convert_columns(&columns).map_err(|e| broken("rows in order", e))?;
        let mut next = 0;
        for range in ranges {
            let mut order: Vec<usize> = (next..next + range.len()).collect();
            next += range.len();
            order.sort_by(|a, b| values.row(*a).cmp(&values.row(*b)));
            rows[range].iter_mut().zip(order).for_each(|(row, at)| *row = tied[at]);
        }
        Ok(())
    }

    /// Takes rows of state, as they are held.
    pub fn restore(&mut self, rows: RecordBatch) {
        let ids = self.ids(&rows);
        let known = self.restored.take().unwrap_or_else(|| self.by_id());
        let old: HashSet<u32> = ids.values().iter().filter_map(|id| known.get(id).copied()).collect();
        self.restored = Some(known);
        if !old.is_empty() {
            self.retain(|waiting| !old.contains(&waiting.row));
            old.into_iter().for_each(|row| self.held.remove(row));
        }
        let numbers = self.wait(rows);
        let known = self.restored.as_mut().expect("just put there");
        for (id, row) in ids.values().iter().zip(numbers) {
            known.insert(*id, row);
            self.next_id = self.next_id.max(id + 1);
        }
    }

    fn by_id(&self) -> HashMap<i64, u32> {
        let id = |row: u32| {
            let (rows, at) = self.held.row(row);
            self.ids(rows).value(at)
        };
        self.all().map(|waiting| (id(waiting.row), waiting.row)).collect()
    }

    fn ids(&self, rows: &RecordBatch) -> Int64Array {
        rows.column(self.width + position::COLUMNS).as_primitive::<Int64Type>().clone()
    }

    /// Drops the rows below `edge`: they were released before the state was written.
    pub fn expire(&mut self, edge: Watermark) {
        let from = self.released.len();
        let known = self.restored.take();
        self.take_below(edge);
        self.restored = known.map(|mut known| {
            for released in &self.released[from..] {
                let (rows, at) = self.held.row(released.row);
                known.remove(&self.ids(rows).value(at));
            }
            known
        });
    }

    /// Rows added since the last `keep` that still wait, in order of arrival.
    pub fn added(&self) -> Vec<u32> {
        let released: HashSet<u32> = self.released.iter().map(|released| released.row).collect();
        self.held.added().iter().copied().filter(|row| !released.contains(row)).collect()
    }

    /// All rows that wait, by number.
    pub fn rows(&self) -> Vec<u32> {
        let mut rows: Vec<u32> = self.all().map(|waiting| waiting.row).collect();
        rows.sort_unstable();
        rows
    }

    /// Up to `count` rows that wait, from number `from` on, and the number to go on from; `None` at the end.
    pub fn slice(&self, from: u32, count: usize) -> (Vec<u32>, Option<u32>) {
        let released: HashSet<u32> = self.released.iter().map(|released| released.row).collect();
        let mut rows = Vec::new();
        for number in from..self.held.numbers() {
            if rows.len() == count {
                return (rows, Some(number));
            }
            if self.held.has(number) && !released.contains(&number) {
                rows.push(number);
            }
        }
        (rows, None)
    }

    pub fn len(&self) -> usize {
        self.waiting.len() + self.fresh.len()
    }

    pub fn keep(&mut self) {
        self.released.clear();
        self.held.keep();
        self.kept_next_id = self.next_id;
    }

    pub fn undo(&mut self) {
        let added: HashSet<u32> = self.held.added().iter().copied().collect();
        self.retain(|waiting| !added.contains(&waiting.row));
        let released = std::mem::take(&mut self.released);
        self.fresh.extend(released.into_iter().filter(|released| !added.contains(&released.row)));
        self.settle();
        self.held.undo();
        self.next_id = self.kept_next_id;
        self.restored = None;
    }

    pub fn clear(&mut self) {
        self.held.clear();
        self.waiting.clear();
        self.fresh.clear();
        self.fresh_from = i64::MAX;
        self.released.clear();
        (self.next_id, self.kept_next_id, self.restored) = (0, 0, None);
    }

    /// Estimated memory in bytes.
    pub fn size(&self) -> usize {
        self.held.size() + (self.waiting.capacity() + self.fresh.capacity()) * size_of::<Waiting>()
    }
}

fn place(positions: &Positions, row: usize) -> Place {
    let source = (positions.sources.value(row), positions.partitions.value(row), positions.offsets.value(row));
    (positions.event_times.value(row), positions.derived.value(row), source.0, source.1, source.2)
}
