//! Every golden case in every mode under eight interleavings: the product's promise.

use std::path::Path;

use tidemill::cli::test::modes::Mode;
use tidemill::cli::test::{case, verify};
use tidemill::topology::Options;

#[test]
fn every_golden_case_gives_the_same_tables_in_every_mode() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let cases = case::find(&dir).expect("tests/golden holds cases");
    assert!(cases.len() >= 20, "{} cases are not the whole suite", cases.len());
    let seeds: Vec<u64> = (1..=8).collect();
    let mut failures = Vec::new();
    let mut runs = 0;
    for path in &cases {
        match verify(path, &Mode::ALL, &seeds, &Options::default()) {
            Err(error) => failures.push(format!("{}: {error}", path.display())),
            Ok(verdicts) => {
                assert_eq!(verdicts.len(), Mode::ALL.len(), "every mode has a verdict");
                for verdict in verdicts {
                    runs += verdict.runs;
                    if let Some((seed, differences)) = verdict.failure {
                        let shown: Vec<&str> = differences.iter().take(6).map(String::as_str).collect();
                        failures.push(format!("{} {} seed {seed}:\n    {}", verdict.case, verdict.mode, shown.join("\n    ")));
                    }
                }
            }
        }
    }
    println!("{} cases, {runs} runs", cases.len());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
