//! `tidemill test CASE...`: runs cases on the embedded log in every mode, under several interleavings, and compares.

pub mod case;
pub mod chaos;
pub mod compare;
mod crew;
pub mod modes;
pub mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::cli::Context;
use crate::cli::test::case::Case;
use crate::cli::test::modes::Mode;
use crate::error::{Error, Result};
use crate::topology::Options;

/// Runs your own cases in every mode; no Kafka needed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders with pipeline.sql, contracts/, input/ and expected/; or folders of such folders.
    #[arg(required = true, value_name = "CASE")]
    cases: Vec<PathBuf>,
    /// Interleavings of the partitions per mode.
    #[arg(long, default_value_t = 8)]
    seeds: u64,
    /// Run this interleaving only (to look at a failure).
    #[arg(long)]
    seed: Option<u64>,
    /// Run this mode only.
    #[arg(long)]
    mode: Option<String>,
    /// With --seed: show everything that happens in the mode "chaos", line by line with its simulated time.
    #[arg(long, requires = "seed")]
    trace: bool,
    #[arg(long, value_enum, default_value_t)]
    output: crate::cli::Format,
}

/// Lines of a trace that are shown with a failure.
const TAIL: usize = 40;

/// What became of one case in one mode.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub case: String,
    pub mode: &'static str,
    pub runs: u64,
    /// Rows that went to disk while they waited for a watermark, in all runs.
    pub waiting_spilled: u64,
    /// The first seed that differs, and how.
    pub failure: Option<(u64, Vec<String>)>,
    /// The last lines of what happened in a run that failed, in the mode "chaos".
    pub trace: Vec<String>,
}

impl Verdict {
    fn broken(dir: &Path, error: &Error) -> Verdict {
        let case = dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned());
        Verdict {
            case,
            mode: "all",
            runs: 0,
            waiting_spilled: 0,
            failure: Some((0, error.to_string().lines().map(String::from).collect())),
            trace: Vec::new(),
        }
    }
}

pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let seeds: Vec<u64> = match args.seed {
        Some(seed) => vec![seed],
        None => (1..=args.seeds.max(1)).collect(),
    };
    let chosen: Vec<Mode> = match &args.mode {
        None => Mode::ALL.to_vec(),
        Some(name) => vec![mode(name)?],
    };
    let mut verdicts = Vec::new();
    for path in &args.cases {
        for dir in case::find(path)? {
            if args.trace {
                show_trace(&dir, &seeds, context)?;
            }
            // A case that can't be read or planned is one more that failed: the others are still run.
            let of_case =
                verify(&dir, &chosen, &seeds, &context.options()).unwrap_or_else(|error| vec![Verdict::broken(&dir, &error)]);
            if args.output == crate::cli::Format::Text {
                of_case.iter().for_each(report);
            }
            verdicts.extend(of_case);
        }
    }
    let failed = verdicts.iter().filter(|verdict| verdict.failure.is_some()).count();
    match args.output {
        crate::cli::Format::Json => println!("{}", as_json(&verdicts)),
        crate::cli::Format::Text => {
            println!("{} passed, {failed} failed", verdicts.len() - failed);
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// To stderr, as logs are.
fn show_trace(dir: &Path, seeds: &[u64], context: &Context) -> Result<()> {
    let case = Case::open(dir, &context.options())?;
    let decisions = modes::decisions(&case)?;
    for seed in seeds {
        let outcome = chaos::run(&case, *seed, &decisions);
        outcome.trace.iter().for_each(|line| eprintln!("{line}"));
        eprintln!("{} chaos seed {seed}: {} lines, hash {:016x}", case.name, outcome.trace.len(), outcome.hash);
    }
    Ok(())
}

fn mode(name: &str) -> Result<Mode> {
    Mode::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
        let known: Vec<&str> = Mode::ALL.iter().map(|mode| mode.name()).collect();
        Error::config(format!("there is no mode \"{name}\"")).hint(format!("modes are {}", known.join(", ")))
    })
}

/// Runs one case in the given modes. Every run must equal what is expected, and every other run.
///
/// # Errors
/// When the case itself can't be read or planned.
pub fn verify(dir: &Path, modes: &[Mode], seeds: &[u64], options: &Options) -> Result<Vec<Verdict>> {
    let case = Case::open(dir, options)?;
    let decisions = modes::decisions(&case).map_err(|e| e.context(format!("case {}", case.name)))?;
    let mut first: Option<world::Tables> = None;
    let mut verdicts = Vec::new();
    for mode in modes {
        let (name, failure, trace) = (case.name.clone(), None, Vec::new());
        let mut verdict = Verdict { case: name, mode: mode.name(), runs: 0, waiting_spilled: 0, failure, trace };
        for seed in seeds {
            verdict.runs += 1;
            let ran = modes::run(&case, *mode, *seed, &decisions);
            verdict.waiting_spilled += ran.waiting_spilled;
            let differences = match ran.tables {
                Err(error) => vec![format!("the run failed: {error}")],
                Ok(tables) => {
                    let mut differences = compare::differences(&case, &tables);
                    match &first {
                        Some(first) => differences.extend(compare::between(first, &tables)),
                        None => first = Some(tables),
                    }
                    differences
                }
            };
            if !differences.is_empty() {
                if *mode == Mode::Chaos {
                    // The same seed makes the same run again.
                    let mut trace = chaos::run(&case, *seed, &decisions).trace;
                    verdict.trace = trace.split_off(trace.len().saturating_sub(TAIL));
                }
                verdict.failure = Some((*seed, differences));
                break;
            }
        }
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

fn report(verdict: &Verdict) {
    match &verdict.failure {
        None => println!("ok      {} {} ({} interleavings)", verdict.case, verdict.mode, verdict.runs),
        Some((seed, differences)) => {
            println!("FAILED  {} {} (seed {seed}, {} workers)", verdict.case, verdict.mode, modes::workers(*seed));
            differences.iter().take(12).for_each(|line| println!("          {line}"));
            if differences.len() > 12 {
                println!("          ... and {} more", differences.len() - 12);
            }
            if !verdict.trace.is_empty() {
                println!("          what happened last; all of it: --mode {} --seed {seed} --trace", verdict.mode);
                verdict.trace.iter().for_each(|line| println!("            {line}"));
            }
        }
    }
}

fn as_json(verdicts: &[Verdict]) -> serde_json::Value {
    let one = |verdict: &Verdict| {
        json!({
            "case": verdict.case,
            "mode": verdict.mode,
            "interleavings": verdict.runs,
            "passed": verdict.failure.is_none(),
            "seed": verdict.failure.as_ref().map(|(seed, _)| seed),
            "differences": verdict.failure.as_ref().map(|(_, differences)| differences),
            "trace": verdict.trace,
        })
    };
    json!({ "verdicts": verdicts.iter().map(one).collect::<Vec<_>>() })
}
