//! The mode "chaos": a seed is a run, what it draws is worth drawing, and a failure says how to have it again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidemill::cli::test::case::Case;
use tidemill::cli::test::chaos;
use tidemill::cli::test::modes::{self, Mode};
use tidemill::cli::test::verify;
use tidemill::topology::Options;

fn dir(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// What happens in a run of a golden case, line by line.
fn trace(case: &str, seed: u64) -> (Vec<String>, u64) {
    let case = Case::open(&dir(case), &Options::default()).expect("the case opens");
    let decisions = modes::decisions(&case).expect("its decisions are made");
    let outcome = chaos::run(&case, seed, &decisions);
    outcome.tables.unwrap_or_else(|error| panic!("{} seed {seed}: {error}\n{}", case.name, outcome.trace.join("\n")));
    (outcome.trace, outcome.hash)
}

/// Cases with a shuffle, a join, decisions, append and upsert sinks.
const CASES: [&str; 7] = [
    "shuffle_by_country",
    "join_windowed_waits",
    "idle_partition",
    "idle_partition_behind_shuffle",
    "quiet_behind_shuffles",
    "append_keeps_duplicates",
    "global_aggregates",
];

#[test]
fn the_same_seed_twice_gives_the_same_trace() {
    for case in CASES {
        let mut hashes = Vec::new();
        for seed in 0..8 {
            let (first, hash) = trace(case, seed);
            let (second, again) = trace(case, seed);
            let differs = first.iter().zip(&second).find(|(first, second)| first != second);
            assert_eq!(differs, None, "{case} seed {seed}");
            assert_eq!((first.len(), hash), (second.len(), again), "{case} seed {seed}");
            assert!(first.len() > 20, "{case} seed {seed}: {} lines tell of a run", first.len());
            hashes.push(hash);
        }
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 8, "{case}: every seed is another run");
    }
}

/// So that it can be seen that the seeds test something.
#[test]
fn everything_that_can_happen_does() {
    let wanted = [
        "killed before action",
        "killed after action",
        "killed before commit",
        "killed after commit",
        "killed before send",
        "killed after open producer",
        "after commit",
        "before commit",
        "session is over",
        "wakes up",
        "is asked to leave",
        "no answer: commit",
        "no answer: committed",
        "the cluster is away",
        "delivers nothing",
        "fault LostBefore",
        "fault LostAfter",
        "fault Abort",
        "fault Fenced",
        "fault LateMarkers",
        "fault SlowMarkers",
        "event Revoked",
        "event Lost",
        "event Outcome(Before)",
        "event Outcome(Intended)",
        "action Keep",
        "action Release",
        "commit of 1 offsets: fenced",
        "commit of 1 offsets: abort",
        "is asked to decide",
        "eager: true",
        "static_members: true",
    ];
    let mut met: BTreeMap<&str, u64> = wanted.into_iter().map(|what| (what, 0)).collect();
    for (case, seed) in CASES.iter().flat_map(|case| (100..130).map(move |seed| (case, seed))) {
        let (lines, _) = trace(case, seed);
        for (what, times) in &mut met {
            *times += lines.iter().filter(|line| line.contains(what)).count() as u64;
        }
    }
    met.iter().for_each(|(what, times)| println!("{times:>8}  {what}"));
    let unmet: Vec<&str> = met.into_iter().filter(|(_, times)| *times == 0).map(|(what, _)| what).collect();
    assert!(unmet.is_empty(), "never met: {}", unmet.join(", "));
}

/// A `Keep` that waited for an answer once took a decision that was made meanwhile for one that its commit had recorded.
#[test]
fn every_decision_that_was_made_is_recorded() {
    for (case, seed) in ["idle_partition", "idle_all_partitions", "quiet_closes_last_windows"]
        .iter()
        .flat_map(|case| (0..40).map(move |seed| (case, seed)))
    {
        trace(case, seed);
    }
}

#[test]
fn a_failing_seed_shows_what_happened_last() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&dir("filter_project"), folder.path());
    let expected = std::fs::read_dir(folder.path().join("expected")).expect("it expects rows").flatten().next();
    let expected = expected.expect("of a sink").path();
    let text = std::fs::read_to_string(&expected).expect("text");
    let fewer: Vec<&str> = text.lines().skip(1).collect();
    std::fs::write(&expected, fewer.join("\n")).expect("one row fewer");
    let verdicts = verify(folder.path(), &[Mode::Chaos], &[3], &Options::default()).expect("a verdict");
    let (seed, differences) = verdicts[0].failure.as_ref().expect("a row too many is a failure");
    assert_eq!(*seed, 3);
    assert!(differences.iter().any(|line| line.contains("unexpected")), "{differences:?}");
    assert!(verdicts[0].trace.iter().any(|line| line.contains("action Leave")), "{:?}", verdicts[0].trace);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}
