//! Random pipelines over random inputs, run by the real engine in every mode and compared with a naive model.
//!
//! A seed makes a case (`generate`, `input`), the model computes what must come out (`model`), and the case is written in the golden
//! format and run as a golden case is, so that a failing seed leaves a folder for `tidemill test`. `SIM_SEEDS=0..5000` (or `SIM_SEEDS=17`)
//! runs others than the fixed ones, `SIM_MODE=chaos` one mode only; `scripts/sim N` runs N.

#[path = "sim/case.rs"]
mod case;
#[path = "sim/dice.rs"]
mod dice;
#[path = "sim/expression.rs"]
mod expression;
#[path = "sim/expressions.rs"]
mod expressions;
#[path = "sim/generate.rs"]
mod generate;
#[path = "sim/group.rs"]
mod group;
#[path = "sim/ingest.rs"]
mod ingest;
#[path = "sim/input.rs"]
mod input;
#[path = "sim/join.rs"]
mod join;
#[path = "sim/model.rs"]
mod model;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/queries.rs"]
mod queries;
#[path = "sim/render.rs"]
mod render;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/shrink.rs"]
mod shrink;
#[path = "sim/total.rs"]
mod total;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What CI runs.
const SEEDS: Range<u64> = 0..250;
/// What all seeds together must have met, so that it can be seen that they test something.
const MET: [&str; 45] = [
    "late rows",
    "rows late for some windows",
    "rows late for a join",
    "rows in no window",
    "window results",
    "windows with rows of several tasks",
    "updating groups",
    "groups with rows of several tasks",
    "groups left open",
    "groups that vanished",
    "groups refused by HAVING",
    "withdrawn rows",
    "unequal partitions",
    "idle raises",
    "idle raises of tables",
    "quiet raises",
    "tombstones",
    "keys that came back",
    "versions older than their table",
    "versions refused by a check",
    "rows of a table that are gone at the end",
    "rows that joined a version",
    "rows that joined the first version",
    "rows that found a tombstone",
    "rows that joined nothing",
    "rows that a LEFT JOIN kept",
    "rows that wait for a join",
    "rows that ON refused",
    "ON failed",
    "rows that met under a sink's key",
    "null values skipped",
    "bad records dropped",
    "checks dropped",
    "rows refused by a check",
    "joins that are shuffled",
    "joins that are not",
    "dead letters: wire",
    "dead letters: schema",
    "dead letters: decode",
    "dead letters: null",
    "dead letters: key",
    "dead letters: time",
    "dead letters: future",
    "dead letters: check",
    "dead letters: expression",
];

#[test]
fn the_engine_gives_what_the_model_gives() {
    let (seeds, all) = seeds();
    let begun = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let counts = Mutex::new(BTreeMap::<String, u64>::new());
    let failures = Mutex::new(Vec::new());
    // A panic of the engine is a failure like any other, with its text.
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    match one(seed) {
                        Ok(of_case) => {
                            let mut counts = counts.lock().expect("no thread panicked");
                            of_case.into_iter().for_each(|(what, times)| *counts.entry(what).or_default() += times);
                        }
                        Err(failure) => {
                            println!("{failure}\n");
                            failures.lock().expect("no thread panicked").push(failure);
                        }
                    }
                }
            });
        }
    });
    std::panic::set_hook(quiet);
    let counts = counts.into_inner().expect("no thread panicked");
    println!("seeds {}..{} in {} s; of the statements and rows there were", seeds.start, seeds.end, begun.elapsed().as_secs());
    counts.iter().for_each(|(what, times)| println!("{times:>8}  {what}"));
    let failures = failures.into_inner().expect("no thread panicked");
    assert!(failures.is_empty(), "{} of the seeds failed, see above", failures.len());
    if all {
        let unmet: Vec<&str> = MET.into_iter().filter(|what| counts.get(*what).is_none_or(|times| *times == 0)).collect();
        assert!(unmet.is_empty(), "the seeds never met: {}", unmet.join(", "));
    }
}

#[test]
fn a_seed_makes_one_case() {
    for seed in SEEDS.step_by(10) {
        assert_eq!(run::hash(&generate::case(seed)), run::hash(&generate::case(seed)), "seed {seed}");
    }
    assert_ne!(run::hash(&generate::case(1)), run::hash(&generate::case(2)));
}

/// The seeds to run, and whether they are enough to have met everything.
fn seeds() -> (Range<u64>, bool) {
    let Ok(wanted) = std::env::var("SIM_SEEDS") else { return (SEEDS, true) };
    let number = |text: &str| text.trim().parse::<u64>().unwrap_or_else(|e| panic!("SIM_SEEDS=\"{wanted}\" is no from..to: {e}"));
    let range = match wanted.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&wanted)..number(&wanted) + 1,
    };
    let all = range.end - range.start >= SEEDS.end - SEEDS.start;
    (range, all)
}

fn one(seed: u64) -> Result<BTreeMap<String, u64>, String> {
    let case = generate::case(seed);
    let dir = folder(&format!("seed-{seed}"));
    // One interleaving per mode: another seed finds more than another order of the same records.
    let interleavings = [seed];
    let failure = match run::run(&case, &dir, &run::modes(), &interleavings) {
        Ok(expected) => {
            let _ = std::fs::remove_dir_all(&dir);
            return Ok(expected.counts);
        }
        Err(failure) => failure,
    };
    if failure.kind == run::Kind::Refused {
        return Err(format!("seed {seed}: refused, see {}:\n    {}", dir.display(), failure.lines.join("\n    ")));
    }
    let small = folder(&format!("seed-{seed}-small"));
    let trial = folder(&format!("seed-{seed}-trial"));
    // A candidate may be no case at all (a key that the query does not give): then the model panics.
    let fails = |case: &case::Case| {
        let certain = |statement: &case::Statement| {
            plan::is_certain(case, &statement.query)
                && plan::sink_is_certain(case, &statement.query, &case.sinks[statement.sink].key)
        };
        if !catch_unwind(AssertUnwindSafe(|| case.statements.iter().all(certain))).unwrap_or(false) {
            return false;
        }
        let failed = catch_unwind(AssertUnwindSafe(|| run::run(case, &trial, &failure.modes, &interleavings).err()));
        failed.is_ok_and(|failed| failed.is_some_and(|other| other.kind == failure.kind))
    };
    let smallest = shrink::shrink(case, Duration::from_secs(20), fails);
    let of_smallest = run::run(&smallest, &small, &failure.modes, &interleavings).err().unwrap_or_else(|| failure.clone());
    let _ = std::fs::remove_dir_all(&trial);
    Err(format!(
        "seed {seed} ({:?}), again with SIM_SEEDS={seed}:\n    {}\n  the case is in {}\n  the smallest that fails is in {}:\n    {}\n{}",
        failure.kind,
        failure.lines.join("\n    "),
        dir.display(),
        small.display(),
        of_smallest.lines.join("\n    "),
        shown(&small)
    ))
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("sim").join(name)
}

/// Pipeline and inputs, as far as they are short.
fn shown(dir: &Path) -> String {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let mut text = read(&dir.join("pipeline.sql"));
    let inputs = std::fs::read_dir(dir.join("input")).into_iter().flatten().flatten();
    for input in inputs {
        text += &format!("-- {}\n{}", input.path().display(), read(&input.path()));
    }
    text.lines().take(60).map(|line| format!("      {line}\n")).collect()
}
