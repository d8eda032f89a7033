//! What is not run is refused by name, at its place, with a way out.
//!
//! `¦` stands where the refusal must point; it is taken out before the file is compiled. A case without it is refused at
//! its INSERT, or, where the file as a whole is wrong, without a place.

use super::refused_files::{AFTER_ORDERS, FILES};
use super::refused_joins::{JOINS, TABLES};
use super::refused_queries::QUERIES;
use super::shop::{CUSTOMERS, ORDERS, built};
use tidemill::error::Kind;

/// SQL, a part of the message, a part of the hint (empty: there need not be one).
pub type Case = (&'static str, &'static str, &'static str);

#[test]
fn files_are_refused_where_they_are_wrong() {
    check(FILES.iter().map(|(sql, message, hint)| ((*sql).to_owned(), *message, *hint)).collect());
    check(AFTER_ORDERS.iter().map(|(sql, message, hint)| (format!("{ORDERS}{sql}"), *message, *hint)).collect());
}

#[test]
fn queries_are_refused_where_they_are_wrong() {
    let files = QUERIES.iter().map(|(sql, message, hint)| {
        (format!("{ORDERS}CREATE SINK s WITH ('format' = 'avro');\nINSERT INTO s\n{sql};"), *message, *hint)
    });
    check(files.collect());
}

#[test]
fn joins_and_tables_are_refused_where_they_are_wrong() {
    let joins = JOINS.iter().map(|(sql, message, hint)| {
        let file = format!("{ORDERS}{CUSTOMERS}CREATE SINK s WITH ('format' = 'avro');\nINSERT INTO s\n{sql};");
        (file, *message, *hint)
    });
    check(joins.collect());
    check(TABLES.iter().map(|(sql, message, hint)| (format!("{ORDERS}{sql}"), *message, *hint)).collect());
}

fn check(cases: Vec<(String, &str, &str)>) {
    assert!(cases.len() > 15);
    let mut failures = Vec::new();
    for (marked, message, hint) in &cases {
        let sql = marked.replacen('¦', "", 1);
        let place = marked.split_once('¦').map(|(before, _)| {
            let line = before.matches('\n').count() + 1;
            format!("p.sql:{line}:{}: ", before.rsplit('\n').next().unwrap_or("").chars().count() + 1)
        });
        let wrong = match built(&sql) {
            Ok(_) => Some("it compiles".to_owned()),
            Err(error) => {
                // Refused at its INSERT, where it stands in a line of its own.
                let start = place.clone().unwrap_or_else(|| match sql.split_once("\nINSERT INTO") {
                    Some((before, _)) => format!("p.sql:{}:1: ", before.matches('\n').count() + 2),
                    None => "p.sql: ".into(),
                });
                let first = error.message.lines().next().unwrap_or_default();
                let given = error.hint.as_deref().unwrap_or_default();
                let good = !message.is_empty()
                    && error.kind == Kind::Config
                    && first.starts_with(&start)
                    && first.contains(message)
                    && given.contains(hint)
                    // A hint that there is must be named.
                    && hint.is_empty() == given.is_empty();
                (!good).then(|| format!("{:?} {first} | {given}\n      wanted {start}{message} | {hint}", error.kind))
            }
        };
        if let Some(wrong) = wrong {
            failures.push(format!("{}\n      {wrong}", marked.rsplit('\n').next().unwrap_or_default()));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
