//! A pipeline kept live by this process, through promotions: it works while its generation is live, publishes what it has shuffled when it is
//! replaced, and stands by otherwise, ready to go on should its generation become live again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::error::{Error, Kind, Result};
use crate::job::control::{PromotionRecord, Stance};
use crate::job::ledger::Ledger;
use crate::job::live::{self, Prepared};
use crate::job::{Site, promote};
use crate::task::names::Names;
use crate::task::run::{Progress, Run, Step, Worker};
use crate::task::standby::Ahead;
use crate::topology::Topology;

/// How often the control topic is looked at while standing by.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub struct Service {
    site: Site,
    topology: Topology,
    instance: String,
    names: Names,
    ledger: Ledger,
    /// Changes every run of this service, for those who need another cadence.
    adjust: Box<dyn Fn(&mut Run) + Send>,
    worker: Option<Worker>,
    /// The last run, for which it reads ahead while it stands by.
    run: Run,
    ahead: Option<Ahead>,
    /// The promotion that the worker drains for, or has drained for.
    drained: Option<PromotionRecord>,
    draining: bool,
    /// `--until-caught-up`: it ends, and does not stand by.
    bounded: bool,
    looked_at: Option<Moment>,
    commits: u64,
    /// Of whichever worker is at work.
    pub progress: Arc<Mutex<Progress>>,
}

impl Service {
    pub fn open(site: &Site, topology: &Topology, instance: &str, prepared: Prepared) -> Result<Service> {
        Service::open_with(site, topology, instance, prepared, |_| {})
    }

    /// `adjust` changes every run before it starts.
    pub fn open_with(
        site: &Site,
        topology: &Topology,
        instance: &str,
        prepared: Prepared,
        adjust: impl Fn(&mut Run) + Send + 'static,
    ) -> Result<Service> {
        let names = prepared.run.plan.names.clone();
        let mut service = Service {
            ledger: Ledger::new(site.log.clone(), names.clone()),
            site: site.clone(),
            topology: topology.clone(),
            instance: instance.to_string(),
            names,
            adjust: Box::new(adjust),
            worker: None,
            run: prepared.run.clone(),
            ahead: None,
            drained: None,
            draining: false,
            bounded: prepared.run.end.is_some(),
            looked_at: None,
            commits: 0,
            progress: Arc::default(),
        };
        match prepared.stance {
            Stance::Live => service.start(prepared.run)?,
            _ if service.bounded => return Err(service.not_live()),
            _ => {}
        }
        Ok(service)
    }

    /// One round, waiting at most `wait`. `Left`: the end of a bounded run.
    ///
    /// # Errors
    /// What ends the pipeline.
    pub fn step(&mut self, wait: Duration) -> Result<Step> {
        let Some(worker) = &mut self.worker else { return self.stand_by(wait) };
        let step = worker.step(wait)?;
        if step != Step::Left {
            return Ok(step);
        }
        let dismissed = worker.is_dismissed();
        self.commits += worker.commits();
        self.worker = None;
        match (dismissed, self.bounded) {
            (true, true) => Err(self.not_live()),
            (false, true) => Ok(Step::Left),
            _ => {
                // One that was dismissed while it drained did not come to its end.
                if dismissed && std::mem::take(&mut self.draining) {
                    self.drained = None;
                }
                self.looked_at = None;
                Ok(Step::Worked)
            }
        }
    }

    /// Commits what is open and leaves the group.
    pub fn stop(&mut self) -> Result<()> {
        match self.worker.take() {
            Some(mut worker) => {
                let result = worker.stop();
                self.commits += worker.commits();
                result
            }
            None => Ok(()),
        }
    }

    /// Runs until the end of the range, or until `stop` says so.
    pub fn run_until(&mut self, mut stop: impl FnMut() -> bool) -> Result<()> {
        loop {
            if self.step(Duration::from_millis(100))? == Step::Left {
                return Ok(());
            }
            if stop() {
                return self.stop();
            }
        }
    }

    pub fn is_standby(&self) -> bool {
        self.worker.is_none()
    }

    pub fn commits(&self) -> u64 {
        self.commits + self.worker.as_ref().map_or(0, Worker::commits)
    }

    fn start(&mut self, mut run: Run) -> Result<()> {
        (self.adjust)(&mut run);
        let warm = self.ahead.take().map_or(Ok(BTreeMap::new()), Ahead::stop)?;
        self.run = run.clone();
        let mut worker = Worker::open(self.site.log.clone(), self.site.registry.clone(), run)?;
        worker.bring(warm);
        worker.progress = self.progress.clone();
        self.show(None);
        self.worker = Some(worker);
        Ok(())
    }

    /// Looks whether there is something to do for its generation.
    fn stand_by(&mut self, wait: Duration) -> Result<Step> {
        if let Some(now) = self.ahead.as_ref().and_then(Ahead::step) {
            self.progress.lock().unwrap_or_else(PoisonError::into_inner).standby_tasks = now;
        }
        let clock = self.site.log.clock();
        if self.looked_at.is_some_and(|at| clock.since(at) < LOOK_EVERY.min(wait)) {
            clock.sleep(wait.min(LOOK_EVERY));
            return Ok(Step::Idle);
        }
        match self.take_up() {
            Ok(true) => Ok(Step::Worked),
            Ok(false) => {
                if self.ahead.is_none() {
                    self.ahead = Ahead::start(&self.site.log, &self.run)?;
                }
                self.looked_at = Some(clock.now());
                Ok(Step::Idle)
            }
            Err(error) if error.kind == Kind::Away => {
                tracing::warn!(pipeline = self.names.pipeline, %error, "away: it is tried again");
                clock.sleep(wait);
                Ok(Step::Idle)
            }
            Err(error) => Err(error),
        }
    }

    /// Starts a worker if its generation has work to do.
    fn take_up(&mut self) -> Result<bool> {
        let stance = self.ledger.look(|control| control.stance(self.names.generation))?;
        let why = match stance {
            Stance::Live => {
                (self.draining, self.drained) = (false, None);
                let prepared = self.prepare()?;
                self.start(prepared.run)?;
                return Ok(true);
            }
            Stance::Drain(promotion) if self.drained.as_ref() == Some(&promotion) => {
                format!("generation {} is taking its place", promotion.generation)
            }
            Stance::Drain(promotion) => {
                if !promote::drained(&self.site, &self.names)? {
                    let run = live::draining(&self.site, self.prepare()?, &promotion)?;
                    self.start(run)?;
                    (self.draining, self.drained) = (true, Some(promotion));
                    return Ok(true);
                }
                self.drained = Some(promotion.clone());
                format!("generation {} is taking its place", promotion.generation)
            }
            Stance::Standby(why) => why,
        };
        self.show(Some(why));
        Ok(false)
    }

    /// # Errors
    /// `Away` when another generation came to be live meanwhile: the next look says so.
    fn prepare(&self) -> Result<Prepared> {
        let prepared = live::prepare_as(&self.site, &self.topology, None, false, &self.instance);
        let live = self.ledger.look(|control| control.live)?;
        if live != Some(self.names.generation) {
            return Err(Error::away(format!("generation {} is not live any more", self.names.generation)));
        }
        prepared
    }

    fn show(&self, standby: Option<String>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &standby
            && progress.standby.as_ref() != Some(why)
        {
            let generation = self.names.generation;
            tracing::info!(pipeline = self.names.pipeline, generation, "stands by: {why}");
        }
        let standby_tasks = std::mem::take(&mut progress.standby_tasks);
        *progress = Progress { standby, standby_tasks, ..Progress::default() };
    }

    fn not_live(&self) -> Error {
        let (pipeline, generation) = (&self.names.pipeline, self.names.generation);
        Error::failed(format!("pipeline \"{pipeline}\": generation {generation} is not live any more: nothing more was written"))
            .hint("another version is being promoted: run that one, or give it up with \"tidemill jobs cancel\"")
    }
}
