//! `tidemill schema pin`: the lock beside a pipeline is written, kept and upgraded. A registry of the test's own, no Kafka.

#[path = "registry_support/mod.rs"]
mod registry_support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use registry_support::{Asked, Reply, Server};
use serde_json::json;
use tidemill::contract::Lock;

const V1: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},{"name":"amount","type":"long"}]}"#;
const V2: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},{"name":"amount","type":"long"},
    {"name":"note","type":["null","string"],"default":null}]}"#;
const SQL: &str = "SET 'pipeline.name' = 'p';
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'id');
CREATE SINK copy (PRIMARY KEY (id, amount)) WITH ('topic' = 'copy', 'format' = 'avro');
INSERT INTO copy SELECT * FROM orders;";

/// Versions of every subject; an id is 100 times the subject's place and the version.
type Subjects = Arc<Mutex<Vec<(&'static str, Vec<String>)>>>;

fn registry(subjects: &Subjects) -> Server {
    let subjects = subjects.clone();
    Server::start(move |asked| {
        let subjects = subjects.lock().unwrap();
        answer(&subjects, asked)
    })
}

fn answer(subjects: &[(&'static str, Vec<String>)], asked: &Asked) -> Reply {
    let parts: Vec<&str> = asked.line.split(['/', ' ']).collect();
    let at = parts.get(3).and_then(|name| subjects.iter().position(|(subject, _)| subject == name));
    let versions = at.map_or(&[][..], |at| &subjects[at].1);
    let version = |number: usize| {
        let schema = &versions[number - 1];
        Reply::ok(json!({ "subject": parts[3], "id": at.unwrap() * 100 + number, "version": number, "schema": schema }))
    };
    match (parts[0], parts.get(4..)) {
        ("GET", Some(["versions", "latest"])) if !versions.is_empty() => version(versions.len()),
        ("POST", Some([])) => {
            let body: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
            match versions.iter().position(|known| *known == body["schema"]) {
                Some(found) => version(found + 1),
                None => Reply::error(404, 40403),
            }
        }
        _ => Reply::error(404, 40401),
    }
}

struct Place {
    dir: tempfile::TempDir,
    server: Server,
    subjects: Subjects,
}

impl Place {
    fn new() -> Place {
        let subjects: Subjects = Arc::new(Mutex::new(vec![("orders-value", vec![V1.to_string()])]));
        let place = Place { dir: tempfile::tempdir().unwrap(), server: registry(&subjects), subjects };
        std::fs::write(place.path("p.sql"), SQL).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn lock(&self) -> Option<Lock> {
        Lock::read(self.path("pipeline.lock")).unwrap()
    }

    /// Exit code and what was written.
    fn pin(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .current_dir(self.dir.path())
            .env("TIDEMILL_REGISTRY_URL", &self.server.url)
            .args(["schema", "pin"])
            .args(arguments)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn sources_and_sinks_are_pinned_keys_and_values() {
    let place = Place::new();
    let (code, said) = place.pin(&["p.sql"]);
    assert_eq!(code, 0, "{said}");
    let lock = place.lock().unwrap();
    assert_eq!(lock.subjects.keys().collect::<Vec<_>>(), ["orders-value"]);
    assert_eq!(lock.subjects["orders-value"].version, 1);
    assert_eq!(lock.sinks.keys().collect::<Vec<_>>(), ["copy-key", "copy-value"]);
    assert_eq!(lock.sinks["copy-value"].version, None, "it is not registered yet");
    assert!(said.contains("subject \"copy-value\" (not registered yet): pinned"), "{said}");

    let (code, said) = place.pin(&["p.sql"]);
    assert_eq!((code, place.lock()), (0, Some(lock.clone())));
    assert!(said.contains("nothing to change"), "{said}");

    // A run registers the sink's schema: its version is added to the lock.
    place.subjects.lock().unwrap().push(("copy-value", vec!["\"string\"".into(), lock.sinks["copy-value"].text.clone()]));
    let (_, said) = place.pin(&["p.sql"]);
    assert!(said.contains("subject \"copy-value\" at version 2: pinned"), "{said}");
    assert_eq!(place.lock().unwrap().sinks["copy-value"].version, Some(2));
}

#[test]
fn only_an_upgrade_changes_what_is_pinned() {
    let place = Place::new();
    place.pin(&["p.sql"]);
    let before = place.lock().unwrap();
    place.subjects.lock().unwrap()[0].1.push(V2.into());
    let (code, said) = place.pin(&["p.sql"]);
    assert_eq!((code, place.lock().unwrap()), (0, before.clone()), "{said}");

    let (code, said) = place.pin(&["p.sql", "--upgrade"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("orders-value: version 1 -> 2"), "{said}");
    assert!(said.contains("field \"note\" is new: [null, string], default null"), "{said}");
    assert!(said.contains("copy-value: the sink's schema"), "SELECT * takes the new column: {said}");
    let after = place.lock().unwrap();
    assert_eq!(after.subjects["orders-value"].version, 2);
    assert!(after.sinks["copy-value"].text.contains("note"));
    assert_eq!(after.sinks["copy-key"], before.sinks["copy-key"]);
}

#[test]
fn an_upgrade_takes_sql_that_needs_the_new_version() {
    let place = Place::new();
    place.pin(&["p.sql"]);
    place.subjects.lock().unwrap()[0].1.push(V2.into());
    std::fs::write(place.path("p.sql"), SQL.replace("SELECT *", "SELECT id, amount, note AS remark")).unwrap();
    let (code, said) = place.pin(&["p.sql"]);
    assert_eq!(code, 2, "the pinned version has no such field: {said}");
    let (code, said) = place.pin(&["p.sql", "--upgrade"]);
    assert_eq!(code, 0, "{said}");
    assert!(place.lock().unwrap().sinks["copy-value"].text.contains("remark"));
}

#[test]
fn pipelines_in_one_folder_share_the_lock() {
    let place = Place::new();
    let other = SQL
        .replace("'p'", "'q'")
        .replace("'copy'", "'other'")
        .replace("SINK copy", "SINK other")
        .replace("INTO copy", "INTO other");
    std::fs::write(place.path("q.sql"), other).unwrap();
    place.pin(&["p.sql"]);
    place.subjects.lock().unwrap()[0].1.push(V2.into());
    place.pin(&["q.sql"]);
    let lock = place.lock().unwrap();
    assert_eq!(lock.sinks.keys().collect::<Vec<_>>(), ["copy-key", "copy-value", "other-key", "other-value"]);
    assert_eq!(lock.subjects["orders-value"].version, 1, "what is pinned is pinned for both");
    let (_, said) = place.pin(&["q.sql", "--upgrade"]);
    let after = place.lock().unwrap();
    assert!(said.contains("other-value") && !said.contains("copy-value"), "{said}");
    assert_eq!(after.sinks["copy-value"], lock.sinks["copy-value"]);
}

#[test]
fn another_select_list_is_told_and_pinned_by_an_upgrade() {
    let place = Place::new();
    place.pin(&["p.sql"]);
    let before = place.lock().unwrap();
    std::fs::write(place.path("p.sql"), SQL.replace("SELECT *", "SELECT id, amount, amount + 1 AS next")).unwrap();
    let (code, said) = place.pin(&["p.sql"]);
    assert_eq!((code, place.lock().unwrap()), (0, before), "{said}");
    assert!(
        said.contains("copy-value: the sink writes another schema") && said.contains("field \"next\" is new: long"),
        "{said}"
    );
    let (code, said) = place.pin(&["p.sql", "--upgrade"]);
    assert_eq!(code, 0, "{said}");
    assert!(place.lock().unwrap().sinks["copy-value"].text.contains("next"));
}

#[test]
fn an_upgrade_that_does_not_fit_the_sql_changes_nothing() {
    let place = Place::new();
    std::fs::write(place.path("p.sql"), SQL.replace("SELECT *", "SELECT id, amount")).unwrap();
    place.pin(&["p.sql"]);
    let before = text(&place.path("pipeline.lock"));
    place.subjects.lock().unwrap()[0].1.push(V1.replace("amount", "total"));
    let (code, said) = place.pin(&["p.sql", "--upgrade"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("p.sql:4:") && said.contains("\"amount\""), "{said}");
    assert_eq!(text(&place.path("pipeline.lock")), before);
}
