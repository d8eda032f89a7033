//! The local copy of a task's state in sled.
//!
//! One database per pipeline generation. A checkpoint is written beside the one before, made valid by one key, and only then the old
//! one goes: a crash at any moment leaves one whole checkpoint. It is a cache of the changelog: one that is damaged is forgotten with
//! a warning, and the changelog is read instead.

use std::path::{Path, PathBuf};

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::changelog::{CommitRecord, from_ipc, to_ipc};
use crate::error::{Error, Kind, Result};
use crate::record::NextOffset;

/// The format of databases that this version writes and reads.
const FORMAT: u32 = 1;

/// The checkpoints of the tasks of one pipeline generation.
pub struct Checkpoints {
    db: sled::Db,
    dir: PathBuf,
}

/// A store as of one commit.
#[derive(Debug)]
pub struct Checkpoint {
    pub commit: CommitRecord,
    /// Behind the commit's last message in the changelog. If the changelog now starts above it, deletions may be missing from the
    /// image: discard it.
    pub changelog: NextOffset,
    pub image: Vec<RecordBatch>,
}

/// Every key of the database.
enum Key<'a> {
    /// Value: the format, u32 BE.
    Format,
    /// Value: CRC-32 of the rest (u32 BE), then a [`Pointer`] as JSON.
    Current { task: &'a str, store: &'a str },
    /// Value: CRC-32 of the rest (u32 BE), then an Arrow IPC stream.
    Part { task: &'a str, store: &'a str, epoch: u64, part: u32 },
}

/// Which parts are the valid checkpoint.
#[derive(Serialize, Deserialize)]
struct Pointer {
    epoch: u64,
    parts: u32,
    commit: CommitRecord,
    changelog: NextOffset,
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
    pub fn open(dir: &Path) -> Result<Checkpoints> {
        let failed = |e| failed(dir, e);
        let db = sled::Config::new().path(dir).cache_capacity(16 << 20).flush_every_ms(None).open().map_err(failed)?;
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
        Ok(Checkpoints { db, dir: dir.to_path_buf() })
    }

    /// Replaces the checkpoint of a store. `commit` must be known to have succeeded; `changelog` is the position behind its last
    /// message.
    ///
    /// # Errors
    /// `Failed` or `Corrupt` with the folder.
    pub fn save(
        &self,
        task: &str,
        store: &str,
        commit: &CommitRecord,
        changelog: NextOffset,
        image: &[RecordBatch],
    ) -> Result<()> {
        let failed = |e| failed(&self.dir, e);
        let current = Key::Current { task, store }.bytes();
        let epoch = self.pointer(&current)?.map_or(1, |pointer| pointer.epoch + 1);
        self.remove_parts(task, store, |found| found >= epoch)?;
        for (part, rows) in image.iter().enumerate() {
            let value = summed(to_ipc(rows)?);
            self.db.insert(Key::Part { task, store, epoch, part: part as u32 }.bytes(), value).map_err(failed)?;
        }
        // The parts are on disk before the key that makes them valid.
        self.db.flush().map_err(failed)?;
        let pointer = Pointer { epoch, parts: image.len() as u32, commit: commit.clone(), changelog };
        let pointer = serde_json::to_vec(&pointer).map_err(|e| Error::failed(format!("a checkpoint's pointer: {e}")))?;
        self.db.insert(current, summed(pointer)).map_err(failed)?;
        self.db.flush().map_err(failed)?;
        self.remove_parts(task, store, |found| found < epoch)
    }

    /// The checkpoint of a store; `None` when there is none, or (with a warning) when it is damaged.
    ///
    /// # Errors
    /// `Failed` or `Corrupt` with the folder, when the database can't be read at all.
    pub fn load(&self, task: &str, store: &str) -> Result<Option<Checkpoint>> {
        let current = Key::Current { task, store }.bytes();
        let Some(pointer) = self.pointer(&current)? else { return Ok(None) };
        let mut image = Vec::with_capacity(pointer.parts as usize);
        for part in 0..pointer.parts {
            let key = Key::Part { task, store, epoch: pointer.epoch, part }.bytes();
            let value = self.db.get(key).map_err(|e| failed(&self.dir, e))?;
            match value.as_deref().map_or(Err(Error::corrupt("it is missing")), |v| from_ipc(checked(v)?)) {
                Ok(rows) => image.extend(rows),
                Err(error) => {
                    let dir = self.dir.display();
                    warn!(%dir, task, store, part, %error, "the checkpoint is damaged and not used, the changelog has the state");
                    return Ok(None);
                }
            }
        }
        Ok(Some(Checkpoint { commit: pointer.commit, changelog: pointer.changelog, image }))
    }

    /// Removes the checkpoint of a store, if there is one.
    ///
    /// # Errors
    /// `Failed` or `Corrupt` with the folder.
    pub fn remove(&self, task: &str, store: &str) -> Result<()> {
        self.db.remove(Key::Current { task, store }.bytes()).map_err(|e| failed(&self.dir, e))?;
        self.db.flush().map_err(|e| failed(&self.dir, e))?;
        self.remove_parts(task, store, |_| true)
    }

    fn pointer(&self, current: &[u8]) -> Result<Option<Pointer>> {
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

    fn remove_parts(&self, task: &str, store: &str, which: impl Fn(u64) -> bool) -> Result<()> {
        let prefix = named(b"part", task, store);
        for key in self.db.scan_prefix(&prefix).keys() {
            let key = key.map_err(|e| failed(&self.dir, e))?;
            let epoch = key[prefix.len()..].first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
            if epoch.is_none_or(&which) {
                self.db.remove(key).map_err(|e| failed(&self.dir, e))?;
            }
        }
        Ok(())
    }
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

fn failed(dir: &Path, error: sled::Error) -> Error {
    let place = format!("\"{}\"", dir.display());
    match error {
        sled::Error::Corruption { .. } | sled::Error::Unsupported(_) => {
            Error::corrupt(format!("{place}: the checkpoint database is damaged: {error}"))
                .hint("delete the folder, the changelog has the state")
        }
        sled::Error::Io(io) if io.to_string().contains("lock") => Error::new(Kind::Config, format!("{place}: {io}"))
            .hint("another process uses this state directory: give each its own"),
        other => Error::failed(format!("{place}: {other}")),
    }
}
