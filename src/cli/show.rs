//! Listings on stdout: an aligned table for people, JSON for programs, from the same rows.

use std::io::Write;

use serde_json::{Map, Value};

/// `--output text|json`, the same for every listing.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Listing {
    /// How the result is written to stdout
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// One row: columns in order. Make it with [`row!`].
pub type Row = Map<String, Value>;

/// A row from names and values, in order.
macro_rules! row {
    ($($name:literal : $value:expr),* $(,)?) => {{
        let mut row = $crate::cli::show::Row::new();
        $(row.insert($name.to_string(), serde_json::json!($value));)*
        row
    }};
}
pub(super) use row;

impl Listing {
    pub fn is_json(self) -> bool {
        self.output == Format::Json
    }

    /// A table with the rows' names as heads, or a JSON array. `none`: what a person reads when there is no row.
    pub fn rows(self, rows: &[Row], none: &str) {
        match self.output {
            Format::Json => line(&serde_json::to_string_pretty(rows).expect("rows have string keys")),
            Format::Text if rows.is_empty() => line(none),
            Format::Text => line(table(rows).trim_end()),
        }
    }

    /// One value: its text for people, or JSON.
    pub fn value(self, value: &Value, text: impl FnOnce() -> String) {
        match self.output {
            Format::Json => line(&serde_json::to_string_pretty(value).expect("values have string keys")),
            Format::Text => line(text().trim_end()),
        }
    }
}

/// Writes a line to stdout. A reader that went away (`| head`) ends the process quietly, as for any filter.
pub fn line(text: &str) {
    if writeln!(std::io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

fn table(rows: &[Row]) -> String {
    let heads: Vec<&String> = rows.first().map(|row| row.keys().collect()).unwrap_or_default();
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.values().map(cell).collect()).collect();
    let widths: Vec<usize> = (0..heads.len())
        .map(|at| cells.iter().map(|row| row[at].chars().count()).chain([heads[at].len()]).max().unwrap_or_default())
        .collect();
    let number = |at: usize| rows.iter().all(|row| row.values().nth(at).is_some_and(|v| v.is_number() || v.is_null()));
    let mut text = String::new();
    let mut put = |row: Vec<&str>| {
        let padded: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(at, cell)| {
                if number(at) {
                    format!("{cell:>0$}", widths[at], cell = cell)
                } else {
                    format!("{cell:<0$}", widths[at], cell = cell)
                }
            })
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    };
    put(heads.iter().map(|head| head.as_str()).collect());
    for row in &cells {
        put(row.iter().map(String::as_str).collect());
    }
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.replace('\n', " "),
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_numbers_stand_right() {
        let rows = [row! { "topic": "orders", "lag": 5 }, row! { "topic": "o", "lag": 1234 }];
        assert_eq!(table(&rows), "topic    lag\norders     5\no       1234\n");
    }
}
