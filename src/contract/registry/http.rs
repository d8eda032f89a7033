//! A registry over HTTP, as Confluent's API has it (Apicurio and others speak it too).
//!
//! `schema_registry_converter` makes the calls that it has; subjects' levels are asked for directly. Answers are judged by status and
//! error code only: texts differ between registries. What was fetched by id is kept for ever, since an id never changes its schema.

use std::collections::HashMap;
use std::error::Error as _;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use schema_registry_converter::async_impl::schema_registry as calls;
use schema_registry_converter::async_impl::schema_registry::SrSettings;
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common as wire;
use schema_registry_converter::schema_registry_common::{RawError, SchemaType, SuppliedSchema};
use tokio::runtime::Runtime;

use crate::contract::compat::{self, Level};
use crate::contract::{AvroSchema, RegisteredSchema, Registry, SchemaId};
use crate::error::{Error, Kind, Result};

/// How often a schema is registered when another process registers at the same moment.
const REGISTER_TRIES: u32 = 5;
const REGISTER_AGAIN: Duration = Duration::from_millis(100);
/// Tries of one call before it counts as failed.
const TRIES: u32 = 3;
/// The first wait between tries; it doubles, with up to half of it as jitter.
const BACKOFF: Duration = Duration::from_millis(100);
/// The longest time for which the circuit breaker stays open.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// Where the registry is, and who asks.
#[derive(Clone)]
pub struct RegistrySettings {
    /// Asked in order until one answers.
    pub urls: Vec<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// A bearer token, instead of user and password.
    pub token: Option<String>,
    /// Further headers of every request.
    pub headers: Vec<(String, String)>,
    /// Of one request.
    pub timeout: Duration,
}

/// Calls block; not to be called from async code.
pub struct HttpRegistry {
    settings: RegistrySettings,
    converter: SrSettings,
    client: reqwest::Client,
    /// `Option` only so that `drop` can shut it down without waiting.
    runtime: Option<Runtime>,
    schemas: Mutex<HashMap<SchemaId, Arc<AvroSchema>>>,
    breaker: Mutex<Breaker>,
}

/// Closed: calls go out. Open: calls fail at once until the time is over; then one goes out, and closes or reopens it.
#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

/// What a call came to, other than an answer.
enum Fault {
    /// 404: no such id, subject or version.
    Missing,
    /// 409, 422: the registry does not take the schema.
    Refused(String),
    Other(Error),
}

impl HttpRegistry {
    /// Does not ask the registry yet.
    pub fn new(settings: RegistrySettings) -> Result<HttpRegistry> {
        let Some((first, others)) = settings.urls.split_first() else {
            return Err(Error::config("no schema registry is configured").hint("set [registry] url, or give --registry"));
        };
        for url in &settings.urls {
            reqwest::Url::parse(url).map_err(|e| {
                Error::config(format!("schema registry \"{url}\": not a URL: {e}")).hint("such as http://localhost:8081")
            })?;
        }
        let mut builder = SrSettings::new_builder(first.trim_end_matches('/').to_string());
        for url in others {
            builder.add_url(url.trim_end_matches('/').to_string());
        }
        if let Some(token) = &settings.token {
            builder.set_token_authorization(token);
        } else if let Some(user) = &settings.user {
            builder.set_basic_authorization(user, settings.password.as_deref());
        }
        for (name, value) in &settings.headers {
            builder.add_header(name, value);
        }
        builder.set_timeout(settings.timeout);
        let config = |e: &dyn std::fmt::Display| Error::config(format!("schema registry \"{first}\": {e}"));
        let converter = builder.build().map_err(|e| config(&e.error))?;
        let client = reqwest::Client::builder().timeout(settings.timeout).build().map_err(|e| config(&e))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("registry").enable_all().build();
        let runtime = runtime.map_err(|e| Error::failed(format!("threads for the schema registry can't be started: {e}")))?;
        Ok(HttpRegistry {
            settings,
            converter,
            client,
            runtime: Some(runtime),
            schemas: Mutex::default(),
            breaker: Mutex::default(),
        })
    }

    fn url(&self) -> &str {
        &self.settings.urls[0]
    }

    /// Makes a call, again after a while if the registry is away, unless the breaker is open. One that takes the whole timeout is not made
    /// again: a refusal comes in under five seconds.
    fn call<T, F: Future<Output = Result<T, SRCError>>>(&self, what: &str, call: impl Fn() -> F) -> Result<T, Fault> {
        self.pass().map_err(Fault::Other)?;
        let runtime = self.runtime.as_ref().expect("the runtime lives as long as the registry");
        let mut tries = 0;
        let began = Instant::now();
        loop {
            let error = match runtime.block_on(call()) {
                Ok(answer) => {
                    *lock(&self.breaker) = Breaker::default();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            match self.judge(what, &error) {
                Fault::Other(error) if error.kind == Kind::Away => {
                    tries += 1;
                    if tries == TRIES || began.elapsed() >= self.settings.timeout {
                        return Err(Fault::Other(self.failed(error)));
                    }
                    let wait = BACKOFF * 2u32.pow(tries - 1);
                    std::thread::sleep(wait + wait.mul_f64(rand::random::<f64>() / 2.0));
                }
                fault => {
                    *lock(&self.breaker) = Breaker::default();
                    return Err(fault);
                }
            }
        }
    }

    fn pass(&self) -> Result<()> {
        let breaker = lock(&self.breaker);
        match breaker.open_until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(left) if !left.is_zero() => Err(Error::away(format!(
                "schema registry {}: away since {} calls, asked again in {:.1} s",
                self.url(),
                breaker.failures,
                left.as_secs_f64()
            ))),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: Error) -> Error {
        let mut breaker = lock(&self.breaker);
        breaker.failures += 1;
        let open = Duration::from_millis(500).saturating_mul(2u32.saturating_pow(breaker.failures.min(10) - 1)).min(OPEN_MAX);
        breaker.open_until = Some(Instant::now() + open);
        error.hint(format!("asked again in {:.1} s; check [registry] url and that the registry runs", open.as_secs_f64()))
    }

    /// By status and error code.
    fn judge(&self, what: &str, error: &SRCError) -> Fault {
        let status = error.error.split("status ").nth(1).and_then(|rest| rest.get(..3)).and_then(|code| code.parse::<u16>().ok());
        let raw = error.source().and_then(|source| source.downcast_ref::<RawError>());
        let text = raw.map_or_else(|| error.cause.clone().unwrap_or_default(), |raw| raw.message.clone());
        let place = format!("schema registry {}: {what}", self.url());
        match status {
            Some(404) => Fault::Missing,
            Some(409 | 422) => Fault::Refused(text),
            Some(401 | 403) => Fault::Other(
                Error::config(format!("{place}: status {}: {text}", status.unwrap_or_default()))
                    .hint("check user and password, or token, under [registry]"),
            ),
            Some(408 | 429 | 500..=599) => {
                Fault::Other(Error::away(format!("{place}: status {}: {text}", status.unwrap_or_default())))
            }
            Some(other) => Fault::Other(Error::failed(format!("{place}: status {other}: {text}"))),
            None if error.retriable => {
                Fault::Other(Error::away(format!("{place}: {}", error.cause.as_deref().unwrap_or(&error.error))))
            }
            None => {
                Fault::Other(Error::failed(format!("{place}: {}: {}", error.error, error.cause.as_deref().unwrap_or_default())))
            }
        }
    }

    /// Parses an answer, with the schemas that it refers to.
    fn parse(&self, what: &str, answer: &wire::RegisteredSchema) -> Result<AvroSchema> {
        if answer.schema_type != SchemaType::Avro {
            return Err(Error::contract(format!("schema registry {}: {what} is {:?}, not Avro", self.url(), answer.schema_type))
                .hint("tidemill reads Avro contracts only"));
        }
        let mut references = Vec::new();
        self.references(&answer.references, &mut references)?;
        AvroSchema::parse_with_references(&answer.schema, &references)
            .map_err(|e| e.context(format!("schema registry {}: {what}", self.url())))
    }

    fn references(&self, of: &[wire::RegisteredReference], found: &mut Vec<(String, String)>) -> Result<()> {
        for reference in of {
            if found.iter().any(|(name, _)| *name == reference.name) {
                continue;
            }
            let what = format!("subject \"{}\" version {}", reference.subject, reference.version);
            let answer = self
                .call(&what, || calls::get_referenced_schema(&self.converter, reference))
                .map_err(|fault| self.error(&what, fault))?;
            self.references(&answer.references, found)?;
            found.push((reference.name.clone(), answer.schema));
        }
        Ok(())
    }

    fn error(&self, what: &str, fault: Fault) -> Error {
        match fault {
            Fault::Other(error) => error,
            Fault::Missing => Error::config(format!("schema registry {}: {what} does not exist", self.url())),
            Fault::Refused(text) => Error::contract(format!("schema registry {}: {what}: {text}", self.url())),
        }
    }

    fn registered(&self, subject: &str, answer: &wire::RegisteredSchema) -> Result<RegisteredSchema> {
        let id = SchemaId(answer.id);
        let known = lock(&self.schemas).get(&id).cloned();
        let schema = match known {
            Some(schema) => schema,
            None => {
                let schema = Arc::new(self.parse(&format!("subject \"{subject}\""), answer)?);
                lock(&self.schemas).insert(id, schema.clone());
                schema
            }
        };
        Ok(RegisteredSchema { subject: subject.to_string(), id, version: answer.version.unwrap_or(0), schema })
    }

    /// `GET /config/{subject}`, then `GET /config`.
    async fn level(&self, subject: &str) -> Result<String, SRCError> {
        for path in [format!("config/{subject}"), "config".to_string()] {
            let mut url = reqwest::Url::parse(self.url()).map_err(|e| SRCError::new("bad url", Some(e.to_string()), false))?;
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().extend(path.split('/'));
            }
            let mut request = self.client.get(url);
            request = match (&self.settings.token, &self.settings.user) {
                (Some(token), _) => request.bearer_auth(token),
                (None, Some(user)) => request.basic_auth(user, self.settings.password.as_deref()),
                (None, None) => request,
            };
            for (name, value) in &self.settings.headers {
                request = request.header(name, value);
            }
            let answer = request.send().await.map_err(|e| SRCError::new("no answer", Some(e.to_string()), true))?;
            match answer.status().as_u16() {
                404 => continue,
                200 => {
                    let body: serde_json::Value =
                        answer.json().await.map_err(|e| SRCError::new("no JSON", Some(e.to_string()), false))?;
                    let level =
                        body.get("compatibilityLevel").or_else(|| body.get("compatibility")).and_then(|level| level.as_str());
                    return Ok(level.unwrap_or("NONE").to_string());
                }
                status => return Err(SRCError::new(&format!("status {status}"), None, status >= 500)),
            }
        }
        Ok("NONE".to_string())
    }
}

impl Drop for HttpRegistry {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Registry for HttpRegistry {
    fn schema(&self, id: SchemaId) -> Result<Option<Arc<AvroSchema>>> {
        if let Some(schema) = lock(&self.schemas).get(&id) {
            return Ok(Some(schema.clone()));
        }
        let what = format!("schema id {id}");
        match self.call(&what, || calls::get_schema_by_id(id.0, &self.converter)) {
            Ok(answer) => {
                let schema = Arc::new(self.parse(&what, &answer)?);
                lock(&self.schemas).insert(id, schema.clone());
                Ok(Some(schema))
            }
            Err(Fault::Missing) => Ok(None),
            Err(fault) => Err(self.error(&what, fault)),
        }
    }

    fn latest(&self, subject: &str) -> Result<Option<RegisteredSchema>> {
        let what = format!("subject \"{subject}\"");
        match self.call(&what, || calls::get_schema_by_subject_and_version(&self.converter, subject, None)) {
            Ok(answer) => self.registered(subject, &answer).map(Some),
            Err(Fault::Missing) => Ok(None),
            Err(fault) => Err(self.error(&what, fault)),
        }
    }

    fn versions(&self, subject: &str) -> Result<Vec<RegisteredSchema>> {
        let what = format!("subject \"{subject}\"");
        let mut versions = match self.call(&what, || calls::get_all_versions(&self.converter, subject.to_string())) {
            Ok(versions) => versions,
            Err(Fault::Missing) => return Ok(Vec::new()),
            Err(fault) => return Err(self.error(&what, fault)),
        };
        versions.sort_unstable();
        let mut found = Vec::with_capacity(versions.len());
        for version in versions {
            let what = format!("subject \"{subject}\" version {version}");
            match self.call(&what, || calls::get_schema_by_subject_and_version(&self.converter, subject, Some(version))) {
                Ok(answer) => found.push(RegisteredSchema { version, ..self.registered(subject, &answer)? }),
                // Deleted between the two calls.
                Err(Fault::Missing) => {}
                Err(fault) => return Err(self.error(&what, fault)),
            }
        }
        Ok(found)
    }

    fn subjects(&self) -> Result<Vec<String>> {
        let mut subjects =
            self.call("subjects", || calls::get_all_subjects(&self.converter)).map_err(|fault| self.error("subjects", fault))?;
        subjects.sort_unstable();
        Ok(subjects)
    }

    fn compatibility(&self, subject: &str) -> Result<String> {
        let what = format!("the compatibility level of \"{subject}\"");
        self.call(&what, || self.level(subject)).map_err(|fault| self.error(&what, fault))
    }

    fn check(&self, subject: &str, schema: &AvroSchema) -> Result<Option<Vec<String>>> {
        let what = format!("compatibility with subject \"{subject}\"");
        let compatible = self.call(&what, || calls::is_compatible_schema(&self.converter, subject.to_string(), supplied(schema)));
        let said = match compatible {
            Ok(true) | Err(Fault::Missing) => return Ok(None),
            Ok(false) => "the registry refuses it".to_string(),
            Err(Fault::Refused(text)) => text,
            Err(fault) => return Err(self.error(&what, fault)),
        };
        // The registry decides; which fields differ is worked out here, since registries tell it in their own ways.
        let level = Level::parse(&self.compatibility(subject)?).unwrap_or(Level::parse("BACKWARD")?);
        let faults = compat::check(level, schema, &self.versions(subject)?);
        Ok(Some(if faults.is_empty() { vec![said] } else { faults }))
    }

    /// A refusal of what is compatible is no verdict: another process registered at the same moment, and the next try finds its schema.
    fn register(&self, subject: &str, schema: &AvroSchema) -> Result<RegisteredSchema> {
        let what = format!("registering under \"{subject}\"");
        let mut tries = 1;
        loop {
            match self.call(&what, || calls::post_schema(&self.converter, subject.to_string(), supplied(schema))) {
                Ok(answer) => {
                    let id = SchemaId(answer.id);
                    let schema = lock(&self.schemas).entry(id).or_insert_with(|| Arc::new(schema.clone())).clone();
                    return Ok(RegisteredSchema {
                        subject: subject.to_string(),
                        id,
                        version: answer.version.unwrap_or(0),
                        schema,
                    });
                }
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
}

fn supplied(schema: &AvroSchema) -> SuppliedSchema {
    SuppliedSchema::new(schema.full_name(), SchemaType::Avro, schema.text.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
