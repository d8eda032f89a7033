//! Several workers of one run on the embedded log, stepped in a random order, killed and started again.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::cli::test::world::World;
use crate::error::{Error, Result};
use crate::task::run::{Run, Step, Worker};

/// Steps without progress after which a run is taken to hang.
const PATIENCE: usize = 2_000;
const WAIT: Duration = Duration::from_millis(2);

/// When workers die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    Never,
    AfterCommit,
    AtRandom,
}

/// The workers of one group. Each has an instance of its own, kept over its lives; one that has come to its end is `None`.
pub struct Crew<'a> {
    world: &'a World,
    run: Box<dyn Fn() -> Result<Run> + 'a>,
    workers: Vec<Option<Worker>>,
    crash: Crash,
    /// Commits make progress, so a run that dies at random ends; the last lives are spared to keep the test short.
    lives: u32,
    wait: Duration,
}

impl<'a> Crew<'a> {
    pub fn new(world: &'a World, size: usize, crash: Crash, run: impl Fn() -> Result<Run> + 'a) -> Result<Crew<'a>> {
        let wait = if size == 1 { WAIT } else { Duration::from_micros(200) };
        let mut crew = Crew { world, run: Box::new(run), workers: Vec::new(), crash, lives: 40, wait };
        for instance in 0..size {
            let worker = crew.open(instance)?;
            crew.workers.push(Some(worker));
        }
        Ok(crew)
    }

    fn open(&self, instance: usize) -> Result<Worker> {
        let mut run = (self.run)()?;
        run.instance = format!("{instance:08}");
        Worker::open(Arc::new(self.world.log.clone()), Arc::new(self.world.registry.clone()), run)
    }

    /// One step of one of them, which may be its last.
    pub fn step(&mut self, rng: &mut StdRng) -> Result<Step> {
        let running: Vec<usize> = (0..self.workers.len()).filter(|at| self.workers[*at].is_some()).collect();
        let at = running[rng.random_range(0..running.len())];
        let worker = self.workers[at].as_mut().expect("it runs");
        let step = worker.step(self.wait)?;
        if step == Step::Left {
            self.workers[at] = None;
        } else if self.dies(step, rng) {
            // Killed: what was open stays open until the next life of this instance fences it.
            self.workers[at] = None;
            self.workers[at] = Some(self.open(at)?);
        }
        Ok(step)
    }

    fn dies(&mut self, step: Step, rng: &mut StdRng) -> bool {
        let dies = match self.crash {
            Crash::Never => false,
            Crash::AfterCommit => step == Step::Committed,
            Crash::AtRandom => rng.random_bool(0.3),
        };
        if !dies || self.lives == 0 {
            return false;
        }
        self.lives -= 1;
        true
    }

    /// Until all have come to the end of their range.
    pub fn run_to_the_end(mut self, rng: &mut StdRng) -> Result<()> {
        let mut idle = 0;
        while self.workers.iter().any(Option::is_some) {
            let step = self.step(rng)?;
            idle = if step == Step::Idle { idle + 1 } else { 0 };
            if idle > PATIENCE * self.workers.len() {
                let stands: Vec<_> = self.workers.iter().flatten().map(|worker| worker.progress.clone()).collect();
                return Err(Error::failed(format!("the run hangs before the end of its range: {stands:?}")));
            }
        }
        Ok(())
    }
}

/// Steps until nothing arrives any more.
pub fn settle(worker: &mut Worker) -> Result<()> {
    let mut idle = 0;
    while idle < 3 {
        idle = if worker.step(WAIT)? == Step::Idle { idle + 1 } else { 0 };
    }
    Ok(())
}
