//! The binary as a user meets it: refusals name the place and the remedy, with exit code 2, at once. No Kafka needed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("the target directory can be written");
    dir
}

fn tidemill(dir: &Path, arguments: &[&str]) -> Output {
    let began = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDEMILL_") || name == "RUST_LOG") {
        command.env_remove(name);
    }
    let output = command.current_dir(dir).args(arguments).output().expect("the binary runs");
    assert!(began.elapsed() < Duration::from_secs(10), "{arguments:?} took {:?}", began.elapsed());
    output
}

/// Runs, expects exit code 2 and every text on stderr.
fn refused(dir: &Path, arguments: &[&str], says: &[&str]) {
    let output = tidemill(dir, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    for part in says {
        assert!(text.contains(part), "{arguments:?} should say {part:?}: {text}");
    }
    assert!(output.stdout.is_empty(), "a refusal leaves stdout alone");
}

#[test]
fn an_unknown_key_is_refused_with_place_and_suggestion() {
    let dir = folder("unknown_key");
    std::fs::write(dir.join("tidemill.toml"), "[kafka]\nbroker = \"x:1\"\n").unwrap();
    refused(&dir, &["lag"], &["error: tidemill.toml:2:1: unknown key \"broker\"", "hint: did you mean \"brokers\"?"]);
}

#[test]
fn broken_toml_and_an_unreadable_file_are_refused() {
    let dir = folder("broken");
    std::fs::write(dir.join("t.toml"), "[kafka]\nbrokers = \n").unwrap();
    refused(&dir, &["--config", "t.toml", "lag"], &["t.toml:2:", "hint: "]);
    refused(&dir, &["--config", "nowhere.toml", "lag"], &["nowhere.toml", "--config", "can't be read", "hint: "]);
    refused(&dir, &["check", "nowhere.sql"], &["nowhere.sql", "can't be read", "hint: "]);
    refused(&dir, &["run", "nowhere.sql"], &["nowhere.sql", "can't be read"]);
}

#[test]
fn what_is_no_pipeline_is_refused_by_its_name() {
    let dir = folder("no_pipeline");
    std::fs::create_dir(dir.join("folder.sql")).unwrap();
    std::fs::write(dir.join("empty.sql"), "").unwrap();
    std::fs::write(dir.join("comment.sql"), "-- nothing yet\n").unwrap();
    std::fs::write(dir.join("bytes.sql"), [b'S', 0xff, 0xfe]).unwrap();
    std::fs::write(dir.join("torn.sql"), "CREATE STREAM orders (").unwrap();
    std::fs::create_dir(dir.join("contracts")).unwrap();
    for command in [&["check", "--offline", "--contracts", "contracts"][..], &["run"]] {
        let refused = |file: &str, says: &[&str]| refused(&dir, &[command, &[file]].concat(), says);
        refused("folder.sql", &["folder.sql", "can't be read", "hint: "]);
        refused("bytes.sql", &["bytes.sql", "can't be read", "hint: "]);
    }
    let check = |file: &str, says: &[&str]| refused(&dir, &["check", "--offline", "--contracts", "contracts", file], says);
    check("empty.sql", &["empty.sql", "hint: "]);
    check("comment.sql", &["comment.sql", "hint: "]);
    check("torn.sql", &["torn.sql:1:"]);
}

#[test]
fn errors_are_json_lines_where_asked_for() {
    let dir = folder("json");
    refused(
        &dir,
        &["--log-format", "json", "check", "nowhere.sql"],
        &["\"error\":\"", "nowhere.sql", "\"hint\":\"", "\"kind\":\"config\""],
    );
}

#[test]
fn usage_is_refused_and_help_is_not() {
    let dir = folder("usage");
    refused(&dir, &["runn"], &["runn"]);
    refused(&dir, &["backfill", "p.sql", "--from", "yesterday", "--to", "now"], &["yesterday", "2026-01-01T00:00:00Z"]);
    let help = tidemill(&dir, &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for command in ["demo", "test", "check", "explain", "run", "backfill", "schema", "lag", "dlq", "print", "reset", "topics"] {
        assert!(text.contains(&format!("  {command} ")), "--help lists {command}: {text}");
    }
}

#[test]
fn the_demo_gives_one_table_in_five_modes() {
    let output = tidemill(&folder("demo"), &["demo", "--orders", "2000", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["equal"], true);
    let modes: Vec<&str> = report["modes"].as_array().unwrap().iter().filter_map(|mode| mode["mode"].as_str()).collect();
    assert_eq!(modes, ["live", "backfill", "killed, restarted", "cut over", "three workers"]);
    for mode in report["modes"].as_array().unwrap() {
        assert!(mode["late"].as_u64() > Some(0) && mode["dead_letters"].as_u64() > Some(0), "{mode}");
    }
    let countries = report["tables"]["revenue_by_minute"].as_array().unwrap();
    assert!(countries.len() > 40 && countries.iter().all(|row| row["country"].is_string()), "{countries:?}");
}

#[test]
fn a_broker_that_is_down_is_refused_with_its_address() {
    let dir = folder("down");
    refused(&dir, &["--brokers", "127.0.0.1:1", "lag"], &["error: ", "127.0.0.1:1"]);
}

#[test]
fn sql_is_checked_offline_against_contracts_from_files() {
    let dir = folder("offline");
    let pipelines = concat!(env!("CARGO_MANIFEST_DIR"), "/config/pipelines");
    let contracts = format!("{pipelines}/contracts");
    let revenue = format!("{pipelines}/revenue.sql");
    let good = tidemill(&dir, &["check", &revenue, "--offline", "--contracts", &contracts]);
    let text = String::from_utf8_lossy(&good.stdout).into_owned();
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(text.contains("pipeline \"revenue\" reads orders and writes revenue_by_minute"), "{text}");
    let sql = std::fs::read_to_string(&revenue).unwrap().replace("SUM(amount)", "SUM(amuont)");
    std::fs::write(dir.join("typo.sql"), sql).unwrap();
    refused(&dir, &["check", "typo.sql", "--offline", "--contracts", &contracts], &["typo.sql:", "amuont", "hint: ", "amount"]);
    refused(&dir, &["check", "typo.sql", "--offline"], &["pipeline.lock", "--contracts DIR"]);
}
