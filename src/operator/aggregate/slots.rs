//! Which slot each (window, key) has, and what a commit has touched.
//!
//! A slot is a number into the columns of all accumulators. Windows have key tables of their own, so that a window that closes is
//! dropped whole; slots of dropped windows are used again. Windows that close stay aside until `keep`: `undo` brings them back.

use std::collections::BTreeMap;

use crate::operator::key::{EncodedKeys, KeyShape, KeyTable};
use crate::watermark::Watermark;

/// Where the groups of an aggregate without windows live.
pub const NO_WINDOW: i64 = i64::MAX;

pub struct Slots {
    /// By window end.
    pub windows: BTreeMap<i64, Window>,
    /// Closed since the last `keep`.
    closed: Vec<(i64, Window)>,
    /// By slot: its window's end, its key's number there, its last event time, its rows by weight (kept only where rows can be retracted).
    pub ends: Vec<i64>,
    pub numbers: Vec<u32>,
    pub event_times: Vec<i64>,
    pub rows: Vec<i64>,
    /// By slot: whether the group is on disk too, as it was when it was read back.
    pub spilled: Vec<bool>,
    free: Vec<u32>,
    /// Slots touched since the last `keep`, and since the last flush.
    touched: Marks,
    unflushed: Marks,
    pub edge: Watermark,
    kept_edge: Watermark,
}

/// The groups of one window.
pub struct Window {
    pub keys: KeyTable,
    /// By the key's number.
    pub slots: Vec<u32>,
    /// How many groups it had at the last `keep` and at the last flush.
    kept: usize,
    flushed: usize,
    /// How many of its groups are on disk too.
    pub spilled: usize,
}

#[derive(Default)]
struct Marks {
    set: Vec<bool>,
    list: Vec<u32>,
}

impl Marks {
    /// Whether it is the first time.
    fn mark(&mut self, slot: u32) -> bool {
        let first = !std::mem::replace(&mut self.set[slot as usize], true);
        if first {
            self.list.push(slot);
        }
        first
    }

    fn take(&mut self) -> Vec<u32> {
        self.list.iter().for_each(|slot| self.set[*slot as usize] = false);
        std::mem::take(&mut self.list)
    }
}

/// What the rows of one batch touched.
pub struct Touched {
    /// The slot of each row.
    pub slots: Vec<u32>,
    /// Slots given out now: their accumulators have to be emptied.
    pub created: Vec<u32>,
    /// Slots that existed at the last `keep` (at the last flush) and are touched for the first time since.
    pub first_since_kept: Vec<u32>,
    pub first_since_flush: Vec<u32>,
}

impl Default for Slots {
    fn default() -> Slots {
        Slots {
            windows: BTreeMap::new(),
            closed: Vec::new(),
            ends: Vec::new(),
            numbers: Vec::new(),
            event_times: Vec::new(),
            rows: Vec::new(),
            spilled: Vec::new(),
            free: Vec::new(),
            touched: Marks::default(),
            unflushed: Marks::default(),
            edge: Watermark::MIN,
            kept_edge: Watermark::MIN,
        }
    }
}

impl Slots {
    /// Without groups, at the same edge.
    pub fn emptied(&self) -> Slots {
        Slots { edge: self.edge, kept_edge: self.kept_edge, ..Slots::default() }
    }

    /// Finds or makes the slot of every row and marks it.
    pub fn intern(&mut self, shape: &KeyShape, keys: &EncodedKeys, ends: Option<&[i64]>, rows: usize) -> Touched {
        let mut touched = Touched {
            slots: Vec::with_capacity(rows),
            created: Vec::new(),
            first_since_kept: Vec::new(),
            first_since_flush: Vec::new(),
        };
        let mut windows = std::mem::take(&mut self.windows);
        let mut row = 0;
        while row < rows {
            let end = ends.map_or(NO_WINDOW, |ends| ends[row]);
            let until = ends.map_or(rows, |ends| row + ends[row..].iter().take_while(|other| **other == end).count());
            let window = windows.entry(end).or_insert_with(|| Window::new(shape));
            for row in row..until {
                let number = window.keys.intern(keys, row);
                if number as usize == window.slots.len() {
                    let slot = self.allocate(end, number);
                    touched.created.push(slot);
                    window.slots.push(slot);
                }
                let slot = window.slots[number as usize];
                if self.touched.mark(slot) && (number as usize) < window.kept {
                    touched.first_since_kept.push(slot);
                }
                let known = (number as usize) < window.flushed || self.spilled[slot as usize];
                if ends.is_none() && self.unflushed.mark(slot) && known {
                    touched.first_since_flush.push(slot);
                }
                touched.slots.push(slot);
            }
            row = until;
        }
        self.windows = windows;
        touched
    }

    /// Gives slots to groups that are read back from disk. They are touched by nothing yet; `undo` forgets them again.
    pub fn load(&mut self, shape: &KeyShape, keys: &EncodedKeys, ends: Option<&[i64]>, rows: usize) -> Vec<u32> {
        let mut windows = std::mem::take(&mut self.windows);
        let slots = (0..rows).map(|row| {
            let end = ends.map_or(NO_WINDOW, |ends| ends[row]);
            let window = windows.entry(end).or_insert_with(|| Window::new(shape));
            let number = window.keys.intern(keys, row);
            assert_eq!(number as usize, window.slots.len(), "a group is read back only while it is not in memory");
            let slot = self.allocate(end, number);
            self.spilled[slot as usize] = true;
            window.spilled += 1;
            window.slots.push(slot);
            slot
        });
        let slots = slots.collect();
        self.windows = windows;
        slots
    }

    /// Whether a group is in memory.
    pub fn holds(&self, keys: &EncodedKeys, row: usize, end: i64) -> bool {
        self.find(keys, row, end).is_some()
    }

    pub fn find(&self, keys: &EncodedKeys, row: usize, end: i64) -> Option<u32> {
        let window = self.windows.get(&end)?;
        window.keys.find(keys, row).map(|number| window.slots[number as usize])
    }

    /// How many slots the next commit touches.
    pub fn touched_count(&self) -> usize {
        self.touched.list.len()
    }

    /// Whether nothing waits for `keep` or for a flush.
    pub fn is_clean(&self) -> bool {
        self.touched.list.is_empty() && self.unflushed.list.is_empty() && self.closed.is_empty()
    }

    fn allocate(&mut self, end: i64, number: u32) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.ends.push(0);
            self.numbers.push(0);
            self.event_times.push(0);
            self.rows.push(0);
            self.spilled.push(false);
            self.touched.set.push(false);
            self.unflushed.set.push(false);
            self.ends.len() as u32 - 1
        });
        let at = slot as usize;
        self.ends[at] = end;
        self.numbers[at] = number;
        self.event_times[at] = i64::MIN;
        self.rows[at] = 0;
        self.spilled[at] = false;
        slot
    }

    /// Slots ever given out: the length of every column.
    pub fn capacity(&self) -> usize {
        self.ends.len()
    }

    /// Slots of the window that ends at `end`, ordered by key.
    pub fn sorted(&self, end: i64) -> Vec<u32> {
        let Some(window) = self.windows.get(&end) else { return Vec::new() };
        window.keys.sorted().into_iter().map(|number| window.slots[number as usize]).collect()
    }

    /// Puts the windows that end at or before `edge` aside.
    pub fn close(&mut self, edge: Watermark) {
        self.edge = self.edge.max(edge);
        while let Some(first) = self.windows.first_entry().filter(|first| *first.key() <= edge.0) {
            self.closed.push(first.remove_entry());
        }
    }

    /// Slots touched since the last `keep` whose window is open, ordered by window.
    pub fn touched(&self) -> Vec<u32> {
        let end = |slot: &u32| self.ends[*slot as usize];
        let mut slots = self.touched.list.clone();
        slots.sort_by_key(end);
        let first_open = self.windows.first_key_value().map_or(i64::MAX, |(first, _)| *first);
        slots.drain(..slots.partition_point(|slot| end(slot) < first_open));
        slots
    }

    /// Slots touched since the last flush, in the order in which they were first touched.
    pub fn take_unflushed(&mut self) -> Vec<u32> {
        for window in self.windows.values_mut() {
            window.flushed = window.slots.len();
        }
        self.unflushed.take()
    }

    /// The commit succeeded, or everything in memory was restored. Returns the slots that it had touched.
    pub fn keep(&mut self) -> Vec<u32> {
        // Only windows that were touched can have grown.
        let mut last = None;
        let touched = self.touched.take();
        for slot in &touched {
            let end = self.ends[*slot as usize];
            if last.replace(end) != Some(end)
                && let Some(window) = self.windows.get_mut(&end)
            {
                window.kept = window.slots.len();
            }
        }
        for (_, window) in std::mem::take(&mut self.closed) {
            self.free.extend(window.slots);
        }
        self.kept_edge = self.edge;
        touched
    }

    /// Without windows: forgets the groups without a row once they are most. Returns the numbers that the others had, in order. Only
    /// right after `keep`, and while nothing is unflushed.
    pub fn forget(&mut self) -> Option<Vec<u32>> {
        let window = self.windows.get_mut(&NO_WINDOW)?;
        if window.slots.len() < 1024 || !self.unflushed.list.is_empty() {
            return None;
        }
        let present = |number: &u32| self.rows[window.slots[*number as usize] as usize] != 0;
        let numbers: Vec<u32> = (0..window.slots.len() as u32).filter(present).collect();
        if numbers.len() * 2 > window.slots.len() {
            return None;
        }
        window.keys = window.keys.subset(&numbers);
        let slots: Vec<u32> = numbers.iter().map(|number| window.slots[*number as usize]).collect();
        let gone = window.slots.iter().filter(|slot| self.rows[**slot as usize] == 0);
        self.free.extend(gone);
        for (number, slot) in slots.iter().enumerate() {
            self.numbers[*slot as usize] = number as u32;
        }
        (window.kept, window.flushed) = (slots.len(), slots.len());
        window.slots = slots;
        Some(numbers)
    }

    /// The commit failed: windows are as they were at the last `keep`; the caller brings back the contents of slots.
    pub fn undo(&mut self) {
        self.windows.extend(std::mem::take(&mut self.closed));
        let touched: Vec<i64> = self.touched.take().into_iter().map(|slot| self.ends[slot as usize]).collect();
        for end in touched {
            let Some(window) = self.windows.get_mut(&end) else { continue };
            window.keys.truncate(window.kept);
            let gone = window.slots.drain(window.kept..);
            let spilled = gone.as_slice().iter().filter(|slot| self.spilled[**slot as usize]).count();
            self.free.extend(gone);
            window.spilled -= spilled;
            window.flushed = window.kept;
            if window.kept == 0 {
                self.windows.remove(&end);
            }
        }
        self.unflushed.take();
        self.edge = self.kept_edge;
    }

    /// Everything restored counts as flushed: its results are in the sink.
    pub fn restored(&mut self) {
        self.take_unflushed();
        self.keep();
    }

    /// Estimated memory in bytes.
    pub fn size(&self) -> usize {
        let windows = self.windows.values().chain(self.closed.iter().map(|(_, window)| window));
        windows.map(|window| window.keys.size() + window.slots.capacity() * 4 + 64).sum::<usize>() + self.ends.capacity() * 31
    }
}

impl Window {
    fn new(shape: &KeyShape) -> Window {
        Window { keys: shape.table(), slots: Vec::new(), kept: 0, flushed: 0, spilled: 0 }
    }
}
