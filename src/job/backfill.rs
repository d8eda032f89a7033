//! A backfill: the same topology under a generation and a group of its own, over a recorded offset vector.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::job::bounds::{self, Bound, Which};
use crate::job::control::{self, Change, Control, GenerationRecord, JobRecord, JobState};
use crate::job::fence::Fence;
use crate::job::{Site, ledger, prepare, range};
use crate::record::{NextOffset, OffsetVector, Topic, TopicPartition};
use crate::task::core::Cadence;
use crate::task::decision;
use crate::task::names::Names;
use crate::task::outlet::Target;
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
    /// `--ignore-decisions`: what would have been if no quiet partition had been raised. Such a result can't become live.
    pub ignore_decisions: bool,
    /// It becomes live at its end: see [`super::promote`].
    pub then_live: bool,
}

impl Request {
    /// Goes on with a job that is recorded.
    pub fn resume(job: &str) -> Request {
        Request {
            from: Bound::Earliest,
            to: Bound::Latest,
            job: Some(job.to_string()),
            output: Output::Shadow,
            latest_versions: true,
            finish: false,
            ignore_decisions: false,
            then_live: false,
        }
    }
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
    ignore_decisions: bool,
    then_live: bool,
}

impl Planned {
    /// As it was recorded, whatever is asked for now.
    pub fn ignores_decisions(&self) -> bool {
        self.ignore_decisions
    }
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
    control: Control,
}

fn look(site: &Site, topology: &Topology, request: &Request) -> Result<Looked> {
    prepare::check_loops(topology)?;
    let names = Names::new(&site.settings.name_prefix, &topology.pipeline, 1)?;
    let counts = prepare::sources(site, topology)?;
    let partitions = prepare::partitions(topology, &counts);
    let control = ledger::read(site.log.as_ref(), &names)?;
    let fingerprint = topology::fingerprint(topology, &Default::default());
    let planned = match recorded(&control, request, &fingerprint) {
        Some(record) => resumed(topology, &control, record, &fingerprint)?,
        None => fresh(site, topology, request, &control, &names, &partitions)?,
    };
    let names = names.with_generation(planned.generation);
    if let Some(begun) = control.generations.get(&planned.generation).filter(|_| planned.resumed && !planned.finished) {
        prepare::check_ids(site, begun, &topology.pipeline)?;
        prepare::check_offsets(site, begun, &topology.pipeline, &names.group(), &partitions)?;
    }
    Ok(Looked { planned, names, counts, fingerprint, control })
}

/// The job that the request goes on with: the one that it names, or, where the same command is given again, the last one that is to become
/// live with this SQL.
fn recorded<'c>(control: &'c Control, request: &Request, fingerprint: &str) -> Option<&'c JobRecord> {
    if let Some(job) = &request.job {
        return control.jobs.get(job);
    }
    let same = |generation: u32| control.generations.get(&generation).is_some_and(|g| g.fingerprint == fingerprint);
    let goes_on = |job: &&JobRecord| job.then_live && job.state != JobState::Cancelled && same(job.generation);
    control.jobs.values().filter(goes_on).max_by_key(|job| job.generation).filter(|_| request.then_live)
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
    if record.state == JobState::Cancelled {
        return Err(
            Error::config(format!("job \"{}\" was cancelled", record.job)).hint("give the new one another name: --job NAME")
        );
    }
    let (from, to) = (control::parse_vector(&record.from)?, control::parse_vector(&record.to)?);
    Ok(Planned {
        job: record.job.clone(),
        resumed: true,
        finished: record.state != JobState::Running,
        generation: record.generation,
        records: count(&from, &to),
        from,
        to,
        outputs: record.outputs.iter().map(|(sink, topic)| (sink.clone(), Topic::new(topic))).collect(),
        finish: record.finish,
        ignore_decisions: record.ignore_decisions,
        then_live: record.then_live,
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
    range::check_history(site, topology, request.latest_versions)?;
    let mut from = bounds::resolve(site.log.as_ref(), partitions, &request.from, Which::From)?;
    prepare::tables_from_start(site, topology, &mut from)?;
    let to = bounds::resolve(site.log.as_ref(), partitions, &request.to, Which::To)?;
    for (partition, end) in &to {
        if from[partition] > *end {
            return Err(Error::config(format!("{partition}: --from resolves to {}, behind --to at {end}", from[partition]))
                .hint("give a range that begins before it ends"));
        }
    }
    range::check_mid_log(site, topology, &from)?;
    let generation = control.next_generation();
    let job = request.job.clone().unwrap_or_else(|| format!("b{generation}"));
    let outputs = topology.sinks.iter().map(|sink| Ok((sink.name.clone(), topic_of(names, sink, &job, request.output)?)));
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    if request.output == Output::Live {
        range::check_unwritten(site, &outputs)?;
    }
    let records = count(&from, &to);
    let (finish, then_live) = (request.finish, request.then_live);
    if finish && then_live {
        return Err(Error::config("--final and --then-live are given: a run that declares its end can't go on")
            .hint("leave --final out: windows that are open at the end stay in the state, and live goes on with them"));
    }
    if request.ignore_decisions && then_live {
        return Err(Error::config("--ignore-decisions and --then-live are given: the live generation follows its decisions")
            .hint("leave --ignore-decisions out: only a run that has followed them can go on live"));
    }
    Ok(Planned {
        job,
        resumed: false,
        finished: false,
        generation,
        from,
        to,
        outputs,
        records,
        finish,
        ignore_decisions: request.ignore_decisions,
        then_live,
    })
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

/// Creates what the job needs, records it (unless it was recorded before), and returns the run.
pub fn prepare(site: &Site, topology: &Topology, request: &Request) -> Result<(Planned, Run)> {
    prepare_as(site, topology, request, "00000000")
}

pub fn prepare_as(site: &Site, topology: &Topology, request: &Request, instance: &str) -> Result<(Planned, Run)> {
    let looked = look(site, topology, request)?;
    let Looked { planned, names, counts, fingerprint, control } = &looked;
    let (targets, letters) = outputs(site, topology, &looked)?;
    let begun = match control.generations.get(&planned.generation) {
        Some(begun) if planned.resumed => begun.clone(),
        _ => {
            let mut begun = control::new_generation(planned.generation, fingerprint, &topology.statements, &planned.from);
            begun.job = Some(planned.job.clone());
            begun.emit_from = range::emit_from(site, &planned.from)?.map(|from| from.0);
            prepare::remember_sources(site, topology, &mut begun)?;
            begun.offsets = prepare::first_offsets(site, topology, &names.group(), &planned.from)?;
            if !record(site, names, planned, &begun)? {
                // Another began at the same moment, perhaps this very job.
                return prepare_as(site, topology, request, instance);
            }
            begun
        }
    };
    // Without the recorded ones a table has to be raised at the end of the range; nobody else is told.
    let ignored = planned.ignore_decisions;
    let raise_tables = ignored || may_decide(site, names, control, topology, &planned.to)?;
    let mut plan = prepare::plan(site, topology, names.clone(), counts.clone(), targets, letters)?;
    plan.emit_from = begun.emit_from();
    let settings = &site.settings;
    if let Some(dir) = &settings.state_dir {
        settings.memory.keep_below(dir);
    }
    let run = Run {
        start: planned.from.clone(),
        end: Some(planned.to.clone()),
        finish: planned.finish,
        cadence: Cadence::bulk(),
        delivery: settings.delivery,
        decisions: Vec::new(),
        shares_decisions: !ignored,
        idle_after: None,
        quiet_after: None,
        raise_tables,
        instance: instance.to_string(),
        static_member: settings.state_dir.is_some(),
        transaction_timeout: settings.transaction_timeout,
        max_poll_records: settings.max_poll_records,
        state: settings.state_dir.as_ref().map(|dir| dir.join(plan.names.group())),
        checkpoint_interval: settings.checkpoint_interval,
        memory: settings.memory.clone(),
        restoring: settings.restoring,
        standby_tasks: 0,
        permit: Some(Arc::new(Fence::job(site, names, &planned.job))),
        plan: Arc::new(plan),
    };
    Ok((looked.planned, run))
}

/// Creates the topics that the job writes and owns. Returns the sinks' targets, and the partition count of the letter topics.
fn outputs(site: &Site, topology: &Topology, looked: &Looked) -> Result<(Vec<Target>, i32)> {
    let Looked { planned, names, counts, .. } = looked;
    let tasks = counts.iter().copied().max().unwrap_or(0);
    let outputs: BTreeMap<&str, &Topic> = planned.outputs.iter().map(|(sink, topic)| (sink.as_str(), topic)).collect();
    let is_shadow = |sink: &Sink| *outputs[sink.name.as_str()] != sink.topic;
    let shadow = topology.sinks.iter().all(is_shadow);
    let mut sinks = prepare::sink_topics(site, topology, tasks, &|sink| Ok(outputs[sink.name.as_str()].clone()))?;
    if shadow {
        sinks.iter_mut().for_each(prepare::keep_for_ever);
    }
    let mut internal = prepare::internal_topics(site, topology, names, counts)?;
    prepare::check_topics(site, &mut sinks, shadow)?;
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
    Ok((targets, internal[1].partitions.min(internal[2].partitions)))
}

/// Records generation and job. `false`: one of them is taken by now.
fn record(site: &Site, names: &Names, planned: &Planned, begun: &GenerationRecord) -> Result<bool> {
    let (_, decisions) = decision::read_since(site.log.as_ref(), &names.decisions(), NextOffset(0))?;
    let job = JobRecord {
        format: control::FORMAT,
        job: planned.job.clone(),
        generation: planned.generation,
        from: bounds::show(&planned.from),
        to: bounds::show(&planned.to),
        outputs: planned.outputs.iter().map(|(sink, topic)| (sink.clone(), topic.to_string())).collect(),
        finish: planned.finish,
        ignore_decisions: planned.ignore_decisions,
        then_live: planned.then_live,
        decisions: decisions.0,
        attempt: None,
        state: JobState::Running,
    };
    let control = ledger::change(site.log.as_ref(), names, |control| {
        let free = !control.jobs.contains_key(&job.job) && !control.generations.contains_key(&begun.generation);
        Ok(free.then(|| Change::default().generation(begun).job(&job)))
    })?;
    Ok(control.jobs.get(&job.job) == Some(&job) && control.generations.get(&begun.generation) == Some(begun))
}

/// A run makes decisions of its own only where no other run of the pipeline has been, and none may be going on beside a live one: that one
/// would not know of them.
fn may_decide(site: &Site, names: &Names, control: &Control, topology: &Topology, to: &OffsetVector) -> Result<bool> {
    if control.live.is_some() {
        return Ok(false);
    }
    let tables: Vec<&Topic> =
        topology.sources.iter().filter(|source| source.table.is_some()).map(|source| &source.topic).collect();
    let asked: Vec<TopicPartition> = to.keys().filter(|partition| tables.contains(&&partition.topic)).cloned().collect();
    if asked.is_empty() {
        return Ok(true);
    }
    for generation in control.generations.keys().filter(|generation| **generation != names.generation) {
        let committed = site.log.committed(&names.with_generation(*generation).group(), &asked)?;
        if committed.iter().any(|(partition, at)| at.next > to[partition]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Records that the job has come to its end.
pub fn finish(site: &Site, topology: &Topology, planned: &Planned) -> Result<()> {
    let names = Names::new(&site.settings.name_prefix, &topology.pipeline, planned.generation)?;
    let to = bounds::show(&planned.to);
    ledger::change(site.log.as_ref(), &names, |control| {
        let ends = control.jobs.get(&planned.job).filter(|job| job.state == JobState::Running && job.to == to);
        Ok(ends.map(|job| Change::default().job(&JobRecord { state: JobState::Finished, ..job.clone() })))
    })?;
    Ok(())
}
