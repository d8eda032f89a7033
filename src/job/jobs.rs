//! Jobs as they are recorded: how far they are, and giving one up.

use std::time::Duration;

use crate::error::{Error, Kind, Result, nearest};
use crate::job::control::{self, Change, Control, JobRecord, JobState};
use crate::job::{Site, ledger};
use crate::record::{OffsetVector, Topic, TopicPartition};
use crate::task::names::Names;

/// How long the processes of a generation that was given up may take to leave it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(60);

/// A job, its vectors, and where its group stands.
#[derive(Clone, Debug)]
pub struct Job {
    pub record: JobRecord,
    pub from: OffsetVector,
    pub to: OffsetVector,
    pub committed: OffsetVector,
    /// Its generation is being made live.
    pub promoted: bool,
}

impl Job {
    /// Offsets done, and in all. They may hold fewer records: markers and compacted records leave holes.
    pub fn done(&self) -> (u64, u64) {
        let width = |to: i64, from: i64| u64::try_from(to - from).unwrap_or(0);
        let from = |partition: &TopicPartition| self.from.get(partition).map_or(0, |from| from.0);
        let of = |(partition, to): (&TopicPartition, &crate::record::NextOffset)| {
            let at = self.committed.get(partition).map_or(from(partition), |at| at.0.min(to.0));
            (width(at, from(partition)), width(to.0, from(partition)))
        };
        self.to.iter().map(of).fold((0, 0), |(done, all), (of_done, of_all)| (done + of_done, all + of_all))
    }
}

/// The jobs of a pipeline, by their generations.
pub fn list(site: &Site, pipeline: &str) -> Result<Vec<Job>> {
    let names = Names::new(&site.settings.name_prefix, pipeline, 1)?;
    let control = ledger::read(site.log.as_ref(), &names)?;
    let mut jobs = control.jobs.values().map(|record| job(site, &names, &control, record)).collect::<Result<Vec<Job>>>()?;
    jobs.sort_by_key(|job| job.record.generation);
    Ok(jobs)
}

/// # Errors
/// `Config` when there is none of that name.
pub fn show(site: &Site, pipeline: &str, name: &str) -> Result<Job> {
    let names = Names::new(&site.settings.name_prefix, pipeline, 1)?;
    let control = ledger::read(site.log.as_ref(), &names)?;
    let record = control.jobs.get(name).ok_or_else(|| unknown(&control, pipeline, name))?;
    job(site, &names, &control, record)
}

fn job(site: &Site, names: &Names, control: &Control, record: &JobRecord) -> Result<Job> {
    let to = control::parse_vector(&record.to)?;
    let partitions: Vec<TopicPartition> = to.keys().cloned().collect();
    let group = names.with_generation(record.generation).group();
    let committed = site.log.committed(&group, &partitions)?.into_iter().map(|(partition, at)| (partition, at.next)).collect();
    let promoted = control.promotion.as_ref().is_some_and(|promotion| promotion.generation == record.generation);
    Ok(Job { from: control::parse_vector(&record.from)?, to, committed, promoted, record: record.clone() })
}

fn unknown(control: &Control, pipeline: &str, name: &str) -> Error {
    let hint = match nearest(name, control.jobs.keys().map(String::as_str)) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("\"tidemill jobs list {pipeline}\" shows those that there are"),
    };
    Error::config(format!("pipeline \"{pipeline}\" has no job \"{name}\"")).hint(hint)
}

/// What a cancel left behind and took away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// Its generation was being made live: the live one goes on.
    pub promotion: bool,
    /// The group that was deleted.
    pub group: Option<String>,
    pub topics: Vec<Topic>,
    /// What it has written stays.
    pub outputs: Vec<Topic>,
}

/// Gives a job up, and with it the promotion of its generation. Its processes leave, its group and internal topics are deleted. A generation
/// that was live once stays: only its promotion is given up.
///
/// # Errors
/// `Config` when there is none of that name, or it is live.
pub fn cancel(site: &Site, pipeline: &str, name: &str) -> Result<Cancelled> {
    let names = Names::new(&site.settings.name_prefix, pipeline, 1)?;
    let mut cancelled = Cancelled { promotion: false, group: None, topics: Vec::new(), outputs: Vec::new() };
    let mut deletes = None;
    ledger::change(site.log.as_ref(), &names, |control| {
        let job = control.jobs.get(name).ok_or_else(|| unknown(control, pipeline, name))?;
        if control.live == Some(job.generation) {
            return Err(Error::config(format!("job \"{name}\" is live: its generation {} writes the sinks", job.generation))
                .hint(format!("promote another generation first, or start over with \"tidemill reset {pipeline}\"")));
        }
        let promotion = control.promotion.as_ref().is_some_and(|promotion| promotion.generation == job.generation);
        let generation = control.generations.get(&job.generation);
        let was_live = generation.is_some_and(|generation| generation.ended_at.is_some() || generation.job.is_none());
        cancelled.promotion |= promotion;
        cancelled.outputs = job.outputs.values().map(Topic::new).collect();
        deletes = (!was_live).then_some(job.generation);
        let change = if promotion { Change::default().no_promotion() } else { Change::default() };
        let record = |state| JobRecord { state, ..job.clone() };
        Ok(match (was_live, &generation.and_then(|generation| generation.job.as_ref())) {
            (false, _) if job.state == JobState::Cancelled => None,
            (false, _) => Some(change.job(&record(JobState::Cancelled))),
            // It may be made live again under the same name.
            (true, Some(_)) => promotion.then(|| change.job(&record(JobState::Finished))),
            (true, None) => Some(change.no_job(name)),
        })
    })?;
    if let Some(generation) = deletes {
        let names = names.with_generation(generation);
        leave(site, &names)
            .map_err(|e| e.context("the job is cancelled, but its group can't be deleted").hint("repeat the command"))?;
        cancelled.group = Some(names.group());
        cancelled.topics = site.log.topics(&names.generation_prefix())?.into_iter().map(|info| info.topic).collect();
        site.log.delete_topics(&cancelled.topics)?;
    }
    Ok(cancelled)
}

/// Deletes the group of a generation once its members have seen that they may not go on.
pub(super) fn leave(site: &Site, names: &Names) -> Result<()> {
    let clock = site.log.clock();
    let began = clock.now();
    loop {
        match site.log.delete_group(&names.group()) {
            Err(error) if error.kind == Kind::Config && clock.since(began) < LEAVE_TIMEOUT => {
                clock.sleep(Duration::from_millis(200));
            }
            result => return result,
        }
    }
}
