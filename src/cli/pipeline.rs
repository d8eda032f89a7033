//! From a `.sql` file to a topology, with the contracts of the lock beside it, the registry, or a folder of files.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::contract::{Contract, Contracts, FileContracts, Lock, Pinned, Registry};
use crate::error::{Error, Result, nearest};
use crate::record::Topic;
use crate::topology::{self, Options, SqlFile, Topology};

use super::context::Context;

/// The lock's name, beside the SQL and in version control.
const LOCK: &str = "pipeline.lock";

/// A pipeline planned against the lock and the registry.
pub struct Compiled {
    pub topology: Topology,
    pub lock: PinnedLock,
}

/// What the lock holds, and what this pipeline adds to it.
pub struct PinnedLock {
    pub path: PathBuf,
    /// As it is on disk.
    pub known: Option<Lock>,
    /// Subjects that the pipeline uses and the lock does not hold yet.
    pub added: Vec<String>,
    /// `known` with `added`.
    pub wanted: Lock,
}

impl PinnedLock {
    /// Writes the lock when something is new in it. What it held stays as it was: only `schema pin --upgrade` changes that.
    pub fn keep(&self) -> Result<()> {
        if self.added.is_empty() {
            return Ok(());
        }
        self.wanted.write(&self.path)?;
        for subject in &self.added {
            let version = self.wanted.subjects.get(subject).map_or(0, |locked| locked.version);
            eprintln!("pinned subject \"{subject}\" at version {version} in {}", self.path.display());
        }
        Ok(())
    }
}

/// Reads a file of SQL.
pub fn read(path: &Path) -> Result<SqlFile> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::config(format!("pipeline file \"{}\" can't be read: {e}", path.display()))
            .hint("give the path of a readable .sql file")
    })?;
    Ok(SqlFile { name: path.display().to_string(), text })
}

/// Plans against the lock beside the file first, then the registry's latest versions.
pub fn compile(context: &Context, path: &Path, registry: &dyn Registry) -> Result<Compiled> {
    let file = read(path)?;
    let lock_path = path.with_file_name(LOCK);
    let known = Lock::read(&lock_path)?;
    let contracts = Pinned::new(known.as_ref(), registry, context.settings.typed.registry.strategy);
    let asked = Asked { contracts: &contracts, missing: RefCell::default() };
    let topology = plan(context, path, &file, &asked).map_err(|error| asked.did_you_mean(registry, error))?;
    let resolved = contracts.resolved();
    let mut wanted = known.clone().unwrap_or_default();
    let mut added = Vec::new();
    for (subject, locked) in resolved.subjects {
        if let std::collections::btree_map::Entry::Vacant(place) = wanted.subjects.entry(subject) {
            added.push(place.key().clone());
            place.insert(locked);
        }
    }
    Ok(Compiled { topology, lock: PinnedLock { path: lock_path, known, added, wanted } })
}

/// Remembers a topic whose contract was asked for and is not there: its name is more often wrong than its contract.
struct Asked<'a> {
    contracts: &'a Pinned<'a>,
    missing: RefCell<Option<Topic>>,
}

impl Contracts for Asked<'_> {
    fn value(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>> {
        let found = self.contracts.value(topic, subject)?;
        if found.is_none() && subject.is_none() {
            self.missing.replace(Some(topic.clone()));
        }
        Ok(found)
    }

    fn key(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>> {
        self.contracts.key(topic, subject)
    }
}

impl Asked<'_> {
    fn did_you_mean(&self, registry: &dyn Registry, error: Error) -> Error {
        let missing = self.missing.borrow();
        let Some(topic) = missing.as_ref().filter(|topic| error.message.contains(&format!("\"{topic}\""))) else { return error };
        let Ok(subjects) = registry.subjects() else { return error };
        let topics = subjects.iter().filter_map(|subject| subject.strip_suffix("-value"));
        match (nearest(topic.as_str(), topics), &error.hint) {
            (Some(near), Some(hint)) => {
                let hint = format!("did you mean topic \"{near}\"? otherwise {hint}");
                error.hint(hint)
            }
            _ => error,
        }
    }
}

/// Plans against a folder of `<subject>.avsc` files, or without one against the lock alone: no network.
pub fn compile_offline(context: &Context, path: &Path, contracts: Option<&Path>) -> Result<Topology> {
    let file = read(path)?;
    match contracts {
        Some(dir) => plan(context, path, &file, &FileContracts::open(dir)?),
        None => {
            let lock_path = path.with_file_name(LOCK);
            let lock = Lock::read(&lock_path)?.ok_or_else(|| {
                Error::config(format!("--offline: there is no {}", lock_path.display()))
                    .hint("give --contracts DIR with <subject>.avsc files, or run \"tidemill check\" online once")
            })?;
            let nothing = crate::contract::MemoryRegistry::new();
            plan(context, path, &file, &Pinned::new(Some(&lock), &nothing, context.settings.typed.registry.strategy))
        }
    }
}

fn plan(context: &Context, path: &Path, file: &SqlFile, contracts: &dyn Contracts) -> Result<Topology> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    topology::compile(file, contracts, &Options { default_name: Some(stem), ..context.options() })
}
