//! What the user sees of an ending: exit codes, errors and logs on stderr.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};
use crate::error::{Error, Kind};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    Done = 0,
    /// Failed while running.
    Failed = 1,
    /// Refused before starting: usage, configuration, contract, or something that can't be reached.
    Refused = 2,
    /// `test`, `demo` and checks found differences.
    Differences = 3,
}

impl Exit {
    /// Of an error that a command met before it started anything.
    pub fn before_start(error: &Error) -> Exit {
        match error.kind {
            Kind::Config | Kind::Contract | Kind::Away => Exit::Refused,
            Kind::Fenced | Kind::Abort | Kind::Unknown | Kind::Corrupt | Kind::Failed => Exit::Failed,
        }
    }

    /// Of an error that ended a worker: one that was found before its first commit (offsets moved by hand) is a refusal.
    pub fn of_worker(error: &Error, commits: u64) -> Exit {
        match error.kind {
            Kind::Config | Kind::Contract if commits == 0 => Exit::Refused,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// `error: ...` and `hint: ...`, or one JSON line.
pub fn error(format: LogFormat, pipeline: Option<&str>, error: &Error) {
    let text = match format {
        LogFormat::Human => human(pipeline, error),
        LogFormat::Json => {
            let mut line = serde_json::json!({
                "timestamp": chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
                "level": "ERROR",
                "kind": error.kind.as_str(),
                "error": error.message,
            });
            for (key, value) in [("hint", error.hint.as_deref()), ("pipeline", pipeline)] {
                if let Some(value) = value {
                    line[key] = value.into();
                }
            }
            line.to_string()
        }
    };
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn human(pipeline: Option<&str>, error: &Error) -> String {
    let place = pipeline.map(|pipeline| format!("pipeline \"{pipeline}\": ")).unwrap_or_default();
    let hint = error.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("error: {place}{}{hint}", error.message)
}

/// Sends `tracing` events to stderr. `RUST_LOG` wins over the settings, as everywhere.
pub fn log_to_stderr(settings: &Settings, long_running: bool, asked: bool) {
    let log = &settings.typed.log;
    // A short command's error says what the Kafka client saw last; its own lines would only stand before it.
    let level = if long_running || asked { log.level.as_str() } else { "warn,librdkafka=off" };
    let filter = match std::env::var("RUST_LOG") {
        Ok(given) if !given.is_empty() => EnvFilter::try_new(given).unwrap_or_else(|_| EnvFilter::new(level)),
        _ => EnvFilter::new(level),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call (a library's user runs two commands in one process) keeps the first.
    let _ = match log.format {
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_hint_on_a_line_of_its_own() {
        let error = Error::config("topic \"x\" does not exist").hint("create it");
        assert_eq!(human(None, &error), "error: topic \"x\" does not exist\nhint: create it");
        assert!(human(Some("p"), &error).starts_with("error: pipeline \"p\": topic"));
    }

    #[test]
    fn exit_codes_tell_a_refusal_from_a_failure() {
        assert_eq!(Exit::before_start(&Error::away("registry")), Exit::Refused);
        assert_eq!(Exit::of_worker(&Error::config("moved"), 0), Exit::Refused);
        assert_eq!(Exit::of_worker(&Error::config("moved"), 3), Exit::Failed);
        assert_eq!(Exit::of_worker(&Error::away("broker"), 0), Exit::Failed);
    }
}
