//! `tidemill check`: everything that a run would refuse, without running.

use std::path::PathBuf;

use super::context::Context;
use super::report::Exit;
use super::show::line;
use super::{pipeline, report};
use crate::contract::lock;
use crate::error::Result;
use crate::job::prepare;
use crate::topology::Topology;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline
    #[arg(value_name = "PIPELINE.sql", required = true)]
    pub pipelines: Vec<PathBuf>,
    /// No network: contracts come from --contracts, or from pipeline.lock
    #[arg(long)]
    pub offline: bool,
    /// A folder of <subject>.avsc files, for --offline
    #[arg(long, value_name = "DIR", requires = "offline")]
    pub contracts: Option<PathBuf>,
    /// Fail when pipeline.lock is missing, incomplete, or behind the registry
    #[arg(long, conflicts_with = "offline")]
    pub locked: bool,
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let mut worst = Exit::Done;
    for path in &args.pipelines {
        let checked = match args.offline {
            true => pipeline::compile_offline(context, path, args.contracts.as_deref()).map(|topology| (topology, Vec::new())),
            false => online(args, context, path),
        };
        match checked {
            Ok((topology, drift)) => {
                line(&summary(path, &topology));
                for fault in &drift {
                    line(&format!("  {fault}"));
                    worst = worst.max(Exit::Differences);
                }
            }
            // The others are checked all the same.
            Err(error) => {
                report::error(context.settings.typed.log.format, None, &error);
                worst = worst.max(Exit::before_start(&error));
            }
        }
    }
    Ok(worst)
}

/// Plans, then looks at the topics and the sinks' subjects. Writes nothing but a first lock.
fn online(args: &Args, context: &Context, path: &std::path::Path) -> Result<(Topology, Vec<String>)> {
    // A file that can't be read is said before a broker is waited for.
    pipeline::read(path)?;
    let site = context.site()?;
    let compiled = pipeline::compile(context, path, site.registry.as_ref())?;
    prepare::check_loops(&compiled.topology)?;
    prepare::sources(&site, &compiled.topology)?;
    prepare::check_schemas(&site, &compiled.topology)?;
    let mut drift = Vec::new();
    if args.locked {
        let at = compiled.lock.path.display();
        if compiled.lock.known.is_none() {
            drift.push(format!("{at} is missing: \"tidemill schema pin\" writes it"));
        }
        drift.extend(compiled.lock.added.iter().map(|subject| format!("subject \"{subject}\" is not pinned in {at}")));
        if let Some(known) = &compiled.lock.known {
            drift.extend(lock::drift(known, site.registry.as_ref())?);
        }
    } else {
        compiled.lock.keep()?;
    }
    Ok((compiled.topology, drift))
}

fn summary(path: &std::path::Path, topology: &Topology) -> String {
    let names = |all: Vec<&str>| if all.is_empty() { "none".to_string() } else { all.join(", ") };
    let sources = names(topology.sources.iter().map(|source| source.topic.as_str()).collect());
    let sinks = names(topology.sinks.iter().map(|sink| sink.topic.as_str()).collect());
    let marks = if topology.nondeterministic { " (nondeterministic: results can't be repeated)" } else { "" };
    format!("{}: ok: pipeline \"{}\" reads {sources} and writes {sinks}{marks}", path.display(), topology.pipeline)
}
