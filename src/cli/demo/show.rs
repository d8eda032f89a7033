//! What the demo prints: tables, a line per mode, progress.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::test::world::Tables;
use crate::topology::Topology;

/// Rows, late rows and dead letters in one line.
pub fn summary(tables: &Tables) -> String {
    let sinks: Vec<String> = tables.sinks.iter().map(|(sink, rows)| format!("{sink} {} rows", rows.len())).collect();
    let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
    for letter in &tables.dead {
        *classes.entry(letter.class.as_deref().unwrap_or("?")).or_default() += 1;
    }
    let dead: Vec<String> = classes.iter().map(|(class, count)| format!("{count} {class}")).collect();
    format!("{}, {} late, {} dead letters ({})", sinks.join(", "), tables.late.len(), tables.dead.len(), dead.join(", "))
}

/// The first rows of every sink.
pub fn tables(tables: &Tables, topology: &Topology) {
    for sink in &topology.sinks {
        let rows = &tables.sinks[&sink.name];
        let columns: Vec<&str> = sink.schema.fields().iter().map(|field| field.name().as_str()).collect();
        println!("\n{} ({} rows{})", sink.name, rows.len(), if rows.len() > 8 { ", the first 8" } else { "" });
        println!("  {}", columns.iter().map(|name| format!("{name:<26}")).collect::<String>().trim_end());
        for row in rows.iter().take(8) {
            let cell = |name: &&str| match &row[*name] {
                Value::String(text) => format!("{text:<26}"),
                Value::Number(number) => match number.as_f64().filter(|_| !number.is_i64()) {
                    Some(double) => format!("{double:<26.2}"),
                    None => format!("{number:<26}"),
                },
                other => format!("{other:<26}"),
            };
            println!("  {}", columns.iter().map(cell).collect::<String>().trim_end());
        }
    }
}

/// Progress on a terminal as a bar, elsewhere as nothing but its end.
pub struct Bar {
    bar: ProgressBar,
    began: Instant,
    what: &'static str,
}

impl Bar {
    pub fn new(len: u64, what: &'static str) -> Bar {
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new(len),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("   {bar:40} {percent:>3} % {pos} {msg} {per_sec}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        Bar { bar, began: Instant::now(), what }
    }

    pub fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    pub fn say(&self, line: &str) {
        match self.bar.is_hidden() {
            true => eprintln!("{line}"),
            false => self.bar.println(line),
        }
    }

    pub fn end(&self, len: u64) {
        self.bar.finish_and_clear();
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        eprintln!("   100 %  {len} {} in {seconds:.1} s, {:.0} a second", self.what, len as f64 / seconds);
    }
}
