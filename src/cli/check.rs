//! `tidemill check`: everything that a run would refuse, without running.

use std::path::PathBuf;

use super::context::Context;
use super::report::Exit;
use super::show::line;
use super::{pipeline, report};
use crate::contract::lock;
use crate::error::{Error, Result};
use crate::job::{Site, ledger, prepare};
use crate::task::names::Names;
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
    /// Fail when pipeline.lock is missing, incomplete, behind the registry, or not what the sinks write
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
                if !drift.is_empty() {
                    report::error(context.settings.typed.log.format, None, &drifted(path, &drift));
                    worst = worst.max(Exit::Refused);
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
    let (site, compiled) = pipeline::open(context, path)?;
    prepare::check_loops(&compiled.topology)?;
    prepare::sources(&site, &compiled.topology)?;
    warn_of_lost_versions(context, &site, path, &compiled.topology)?;
    prepare::check_schemas(&site, &compiled.topology)?;
    let mut drift = Vec::new();
    if args.locked {
        let at = compiled.lock.path.display();
        if compiled.lock.known.is_none() {
            drift.push(format!("{at} is missing"));
        }
        // Of a sink that was pinned, only the version that it has by now is new.
        let pinned = |subject: &String| compiled.lock.known.as_ref().is_some_and(|known| known.sinks.contains_key(subject));
        let added = compiled.lock.added.iter().filter(|subject| !pinned(subject));
        drift.extend(added.map(|subject| format!("subject \"{subject}\" is not pinned in {at}")));
        for (subject, locked) in compiled.lock.known.iter().flat_map(|known| &known.subjects) {
            if compiled.lock.sources.contains(subject) {
                drift.extend(lock::drift(subject, locked, site.registry.as_ref())?);
            }
        }
        let sinks = compiled.lock.drifted.iter();
        drift.extend(sinks.map(|(subject, changes)| {
            format!("subject \"{subject}\": the sink writes another schema than the pinned one{}", lock::lines(changes))
        }));
    } else {
        compiled.lock.keep(site.registry.as_ref())?;
    }
    Ok((compiled.topology, drift))
}

/// Before the first start: rows of the past join what is left of a compacted topic.
fn warn_of_lost_versions(context: &Context, site: &Site, path: &std::path::Path, topology: &Topology) -> Result<()> {
    let names = Names::new(context.name_prefix(), &topology.pipeline, 1)?;
    if ledger::read(site.log.as_ref(), &names)?.live().is_some() {
        return Ok(());
    }
    for table in prepare::compacted_tables(site, topology)? {
        eprintln!(
            "warning: {}:{}:{}: table \"{}\": topic \"{}\" is compacted and has no archive: versions that rows of the past had joined \
             may be gone, so a start at \"earliest\" joins what is left of them, and a backfill needs --table-history latest",
            path.display(),
            table.line,
            table.column,
            table.name,
            table.topic
        );
    }
    Ok(())
}

fn drifted(path: &std::path::Path, drift: &[String]) -> Error {
    let found: String = drift.iter().map(|fault| format!("\n  {fault}")).collect();
    Error::contract(format!("{}: the schemas are not those of pipeline.lock{found}", path.display()))
        .hint(format!("look at the differences, then \"tidemill schema pin {} --upgrade\", and commit the lock", path.display()))
}

fn summary(path: &std::path::Path, topology: &Topology) -> String {
    let names = |all: Vec<&str>| if all.is_empty() { "none".to_string() } else { all.join(", ") };
    let sources = names(topology.sources.iter().map(|source| source.topic.as_str()).collect());
    let sinks = names(topology.sinks.iter().map(|sink| sink.topic.as_str()).collect());
    let marks = if topology.nondeterministic { " (nondeterministic: results can't be repeated)" } else { "" };
    format!("{}: ok: pipeline \"{}\" reads {sources} and writes {sinks}{marks}", path.display(), topology.pipeline)
}
