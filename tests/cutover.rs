//! Promotions on the embedded log: a version takes the live one's place while records arrive, processes die at every step, and back again.
//!
//! Both generations have the same SQL here, so that there is one right answer: what was published by whichever was live is what one run
//! would have published, and the candidate's shadow up to the vector is what the live one had published up to there.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use tidemill::cli::test::case::{Case, Input};
use tidemill::cli::test::compare;
use tidemill::cli::test::world::{Tables, World};
use tidemill::error::{Kind, Result};
use tidemill::job::backfill::{self, Planned, Request};
use tidemill::job::bounds::Bound;
use tidemill::job::control::{Control, JobState, Stance};
use tidemill::job::promote::{Promotion, Status, Which};
use tidemill::job::service::Service;
use tidemill::job::{jobs, ledger, live};
use tidemill::log::Log;
use tidemill::record::Topic;
use tidemill::task::core::Cadence;
use tidemill::task::names::Names;
use tidemill::task::run::{Run, Step, Worker};
use tidemill::topology::{Options, SqlFile, Topology, compile};

const WAIT: Duration = Duration::from_millis(1);
/// Append and upsert sinks, windows, updating groups, shuffles, joins AS OF, dead letters.
const CASES: [&str; 7] = [
    "two_inserts_one_append_sink",
    "tumble_late_rows",
    "updating_totals",
    "shuffle_by_country",
    "temporal_join",
    "dead_letters_keep_order",
    "hop_gaps",
];

fn case(name: &str) -> Case {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    Case::open(&dir, &Options::default()).expect("the golden case opens")
}

/// Small commits, and no decisions but those of tables.
fn adjust(raise_tables: bool) -> impl Fn(&mut Run) + Send + Clone + 'static {
    move |run| {
        run.idle_after = None;
        run.raise_tables &= raise_tables;
        run.cadence = Cadence {
            interval_ms: 20,
            backlog_interval_ms: 20,
            backlog_records: u64::MAX,
            max_records: 3,
            max_bytes: usize::MAX,
        };
    }
}

/// A pipeline on its way through promotions.
struct Play {
    case: Case,
    world: World,
    rng: StdRng,
    arrived: usize,
    raise_tables: bool,
    services: Vec<Option<Service>>,
    /// How often a process may still be killed.
    lives: u32,
}

impl Play {
    fn new(name: &str, seed: u64, raise_tables: bool) -> Play {
        let case = case(name);
        let world = World::new(&case).expect("a world");
        world.log.interleave(seed);
        Play { case, world, rng: StdRng::seed_from_u64(seed), arrived: 0, raise_tables, services: Vec::new(), lives: 10 }
    }

    fn service(&self, number: usize) -> Service {
        let instance = format!("{number:08}");
        let prepared = live::prepare_as(&self.world.site, &self.case.topology, None, false, &instance).expect("it is prepared");
        Service::open_with(&self.world.site, &self.case.topology, &instance, prepared, adjust(self.raise_tables))
            .expect("it opens")
    }

    fn start(&mut self, services: usize) {
        for _ in 0..services {
            let service = self.service(self.services.len());
            self.services.push(Some(service));
        }
    }

    /// One step of one of them, which may be its last.
    fn step(&mut self) -> Step {
        let at = self.rng.random_range(0..self.services.len());
        let step = self.services[at].as_mut().expect("all live").step(WAIT).expect("a step");
        if self.lives > 0 && self.rng.random_bool(0.02) {
            self.lives -= 1;
            self.services[at] = None;
            let next = self.service(at);
            if next.is_standby() {
                // It opens no producer that would settle what the dead one left open: the broker's timeout does.
                self.world.log.expire_transactions();
            }
            self.services[at] = Some(next);
        }
        step
    }

    fn arrive(&mut self, most: usize) {
        for _ in 0..self.rng.random_range(0..=most) {
            if let Some(input) = self.case.inputs.get(self.arrived) {
                self.world.append(input).expect("a record");
                self.arrived += 1;
            }
        }
    }

    /// Records arrive and are worked on until so many are there.
    fn until(&mut self, records: usize) {
        while self.arrived < records.min(self.case.inputs.len()) {
            self.arrive(3);
            self.step();
        }
    }

    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 10 * self.services.len() {
            idle = if self.step() == Step::Idle { idle + 1 } else { 0 };
        }
    }

    fn backfilled(&mut self, job: &str) -> Planned {
        let request = Request { to: Bound::Latest, ..Request::resume(job) };
        let (planned, mut run) = backfill::prepare(&self.world.site, &self.case.topology, &request).expect("the job is prepared");
        adjust(self.raise_tables)(&mut run);
        let mut worker = open(&self.world, run);
        while worker.step(WAIT).expect("a step") != Step::Left {
            self.step();
        }
        backfill::finish(&self.world.site, &self.case.topology, &planned).expect("its end is recorded");
        planned
    }

    fn promotion(&self, which: &Which) -> Promotion {
        let promotion = Promotion::open(&self.world.site, &self.case.topology, which, "promoter").expect("it may take over");
        promotion.adjusted(adjust(self.raise_tables))
    }

    /// Promotes while everybody else goes on and records arrive; killed after so many steps, and begun again.
    fn promote(&mut self, which: &Which, dies_after: usize) -> usize {
        let mut promotion = self.promotion(which);
        for taken in 1.. {
            assert!(taken < 20_000, "the promotion hangs: {:?}", self.control());
            match promotion.step(WAIT).expect("a step of the promotion") {
                Status::Live => return taken,
                Status::Recorded(_) | Status::Working | Status::Waiting(_) => {}
            }
            if taken == dies_after {
                drop(promotion);
                promotion = self.promotion(which);
            }
            self.arrive(1);
            self.step();
        }
        unreachable!()
    }

    fn control(&self) -> Control {
        let names = Names::new("tidemill.", &self.case.topology.pipeline, 1).expect("names");
        ledger::read(&self.world.log, &names).expect("the control topic is read")
    }

    fn sinks(&self) -> Vec<Topic> {
        self.case.topology.sinks.iter().map(|sink| sink.topic.clone()).collect()
    }

    /// What is in the live sinks, with the letters of the given generations.
    fn published(&self, generations: &[u32]) -> Tables {
        let of = |generation: &u32| {
            self.world.tables(&self.case.topology, &self.sinks(), *generation).expect("the live sinks are read")
        };
        let all = generations.iter().map(of).reduce(|mut all, next| {
            all.dead.extend(next.dead);
            all.late.extend(next.late);
            all
        });
        all.expect("at least one generation")
    }

    /// Kills what runs, and brings the live generation to the end of all input.
    fn finish(&mut self) {
        self.services.clear();
        self.world.log.expire_members();
        self.world.log.expire_transactions();
        for input in &self.case.inputs[self.arrived..] {
            self.world.append(input).expect("a record");
        }
        let mut run = live::prepare(&self.world.site, &self.case.topology, None, true).expect("it is prepared").run;
        adjust(self.raise_tables)(&mut run);
        run.finish = self.case.finish;
        open(&self.world, run).run_until(|| false).expect("it comes to its end");
    }
}

fn open(world: &World, run: Run) -> Worker {
    Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run).expect("the worker starts")
}

fn shadows(planned: &Planned) -> Vec<Topic> {
    planned.outputs.iter().map(|(_, topic)| topic.clone()).collect()
}

#[track_caller]
fn assert_same(first: &Tables, second: &Tables, what: &str) {
    let differences = compare::between(first, second);
    assert!(differences.is_empty(), "{what}:\n  {}", differences.join("\n  "));
}

/// One case: live, backfilled, promoted with a crash after so many steps, rolled back in every other. Returns the steps that the promotion took.
fn promoted_and_back(name: &str, seed: u64, dies_after: usize, raise_tables: bool) -> usize {
    let mut play = Play::new(name, seed, raise_tables);
    let what = format!("case {name}, seed {seed}, killed after step {dies_after}");
    let workers = [1, 2, 3][seed as usize % 3];
    play.start(workers);
    let records = play.case.inputs.len();
    let begun = play.rng.random_range(0..=records / 2).max(1);
    play.until(begun);
    let planned = play.backfilled("next");
    assert_eq!(planned.generation, 2);
    play.until(records / 2);
    let steps = play.promote(&Which::Job("next".into()), dies_after);
    // The former one published up to the vector what the candidate has in its shadow.
    let shadow = play.world.tables(&play.case.topology, &shadows(&planned), 2).expect("the shadow is read");
    assert_same(&play.published(&[1]), &shadow, &format!("{what}: live up to the vector, and the shadow"));
    let control = play.control();
    assert_eq!((control.live, control.promotion.clone(), control.jobs["next"].state), (Some(2), None, JobState::Live));
    assert!(control.generations[&1].ended_at.is_some(), "the former generation's final vector is kept");

    play.start(1);
    play.until(records * 3 / 4);
    if seed.is_multiple_of(2) {
        play.promote(&Which::Generation(1), dies_after);
        assert_eq!(play.control().live, Some(1), "{what}: rolled back");
        let job = play.control().jobs["next"].clone();
        assert_eq!((job.state, Some(job.to)), (JobState::Finished, play.control().generations[&2].ended_at.clone()));
        play.start(1);
        play.until(records);
    }
    play.settle();
    play.finish();
    if !raise_tables {
        let differences = compare::differences(&play.case, &play.published(&[1, 2]));
        assert!(differences.is_empty(), "{what}:\n  {}", differences.join("\n  "));
    }
    steps
}

#[test]
fn nothing_is_published_twice_and_nothing_is_left_out() {
    for name in CASES {
        for seed in 1..=6 {
            promoted_and_back(name, seed, usize::MAX, false);
        }
    }
}

#[test]
fn a_promotion_killed_at_any_step_is_finished_by_the_same_command() {
    for name in ["shuffle_by_country", "two_inserts_one_append_sink"] {
        let mut dies_after = 1;
        // Near the end every step is another moment of it; a working step is like the next.
        loop {
            let steps = promoted_and_back(name, 3 + dies_after as u64 % 4, dies_after, false);
            if dies_after > steps {
                break;
            }
            dies_after += 1 + dies_after / 8;
        }
    }
}

#[test]
fn decisions_of_the_live_one_are_followed_by_its_successor() {
    for seed in 1..=8 {
        promoted_and_back("temporal_join", seed, usize::MAX, true);
    }
}

#[test]
fn a_process_that_slept_through_the_promotion_publishes_nothing() {
    for name in ["two_inserts_one_append_sink", "updating_totals", "shuffle_by_country"] {
        let mut play = Play::new(name, 0, false);
        play.lives = 0;
        play.start(1);
        let records = play.case.inputs.len();
        play.until(records / 2);
        play.settle();
        // Frozen with a transaction open: it is not stepped from here on.
        let input = play.case.inputs[play.arrived].clone();
        play.world.append(&input).expect("a record");
        play.arrived += 1;
        let mut frozen = play.services[0].take().expect("it runs");
        for _ in 0..3 {
            frozen.step(WAIT).expect("a step");
        }
        let names = Names::new("tidemill.", &play.case.topology.pipeline, 1).expect("names");
        play.world.log.expel_members(&names.group());
        // Another process of the old version goes on, and the new one takes over.
        let service = play.service(1);
        play.services[0] = Some(service);
        play.backfilled("next");
        play.promote(&Which::Job("next".into()), usize::MAX);
        play.start(1);
        play.until(records - 1);
        for _ in 0..200 {
            frozen.step(WAIT).expect("a step of the one that woke");
            play.step();
        }
        assert!(frozen.is_standby(), "{name}: it has seen that it is not live any more");
        let why = frozen.progress.lock().expect("not poisoned").standby.clone();
        assert_eq!(why.as_deref(), Some("generation 2 is live"));
        drop(frozen);
        play.finish();
        let differences = compare::differences(&play.case, &play.published(&[1, 2]));
        assert!(differences.is_empty(), "{name}:\n  {}", differences.join("\n  "));
    }
}

#[test]
fn a_promotion_that_is_given_up_lets_the_live_one_go_on() {
    for name in CASES {
        let mut play = Play::new(name, 7, false);
        play.start(2);
        let records = play.case.inputs.len();
        play.until(records / 2);
        play.backfilled("next");
        let mut promotion = play.promotion(&Which::Job("next".into()));
        while play.control().promotion.is_none_or(|promotion| promotion.at.is_none()) {
            promotion.step(WAIT).expect("a step of the promotion");
            play.step();
        }
        let cancelled = jobs::cancel(&play.world.site, &play.case.topology.pipeline, "next").expect("it is cancelled");
        assert!(cancelled.promotion && cancelled.group.is_some() && !cancelled.outputs.is_empty());
        let error = loop {
            if let Err(error) = promotion.step(WAIT) {
                break error;
            }
        };
        assert!(error.message.contains("cancelled"), "{error}");
        let error =
            Promotion::open(&play.world.site, &play.case.topology, &Which::Job("next".into()), "x").err().expect("refused");
        assert!(error.kind == Kind::Config && error.message.contains("cancelled"), "{error}");
        play.until(records);
        play.settle();
        assert_eq!(play.control().stance(1), Stance::Live);
        play.finish();
        let differences = compare::differences(&play.case, &play.published(&[1]));
        assert!(differences.is_empty(), "{name}:\n  {}", differences.join("\n  "));
    }
}

/// Another version of a case's pipeline.
fn changed(case: &Case, from: &str, to: &str) -> Topology {
    let text = std::fs::read_to_string(case.dir.join("pipeline.sql")).expect("the case has SQL");
    assert!(text.contains(from), "{text}");
    let file = SqlFile { name: "changed.sql".into(), text: text.replacen(from, to, 1) };
    let mut topology = compile(&file, &case.contracts, &Options { default_name: Some(case.name.clone()), ..Options::default() })
        .expect("the changed SQL is planned");
    topology.named = true;
    topology
}

#[test]
fn after_a_promotion_the_new_sql_goes_on_and_the_old_one_is_refused_with_its_remedies() -> Result<()> {
    let case = case("filter_project");
    let world = World::new(&case)?;
    world.append_all(&case)?;
    let new = changed(&case, "amount >= 100", "amount >= 101");
    let refused = |topology: &Topology| live::prepare(&world.site, topology, None, false).err().expect("it is refused");

    open(&world, live::prepare(&world.site, &case.topology, None, true)?.run).run_until(|| false)?;
    let error = refused(&new);
    assert!(error.message.contains("differs from its live generation 1") && error.message.contains("changed INSERT"), "{error}");
    let hint = error.hint.as_deref().unwrap_or_default();
    assert!(hint.contains("--then-live") && hint.contains("tidemill reset"), "{hint}");

    let (planned, run) = backfill::prepare(&world.site, &new, &Request { job: None, ..Request::resume("") })?;
    open(&world, run).run_until(|| false)?;
    backfill::finish(&world.site, &new, &planned)?;
    assert!(refused(&new).hint.unwrap_or_default().contains("tidemill promote"), "it is there already");

    let mut promotion = Promotion::open(&world.site, &new, &Which::Newest, "x")?;
    while promotion.step(WAIT)? != Status::Live {}
    let error = refused(&case.topology);
    assert!(error.message.contains("differs from its live generation 2"), "{error}");
    assert!(error.hint.unwrap_or_default().contains("generation 1: make it live with"), "the way back is named");
    let prepared = live::prepare(&world.site, &new, None, false)?;
    assert_eq!((prepared.generation, prepared.first_start, prepared.stance), (2, false, Stance::Live));

    let wrong = Promotion::open(&world.site, &new, &Which::Generation(1), "x").err().expect("refused");
    assert!(wrong.message.contains("made from another SQL"), "{wrong}");
    let unknown = Promotion::open(&world.site, &new, &Which::Job("nxt".into()), "x").err().expect("refused");
    assert!(unknown.message.contains("no job \"nxt\""), "{unknown}");
    Ok(())
}

#[test]
fn what_declared_its_end_or_is_behind_can_not_take_over() -> Result<()> {
    let case = case("filter_project");
    let world = World::new(&case)?;
    let (first, rest) = case.inputs.split_at(1);
    first.iter().try_for_each(|input| world.append(input))?;
    open(&world, live::prepare(&world.site, &case.topology, None, true)?.run).run_until(|| false)?;
    rest.iter().try_for_each(|input| world.append(input))?;

    let request = Request { finish: true, ..Request::resume("closed") };
    let (planned, run) = backfill::prepare(&world.site, &case.topology, &request)?;
    open(&world, run).run_until(|| false)?;
    backfill::finish(&world.site, &case.topology, &planned)?;
    let closed = Promotion::open(&world.site, &case.topology, &Which::Job("closed".into()), "x").err().expect("refused");
    assert!(closed.message.contains("--final"), "{closed}");

    // The live one is not as far as the candidate: nothing is stopped until it is.
    let (planned, run) = backfill::prepare(&world.site, &case.topology, &Request::resume("ahead"))?;
    open(&world, run).run_until(|| false)?;
    backfill::finish(&world.site, &case.topology, &planned)?;
    let mut promotion = Promotion::open(&world.site, &case.topology, &Which::Job("ahead".into()), "x")?;
    for _ in 0..5 {
        let status = promotion.step(WAIT)?;
        assert!(matches!(&status, Status::Waiting(why) if why.contains("has to come that far first")), "{status:?}");
    }
    let prepared = live::prepare(&world.site, &case.topology, None, false)?;
    assert_eq!((prepared.generation, prepared.stance.clone()), (1, Stance::Live));
    let mut service = Service::open_with(&world.site, &case.topology, "one", prepared, adjust(false))?;
    while promotion.step(WAIT)? != Status::Live {
        service.step(WAIT)?;
    }
    drop(service);
    let live: Vec<Topic> = case.topology.sinks.iter().map(|sink| sink.topic.clone()).collect();
    let published = world.tables(&case.topology, &live, 1)?;
    assert_same(&published, &world.tables(&case.topology, &shadows(&planned), 3)?, "all input before the vector");
    Ok(())
}

#[test]
fn jobs_are_listed_with_their_vectors_and_progress() -> Result<()> {
    let case = case("filter_project");
    let world = World::new(&case)?;
    world.append_all(&case)?;
    let pipeline = &case.topology.pipeline;
    let (planned, run) = backfill::prepare(&world.site, &case.topology, &Request::resume("one"))?;
    let job = jobs::show(&world.site, pipeline, "one")?;
    assert_eq!((job.record.state, job.done().0, job.to.clone()), (JobState::Running, 0, planned.to.clone()));
    open(&world, run).run_until(|| false)?;
    backfill::finish(&world.site, &case.topology, &planned)?;
    let jobs = jobs::list(&world.site, pipeline)?;
    let records = case.inputs.iter().filter(|input| matches!(input, Input::Record { .. })).count() as u64;
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].record.state, jobs[0].done()), (JobState::Finished, (records, records)));
    let error = jobs::show(&world.site, pipeline, "onw").expect_err("there is none");
    assert!(error.hint.unwrap_or_default().contains("did you mean \"one\""));

    jobs::cancel(&world.site, pipeline, "one")?;
    let names = Names::new("tidemill.", pipeline, 1)?;
    assert!(world.log.topics(&names.generation_prefix())?.is_empty(), "its internal topics are gone");
    assert!(world.log.topic(&planned.outputs[0].1)?.is_some(), "its output stays");
    let error = backfill::prepare(&world.site, &case.topology, &Request::resume("one")).err().expect("refused");
    assert!(error.message.contains("was cancelled"), "{error}");
    Ok(())
}
