//! From a `.sql` file to a topology, with the contracts of the lock beside it, the registry, or a folder of files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::contract::lock::lines;
use crate::contract::{AvroSchema, Contract, Contracts, FileContracts, Lock, LockedSink, Pinned, Registry};
use crate::error::{Error, Result, nearest};
use crate::job::Site;
use crate::log::Log;
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
    /// Subjects of the pipeline's sources.
    pub sources: Vec<String>,
    /// Subjects that the pipeline uses and the lock does not hold yet, and sinks that have their version by now.
    pub added: Vec<String>,
    /// Sinks that write another schema than the pinned one: subject, and the differences.
    pub drifted: Vec<(String, Vec<String>)>,
    /// `known` with `added`.
    pub wanted: Lock,
}

impl PinnedLock {
    /// Writes the lock when something is new in it. What it held stays as it was: only `schema pin --upgrade` changes that.
    pub fn keep(&self, registry: &dyn Registry) -> Result<()> {
        for (subject, changes) in &self.drifted {
            eprintln!(
                "warning: the sink of subject \"{subject}\" writes another schema than the one that is pinned in {}{}\n  \
                 \"tidemill schema pin --upgrade\" pins the new one",
                self.path.display(),
                lines(changes)
            );
        }
        if self.added.is_empty() {
            return Ok(());
        }
        // Another pipeline beside the same lock may have written it since it was read.
        let mut lock = Lock::read(&self.path)?.unwrap_or_default();
        for subject in &self.added {
            if let Some(locked) = self.wanted.subjects.get(subject) {
                lock.subjects.entry(subject.clone()).or_insert_with(|| locked.clone());
            }
            if let Some(locked) = self.wanted.sinks.get(subject) {
                lock.sinks.insert(subject.clone(), locked.registered(subject, registry)?);
            }
            eprintln!("pinned {} in {}", describe(&lock, subject), self.path.display());
        }
        lock.write(&self.path)
    }
}

/// `subject "orders-value" at version 3`.
pub fn describe(lock: &Lock, subject: &str) -> String {
    let source = lock.subjects.get(subject).map(|locked| locked.version);
    match source.or_else(|| lock.sinks.get(subject)?.version) {
        Some(version) => format!("subject \"{subject}\" at version {version}"),
        None => format!("subject \"{subject}\" (not registered yet)"),
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

/// The lock beside a pipeline.
pub fn lock_path(path: &Path) -> PathBuf {
    path.with_file_name(LOCK)
}

/// Plans against the lock beside the file first, then the registry's latest versions; for topics with so many partitions.
pub fn compile(context: &Context, path: &Path, registry: &dyn Registry, partitions: &Partitions) -> Result<Compiled> {
    let known = Lock::read(lock_path(path))?;
    compile_against(context, path, registry, partitions, known)
}

/// Partition counts by topic. One that is missing counts as equal to the others.
pub type Partitions = BTreeMap<Topic, i32>;

/// The pipeline as the configured broker and registry have it. A file that can't be read is said before a broker is waited for.
pub fn open(context: &Context, path: &Path) -> Result<(Site, Compiled)> {
    read(path)?;
    let site = context.site()?;
    let partitions = partitions(path, site.log.as_ref())?;
    let compiled = compile(context, path, site.registry.as_ref(), &partitions)?;
    Ok((site, compiled))
}

/// How many partitions the topics have that the file reads. A topic that does not exist is left out: whoever runs the pipeline refuses it.
pub fn partitions(path: &Path, log: &dyn Log) -> Result<Partitions> {
    let mut partitions = Partitions::new();
    for (kind, topic) in topology::topics(&read(path)?)? {
        if kind != "CREATE SINK"
            && let Some(info) = log.topic(&topic)?
        {
            partitions.insert(topic, info.partitions);
        }
    }
    Ok(partitions)
}

/// As [`compile`], against this lock instead of the file beside the pipeline.
pub fn compile_against(
    context: &Context,
    path: &Path,
    registry: &dyn Registry,
    partitions: &Partitions,
    known: Option<Lock>,
) -> Result<Compiled> {
    let file = read(path)?;
    let contracts = Pinned::new(known.as_ref(), registry, context.settings.typed.registry.strategy);
    let asked = Asked { contracts: &contracts, missing: RefCell::default() };
    let topology = plan(context, path, &file, &asked, partitions).map_err(|error| asked.did_you_mean(registry, error))?;
    let resolved = contracts.resolved();
    let mut lock = PinnedLock {
        path: lock_path(path),
        sources: resolved.subjects.keys().cloned().collect(),
        added: Vec::new(),
        drifted: Vec::new(),
        wanted: known.clone().unwrap_or_default(),
        known,
    };
    for (subject, locked) in resolved.subjects {
        if let std::collections::btree_map::Entry::Vacant(place) = lock.wanted.subjects.entry(subject) {
            lock.added.push(place.key().clone());
            place.insert(locked);
        }
    }
    for (subject, schema) in sinks(&topology) {
        lock.pin_sink(subject, schema, registry)?;
    }
    Ok(Compiled { topology, lock })
}

/// Subject and schema of every sink's value and Avro key.
pub fn sinks(topology: &Topology) -> impl Iterator<Item = (&str, &AvroSchema)> {
    topology.sinks.iter().flat_map(|sink| {
        let key = sink.key.as_ref().and_then(|key| key.avro.as_ref());
        let key = key.map(|(subject, schema)| (subject.as_str(), schema.as_ref()));
        std::iter::once((sink.value_subject.as_str(), sink.value_schema.as_ref())).chain(key)
    })
}

impl PinnedLock {
    fn pin_sink(&mut self, subject: &str, schema: &AvroSchema, registry: &dyn Registry) -> Result<()> {
        if let Some(locked) = self.wanted.sinks.get(subject) {
            let changes = locked.changes(schema)?;
            if !changes.is_empty() {
                self.drifted.push((subject.to_string(), changes));
                return Ok(());
            }
            if locked.version.is_some() {
                return Ok(());
            }
        }
        let found = LockedSink::new(schema, registry.find(subject, schema)?.as_ref());
        if self.wanted.sinks.get(subject) != Some(&found) {
            self.wanted.sinks.insert(subject.to_string(), found);
            self.added.push(subject.to_string());
        }
        Ok(())
    }
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
        Some(dir) => plan(context, path, &file, &FileContracts::open(dir)?, &Partitions::new()),
        None => {
            let lock_path = lock_path(path);
            let lock = Lock::read(&lock_path)?.ok_or_else(|| {
                Error::config(format!("--offline: there is no {}", lock_path.display()))
                    .hint("give --contracts DIR with <subject>.avsc files, or run \"tidemill check\" online once")
            })?;
            let nothing = crate::contract::MemoryRegistry::new();
            let contracts = Pinned::new(Some(&lock), &nothing, context.settings.typed.registry.strategy);
            plan(context, path, &file, &contracts, &Partitions::new())
        }
    }
}

fn plan(context: &Context, path: &Path, file: &SqlFile, contracts: &dyn Contracts, partitions: &Partitions) -> Result<Topology> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let options = Options { default_name: Some(stem), partitions: partitions.clone(), ..context.options() };
    topology::compile(file, contracts, &options)
}
