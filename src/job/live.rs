//! Live, and once (`--until-caught-up`): the generation that writes the live sinks.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::job::bounds::{self, Bound, Which};
use crate::job::control::{self, Change, Control, GenerationRecord, PromotionRecord, Stance};
use crate::job::fence::Fence;
use crate::job::{Site, ledger, prepare};
use crate::log::Isolation;
use crate::record::{NextOffset, OffsetVector, TopicPartition};
use crate::task::core::Cadence;
use crate::task::names::Names;
use crate::task::outlet::Target;
use crate::task::permit::Permit;
use crate::task::run::Run;
use crate::topology::{self, Statement, Topology};

/// A live run, checked and ready.
pub struct Prepared {
    pub run: Run,
    /// Where partitions begin that have no committed offset.
    pub start: OffsetVector,
    pub generation: u32,
    pub first_start: bool,
    /// What the generation may do: unless it is live, `run` would leave at once.
    pub stance: Stance,
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
    let control = ledger::read(site.log.as_ref(), &names)?;
    let fingerprint = topology::fingerprint(topology, &Default::default());
    let known = control.live().cloned();
    if let Some(live) = &known {
        // Counts may decide where rows are shuffled, and with it the fingerprint: what has changed is said first.
        check_partitions(topology, live, &counts)?;
        check_generation(topology, live, &control, &fingerprint, from)?;
        prepare::check_ids(site, live, &topology.pipeline)?;
        let group = names.with_generation(live.generation).group();
        prepare::check_offsets(site, live, &topology.pipeline, &group, &partitions)?;
    }
    if known.is_none() {
        check_sinks(topology, &control)?;
    }
    let names = names.with_generation(known.as_ref().map_or(control.next_generation(), |live| live.generation));
    let start = match &known {
        Some(live) => complete(control::parse_vector(&live.from)?, &partitions),
        None => {
            let mut start = bounds::resolve(site.log.as_ref(), &partitions, from.unwrap_or(&Bound::Earliest), Which::From)?;
            prepare::tables_from_start(site, topology, &mut start)?;
            start
        }
    };
    let (targets, letters) = outputs(site, topology, &names, &counts)?;
    let (first_start, live) = match known {
        Some(live) => (false, live),
        None => match first(site, topology, &names, &fingerprint, &start)? {
            Some(live) => (true, live),
            // Another process began at the same moment.
            None => return prepare_as(site, topology, from, until_caught_up, instance),
        },
    };
    let end = match until_caught_up {
        true => Some(site.log.end_offsets(&partitions, Isolation::Committed)?),
        false => None,
    };
    let mut plan = prepare::plan(site, topology, names.clone(), counts, targets, letters)?;
    plan.emit_from = live.emit_from();
    let settings = &site.settings;
    if let Some(dir) = &settings.state_dir {
        settings.memory.keep_below(dir);
    }
    let run = Run {
        start: start.clone(),
        end,
        finish: false,
        cadence: if until_caught_up { Cadence::bulk() } else { Cadence::live(settings.commit_interval_ms) },
        delivery: settings.delivery,
        decisions: Vec::new(),
        shares_decisions: true,
        idle_after: if until_caught_up { None } else { settings.idle_after },
        quiet_after: if until_caught_up { None } else { settings.quiet_after },
        raise_tables: true,
        instance: instance.to_string(),
        static_member: settings.state_dir.is_some(),
        transaction_timeout: settings.transaction_timeout,
        max_poll_records: settings.max_poll_records,
        state: settings.state_dir.as_ref().map(|dir| dir.join(plan.names.group())),
        checkpoint_interval: settings.checkpoint_interval,
        memory: settings.memory.clone(),
        restoring: settings.restoring,
        standby_tasks: settings.standby_tasks,
        permit: Some(Arc::new(Fence::live(site, &names))),
        plan: Arc::new(plan),
    };
    let stance = if first_start { Stance::Live } else { control.stance(live.generation) };
    Ok(Prepared { run, start, generation: live.generation, first_start, stance })
}

/// Creates the topics that a live generation writes and owns, and registers its schemas. Returns the sinks' targets, and the partition count
/// of the letter topics. What is refused is refused before anything is made.
pub(super) fn outputs(site: &Site, topology: &Topology, names: &Names, counts: &[i32]) -> Result<(Vec<Target>, i32)> {
    let tasks = counts.iter().copied().max().unwrap_or(0);
    let mut sinks = prepare::sink_topics(site, topology, tasks, &|sink| Ok(sink.topic.clone()))?;
    let mut internal = prepare::internal_topics(site, topology, names, counts)?;
    prepare::check_topics(site, &mut sinks, false)?;
    prepare::check_topics(site, &mut internal, true)?;
    prepare::check_schemas(site, topology)?;
    site.log.create_topics(&sinks)?;
    site.log.create_topics(&internal)?;
    let targets = prepare::targets(site, topology, &sinks, &|_, subject| subject.to_string())?;
    Ok((targets, internal[1].partitions.min(internal[2].partitions)))
}

/// Writes the generation of a first start. `None`: the control topic says something else by now.
fn first(
    site: &Site,
    topology: &Topology,
    names: &Names,
    fingerprint: &str,
    start: &OffsetVector,
) -> Result<Option<GenerationRecord>> {
    let mut record = control::new_generation(names.generation, fingerprint, &topology.statements, start);
    prepare::remember_sources(site, topology, &mut record)?;
    record.offsets = !prepare::has_state(topology);
    let now = ledger::begin(site.log.as_ref(), names, |control| {
        if control.live.is_some() || control.generations.contains_key(&record.generation) {
            return Ok(None);
        }
        check_sinks(topology, control)?;
        let offsets = prepare::first_offsets(site, topology, &names.group(), start)?;
        Ok(Some(Change::default().generation(&record).live(record.generation).offsets(offsets)))
    })?;
    Ok((now.live() == Some(&record)).then_some(record))
}

/// A backfill that fills the live sinks is their only writer until it is at its end.
fn check_sinks(topology: &Topology, control: &Control) -> Result<()> {
    for sink in &topology.sinks {
        if let Some(job) = control.writer_of(&sink.topic) {
            let (name, pipeline) = (&job.job, &topology.pipeline);
            return Err(Error::config(format!("job \"{name}\" writes sink \"{}\" (--output live)", sink.name)).hint(format!(
                "let it come to its end and go on from there with \"tidemill promote PIPELINE.sql {name}\", or give it up with \
                 \"tidemill jobs cancel {pipeline} {name}\""
            )));
        }
    }
    Ok(())
}

/// The same generation, once its sources have stopped: up to its vector, and what it has shuffled through to its sinks.
pub(super) fn draining(site: &Site, prepared: Prepared, promotion: &PromotionRecord) -> Result<Run> {
    let vector = control::parse_vector(promotion.at.as_deref().unwrap_or_default())?;
    let names = prepared.run.plan.names.clone();
    Ok(Run {
        end: Some(vector),
        cadence: Cadence::bulk(),
        idle_after: None,
        quiet_after: None,
        permit: Some(Arc::new(Fence::drain(site, &names, promotion.clone())) as Arc<dyn Permit>),
        ..prepared.run
    })
}

/// `run` with another fingerprint than the live one is refused, statement by statement.
fn check_generation(
    topology: &Topology,
    live: &GenerationRecord,
    control: &Control,
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
        .hint(remedies(name, control, fingerprint)));
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

/// What to do about another version than the live one.
fn remedies(name: &str, control: &Control, fingerprint: &str) -> String {
    let made =
        control.generations.values().filter(|generation| generation.fingerprint == fingerprint).map(|g| g.generation).max();
    let first = match made {
        Some(generation) => {
            format!("this version is generation {generation}: make it live with \"tidemill promote PIPELINE.sql\"")
        }
        None => {
            "let this version catch up in a shadow and take over at an exact offset with \"tidemill backfill PIPELINE.sql --from \
                 earliest --to latest --then-live\""
                .to_string()
        }
    };
    format!("{first}; or go back to the former SQL, or start over with \"tidemill reset {name} --yes\"")
}

/// The partition counts belong to the generation.
pub(super) fn check_partitions(topology: &Topology, live: &GenerationRecord, counts: &[i32]) -> Result<()> {
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
fn complete(mut start: OffsetVector, partitions: &[TopicPartition]) -> OffsetVector {
    for partition in partitions {
        start.entry(partition.clone()).or_insert(NextOffset(0));
    }
    start
}
