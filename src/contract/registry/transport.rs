//! Requests to a registry: several addresses, retries with backoff and jitter, a circuit breaker.
//!
//! What an answer means follows from its status and its `error_code`, never from its texts: those differ between registries.

use std::error::Error as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client, Identity, Method, Url};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::RegistrySettings;
use crate::error::{Error, Kind, Result};

/// Rounds over all addresses before a call counts as failed.
const TRIES: u32 = 3;
/// The first wait between rounds; it doubles, with up to half of it as jitter.
const BACKOFF: Duration = Duration::from_millis(100);
/// The longest time for which the circuit breaker stays open.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// `error_code`s that say that a subject, version or schema is missing are 404 and two more digits; a plain 404 is a path that the
/// server does not know.
const MISSING_CODES: std::ops::RangeInclusive<i64> = 40_400..=40_499;
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// What a call came to, other than a good answer.
pub(super) enum Fault {
    /// The registry knows no such id, subject or version.
    Missing,
    /// The server knows no such path: it is no registry, or an older one.
    NoSuchPath(Error),
    /// 409, 422: the registry does not take the schema.
    Refused(String),
    Other(Error),
}

pub(super) struct Transport {
    addresses: Vec<Address>,
    client: Client,
    settings: RegistrySettings,
    /// `Option` only so that `drop` can shut it down without waiting.
    runtime: Option<Runtime>,
    state: Mutex<State>,
}

struct Address {
    /// Without user and password.
    url: Url,
    user: Option<(String, Option<String>)>,
}

#[derive(Debug, Default)]
struct State {
    /// The address that answered last: it is asked first.
    preferred: usize,
    breaker: Breaker,
}

/// Closed: calls go out. Open: calls fail at once until the time is over; then one goes out, and closes or reopens it.
#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

impl Transport {
    /// Does not ask the registry yet.
    pub fn new(settings: RegistrySettings) -> Result<Transport> {
        let addresses = settings.urls.iter().map(|url| address(url)).collect::<Result<Vec<_>>>()?;
        if addresses.is_empty() {
            return Err(Error::config("no schema registry is configured").hint("set [registry] url, or give --registry"));
        }
        let client = client(&settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("registry").enable_all().build();
        let runtime = runtime.map_err(|e| Error::failed(format!("threads for the schema registry can't be started: {e}")))?;
        Ok(Transport { addresses, client, settings, runtime: Some(runtime), state: Mutex::default() })
    }

    /// The address that answered last, as it may be shown.
    pub fn url(&self) -> String {
        shown(&self.addresses[self.state().preferred].url)
    }

    /// Makes a call, again after a while if the registry is away, unless the breaker is open. `what` is named in errors.
    pub fn call(&self, what: &str, method: &Method, path: &[&str], body: Option<&Value>) -> Result<Value, Fault> {
        self.pass().map_err(Fault::Other)?;
        let began = Instant::now();
        let mut tries = 0;
        loop {
            let away = match self.round(what, method, path, body) {
                Err(Fault::Other(error)) if error.kind == Kind::Away => error,
                answered => {
                    self.state().breaker = Breaker::default();
                    return answered;
                }
            };
            tries += 1;
            // A registry that is slow is not asked three times over.
            if tries == TRIES || began.elapsed() >= self.settings.timeout {
                return Err(Fault::Other(self.failed(away)));
            }
            let wait = BACKOFF * 2u32.pow(tries - 1);
            std::thread::sleep(wait + wait.mul_f64(rand::random::<f64>() / 2.0));
        }
    }

    /// Asks one address after the other until one answers.
    fn round(&self, what: &str, method: &Method, path: &[&str], body: Option<&Value>) -> Result<Value, Fault> {
        let first = self.state().preferred;
        let mut away = None;
        for at in (0..self.addresses.len()).map(|n| (first + n) % self.addresses.len()) {
            match self.ask(at, what, method, path, body) {
                Err(Fault::Other(error)) if error.kind == Kind::Away => drop(away.get_or_insert(error)),
                answered => {
                    self.state().preferred = at;
                    return answered;
                }
            }
        }
        Err(Fault::Other(away.expect("there is an address, and it did not answer")))
    }

    fn ask(&self, at: usize, what: &str, method: &Method, path: &[&str], body: Option<&Value>) -> Result<Value, Fault> {
        let address = &self.addresses[at];
        let place = format!("schema registry {}: {what}", shown(&address.url));
        let mut url = address.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.client.request(method.clone(), url).header("Accept", format!("{MEDIA_TYPE}, application/json"));
        request = match (&self.settings.token, &self.settings.user, &address.user) {
            (Some(token), ..) => request.bearer_auth(token),
            (None, Some(user), _) => request.basic_auth(user, self.settings.password.as_deref()),
            (None, None, Some((user, password))) => request.basic_auth(user, password.as_deref()),
            (None, None, None) => request,
        };
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            request = request.header("Content-Type", MEDIA_TYPE).body(body.to_string());
        }
        let runtime = self.runtime.as_ref().expect("the runtime lives as long as the registry");
        let answer = runtime.block_on(async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.bytes().await?))
        });
        match answer {
            Ok((status, bytes)) => judge(&place, status, &bytes),
            Err(error) => Err(Fault::Other(Error::away(format!("{place}: {}", reason(error))))),
        }
    }

    fn pass(&self) -> Result<()> {
        let state = self.state();
        match state.breaker.open_until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(left) if !left.is_zero() => Err(Error::away(format!(
                "schema registry {}: away since {} calls, asked again in {:.1} s",
                shown(&self.addresses[state.preferred].url),
                state.breaker.failures,
                left.as_secs_f64()
            ))),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: Error) -> Error {
        let breaker = &mut self.state().breaker;
        breaker.failures += 1;
        let open = Duration::from_millis(500).saturating_mul(2u32.saturating_pow(breaker.failures.min(10) - 1)).min(OPEN_MAX);
        breaker.open_until = Some(Instant::now() + open);
        error.hint(format!("asked again in {:.1} s; check [registry] url and that the registry runs", open.as_secs_f64()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// By status and error code.
fn judge(place: &str, status: u16, bytes: &[u8]) -> Result<Value, Fault> {
    let body: Option<Value> = serde_json::from_slice(bytes).ok();
    if status == 200 {
        // A proxy's page is not the registry's answer: nothing is known, and nothing may follow from it.
        return body.ok_or_else(|| Fault::Other(Error::away(format!("{place}: status 200, but the answer is not JSON"))));
    }
    let field = |name: &str| body.as_ref().and_then(|body| body.get(name));
    let code = field("error_code").and_then(Value::as_i64);
    let text = field("message").and_then(Value::as_str).unwrap_or_default();
    let found = match (code, text) {
        (Some(code), "") => format!("status {status}, error code {code}"),
        (Some(code), text) => format!("status {status}, error code {code}: {text}"),
        (None, _) => format!("status {status}"),
    };
    let error = |kind| Error::new(kind, format!("{place}: {found}"));
    Err(match status {
        404 if code.is_some_and(|code| MISSING_CODES.contains(&code)) => Fault::Missing,
        404 => Fault::NoSuchPath(
            error(Kind::Config).hint("the server does not know this path: check that [registry] url is a registry's address"),
        ),
        409 | 422 => Fault::Refused(if text.is_empty() { found } else { text.to_string() }),
        401 => Fault::Other(error(Kind::Config).hint("check user and password, or token, under [registry]")),
        403 => Fault::Other(error(Kind::Config).hint("the user or token under [registry] lacks the right to do this")),
        408 | 429 | 500..=599 => Fault::Other(error(Kind::Away)),
        _ => Fault::Other(error(Kind::Failed)),
    })
}

/// With all causes: the outermost text only says that sending failed.
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_string();
    }
    // The address is named already, and may hold a password.
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn address(text: &str) -> Result<Address> {
    let bad = |why: &str| {
        let shown = text.rsplit_once('@').map_or(text, |(_, behind)| behind);
        Error::config(format!("schema registry \"{shown}\": {why}")).hint("such as http://localhost:8081")
    };
    let mut url = Url::parse(text).map_err(|e| bad(&format!("not a URL: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(bad("not an http or https address"));
    }
    let user = (!url.username().is_empty()).then(|| (url.username().to_string(), url.password().map(str::to_string)));
    // Both fail only for addresses that can't have a user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Ok(Address { url, user })
}

fn shown(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_string()
}

fn client(settings: &RegistrySettings) -> Result<Client> {
    let mut builder = Client::builder().timeout(settings.timeout);
    if let Some(file) = &settings.ca_file {
        let bundle = pem("ca_file", file, Certificate::from_pem_bundle)?;
        if bundle.is_empty() {
            return Err(Error::config(format!("[registry] ca_file \"{}\" holds no certificate", file.display()))
                .hint("give a PEM file with the authority that signed the registry's certificate"));
        }
        builder = builder.tls_certs_merge(bundle);
    }
    match (&settings.cert_file, &settings.key_file) {
        (Some(cert), Some(key)) => {
            let key = pem("key_file", key, |bytes| Ok(bytes.to_vec()))?;
            builder = builder.identity(pem("cert_file", cert, |bytes| Identity::from_pkcs8_pem(bytes, &key))?);
        }
        (None, None) => {}
        (cert, _) => {
            let missing = if cert.is_some() { "key_file" } else { "cert_file" };
            return Err(Error::config(format!("[registry] {missing} is missing"))
                .hint("a client certificate needs both cert_file and key_file, in PEM"));
        }
    }
    builder.build().map_err(|e| Error::config(format!("[registry] TLS settings can't be used: {}", reason(e))))
}

fn pem<T>(setting: &str, file: &Path, read: impl Fn(&[u8]) -> reqwest::Result<T>) -> Result<T> {
    let bytes = std::fs::read(file).map_err(|e| {
        Error::config(format!("[registry] {setting} \"{}\" can't be read: {e}", file.display())).hint("give a readable PEM file")
    })?;
    read(&bytes).map_err(|e| {
        Error::config(format!("[registry] {setting} \"{}\" can't be used: {}", file.display(), reason(e)))
            .hint("it must be in PEM; a key in PKCS#8 (BEGIN PRIVATE KEY)")
    })
}
