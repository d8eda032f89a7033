//! Keyed state: memory first, its deltas in a changelog, its image in sled.
//!
//! State = fold(changelog). A commit's *delta* holds the new absolute state of every key that the commit touched, so applying it
//! twice is harmless and results do not depend on where commits fell.
//!
//! Invariant: memory, sled and changelog can always be checked against one another.

pub mod changelog;
pub mod checkpoint;
pub mod memory;
pub mod spill;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use self::spill::Spills;
use crate::error::Result;
use crate::watermark::Watermark;

/// The state of one operator in one task. Rows of state are Arrow rows: the key's columns, `_key_group` (UInt8, of 256),
/// `_event_time` (Int64, the key's last event time in microseconds), `_deleted` (Boolean), then the state's columns.
pub trait Store: Send {
    /// Of deltas, slices and images. Changes only with the format version.
    fn schema(&self) -> SchemaRef;

    /// The absolute state of every key touched since the last `keep` or `undo`, removed ones with `_deleted`. Rows that left by
    /// watermark are not listed: the watermark in the commit record says it. `None`: nothing touched. May be called again
    /// (after a commit that failed) and then gives the same rows.
    fn delta(&mut self) -> Result<Option<RecordBatch>>;

    /// The next part of the rolling snapshot, about `rows` rows; `wrapped` when the round is complete.
    fn slice(&mut self, rows: usize) -> Result<Slice>;

    /// Takes rows of a delta, a slice or an image as they are (restore).
    fn apply(&mut self, rows: &RecordBatch) -> Result<()>;

    /// Drops rows whose time is over at the given edge watermark (restore: the last commit's watermark). Stores without windows
    /// do nothing.
    fn expire(&mut self, edge: Watermark);

    /// The commit is known to have succeeded: forgets the undo image.
    fn keep(&mut self);

    /// The commit is known to have failed: back to the state at the last `keep`.
    fn undo(&mut self);

    /// Forgets everything (before a restore).
    fn clear(&mut self);

    /// The whole state in batches of at most `rows` rows (a checkpoint), what is spilled included.
    fn image(&self, rows: usize) -> Result<Vec<RecordBatch>>;

    /// Keys held.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Estimated memory in bytes.
    fn size(&self) -> usize;

    /// Estimated memory that the next commit takes beside: what it has touched, before and after, as rows of state.
    fn pending(&self) -> usize {
        0
    }

    /// Moves all rows from memory to disk; they are read back when they are needed. Only right after `keep`, `apply` or `expire`. Changes
    /// nothing that a caller sees but `size`. Returns whether it could: a store that can't spill does nothing.
    ///
    /// # Errors
    /// `Failed` when the disk does not take them.
    fn spill(&mut self, spills: &Arc<Spills>) -> Result<bool> {
        let _ = spills;
        Ok(false)
    }

    fn spilled(&self) -> Spilled {
        Spilled::default()
    }
}

/// What of a store is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spilled {
    pub keys: usize,
    /// Memory that this takes all the same: filters and indexes.
    pub size: usize,
}

/// A part of the rolling snapshot.
#[derive(Debug)]
pub struct Slice {
    pub rows: Option<RecordBatch>,
    pub wrapped: bool,
}
