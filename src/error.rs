//! Error and its kinds: at the border an error is known by what the caller does about it.
//!
//! Each room has its own `thiserror` enum near the fault and turns it into an [`Error`] here. The text is lower case, names
//! the exact place and what was found; the hint says what to do.

use std::fmt;

/// What the caller must do (DESIGN section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Broker, registry or object store unreachable: retry with backoff, divert nothing.
    Away,
    /// Incompatible schema: stop that pipeline and say what differs.
    Contract,
    /// Bad SQL, unknown key, missing topic, moved offsets: refuse before starting (exit code 2).
    Config,
    /// Another owner took over: end the tasks quietly and rejoin.
    Fenced,
    /// A transaction that can be aborted: abort, go back to the last commit, go on.
    Abort,
    /// A commit whose outcome is not known: ask for the committed offsets, then keep, undo or restore.
    Unknown,
    /// A store disagrees with its changelog, or an internal topic can't be decoded: rebuild or fail, never skip.
    Corrupt,
    /// Anything else that ends the run (exit code 1).
    Failed,
}

impl Kind {
    /// Lower case, as in the label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Away => "away",
            Kind::Contract => "contract",
            Kind::Config => "config",
            Kind::Fenced => "fenced",
            Kind::Abort => "abort",
            Kind::Unknown => "unknown",
            Kind::Corrupt => "corrupt",
            Kind::Failed => "failed",
        }
    }

    /// The process's exit code: 2 refused before starting, 1 failed while running.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Config | Kind::Contract => 2,
            _ => 1,
        }
    }
}

/// An error at the border of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    /// What was found and where: lower case, no full stop, names in double quotes. May have several lines (a quoted SQL line).
    pub message: String,
    /// What to do, one sentence.
    pub hint: Option<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None }
    }

    pub fn config(message: impl Into<String>) -> Error {
        Error::new(Kind::Config, message)
    }

    pub fn contract(message: impl Into<String>) -> Error {
        Error::new(Kind::Contract, message)
    }

    pub fn away(message: impl Into<String>) -> Error {
        Error::new(Kind::Away, message)
    }

    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, message)
    }

    pub fn failed(message: impl Into<String>) -> Error {
        Error::new(Kind::Failed, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Puts where it happened in front: `what: message`.
    pub fn context(mut self, what: impl fmt::Display) -> Error {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The name in `known` that `given` was probably meant to be: for "did you mean".
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = given.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Why a source record was not processed: its error class, part of the dead letter and a label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BadClass {
    /// Not the Confluent wire format: too short, wrong magic byte.
    Wire,
    /// A schema id that the registry does not know.
    Schema,
    /// The body does not decode under its writer schema, or not to the reader's.
    Decode,
    /// A null or missing key, or a key that disagrees with the value.
    Key,
    /// A null value where `tombstones = dead_letter`.
    Null,
    /// NULL event time, or one that microseconds can't hold.
    Time,
    /// Event time further ahead of the record's timestamp than `max_ahead`.
    Future,
    /// A CHECK failed.
    Check,
    /// An expression failed on the row: division by zero, cast, overflow.
    Expression,
    /// The output record is larger than the broker takes.
    TooLarge,
}

impl BadClass {
    pub const ALL: [BadClass; 10] = [
        BadClass::Wire,
        BadClass::Schema,
        BadClass::Decode,
        BadClass::Key,
        BadClass::Null,
        BadClass::Time,
        BadClass::Future,
        BadClass::Check,
        BadClass::Expression,
        BadClass::TooLarge,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            BadClass::Wire => "wire",
            BadClass::Schema => "schema",
            BadClass::Decode => "decode",
            BadClass::Key => "key",
            BadClass::Null => "null",
            BadClass::Time => "time",
            BadClass::Future => "future",
            BadClass::Check => "check",
            BadClass::Expression => "expression",
            BadClass::TooLarge => "too_large",
        }
    }
}

impl fmt::Display for BadClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
