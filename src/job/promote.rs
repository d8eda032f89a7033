//! Promotion: a generation takes the live one's place at one vector, so that nothing is published twice and nothing is left out.
//!
//! ```text
//!   candidate   job to its end ─▶ near the live one ─▶ ........................... ─▶ to L in its shadow ─▶ live from L
//!   control                                 promotion: asked                promotion: at L               live = candidate
//!   live one    ──────────────────────────────────▶ commits, leaves ─▶ shuffles drained ─▶ stands by ──────────────▶
//! ```
//! Every step follows from what the control topic says and is recorded before the next, so whoever calls [`Promotion::step`] again after a
//! crash goes on; several processes may. A generation is sealed by an offset that is committed for its group as an outsider, which the broker
//! takes only while the group has no members: from then on commits of former members are refused, and newcomers read the control topic before
//! their first commit. Its vector L is read after that, when no transaction with its offsets is undecided.
//!
//! Invariant: between "asked" and "live" nobody reads beyond L.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::job::backfill::{self, Planned, Request};
use crate::job::candidate::{self, positions};
use crate::job::control::{self, Change, Control, JobRecord, JobState, PromotionRecord};
use crate::job::{Site, bounds, ledger, live, prepare};
use crate::log::{CommittedOffset, CommittedOffsets};
use crate::record::{NextOffset, OffsetVector};
use crate::task::decision;
use crate::task::names::Names;
use crate::task::run::{Progress, Run, Step, Worker};
use crate::topology::Topology;

pub use candidate::Which;
pub(super) use candidate::drained;

/// A candidate that is so many offsets behind, or fewer, can take over: the way to L is without output.
const NEAR: i64 = 20_000;
/// How often the candidate goes to where the live one stands before it takes over wherever it is.
const ROUNDS: u32 = 8;

/// How far a promotion is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The candidate works in its shadow.
    Working,
    /// For somebody else; for what.
    Waiting(String),
    /// Something was recorded; what.
    Recorded(String),
    /// The candidate is live.
    Live,
}

/// A candidate on its way to be live.
pub struct Promotion {
    site: Site,
    topology: Topology,
    /// Of the candidate.
    names: Names,
    job: String,
    instance: String,
    worker: Option<(Planned, Worker)>,
    adjust: Box<dyn Fn(&mut Run) + Send>,
    rounds: u32,
}

impl Promotion {
    /// Checks all that can be refused.
    ///
    /// # Errors
    /// `Config` when there is no such candidate, or it can't take over.
    pub fn open(site: &Site, topology: &Topology, which: &Which, instance: &str) -> Result<Promotion> {
        let names = Names::new(&site.settings.name_prefix, &topology.pipeline, 1)?;
        let control = ledger::read(site.log.as_ref(), &names)?;
        let generation = candidate::find(site, topology, &names, &control, which)?;
        let job = match control.job_of(generation) {
            Some(job) => job.job.clone(),
            None if control.live == Some(generation) => String::new(),
            None => candidate::job_of(site, topology, &names, generation)?,
        };
        Ok(Promotion {
            site: site.clone(),
            topology: topology.clone(),
            names: names.with_generation(generation),
            job,
            instance: instance.to_string(),
            worker: None,
            adjust: Box::new(|_| {}),
            rounds: 0,
        })
    }

    /// Changes every run of the candidate before it starts.
    pub fn adjusted(mut self, adjust: impl Fn(&mut Run) + Send + 'static) -> Promotion {
        self.adjust = Box::new(adjust);
        self
    }

    pub fn generation(&self) -> u32 {
        self.names.generation
    }

    pub fn job(&self) -> &str {
        &self.job
    }

    /// What the candidate does in its shadow now, and where to.
    pub fn working(&self) -> Option<(&Planned, Progress)> {
        let (planned, worker) = self.worker.as_ref()?;
        Some((planned, worker.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()))
    }

    /// One step, waiting at most `wait`. After [`Status::Live`] there is none left.
    ///
    /// # Errors
    /// What ends the candidate. The promotion can be gone on with, or given up with `jobs cancel`.
    pub fn step(&mut self, wait: Duration) -> Result<Status> {
        let mut ended = None;
        if let Some((planned, worker)) = &mut self.worker {
            if worker.step(wait)? != Step::Left {
                return Ok(Status::Working);
            }
            // One that was dismissed: another process of the job was faster, or it was cancelled.
            ended = (!worker.is_dismissed()).then(|| planned.clone());
            self.worker = None;
        }
        // A job whose end could not be recorded is at its end again at once.
        let recorded = ended.map_or(Ok(()), |planned| backfill::finish(&self.site, &self.topology, &planned));
        match recorded.and_then(|()| self.next()) {
            Ok(status) => {
                if matches!(status, Status::Waiting(_)) {
                    self.site.log.clock().sleep(wait);
                }
                Ok(status)
            }
            Err(error) if error.kind == Kind::Away => {
                self.site.log.clock().sleep(wait);
                Ok(Status::Waiting(error.message))
            }
            Err(error) => Err(error),
        }
    }

    /// Lets the worker go: it commits what is open and leaves its group. The promotion stays where it is.
    pub fn stop(&mut self) -> Result<()> {
        match self.worker.take() {
            Some((_, mut worker)) => worker.stop(),
            None => Ok(()),
        }
    }

    fn next(&mut self) -> Result<Status> {
        let control = ledger::read(self.site.log.as_ref(), &self.names)?;
        if control.live == Some(self.names.generation) {
            return Ok(Status::Live);
        }
        let cancelled = || {
            let (job, pipeline) = (&self.job, &self.names.pipeline);
            Error::failed(format!("job \"{job}\" of pipeline \"{pipeline}\" was cancelled")).hint("nothing is left to do")
        };
        let job = control.jobs.get(&self.job).filter(|job| job.state != JobState::Cancelled).ok_or_else(cancelled)?.clone();
        if job.state == JobState::Running {
            self.start()?;
            return Ok(Status::Working);
        }
        match (control.promotion.clone(), control.live) {
            (Some(other), _) if other.generation != self.names.generation => Err(Error::config(format!(
                "generation {} of pipeline \"{}\" is being promoted",
                other.generation, self.names.pipeline
            ))
            .hint("go on with that one, or give it up with \"tidemill jobs cancel\"")),
            (Some(promotion), _) if promotion.at.is_none() => self.seal(&control, &promotion),
            (Some(promotion), _) => self.follow(&control, &job, &promotion),
            (None, Some(former)) => self.approach(&control, &job, former),
            (None, None) => self.become_live(None),
        }
    }

    /// The candidate's bounded run to the end that is recorded.
    fn start(&mut self) -> Result<()> {
        let (planned, mut run) = backfill::prepare_as(&self.site, &self.topology, &Request::resume(&self.job), &self.instance)?;
        (self.adjust)(&mut run);
        let worker = Worker::open(self.site.log.clone(), self.site.registry.clone(), run)?;
        self.worker = Some((planned, worker));
        Ok(())
    }

    /// The live generation goes on while the candidate comes near; then it is asked to stop.
    fn approach(&mut self, control: &Control, job: &JobRecord, former: u32) -> Result<Status> {
        let (own, of_former) = (self.own(control)?, self.vector(control, former)?);
        if let Some((partition, at)) = own.iter().find(|(p, at)| of_former.get(*p).is_some_and(|former| former < *at)) {
            return Ok(Status::Waiting(format!(
                "generation {former} is at {} of {partition}, the candidate at {at} already: it has to come that far first",
                of_former[partition]
            )));
        }
        let behind: i64 = own.iter().map(|(p, at)| of_former.get(p).map_or(0, |former| former.0 - at.0)).sum();
        if behind > NEAR && self.rounds < ROUNDS {
            self.rounds += 1;
            self.extend(job, &over(&own, &of_former), None, |control| {
                control.live == Some(former) && control.promotion.is_none()
            })?;
            return Ok(Status::Recorded(format!("the candidate is {behind} offsets behind: it comes nearer")));
        }
        // Nothing may be refused once the live generation has stopped.
        let counts = prepare::sources(&self.site, &self.topology)?;
        live::outputs(&self.site, &self.topology, &self.names, &counts)?;
        let promotion = PromotionRecord::new(self.names.generation, former);
        self.change(|control| {
            let as_seen = control.live == Some(former) && control.promotion.is_none() && control.jobs.get(&job.job) == Some(job);
            Ok(as_seen.then(|| Change::default().promotion(&promotion)))
        })?;
        Ok(Status::Recorded(format!("generation {former} is asked to stop")))
    }

    /// Once the former generation's group is empty, it stands where it will stay.
    fn seal(&self, control: &Control, promotion: &PromotionRecord) -> Result<Status> {
        let former = promotion.former;
        let group = self.names.with_generation(former).group();
        let metadata = format!("tidemill: stopped for generation {}", promotion.generation);
        let seal = (self.names.control().partition(0), CommittedOffset { next: NextOffset(0), metadata });
        match self.site.log.commit(&group, &CommittedOffsets::from([seal])) {
            Err(error) if error.kind == Kind::Config => {
                return Ok(Status::Waiting(format!("generation {former} has been asked to stop: {}", error.message)));
            }
            result => result?,
        }
        let at = bounds::show(&self.vector(control, former)?);
        let stopped = PromotionRecord { at: Some(at.clone()), ..promotion.clone() };
        self.change(
            |control| Ok((control.promotion.as_ref() == Some(promotion)).then(|| Change::default().promotion(&stopped))),
        )?;
        Ok(Status::Recorded(format!("generation {former} has stopped at {at}")))
    }

    /// To where the former generation stopped, in the shadow; then the candidate is live.
    fn follow(&self, control: &Control, job: &JobRecord, promotion: &PromotionRecord) -> Result<Status> {
        if job.attempt.as_ref() == Some(&promotion.attempt) {
            return self.become_live(Some(promotion));
        }
        let former = self.names.with_generation(promotion.former);
        if !drained(&self.site, &former)? {
            return Ok(Status::Waiting(format!(
                "rows of generation {} are on their way between its stages: its \"tidemill run\" publishes them, start it if none runs",
                former.generation
            )));
        }
        let at = control::parse_vector(promotion.at.as_deref().unwrap_or_default())?;
        let own = self.own(control)?;
        if let Some((partition, own)) = own.iter().find(|(p, own)| at.get(*p).is_some_and(|at| at < *own)) {
            return Err(Error::failed(format!(
                "{partition}: the candidate is at {own}, generation {} stopped at {}",
                former.generation, at[partition]
            ))
            .hint("give the promotion up with \"tidemill jobs cancel\": the live generation goes on where it stopped"));
        }
        self.extend(job, &over(&own, &at), Some(promotion.attempt.clone()), |control| {
            control.promotion.as_ref() == Some(promotion)
        })?;
        Ok(Status::Recorded("the candidate goes there in its shadow".to_string()))
    }

    /// The job goes on to a later end, with the decisions that are recorded by now.
    fn extend(
        &self,
        job: &JobRecord,
        to: &OffsetVector,
        attempt: Option<String>,
        still: impl Fn(&Control) -> bool,
    ) -> Result<()> {
        let known = control::parse_vector(&job.to)?;
        let (later, decisions) =
            decision::read_since(self.site.log.as_ref(), &self.names.decisions(), NextOffset(job.decisions))?;
        if let Some(missed) = later.iter().find(|d| known.get(&d.partition).is_some_and(|end| d.at < *end)) {
            return Err(Error::failed(format!(
                "job \"{}\": a decision about {} at offset {} was recorded after the job had begun, and the job is past it",
                job.job, missed.partition, missed.at
            ))
            .hint("its result is not what a run of the whole range gives: run the backfill again under another name"));
        }
        let next = JobRecord { to: bounds::show(to), decisions: decisions.0, attempt, state: JobState::Running, ..job.clone() };
        self.change(|control| {
            let as_seen = still(control) && control.jobs.get(&job.job) == Some(job);
            Ok(as_seen.then(|| Change::default().job(&next)))
        })
    }

    /// One transaction: the candidate is live, what was live has ended.
    fn become_live(&self, promotion: Option<&PromotionRecord>) -> Result<Status> {
        if promotion.is_none() {
            let counts = prepare::sources(&self.site, &self.topology)?;
            live::outputs(&self.site, &self.topology, &self.names, &counts)?;
        }
        let (_, decisions) = decision::read_since(self.site.log.as_ref(), &self.names.decisions(), NextOffset(0))?;
        let attempt = promotion.map(|promotion| &promotion.attempt);
        self.change(|control| {
            let Some(job) = control.jobs.get(&self.job) else { return Ok(None) };
            let arrived = job.state == JobState::Finished && (attempt.is_none() || job.attempt.as_ref() == attempt);
            if control.promotion.as_ref() != promotion || control.live != promotion.map(|p| p.former) || !arrived {
                return Ok(None);
            }
            let mut change = Change::default().live(self.names.generation).no_promotion();
            change = change.job(&JobRecord { state: JobState::Live, ..job.clone() });
            let Some(PromotionRecord { former, at: Some(at), .. }) = promotion else { return Ok(Some(change)) };
            if let Some(ended) = control.generations.get(former) {
                change = change.generation(&control::GenerationRecord { ended_at: Some(at.clone()), ..ended.clone() });
            }
            if let Some(job) = control.job_of(*former) {
                let ended = JobRecord { state: JobState::Finished, to: at.clone(), decisions: decisions.0, ..job.clone() };
                change = change.job(&ended);
            }
            Ok(Some(change))
        })?;
        Ok(Status::Recorded(format!("generation {} is live", self.names.generation)))
    }

    fn own(&self, control: &Control) -> Result<OffsetVector> {
        self.vector(control, self.names.generation)
    }

    fn vector(&self, control: &Control, generation: u32) -> Result<OffsetVector> {
        let record = control
            .generations
            .get(&generation)
            .ok_or_else(|| Error::corrupt(format!("topic \"{}\" does not hold generation {generation}", self.names.control())))?;
        positions(&self.site, &self.names, record)
    }

    fn change(&self, decide: impl FnMut(&Control) -> Result<Option<Change>>) -> Result<()> {
        ledger::change(self.site.log.as_ref(), &self.names, decide).map(|_| ())
    }
}

/// The candidate's vector, moved to the other's where that one reads the same partition.
fn over(own: &OffsetVector, other: &OffsetVector) -> OffsetVector {
    own.iter().map(|(partition, at)| (partition.clone(), other.get(partition).copied().unwrap_or(*at))).collect()
}
