//! A registry over HTTP, as Confluent's API has it (Apicurio, Karapace, Redpanda and others speak it too).
//!
//! What was fetched by id or GUID is kept for ever, since neither ever changes its schema; what was registered is not registered again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::transport::{Fault, Transport};
use crate::contract::compat::{self, Level};
use crate::contract::{AvroSchema, RegisteredSchema, Registry, SchemaId, WriterId};
use crate::error::{Error, Kind, Result};

/// How often a schema is registered when another process registers at the same moment.
const REGISTER_TRIES: u32 = 5;
const REGISTER_AGAIN: Duration = Duration::from_millis(100);

/// Where the registry is, and who asks.
#[derive(Clone)]
pub struct RegistrySettings {
    /// Of one registry: asked in turn until one answers. User and password may stand in them.
    pub urls: Vec<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// A bearer token, instead of user and password.
    pub token: Option<String>,
    /// Further headers of every request.
    pub headers: Vec<(String, String)>,
    /// PEM: authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM: the client's certificate, with its key in `key_file`.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Of one request.
    pub timeout: Duration,
}

impl RegistrySettings {
    /// Nobody in particular asks, and waits three seconds.
    pub fn at(urls: impl IntoIterator<Item = impl Into<String>>) -> RegistrySettings {
        RegistrySettings {
            urls: urls.into_iter().map(Into::into).collect(),
            user: None,
            password: None,
            token: None,
            headers: Vec::new(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            timeout: Duration::from_secs(3),
        }
    }
}

/// Calls block; not to be called from async code.
pub struct HttpRegistry {
    transport: Transport,
    schemas: Mutex<HashMap<WriterId, Arc<AvroSchema>>>,
    /// By subject and text.
    registered: Mutex<HashMap<(String, String), RegisteredSchema>>,
}

/// A schema as it comes over the wire; which fields are there depends on the call and on the registry.
#[derive(Debug, Deserialize)]
struct Answer {
    id: Option<u32>,
    version: Option<u32>,
    schema: Option<String>,
    /// Registries leave it out for Avro.
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
    references: Option<Vec<Reference>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: u32,
}

impl HttpRegistry {
    /// Does not ask the registry yet.
    pub fn new(settings: RegistrySettings) -> Result<HttpRegistry> {
        Ok(HttpRegistry { transport: Transport::new(settings)?, schemas: Mutex::default(), registered: Mutex::default() })
    }

    fn get(&self, what: &str, path: &[&str]) -> Result<Value, Fault> {
        self.transport.call(what, &Method::GET, path, None)
    }

    fn post(&self, what: &str, path: &[&str], schema: &AvroSchema) -> Result<Value, Fault> {
        // No schemaType: a registry takes Avro without, and old ones take no other field.
        self.transport.call(what, &Method::POST, path, Some(&json!({ "schema": schema.text })))
    }

    fn error(&self, what: &str, fault: Fault) -> Error {
        match fault {
            Fault::Other(error) | Fault::NoSuchPath(error) => error,
            Fault::Missing => Error::config(format!("schema registry {}: {what} does not exist", self.transport.url())),
            Fault::Refused(text) => Error::contract(format!("schema registry {}: {what}: {text}", self.transport.url())),
        }
    }

    /// JSON of another shape than the call has is no answer of a registry.
    fn shaped<T: serde::de::DeserializeOwned>(&self, what: &str, answer: Value) -> Result<T> {
        serde_json::from_value(answer).map_err(|e| self.unexpected(what, &e.to_string()))
    }

    fn unexpected(&self, what: &str, why: &str) -> Error {
        Error::away(format!("schema registry {}: {what}: the answer is not a registry's: {why}", self.transport.url()))
            .hint("check that [registry] url is a registry's address, and what is in between")
    }

    /// Parses an answer, with the schemas that it refers to.
    fn parse(&self, what: &str, answer: &Answer) -> Result<AvroSchema> {
        let text = answer.schema.as_deref().ok_or_else(|| self.unexpected(what, "it has no schema"))?;
        self.check_type(what, answer)?;
        let mut found = Vec::new();
        self.references(answer.references.as_deref().unwrap_or_default(), &mut found)?;
        let references: Vec<(String, String)> = found.into_iter().map(|(reference, text)| (reference.name, text)).collect();
        AvroSchema::parse_with_references(text, &references)
            .map_err(|e| e.context(format!("schema registry {}: {what}", self.transport.url())))
    }

    fn check_type(&self, what: &str, answer: &Answer) -> Result<()> {
        match answer.schema_type.as_deref() {
            None | Some("AVRO") => Ok(()),
            Some(other) => {
                let place = format!("schema registry {}: {what}", self.transport.url());
                Err(Error::contract(format!("{place} is of type {other}, not AVRO")).hint("tidemill reads Avro contracts only"))
            }
        }
    }

    /// Depth first; each version of a subject once, so that a circle ends.
    fn references(&self, of: &[Reference], found: &mut Vec<(Reference, String)>) -> Result<()> {
        for reference in of {
            if found.iter().any(|(known, _)| known.subject == reference.subject && known.version == reference.version) {
                continue;
            }
            let what = format!("subject \"{}\" version {}", reference.subject, reference.version);
            let path = ["subjects", &reference.subject, "versions", &reference.version.to_string()];
            let answer: Answer = match self.get(&what, &path) {
                Ok(answer) => self.shaped(&what, answer)?,
                Err(fault) => return Err(self.error(&what, fault)),
            };
            self.check_type(&what, &answer)?;
            let text = answer.schema.ok_or_else(|| self.unexpected(&what, "it has no schema"))?;
            found.push((reference.clone(), text));
            self.references(answer.references.as_deref().unwrap_or_default(), found)?;
        }
        Ok(())
    }

    /// A version of a subject, from an answer that names id and version.
    fn known(&self, subject: &str, what: &str, answer: &Answer) -> Result<RegisteredSchema> {
        let id = SchemaId(answer.id.ok_or_else(|| self.unexpected(what, "it has no id"))?);
        let cached = lock(&self.schemas).get(&id.into()).cloned();
        let schema = match cached {
            Some(schema) => schema,
            None => self.keep(id.into(), self.parse(what, answer)?),
        };
        Ok(RegisteredSchema { subject: subject.to_string(), id, version: answer.version.unwrap_or(0), schema })
    }

    fn keep(&self, id: WriterId, schema: AvroSchema) -> Arc<AvroSchema> {
        lock(&self.schemas).entry(id).or_insert_with(|| Arc::new(schema)).clone()
    }

    fn version(&self, subject: &str, version: &str) -> Result<Option<RegisteredSchema>> {
        let what = match version {
            "latest" => format!("subject \"{subject}\""),
            number => format!("subject \"{subject}\" version {number}"),
        };
        match self.get(&what, &["subjects", subject, "versions", version]) {
            Ok(answer) => self.known(subject, &what, &self.shaped(&what, answer)?).map(Some),
            Err(Fault::Missing) => Ok(None),
            Err(fault) => Err(self.error(&what, fault)),
        }
    }

    fn look_up(&self, subject: &str, schema: &AvroSchema) -> Result<Option<RegisteredSchema>> {
        let what = format!("looking up a schema under \"{subject}\"");
        match self.post(&what, &["subjects", subject], schema) {
            Ok(answer) => {
                let answer: Answer = self.shaped(&what, answer)?;
                let id = SchemaId(answer.id.ok_or_else(|| self.unexpected(&what, "it has no id"))?);
                let schema = self.keep(id.into(), schema.clone());
                Ok(Some(RegisteredSchema { subject: subject.to_string(), id, version: answer.version.unwrap_or(0), schema }))
            }
            Err(Fault::Missing) => Ok(None),
            Err(fault) => Err(self.error(&what, fault)),
        }
    }
}

impl Registry for HttpRegistry {
    fn schema(&self, id: WriterId) -> Result<Option<Arc<AvroSchema>>> {
        if let Some(schema) = lock(&self.schemas).get(&id) {
            return Ok(Some(schema.clone()));
        }
        let what = format!("schema id {id}");
        let (kind, number) = match id {
            WriterId::Number(id) => ("ids", id.to_string()),
            WriterId::Guid(guid) => ("guids", guid.to_string()),
        };
        match (self.get(&what, &["schemas", kind, &number]), id) {
            (Ok(answer), _) => Ok(Some(self.keep(id, self.parse(&what, &self.shaped(&what, answer)?)?))),
            (Err(Fault::Missing), _) => Ok(None),
            // The record may be good: it is the registry that can't tell.
            (Err(Fault::NoSuchPath(error)), WriterId::Guid(_)) => Err(Error::new(Kind::Contract, error.message)
                .hint("this registry does not look up GUIDs: update it, or have the producer write numeric schema ids")),
            (Err(fault), _) => Err(self.error(&what, fault)),
        }
    }

    fn latest(&self, subject: &str) -> Result<Option<RegisteredSchema>> {
        self.version(subject, "latest")
    }

    fn versions(&self, subject: &str) -> Result<Vec<RegisteredSchema>> {
        let what = format!("subject \"{subject}\"");
        let mut versions: Vec<u32> = match self.get(&what, &["subjects", subject, "versions"]) {
            Ok(answer) => self.shaped(&what, answer)?,
            Err(Fault::Missing) => return Ok(Vec::new()),
            Err(fault) => return Err(self.error(&what, fault)),
        };
        versions.sort_unstable();
        let mut found = Vec::with_capacity(versions.len());
        for version in versions {
            // One may have been deleted between the two calls.
            found.extend(self.version(subject, &version.to_string())?.map(|known| RegisteredSchema { version, ..known }));
        }
        Ok(found)
    }

    fn subjects(&self) -> Result<Vec<String>> {
        let answer = self.get("subjects", &["subjects"]).map_err(|fault| self.error("subjects", fault))?;
        let mut subjects: Vec<String> = self.shaped("subjects", answer)?;
        subjects.sort_unstable();
        Ok(subjects)
    }

    fn compatibility(&self, subject: &str) -> Result<String> {
        let what = format!("the compatibility level of \"{subject}\"");
        let mut level = None;
        for path in [&["config", subject][..], &["config"]] {
            match self.get(&what, path) {
                Ok(answer) => {
                    let named = answer.get("compatibilityLevel").or_else(|| answer.get("compatibility"));
                    level = named.and_then(Value::as_str).map(str::to_string);
                }
                Err(Fault::Missing) => {}
                Err(fault) => return Err(self.error(&what, fault)),
            }
            if level.is_some() {
                break;
            }
        }
        Ok(level.unwrap_or_else(|| "NONE".to_string()))
    }

    fn check(&self, subject: &str, schema: &AvroSchema) -> Result<Option<Vec<String>>> {
        let what = format!("compatibility with subject \"{subject}\"");
        let said = match self.post(&what, &["compatibility", "subjects", subject, "versions", "latest"], schema) {
            Ok(answer) => match answer.get("is_compatible").and_then(Value::as_bool) {
                Some(true) => return Ok(None),
                Some(false) => "the registry refuses it".to_string(),
                None => return Err(self.unexpected(&what, "it has no is_compatible")),
            },
            Err(Fault::Missing) => return Ok(None),
            Err(Fault::Refused(text)) => text,
            Err(fault) => return Err(self.error(&what, fault)),
        };
        // The registry decides; which fields differ is worked out here, since registries tell it in their own ways.
        let level = Level::parse(&self.compatibility(subject)?).unwrap_or(Level::Backward);
        let faults = compat::check(level, schema, &self.versions(subject)?);
        Ok(Some(if faults.is_empty() { vec![said] } else { faults }))
    }

    fn find(&self, subject: &str, schema: &AvroSchema) -> Result<Option<RegisteredSchema>> {
        let place = (subject.to_string(), schema.text.clone());
        if let Some(known) = lock(&self.registered).get(&place) {
            return Ok(Some(known.clone()));
        }
        let found = self.look_up(subject, schema)?;
        if let Some(known) = &found {
            lock(&self.registered).insert(place, known.clone());
        }
        Ok(found)
    }

    /// A refusal of what is compatible is no verdict: another process registered at the same moment, and the next try finds its schema.
    fn register(&self, subject: &str, schema: &AvroSchema) -> Result<RegisteredSchema> {
        if let Some(known) = self.find(subject, schema)? {
            return Ok(known);
        }
        let known = self.add(subject, schema)?;
        lock(&self.registered).insert((subject.to_string(), schema.text.clone()), known.clone());
        Ok(known)
    }
}

impl HttpRegistry {
    fn add(&self, subject: &str, schema: &AvroSchema) -> Result<RegisteredSchema> {
        let what = format!("registering under \"{subject}\"");
        let mut tries = 1;
        loop {
            match self.post(&what, &["subjects", subject, "versions"], schema) {
                Ok(answer) => return self.added(&what, subject, schema, answer),
                Err(Fault::Refused(text)) => match self.check(subject, schema)? {
                    None if tries < REGISTER_TRIES => {
                        tries += 1;
                        std::thread::sleep(REGISTER_AGAIN);
                    }
                    faults => {
                        let level = self.compatibility(subject)?;
                        return Err(super::refused(subject, &level, &faults.unwrap_or_else(|| vec![text])));
                    }
                },
                Err(fault) => return Err(self.error(&what, fault)),
            }
        }
    }

    fn added(&self, what: &str, subject: &str, schema: &AvroSchema, answer: Value) -> Result<RegisteredSchema> {
        let answer: Answer = self.shaped(what, answer)?;
        let id = SchemaId(answer.id.ok_or_else(|| self.unexpected(what, "it has no id"))?);
        let version = match answer.version {
            Some(version) => version,
            // Most registries answer with the id alone.
            None => self.look_up(subject, schema)?.map_or(0, |known| known.version),
        };
        let schema = self.keep(id.into(), schema.clone());
        Ok(RegisteredSchema { subject: subject.to_string(), id, version, schema })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
