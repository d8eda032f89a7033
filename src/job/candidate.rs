//! Which generation is to take the live one's place, and where generations stand.

use crate::error::{Error, Result};
use crate::job::bounds;
use crate::job::control::{self, Change, Control, GenerationRecord, JobRecord, JobState};
use crate::job::{Site, ledger, prepare};
use crate::log::{Isolation, partitions_of};
use crate::record::{NextOffset, OffsetVector, Topic, TopicPartition};
use crate::task::decision;
use crate::task::names::Names;
use crate::topology::{self, Topology};

/// What is to become live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest generation of the SQL that is given.
    Newest,
    Job(String),
    Generation(u32),
}

/// Finds the generation of which the topology is, and checks that it can take over. Returns its number.
pub(super) fn find(site: &Site, topology: &Topology, names: &Names, control: &Control, which: &Which) -> Result<u32> {
    let pipeline = &topology.pipeline;
    let fingerprint = topology::fingerprint(topology, &Default::default());
    let same = |g: &&GenerationRecord| g.fingerprint == fingerprint && !is_cancelled(control, g.generation);
    let none = |what: String| {
        let known: Vec<&str> = control.jobs.keys().map(String::as_str).collect();
        Error::config(format!("pipeline \"{pipeline}\" has no {what}")).hint(format!(
            "its jobs are {}; \"tidemill jobs list {pipeline}\" shows them, \"tidemill backfill --then-live\" makes one",
            if known.is_empty() { "none".to_string() } else { known.join(", ") }
        ))
    };
    let found = match which {
        Which::Newest => control.generations.values().filter(same).max_by_key(|g| g.generation),
        Which::Job(job) => control.jobs.get(job).and_then(|job| control.generations.get(&job.generation)),
        Which::Generation(number) => control.generations.get(number),
    };
    let generation = found.ok_or_else(|| {
        none(match which {
            Which::Newest => "generation of this SQL".to_string(),
            Which::Job(job) => format!("job \"{job}\""),
            Which::Generation(number) => format!("generation {number}"),
        })
    })?;
    let number = generation.generation;
    if generation.fingerprint != fingerprint {
        let old: Vec<_> = generation.statements.iter().map(Into::into).collect();
        let diff = topology::statement_diff(&old, &topology.statements);
        return Err(Error::config(format!(
            "generation {number} of pipeline \"{pipeline}\" was made from another SQL:\n  {}",
            diff.join("\n  ")
        ))
        .hint("give the file that it was made from, with its pipeline.lock"));
    }
    if is_cancelled(control, number) {
        return Err(Error::config(format!("the job of generation {number} of pipeline \"{pipeline}\" was cancelled"))
            .hint("run the backfill again under another name"));
    }
    if control.live != Some(number) {
        check(site, topology, names, control, generation)?;
    }
    Ok(number)
}

fn is_cancelled(control: &Control, generation: u32) -> bool {
    control.job_of(generation).is_some_and(|job| job.state == JobState::Cancelled)
}

/// What can be refused is refused before the live generation is asked to stop.
fn check(site: &Site, topology: &Topology, names: &Names, control: &Control, generation: &GenerationRecord) -> Result<()> {
    let (number, pipeline) = (generation.generation, &topology.pipeline);
    if topology.nondeterministic {
        let message =
            format!("pipeline \"{pipeline}\" has SET 'nondeterministic' = 'true': two runs of it need not give the same");
        return Err(Error::config(message).hint(
            "only what can be repeated can take over: leave out what needs the setting, or start over with \"tidemill reset\"",
        ));
    }
    if let Some(job) = control.job_of(number) {
        if job.finish {
            return Err(Error::config(format!("job \"{}\" ran with --final: it declared that nothing more would come", job.job))
                .hint("run it again without --final; a result that is closed can't be continued"));
        }
        if job.ignore_decisions {
            return Err(Error::config(format!(
                "job \"{}\" ran with --ignore-decisions: it has not seen what the live generation has",
                job.job
            ))
            .hint("run it again without --ignore-decisions"));
        }
        let sink =
            topology.sinks.iter().find(|sink| job.outputs.get(&sink.name).is_some_and(|topic| *topic == sink.topic.as_str()));
        if let (Some(sink), Some(live)) = (sink, control.live) {
            return Err(Error::config(format!(
                "job \"{}\" writes sink \"{}\" itself (--output live), which generation {live} writes too",
                job.job, sink.name
            ))
            .hint("only a shadow can take over: run the backfill again without --output live"));
        }
    }
    let counts = prepare::sources(site, topology)?;
    let partitions = prepare::partitions(topology, &counts);
    super::live::check_partitions(topology, generation, &counts)?;
    prepare::check_ids(site, generation, pipeline)?;
    prepare::check_offsets(site, generation, pipeline, &names.with_generation(number).group(), &partitions)
}

/// The job whose shadow the candidate writes until it is live. A generation that began live gets one.
pub(super) fn job_of(site: &Site, topology: &Topology, names: &Names, number: u32) -> Result<String> {
    let job = format!("rollback-g{number}");
    let outputs = topology.sinks.iter().map(|sink| Ok((sink.name.clone(), names.shadow(&job, &sink.name)?.to_string())));
    let outputs = outputs.collect::<Result<_>>()?;
    let (_, decisions) = decision::read_since(site.log.as_ref(), &names.decisions(), NextOffset(0))?;
    let control = ledger::read(site.log.as_ref(), names)?;
    let generation = control.generations.get(&number).expect("it was found");
    let record = JobRecord {
        format: control::FORMAT,
        job,
        generation: number,
        from: generation.from.clone(),
        to: bounds::show(&positions(site, names, generation)?),
        outputs,
        finish: false,
        ignore_decisions: false,
        then_live: false,
        decisions: decisions.0,
        attempt: None,
        state: JobState::Finished,
    };
    let control = ledger::change(site.log.as_ref(), names, |control| {
        Ok(control.job_of(number).is_none().then(|| Change::default().job(&record)))
    })?;
    Ok(control.job_of(number).expect("it is there by now").job.clone())
}

/// Where a generation stands in every partition of its sources: its committed offsets, or where it began.
pub fn positions(site: &Site, names: &Names, generation: &GenerationRecord) -> Result<OffsetVector> {
    let mut partitions: Vec<TopicPartition> = Vec::new();
    for topic in generation.partitions.keys().map(Topic::new) {
        let count = site.log.topic(&topic)?.map_or(0, |info| info.partitions);
        partitions.extend(partitions_of(&topic, count));
    }
    let committed = site.log.committed(&names.with_generation(generation.generation).group(), &partitions)?;
    let from = control::parse_vector(&generation.from)?;
    let stand = |partition: TopicPartition| {
        let begun = from.get(&partition).copied().unwrap_or(NextOffset(0));
        let at = committed.get(&partition).map_or(begun, |committed| committed.next);
        (partition, at)
    };
    Ok(partitions.into_iter().map(stand).collect())
}

/// Whether a generation at rest has processed all that it has shuffled.
pub(super) fn drained(site: &Site, names: &Names) -> Result<bool> {
    let shuffles = site.log.topics(&names.generation_prefix())?;
    let shuffles = shuffles.into_iter().filter(|info| info.topic.as_str().ends_with(".repartition"));
    let partitions: Vec<TopicPartition> = shuffles.flat_map(|info| partitions_of(&info.topic, info.partitions)).collect();
    let ends = site.log.end_offsets(&partitions, Isolation::Uncommitted)?;
    let committed = site.log.committed(&names.group(), &partitions)?;
    Ok(ends.iter().all(|(partition, end)| committed.get(partition).map_or(NextOffset(0), |at| at.next) >= *end))
}
