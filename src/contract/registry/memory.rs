//! A registry in this process: demo, tests, contracts from files.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::contract::compat::{self, Level};
use crate::contract::{AvroSchema, Guid, RegisteredSchema, Registry, SchemaId, WriterId};
use crate::error::{Error, Result};

/// Clones share one registry. Ids count from 1; a schema has one id, whatever its subjects.
#[derive(Clone, Debug, Default)]
pub struct MemoryRegistry(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    schemas: BTreeMap<SchemaId, Arc<AvroSchema>>,
    guids: BTreeMap<Guid, SchemaId>,
    subjects: BTreeMap<String, Vec<RegisteredSchema>>,
    levels: BTreeMap<String, String>,
    level: Option<String>,
    away: bool,
}

impl MemoryRegistry {
    pub fn new() -> MemoryRegistry {
        MemoryRegistry::default()
    }

    /// Registers without asking for compatibility, under this id. `Contract` error when the id has another schema.
    pub fn register_as(&self, subject: &str, id: SchemaId, schema: AvroSchema) -> Result<RegisteredSchema> {
        let mut inner = self.inner();
        if let Some(other) = inner.schemas.get(&id).filter(|other| other.text != schema.text) {
            let name = other.full_name().unwrap_or_default();
            return Err(Error::contract(format!("schema id {id} is that of another schema (\"{name}\")")));
        }
        Ok(inner.add(subject, id, &schema))
    }

    /// Gives a schema a GUID; it has none by itself.
    pub fn set_guid(&self, id: SchemaId, guid: Guid) {
        self.inner().guids.insert(guid, id);
    }

    /// While it is away every call fails with an `Away` error.
    pub fn set_away(&self, away: bool) {
        self.inner().away = away;
    }

    /// The level of one subject, or the global one (`BACKWARD` unless set).
    pub fn set_compatibility(&self, subject: Option<&str>, level: &str) -> Result<()> {
        Level::parse(level)?;
        let mut inner = self.inner();
        match subject {
            Some(subject) => drop(inner.levels.insert(subject.to_string(), level.to_string())),
            None => inner.level = Some(level.to_string()),
        }
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no call panics while it holds the lock")
    }

    fn asked(&self) -> Result<MutexGuard<'_, Inner>> {
        let inner = self.inner();
        if inner.away {
            return Err(Error::away("schema registry (in this process): switched away"));
        }
        Ok(inner)
    }
}

impl Inner {
    fn add(&mut self, subject: &str, id: SchemaId, schema: &AvroSchema) -> RegisteredSchema {
        let schema = self.schemas.entry(id).or_insert_with(|| Arc::new(schema.clone())).clone();
        let versions = self.subjects.entry(subject.to_string()).or_default();
        if let Some(found) = versions.iter().find(|version| version.id == id) {
            return found.clone();
        }
        let version = versions.last().map_or(1, |last| last.version + 1);
        versions.push(RegisteredSchema { subject: subject.to_string(), id, version, schema });
        versions.last().expect("just pushed").clone()
    }

    fn level(&self, subject: &str) -> &str {
        self.levels.get(subject).or(self.level.as_ref()).map_or("BACKWARD", String::as_str)
    }

    fn faults(&self, subject: &str, schema: &AvroSchema) -> Result<Option<Vec<String>>> {
        let Some(versions) = self.subjects.get(subject) else { return Ok(None) };
        let faults = compat::check(Level::parse(self.level(subject))?, schema, versions);
        Ok((!faults.is_empty()).then_some(faults))
    }
}

impl Registry for MemoryRegistry {
    fn schema(&self, id: WriterId) -> Result<Option<Arc<AvroSchema>>> {
        let inner = self.asked()?;
        let id = match &id {
            WriterId::Number(id) => Some(id),
            WriterId::Guid(guid) => inner.guids.get(guid),
        };
        Ok(id.and_then(|id| inner.schemas.get(id)).cloned())
    }

    fn latest(&self, subject: &str) -> Result<Option<RegisteredSchema>> {
        Ok(self.asked()?.subjects.get(subject).and_then(|versions| versions.last().cloned()))
    }

    fn versions(&self, subject: &str) -> Result<Vec<RegisteredSchema>> {
        Ok(self.asked()?.subjects.get(subject).cloned().unwrap_or_default())
    }

    fn subjects(&self) -> Result<Vec<String>> {
        Ok(self.asked()?.subjects.keys().cloned().collect())
    }

    fn compatibility(&self, subject: &str) -> Result<String> {
        Ok(self.asked()?.level(subject).to_string())
    }

    fn check(&self, subject: &str, schema: &AvroSchema) -> Result<Option<Vec<String>>> {
        self.asked()?.faults(subject, schema)
    }

    fn find(&self, subject: &str, schema: &AvroSchema) -> Result<Option<RegisteredSchema>> {
        let inner = self.asked()?;
        let versions = inner.subjects.get(subject).map_or(&[][..], Vec::as_slice);
        Ok(versions.iter().find(|version| version.schema.text == schema.text).cloned())
    }

    fn register(&self, subject: &str, schema: &AvroSchema) -> Result<RegisteredSchema> {
        let mut inner = self.asked()?;
        let versions = inner.subjects.get(subject).map_or(&[][..], Vec::as_slice);
        if let Some(found) = versions.iter().find(|version| version.schema.text == schema.text) {
            return Ok(found.clone());
        }
        if let Some(faults) = inner.faults(subject, schema)? {
            return Err(super::refused(subject, inner.level(subject), &faults));
        }
        let known = inner.schemas.iter().find(|(_, known)| known.text == schema.text).map(|(id, _)| *id);
        let next = inner.schemas.last_key_value().map_or(1, |(id, _)| id.0 + 1);
        Ok(inner.add(subject, known.unwrap_or(SchemaId(next)), schema))
    }
}
