//! Live, and once (`--until-caught-up`): the generation that writes the live sinks.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::job::bounds::{self, Bound, Which};
use crate::job::{Site, control, prepare};
use crate::log::Isolation;
use crate::record::OffsetVector;
use crate::task::core::Cadence;
use crate::task::decision;
use crate::task::names::Names;
use crate::task::run::Run;
use crate::topology::{self, Statement, Topology};

/// A live run, checked and ready.
pub struct Prepared {
    pub run: Run,
    /// Where partitions begin that have no committed offset.
    pub start: OffsetVector,
    pub generation: u32,
    pub first_start: bool,
}

/// Checks everything, then creates topics, registers schemas and, at the first start, writes the generation.
///
/// # Errors
/// `Config` or `Contract` for what is refused; nothing has been created then.
pub fn prepare(site: &Site, topology: &Topology, from: Option<&Bound>, until_caught_up: bool) -> Result<Prepared> {
    prepare_as(site, topology, from, until_caught_up, "00000000")
}

/// The same with the random part of transactional ids that the state directory holds.
pub fn prepare_as(
    site: &Site,
    topology: &Topology,
    from: Option<&Bound>,
    until_caught_up: bool,
    instance: &str,
) -> Result<Prepared> {
    if !topology.named {
        return Err(Error::config(format!("pipeline \"{}\" has no name of its own", topology.pipeline)).hint(format!(
            "add SET 'pipeline.name' = '{}'; to the file: groups and internal topics carry it",
            topology.pipeline
        )));
    }
    prepare::check_loops(topology)?;
    let names = Names::new(&site.settings.name_prefix, &topology.pipeline, 1)?;
    let counts = prepare::sources(site, topology)?;
    let partitions = prepare::partitions(topology, &counts);
    let tasks = counts.iter().copied().max().unwrap_or(0);
    let control = control::read(site.log.as_ref(), &names)?;
    let fingerprint = topology::fingerprint(topology, &Default::default());
    let (generation, first_start) = match control.live() {
        Some(live) => {
            // Counts may decide where rows are shuffled, and with it the fingerprint: what has changed is said first.
            check_partitions(topology, live, &counts)?;
            check_generation(topology, live, &fingerprint, from)?;
            prepare::check_ids(site, live, &topology.pipeline)?;
            let group = names.clone().with_generation(live.generation).group();
            prepare::check_offsets(site, live, &topology.pipeline, &group, &partitions)?;
            (live.generation, false)
        }
        None => (control.next_generation(), true),
    };
    let names = names.with_generation(generation);
    let start = match control.live() {
        Some(live) => complete(control::parse_vector(&live.from)?, &partitions),
        None => {
            let mut start = bounds::resolve(site.log.as_ref(), &partitions, from.unwrap_or(&Bound::Earliest), Which::From)?;
            prepare::tables_from_start(site, topology, &mut start)?;
            start
        }
    };
    let mut sinks = prepare::sink_topics(site, topology, tasks, &|sink| Ok(sink.topic.clone()))?;
    let mut internal = prepare::internal_topics(site, topology, &names, &counts)?;
    prepare::check_topics(site, &mut sinks, false)?;
    prepare::check_topics(site, &mut internal, true)?;
    prepare::check_schemas(site, topology)?;
    // From here on things are made.
    site.log.create_topics(&sinks)?;
    site.log.create_topics(&internal)?;
    let targets = prepare::targets(site, topology, &sinks, &|_, subject| subject.to_string())?;
    if first_start {
        let mut record = control::new_generation(generation, &fingerprint, &topology.statements, &start);
        prepare::remember_sources(site, topology, &mut record)?;
        record.offsets = prepare::first_offsets(site, topology, &names.group(), &start)?;
        let change = control::Change::default().generation(&record).live(generation);
        control::write(site.log.as_ref(), &names, instance, change)?;
    }
    let end = match until_caught_up {
        true => Some(site.log.end_offsets(&partitions, Isolation::Committed)?),
        false => None,
    };
    let letters = internal[1].partitions.min(internal[2].partitions);
    let plan = prepare::plan(site, topology, names, counts, targets, letters)?;
    let settings = &site.settings;
    let run = Run {
        start: start.clone(),
        end,
        finish: false,
        cadence: if until_caught_up { Cadence::bulk() } else { Cadence::live(settings.commit_interval_ms) },
        delivery: settings.delivery,
        decisions: decision::read(site.log.as_ref(), &plan.names.decisions())?,
        idle_after: if until_caught_up { None } else { settings.idle_after },
        raise_tables: true,
        instance: instance.to_string(),
        static_member: settings.state_dir.is_some(),
        transaction_timeout: settings.transaction_timeout,
        max_poll_records: settings.max_poll_records,
        state: settings.state_dir.as_ref().map(|dir| dir.join(plan.names.group())),
        checkpoint_interval: settings.checkpoint_interval,
        plan: Arc::new(plan),
    };
    Ok(Prepared { run, start, generation, first_start })
}

/// `run` with another fingerprint than the live one is refused, statement by statement.
fn check_generation(
    topology: &Topology,
    live: &control::GenerationRecord,
    fingerprint: &str,
    from: Option<&Bound>,
) -> Result<()> {
    let name = &topology.pipeline;
    if live.fingerprint != fingerprint {
        let old: Vec<Statement> = live.statements.iter().map(Statement::from).collect();
        let diff = topology::statement_diff(&old, &topology.statements);
        let diff = if diff.is_empty() { vec!["the statements are the same: a pinned schema changed".to_string()] } else { diff };
        return Err(Error::config(format!(
            "pipeline \"{name}\" differs from its live generation {}:\n  {}",
            live.generation,
            diff.join("\n  ")
        ))
        .hint(format!(
            "go back to the former SQL, or start over with \"tidemill reset {name} --yes\"; to look at the new version first, \
             \"tidemill backfill\" it into a shadow"
        )));
    }
    if from.is_some() {
        return Err(Error::config(format!(
            "--from is given, but pipeline \"{name}\" has generation {} with positions of its own",
            live.generation
        ))
        .hint("leave --from out to go on, or start over with \"tidemill reset\""));
    }
    Ok(())
}

/// The partition counts belong to the generation.
fn check_partitions(topology: &Topology, live: &control::GenerationRecord, counts: &[i32]) -> Result<()> {
    if !topology.nodes.iter().any(|node| node.operation.stateful()) {
        return Ok(());
    }
    for (source, count) in topology.sources.iter().zip(counts) {
        if let Some(before) = live.partitions.get(source.topic.as_str())
            && before != count
        {
            return Err(Error::config(format!(
                "topic \"{}\" has {count} partitions, generation {} of pipeline \"{}\" began with {before}",
                source.topic, live.generation, topology.pipeline
            ))
            .hint("keys have moved to other partitions than their state: start over with \"tidemill reset\""));
        }
    }
    Ok(())
}

/// New partitions of a stateless pipeline begin at their start.
fn complete(mut start: OffsetVector, partitions: &[crate::record::TopicPartition]) -> OffsetVector {
    for partition in partitions {
        start.entry(partition.clone()).or_insert(crate::record::NextOffset(0));
    }
    start
}
