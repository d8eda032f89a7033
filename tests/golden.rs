//! Every golden case in every mode under eight interleavings: the product's promise.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidemill::cli::test::modes::Mode;
use tidemill::cli::test::{case, verify};
use tidemill::topology::Options;

/// Joins whose stream runs ahead of its table, in any interleaving.
const WAITING: [&str; 3] = ["temporal_join", "join_windowed_waits", "join_windows_results"];

/// How many runs a case took, and what failed in them.
fn run(path: &Path, seeds: &[u64]) -> (u64, Vec<String>) {
    let verdicts = match verify(path, &Mode::ALL, seeds, &Options::default()) {
        Err(error) => return (0, vec![format!("{}: {error}", path.display())]),
        Ok(verdicts) => verdicts,
    };
    assert_eq!(verdicts.len(), Mode::ALL.len(), "every mode has a verdict");
    let mut failures = Vec::new();
    let runs = verdicts.iter().map(|verdict| verdict.runs).sum();
    // Whether a mode of its own does is up to how its workers' threads meet.
    if WAITING.iter().any(|name| path.ends_with(name)) && verdicts.iter().all(|verdict| verdict.waiting_spilled == 0) {
        failures.push(format!("{}: no row that waits went to disk in any mode and interleaving", path.display()));
    }
    for verdict in verdicts {
        if let Some((seed, differences)) = verdict.failure {
            let shown: Vec<&str> = differences.iter().take(6).map(String::as_str).collect();
            let shown: Vec<&str> = shown.into_iter().chain(verdict.trace.iter().map(String::as_str)).collect();
            failures.push(format!("{} {} seed {seed}:\n    {}", verdict.case, verdict.mode, shown.join("\n    ")));
        }
    }
    (runs, failures)
}

#[test]
fn every_golden_case_gives_the_same_tables_in_every_mode() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let cases = case::find(&dir).expect("tests/golden holds cases");
    assert!(cases.len() >= 20, "{} cases are not the whole suite", cases.len());
    let seeds: Vec<u64> = (1..=8).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new((0, Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(path) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (runs, failures) = run(path, &seeds);
                    let mut done = done.lock().expect("no case panicked");
                    done.0 += runs;
                    done.1.extend(failures);
                }
            });
        }
    });
    let (runs, failures) = done.into_inner().expect("no case panicked");
    println!("{} cases, {runs} runs", cases.len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
