//! The state directory: locked by one process, holding the random part of its transactional ids and the local copies of state.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A state directory that this process has locked. The lock goes with the process, however it ends.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    instance: String,
    _lock: File,
}

impl StateDir {
    /// Creates the directory if need be and locks it.
    ///
    /// # Errors
    /// `Config` when another process holds it, or it can't be written.
    pub fn lock(path: &Path) -> Result<StateDir> {
        let at = |what: &str, e: std::io::Error| {
            Error::config(format!("state directory \"{}\": {what}: {e}", path.display()))
                .hint("give a directory that this user can write: [state] dir, or --state-dir")
        };
        std::fs::create_dir_all(path).map_err(|e| at("it can't be created", e))?;
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .map_err(|e| at("its lock can't be opened", e))?;
        if let Err(e) = lock.try_lock() {
            return match e {
                std::fs::TryLockError::WouldBlock => {
                    let mut owner = String::new();
                    let _ = lock.read_to_string(&mut owner);
                    let owner = owner.trim();
                    let by = if owner.is_empty() { String::new() } else { format!(" (process {owner})") };
                    Err(Error::config(format!("state directory \"{}\" is in use by another process{by}", path.display()))
                        .hint("stop that process, or give this one a state directory of its own"))
                }
                std::fs::TryLockError::Error(e) => Err(at("it can't be locked", e)),
            };
        }
        let pid = std::process::id().to_string();
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(pid.as_bytes()))
            .map_err(|e| at("its lock can't be written", e))?;
        let instance = instance(&path.join("instance")).map_err(|e| at("its instance id can't be kept", e))?;
        Ok(StateDir { path: path.to_path_buf(), instance, _lock: lock })
    }

    /// The random part of transactional ids: eight hex digits, the same as long as the directory lives.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a generation (named by its group) keeps its copies of state.
    pub fn of_group(&self, group: &str) -> PathBuf {
        self.path.join(group)
    }
}

fn instance(file: &Path) -> std::io::Result<String> {
    if let Ok(text) = std::fs::read_to_string(file) {
        let text = text.trim();
        if text.len() == 8 && text.chars().all(|c| c.is_ascii_hexdigit()) {
            return Ok(text.to_string());
        }
    }
    let id = format!("{:08x}", rand::random::<u32>());
    let temporary = file.with_extension("new");
    std::fs::write(&temporary, &id)?;
    std::fs::rename(&temporary, file)?;
    Ok(id)
}
