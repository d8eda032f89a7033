//! The local copy of a task's state in sled.
//!
//! One database per pipeline generation. A checkpoint is an image of a store and the deltas that were made since, in parts. A new image is
//! written beside the one before, a delta behind the last part; one key makes them valid, and only then what is replaced goes: a crash at any
//! moment leaves one whole checkpoint. It is a cache of the changelog: one that is damaged is forgotten with a warning, and the changelog is
//! read instead.
//!
//! Invariant: parts are rows of state as deltas have them (absolute), so those of a later part hold, and one taken twice is harmless.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::changelog::{CommitRecord, from_ipc, to_ipc};
use crate::error::{Error, Kind, Result};
use crate::record::NextOffset;

/// The format of databases that this version writes and reads.
const FORMAT: u32 = 1;
/// Of a part with deltas, about.
const PART_ROWS: usize = 16_384;
/// A database that was closed in this process keeps its lock until sled's own threads have let it go: a pipeline that comes back (fenced, or taken
/// from it and given again) waits for that. Another process, which `job::state` notices before this, keeps it for longer.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// The checkpoints of the tasks of one pipeline generation.
pub struct Checkpoints {
    db: sled::Db,
    dir: PathBuf,
    /// Held by whoever reads parts; taken by whoever is about to remove some.
    parts: RwLock<()>,
}

/// A store as of one commit: which parts are valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    epoch: u64,
    pub parts: u32,
    pub commit: CommitRecord,
    /// Behind the commit's last message in the changelog. If the changelog now starts above it, deletions may be missing from the
    /// parts: discard it.
    pub changelog: NextOffset,
    /// Rows of the image, and of the deltas behind it.
    #[serde(default)]
    pub image_rows: u64,
    #[serde(default)]
    pub delta_rows: u64,
}

/// A checkpoint that is being read: none of its parts goes meanwhile.
pub struct Reading<'a> {
    pub checkpoint: Checkpoint,
    checkpoints: &'a Checkpoints,
    task: &'a str,
    store: &'a str,
    _parts: RwLockReadGuard<'a, ()>,
}

impl Reading<'_> {
    /// The rows of a part; `None` (with a warning) when it is damaged: then none of the checkpoint is of use.
    ///
    /// # Errors
    /// `Failed` or `Corrupt` with the folder, when the database can't be read at all.
    pub fn part(&self, part: u32) -> Result<Option<Vec<RecordBatch>>> {
        let Reading { checkpoint, checkpoints, task, store, .. } = self;
        let key = Key::Part { task, store, epoch: checkpoint.epoch, part }.bytes();
        let value = checkpoints.db.get(key).map_err(|e| failed(&checkpoints.dir, e))?;
        match value.as_deref().map_or(Err(Error::corrupt("it is missing")), |v| from_ipc(checked(v)?)) {
            Ok(rows) => Ok(Some(rows)),
            Err(error) => {
                let dir = checkpoints.dir.display();
                warn!(%dir, task, store, part, %error, "the checkpoint is damaged and not used, the changelog has the state");
                Ok(None)
            }
        }
    }
}

/// Every key of the database.
enum Key<'a> {
    /// Value: the format, u32 BE.
    Format,
    /// Value: CRC-32 of the rest (u32 BE), then a [`Checkpoint`] as JSON.
    Current { task: &'a str, store: &'a str },
    /// Value: CRC-32 of the rest (u32 BE), then an Arrow IPC stream.
    Part { task: &'a str, store: &'a str, epoch: u64, part: u32 },
}

impl Key<'_> {
    fn bytes(&self) -> Vec<u8> {
        match *self {
            Key::Format => b"format".to_vec(),
            Key::Current { task, store } => named(b"current", task, store),
            Key::Part { task, store, epoch, part } => {
                let mut bytes = named(b"part", task, store);
                bytes.extend(epoch.to_be_bytes());
                bytes.extend(part.to_be_bytes());
                bytes
            }
        }
    }
}

/// Names behind their lengths, so that no name is another's beginning.
fn named(kind: &[u8], task: &str, store: &str) -> Vec<u8> {
    let mut bytes = kind.to_vec();
    for name in [task, store] {
        bytes.extend((name.len() as u32).to_be_bytes());
        bytes.extend(name.as_bytes());
    }
    bytes
}

impl Checkpoints {
    /// Opens or makes the database.
    ///
    /// # Errors
    /// `Config` when another process holds it or its format is not known, `Corrupt` when sled can't read it: then it can be deleted.
    pub fn open(dir: &Path, cache_bytes: usize) -> Result<Checkpoints> {
        let failed = |e| failed(dir, e);
        let config = sled::Config::new().path(dir).cache_capacity(cache_bytes as u64).flush_every_ms(None);
        let began = Instant::now();
        let db = loop {
            match config.open() {
                Err(sled::Error::Io(io)) if is_lock(&io) && began.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_RETRY),
                opened => break opened.map_err(failed)?,
            }
        };
        match db.get(Key::Format.bytes()).map_err(failed)? {
            None => {
                db.insert(Key::Format.bytes(), &FORMAT.to_be_bytes()).map_err(failed)?;
                db.flush().map_err(failed)?;
            }
            Some(found) if *found == FORMAT.to_be_bytes() => {}
            Some(found) => {
                return Err(Error::config(format!("\"{}\": checkpoint format {found:?} is not known", dir.display()))
                    .hint("another version wrote it: use that version, or delete the folder (the changelog has the state)"));
            }
        }
        Ok(Checkpoints { db, dir: dir.to_path_buf(), parts: RwLock::new(()) })
    }

    /// Replaces the checkpoint of a store by an image. `commit` must be known to have succeeded; `changelog` is the position behind its last
    /// message, and not behind the first of a later one.
    ///
    /// # Errors
    /// `Failed` or `Corrupt` with the folder.
    pub fn save(
        &self,
        task: &str,
        store: &str,
        commit: &CommitRecord,
        changelog: NextOffset,
        image: impl IntoIterator<Item = Result<RecordBatch>>,
    ) -> Result<()> {
        let current = Key::Current { task, store }.bytes();
        let epoch = self.pointer(&current)?.map_or(1, |pointer| pointer.epoch + 1);
        self.remove_parts(task, store, |found, _| found >= epoch)?;
        let (mut parts, mut image_rows) = (0, 0);
        for rows in image {
            let rows = rows?;
            self.write(task, store, epoch, parts, std::slice::from_ref(&rows))?;
            (parts, image_rows) = (parts + 1, image_rows + rows.num_rows() as u64);
        }
        let checkpoint = Checkpoint { epoch, parts, commit: commit.clone(), changelog, image_rows, delta_rows: 0 };
        self.point(current, &checkpoint)?;
        let _parts = self.removing();
        self.remove_parts(task, store, |found, _| found < epoch)
    }

    /// Adds deltas behind the last part: then the checkpoint is that of a later commit. One that is gone (damaged) stays gone.
    ///
    /// # Errors
    /// `Failed` or `Corrupt` with the folder.
    pub fn append(
        &self,
        task: &str,
        store: &str,
        commit: &CommitRecord,
        changelog: NextOffset,
        deltas: &[RecordBatch],
    ) -> Result<()> {
        let current = Key::Current { task, store }.bytes();
        let Some(mut checkpoint) = self.pointer(&current)? else { return Ok(()) };
        // A process that died may have written behind the last part.
        self.remove_parts(task, store, |epoch, part| epoch == checkpoint.epoch && part >= checkpoint.parts)?;
        for rows in runs(deltas) {
            self.write(task, store, checkpoint.epoch, checkpoint.parts, rows)?;
            checkpoint.parts += 1;
        }
        checkpoint.delta_rows += count(deltas);
        (checkpoint.commit, checkpoint.changelog) = (commit.clone(), changelog);
        self.point(current, &checkpoint)
    }

    /// The checkpoint of a store, to be read; `None` when there is none, or (with a warning) when its pointer is damaged.
    ///
    /// # Errors
    /// `Failed` or `Corrupt` with the folder, when the database can't be read at all.
    pub fn read<'a>(&'a self, task: &'a str, store: &'a str) -> Result<Option<Reading<'a>>> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        let pointer = self.pointer(&Key::Current { task, store }.bytes())?;
        Ok(pointer.map(|checkpoint| Reading { checkpoint, checkpoints: self, task, store, _parts: parts }))
    }

    fn write(&self, task: &str, store: &str, epoch: u64, part: u32, rows: &[RecordBatch]) -> Result<()> {
        let value = summed(to_ipc(rows)?);
        self.db.insert(Key::Part { task, store, epoch, part }.bytes(), value).map_err(|e| failed(&self.dir, e))?;
        Ok(())
    }

    /// Makes parts valid that were written.
    fn point(&self, current: Vec<u8>, checkpoint: &Checkpoint) -> Result<()> {
        let failed = |e| failed(&self.dir, e);
        // The parts are on disk before the key that makes them valid.
        self.db.flush().map_err(failed)?;
        let pointer = serde_json::to_vec(checkpoint).map_err(|e| Error::failed(format!("a checkpoint's pointer: {e}")))?;
        self.db.insert(current, summed(pointer)).map_err(failed)?;
        self.db.flush().map_err(failed)?;
        Ok(())
    }

    fn removing(&self) -> RwLockWriteGuard<'_, ()> {
        self.parts.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the checkpoint of a store, if there is one.
    ///
    /// # Errors
    /// `Failed` or `Corrupt` with the folder.
    pub fn remove(&self, task: &str, store: &str) -> Result<()> {
        self.db.remove(Key::Current { task, store }.bytes()).map_err(|e| failed(&self.dir, e))?;
        self.db.flush().map_err(|e| failed(&self.dir, e))?;
        let _parts = self.removing();
        self.remove_parts(task, store, |_, _| true)
    }

    fn pointer(&self, current: &[u8]) -> Result<Option<Checkpoint>> {
        let Some(value) = self.db.get(current).map_err(|e| failed(&self.dir, e))? else { return Ok(None) };
        match checked(&value).and_then(|json| serde_json::from_slice(json).map_err(|e| Error::corrupt(e.to_string()))) {
            Ok(pointer) => Ok(Some(pointer)),
            Err(error) => {
                let dir = self.dir.display();
                warn!(%dir, %error, "a checkpoint's pointer is damaged and not used, the changelog has the state");
                Ok(None)
            }
        }
    }

    fn remove_parts(&self, task: &str, store: &str, which: impl Fn(u64, u32) -> bool) -> Result<()> {
        let prefix = named(b"part", task, store);
        for key in self.db.scan_prefix(&prefix).keys() {
            let key = key.map_err(|e| failed(&self.dir, e))?;
            let found = key[prefix.len()..]
                .split_first_chunk::<8>()
                .and_then(|(epoch, part)| Some((u64::from_be_bytes(*epoch), u32::from_be_bytes(*part.first_chunk()?))));
            if found.is_none_or(|(epoch, part)| which(epoch, part)) {
                self.db.remove(key).map_err(|e| failed(&self.dir, e))?;
            }
        }
        Ok(())
    }
}

fn count(rows: &[RecordBatch]) -> u64 {
    rows.iter().map(|rows| rows.num_rows() as u64).sum()
}

/// Batches in runs of about [`PART_ROWS`] rows, since small ones cost more to write than their rows do.
fn runs(batches: &[RecordBatch]) -> Vec<&[RecordBatch]> {
    let mut runs = Vec::new();
    let (mut from, mut rows) = (0, 0);
    for (at, batch) in batches.iter().enumerate() {
        rows += batch.num_rows();
        if rows >= PART_ROWS || at + 1 == batches.len() {
            runs.push(&batches[from..=at]);
            (from, rows) = (at + 1, 0);
        }
    }
    runs
}

fn summed(bytes: Vec<u8>) -> Vec<u8> {
    let mut value = crc32fast::hash(&bytes).to_be_bytes().to_vec();
    value.extend(bytes);
    value
}

/// What [`summed`] took, if its checksum is right.
fn checked(value: &[u8]) -> Result<&[u8]> {
    let Some((sum, bytes)) = value.split_first_chunk::<4>() else { return Err(Error::corrupt("it is too short")) };
    if crc32fast::hash(bytes) != u32::from_be_bytes(*sum) {
        return Err(Error::corrupt("its checksum is wrong"));
    }
    Ok(bytes)
}

fn is_lock(io: &std::io::Error) -> bool {
    io.to_string().contains("lock")
}

fn failed(dir: &Path, error: sled::Error) -> Error {
    let place = format!("\"{}\"", dir.display());
    match error {
        sled::Error::Corruption { .. } | sled::Error::Unsupported(_) => {
            Error::corrupt(format!("{place}: the checkpoint database is damaged: {error}"))
                .hint("delete the folder, the changelog has the state")
        }
        sled::Error::Io(io) if is_lock(&io) => Error::new(Kind::Config, format!("{place}: {io}"))
            .hint("another process uses this state directory: give each its own"),
        other => Error::failed(format!("{place}: {other}")),
    }
}
