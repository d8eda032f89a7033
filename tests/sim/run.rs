//! One case through the engine: written as a golden case, run in every mode, compared with the model.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tidemill::cli::test::modes::Mode;
use tidemill::cli::test::verify;
use tidemill::topology::Options;

use crate::case::Case;
use crate::model::{self, Expected};
use crate::render;

/// How a case failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The pipeline was refused.
    Refused,
    /// A run panicked.
    Panicked,
    /// A run gave something else than the model.
    Differs,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    /// Where it was seen first, if that is known: enough to see it again.
    pub modes: Vec<Mode>,
    pub lines: Vec<String>,
}

/// Runs a case in the given modes under so many interleavings, in a folder that is left as it was last.
pub fn run(case: &Case, dir: &Path, modes: &[Mode], interleavings: &[u64]) -> Result<Expected, Failure> {
    let expected = model::expected(case);
    write(&render::files(case, &expected), dir);
    match catch_unwind(AssertUnwindSafe(|| verify(dir, modes, interleavings, &Options::default()))) {
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(Failure {
                kind: Kind::Panicked,
                modes: modes.to_vec(),
                lines: vec![text.unwrap_or("a panic without text").to_owned()],
            })
        }
        Ok(Err(error)) => Err(Failure {
            kind: Kind::Refused,
            modes: modes.to_vec(),
            lines: error.to_string().lines().map(String::from).collect(),
        }),
        Ok(Ok(verdicts)) => {
            assert_eq!(verdicts.len(), modes.len(), "every mode has a verdict");
            let failed = |mode: &&Mode| verdicts.iter().any(|verdict| verdict.mode == mode.name() && verdict.failure.is_some());
            let first: Vec<Mode> = modes.iter().filter(failed).take(1).copied().collect();
            let failures = verdicts.into_iter().filter_map(|v| v.failure.map(|failure| (v.mode, failure, v.trace)));
            let shown = failures.flat_map(|(mode, (seed, differences), trace)| {
                differences.into_iter().take(8).chain(trace).map(move |line| format!("{mode} interleaving {seed}: {line}"))
            });
            let lines: Vec<String> = shown.collect();
            if lines.is_empty() { Ok(expected) } else { Err(Failure { kind: Kind::Differs, modes: first, lines }) }
        }
    }
}

/// All of them, or the one that `SIM_MODE` names.
/// Those to run: all, or the one that `SIM_MODE` names.
pub fn modes() -> Vec<Mode> {
    let Ok(wanted) = std::env::var("SIM_MODE") else { return Mode::ALL.to_vec() };
    let named = Mode::ALL.into_iter().find(|mode| mode.name() == wanted);
    vec![named.unwrap_or_else(|| panic!("SIM_MODE=\"{wanted}\" is no mode of the suite"))]
}

fn write(files: &BTreeMap<String, String>, dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().expect("is in the folder")).expect("a folder for the case");
        std::fs::write(path, text).expect("a file of the case");
    }
}

/// Of all that makes the case.
pub fn hash(case: &Case) -> u64 {
    let mut hasher = DefaultHasher::new();
    render::files(case, &model::expected(case)).hash(&mut hasher);
    hasher.finish()
}
