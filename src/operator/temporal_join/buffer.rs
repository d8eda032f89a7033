//! Rows that wait until both inputs have passed their time.
//!
//! Order of release: (event time, source rows before derived ones, source, partition, offset); rows of one place (derived rows, copies
//! of one record) by their values, so that not even then the order of arrival counts.
//!
//! When they outgrow their share of memory, all of them go to disk ([`Waiting`]), and are released from there, merged with those that came
//! later, a part at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::compute::{filter_record_batch, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use hashbrown::{HashMap, HashSet};

use super::waiting::{Part, Waiting, WaitingRows, behind, read_place};
use crate::error::Result;
use crate::operator::evaluate::{broken, record_batch};
use crate::operator::held::Held;
use crate::operator::position::{self, Positions};
use crate::record::Batch;
use crate::store::spill::Spills;
use crate::watermark::Watermark;

/// Event time, derived, source, partition, offset.
pub type Place = (i64, bool, u16, i32, i64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waits {
    place: Place,
    pub row: u32,
}

pub struct Buffer {
    /// Rows, their positions, and a number by which the state knows them.
    pub held: Held,
    /// In order.
    waiting: VecDeque<Waits>,
    /// How many of the first are in order even where they are of one place.
    settled: usize,
    /// Not in order yet, and the first time among them. Rows mostly come in order, and stay here until the edge has come so far.
    fresh: Vec<Waits>,
    fresh_from: i64,
    /// Since the last `keep`.
    released: Vec<Waits>,
    next_id: i64,
    kept_next_id: i64,
    /// Row by id while rows are restored; rows of one id replace one another.
    restored: Option<HashMap<i64, u32>>,
    codec: WaitingRows,
    /// Rows on disk; `None` until the first go there.
    cold: Option<Waiting>,
}

/// Rows are written in parts of so many, and rows of one place in parts of at most twice as many.
const WRITTEN_ROWS: usize = 8192;

impl Buffer {
    /// # Errors
    /// A column that has no order.
    pub fn new(rows: &Schema) -> Result<Buffer> {
        let id = Arc::new(Field::new("_id", DataType::Int64, false));
        let schema = Schema::new(position::schema(rows).fields().iter().cloned().chain([id]).collect::<Vec<_>>());
        let schema = Arc::new(schema);
        Ok(Buffer {
            codec: WaitingRows::new(schema.clone(), rows.fields().len())?,
            held: Held::new(schema),
            waiting: VecDeque::new(),
            settled: 0,
            fresh: Vec::new(),
            fresh_from: i64::MAX,
            released: Vec::new(),
            next_id: 0,
            kept_next_id: 0,
            restored: None,
            cold: None,
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
        self.fresh.extend(numbers.iter().enumerate().map(|(at, row)| Waits { place: place(&positions, at), row: *row }));
        self.fresh_from = positions.event_times.values().iter().copied().fold(self.fresh_from, i64::min);
        numbers
    }

    /// Brings all that waits in memory into order.
    fn settle(&mut self) {
        self.fresh.sort();
        self.fresh_from = i64::MAX;
        let Some(first) = self.fresh.first() else { return };
        self.settled = 0;
        // Two ascending runs: sorting them is one merge.
        let later = self.waiting.split_off(self.waiting.partition_point(|waits| waits < first));
        if !later.is_empty() {
            self.fresh.extend(later);
            self.fresh.sort();
        }
        self.waiting.extend(self.fresh.drain(..));
    }

    fn all(&self) -> impl Iterator<Item = &Waits> {
        self.waiting.iter().chain(&self.fresh)
    }

    fn retain(&mut self, keep: impl Fn(&Waits) -> bool) {
        self.settled = 0;
        self.waiting.retain(&keep);
        self.fresh.retain(&keep);
    }

    /// Positions of rows as they are held.
    pub fn positions(&self, rows: &RecordBatch) -> Positions {
        self.codec.positions(rows)
    }

    /// Takes out the next rows below `edge`, at most `count`: in order, or, if not `ordered`, by origin and then in order. `None`: there are no more.
    pub fn release(&mut self, edge: Watermark, ordered: bool, count: usize) -> Result<Option<RecordBatch>> {
        self.restored = None;
        let below = self.settle_below(edge)?;
        let ours: Vec<Waits> = self.waiting.range(..below.min(count)).copied().collect();
        let theirs = match &mut self.cold {
            Some(cold) => cold.first(edge, count)?,
            None => Default::default(),
        };
        let held = self.held.take(&ours.iter().map(|waits| waits.row).collect::<Vec<_>>())?;
        let mut next: Vec<(Place, (usize, usize))> = match theirs.entries.is_empty() {
            true => ours.iter().enumerate().map(|(at, waits)| (waits.place, (0, at))).collect(),
            false => merged(&self.codec.keys(&held)?, &theirs, count),
        };
        if next.is_empty() {
            return Ok(None);
        }
        let taken = |part: usize| next.iter().filter(|(_, (of, _))| *of == part).count();
        let (from_memory, from_disk) = (taken(0), taken(1));
        let on_disk = self.codec.read(&theirs.entries[..from_disk])?;
        if let (Some(cold), Some((last, _))) = (&mut self.cold, theirs.entries[..from_disk].last()) {
            cold.release(from_disk, last);
        }
        self.take_out(from_memory);
        if !ordered {
            next.sort_by_key(|(place, _)| (place.1, place.2, place.3));
        }
        let places: Vec<(usize, usize)> = next.into_iter().map(|(_, place)| place).collect();
        let in_place = places.iter().enumerate().all(|(at, place)| *place == (0, at));
        match in_place {
            true => Ok(Some(held.slice(0, from_memory))),
            false => interleave_record_batch(&[&held, &on_disk], &places).map(Some).map_err(|e| broken("waiting rows", e)),
        }
    }

    /// The first rows in memory were released.
    fn take_out(&mut self, count: usize) {
        self.settled -= count.min(self.settled);
        for waits in self.waiting.drain(..count) {
            self.held.remove(waits.row);
            self.released.push(waits);
        }
    }

    /// Brings the rows below `edge` that are in memory into order; returns how many there are.
    fn settle_below(&mut self, edge: Watermark) -> Result<usize> {
        let below = self.count_below(edge);
        if self.settled < below {
            self.order_ties(below)?;
            self.settled = below;
        }
        Ok(below)
    }

    fn count_below(&mut self, edge: Watermark) -> usize {
        let all = edge == Watermark::MAX;
        if all || self.fresh_from < edge.0 {
            self.settle();
        }
        self.waiting.partition_point(|waits| all || waits.place.0 < edge.0)
    }

    /// Puts rows of one place among the first `count` into the order of their values. An edge never parts rows of one place.
    fn order_ties(&mut self, count: usize) -> Result<()> {
        let mut ranges = Vec::new();
        let (first, mut from) = (self.settled, 0);
        let waiting: Vec<Waits> = self.waiting.range(first..count).copied().collect();
        for same in waiting.chunk_by(|a, b| a.place == b.place) {
            if same.len() > 1 {
                ranges.push(from..from + same.len());
            }
            from += same.len();
        }
        let tied: Vec<u32> = ranges.iter().flat_map(|range| waiting[range.clone()].iter().map(|waits| waits.row)).collect();
        if tied.is_empty() {
            return Ok(());
        }
        let Some(values) = self.codec.values(&self.held.take(&tied)?)? else { return Ok(()) };
        let mut next = 0;
        for range in ranges {
            let mut order: Vec<usize> = (next..next + range.len()).collect();
            next += range.len();
            order.sort_by(|a, b| values.row(*a).cmp(&values.row(*b)));
            range.zip(order).for_each(|(at, of)| self.waiting[first + at].row = tied[of]);
        }
        Ok(())
    }

    /// Takes rows of state, as they are held.
    pub fn restore(&mut self, mut rows: RecordBatch) -> Result<()> {
        for id in self.codec.ids(&rows).values() {
            self.next_id = self.next_id.max(id + 1);
        }
        if let Some(cold) = &self.cold {
            // A row never changes: one that is there already is the same.
            let unknown = cold.unknown(&self.codec.keys(&rows)?)?;
            rows = filter_record_batch(&rows, &unknown).map_err(|e| broken("filter", e))?;
        }
        let ids = self.codec.ids(&rows);
        let known = self.restored.take().unwrap_or_else(|| self.by_id());
        let old: HashSet<u32> = ids.values().iter().filter_map(|id| known.get(id).copied()).collect();
        self.restored = Some(known);
        if !old.is_empty() {
            self.retain(|waits| !old.contains(&waits.row));
            old.into_iter().for_each(|row| self.held.remove(row));
        }
        let numbers = self.wait(rows);
        let known = self.restored.as_mut().expect("just put there");
        known.extend(ids.values().iter().copied().zip(numbers));
        Ok(())
    }

    /// Moves all rows to disk. Only between two commits.
    pub fn spill(&mut self, spills: &Arc<Spills>) -> Result<()> {
        self.settle();
        if self.waiting.is_empty() {
            return Ok(());
        }
        assert!(self.released.is_empty(), "rows spill between two commits");
        let mut cold = self.cold.take().unwrap_or_else(|| Waiting::new(spills));
        let written = self.write(&mut cold);
        self.cold = Some(cold);
        written?;
        self.held.clear();
        (self.waiting, self.fresh) = (VecDeque::new(), Vec::new());
        (self.settled, self.restored) = (0, None);
        Ok(())
    }

    fn write(&mut self, cold: &mut Waiting) -> Result<()> {
        let waiting: &[Waits] = self.waiting.make_contiguous();
        let mut from = 0;
        while from < waiting.len() {
            // Rows of one place are in order within a part only: where they are more than that, another run begins.
            let (mut parts, begin) = (Vec::new(), from);
            loop {
                let to = end_of_part(waiting, from);
                parts.push(&waiting[from..to]);
                from = to;
                if to == waiting.len() || waiting[to].place == waiting[to - 1].place {
                    break;
                }
            }
            let rows = |part: &[Waits]| self.held.take(&part.iter().map(|waits| waits.row).collect::<Vec<_>>());
            cold.write(&self.codec, from - begin, parts.into_iter().map(rows))?;
        }
        Ok(())
    }

    fn by_id(&self) -> HashMap<i64, u32> {
        let id = |row: u32| {
            let (rows, at) = self.held.row(row);
            self.codec.ids(rows).value(at)
        };
        self.all().map(|waits| (id(waits.row), waits.row)).collect()
    }

    /// Drops the rows below `edge`: they were released before the state was written.
    pub fn expire(&mut self, edge: Watermark) -> Result<()> {
        let from = self.released.len();
        let known = self.restored.take();
        let below = self.count_below(edge);
        self.take_out(below);
        self.restored = known.map(|mut known| {
            for released in &self.released[from..] {
                let (rows, at) = self.held.row(released.row);
                known.remove(&self.codec.ids(rows).value(at));
            }
            known
        });
        self.cold.as_mut().map_or(Ok(()), |cold| cold.expire(edge))
    }

    /// Rows added since the last `keep` that still wait, in order of arrival.
    pub fn added(&self) -> Vec<u32> {
        let released: HashSet<u32> = self.released.iter().map(|released| released.row).collect();
        self.held.added().iter().copied().filter(|row| !released.contains(row)).collect()
    }

    /// All rows that wait in memory, by number.
    pub fn rows(&self) -> Vec<u32> {
        let mut rows: Vec<u32> = self.all().map(|waits| waits.row).collect();
        rows.sort_unstable();
        rows
    }

    /// Up to `count` rows that wait in memory, from number `from` on, and the number to go on from; `None` at the end.
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

    /// Up to `count` rows that wait on disk, from a key on, and the key to go on from; `None` at the end.
    pub fn cold_slice(&self, from: &[u8], count: usize) -> Result<(Option<RecordBatch>, Option<Vec<u8>>)> {
        let Some(cold) = &self.cold else { return Ok((None, None)) };
        let part = cold.rest(from, count)?;
        let Some((last, _)) = part.entries.last() else { return Ok((None, None)) };
        Ok((Some(self.codec.read(&part.entries)?), part.more.then(|| behind(last))))
    }

    /// Rows in memory.
    pub fn in_memory(&self) -> usize {
        self.waiting.len() + self.fresh.len()
    }

    pub fn on_disk(&self) -> usize {
        self.cold.as_ref().map_or(0, Waiting::len)
    }

    pub fn len(&self) -> usize {
        self.in_memory() + self.on_disk()
    }

    pub fn keep(&mut self) {
        self.released.clear();
        self.held.keep();
        self.kept_next_id = self.next_id;
        // What can't be removed takes room on disk, until the store spills again and fails with the reason.
        if let Some(cold) = &mut self.cold
            && let Err(error) = cold.keep()
        {
            tracing::warn!(%error, "rows that were released stay on disk");
        }
    }

    pub fn undo(&mut self) {
        let added: HashSet<u32> = self.held.added().iter().copied().collect();
        self.retain(|waits| !added.contains(&waits.row));
        let released = std::mem::take(&mut self.released);
        self.fresh.extend(released.into_iter().filter(|released| !added.contains(&released.row)));
        self.settle();
        self.held.undo();
        self.next_id = self.kept_next_id;
        self.restored = None;
        if let Some(cold) = &mut self.cold {
            cold.undo();
        }
    }

    pub fn clear(&mut self) {
        self.held.clear();
        self.waiting.clear();
        self.fresh.clear();
        self.fresh_from = i64::MAX;
        self.released.clear();
        (self.settled, self.next_id, self.kept_next_id, self.restored, self.cold) = (0, 0, 0, None, None);
    }

    /// Estimated memory in bytes of the rows in memory.
    pub fn size(&self) -> usize {
        self.held.size() + (self.waiting.capacity() + self.fresh.capacity()) * size_of::<Waits>()
    }

    /// Of what is on disk, estimated memory in bytes.
    pub fn cold_size(&self) -> usize {
        self.cold.as_ref().map_or(0, Waiting::size)
    }
}

/// The first `count` rows of two parts: their places, and where they stand (0 in memory, 1 on disk).
fn merged(ours: &[Vec<u8>], theirs: &Part, count: usize) -> Vec<(Place, (usize, usize))> {
    let mut next = Vec::new();
    let (mut from_memory, mut from_disk) = (0, 0);
    while next.len() < count {
        let (in_memory, on_disk) = (ours.get(from_memory), theirs.entries.get(from_disk).map(|(key, _)| key));
        // What follows on disk was not read yet.
        if on_disk.is_none() && theirs.more {
            break;
        }
        let memory_first = in_memory.is_some_and(|ours| on_disk.is_none_or(|theirs| ours < theirs));
        let Some(key) = (if memory_first { in_memory } else { on_disk }) else { break };
        let (part, at) = if memory_first { (0, &mut from_memory) } else { (1, &mut from_disk) };
        next.push((read_place(key), (part, *at)));
        *at += 1;
    }
    next
}

/// Rows of one place are not parted, unless they are too many.
fn end_of_part(waiting: &[Waits], from: usize) -> usize {
    let mut to = waiting.len().min(from + WRITTEN_ROWS);
    while to < waiting.len() && to - from < 2 * WRITTEN_ROWS && waiting[to].place == waiting[to - 1].place {
        to += 1;
    }
    to
}

pub fn place(positions: &Positions, row: usize) -> Place {
    let source = (positions.sources.value(row), positions.partitions.value(row), positions.offsets.value(row));
    (positions.event_times.value(row), positions.derived.value(row), source.0, source.1, source.2)
}
