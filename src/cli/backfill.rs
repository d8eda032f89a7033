//! `tidemill backfill`: a range of the topics again, through the same code, under a group of its own.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::HumanCount;

use super::context::Context;
use super::pipeline;
use super::progress::Display;
use super::promote;
use super::report::{self, Exit};
use super::restoring::Restores;
use super::run::{self, Ready};
use super::show::line;
use super::signal::Stop;
use crate::error::{Error, Result};
use crate::job::Site;
use crate::job::backfill::{self, Planned, Request};
use crate::job::bounds::{self, Bound};
use crate::job::live::{self, Prepared};
use crate::job::promote::{Promotion, Which};
use crate::job::state::StateDir;
use crate::serve::{Metrics, Pipelines, Server};
use crate::task::restorer::text_of;
use crate::task::run::{Progress, Run, Worker};
use crate::topology::Topology;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_name = "PIPELINE.sql")]
    pub pipeline: PathBuf,
    /// Where the range begins: earliest, latest, now, a time such as 2026-01-01T00:00:00Z, or topic:partition=offset,...
    #[arg(long, value_name = "BOUND")]
    pub from: Bound,
    /// Where it ends: the first offsets that are not read
    #[arg(long, value_name = "BOUND")]
    pub to: Bound,
    /// Names the job; one that was interrupted goes on under its name, with the bounds that were recorded
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// shadow: topics of the job's own; live: the pipeline's sinks, if nothing has written them yet
    #[arg(long, value_enum, default_value_t = Output::Shadow)]
    pub output: Output,
    /// latest: join the versions that a compacted topic still has, though others may be gone; the result is not promised to equal the live one
    #[arg(long, value_enum, value_name = "WHICH")]
    pub table_history: Option<TableHistory>,
    /// Declare that nothing more will come: windows still open at the end are emitted
    #[arg(long = "final")]
    pub finish: bool,
    /// Compute what would have been if no quiet partition had been raised: recorded decisions are not followed, none are recorded. The
    /// result can't become live
    #[arg(long)]
    pub ignore_decisions: bool,
    /// Take the live generation's place at the end, at an exact offset, and go on live
    #[arg(long, conflicts_with_all = ["finish", "ignore_decisions"])]
    pub then_live: bool,
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TableHistory {
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    Shadow,
    Live,
}

impl Args {
    fn request(&self) -> Request {
        Request {
            from: self.from.clone(),
            to: self.to.clone(),
            job: self.job.clone(),
            output: match self.output {
                Output::Shadow => backfill::Output::Shadow,
                Output::Live => backfill::Output::Live,
            },
            latest_versions: self.table_history.is_some(),
            finish: self.finish,
            ignore_decisions: self.ignore_decisions,
            then_live: self.then_live,
        }
    }
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let (mut site, compiled) = pipeline::open(context, &args.pipeline)?;
    let topology = &compiled.topology;
    let mut request = args.request();
    let planned = backfill::plan(&site, topology, &request)?;
    announce(topology.pipeline.as_str(), &planned, args);
    if args.dry_run {
        return Ok(Exit::Done);
    }
    if planned.finished && !args.then_live {
        line(&format!("job \"{}\" has finished before: nothing is left to do", planned.job));
        return Ok(Exit::Done);
    }
    // A live process may hold the state directory, and several jobs may run: each has a directory of its own inside.
    let dir = state_dir(context, &topology.pipeline, &planned.job);
    let state = StateDir::lock(&dir)?;
    site.settings.state_dir = Some(dir);
    // The name that was shown is the name that runs, though another job may have begun meanwhile.
    request.job = Some(planned.job.clone());
    // So is the range: it is resolved once.
    (request.from, request.to) = (Bound::Offsets(planned.from.clone()), Bound::Offsets(planned.to.clone()));
    let announced = Announced { planned: planned.clone(), named: args.job.is_some() };
    compiled.lock.keep(site.registry.as_ref())?;
    if args.then_live {
        let successor = Successor { site, instance: state.instance().to_string(), topology: compiled.topology, stop };
        return successor.run(&request, &announced, context);
    }
    let (planned, run) = backfill::prepare_as(&site, topology, &request, state.instance())?;
    announced.check(&planned)?;
    let progress = match work(&site, topology, run, &planned, &stop) {
        Ok(progress) => progress,
        Err((error, commits)) => {
            report::error(context.settings.typed.log.format, Some(&topology.pipeline), &error);
            return Ok(Exit::of_worker(&error, commits));
        }
    };
    if stop.requested() {
        line(&format!("job \"{}\" was interrupted: go on with --job {}", planned.job, planned.job));
        return Ok(Exit::Failed);
    }
    summary(&planned, &progress, args.finish);
    Ok(Exit::Done)
}

/// Where a job keeps its local copies of state and its identity.
pub(super) fn state_dir(context: &Context, pipeline: &str, job: &str) -> PathBuf {
    context.settings.typed.state.dir.join("jobs").join(format!("{pipeline}.{job}"))
}

/// What the user was told would run.
struct Announced {
    planned: Planned,
    /// The user chose the name: who else uses it means the same job.
    named: bool,
}

impl Announced {
    /// Another command may have taken the name at the same moment: its job is what runs under it, with its range.
    fn check(&self, planned: &Planned) -> Result<()> {
        let same = |planned: &Planned| (planned.from.clone(), planned.to.clone(), planned.outputs.clone());
        if !planned.resumed || self.planned.resumed || same(planned) == same(&self.planned) {
            return Ok(());
        }
        let (job, from, to) = (&planned.job, bounds::show(&planned.from), bounds::show(&planned.to));
        if self.named {
            line(&format!("job \"{job}\" was begun by another command meanwhile: it goes on from {from} to {to}"));
            return Ok(());
        }
        Err(Error::config(format!("another command began job \"{job}\" at the same moment, from {from} to {to}"))
            .hint("repeat the command: this job gets a name of its own"))
    }
}

/// `--then-live`: the backfill, the promotion, and the live pipeline, in one process.
struct Successor {
    site: Site,
    instance: String,
    topology: Topology,
    stop: Stop,
}

impl Successor {
    fn run(self, request: &Request, announced: &Announced, context: &Context) -> Result<Exit> {
        let planned = &announced.planned;
        let metrics = Metrics::install()?;
        let watched = Arc::new(Pipelines::default());
        let standby = Progress { standby: Some(format!("job \"{}\" is on its way", planned.job)), ..Progress::default() };
        watched.watch(&self.topology.pipeline, Arc::new(Mutex::new(standby)));
        let address = &context.settings.typed.serve.address;
        let server = match address.as_str() {
            "" => None,
            address => Some(Server::start(address, metrics, watched.clone())?),
        };
        let exit = match self.take_over(request, announced) {
            Ok(Some(prepared)) => {
                let Successor { site, instance, topology, stop } = self;
                let ready = Ready { topology, prepared, instance };
                run::work(&site, vec![ready], &stop, &watched, context)
            }
            Ok(None) => {
                line(&format!("job \"{}\" was interrupted: repeat the command to go on", planned.job));
                Exit::Failed
            }
            Err((error, commits)) => {
                report::error(context.settings.typed.log.format, Some(&self.topology.pipeline), &error);
                Exit::of_worker(&error, commits)
            }
        };
        drop(server);
        Ok(exit)
    }

    /// Until its generation is live. `None`: asked to stop before.
    fn take_over(&self, request: &Request, announced: &Announced) -> Result<Option<Prepared>, (Error, u64)> {
        let planned = &announced.planned;
        let Successor { site, topology, instance, stop } = self;
        if !planned.finished {
            let (planned, run) = backfill::prepare_as(site, topology, request, instance).map_err(|e| (e, 0))?;
            announced.check(&planned).map_err(|e| (e, 0))?;
            let progress = work(site, topology, run, &planned, stop)?;
            if stop.requested() {
                return Ok(None);
            }
            summary(&planned, &progress, false);
        }
        let promoted = || -> Result<Option<Prepared>> {
            let mut promotion = Promotion::open(site, topology, &Which::Job(planned.job.clone()), instance)?;
            if !promote::drive(&mut promotion, stop)? {
                return Ok(None);
            }
            live::prepare_as(site, topology, None, false, instance).map(Some)
        };
        promoted().map_err(|e| (e, 1))
    }
}

fn announce(pipeline: &str, planned: &Planned, args: &Args) {
    let verb = match (args.dry_run, planned.resumed) {
        (true, _) => "would run",
        (false, true) if planned.finished => "has come to its end",
        (false, true) => "resumes",
        (false, false) => "starts",
    };
    let mut text = format!("pipeline \"{pipeline}\": job \"{}\" (generation {}) {verb}\n", planned.job, planned.generation);
    text.push_str(&format!("  from {}\n  to   {}\n", bounds::show(&planned.from), bounds::show(&planned.to)));
    text.push_str(&format!("  up to {} records", HumanCount(planned.records)));
    for (sink, topic) in &planned.outputs {
        text.push_str(&format!("\n  sink \"{sink}\" -> topic {topic}"));
    }
    if planned.ignores_decisions() {
        text.push_str("\n  recorded decisions are ignored: the result is not what live gave where a quiet partition was raised");
    }
    if args.then_live {
        text.push_str("\n  then it takes the live generation's place, where that one stops");
    }
    if args.dry_run {
        line(&text);
    } else {
        eprintln!("{text}");
    }
}

/// Runs the worker on its own thread, shows how far it is, and records that it came to its end.
fn work(site: &Site, topology: &Topology, run: Run, planned: &Planned, stop: &Stop) -> Result<Progress, (Error, u64)> {
    let mut worker = Worker::open(site.log.clone(), site.registry.clone(), run).map_err(|e| (e, 0))?;
    let progress: Arc<Mutex<Progress>> = worker.progress.clone();
    let asked = stop.clone();
    let thread = std::thread::Builder::new().name("backfill".into()).spawn(move || {
        std::panic::catch_unwind(AssertUnwindSafe(|| worker.run_until(|| asked.requested())))
            .unwrap_or_else(|panic| Err(Error::failed(format!("a broken invariant: {}", text_of(panic.as_ref())))))
    });
    let thread = thread.map_err(|e| (Error::failed(format!("a thread can't start: {e}")), 0))?;
    let snapshot = || progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut display = Display::new(&planned.from, &planned.to, planned.records);
    let mut restores = Restores::default();
    while !thread.is_finished() {
        let progress = snapshot();
        display.show(&progress);
        // On a terminal its bar says it.
        if !display.is_bar() {
            restores.show(&topology.pipeline, &progress.restores);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    display.end();
    let now = snapshot();
    match thread.join() {
        Ok(Ok(())) if stop.requested() => Ok(now),
        Ok(Ok(())) => match backfill::finish(site, topology, planned) {
            Ok(()) => Ok(now),
            Err(error) => Err((error, now.commits.max(1))),
        },
        Ok(Err(error)) => Err((error, now.commits)),
        Err(_) => Err((Error::failed("its thread ended without a result"), now.commits)),
    }
}

fn summary(planned: &Planned, progress: &Progress, finish: bool) {
    line(&format!("job \"{}\" finished at {}", planned.job, bounds::show(&planned.to)));
    line(&format!(
        "records read {}, written {}, dead letters {}, late {}",
        HumanCount(progress.records_in),
        HumanCount(progress.records_out),
        HumanCount(progress.dead),
        HumanCount(progress.late)
    ));
    if finish {
        line("--final: every window was closed; such a result can't be continued");
    } else {
        line(&format!("windows and groups still in the state: {}", HumanCount(progress.state_keys as u64)));
    }
    for (sink, topic) in &planned.outputs {
        line(&format!("sink \"{sink}\" is in topic {topic}"));
    }
}
