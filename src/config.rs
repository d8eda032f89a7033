//! Settings of the process: TOML *as typed* (unknown keys refused) -> *checked*, ready for the rooms that use them.
//!
//! A value comes from the file (`--config`, `TIDEMILL_CONFIG`, or `./tidemill.toml`), is overridden by an environment variable
//! (`[kafka] brokers` is `TIDEMILL_KAFKA_BROKERS`), and that by an option of the command line. `config/example.toml` shows every key.
//!
//! Invariant: a secret is never shown, neither by `Debug` nor in an error.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::contract::Strategy;
use crate::error::{Error, Result, nearest};
use crate::job::{SchemaRegistration, TopicsCreate};
use crate::store::memory::{self, Memory};
use crate::task::names::Names;
use crate::task::restorer::Restoring;
use crate::task::run::Delivery;

/// Where the file is looked for when neither `--config` nor `TIDEMILL_CONFIG` names one.
pub const DEFAULT_FILE: &str = "tidemill.toml";
/// Below this the program has no room for itself.
const LEAST_BUDGET: usize = 64 << 20;
const ENV_PREFIX: &str = "TIDEMILL_";

/// How a key's environment variable is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Number,
    /// TOML, e.g. `{ "security.protocol" = "SSL" }`.
    Toml,
}

/// Every key. A test compares it with the structs and with `config/example.toml`.
const KEYS: &[(&str, &str, Form)] = &[
    ("kafka", "brokers", Form::Text),
    ("kafka", "properties", Form::Toml),
    ("registry", "url", Form::Text),
    ("registry", "user", Form::Text),
    ("registry", "password", Form::Text),
    ("registry", "token", Form::Text),
    ("registry", "headers", Form::Toml),
    ("registry", "ca_file", Form::Text),
    ("registry", "cert_file", Form::Text),
    ("registry", "key_file", Form::Text),
    ("registry", "strategy", Form::Text),
    ("registry", "timeout", Form::Text),
    ("state", "dir", Form::Text),
    ("state", "checkpoint_interval", Form::Text),
    ("state", "standby_tasks", Form::Number),
    ("serve", "address", Form::Text),
    ("time", "idle_after", Form::Text),
    ("time", "quiet_after", Form::Text),
    ("commit", "interval", Form::Text),
    ("commit", "delivery", Form::Text),
    ("commit", "transaction_timeout", Form::Text),
    ("topics", "create", Form::Text),
    ("topics", "replication", Form::Number),
    ("topics", "name_prefix", Form::Text),
    ("schema", "registration", Form::Text),
    ("log", "format", Form::Text),
    ("log", "level", Form::Text),
    ("limits", "poll_records", Form::Number),
    ("limits", "record_bytes", Form::Number),
    ("memory", "budget", Form::Text),
];

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

/// A whole file, as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Typed {
    pub kafka: Kafka,
    pub registry: Registry,
    pub state: State,
    pub serve: Serve,
    pub time: Time,
    pub commit: Commit,
    pub topics: Topics,
    pub schema: Schema,
    pub log: Log,
    pub limits: Limits,
    pub memory: MemoryShare,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// Any property of librdkafka, handed on as it is.
    #[serde(deserialize_with = "properties")]
    pub properties: BTreeMap<String, Secret>,
}

impl Default for Kafka {
    fn default() -> Kafka {
        Kafka { brokers: "127.0.0.1:9092".into(), properties: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// One or several, separated by commas.
    pub url: String,
    pub user: String,
    pub password: Secret,
    /// A bearer token; instead of user and password.
    pub token: Secret,
    /// Further headers of every request.
    #[serde(deserialize_with = "properties")]
    pub headers: BTreeMap<String, Secret>,
    /// PEM: authorities that are trusted beside the system's; empty: none.
    pub ca_file: PathBuf,
    /// PEM: the client's certificate and its key; empty: none.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// How subjects are named.
    pub strategy: Strategy,
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            url: "http://127.0.0.1:8081".into(),
            user: String::new(),
            password: Secret::default(),
            token: Secret::default(),
            headers: BTreeMap::new(),
            ca_file: PathBuf::new(),
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            strategy: Strategy::default(),
            timeout: Duration::from_secs(3),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    pub dir: PathBuf,
    #[serde(deserialize_with = "duration")]
    pub checkpoint_interval: Duration,
    /// Of how many tasks that others own a process keeps warm copies.
    pub standby_tasks: usize,
}

impl Default for State {
    fn default() -> State {
        State { dir: "tidemill-state".into(), checkpoint_interval: Duration::from_secs(10), standby_tasks: 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    /// `host:port`; empty: no HTTP.
    pub address: String,
}

impl Default for Serve {
    fn default() -> Serve {
        Serve { address: "127.0.0.1:8080".into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Time {
    /// `None` ("off"): a quiet partition holds back the others for ever.
    #[serde(deserialize_with = "duration_or_off")]
    pub idle_after: Option<Duration>,
    /// `None` ("off"): when everything is quiet, the last windows wait for the next record.
    #[serde(deserialize_with = "duration_or_off")]
    pub quiet_after: Option<Duration>,
}

impl Default for Time {
    fn default() -> Time {
        Time { idle_after: Some(Duration::from_secs(30)), quiet_after: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Commit {
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    #[serde(deserialize_with = "delivery")]
    pub delivery: Delivery,
    #[serde(deserialize_with = "duration")]
    pub transaction_timeout: Duration,
}

impl Default for Commit {
    fn default() -> Commit {
        Commit {
            interval: Duration::from_millis(100),
            delivery: Delivery::ExactlyOnce,
            transaction_timeout: Duration::from_secs(15),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topics {
    pub create: TopicsCreate,
    /// -1: the broker's default.
    pub replication: i32,
    pub name_prefix: String,
}

impl Default for Topics {
    fn default() -> Topics {
        Topics { create: TopicsCreate::All, replication: -1, name_prefix: "tidemill.".into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schema {
    pub registration: SchemaRegistration,
}

impl Default for Schema {
    fn default() -> Schema {
        Schema { registration: SchemaRegistration::Register }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    /// A level, or filters such as `info,tidemill::task=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Human, level: "info".into() }
    }
}

/// How log lines and errors are written to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Records taken from the consumer at once.
    pub poll_records: usize,
    /// Largest record that is written, in bytes.
    pub record_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { poll_records: 20_000, record_bytes: 1_000_000 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryShare {
    /// Of the process, in bytes.
    #[serde(deserialize_with = "byte_count")]
    pub budget: usize,
}

impl Default for MemoryShare {
    fn default() -> MemoryShare {
        MemoryShare { budget: memory::DEFAULT_BUDGET }
    }
}

/// An option of the command line that overrides a key.
#[derive(Clone, Debug)]
pub struct Override {
    /// As the user typed it: `--brokers`.
    pub option: &'static str,
    pub section: &'static str,
    pub key: &'static str,
    pub value: String,
}

/// Where values come from; the process's own environment is passed in, so that tests have one of their own.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// `--config`.
    pub file: Option<PathBuf>,
    pub environment: BTreeMap<String, String>,
    pub overrides: Vec<Override>,
}

/// Settings, checked; secrets are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub typed: Typed,
    /// The file they came from.
    pub file: Option<PathBuf>,
}

impl Settings {
    /// # Errors
    /// `Config` naming file, line and column, the environment variable or the option.
    pub fn load(origins: &Origins) -> Result<Settings> {
        let (file, explicit) = match (&origins.file, origins.environment.get("TIDEMILL_CONFIG")) {
            (Some(file), _) => (file.clone(), Some("--config")),
            (None, Some(file)) if !file.is_empty() => (PathBuf::from(file), Some("TIDEMILL_CONFIG")),
            _ => (PathBuf::from(DEFAULT_FILE), None),
        };
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && explicit.is_none() => None,
            Err(e) => {
                let by = explicit.map(|by| format!(" (given by {by})")).unwrap_or_default();
                return Err(Error::config(format!("config file \"{}\"{by} can't be read: {e}", file.display()))
                    .hint("give the path of a readable TOML file; config/example.toml shows every key"));
            }
        };
        let source = Source { file: text.as_ref().map(|_| file.as_path()), text: text.as_deref().unwrap_or_default() };
        let mut merged = source.parse()?;
        let mut given = Given { source, by: BTreeMap::new() };
        for (section, key, name, value) in environment(&origins.environment)? {
            given.set(&mut merged, section, key, format!("environment variable {name}"), &value)?;
        }
        for over in &origins.overrides {
            given.set(&mut merged, over.section, over.key, over.option.to_string(), &over.value)?;
        }
        let mut typed =
            Typed::deserialize(merged).map_err(|e| Error::config(format!("settings do not fit together: {}", e.message())))?;
        given.resolve_secrets(&mut typed, &origins.environment)?;
        given.check(&typed)?;
        Ok(Settings { typed, file: text.as_ref().map(|_| file.clone()) })
    }

    /// What the job room needs. `state_dir` is left to the command: only some lock it.
    pub fn job(&self) -> crate::job::Settings {
        let typed = &self.typed;
        crate::job::Settings {
            name_prefix: typed.topics.name_prefix.clone(),
            delivery: typed.commit.delivery,
            commit_interval_ms: typed.commit.interval.as_millis() as u64,
            idle_after: typed.time.idle_after,
            quiet_after: typed.time.quiet_after,
            transaction_timeout: typed.commit.transaction_timeout,
            topics_create: typed.topics.create,
            replication: typed.topics.replication,
            schema_registration: typed.schema.registration,
            state_dir: None,
            max_poll_records: typed.limits.poll_records,
            max_record_bytes: typed.limits.record_bytes,
            checkpoint_interval: typed.state.checkpoint_interval,
            memory: Memory::of(typed.memory.budget),
            restoring: Restoring::Threads,
            standby_tasks: typed.state.standby_tasks,
        }
    }
}

/// The file's text, for places in errors.
#[derive(Clone, Copy)]
struct Source<'a> {
    file: Option<&'a Path>,
    text: &'a str,
}

impl Source<'_> {
    fn parse(&self) -> Result<toml::Table> {
        if self.file.is_none() {
            return Ok(toml::Table::new());
        }
        // Typed first: its errors know where they are.
        toml::from_str::<Typed>(self.text).map_err(|e| self.fault(&e))?;
        self.text.parse().map_err(|e| self.fault(&e))
    }

    fn fault(&self, error: &toml::de::Error) -> Error {
        let (message, hint) = plain(error.message());
        let place = error.span().map(|span| self.place(span.start)).unwrap_or_else(|| self.name());
        let quoted = error.span().map(|span| quote(self.text, span.start)).unwrap_or_default();
        Error::config(format!("{place}: {message}{quoted}")).hint(hint)
    }

    fn name(&self) -> String {
        self.file.map(|file| file.display().to_string()).unwrap_or_else(|| "default settings".into())
    }

    fn place(&self, at: usize) -> String {
        let (line, column) = line_column(self.text, at);
        format!("{}:{line}:{column}", self.name())
    }

    /// Where a key stands in the file: the line of `key =` below `[section]`.
    fn place_of_key(&self, section: &str, key: &str) -> Option<String> {
        let mut inside = false;
        for (number, line) in self.text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('[') {
                inside = line.trim_matches(['[', ']']).trim() == section;
            } else if let Some((name, _)) = line.split_once('=')
                && ((inside && name.trim() == key) || name.trim() == format!("{section}.{key}"))
            {
                return Some(format!("{}:{}", self.name(), number + 1));
            }
        }
        None
    }
}

/// 1-based line and column, in characters.
fn line_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// The line that holds `at`, with a mark below the place. A value is left out, since it may be a secret.
fn quote(text: &str, at: usize) -> String {
    let (line, column) = line_column(text, at);
    let Some(whole) = text.lines().nth(line - 1) else { return String::new() };
    let shown = match whole.split_once('=') {
        Some((key, _)) if column <= key.chars().count() => key.trim_end().to_string(),
        Some((key, _)) => return format!("\n  {} = ...", key.trim()),
        None => whole.to_string(),
    };
    format!("\n  {shown}\n  {}^", " ".repeat(column - 1))
}

/// serde's words in ours: "did you mean" for names that are unknown.
fn plain(message: &str) -> (String, String) {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let everything = "config/example.toml shows every key with its default";
    for (unknown, what) in [("unknown field ", "key"), ("unknown variant ", "value")] {
        if message.starts_with(unknown)
            && let Some((given, known)) = names.split_first()
        {
            let hint = match nearest(given, known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"? the {what}s here are {}", known.join(", ")),
                None => format!("the {what}s here are {}; {everything}", known.join(", ")),
            };
            return (format!("unknown {what} \"{given}\""), hint);
        }
    }
    let first = message.lines().next().unwrap_or_default();
    (first.replace('`', "\""), everything.to_string())
}

/// The variables that override keys: section, key, variable, value.
fn environment(environment: &BTreeMap<String, String>) -> Result<Vec<(&'static str, &'static str, String, String)>> {
    let variable = |section: &str, key: &str| format!("{ENV_PREFIX}{}_{}", section.to_uppercase(), key.to_uppercase());
    let known: Vec<String> = KEYS.iter().map(|(section, key, _)| variable(section, key)).collect();
    let mut found = Vec::new();
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)) {
        match known.iter().position(|known| known == name) {
            Some(at) => found.push((KEYS[at].0, KEYS[at].1, name.clone(), value.clone())),
            None if matches!(name.as_str(), "TIDEMILL_CONFIG") => {}
            // Others may set variables that begin so (a service called "tidemill" does, in Kubernetes): only a slip is refused.
            None => {
                let near = known.iter().find(|known| strsim::damerau_levenshtein(known, name) <= 2);
                if let Some(near) = near {
                    return Err(
                        Error::config(format!("environment variable {name} is no setting")).hint(format!("did you mean {near}?"))
                    );
                }
            }
        }
    }
    Ok(found)
}

/// Which values did not come from the file, for places in errors.
struct Given<'a> {
    source: Source<'a>,
    by: BTreeMap<(&'static str, &'static str), String>,
}

impl Given<'_> {
    /// Puts a value over the file's, after having tried it alone: an error names its origin.
    fn set(&mut self, merged: &mut toml::Table, section: &'static str, key: &'static str, by: String, value: &str) -> Result<()> {
        let form = KEYS.iter().find(|(s, k, _)| (*s, *k) == (section, key)).map(|(_, _, form)| *form);
        let form = form.expect("overrides name keys of the list");
        let fault = |message: &str, hint: String| Error::config(format!("{by}: {message}")).hint(hint);
        let value = match form {
            Form::Text => toml::Value::String(value.to_string()),
            Form::Number => {
                let number =
                    value.trim().parse().map_err(|_| fault("a number was expected", format!("it sets [{section}] {key}")))?;
                toml::Value::Integer(number)
            }
            Form::Toml => {
                let table: toml::Table = format!("value = {value}").parse().map_err(|_| {
                    fault("it is not TOML", format!("it sets [{section}] {key}: write {{ \"a.property\" = \"its value\" }}"))
                })?;
                table.get("value").cloned().expect("the text begins with this key")
            }
        };
        let alone =
            toml::Table::from_iter([(section.to_string(), toml::Table::from_iter([(key.to_string(), value.clone())]).into())]);
        Typed::deserialize(alone).map_err(|e| {
            let (message, hint) = plain(e.message());
            fault(&message, hint)
        })?;
        let table = merged.entry(section).or_insert_with(|| toml::Table::new().into());
        if let Some(table) = table.as_table_mut() {
            table.insert(key.to_string(), value);
        }
        self.by.insert((section, key), by);
        Ok(())
    }

    /// Where a value comes from.
    fn place(&self, section: &'static str, key: &'static str) -> String {
        match self.by.get(&(section, key)) {
            Some(by) => by.clone(),
            None => self.source.place_of_key(section, key).unwrap_or_else(|| self.source.name()),
        }
    }

    fn fault(&self, section: &'static str, key: &'static str, message: impl fmt::Display) -> Error {
        Error::config(format!("{}: [{section}] {key} {message}", self.place(section, key)))
    }

    fn resolve_secrets(&self, typed: &mut Typed, environment: &BTreeMap<String, String>) -> Result<()> {
        let resolve = |section, key, text: &str| {
            resolve(text, environment).map_err(|(message, hint)| self.fault(section, key, message).hint(hint))
        };
        typed.kafka.brokers = resolve("kafka", "brokers", &typed.kafka.brokers)?;
        for value in typed.kafka.properties.values_mut() {
            *value = Secret(resolve("kafka", "properties", value.expose())?);
        }
        let registry = &mut typed.registry;
        registry.url = resolve("registry", "url", &registry.url)?;
        registry.user = resolve("registry", "user", &registry.user)?;
        registry.password = Secret(resolve("registry", "password", registry.password.expose())?);
        registry.token = Secret(resolve("registry", "token", registry.token.expose())?);
        for value in registry.headers.values_mut() {
            *value = Secret(resolve("registry", "headers", value.expose())?);
        }
        Ok(())
    }

    fn check(&self, typed: &Typed) -> Result<()> {
        for broker in typed.kafka.brokers.split(',') {
            let port = broker.trim().rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                return Err(self
                    .fault("kafka", "brokers", format!("has \"{}\", which is not host:port", broker.trim()))
                    .hint("give brokers as host:port, separated by commas"));
            }
        }
        for url in typed.registry.url.split(',').map(str::trim) {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                return Err(self
                    .fault("registry", "url", format!("has \"{url}\", which is not an HTTP address"))
                    .hint("give addresses as http://host:port or https://host:port, separated by commas"));
            }
        }
        if !typed.registry.token.is_empty() && !typed.registry.user.is_empty() {
            return Err(self
                .fault("registry", "token", "is given, and a user too")
                .hint("give either a token, or user and password"));
        }
        if !typed.serve.address.is_empty() && !typed.serve.address.contains(':') {
            return Err(self
                .fault("serve", "address", format!("is \"{}\", which is not host:port", typed.serve.address))
                .hint("give host:port, or \"\" for no HTTP"));
        }
        let (interval, timeout) = (typed.commit.interval, typed.commit.transaction_timeout);
        if timeout < Duration::from_secs(1) {
            return Err(self.fault("commit", "transaction_timeout", "is below 1s").hint("15s is modest already"));
        }
        if interval.is_zero() || interval * 2 > timeout {
            return Err(self
                .fault(
                    "commit",
                    "interval",
                    format!("is {interval:?}: it must be above 0 and at most half of transaction_timeout ({timeout:?})"),
                )
                .hint("100ms is a good begin; larger commits cost latency and give throughput"));
        }
        if typed.topics.replication != -1 && typed.topics.replication < 1 {
            return Err(self.fault("topics", "replication", "must be -1 (the broker's default) or at least 1"));
        }
        Names::new(&typed.topics.name_prefix, "pipeline", 1).map_err(|e| e.context(self.place("topics", "name_prefix")))?;
        if typed.limits.poll_records == 0 {
            return Err(self.fault("limits", "poll_records", "must be above 0"));
        }
        if typed.limits.record_bytes < 1000 {
            return Err(self.fault("limits", "record_bytes", "must be at least 1000"));
        }
        if typed.memory.budget < LEAST_BUDGET {
            return Err(self
                .fault("memory", "budget", format!("is {} bytes: the program itself needs 64MB", typed.memory.budget))
                .hint("give 256MB or more; state that does not fit goes to disk"));
        }
        tracing_subscriber::EnvFilter::try_new(&typed.log.level).map_err(|e| {
            self.fault("log", "level", format!("is not understood: {e}"))
                .hint("give error, warn, info, debug, trace, or filters by module")
        })?;
        Ok(())
    }
}

/// Replaces `${env:NAME}` and `${file:/path}`. The error's text names the variable or file, never a value.
fn resolve(text: &str, environment: &BTreeMap<String, String>) -> Result<String, (String, String)> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(end) = rest[start..].find('}') else {
            return Err(("has \"${\" without \"}\"".into(), "write ${env:NAME} or ${file:/path}".into()));
        };
        out.push_str(&rest[..start]);
        let reference = &rest[start + 2..start + end];
        match reference.split_once(':') {
            Some(("env", name)) => match environment.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    return Err((format!("refers to the environment variable {name}, which is not set"), format!("set {name}")));
                }
            },
            Some(("file", path)) => match std::fs::read_to_string(path) {
                Ok(value) => out.push_str(value.trim_end_matches(['\n', '\r'])),
                Err(e) => {
                    return Err((
                        format!("refers to the file \"{path}\", which can't be read: {e}"),
                        "let this user read it".into(),
                    ));
                }
            },
            _ => return Err((format!("refers to \"{reference}\""), "write ${env:NAME} or ${file:/path}".into())),
        }
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// `100ms`, `15s`, `5m`, `2h`, `1d`.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let fault = || Error::config(format!("duration \"{text}\" is not understood")).hint("write 100ms, 15s, 5m, 2h or 1d");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| fault())?;
    let millis = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(fault()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(fault)
}

/// `256MB`, `2GB`: in steps of 1024.
pub fn parse_bytes(text: &str) -> Result<usize> {
    let fault = || Error::config(format!("size \"{text}\" is not understood")).hint("write 512MB or 2GB");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..digits].parse().map_err(|_| fault())?;
    let shift = match text[digits..].trim() {
        "B" => 0,
        "KB" | "KiB" => 10,
        "MB" | "MiB" => 20,
        "GB" | "GiB" => 30,
        _ => return Err(fault()),
    };
    number.checked_mul(1 << shift).ok_or_else(fault)
}

fn byte_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_bytes(&text).map_err(|e| serde::de::Error::custom(format!("{}: write 512MB or 2GB", e.message)))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(|e| serde::de::Error::custom(format!("{}: write 100ms, 15s, 5m, 2h or 1d", e.message)))
}

fn duration_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    let wrong = |e: Error| serde::de::Error::custom(format!("{}: write 30s, 5m, or \"off\"", e.message));
    parse_duration(&text).map(Some).map_err(wrong)
}

fn delivery<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Delivery, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "exactly_once" => Ok(Delivery::ExactlyOnce),
        "at_least_once" => Ok(Delivery::AtLeastOnce),
        other => Err(serde::de::Error::unknown_variant(other, &["exactly_once", "at_least_once"])),
    }
}

/// Strings, numbers and booleans, as librdkafka takes them.
fn properties<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Secret>, D::Error> {
    let table = BTreeMap::<String, toml::Value>::deserialize(deserializer)?;
    let mut all = BTreeMap::new();
    flatten("", table, &mut all).map_err(serde::de::Error::custom)?;
    Ok(all)
}

/// A property's name has dots: an unquoted `security.protocol = "SSL"` is nested tables to TOML, and means the same here.
fn flatten(
    prefix: &str,
    table: impl IntoIterator<Item = (String, toml::Value)>,
    all: &mut BTreeMap<String, Secret>,
) -> Result<(), String> {
    for (key, value) in table {
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Table(table) => {
                flatten(&name, table, all)?;
                continue;
            }
            other => {
                return Err(format!("property \"{name}\" is a TOML {}: write a string, a number or a boolean", other.type_str()));
            }
        };
        all.insert(name, Secret(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(text: &str) -> (tempfile::TempDir, Origins) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.toml");
        std::fs::write(&file, text).unwrap();
        (dir, Origins { file: Some(file), ..Origins::default() })
    }

    fn refused(text: &str) -> Error {
        let (_dir, origins) = origins(text);
        let error = Settings::load(&origins).unwrap_err();
        assert_eq!(error.kind, crate::error::Kind::Config);
        error
    }

    #[test]
    fn the_list_of_keys_is_the_structs() {
        let mut sections: Vec<&str> = KEYS.iter().map(|(section, _, _)| *section).collect();
        sections.dedup();
        for section in &sections {
            let message = toml::from_str::<Typed>(&format!("[{section}]\nzzz = 1\n")).unwrap_err().message().to_string();
            let mut fields: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
            let mut keys: Vec<&str> = KEYS.iter().filter(|(s, _, _)| s == section).map(|(_, key, _)| *key).collect();
            fields.sort_unstable();
            keys.sort_unstable();
            assert_eq!(fields, keys, "[{section}]");
        }
        let message = toml::from_str::<Typed>("zzz = 1").unwrap_err().message().to_string();
        assert_eq!(message.split('`').skip(3).step_by(2).count(), sections.len());
    }

    #[test]
    fn an_unknown_key_names_its_place_and_what_was_meant() {
        let error = refused("[kafka]\nbrokers = \"a:1\"\n\n[commit]\n  intervall = \"1s\"\n");
        assert!(error.message.contains("t.toml:5:3: unknown key \"intervall\""), "{}", error.message);
        assert!(error.hint.unwrap().contains("did you mean \"interval\""));
        let error = refused("[comit]\n");
        assert!(error.message.contains("t.toml:1:2: unknown key \"comit\""), "{}", error.message);
    }

    #[test]
    fn broken_toml_names_its_place() {
        let error = refused("[kafka]\nbrokers = \n");
        assert!(error.message.contains("t.toml:2:"), "{}", error.message);
    }

    #[test]
    fn values_that_do_not_fit_are_refused_with_their_place() {
        for (text, says) in [
            ("[commit]\ninterval = \"100\"", "t.toml:2:12: duration \"100\""),
            ("[time]\nquiet_after = \"soon\"", "t.toml:2:15: duration \"soon\" is not understood: write 30s, 5m, or \"off\""),
            ("[commit]\ndelivery = \"exactly_one\"", "unknown value \"exactly_one\""),
            ("[commit]\n# why\ninterval = \"10s\"", "t.toml:3: [commit] interval is 10s"),
            ("[kafka]\nbrokers = \"kafka\"", "t.toml:2: [kafka] brokers has \"kafka\""),
            ("[registry]\nurl = \"localhost\"", "t.toml:2: [registry] url"),
            ("[topics]\nname_prefix = \"a b\"", "t.toml:2: name_prefix \"a b\""),
            ("[limits]\npoll_records = 0", "t.toml:2: [limits] poll_records"),
            ("[memory]\nbudget = \"512\"", "t.toml:2:10: size \"512\""),
            ("[memory]\nbudget = \"1MB\"", "t.toml:2: [memory] budget is 1048576 bytes"),
            ("[topics]\nreplication = 0", "t.toml:2: [topics] replication"),
            ("[kafka.properties]\nx = [1]", "property \"x\""),
        ] {
            let error = refused(text);
            assert!(error.message.contains(says), "{text}: {}", error.message);
        }
    }

    #[test]
    fn the_environment_overrides_the_file_and_options_override_both() {
        let (_dir, mut origins) = origins("[kafka]\nbrokers = \"file:1\"\n[topics]\nreplication = 3\n");
        origins.environment.insert("TIDEMILL_KAFKA_BROKERS".into(), "env:1".into());
        origins.environment.insert("TIDEMILL_LIMITS_POLL_RECORDS".into(), "7".into());
        origins.environment.insert("TIDEMILL_KAFKA_PROPERTIES".into(), "{ \"a.b\" = 1 }".into());
        let settings = Settings::load(&origins).unwrap().typed;
        assert_eq!((settings.kafka.brokers.as_str(), settings.limits.poll_records, settings.topics.replication), ("env:1", 7, 3));
        assert_eq!(settings.kafka.properties["a.b"].expose(), "1");
        origins.overrides.push(Override { option: "--brokers", section: "kafka", key: "brokers", value: "flag:1".into() });
        assert_eq!(Settings::load(&origins).unwrap().typed.kafka.brokers, "flag:1");
        origins.overrides[0].value = "flag".into();
        assert!(Settings::load(&origins).unwrap_err().message.starts_with("--brokers: [kafka] brokers"));
    }

    #[test]
    fn a_slip_in_a_variable_is_refused_and_a_stranger_is_not() {
        let mut origins = Origins::default();
        origins.environment.insert("TIDEMILL_SERVICE_HOST".into(), "10.0.0.1".into());
        assert!(Settings::load(&origins).is_ok());
        origins.environment.insert("TIDEMILL_KAFKA_BROKER".into(), "a:1".into());
        let error = Settings::load(&origins).unwrap_err();
        assert!(error.message.contains("TIDEMILL_KAFKA_BROKER ") && error.hint.unwrap().contains("TIDEMILL_KAFKA_BROKERS"));
    }

    #[test]
    fn secrets_are_resolved_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "from-file\n").unwrap();
        let text = format!(
            "[registry]\nuser = \"me\"\npassword = \"${{file:{}}}\"\n[kafka.properties]\nsasl.password = \"${{env:SASL}}\"\n\"security.protocol\" = \"SSL\"\n",
            file.display()
        );
        let (_dir, mut origins) = origins(&text);
        let missing = Settings::load(&origins).unwrap_err();
        assert!(missing.message.contains("variable SASL, which is not set"), "{}", missing.message);
        origins.environment.insert("SASL".into(), "from-env".into());
        let settings = Settings::load(&origins).unwrap();
        assert_eq!(settings.typed.registry.password.expose(), "from-file");
        assert_eq!(settings.typed.kafka.properties["sasl.password"].expose(), "from-env");
        let shown = format!("{settings:?}");
        assert!(!shown.contains("from-") && shown.contains("***"), "{shown}");
    }

    #[test]
    fn an_error_never_quotes_a_value() {
        let error = refused("[registry]\npassword = [\"hunter2\"]\n");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn sizes_are_read_in_their_units() {
        for (text, bytes) in [("64MB", 64 << 20), ("2 GB", 2 << 30), ("100000000B", 100_000_000), ("65536KB", 64 << 20)] {
            assert_eq!(parse_bytes(text).unwrap(), bytes);
        }
        for text in ["", "MB", "1.5GB", "-1GB", "1TB", "512", "99999999999999999999GB", "99999999999999GB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_in_their_units() {
        for (text, millis) in [("100ms", 100), ("15s", 15_000), ("5m", 300_000), ("2h", 7_200_000), ("1d", 86_400_000)] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis));
        }
        for text in ["", "s", "1", "1.5s", "-1s", "1w", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
