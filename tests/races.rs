//! Two processes decide over one pipeline at the same moment: at every call that the one makes to the log, the other one comes in between.
//!
//! The pipeline has no state and appends, so that a record that is processed twice shows.

#[path = "races/gate.rs"]
mod gate;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tidemill::cli::test::case::{Case, Input};
use tidemill::cli::test::world::World;
use tidemill::error::{Kind, Result};
use tidemill::job::backfill::{self, Output, Planned, Request};
use tidemill::job::bounds::Bound;
use tidemill::job::control::{Change, Control, JobState};
use tidemill::job::promote::{Promotion, Status, Which};
use tidemill::job::service::Service;
use tidemill::job::{Site, ledger, live, reset};
use tidemill::log::{Log, ProducerSettings};
use tidemill::record::{Outgoing, Topic};
use tidemill::task::core::Cadence;
use tidemill::task::names::Names;
use tidemill::task::run::{Run, Step, Worker};
use tidemill::topology::Options;

use gate::Gate;

const WAIT: Duration = Duration::from_millis(1);

/// A pipeline, its log, and what one process alone makes of the input.
#[derive(Clone)]
struct Play {
    case: Arc<Case>,
    site: Site,
    world: Arc<World>,
}

impl Play {
    /// The first records are there.
    fn new(records: usize) -> Play {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/two_inserts_one_append_sink");
        let mut case = Case::open(&dir, &Options::default()).expect("the golden case opens");
        case.inputs = case.inputs.iter().cycle().take(RECORDS).cloned().collect();
        let world = World::new(&case).expect("a world");
        let mut site = world.site.clone();
        // A commit has a few records.
        site.settings.max_poll_records = 3;
        let play = Play { site, case: Arc::new(case), world: Arc::new(world) };
        play.arrive(0..records);
        play
    }

    fn arrive(&self, records: std::ops::Range<usize>) {
        self.case.inputs[records].iter().for_each(|input: &Input| self.world.append(input).expect("a record"));
    }

    fn names(&self, generation: u32) -> Names {
        Names::new("tidemill.", &self.case.topology.pipeline, generation).expect("names")
    }

    fn control(&self) -> Control {
        ledger::read(&self.world.log, &self.names(1)).expect("the control topic is read")
    }

    /// The same site for somebody before whose calls others have their turn.
    fn behind(&self, gate: &Gate) -> Site {
        Site { log: Arc::new(gate.clone()), ..self.site.clone() }
    }

    fn prepared(&self, site: &Site, who: &str) -> Result<live::Prepared> {
        live::prepare_as(site, &self.case.topology, None, false, who)
    }

    fn opened(&self, who: &str, prepared: live::Prepared) -> Service {
        Service::open_with(&self.site, &self.case.topology, who, prepared, adjust).expect("it opens")
    }

    fn service(&self, who: &str) -> Service {
        self.opened(who, self.prepared(&self.site, who).expect("it is prepared"))
    }

    /// Starts, commits a few times and is killed. Its session and its transactions time out.
    fn short_life(&self, who: &str) {
        let mut service = self.service(who);
        for step in 0.. {
            assert!(step < 1_000, "it commits");
            service.step(WAIT).expect("a step");
            if service.commits() >= 3 {
                break;
            }
        }
        drop(service);
        self.world.log.expire_members();
        self.world.log.expire_transactions();
    }

    fn backfill(&self, site: &Site, output: Output) -> Result<(Planned, Run)> {
        let request = Request { output, to: Bound::Latest, ..Request::resume("again") };
        let (planned, mut run) = backfill::prepare(site, &self.case.topology, &request)?;
        adjust(&mut run);
        Ok((planned, run))
    }

    fn worker(&self, run: Run) -> Worker {
        Worker::open(self.site.log.clone(), self.site.registry.clone(), run).expect("the worker starts")
    }

    fn at_its_end(&self, run: Run) {
        let mut worker = self.worker(run);
        for step in 0.. {
            assert!(step < 2_000, "it comes to its end: {:?}", self.control());
            if worker.step(WAIT).expect("a step") == Step::Left {
                return;
            }
        }
    }

    fn backfilled(&self) -> Planned {
        let (planned, run) = self.backfill(&self.site, Output::Shadow).expect("the job is prepared");
        self.at_its_end(run);
        backfill::finish(&self.site, &self.case.topology, &planned).expect("its end is recorded");
        planned
    }

    /// Everybody else is dead: the live generation processes what is left.
    fn finish(&self) {
        self.world.log.expire_members();
        self.world.log.expire_transactions();
        let mut run = live::prepare(&self.site, &self.case.topology, None, true).expect("it is prepared").run;
        adjust(&mut run);
        self.at_its_end(run);
    }

    fn rows(&self, topic: &Topic) -> Vec<Value> {
        let tables = self.world.tables(&self.case.topology, std::slice::from_ref(topic), 1).expect("the sink is read");
        tables.sinks.into_values().next().expect("one sink")
    }

    fn published(&self) -> Vec<Value> {
        self.rows(&self.case.topology.sinks[0].topic)
    }
}

const RECORDS: usize = 28;

/// Small commits, and no decisions.
fn adjust(run: &mut Run) {
    run.idle_after = None;
    run.cadence =
        Cadence { interval_ms: 20, backlog_interval_ms: 20, backlog_records: u64::MAX, max_records: 3, max_bytes: usize::MAX };
}

/// What one process alone publishes.
fn expected() -> Vec<Value> {
    let play = Play::new(RECORDS);
    play.finish();
    play.published()
}

/// Lets `race` run with the other one coming before each call, until there is no such call any more. `race` returns the number of calls.
fn at_every_call(race: impl Fn(usize) -> usize) {
    for call in 0.. {
        if race(call) <= call {
            assert!(call > 10, "only {call} calls were made");
            return;
        }
    }
}

/// A turn that does something once, before this call.
fn once(call: usize, act: impl FnOnce() + Send + 'static) -> impl FnMut(usize, bool) + Send {
    let mut act = Some(act);
    move |now, _| {
        if now == call
            && let Some(act) = act.take()
        {
            act();
        }
    }
}

#[test]
fn a_first_start_that_slept_while_another_began_and_died_puts_nothing_back() {
    let expected = expected();
    at_every_call(|call| {
        let play = Play::new(RECORDS);
        let other = play.clone();
        let gate = Gate::new(&play.world.log, once(call, move || other.short_life("other")));
        let prepared = play.prepared(&play.behind(&gate), "sleeper").expect("it is prepared");
        gate.close();
        drop(play.opened("sleeper", prepared));
        play.finish();
        assert_eq!(play.published(), expected, "before call {call}");
        let control = play.control();
        assert_eq!((control.live, control.generations.len()), (Some(1), 1), "before call {call}");
        assert!(control.generations[&1].offsets, "a lost offset will be known");
        gate.calls()
    });
}

#[test]
fn a_backfill_that_slept_while_another_of_its_name_began_and_died_puts_nothing_back() {
    let expected = expected();
    for ends in [false, true] {
        at_every_call(|call| {
            let play = Play::new(RECORDS);
            let other = play.clone();
            let act = move || {
                if ends {
                    other.backfilled();
                    return;
                }
                let (_, run) = other.backfill(&other.site, Output::Shadow).expect("the job is prepared");
                let mut worker = other.worker(run);
                for step in 0.. {
                    assert!(step < 1_000, "before call {call}: it commits");
                    worker.step(WAIT).expect("a step");
                    if worker.commits() > 0 {
                        break;
                    }
                }
                drop(worker);
                other.world.log.expire_members();
                other.world.log.expire_transactions();
            };
            let gate = Gate::new(&play.world.log, once(call, act));
            let (planned, run) = play.backfill(&play.behind(&gate), Output::Shadow).expect("the job is prepared");
            gate.close();
            play.at_its_end(run);
            backfill::finish(&play.site, &play.case.topology, &planned).expect("its end is recorded");
            assert_eq!(play.rows(&planned.outputs[0].1), expected, "before call {call}");
            let control = play.control();
            assert_eq!((control.jobs["again"].state, control.generations.len()), (JobState::Finished, 1), "before call {call}");
            gate.calls()
        });
    }
}

#[test]
fn a_promotion_and_a_first_start_agree_on_who_is_live() {
    let expected = expected();
    let mut began = [0, 0];
    let counted = Mutex::new(&mut began);
    at_every_call(|call| {
        let play = Play::new(RECORDS / 2);
        let planned = play.backfilled();
        play.arrive(RECORDS / 2..RECORDS);
        let (other, mut service) = (play.clone(), None::<Service>);
        let gate = Gate::new(&play.world.log, move |now, writing| {
            if now == call {
                service = Some(other.service("other"));
            } else if let Some(service) = service.as_mut().filter(|_| !writing) {
                service.step(WAIT).expect("a step");
            }
        });
        let promotion = Promotion::open(&play.behind(&gate), &play.case.topology, &Which::Job("again".into()), "promoter");
        let mut promotion = promotion.expect("it may take over").adjusted(adjust);
        for step in 0.. {
            assert!(step < 5_000, "before call {call}: the promotion hangs: {:?}", play.control());
            if promotion.step(WAIT).expect("a step of the promotion") == Status::Live {
                break;
            }
        }
        let calls = gate.calls();
        drop((promotion, gate));
        play.finish();
        let control = play.control();
        assert_eq!(control.live, Some(1), "before call {call}");
        let mut all = play.published();
        if control.generations.len() == 1 {
            // What came before is in the shadow alone.
            all.extend(play.rows(&planned.outputs[0].1));
            all.sort_by_cached_key(Value::to_string);
        }
        assert_eq!(all, expected, "before call {call}: {control:?}");
        counted.lock().expect("not poisoned")[control.generations.len() - 1] += 1;
        calls
    });
    assert!(began[0] > 0 && began[1] > 0, "each was first at times: {began:?}");
}

/// A process passed its checks and slept; it wakes up while a reset goes on.
#[test]
fn a_start_during_a_reset_publishes_nothing_twice() {
    let expected = expected();
    let results = Mutex::new([0, 0]);
    at_every_call(|call| {
        let play = Play::new(RECORDS);
        play.short_life("former");
        let prepared = play.prepared(&play.site, "sleeper").expect("it is prepared");
        let (other, mut prepared) = (play.clone(), Some(prepared));
        let service = Arc::new(Mutex::new(None::<Service>));
        let sleeper = service.clone();
        let gate = Gate::new(&play.world.log, move |now, writing| {
            let mut service = sleeper.lock().expect("not poisoned");
            if let Some(prepared) = prepared.take_if(|_| now == call) {
                *service = Some(other.opened("sleeper", prepared));
            }
            if let Some(service) = service.as_mut().filter(|_| !writing) {
                for _ in 0..5 {
                    service.step(WAIT).expect("a step");
                }
            }
        });
        let plan = reset::plan(&play.site, &play.case.topology.pipeline).expect("it is live");
        let done = reset::perform(&play.behind(&gate), &plan);
        if let Some(service) = service.lock().expect("not poisoned").as_mut() {
            for _ in 0..100 {
                service.step(WAIT).expect("a step");
            }
        }
        let mut left = expected.clone();
        for row in play.published() {
            let at = left.iter().position(|known| *known == row);
            left.remove(at.unwrap_or_else(|| panic!("before call {call}: {row} was published twice")));
        }
        match &done {
            Ok(()) => assert_eq!(play.control().live, None, "before call {call}"),
            Err(error) => {
                assert!(error.kind == Kind::Config && error.message.contains("has members"), "before call {call}: {error:?}");
                assert!(left.is_empty(), "before call {call}: nothing was reset, so it went on");
            }
        }
        results.lock().expect("not poisoned")[usize::from(done.is_ok())] += 1;
        gate.calls()
    });
    let results = results.into_inner().expect("not poisoned");
    assert!(results[0] > 0 && results[1] > 0, "it was too early at times: {results:?}");
}

#[test]
fn a_reset_that_slept_leaves_the_generation_that_began_meanwhile_alone() {
    at_every_call(|call| {
        let play = Play::new(RECORDS);
        play.short_life("former");
        let other = play.clone();
        let act = move || {
            if let Ok(plan) = reset::plan(&other.site, &other.case.topology.pipeline) {
                reset::perform(&other.site, &plan).expect("nobody is there");
            }
            other.short_life("next");
        };
        let plan = reset::plan(&play.site, &play.case.topology.pipeline).expect("it is live");
        let gate = Gate::new(&play.world.log, once(call, act));
        let done = reset::perform(&play.behind(&gate), &plan);
        if let Err(error) = done {
            assert!(
                error.kind == Kind::Config && error.message.contains("is not live any more"),
                "before call {call}: {error:?}"
            );
        }
        if gate.calls() > call {
            assert_eq!(play.control().live, Some(2), "before call {call}: generation 2 goes on");
            play.finish();
        }
        gate.calls()
    });
}

#[test]
fn a_backfill_into_the_live_sinks_and_a_first_start_exclude_one_another() {
    let expected = expected();
    at_every_call(|call| {
        let play = Play::new(RECORDS);
        let (other, started) = (play.clone(), Arc::new(Mutex::new(None)));
        let start = started.clone();
        let act = move || *start.lock().expect("not poisoned") = Some(other.prepared(&other.site, "other").map(|_| ()));
        let gate = Gate::new(&play.world.log, once(call, act));
        let filled = play.backfill(&play.behind(&gate), Output::Live);
        gate.close();
        let started = started.lock().expect("not poisoned").take();
        match (filled, started) {
            (Ok((_, run)), None | Some(Err(_))) => play.at_its_end(run),
            (Err(error), Some(Ok(()))) => {
                assert!(error.kind == Kind::Config && error.message.contains("is live"), "before call {call}: {error:?}");
                play.finish();
            }
            (filled, started) => panic!("before call {call}: {:?}, {started:?}", filled.map(|_| ())),
        }
        assert_eq!(play.published(), expected, "before call {call}");
        gate.calls()
    });
}

/// A killed writer's transaction that its coordinator aborted, but not in the control topic.
#[test]
fn what_a_killed_writer_left_in_the_control_topic_is_closed_and_never_comes_true() {
    for writes in [false, true] {
        let play = Play::new(RECORDS);
        play.short_life("former");
        let (log, names) = (&play.world.log, play.names(1));
        let id = Some(names.control_writer());
        let settings = ProducerSettings { transactional_id: id, transaction_timeout: Duration::from_secs(10) };
        let mut killed = log.producer(&settings).expect("a producer");
        let mut records = Outgoing::default();
        records.push(0, 1, Some(b"live"), Some(b"7"), Vec::new());
        killed.begin().expect("a transaction");
        killed.send(&names.control(), &records).expect("a record");
        drop(killed);
        log.faults().lose_aborts(true);
        log.expire_transactions();
        log.faults().lose_aborts(false);
        if writes {
            let seen = Mutex::new(None);
            ledger::change(log, &names, |control| {
                *seen.lock().expect("not poisoned") = Some(control.live);
                Ok(Some(Change::default().no_promotion()))
            })
            .expect("it is changed");
            assert_eq!(seen.into_inner().expect("not poisoned"), Some(Some(1)));
        }
        // Readers alone close it, too.
        assert_eq!(play.control().live, Some(1));
        play.finish();
        assert_eq!(play.published(), expected());
    }
}

/// Many that want to change it at the same moment all get their turn.
#[test]
fn changes_at_the_same_moment_are_all_made() {
    let play = Play::new(RECORDS);
    play.short_life("former");
    let (log, names) = (play.world.log.clone(), play.names(1));
    let writers = 6;
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let (log, names) = (&log, &names);
            scope.spawn(move || {
                let generation = 100 + writer;
                ledger::change(log, names, |control| {
                    let mut record = control.generations[&1].clone();
                    record.generation = generation;
                    Ok((!control.generations.contains_key(&generation)).then(|| Change::default().generation(&record)))
                })
                .expect("it is changed")
            });
        }
    });
    let control = play.control();
    assert_eq!((control.live, control.generations.len()), (Some(1), 1 + writers as usize));
}
