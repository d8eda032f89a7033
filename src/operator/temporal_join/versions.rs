//! The versions of a table by key, ordered by (effective time, offset).
//!
//! A version leaves once another one of its key is at or below the edge watermark; a tombstone that is the newest there leaves with
//! all before it, unless rows may join the first version: then it has to stay, or what follows would look like the first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use hashbrown::HashMap;

use crate::error::Result;
use crate::operator::cold::{Cold, Leaving};
use crate::operator::evaluate::broken;
use crate::operator::held::{Held, NONE};
use crate::operator::key::{EncodedKeys, KeyShape, KeyTable};
use crate::record::Batch;
use crate::watermark::Watermark;

/// One record of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The larger of the record's event time and its row watermark.
    pub effective: i64,
    pub offset: i64,
    pub partition: i32,
    pub row_watermark: i64,
    /// Number of its row; [`NONE`] for a tombstone.
    pub row: u32,
}

impl Version {
    fn order(&self) -> (i64, i64, i32) {
        (self.effective, self.offset, self.partition)
    }
}

pub struct Versions {
    pub shape: KeyShape,
    pub keys: KeyTable,
    pub held: Held,
    /// By the key's number, ascending.
    pub by_key: Vec<Vec<Version>>,
    /// By the key's number: how many versions it has on disk, as it was when it was read back.
    pub spilled: Vec<u32>,
    /// Keys on disk. What the edge has passed there goes when the key is read back, at the latest when the rolling snapshot comes to it.
    pub cold: Option<Cold>,
    /// When a version becomes the newest at or below the edge, one before it may go: effective time, key.
    due: BinaryHeap<Reverse<(i64, u32)>>,
    first_known: bool,
    /// Keys and what they had at the last `keep`; whether versions came since (else some only left).
    touched: HashMap<u32, Touched>,
    kept_keys: usize,
    /// Versions, and keys without one.
    count: usize,
    empty: usize,
}

struct Touched {
    before: Vec<Version>,
    grown: bool,
    /// The last tombstone that took all before it along.
    over: Option<Version>,
}

impl Versions {
    pub fn new(shape: KeyShape, rows: SchemaRef, first_known: bool) -> Versions {
        Versions {
            keys: shape.table(),
            shape,
            held: Held::new(rows),
            by_key: Vec::new(),
            spilled: Vec::new(),
            cold: None,
            due: BinaryHeap::new(),
            first_known,
            touched: HashMap::new(),
            kept_keys: 0,
            count: 0,
            empty: 0,
        }
    }

    /// Takes records of the table: their keys and the columns that are joined. A record with a NULL in its key can't be joined.
    pub fn push(&mut self, batch: &Batch, keys: &[ArrayRef], rows: RecordBatch) -> Result<()> {
        let joins = |row: usize| keys.iter().all(|key| key.is_valid(row));
        let upserts: Vec<bool> = (0..batch.num_rows()).map(|row| batch.weight(row) > 0 && joins(row)).collect();
        let rows = match upserts.contains(&false) {
            true => filter_record_batch(&rows, &BooleanArray::from(upserts.clone())).map_err(|e| broken("filter", e))?,
            false => rows,
        };
        let mut numbers = self.held.add(rows).into_iter();
        let encoded = self.shape.encode(keys)?;
        for (row, upsert) in upserts.into_iter().enumerate() {
            if !joins(row) {
                continue;
            }
            let row_watermark = batch.row_watermarks.value(row);
            let version = Version {
                effective: batch.event_times.value(row).max(row_watermark),
                offset: batch.offsets.value(row),
                partition: batch.partition.0,
                row_watermark,
                row: if upsert { numbers.next().expect("every upsert is held") } else { NONE },
            };
            let key = self.intern(&encoded, row);
            self.insert(key, version);
        }
        Ok(())
    }

    pub fn intern(&mut self, encoded: &EncodedKeys, row: usize) -> u32 {
        let key = self.keys.intern(encoded, row);
        if key as usize == self.by_key.len() {
            self.by_key.push(Vec::new());
            self.spilled.push(0);
            self.empty += 1;
        }
        key
    }

    /// Takes a key that was read back from disk with its versions. Nothing has touched it yet; `undo` forgets it again.
    pub fn load(&mut self, encoded: &EncodedKeys, row: usize, versions: Vec<Version>) {
        let key = self.keys.intern(encoded, row);
        assert_eq!(key as usize, self.by_key.len(), "a key is read back only while it is not in memory");
        self.count += versions.len();
        self.spilled.push(versions.len() as u32);
        self.by_key.push(versions);
        self.schedule(key, 0, usize::MAX);
    }

    /// How many keys and rows are in memory, for [`Versions::forget`].
    pub fn mark(&self) -> (usize, usize) {
        (self.keys.len(), self.held.added().len())
    }

    /// Forgets what was read back since the mark; nothing else may have happened.
    pub fn forget(&mut self, (keys, rows): (usize, usize)) {
        self.count -= self.by_key[keys..].iter().map(Vec::len).sum::<usize>();
        self.keys.truncate(keys);
        self.by_key.truncate(keys);
        self.spilled.truncate(keys);
        self.due.retain(|Reverse((_, key))| (*key as usize) < keys);
        self.held.forget(rows);
    }

    /// Whether the edge has passed what `versions` of one key begin with, given as effective times, ascending, and whether each is a tombstone.
    pub fn is_over(&self, versions: impl Iterator<Item = (i64, bool)>, edge: Watermark) -> bool {
        let (mut below, mut tombstone) = (0, false);
        for (_, removes) in versions.take_while(|(effective, _)| *effective <= edge.0) {
            (below, tombstone) = (below + 1, removes);
        }
        below > 1 || (below == 1 && tombstone && !self.first_known)
    }

    /// All keys, in order.
    pub fn leaving(&self) -> Vec<Leaving> {
        let leaving = |number: u32| Leaving {
            number,
            rows: self.by_key[number as usize].len(),
            known: self.spilled[number as usize] as usize,
        };
        self.keys.sorted().into_iter().map(leaving).collect()
    }

    /// All keys are on disk now.
    pub fn left(&mut self) {
        self.keys = self.shape.table();
        self.held.clear();
        (self.by_key, self.spilled, self.due) = (Vec::new(), Vec::new(), BinaryHeap::new());
        (self.kept_keys, self.count, self.empty) = (0, 0, 0);
    }

    fn number_anew(&mut self, others: &[u32]) {
        self.keys = self.keys.subset(others);
        self.by_key = others.iter().map(|key| std::mem::take(&mut self.by_key[*key as usize])).collect();
        self.spilled = others.iter().map(|key| self.spilled[*key as usize]).collect();
        self.kept_keys = others.len();
        self.empty = self.by_key.iter().filter(|versions| versions.is_empty()).count();
        self.due.clear();
        (0..others.len() as u32).for_each(|key| self.schedule(key, 0, usize::MAX));
    }

    /// Versions on disk alone.
    pub fn cold_len(&self) -> usize {
        let in_memory: usize = self.spilled.iter().map(|versions| *versions as usize).sum();
        self.cold.as_ref().map_or(0, |cold| cold.rows() - in_memory)
    }

    pub fn touched_count(&self) -> usize {
        self.touched.len()
    }

    /// Whether the version was new.
    pub fn insert(&mut self, key: u32, version: Version) -> bool {
        let versions = &self.by_key[key as usize];
        let at = versions.partition_point(|known| known.order() < version.order());
        if versions.get(at).is_some_and(|known| known.order() == version.order()) {
            return false;
        }
        self.touch(key).grown = true;
        let versions = &mut self.by_key[key as usize];
        self.empty -= usize::from(versions.is_empty());
        versions.insert(at, version);
        self.count += 1;
        // The version itself, and the one that now has it before it.
        self.schedule(key, at, 2);
        true
    }

    fn touch(&mut self, key: u32) -> &mut Touched {
        let before = &self.by_key[key as usize];
        self.touched.entry(key).or_insert_with(|| Touched { before: before.clone(), grown: false, over: None })
    }

    /// Notes when versions `from..from + count` of the key let something go: those that have one before them, and tombstones.
    fn schedule(&mut self, key: u32, from: usize, count: usize) {
        for (at, version) in self.by_key[key as usize].iter().enumerate().skip(from).take(count) {
            if at > 0 || (version.row == NONE && !self.first_known) {
                self.due.push(Reverse((version.effective, key)));
            }
        }
    }

    /// The row that a row at `time` joins.
    pub fn at(&self, key: u32, time: i64) -> Option<u32> {
        let versions = &self.by_key[key as usize];
        let version = match versions.partition_point(|version| version.effective <= time) {
            0 if !self.first_known => return None,
            // Only versions that had certainly arrived when the row could be released, or it would depend on the interleaving.
            0 => versions.iter().find(|version| version.row_watermark <= time)?,
            after => &versions[after - 1],
        };
        (version.row != NONE).then_some(version.row)
    }

    /// Drops what no row at or above `edge` can join.
    pub fn prune(&mut self, edge: Watermark) {
        while let Some(Reverse((_, key))) = self.due.peek().copied().filter(|Reverse((time, _))| *time <= edge.0) {
            self.due.pop();
            let versions = &self.by_key[key as usize];
            let below = versions.partition_point(|version| version.effective <= edge.0);
            let over = below.checked_sub(1).is_some_and(|newest| versions[newest].row == NONE && !self.first_known);
            let gone = if over { below } else { below.saturating_sub(1) };
            if gone > 0 {
                let newest = versions[below - 1];
                let touched = self.touch(key);
                touched.over = if over { Some(newest) } else { touched.over };
                self.count -= gone;
                let versions = &mut self.by_key[key as usize];
                for version in versions.drain(..gone).filter(|version| version.row != NONE) {
                    self.held.remove(version.row);
                }
                self.empty += usize::from(versions.is_empty());
            }
        }
    }

    /// All versions of the keys to which some came since the last `keep`. A tombstone that came and went is among them: what it took
    /// along may have been written before.
    pub fn grown(&self) -> Vec<(u32, Version)> {
        let mut keys: Vec<u32> = self.touched.iter().filter(|(_, touched)| touched.grown).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        let over = |key: u32| self.touched[&key].over.map(|version| (key, version));
        keys.into_iter().flat_map(|key| over(key).into_iter().chain(self.of(key))).collect()
    }

    /// The versions of a key.
    pub fn of(&self, key: u32) -> impl Iterator<Item = (u32, Version)> {
        self.by_key[key as usize].iter().map(move |version| (key, *version))
    }

    /// The commit succeeded. Returns the new numbers of the keys, in order, if they were numbered anew.
    pub fn keep(&mut self) -> Option<Vec<u32>> {
        self.touched.clear();
        self.held.keep();
        self.kept_keys = self.keys.len();
        if self.empty < 1024 || self.empty * 2 < self.keys.len() {
            return None;
        }
        // A key that is on disk too has to be known until it is gone there.
        let needed = |key: &u32| !self.by_key[*key as usize].is_empty() || self.spilled[*key as usize] > 0;
        let live: Vec<u32> = (0..self.keys.len() as u32).filter(needed).collect();
        self.number_anew(&live);
        Some(live)
    }

    /// The commit failed.
    pub fn undo(&mut self) {
        let touched: Vec<(u32, Touched)> = self.touched.drain().collect();
        self.due.retain(|Reverse((_, key))| (*key as usize) < self.kept_keys);
        for (key, touched) in touched {
            self.by_key[key as usize] = touched.before;
            if (key as usize) < self.kept_keys {
                self.schedule(key, 0, usize::MAX);
            }
        }
        self.keys.truncate(self.kept_keys);
        self.by_key.truncate(self.kept_keys);
        self.spilled.truncate(self.kept_keys);
        // Keys that were read back had versions before they were touched, and are gone from memory all the same.
        self.count = self.by_key.iter().map(Vec::len).sum();
        self.empty = self.by_key.iter().filter(|versions| versions.is_empty()).count();
        self.held.undo();
    }

    pub fn clear(&mut self) {
        self.keys = self.shape.table();
        self.held.clear();
        self.by_key.clear();
        self.spilled.clear();
        self.cold = None;
        self.due.clear();
        self.touched.clear();
        (self.kept_keys, self.count, self.empty) = (0, 0, 0);
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Estimated memory in bytes.
    pub fn size(&self) -> usize {
        let versions = self.count * size_of::<Version>() + self.by_key.capacity() * size_of::<Vec<Version>>();
        versions + self.keys.size() + self.held.size() + self.due.capacity() * 16
    }
}
