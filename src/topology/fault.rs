//! Where in a SQL file something is wrong, and the message that shows it.

use datafusion_common::{DataFusionError, SchemaError};
use datafusion_sql::sqlparser::tokenizer::Span;

use super::SqlFile;
use crate::error::{Error, nearest};

/// A place in the file: line and column from 1 (in characters), and how many characters to underline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub line: u64,
    pub column: u64,
    pub width: u64,
}

impl Place {
    /// `None` for nodes that carry no position.
    pub fn of(span: Span) -> Option<Place> {
        if span.start.line == 0 || span.start.column == 0 {
            return None;
        }
        // A span of several lines is underlined in its first line only, by its first character.
        let width = if span.end.line == span.start.line { span.end.column.saturating_sub(span.start.column).max(1) } else { 1 };
        Some(Place { line: span.start.line, column: span.start.column, width })
    }

    fn of_planned(span: datafusion_common::Span) -> Option<Place> {
        if span.start.line == 0 || span.start.column == 0 {
            return None;
        }
        let width = if span.end.line == span.start.line { span.end.column.saturating_sub(span.start.column).max(1) } else { 1 };
        Some(Place { line: span.start.line, column: span.start.column, width })
    }
}

/// Anything that makes a file unusable.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Bad SQL. Without a place it is reported at its statement.
    #[error("{message}")]
    Sql { place: Option<Place>, message: String, hint: Option<String> },
    /// A contract could not be had.
    #[error(transparent)]
    Other(#[from] Error),
}

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    pub fn new(message: impl Into<String>) -> Fault {
        Fault::Sql { place: None, message: message.into(), hint: None }
    }

    pub fn hint(self, text: impl Into<String>) -> Fault {
        match self {
            Fault::Sql { place, message, .. } => Fault::Sql { place, message, hint: Some(text.into()) },
            other => other,
        }
    }

    /// "did you mean", when something near is known.
    pub fn nearest<'a>(self, given: &str, known: impl IntoIterator<Item = &'a str>) -> Fault {
        match nearest(given, known) {
            Some(name) => self.hint(format!("did you mean \"{name}\"?")),
            None => self,
        }
    }

    /// Sets the place if there is none yet.
    pub fn at(self, at: impl Into<Option<Place>>) -> Fault {
        match self {
            Fault::Sql { place: None, message, hint } => Fault::Sql { place: at.into(), message, hint },
            other => other,
        }
    }

    /// Sets the place, if there is none yet, to that of the first quoted name that stands somewhere.
    pub fn found(self, place_of: impl Fn(&str) -> Option<Place>) -> Fault {
        match &self {
            Fault::Sql { place: None, message, .. } => {
                let place = message.split('"').skip(1).step_by(2).find_map(place_of);
                self.at(place)
            }
            _ => self,
        }
    }

    /// The error at the border: `file:line:column: message`, the line of SQL, and the place underlined.
    pub fn into_error(self, file: &SqlFile) -> Error {
        let (place, message, hint) = match self {
            Fault::Other(error) => return error,
            Fault::Sql { place, message, hint } => (place, message, hint),
        };
        let mut text = match place {
            None => format!("{}: {message}", file.name),
            Some(place) => {
                let mut text = format!("{}:{}:{}: {message}", file.name, place.line, place.column);
                if let Some(line) = file.text.lines().nth(place.line as usize - 1) {
                    let number = place.line.to_string();
                    let before: String =
                        line.chars().take(place.column as usize - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                    let left = line.chars().count().saturating_sub(place.column as usize - 1).max(1);
                    let marks = "^".repeat((place.width as usize).clamp(1, left));
                    let margin = " ".repeat(number.len());
                    text.push_str(&format!("\n {number} | {line}\n {margin} | {before}{marks}"));
                }
                text
            }
        };
        while text.ends_with(char::is_whitespace) {
            text.pop();
        }
        let error = Error::config(text);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// For faults that are found inside the planner's callbacks.
impl From<Fault> for DataFusionError {
    fn from(fault: Fault) -> DataFusionError {
        DataFusionError::External(Box::new(fault))
    }
}

/// What the planner says, in our words: unknown columns with what is near, places from its diagnostics.
impl From<DataFusionError> for Fault {
    fn from(error: DataFusionError) -> Fault {
        let first = first_of(&error);
        let place = first.diagnostic().and_then(|d| d.span).and_then(Place::of_planned);
        describe(root_of(first), first).at(place)
    }
}

/// The first of several errors.
fn first_of(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Collection(all) => all.first().map_or(error, first_of),
        DataFusionError::Shared(inner) => first_of(inner),
        _ => error,
    }
}

fn root_of(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => root_of(inner),
        DataFusionError::Shared(inner) => root_of(inner),
        DataFusionError::Collection(all) => all.first().map_or(error, root_of),
        _ => error,
    }
}

fn describe(root: &DataFusionError, whole: &DataFusionError) -> Fault {
    match root {
        DataFusionError::External(inner) => match inner.downcast_ref::<Fault>() {
            Some(fault) => fault.clone(),
            None => Fault::new(inner.to_string()),
        },
        DataFusionError::SchemaError(schema, _) => describe_schema(schema),
        _ => {
            let said = root.message().into_owned();
            super::wording::of(&said).unwrap_or_else(|| {
                let message = whole.diagnostic().map_or(said, |diagnostic| diagnostic.message.clone());
                super::wording::of(&message).unwrap_or_else(|| {
                    let message = message.lines().next().unwrap_or_default().trim_end_matches('.');
                    Fault::new(lower_first(message))
                })
            })
        }
    }
}

fn describe_schema(error: &SchemaError) -> Fault {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let place = field.spans().first().and_then(Place::of_planned);
            let fault = Fault::new(format!("column \"{}\" is not known", field.name)).at(place);
            let names: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
            if let Some(ours) = super::wording::pseudo_column(&field.name) {
                return fault.hint(ours);
            }
            match nearest(&field.name, names.iter().copied()) {
                Some(name) => fault.hint(format!("did you mean \"{name}\"?")),
                None if names.is_empty() => fault,
                None => fault.hint(format!("the columns here are {}", list(&names))),
            }
        }
        SchemaError::AmbiguousReference { field } => {
            let place = field.spans().first().and_then(Place::of_planned);
            Fault::new(format!("column \"{}\" is ambiguous", field.name))
                .at(place)
                .hint("put the table's name or alias before it")
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Fault::new(format!("two columns have the name \"{name}\"")).hint("give one of them another name with AS")
        }
    }
}

/// `a, b and c`; long lists are cut.
pub(super) fn list<S: AsRef<str>>(names: &[S]) -> String {
    const MOST: usize = 12;
    let shown: Vec<String> = names.iter().take(MOST).map(|n| format!("\"{}\"", n.as_ref())).collect();
    let rest = names.len().saturating_sub(MOST);
    match shown.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        _ if rest > 0 => format!("{} and {rest} more", shown.join(", ")),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

pub(super) fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // `BIGINT ...` stays as it is.
        (Some(first), second) if !second.is_some_and(char::is_uppercase) => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}
