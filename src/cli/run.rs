//! `tidemill run`: pipelines live, each on a thread of its own.
//!
//! All are planned and checked before any starts. One that fails later stops alone; the others go on, and the process ends with an
//! error when they have ended.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::context::Context;
use super::pipeline::{self, Compiled};
use super::report::{self, Exit};
use super::restoring;
use super::signal::Stop;
use crate::error::{Error, Result};
use crate::job::Site;
use crate::job::bounds::{self, Bound};
use crate::job::control::Stance;
use crate::job::live::{self, Prepared};
use crate::job::service::Service;
use crate::job::state::StateDir;
use crate::serve::{Collector, Life, Metrics, Pipelines, Server};
use crate::task::restorer::text_of;
use crate::task::run::Progress;
use crate::topology::Topology;

/// How often lag is measured for `/metrics`.
const LAG_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pipelines; several share the process
    #[arg(value_name = "PIPELINE.sql", required = true)]
    pub pipelines: Vec<PathBuf>,
    /// Where a pipeline's first run begins: earliest, latest, a time, or topic:partition=offset,... [default: earliest]
    #[arg(long, value_name = "BOUND")]
    pub from: Option<Bound>,
    /// End at the offsets that are the topics' ends now
    #[arg(long)]
    pub until_caught_up: bool,
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let metrics = Metrics::install()?;
    // A file that can't be read is said before a broker is waited for.
    for path in &args.pipelines {
        pipeline::read(path)?;
    }
    let mut site = context.site_of(args.pipelines.len())?;
    let compiled = compile(args, context, &site)?;
    let watched = Arc::new(Pipelines::default());
    let address = &context.settings.typed.serve.address;
    let server = match address.as_str() {
        "" => None,
        address => Some(Server::start(address, metrics, watched.clone())?),
    };
    let state = StateDir::lock(&context.settings.typed.state.dir)?;
    site.settings.state_dir = Some(state.path().to_path_buf());
    let mut ready = Vec::new();
    for compiled in compiled {
        let name = compiled.topology.pipeline.clone();
        let prepared = live::prepare_as(&site, &compiled.topology, args.from.as_ref(), args.until_caught_up, state.instance());
        let prepared =
            prepared.map_err(|e| if args.pipelines.len() > 1 { e.context(format!("pipeline \"{name}\"")) } else { e })?;
        compiled.lock.keep(site.registry.as_ref())?;
        announce(&name, &prepared);
        ready.push(Ready { topology: compiled.topology, prepared, instance: state.instance().to_string() });
    }
    if let Some(server) = &server {
        tracing::info!("serving http://{}/metrics, /health and /ready", server.address());
    }
    let exit = work(&site, ready, &stop, &watched, context);
    drop(server);
    Ok(exit)
}

/// Plans all; an error in one is an error of the command, after all have been shown.
fn compile(args: &Args, context: &Context, site: &Site) -> Result<Vec<Compiled>> {
    let mut compiled = Vec::new();
    let mut failed: Option<Error> = None;
    for path in &args.pipelines {
        let planned = pipeline::partitions(path, site.log.as_ref())
            .and_then(|partitions| pipeline::compile(context, path, site.registry.as_ref(), &partitions));
        match planned {
            Ok(one) => compiled.push(one),
            Err(error) => {
                if let Some(former) = failed.replace(error) {
                    report::error(context.settings.typed.log.format, None, &former);
                }
            }
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let mut names = BTreeSet::new();
    for (one, path) in compiled.iter().zip(&args.pipelines) {
        if !names.insert(&one.topology.pipeline) {
            return Err(Error::config(format!(
                "{}: a pipeline named \"{}\" is given already",
                path.display(),
                one.topology.pipeline
            ))
            .hint("give every pipeline a name of its own: SET 'pipeline.name' = '...'"));
        }
    }
    Ok(compiled)
}

/// A pipeline about to start.
pub(super) struct Ready {
    pub topology: Topology,
    pub prepared: Prepared,
    pub instance: String,
}

fn announce(name: &str, prepared: &Prepared) {
    let generation = prepared.generation;
    if let Stance::Standby(why) = &prepared.stance {
        eprintln!("pipeline \"{name}\": generation {generation} stands by: {why}");
    } else if prepared.first_start {
        eprintln!("pipeline \"{name}\": generation {generation} starts at {}", bounds::show(&prepared.start));
    } else {
        eprintln!("pipeline \"{name}\": generation {generation} goes on from its committed offsets");
    }
    if let Some(end) = &prepared.run.end {
        eprintln!("pipeline \"{name}\": ends at {}", bounds::show(end));
    }
}

/// One thread per pipeline; returns when all have ended.
pub(super) fn work(site: &Site, ready: Vec<Ready>, stop: &Stop, watched: &Arc<Pipelines>, context: &Context) -> Exit {
    let collector = Collector::start(site.log.clone(), watched.clone(), LAG_EVERY);
    let restores = restoring::Display::start(watched.clone());
    let (ended, endings) = channel();
    let mut left = BTreeSet::new();
    for ready in ready {
        let name = ready.topology.pipeline.clone();
        left.insert(name.clone());
        watched.watch(&name, Arc::default());
        spawn(site, name, ready, stop, watched, ended.clone());
    }
    drop(ended);
    let mut exit = Exit::Done;
    for Ending { name, result, commits } in endings {
        left.remove(&name);
        match result {
            Ok(()) => {
                watched.set(&name, Life::Ended);
                tracing::info!(pipeline = name, commits, "ended");
            }
            Err(error) => {
                watched.set(&name, Life::Failed(error.message.clone()));
                report::error(context.settings.typed.log.format, Some(&name), &error);
                exit = worse(exit, Exit::of_worker(&error, commits));
                if !left.is_empty() && !stop.requested() {
                    let others: Vec<&str> = left.iter().map(String::as_str).collect();
                    tracing::warn!(pipeline = name, "stopped by an error; still running: {}", others.join(", "));
                }
            }
        }
    }
    drop((collector, restores));
    exit
}

/// A failure weighs more than a refusal: something has run.
fn worse(one: Exit, other: Exit) -> Exit {
    if one == Exit::Failed || other == Exit::Failed { Exit::Failed } else { one.max(other) }
}

struct Ending {
    name: String,
    result: Result<()>,
    /// Transactions of this process.
    commits: u64,
}

fn spawn(site: &Site, name: String, ready: Ready, stop: &Stop, watched: &Arc<Pipelines>, ended: Sender<Ending>) {
    let (site, stop, watched) = (site.clone(), stop.clone(), watched.clone());
    let thread = std::thread::Builder::new().name(name.clone());
    let at_once = ended.clone();
    let named = name.clone();
    let spawned = thread.spawn(move || {
        let progress = std::sync::Mutex::new(Arc::<std::sync::Mutex<Progress>>::default());
        let work = || -> Result<()> {
            let mut service = Service::open(&site, &ready.topology, &ready.instance, ready.prepared)?;
            *progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = service.progress.clone();
            watched.watch(&name, service.progress.clone());
            service.run_until(|| stop.requested())
        };
        // A broken invariant ends its pipeline, not the process.
        let result = std::panic::catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(Error::failed(format!("a broken invariant: {}", text_of(panic.as_ref())))));
        let progress = progress.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let commits = progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).commits;
        let _ = ended.send(Ending { name, result, commits });
    });
    if let Err(e) = spawned {
        let result = Err(Error::failed(format!("its thread can't start: {e}")));
        let _ = at_once.send(Ending { name: named, result, commits: 0 });
    }
}
