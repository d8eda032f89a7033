//! Two processes of one pipeline under a writing producer: killed, asked to stop and frozen at random moments, for about 40 seconds, or for
//! `TEST_PAIR_SECONDS`.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::program::{Process, Site};
use crate::shop::{self, Shop, Writing};
use crate::world::{World, seed, wait_until};

const SECONDS: u64 = 40;
const RATE: usize = 1_000;
/// Sessions and transactions that end soon, so that a short run sees many takeovers.
pub const SHORT: &str = "[commit]\ntransaction_timeout = \"5s\"\n[kafka.properties]\n\"session.timeout.ms\" = \"4000\"\n\"heartbeat.interval.ms\" = \"1000\"\n";

#[derive(Debug, Default)]
struct Done {
    kills: usize,
    stops: usize,
    freezes: usize,
    /// Of the freezes: past the session and the transaction.
    long: usize,
}

/// A state directory, and the process that runs on it.
struct Half<'a> {
    site: Site,
    shop: &'a Shop,
    process: Option<Process>,
    /// Frozen until then.
    wakes_at: Option<Instant>,
}

impl<'a> Half<'a> {
    fn start(site: Site, shop: &'a Shop) -> Half<'a> {
        let process = Some(site.start(&["run", shop.sql()]));
        Half { site, shop, process, wakes_at: None }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it is replaced as soon as it ended")
    }

    fn end(&mut self, how: impl FnOnce(Process)) {
        how(self.process.take().expect("it is replaced as soon as it ended"));
        self.process = Some(self.site.start(&["run", self.shop.sql()]));
    }

    fn disturb(&mut self, random: &mut StdRng, done: &mut Done) {
        match random.random_range(0..10) {
            0..4 => {
                done.kills += 1;
                self.end(Process::kill);
            }
            4..6 => {
                done.stops += 1;
                self.end(|process| assert_eq!(process.terminate(), 0, "SIGTERM ends with exit code 0"));
            }
            _ => {
                let long = random.random_bool(0.4);
                done.freezes += 1;
                done.long += usize::from(long);
                let ms = if long { random.random_range(7_000..10_000) } else { random.random_range(100..3_000) };
                self.process().signal("STOP");
                self.wakes_at = Some(Instant::now() + Duration::from_millis(ms));
            }
        }
    }

    fn wake(&mut self) {
        if self.wakes_at.take().is_some() {
            self.process().signal("CONT");
        }
    }
}

#[test]
fn two_processes_killed_stopped_and_frozen_at_random_yield_the_model() {
    let Some(world) = World::shared("pair") else { return };
    let seconds = std::env::var("TEST_PAIR_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let shop = Shop::open(&world);
    let group = world.group(1);
    let writing = Writing::start(&world, &shop, seed, RATE);
    let mut halves = ["a", "b"].map(|name| Half::start(world.site(name, SHORT), &shop));
    wait_until("they commit", Duration::from_secs(60), || world.progress(&group, &shop.orders) > 0);
    let (began, mut done, mut reached, mut rounds, mut moved) = (Instant::now(), Done::default(), 0, 0, 0);
    while began.elapsed() < Duration::from_secs(seconds) {
        for half in &mut halves {
            if half.wakes_at.is_some_and(|at| at <= Instant::now()) {
                half.wake();
            }
            assert!(half.process().is_running(), "it ended by itself:\n{}", half.process().said());
        }
        std::thread::sleep(Duration::from_millis(random.random_range(100..2_500)));
        // One that is frozen is sometimes killed in its sleep; else the other one has its turn.
        let awake: Vec<usize> = (0..2).filter(|at| halves[*at].wakes_at.is_none()).collect();
        if let Some(at) = awake.get(random.random_range(0..2)) {
            halves[*at].disturb(&mut random, &mut done);
        } else if random.random_bool(0.1) {
            let half = &mut halves[random.random_range(0..2)];
            half.wakes_at = None;
            done.kills += 1;
            half.end(Process::kill);
        }
        let now = world.progress(&group, &shop.orders);
        rounds += 1;
        moved += usize::from(now > reached);
        reached = reached.max(now);
    }
    halves.iter_mut().for_each(Half::wake);
    let written = writing.stop();
    wait_until("they catch up", Duration::from_secs(120), || world.caught_up(&shop.orders));
    for half in &mut halves {
        assert!(half.process().is_running(), "it ended by itself:\n{}", half.process().said());
        assert_eq!(half.process.take().unwrap().terminate(), 0);
    }
    let expected = shop::expected(&world, &shop);
    shop::assert_equal(&shop::actual(&world, None, 1), &expected);
    eprintln!(
        "pair: {written} records in {:.0?}, {done:?}; in {moved} of {rounds} rounds the offsets moved; {} windows, {} dead, {} late",
        began.elapsed(),
        expected.revenue.len(),
        expected.dead.len(),
        expected.late.len(),
    );
    assert!(moved * 5 >= rounds, "little was committed between the disturbances, the test shows little");
}
