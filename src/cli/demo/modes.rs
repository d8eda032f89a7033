//! The five ways to run the shop that must give the same tables. Each has a log of its own with the same records, and follows the
//! decisions of the first; the backfill replays the log of the first.

use std::sync::Arc;
use std::time::Duration;

use super::shop::{PARTITIONS, Record, Shop};
use super::show::Bar;
use crate::cli::test::world::{Tables, World};
use crate::error::Result;
use crate::job::backfill::{self, Planned, Request};
use crate::job::bounds::Bound;
use crate::job::live;
use crate::job::promote::{Promotion, Status, Which};
use crate::record::Topic;
use crate::task::core::Cadence;
use crate::task::decision::{self, Decision};
use crate::task::run::{Run, Step, Worker};
use crate::topology::Topology;

pub struct Modes<'a> {
    pub shop: &'a Shop,
    pub topology: &'a Topology,
}

/// Records between two rounds of a worker.
const ROUND: usize = 100;
const WAIT: Duration = Duration::from_millis(1);

/// What a live run goes through.
#[derive(Default)]
struct Life<'a> {
    workers: usize,
    /// At which of its records it is killed.
    kills: &'a [usize],
    /// `None`: it makes its own.
    decisions: Option<&'a [Decision]>,
}

impl Modes<'_> {
    /// 1. Records arrive while the pipeline runs. Quiet tables are raised by decisions, which it records.
    pub fn live(&self) -> Result<(World, Tables, Vec<Decision>)> {
        let world = self.world()?;
        self.arrive(&world, &self.shop.records, &Life { workers: 1, ..Life::default() })?;
        let tables = world.tables(self.topology, &self.live_topics(), 1)?;
        let topic = Topic::new(format!("{}{}.decisions", world.site.settings.name_prefix, self.topology.pipeline));
        let decisions = decision::read(&world.log, &topic)?;
        Ok((world, tables, decisions))
    }

    /// 2. The same range of the same log, into shadow topics.
    pub fn backfill(&self, world: &World) -> Result<Tables> {
        let planned = self.backfilled(world, true, None)?;
        world.tables(self.topology, &shadows(&planned), planned.generation)
    }

    /// 3. Killed twice with an open transaction.
    pub fn killed(&self, decisions: &[Decision]) -> Result<Tables> {
        let world = self.world()?;
        let records = self.shop.records.len();
        let kills = [records * 2 / 5, records * 7 / 10];
        self.arrive(&world, &self.shop.records, &Life { workers: 1, kills: &kills, decisions: Some(decisions) })?;
        world.tables(self.topology, &self.live_topics(), 1)
    }

    /// 4. A backfill of what has arrived by the middle; its generation then is live from exactly there.
    pub fn cut_over(&self, decisions: &[Decision]) -> Result<Tables> {
        let world = self.world()?;
        let (before, after) = self.shop.records.split_at(self.shop.records.len() / 2);
        before.iter().try_for_each(|record| append(&world, record))?;
        let planned = self.backfilled(&world, false, Some(decisions))?;
        let mut promotion = Promotion::open(&world.site, self.topology, &Which::Job(planned.job.clone()), "00000000")?;
        while promotion.step(Duration::ZERO)? != Status::Live {}
        self.arrive(&world, after, &Life { workers: 1, decisions: Some(decisions), ..Life::default() })?;
        let both = shadows(&planned).into_iter().zip(self.live_topics()).map(|(shadow, live)| vec![shadow, live]);
        world.tables_over(self.topology, &both.collect::<Vec<_>>(), planned.generation)
    }

    /// 5. The tasks shared by three workers.
    pub fn three_workers(&self, decisions: &[Decision]) -> Result<Tables> {
        let world = self.world()?;
        self.arrive(&world, &self.shop.records, &Life { workers: 3, decisions: Some(decisions), ..Life::default() })?;
        world.tables(self.topology, &self.live_topics(), 1)
    }

    fn world(&self) -> Result<World> {
        let topics = [Topic::new("orders"), Topic::new("customers")];
        World::with(self.shop.registry.clone(), &topics, PARTITIONS)
    }

    fn live_topics(&self) -> Vec<Topic> {
        self.topology.sinks.iter().map(|sink| sink.topic.clone()).collect()
    }

    /// Live while the records arrive, then to the end, where nothing more will come.
    fn arrive(&self, world: &World, records: &[Record], life: &Life<'_>) -> Result<()> {
        let bar = Bar::new(records.len() as u64, "records");
        let crew = || (0..life.workers).map(|at| self.open(world, at, false, life)).collect::<Result<Vec<_>>>();
        let mut workers = crew()?;
        for (at, record) in records.iter().enumerate() {
            append(world, record)?;
            if at % ROUND == 0 {
                for worker in &mut workers {
                    worker.step(WAIT)?;
                }
                bar.at(at as u64);
            }
            if life.kills.contains(&at) {
                // Dropped with an open transaction, like a process killed with -9.
                workers.clear();
                bar.say(&format!("   killed at record {at} with an open transaction, restarted"));
                workers = crew()?;
            }
        }
        workers.clear();
        let mut workers = (0..life.workers).map(|at| self.open(world, at, true, life)).collect::<Result<Vec<_>>>()?;
        while !workers.is_empty() {
            let mut left = Vec::new();
            for worker in &mut workers {
                left.push(worker.step(WAIT)? == Step::Left);
            }
            let mut left = left.into_iter();
            workers.retain(|_| !left.next().unwrap_or_default());
        }
        bar.end(records.len() as u64);
        Ok(())
    }

    fn open(&self, world: &World, instance: usize, last: bool, life: &Life<'_>) -> Result<Worker> {
        let mut run = live::prepare(&world.site, self.topology, None, last)?.run;
        run.instance = format!("{instance:08}");
        run.cadence = Cadence { max_records: 500, ..Cadence::live(20) };
        run.finish = last;
        follow(&mut run, life.decisions);
        worker(world, run)
    }

    fn backfilled(&self, world: &World, finish: bool, decisions: Option<&[Decision]>) -> Result<Planned> {
        let request = Request { to: Bound::Latest, finish, ..Request::resume("replay") };
        let (planned, mut run) = backfill::prepare(&world.site, self.topology, &request)?;
        follow(&mut run, decisions);
        let bar = Bar::new(planned.records, "records");
        let mut worker = worker(world, run)?;
        while worker.step(WAIT)? != Step::Left {
            bar.at(worker.progress.lock().map_or(0, |progress| progress.records_in));
        }
        bar.end(planned.records);
        backfill::finish(&world.site, self.topology, &planned)?;
        Ok(planned)
    }
}

/// With decisions given, no others are made.
fn follow(run: &mut Run, decisions: Option<&[Decision]>) {
    if let Some(decisions) = decisions {
        run.decisions = decisions.to_vec();
        run.raise_tables = false;
        run.idle_after = None;
    }
}

fn append(world: &World, record: &Record) -> Result<()> {
    let Record { topic, partition, timestamp, key, value } = record;
    world.log.append(topic, *partition, *timestamp, Some(key.as_bytes()), value.as_deref(), Vec::new()).map(|_| ())
}

fn worker(world: &World, run: Run) -> Result<Worker> {
    Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run)
}

fn shadows(planned: &Planned) -> Vec<Topic> {
    planned.outputs.iter().map(|(_, topic)| topic.clone()).collect()
}
