//! `pipeline.lock`: the schemas that a pipeline was planned against, in version control beside its SQL.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::changes::changes;
use super::{AvroSchema, Contract, Contracts, RegisteredSchema, Registry, SchemaId, Strategy};
use crate::error::{Error, Result};
use crate::record::Topic;

/// The format that this version writes and reads.
const FORMAT: u32 = 1;

/// Every source and sink schema, key and value, of the pipelines beside it, by subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    pub format: u32,
    /// Of sources: the readers' schemas, which columns come from.
    #[serde(default)]
    pub subjects: BTreeMap<String, Locked>,
    /// Of sinks: what is written. Apart from the sources', since one pipeline's sink is another's source.
    #[serde(default)]
    pub sinks: BTreeMap<String, LockedSink>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    pub version: u32,
    pub id: SchemaId,
    pub fingerprint: String,
    /// The schema, self-contained.
    pub text: String,
}

/// A sink's schema. It follows from the SQL, so it can be pinned before it was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedSink {
    /// `None`: it was not registered yet when it was pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<SchemaId>,
    pub fingerprint: String,
    /// The schema, self-contained.
    pub text: String,
}

impl Default for Lock {
    fn default() -> Lock {
        Lock { format: FORMAT, subjects: BTreeMap::new(), sinks: BTreeMap::new() }
    }
}

impl Lock {
    /// `None`: there is no such file. `Config` error: unreadable, broken (with line and column), or of a newer format.
    pub fn read(path: impl AsRef<Path>) -> Result<Option<Lock>> {
        let path = path.as_ref();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::config(format!("{}: {e}", path.display()))),
        };
        let lock: Lock = toml::from_str(&text).map_err(|e| {
            let place = e.span().map_or((1, 1), |span| line_and_column(&text, span.start));
            Error::config(format!("{}:{}:{}: {}", path.display(), place.0, place.1, e.message()))
                .hint("take the file from version control again, or delete it and pin the schemas anew")
        })?;
        if lock.format != FORMAT {
            return Err(Error::config(format!("{}: format {} is not known to this version", path.display(), lock.format)));
        }
        let sources = lock.subjects.iter().map(|(subject, locked)| (subject, &locked.text, &locked.fingerprint));
        let sinks = lock.sinks.iter().map(|(subject, locked)| (subject, &locked.text, &locked.fingerprint));
        for (subject, text, fingerprint) in sources.chain(sinks) {
            let schema = AvroSchema::parse(text).map_err(|e| e.context(format!("{}: subject \"{subject}\"", path.display())))?;
            if schema.fingerprint != *fingerprint {
                return Err(Error::config(format!("{}: subject \"{subject}\": text and fingerprint disagree", path.display()))
                    .hint("the file was edited by hand: take it from version control again"));
            }
        }
        Ok(Some(lock))
    }

    /// Writes beside the file, then renames: a crash leaves the old lock or the new one.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = format!(
            "# Written by tidemill: the schemas that this pipeline was planned against. Keep it in version control.\n{}",
            toml::to_string_pretty(self).map_err(|e| Error::failed(format!("{}: {e}", path.display())))?
        );
        let beside = path.with_extension(format!("lock.{}", std::process::id()));
        let written = std::fs::File::create(&beside)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&beside, path));
        written.map_err(|e| {
            std::fs::remove_file(&beside).ok();
            Error::config(format!("{}: {e}", path.display()))
        })
    }

    pub fn pin(&mut self, contract: &Contract) {
        self.subjects.insert(
            contract.subject.clone(),
            Locked {
                version: contract.version,
                id: contract.id,
                fingerprint: contract.schema.fingerprint.clone(),
                text: contract.schema.text.clone(),
            },
        );
    }

    pub fn contract(&self, subject: &str) -> Result<Option<Arc<Contract>>> {
        let Some(locked) = self.subjects.get(subject) else { return Ok(None) };
        Contract::new(subject, locked.id, locked.version, Arc::new(locked.schema()?)).map(|contract| Some(Arc::new(contract)))
    }
}

impl LockedSink {
    /// `known`: where the registry holds it.
    pub fn new(schema: &AvroSchema, known: Option<&RegisteredSchema>) -> LockedSink {
        LockedSink {
            version: known.map(|known| known.version).filter(|version| *version > 0),
            id: known.map(|known| known.id),
            fingerprint: schema.fingerprint.clone(),
            text: schema.text.clone(),
        }
    }

    /// The same, with its version if it has one by now.
    pub fn registered(&self, subject: &str, registry: &dyn Registry) -> Result<LockedSink> {
        if self.version.is_some() {
            return Ok(self.clone());
        }
        let schema = AvroSchema::parse(&self.text)?;
        Ok(LockedSink::new(&schema, registry.find(subject, &schema)?.as_ref()))
    }

    /// What the sink writes now and did not when it was pinned, one line each; empty: it is the same.
    pub fn changes(&self, schema: &AvroSchema) -> Result<Vec<String>> {
        Ok(changes(&AvroSchema::parse(&self.text)?, schema))
    }
}

impl Locked {
    fn schema(&self) -> Result<AvroSchema> {
        AvroSchema::parse(&self.text)
    }
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    (before.matches('\n').count() + 1, before.chars().rev().take_while(|c| *c != '\n').count() + 1)
}

/// Contracts from the lock first, else the latest version that the registry has; it remembers what it gave out.
pub struct Pinned<'a> {
    lock: Option<&'a Lock>,
    registry: &'a dyn Registry,
    strategy: Strategy,
    resolved: RefCell<BTreeMap<String, Arc<Contract>>>,
}

impl<'a> Pinned<'a> {
    pub fn new(lock: Option<&'a Lock>, registry: &'a dyn Registry, strategy: Strategy) -> Pinned<'a> {
        Pinned { lock, registry, strategy, resolved: RefCell::default() }
    }

    /// A lock of all that was given out so far.
    pub fn resolved(&self) -> Lock {
        let mut lock = Lock::default();
        self.resolved.borrow().values().for_each(|contract| lock.pin(contract));
        lock
    }

    fn find(&self, topic: &Topic, key: bool, subject: Option<&str>) -> Result<Option<Arc<Contract>>> {
        let subject = match subject {
            Some(subject) => subject.to_string(),
            // A key under a record strategy has no subject that follows from its topic: it must be named to be used.
            None if key && self.strategy != Strategy::TopicName => return Ok(None),
            None => self.strategy.subject(topic, key, None)?,
        };
        if let Some(known) = self.resolved.borrow().get(&subject) {
            return Ok(Some(known.clone()));
        }
        let contract = match self.lock.map(|lock| lock.contract(&subject)).transpose()?.flatten() {
            Some(locked) => Some(locked),
            None => match self.registry.latest(&subject)? {
                Some(found) => Some(Arc::new(Contract::new(subject.as_str(), found.id, found.version, found.schema)?)),
                None => None,
            },
        };
        if let Some(contract) = &contract {
            self.resolved.borrow_mut().insert(subject, contract.clone());
        }
        Ok(contract)
    }
}

impl Contracts for Pinned<'_> {
    fn value(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>> {
        self.find(topic, false, subject)
    }

    fn key(&self, topic: &Topic, subject: Option<&str>) -> Result<Option<Arc<Contract>>> {
        self.find(topic, true, subject)
    }
}

/// Where the registry's latest version of a pinned subject is no longer the pinned one, field by field; `None`: it still is.
pub fn drift(subject: &str, locked: &Locked, registry: &dyn Registry) -> Result<Option<String>> {
    let Some(latest) = registry.latest(subject)? else {
        return Ok(Some(format!(
            "subject \"{subject}\": pinned at version {}, the registry has no such subject",
            locked.version
        )));
    };
    let changes = changes(&locked.schema()?, &latest.schema);
    if changes.is_empty() {
        return Ok(None);
    }
    let versions = format!("pinned at version {}, the registry is at version {}", locked.version, latest.version);
    Ok(Some(format!("subject \"{subject}\": {versions}{}", lines(&changes))))
}

/// Each on a line of its own.
pub fn lines(of: &[String]) -> String {
    of.iter().map(|line| format!("\n    {line}")).collect()
}
