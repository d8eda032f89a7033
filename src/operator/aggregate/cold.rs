//! Groups on disk: what an aggregate does when its store has outgrown its share of memory.
//!
//! All groups in memory go to disk at once, between two commits. A row whose group is not in memory looks for it there, and from then on
//! it is in memory as if it had never left. Windows close from both: their groups in order of their keys, a part at a time.
//!
//! ```text
//! key     window end (8 bytes that sort) | key as bytes that sort: a window is a range
//! value   the group's row of state
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{filter_record_batch, interleave_record_batch};

use super::slots::NO_WINDOW;
use super::{Aggregate, EMITTED_ROWS, Phase, accumulators};
use crate::error::Result;
use crate::operator::Output;
use crate::operator::evaluate::broken;
use crate::operator::key::{EncodedKeys, sortable};
use crate::operator::rows::RowCodec;
use crate::operator::state::state_column;
use crate::store::Store;
use crate::store::spill::{Scan, Spill, Spills};
use crate::watermark::Watermark;

/// What of an aggregate is on disk.
pub struct Cold {
    pub spill: Spill,
    codec: RowCodec,
    /// Groups by window end, those that are in memory too included.
    pub live: BTreeMap<i64, usize>,
}

/// Some of the groups on disk.
#[derive(Default)]
pub struct ColdPart {
    /// Those that are not in memory, as rows of state.
    pub alone: Option<RecordBatch>,
    /// Those that are in memory too, and not deleted there.
    pub slots: Vec<u32>,
    /// Where to go on; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// How far windows have been emitted that close now.
#[derive(Default)]
pub struct Closing {
    /// The last window that is through.
    done: Option<i64>,
    window: Option<ClosingWindow>,
}

struct ClosingWindow {
    end: i64,
    /// Its groups in memory, by key, and the first that is not emitted yet.
    slots: Vec<u32>,
    at: usize,
    /// Whether it has groups on disk, and where these go on.
    cold: bool,
    from: Vec<u8>,
}

/// Groups that are emitted together.
enum Part {
    Memory(Vec<u32>),
    Rows(RecordBatch),
}

/// Where the groups of a window begin.
pub fn window_key(end: i64) -> Vec<u8> {
    sortable(end).to_vec()
}

/// Above all windows that end at or before `edge`.
fn above(edge: Watermark) -> Vec<u8> {
    edge.0.checked_add(1).map_or_else(|| vec![0xff; 9], window_key)
}

/// The key that follows.
fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

impl Aggregate {
    /// Reads back the groups of the given rows that are on disk alone.
    pub(super) fn recall(&mut self, keys: &EncodedKeys, ends: Option<&[i64]>, rows: usize) -> Result<()> {
        let Some(cold) = self.cold.as_ref().filter(|cold| !cold.spill.is_empty()) else { return Ok(()) };
        let mut wanted: Vec<Vec<u8>> = Vec::new();
        let mut key = Vec::new();
        for row in 0..rows {
            let end = ends.map_or(NO_WINDOW, |ends| ends[row]);
            if !cold.live.contains_key(&end) || self.slots.holds(keys, row, end) {
                continue;
            }
            key.clear();
            key.extend(sortable(end));
            keys.write(row, &mut key);
            if cold.spill.may_hold(&key) {
                wanted.push(key.clone());
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        let found: Vec<Vec<u8>> = cold.spill.get(&wanted)?.into_iter().flatten().collect();
        if found.is_empty() {
            return Ok(());
        }
        let rows = cold.codec.decode(found.iter().map(Vec::as_slice))?;
        self.load(&rows)
    }

    fn load(&mut self, rows: &RecordBatch) -> Result<()> {
        let keys = self.shape.encode(&rows.columns()[..self.keys.len()])?;
        let ends = self.window_ends(rows)?;
        let slots = self.slots.load(&self.shape, &keys, ends.as_deref(), rows.num_rows());
        self.import(rows, &slots)
    }

    /// The window ends of rows of state.
    pub(super) fn window_ends(&self, rows: &RecordBatch) -> Result<Option<Vec<i64>>> {
        match self.spec.window {
            Some(_) => Ok(Some(state_column::<Int64Array>(rows.columns(), self.keys.len())?.values().to_vec())),
            None => Ok(None),
        }
    }

    /// Every group in memory goes to disk.
    pub(super) fn spill_all(&mut self, spills: &Arc<Spills>) -> Result<()> {
        if self.slots.windows.is_empty() {
            return Ok(());
        }
        assert!(self.slots.is_clean(), "a store spills only between two commits");
        let new = || Cold { spill: Spill::new(spills), codec: RowCodec::new(self.state.schema.clone()), live: BTreeMap::new() };
        let mut cold = self.cold.take().unwrap_or_else(new);
        let written = self.write(&mut cold);
        self.cold = Some(cold);
        written?;
        self.slots = self.slots.emptied();
        self.accumulators = accumulators(&self.spec)?;
        self.scratch = None;
        self.state.memory_spilled();
        Ok(())
    }

    fn write(&self, cold: &mut Cold) -> Result<()> {
        let Cold { spill, codec, live } = cold;
        let groups = self.slots.windows.values().map(|window| window.slots.len()).sum();
        spill.write(groups, |push| {
            let mut key = Vec::new();
            for (end, window) in &self.slots.windows {
                let of_window = live.entry(*end).or_default();
                let known = |slot: &u32| self.present(*slot) || self.slots.spilled[*slot as usize];
                let slots: Vec<u32> = self.slots.sorted(*end).into_iter().filter(known).collect();
                for part in slots.chunks(EMITTED_ROWS) {
                    codec.encode(&self.export(part)?, |row, value| {
                        let slot = part[row];
                        key.clear();
                        key.extend(sortable(*end));
                        window.keys.write(&self.shape, self.slots.numbers[slot as usize], &mut key);
                        let (present, spilled) = (self.present(slot), self.slots.spilled[slot as usize]);
                        *of_window += usize::from(present && !spilled);
                        *of_window -= usize::from(!present && spilled);
                        push(&key, present.then_some(value))
                    })?;
                }
            }
            Ok(())
        })?;
        live.retain(|_, groups| *groups > 0);
        Ok(())
    }

    /// The windows that have closed are known to be committed.
    pub(super) fn forget_closed(&mut self) -> Result<()> {
        let edge = self.slots.edge;
        let Some(cold) = self.cold.as_mut().filter(|_| self.spec.window.is_some()) else { return Ok(()) };
        if cold.live.first_key_value().is_some_and(|(end, _)| *end <= edge.0) {
            cold.live.retain(|end, _| *end > edge.0);
            cold.spill.remove_below(&above(edge))?;
        }
        Ok(())
    }

    /// How many groups are on disk and not in memory.
    pub(super) fn cold_len(&self) -> usize {
        let Some(cold) = &self.cold else { return 0 };
        let open = |end: &i64| self.spec.window.is_none() || *end > self.slots.edge.0;
        let all: usize = cold.live.iter().filter(|(end, _)| open(end)).map(|(_, groups)| groups).sum();
        all - self.slots.windows.values().map(|window| window.spilled).sum::<usize>()
    }

    /// About `rows` groups on disk from `from` on.
    pub(super) fn cold_part(&self, from: &[u8], rows: usize) -> Result<ColdPart> {
        let Some(cold) = &self.cold else { return Ok(ColdPart::default()) };
        let first_open = if self.spec.window.is_some() { above(self.slots.edge) } else { Vec::new() };
        let mut scan = cold.spill.scan(from.max(&first_open))?;
        let (mut values, mut last) = (Vec::new(), None);
        while values.len() < rows {
            let Some((key, value)) = scan.next()? else { break };
            values.push(value);
            last = Some(key);
        }
        let next = last.filter(|_| values.len() == rows).map(behind);
        if values.is_empty() {
            return Ok(ColdPart::default());
        }
        let found = cold.codec.decode(values.iter().map(Vec::as_slice))?;
        let keys = self.shape.encode(&found.columns()[..self.keys.len()])?;
        let ends = self.window_ends(&found)?;
        let in_memory = |row: usize| self.slots.find(&keys, row, ends.as_ref().map_or(NO_WINDOW, |ends| ends[row]));
        let slots: Vec<Option<u32>> = (0..found.num_rows()).map(in_memory).collect();
        let alone: BooleanArray = slots.iter().map(|slot| Some(slot.is_none())).collect();
        let alone = filter_record_batch(&found, &alone).map_err(|e| broken("filter", e))?;
        let slots = slots.into_iter().flatten().filter(|slot| self.present(*slot)).collect();
        Ok(ColdPart { alone: Some(alone).filter(|rows| rows.num_rows() > 0), slots, next })
    }

    /// Every group that is on disk alone.
    pub(super) fn cold_image(&self, rows: usize) -> Result<Vec<RecordBatch>> {
        let mut image = Vec::new();
        let mut from = Some(Vec::new());
        while let Some(key) = from {
            let part = self.cold_part(&key, rows)?;
            image.extend(part.alone);
            from = part.next;
        }
        Ok(image)
    }

    /// Emits the windows whose end `edge` has reached, in order, until `out` has no room. Returns whether all are through.
    pub(super) fn emit_closing(&mut self, edge: Watermark, out: &mut Output) -> Result<bool> {
        let mut closing = self.closing.take().unwrap_or_default();
        let mut rows = 0;
        while let Some(part) = self.next_part(&mut closing, edge)? {
            rows += match part {
                Part::Memory(slots) => {
                    self.emit_slots(&slots, out)?;
                    slots.len()
                }
                Part::Rows(groups) => {
                    self.emit_rows(&groups, out)?;
                    groups.num_rows()
                }
            };
            if out.room.is_some_and(|room| rows >= room) {
                self.closing = Some(closing);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn emit_slots(&self, slots: &[u32], out: &mut Output) -> Result<()> {
        match self.spec.phase {
            Phase::Local => self.emit_partial(slots, out),
            Phase::Complete | Phase::Global => self.emit(slots, out),
        }
    }

    /// Emits groups that are not (all) in memory, through an aggregate that holds just them.
    fn emit_rows(&mut self, groups: &RecordBatch, out: &mut Output) -> Result<()> {
        let mut scratch = match self.scratch.take() {
            Some(scratch) => scratch,
            None => Box::new(Aggregate::new(self.spec.clone())?),
        };
        scratch.clear();
        scratch.apply(groups)?;
        let slots: Vec<u32> = scratch.slots.windows.values().flat_map(|window| window.slots.iter().copied()).collect();
        scratch.emit_slots(&slots, out)?;
        self.scratch = Some(scratch);
        Ok(())
    }

    /// The next groups to be emitted. Windows that are in memory alone are taken together.
    fn next_part(&self, closing: &mut Closing, edge: Watermark) -> Result<Option<Part>> {
        let mut slots = Vec::new();
        while slots.len() < EMITTED_ROWS {
            if closing.window.is_none() {
                closing.window = self.next_closing(closing.done, edge);
            }
            let Some(window) = &mut closing.window else { break };
            if window.cold {
                if !slots.is_empty() {
                    break;
                }
                if let Some(rows) = self.merged_part(window)? {
                    return Ok(Some(Part::Rows(rows)));
                }
            } else {
                let until = window.slots.len().min(window.at + EMITTED_ROWS - slots.len());
                slots.extend_from_slice(&window.slots[window.at..until]);
                window.at = until;
                if until < window.slots.len() {
                    break;
                }
            }
            closing.done = Some(window.end);
            closing.window = None;
        }
        Ok((!slots.is_empty()).then_some(Part::Memory(slots)))
    }

    /// The first window after `done` that is over.
    fn next_closing(&self, done: Option<i64>, edge: Watermark) -> Option<ClosingWindow> {
        // On disk, windows that have closed before may wait for their commit.
        let from = match done.unwrap_or(self.slots.edge.0) {
            i64::MIN => i64::MIN,
            last => last.checked_add(1)?,
        };
        if edge.0 < from {
            return None;
        }
        let in_memory = self.slots.windows.range(from..=edge.0).next().map(|(end, _)| *end);
        let cold = self.cold.as_ref().and_then(|cold| cold.live.range(from..=edge.0).next()).map(|(end, _)| *end);
        let end = in_memory.into_iter().chain(cold).min()?;
        let (slots, from) = (self.slots.sorted(end), window_key(end));
        Some(ClosingWindow { end, slots, at: 0, cold: cold == Some(end), from })
    }

    /// The next groups of a window, from memory and from disk, by key; a group that is in both is as it is in memory.
    fn merged_part(&self, window: &mut ClosingWindow) -> Result<Option<RecordBatch>> {
        let cold = self.cold.as_ref().expect("a window with groups on disk has a disk");
        let mut scan = cold.spill.scan(&window.from)?;
        let prefix = sortable(window.end);
        let of_window =
            |scan: &mut Scan<'_>| Ok::<_, crate::error::Error>(scan.next()?.filter(|(key, _)| key.starts_with(&prefix)));
        let mut on_disk = of_window(&mut scan)?;
        let (mut values, mut slots, mut places) = (Vec::new(), Vec::new(), Vec::new());
        while places.len() < EMITTED_ROWS {
            let in_memory = window.slots.get(window.at).map(|slot| self.slot_key(*slot));
            let (take_memory, take_disk) = match (&in_memory, &on_disk) {
                (None, None) => break,
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, true),
                (Some(ours), Some((theirs, _))) => (ours <= theirs, theirs <= ours),
            };
            if take_memory {
                let slot = window.slots[window.at];
                window.at += 1;
                if self.present(slot) {
                    places.push((1, slots.len()));
                    slots.push(slot);
                }
            }
            if take_disk && let Some((key, value)) = on_disk.take() {
                if !take_memory {
                    places.push((0, values.len()));
                    values.push(value);
                }
                window.from = behind(key);
                on_disk = of_window(&mut scan)?;
            }
        }
        if places.is_empty() {
            return Ok(None);
        }
        let from_disk = cold.codec.decode(values.iter().map(Vec::as_slice))?;
        if slots.is_empty() {
            return Ok(Some(from_disk));
        }
        let rows = interleave_record_batch(&[&from_disk, &self.export(&slots)?], &places);
        rows.map(Some).map_err(|e| broken("groups of a window", e))
    }

    fn slot_key(&self, slot: u32) -> Vec<u8> {
        let end = self.slots.ends[slot as usize];
        let mut key = window_key(end);
        self.slots.windows[&end].keys.write(&self.shape, self.slots.numbers[slot as usize], &mut key);
        key
    }
}
