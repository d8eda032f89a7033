//! A backfill: the same topology under a generation and a group of its own, over a recorded offset vector.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::job::bounds::{self, Bound, Which};
use crate::job::control::{Change, Control, JobRecord, JobState};
use crate::job::{Site, control, prepare};
use crate::log::Isolation;
use crate::record::{OffsetVector, Timestamp, Topic, TopicPartition};
use crate::task::core::Cadence;
use crate::task::decision;
use crate::task::names::Names;
use crate::task::run::Run;
use crate::topology::{self, Sink, Topology};

/// Where a backfill writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Topics of its own: history never floods live consumers.
    Shadow,
    /// The live sinks; only where nothing has been written yet.
    Live,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub from: Bound,
    pub to: Bound,
    /// A job of this name that was interrupted is resumed; its recorded vectors count, not the bounds given now.
    pub job: Option<String>,
    pub output: Output,
    /// `--table-history latest`: a join with a table whose topic may have lost versions is accepted; it is not promised to be what live was.
    pub latest_versions: bool,
    /// `--final`: nothing more will come, so windows still open are emitted at the end.
    pub finish: bool,
}

/// A backfill with everything resolved.
#[derive(Clone, Debug)]
pub struct Planned {
    pub job: String,
    pub resumed: bool,
    /// It had been finished before: nothing is left to do.
    pub finished: bool,
    pub generation: u32,
    pub from: OffsetVector,
    pub to: OffsetVector,
    /// Sink and the topic it is written to.
    pub outputs: Vec<(String, Topic)>,
    /// Offsets in the range (an upper bound of the records: markers and compacted records leave holes).
    pub records: u64,
    finish: bool,
}

/// Resolves and checks everything, changes nothing.
pub fn plan(site: &Site, topology: &Topology, request: &Request) -> Result<Planned> {
    let looked = look(site, topology, request)?;
    Ok(looked.planned)
}

struct Looked {
    planned: Planned,
    names: Names,
    counts: Vec<i32>,
    fingerprint: String,
}

fn look(site: &Site, topology: &Topology, request: &Request) -> Result<Looked> {
    prepare::check_loops(topology)?;
    let names = Names::new(&site.settings.name_prefix, &topology.pipeline, 1)?;
    let counts = prepare::sources(site, topology)?;
    let partitions = prepare::partitions(topology, &counts);
    let control = control::read(site.log.as_ref(), &names)?;
    let fingerprint = topology::fingerprint(topology, &Default::default());
    let planned = match request.job.as_ref().and_then(|job| control.jobs.get(job)) {
        Some(record) => resumed(topology, &control, record, &fingerprint)?,
        None => fresh(site, topology, request, &control, &names, &partitions)?,
    };
    let names = names.with_generation(planned.generation);
    if let Some(begun) = control.generations.get(&planned.generation).filter(|_| planned.resumed && !planned.finished) {
        prepare::check_ids(site, begun, &topology.pipeline)?;
        prepare::check_offsets(site, begun, &topology.pipeline, &names.group(), &partitions)?;
    }
    Ok(Looked { planned, names, counts, fingerprint })
}

fn resumed(topology: &Topology, control: &Control, record: &JobRecord, fingerprint: &str) -> Result<Planned> {
    let generation = control.generations.get(&record.generation);
    if generation.is_none_or(|generation| generation.fingerprint != fingerprint) {
        let old: Vec<_> = generation.map(|g| g.statements.iter().map(Into::into).collect()).unwrap_or_default();
        let diff = topology::statement_diff(&old, &topology.statements);
        return Err(Error::config(format!(
            "job \"{}\" was started from another version of the pipeline:\n  {}",
            record.job,
            diff.join("\n  ")
        ))
        .hint("resume it with the SQL it was started from, or give the new version another job name"));
    }
    let (from, to) = (control::parse_vector(&record.from)?, control::parse_vector(&record.to)?);
    Ok(Planned {
        job: record.job.clone(),
        resumed: true,
        finished: record.state == JobState::Finished,
        generation: record.generation,
        records: count(&from, &to),
        from,
        to,
        outputs: record.outputs.iter().map(|(sink, topic)| (sink.clone(), Topic::new(topic))).collect(),
        finish: record.finish,
    })
}

fn fresh(
    site: &Site,
    topology: &Topology,
    request: &Request,
    control: &Control,
    names: &Names,
    partitions: &[TopicPartition],
) -> Result<Planned> {
    check_history(site, topology, request)?;
    let mut from = bounds::resolve(site.log.as_ref(), partitions, &request.from, Which::From)?;
    prepare::tables_from_start(site, topology, &mut from)?;
    let to = bounds::resolve(site.log.as_ref(), partitions, &request.to, Which::To)?;
    for (partition, end) in &to {
        if from[partition] > *end {
            return Err(Error::config(format!("{partition}: --from resolves to {}, behind --to at {end}", from[partition]))
                .hint("give a range that begins before it ends"));
        }
    }
    check_mid_log(site, topology, &from)?;
    let generation = control.next_generation();
    let job = request.job.clone().unwrap_or_else(|| format!("b{generation}"));
    let outputs = topology.sinks.iter().map(|sink| Ok((sink.name.clone(), topic_of(names, sink, &job, request.output)?)));
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    if request.output == Output::Live {
        check_unwritten(site, &outputs)?;
    }
    let records = count(&from, &to);
    Ok(Planned { job, resumed: false, finished: false, generation, from, to, outputs, records, finish: request.finish })
}

fn topic_of(names: &Names, sink: &Sink, job: &str, output: Output) -> Result<Topic> {
    match output {
        Output::Shadow => names.shadow(job, &sink.name),
        Output::Live => Ok(sink.topic.clone()),
    }
}

fn count(from: &OffsetVector, to: &OffsetVector) -> u64 {
    to.iter().map(|(partition, end)| (end.0 - from.get(partition).map_or(0, |start| start.0)).max(0) as u64).sum()
}

/// With a `from` in mid-log an aggregate without windows would miss what came before.
fn check_mid_log(site: &Site, topology: &Topology, from: &OffsetVector) -> Result<()> {
    let Some(operator) = prepare::has_updating_aggregate(topology) else { return Ok(()) };
    let partitions: Vec<TopicPartition> = from.keys().cloned().collect();
    let starts = site.log.start_offsets(&partitions)?;
    match partitions.iter().find(|partition| from[*partition] > starts[*partition]) {
        None => Ok(()),
        Some(partition) => Err(Error::config(format!(
            "\"{operator}\" aggregates without a window, and the range begins at offset {} of {partition}, above the log start {}",
            from[partition], starts[partition]
        ))
        .hint("give --from earliest: what came before belongs to its result")),
    }
}

/// A compacted topic has lost versions: a join with it is not what the live one was.
fn check_history(site: &Site, topology: &Topology, request: &Request) -> Result<()> {
    if request.latest_versions {
        return Ok(());
    }
    match prepare::compacted_tables(site, topology)?.first() {
        None => Ok(()),
        Some(table) => Err(Error::config(format!(
            "table \"{}\" (line {}): topic \"{}\" is compacted, so versions that rows of the past had joined may be gone",
            table.name, table.line, table.topic
        ))
        .hint("give --table-history latest to join what is left: the result is then not promised to equal the live one")),
    }
}

/// `--output live` only into sinks that nothing has written.
fn check_unwritten(site: &Site, outputs: &[(String, Topic)]) -> Result<()> {
    for (sink, topic) in outputs {
        let Some(info) = site.log.topic(topic)? else { continue };
        let partitions = crate::log::partitions_of(topic, info.partitions);
        let ends = site.log.end_offsets(&partitions, Isolation::Uncommitted)?;
        if let Some((partition, end)) = ends.iter().find(|(_, end)| end.0 > 0) {
            return Err(Error::config(format!("sink \"{sink}\": {partition} has been written already (its end is {end})"))
                .hint("leave --output live out: the backfill then writes shadow topics of its own"));
        }
    }
    Ok(())
}

/// Creates what the job needs, records it (unless it was recorded before), and returns the run.
pub fn prepare(site: &Site, topology: &Topology, request: &Request) -> Result<(Planned, Run)> {
    prepare_as(site, topology, request, "00000000")
}

pub fn prepare_as(site: &Site, topology: &Topology, request: &Request, instance: &str) -> Result<(Planned, Run)> {
    let Looked { planned, names, counts, fingerprint } = look(site, topology, request)?;
    let tasks = counts.iter().copied().max().unwrap_or(0);
    let outputs: BTreeMap<&str, &Topic> = planned.outputs.iter().map(|(sink, topic)| (sink.as_str(), topic)).collect();
    let mut sinks = prepare::sink_topics(site, topology, tasks, &|sink| Ok(outputs[sink.name.as_str()].clone()))?;
    if request.output == Output::Shadow {
        sinks.iter_mut().for_each(prepare::keep_for_ever);
    }
    let mut internal = prepare::internal_topics(site, topology, &names, &counts)?;
    prepare::check_topics(site, &mut sinks, request.output == Output::Shadow)?;
    prepare::check_topics(site, &mut internal, true)?;
    prepare::check_schemas(site, topology)?;
    site.log.create_topics(&sinks)?;
    site.log.create_topics(&internal)?;
    let subject = |sink: &Sink, live: &str| match outputs[sink.name.as_str()] {
        topic if *topic == sink.topic => live.to_string(),
        topic if live == sink.value_subject => format!("{topic}-value"),
        topic => format!("{topic}-key"),
    };
    let targets = prepare::targets(site, topology, &sinks, &subject)?;
    if !planned.resumed {
        let mut record = control::new_generation(planned.generation, &fingerprint, &topology.statements, &planned.from);
        record.job = Some(planned.job.clone());
        prepare::remember_sources(site, topology, &mut record)?;
        record.offsets = prepare::first_offsets(site, topology, &names.group(), &planned.from)?;
        let change = Change::default().generation(&record).job(&job_record(&planned));
        control::write(site.log.as_ref(), &names, instance, change)?;
    }
    let letters = internal[1].partitions.min(internal[2].partitions);
    let mut plan = prepare::plan(site, topology, names, counts, targets, letters)?;
    plan.emit_from = emit_from(site, &planned.from)?;
    let settings = &site.settings;
    let run = Run {
        start: planned.from.clone(),
        end: Some(planned.to.clone()),
        finish: planned.finish,
        cadence: Cadence::bulk(),
        delivery: settings.delivery,
        decisions: decision::read(site.log.as_ref(), &plan.names.decisions())?,
        idle_after: None,
        raise_tables: true,
        instance: instance.to_string(),
        static_member: settings.state_dir.is_some(),
        transaction_timeout: settings.transaction_timeout,
        max_poll_records: settings.max_poll_records,
        state: settings.state_dir.as_ref().map(|dir| dir.join(plan.names.group())),
        checkpoint_interval: settings.checkpoint_interval,
        plan: Arc::new(plan),
    };
    Ok((planned, run))
}

/// With a range that begins in mid-log no window that starts before it is emitted: it would be incomplete. The bound is the highest
/// record timestamp at the beginnings that lie in mid-log.
fn emit_from(site: &Site, from: &OffsetVector) -> Result<Option<Timestamp>> {
    let partitions: Vec<TopicPartition> = from.keys().cloned().collect();
    let starts = site.log.start_offsets(&partitions)?;
    let ends = site.log.end_offsets(&partitions, Isolation::Committed)?;
    let mid: OffsetVector =
        from.iter().filter(|(p, at)| **at > starts[*p] && **at < ends[*p]).map(|(p, at)| (p.clone(), *at)).collect();
    let mut bound = None;
    for (partition, at) in mid {
        let mut reader = site.log.reader(crate::log::Isolation::Committed, &OffsetVector::from([(partition.clone(), at)]))?;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while reader.positions()[&partition] < ends[&partition] && std::time::Instant::now() < deadline {
            let chunks = reader.poll(std::time::Duration::from_millis(200), 1)?;
            if let Some(millis) = chunks.iter().flat_map(|chunk| chunk.timestamps.first()).next() {
                bound = bound.max(Timestamp::from_millis(*millis));
                break;
            }
        }
    }
    Ok(bound)
}

fn job_record(planned: &Planned) -> JobRecord {
    let outputs = planned.outputs.iter().map(|(sink, topic)| (sink.clone(), topic.to_string())).collect();
    control::new_job(&planned.job, planned.generation, &planned.from, &planned.to, outputs, planned.finish)
}

/// Records that the job is done.
pub fn finish(site: &Site, topology: &Topology, planned: &Planned) -> Result<()> {
    let names = Names::new(&site.settings.name_prefix, &topology.pipeline, planned.generation)?;
    let record = JobRecord { state: JobState::Finished, ..job_record(planned) };
    control::write(site.log.as_ref(), &names, "finish", Change::default().job(&record))
}
