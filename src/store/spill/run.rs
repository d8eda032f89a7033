//! A sorted run: entries in blocks of a few kilobytes, never changed once written.
//!
//! ```text
//! block   entry after entry, ascending by key:   key length u32 | value length u32, or u32::MAX for a key that is gone | key | value
//! ```

use std::ops::Range;

use super::filter::Filter;
use super::{Blocks, hash};
use crate::error::{Error, Result};

/// A block is closed when it has so many bytes. sled keeps up to 16 values in a page, reads a page whole, and caches none that is larger than
/// 1/256 of its cache.
const BLOCK_BYTES: usize = 2048;
/// The index in memory has the first key of every so many blocks.
const INDEXED: usize = 2;
const GONE: u32 = u32::MAX;

pub struct Run {
    number: u32,
    /// How often its entries have been merged.
    pub level: u32,
    blocks: usize,
    /// For every [`INDEXED`]th block the beginning of its first key that is above the key before it, one after the other, and where each ends.
    firsts: Vec<u8>,
    ends: Vec<u32>,
    /// Blocks before this one were removed.
    from: usize,
    last: Vec<u8>,
    filter: Filter,
    /// Entries, keys that are gone among them.
    pub entries: usize,
}

impl Run {
    /// A key of the index: at or below all keys from its block on, above all before.
    fn first(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        &self.firsts[start..self.ends[at] as usize]
    }

    pub fn may_hold(&self, hash: u64) -> bool {
        self.filter.may_hold(hash)
    }

    /// A block from which on the key would stand.
    fn block_of(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.first(middle) <= key { low = middle + 1 } else { high = middle }
        }
        (low.saturating_sub(1) * INDEXED).max(self.from)
    }

    /// Removes the blocks all of whose keys are below `bound`. Returns whether nothing is left.
    pub fn remove_below(&mut self, blocks: &Blocks, bound: &[u8]) -> Result<bool> {
        let gone = if self.last.as_slice() < bound { self.blocks } else { self.block_of(bound) };
        for block in self.from..gone {
            blocks.remove(self.number, block as u32)?;
        }
        self.from = self.from.max(gone);
        Ok(self.from == self.blocks)
    }

    pub fn remove(&self, blocks: &Blocks) -> Result<()> {
        (self.from..self.blocks).try_for_each(|block| blocks.remove(self.number, block as u32))
    }

    /// Bytes in memory.
    pub fn size(&self) -> usize {
        self.filter.size() + self.firsts.capacity() + self.ends.capacity() * 4
    }
}

/// Writes a run from entries that come in order.
pub struct Writer<'a> {
    blocks: &'a Blocks,
    run: Run,
    block: Vec<u8>,
}

impl<'a> Writer<'a> {
    /// `entries`: about how many will come.
    pub fn new(blocks: &'a Blocks, number: u32, level: u32, entries: usize) -> Writer<'a> {
        let filter = Filter::with_room(entries);
        let (firsts, ends, last) = (Vec::new(), Vec::new(), Vec::new());
        let run = Run { number, level, blocks: 0, firsts, ends, from: 0, last, filter, entries: 0 };
        Writer { blocks, run, block: Vec::with_capacity(2 * BLOCK_BYTES) }
    }

    /// `None`: the key is gone.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        assert!(self.run.entries == 0 || self.run.last.as_slice() < key, "entries of a run come in order, each key once");
        if self.block.is_empty() && self.run.blocks.is_multiple_of(INDEXED) {
            let same = key.iter().zip(&self.run.last).take_while(|(a, b)| a == b).count();
            self.run.firsts.extend_from_slice(&key[..key.len().min(same + 1)]);
            self.run.ends.push(self.run.firsts.len() as u32);
        }
        self.block.extend((key.len() as u32).to_le_bytes());
        self.block.extend(value.map_or(GONE, |value| value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value.unwrap_or_default());
        self.run.last.clear();
        self.run.last.extend_from_slice(key);
        self.run.filter.insert(hash(key));
        self.run.entries += 1;
        if self.block.len() >= BLOCK_BYTES { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<()> {
        self.blocks.put(self.run.number, self.run.blocks as u32, &self.block)?;
        self.run.blocks += 1;
        self.block.clear();
        Ok(())
    }

    /// `None`: nothing came.
    pub fn finish(mut self) -> Result<Option<Run>> {
        if !self.block.is_empty() {
            self.close()?;
        }
        self.run.firsts.shrink_to_fit();
        self.run.ends.shrink_to_fit();
        Ok((self.run.entries > 0).then_some(self.run))
    }
}

/// A place in a run.
pub struct Cursor<'a> {
    run: &'a Run,
    blocks: &'a Blocks,
    block: usize,
    bytes: sled::IVec,
    /// Behind the entry at hand.
    next: usize,
    entry: Option<(Range<usize>, Option<Range<usize>>)>,
}

impl<'a> Cursor<'a> {
    /// At the first entry whose key is at or above `key`.
    pub fn at(run: &'a Run, blocks: &'a Blocks, key: &[u8]) -> Result<Cursor<'a>> {
        let mut cursor = Cursor { run, blocks, block: 0, bytes: sled::IVec::default(), next: 0, entry: None };
        cursor.seek(key)?;
        Ok(cursor)
    }

    /// Goes on to the first entry whose key is at or above `key`; never back.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        if self.run.from == self.run.blocks {
            return Ok(());
        }
        let block = self.run.block_of(key);
        if self.bytes.is_empty() || block > self.block {
            self.load(block)?;
            self.step()?;
        }
        while self.key().is_some_and(|found| found < key) {
            self.step()?;
        }
        Ok(())
    }

    fn load(&mut self, block: usize) -> Result<()> {
        (self.block, self.next) = (block, 0);
        self.bytes = self.blocks.get(self.run.number, block as u32)?;
        Ok(())
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.entry.as_ref().map(|(key, _)| &self.bytes[key.clone()])
    }

    /// Of the entry at hand; `None`: its key is gone.
    pub fn value(&self) -> Option<&[u8]> {
        let (_, value) = self.entry.as_ref()?;
        value.clone().map(|value| &self.bytes[value])
    }

    /// To the next entry.
    pub fn step(&mut self) -> Result<()> {
        if self.next == self.bytes.len() {
            if self.block + 1 >= self.run.blocks {
                self.entry = None;
                return Ok(());
            }
            self.load(self.block + 1)?;
        }
        self.entry = Some(self.parse().ok_or_else(|| Error::corrupt("a block of spilled state is damaged"))?);
        Ok(())
    }

    fn parse(&mut self) -> Option<(Range<usize>, Option<Range<usize>>)> {
        let number = |at: usize| self.bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (key, value) = (number(self.next)? as usize, number(self.next + 4)?);
        let start = self.next + 8;
        let key = start..start + key;
        let value = (value != GONE).then(|| key.end..key.end + value as usize);
        self.next = value.as_ref().map_or(key.end, |value| value.end);
        (self.next <= self.bytes.len()).then_some((key, value))
    }
}
