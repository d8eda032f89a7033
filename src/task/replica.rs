//! One store on its way: from the local checkpoint if it reaches into the changelog, then from the changelog, up to wherever it is wanted.
//!
//! A restore reads to the changelog's high watermark and is done; a standby goes on reading, and a restore takes it from there.

use std::time::Duration;

use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
use crate::log::{Isolation, Log, Reader};
use crate::record::{Chunk, NextOffset, OffsetVector, TopicPartition};
use crate::store::Store;
use crate::store::changelog::{CommitRecord, Fold};
use crate::store::memory::{self, Memory};
use crate::task::plan::{Plan, TaskId};
use crate::task::restore::Sources;
use crate::task::watch::Watch;
use crate::watermark::Watermark;

const POLL: Duration = Duration::from_millis(200);
/// Messages hold up to a megabyte.
pub const POLL_RECORDS: usize = 8;
/// A restore that hears nothing for so long begins anew.
const SILENCE: Duration = Duration::from_secs(60);
/// After so long without a record it is held up.
const HELD_UP: Duration = Duration::from_secs(5);

/// What was folded into a store, and up to where.
pub struct Replica {
    pub partition: TopicPartition,
    fold: Fold,
    pub position: NextOffset,
    /// Rows taken from the local checkpoint; none if there was none of use.
    pub from_checkpoint: u64,
    /// The local checkpoint is part of it.
    on_disk: bool,
    /// The commit that the local checkpoint is of.
    saved: Option<u64>,
}

/// What a local checkpoint lacks to be as the store is.
pub enum Basis {
    /// It is there; these rows came later.
    Tail(Tail),
    /// There is none of use.
    Image(Tail),
    /// There is none, and there is to be none: the store is larger than its share of memory.
    Gone,
}

impl Basis {
    /// Estimated memory in bytes.
    pub fn size(&self) -> usize {
        match self {
            Basis::Tail(tail) | Basis::Image(tail) => tail.rows.iter().map(RecordBatch::get_array_memory_size).sum(),
            Basis::Gone => 0,
        }
    }
}

/// Rows as of a commit.
pub struct Tail {
    pub rows: Vec<RecordBatch>,
    /// `None`: there was no commit yet.
    pub commit: Option<CommitRecord>,
    pub changelog: NextOffset,
}

/// Rows of a batch of an image.
pub const IMAGE_ROWS: usize = 8_192;
/// A tail of more rows than this, and than the store has, is no gain over an image.
const LONG_TAIL: usize = 65_536;

impl Replica {
    /// Takes the local checkpoint, if there is one of use. `end` is where the changelog ends.
    pub fn begin(
        plan: &Plan,
        task: TaskId,
        id: &str,
        end: NextOffset,
        sources: &Sources,
        store: &mut dyn Store,
        watch: &Watch,
    ) -> Result<Replica> {
        let partition = plan.names.changelog(id)?.partition(task.number);
        let start = sources.log.start_offsets(std::slice::from_ref(&partition))?[&partition];
        store.clear();
        let generation = plan.names.generation;
        let mut replica =
            Replica { partition, fold: Fold::new(generation), position: start, from_checkpoint: 0, on_disk: false, saved: None };
        let Some(checkpoints) = sources.checkpoints.as_ref().filter(|_| sources.trusted) else { return Ok(replica) };
        let name = task.to_string();
        let Some(reading) = checkpoints.read(&name, id)? else { return Ok(replica) };
        let (commit, position) = (&reading.checkpoint.commit, reading.checkpoint.changelog);
        if position < start || position > end || commit.generation != generation {
            let partition = &replica.partition;
            tracing::info!(%partition, %position, %start, "the local checkpoint does not reach into the changelog: it is left out");
            return Ok(replica);
        }
        watch.expect(reading.checkpoint.parts.into());
        for part in 0..reading.checkpoint.parts {
            watch.check()?;
            let Some(batches) = reading.part(part)? else {
                store.clear();
                replica.from_checkpoint = 0;
                return Ok(replica);
            };
            for rows in &batches {
                store.apply(rows)?;
                relieve(store, sources)?;
                replica.from_checkpoint += rows.num_rows() as u64;
                watch.take_rows(rows.num_rows());
            }
            watch.advance(1);
        }
        store.expire(commit.edge);
        (replica.position, replica.on_disk, replica.saved) = (position, true, Some(commit.number));
        replica.fold = Fold::after(commit.clone());
        replica.fold.keep_tail();
        Ok(replica)
    }

    /// A reader of the changelog from here on.
    pub fn reader(&self, log: &dyn Log) -> Result<Box<dyn Reader>> {
        log.reader(Isolation::Committed, &OffsetVector::from([(self.partition.clone(), self.position)]))
    }

    /// Takes what a reader brought.
    pub fn take(&mut self, chunk: &Chunk, store: &mut dyn Store, sources: &Sources) -> Result<()> {
        self.fold.take(chunk, store)?;
        relieve(store, sources)?;
        if self.fold.tail_bytes() > sources.memory.of_local() {
            // The local copy is too far behind to be brought up to date.
            self.fold.drop_tail();
            self.on_disk = false;
        }
        self.position = self.position.max(chunk.next);
        Ok(())
    }

    /// Reads on up to `end`, where a commit must be whole.
    pub fn read_to(&mut self, end: NextOffset, sources: &Sources, store: &mut dyn Store, watch: &Watch) -> Result<()> {
        let (log, clock) = (sources.log.as_ref(), sources.log.clock());
        if self.position < end {
            let mut shown = self.position;
            watch.expect((end.0 - shown.0) as u64);
            let mut reader = self.reader(log)?;
            let mut heard = clock.now();
            while self.position < end {
                watch.check()?;
                let chunks = reader.poll(POLL, POLL_RECORDS);
                for chunk in chunks.map_err(|error| trimmed(log, &self.partition, self.position, error))? {
                    let before = self.fold.taken_rows();
                    self.take(&chunk, store, sources)?;
                    watch.take_rows((self.fold.taken_rows() - before) as usize);
                    heard = clock.now();
                }
                // Behind markers and aborted records, too.
                self.position = self.position.max(reader.positions()[&self.partition]);
                watch.advance((self.position.min(end).0 - shown.0).max(0) as u64);
                shown = self.position.min(end);
                watch.hold_up(clock.since(heard) >= HELD_UP);
                if clock.since(heard) > SILENCE {
                    return Err(self.silent(end));
                }
            }
            watch.hold_up(false);
        }
        if self.fold.unfinished() {
            return Err(Error::corrupt(format!("{}: the changelog ends within a commit, at offset {end}", self.partition))
                .hint("rebuild with \"tidemill reset\" and a run from the earliest offset"));
        }
        Ok(())
    }

    fn silent(&self, end: NextOffset) -> Error {
        let (partition, at) = (&self.partition, self.position);
        let message = format!("{partition}: nothing was read for {} s at offset {at}, before the end {end}", SILENCE.as_secs());
        Error::away(message)
            .hint("an open transaction of a killed process may hold it back until its timeout; the restore is tried again")
    }

    /// The record of the last commit.
    pub fn last(&self) -> Option<&CommitRecord> {
        self.fold.last()
    }

    /// The operator's edge watermark after the last commit.
    pub fn edge(&self) -> Watermark {
        self.last().map_or(Watermark::MIN, |record| record.edge)
    }

    pub fn from_changelog(&self) -> u64 {
        self.fold.taken_rows()
    }

    /// What the local checkpoint lacks. Between two commits only.
    pub fn take_basis(&mut self, store: &dyn Store) -> Result<Basis> {
        let spilled = store.spilled().keys > 0;
        if spilled && !self.on_disk {
            return Ok(Basis::Gone);
        }
        let (commit, changelog) = (self.fold.last().cloned(), self.position);
        self.saved = commit.as_ref().map(|commit| commit.number);
        let rows = self.fold.take_tail();
        let many = rows.iter().map(RecordBatch::num_rows).sum::<usize>() > store.len().max(LONG_TAIL);
        if std::mem::replace(&mut self.on_disk, true) && (!many || spilled) {
            return Ok(Basis::Tail(Tail { rows, commit, changelog }));
        }
        drop(rows);
        self.fold.keep_tail();
        Ok(Basis::Image(Tail { rows: store.image(IMAGE_ROWS)?, commit, changelog }))
    }

    /// Whether it has taken a commit since the local checkpoint was last brought up to it.
    pub fn has_moved(&self) -> bool {
        self.last().map(|record| record.number) != self.saved
    }

    /// Whether the last message taken was the last of a commit.
    pub fn is_whole(&self) -> bool {
        !self.fold.unfinished()
    }
}

/// A former owner that slept may trim the changelog as it wakes: what went was written again before, so the restore begins anew.
fn trimmed(log: &dyn Log, partition: &TopicPartition, at: NextOffset, error: Error) -> Error {
    match log.start_offsets(std::slice::from_ref(partition)) {
        Ok(start) if start[partition] > at => {
            Error::away(format!("{partition}: it was trimmed to {} while it was read at {at}", start[partition]))
        }
        _ => error,
    }
}

/// What a store can't hold goes to disk while it is read.
fn relieve(store: &mut dyn Store, sources: &Sources) -> Result<()> {
    spill_above(store, &sources.memory, sources.room)
}

/// Moves a store that has more than `room` bytes of rows to disk.
pub fn spill_above(store: &mut dyn Store, memory: &Memory, room: usize) -> Result<()> {
    let rows = store.size().saturating_sub(store.spilled().size);
    if rows > room || (rows > room / 8 && memory.is_short()) {
        store.spill(memory.spills())?;
        memory::trim();
    }
    Ok(())
}
