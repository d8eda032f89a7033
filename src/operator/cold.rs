//! Keys on disk, each with its rows of state: what a store by key does when it has outgrown its share of memory.
//!
//! A store moves all its keys to disk at once, between two commits. A key that is needed is read back, and is in memory from then on as if
//! it had never left; the copy on disk is old as soon as the key changes, and is replaced, or marked as gone, when the store spills again.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;

use super::evaluate::broken;
use super::key::{EncodedKeys, KeyShape, KeyTable};
use super::rows::RowCodec;
use crate::error::{Error, Result};
use crate::store::spill::{Spill, Spills};

pub struct Cold {
    spill: Spill,
    codec: RowCodec,
    /// Rows on disk that have not been marked as gone, those whose keys are in memory too included.
    rows: usize,
}

/// Some keys on disk.
pub struct ColdPart {
    /// Their rows of state, key by key, and how many each key has.
    pub rows: RecordBatch,
    pub counts: Vec<usize>,
    /// Where to go on; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// A key in memory on its way to disk.
pub struct Leaving {
    pub number: u32,
    /// Rows that it has now, and that it had on disk when it was read back.
    pub rows: usize,
    pub known: usize,
}

impl Cold {
    pub fn new(spills: &Arc<Spills>, schema: SchemaRef) -> Cold {
        Cold { spill: Spill::new(spills), codec: RowCodec::new(schema), rows: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.spill.is_empty()
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes in memory.
    pub fn size(&self) -> usize {
        self.spill.size()
    }

    /// The rows of those of the given keys that are on disk and not in `table`, key by key, and how many each key has.
    pub fn recall(&self, keys: &EncodedKeys, count: usize, table: &KeyTable) -> Result<Option<(RecordBatch, Vec<usize>)>> {
        let mut wanted: Vec<Vec<u8>> = Vec::new();
        let mut key = Vec::new();
        for row in (0..count).filter(|row| table.find(keys, *row).is_none()) {
            key.clear();
            keys.write(row, &mut key);
            if self.spill.may_hold(&key) {
                wanted.push(key.clone());
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        let found: Vec<Vec<u8>> = self.spill.get(&wanted)?.into_iter().flatten().collect();
        if found.is_empty() { Ok(None) } else { self.decode(&found).map(Some) }
    }

    fn decode(&self, values: &[Vec<u8>]) -> Result<(RecordBatch, Vec<usize>)> {
        let (mut rows, mut counts) = (Vec::with_capacity(values.len()), Vec::with_capacity(values.len()));
        for value in values {
            let before = rows.len();
            let mut rest = value.as_slice();
            while !rest.is_empty() {
                let row = rest.split_first_chunk::<4>().and_then(|(length, rest)| {
                    let length = u32::from_le_bytes(*length) as usize;
                    rest.split_at_checked(length)
                });
                let (row, behind) = row.ok_or_else(|| Error::corrupt("a key of spilled state is damaged"))?;
                rows.push(row);
                rest = behind;
            }
            counts.push(rows.len() - before);
        }
        Ok((self.codec.decode(rows.into_iter())?, counts))
    }

    /// Writes keys of `table`, in the order of [`KeyTable::sorted`]. `export` gives the rows of state of some of them, key by key.
    pub fn write(
        &mut self,
        shape: &KeyShape,
        table: &KeyTable,
        leaving: &[Leaving],
        export: impl Fn(&[u32]) -> Result<RecordBatch>,
    ) -> Result<()> {
        let Cold { spill, codec, rows } = self;
        let (mut key, mut value) = (Vec::new(), Vec::new());
        spill.write(leaving.len(), |push| {
            for part in leaving.chunks(WRITTEN_KEYS) {
                let numbers: Vec<u32> = part.iter().filter(|key| key.rows > 0).map(|key| key.number).collect();
                let mut encoded: Vec<Vec<u8>> = Vec::new();
                if !numbers.is_empty() {
                    codec.encode(&export(&numbers)?, |_, row| {
                        encoded.push(row.to_vec());
                        Ok(())
                    })?;
                }
                assert_eq!(encoded.len(), part.iter().map(|key| key.rows).sum::<usize>(), "every row of a key is written");
                let mut encoded = encoded.into_iter();
                for leaves in part {
                    key.clear();
                    table.write(shape, leaves.number, &mut key);
                    value.clear();
                    for row in encoded.by_ref().take(leaves.rows) {
                        value.extend((row.len() as u32).to_le_bytes());
                        value.extend(row);
                    }
                    *rows = *rows + leaves.rows - leaves.known;
                    if leaves.rows > 0 || leaves.known > 0 {
                        push(&key, (leaves.rows > 0).then_some(value.as_slice()))?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Keys from `from` on, with at least `rows` rows if there are so many.
    pub fn part(&self, from: &[u8], rows: usize) -> Result<Option<ColdPart>> {
        let mut scan = self.spill.scan(from)?;
        let (mut values, mut last, mut bytes) = (Vec::new(), None, 0);
        while values.len() < rows && bytes < rows * 1024 {
            let Some((key, value)) = scan.next()? else { break };
            bytes += value.len();
            values.push(value);
            last = Some(key);
        }
        let Some(mut next) = last else { return Ok(None) };
        next.push(0);
        let (found, counts) = self.decode(&values)?;
        let more = values.len() >= rows || bytes >= rows * 1024;
        Ok(Some(ColdPart { rows: found, counts, next: more.then_some(next) }))
    }
}

const WRITTEN_KEYS: usize = 8192;

/// Where a rolling snapshot goes on: through memory, then through what is on disk. What is in memory later than that was touched in this
/// round, and is in its delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The number of a key; `None`: memory is through.
    pub memory: Option<usize>,
    pub cold: Vec<u8>,
}

impl Cursor {
    pub fn start() -> Cursor {
        Cursor { memory: Some(0), cold: Vec::new() }
    }
}

/// A part of the rolling snapshot from disk.
pub struct ColdSlice {
    /// Rows of keys that are not in memory.
    pub alone: Option<RecordBatch>,
    /// Keys that are in memory too: what they have there counts.
    pub numbers: Vec<u32>,
    pub next: Option<Vec<u8>>,
}

impl Cold {
    /// Keys from `from` on, sorted out by whether `table` has them.
    pub fn slice(&self, shape: &KeyShape, table: &KeyTable, from: &[u8], rows: usize) -> Result<ColdSlice> {
        let Some(part) = self.part(from, rows)? else { return Ok(ColdSlice { alone: None, numbers: Vec::new(), next: None }) };
        let keys = shape.encode(&part.rows.columns()[..shape.types().len()])?;
        let (mut alone, mut numbers, mut row) = (Vec::with_capacity(part.rows.num_rows()), Vec::new(), 0);
        for count in part.counts {
            let number = table.find(&keys, row);
            numbers.extend(number);
            alone.extend(std::iter::repeat_n(number.is_none(), count));
            row += count;
        }
        let alone = filter_record_batch(&part.rows, &BooleanArray::from(alone)).map_err(|e| broken("filter", e))?;
        Ok(ColdSlice { alone: Some(alone).filter(|rows| rows.num_rows() > 0), numbers, next: part.next })
    }

    /// Every key that is on disk alone.
    pub fn image(&self, shape: &KeyShape, table: &KeyTable, rows: usize) -> Result<Vec<RecordBatch>> {
        let (mut image, mut from) = (Vec::new(), Some(Vec::new()));
        while let Some(key) = from {
            let slice = self.slice(shape, table, &key, rows)?;
            image.extend(slice.alone);
            from = slice.next;
        }
        Ok(image)
    }
}

/// Rows of state from memory and from disk as one batch; `None` when there are none.
pub fn together(schema: &SchemaRef, parts: impl IntoIterator<Item = RecordBatch>) -> Result<Option<RecordBatch>> {
    let mut parts: Vec<RecordBatch> = parts.into_iter().filter(|rows| rows.num_rows() > 0).collect();
    match parts.len() {
        0 | 1 => Ok(parts.pop()),
        _ => concat_batches(schema, &parts).map(Some).map_err(|e| broken("rows of state", e)),
    }
}
