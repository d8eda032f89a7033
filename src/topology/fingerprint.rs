//! When two versions of a pipeline are the same, and what differs when they are not.

use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{Statement, Topology};

/// What results mean; `SET 'tidemill.semantics'`.
const SEMANTICS: &str = "1";

/// SHA-256, hex, over all that decides what a pipeline computes: its statements (comments, layout, the pipeline's name and
/// repeated definitions aside), the pinned schemas of sources and sinks, the semantics level, and `extra`, settings from
/// elsewhere that change results. Partition counts are in it where they decided that rows are shuffled.
pub fn fingerprint(topology: &Topology, extra: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    // Each part with its length before it: no two lists of parts give the same bytes.
    let mut put = |part: &str| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    };
    put("tidemill.fingerprint.1");
    put(topology.settings.get("tidemill.semantics").map_or(SEMANTICS, String::as_str));
    for statement in &topology.statements {
        if statement.kind == "SET" && ["pipeline.name", "tidemill.semantics"].contains(&statement.name.as_str()) {
            continue;
        }
        put("statement");
        put(&statement.text);
    }
    for source in &topology.sources {
        put("source");
        put(source.topic.as_str());
        put(&source.value.schema.fingerprint);
        if let Some(contract) = source.key.as_ref().and_then(|k| k.contract.as_ref()) {
            put(&contract.schema.fingerprint);
        }
        if let crate::operator::ingest::EventTime::Column { max_ahead_micros, .. } = source.ingest.event_time {
            put(&format!("{max_ahead_micros:?}"));
        }
    }
    for sink in &topology.sinks {
        put("sink");
        put(sink.topic.as_str());
        put(&sink.value_schema.fingerprint);
        if let Some((_, schema)) = sink.key.as_ref().and_then(|k| k.avro.as_ref()) {
            put(&schema.fingerprint);
        }
    }
    // Equal numbers of partitions decide nothing: what they hold of state is guarded by the generation's own record of them.
    for topics in &topology.uneven {
        put("uneven");
        topics.iter().for_each(|topic| put(topic));
    }
    for (key, value) in extra {
        put("setting");
        put(key);
        put(value);
    }
    hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String never fails.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// One line per statement of either version: what becomes of its state.
pub fn statement_diff(old: &[Statement], new: &[Statement]) -> Vec<String> {
    let name = |s: &Statement| format!("{} {} (line {})", s.kind, s.name, s.line);
    // The n-th statement of a kind and name is matched with the n-th.
    let same = |a: &Statement, b: &Statement| a.kind == b.kind && a.name == b.name;
    let nth = |all: &[Statement], at: usize| all[..at].iter().filter(|s| same(s, &all[at])).count();
    let find = |all: &[Statement], wanted: &Statement, n: usize| all.iter().filter(|s| same(s, wanted)).nth(n).cloned();
    // A changed definition changes every INSERT that may read it.
    let defines = |s: &Statement| s.kind.starts_with("CREATE") || (s.kind == "SET" && s.name != "pipeline.name");
    let mut definitions_changed: Vec<String> = Vec::new();
    for (at, statement) in new.iter().enumerate() {
        let changed = find(old, statement, nth(new, at)).is_none_or(|former| former.text != statement.text);
        if changed && defines(statement) {
            definitions_changed.push(statement.name.clone());
        }
    }
    // A view over a changed definition has changed too.
    let mut more = true;
    while more {
        more = false;
        for statement in new.iter().filter(|s| s.kind == "CREATE VIEW") {
            if !definitions_changed.contains(&statement.name) && reads(statement, &definitions_changed) {
                definitions_changed.push(statement.name.clone());
                more = true;
            }
        }
    }
    let settings_changed =
        new.iter().chain(old).any(|s| s.kind == "SET" && s.name != "pipeline.name" && definitions_changed.contains(&s.name));
    let mut lines = Vec::new();
    for (at, statement) in new.iter().enumerate() {
        let insert = statement.kind == "INSERT INTO";
        lines.push(match find(old, statement, nth(new, at)) {
            None => format!("new {}", name(statement)),
            Some(former) if former.text != statement.text => {
                format!("changed {}{}", name(statement), if insert { ": state rebuilt" } else { "" })
            }
            Some(_) if insert && (settings_changed || reads(statement, &definitions_changed)) => {
                format!("unchanged {}: state rebuilt, what it reads or writes has changed", name(statement))
            }
            Some(_) => format!("unchanged {}{}", name(statement), if insert { ": state kept" } else { "" }),
        });
    }
    for (at, statement) in old.iter().enumerate() {
        if find(new, statement, nth(old, at)).is_none() {
            lines.push(format!("removed {}", name(statement)));
        }
    }
    lines
}

/// Whether one of the statement's words is one of the names.
fn reads(statement: &Statement, names: &[String]) -> bool {
    statement.text.split(' ').any(|word| names.iter().any(|n| word.trim_matches(['`', '"']) == n))
}
