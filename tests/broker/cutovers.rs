//! Backfills that go live at random moments under a writing producer, some killed on their way, some in the place of a former version:
//! each ends with the tables of a run that was always live. `TEST_CUTOVERS` for more of them.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemill::job::control::{self, Control};
use tidemill::job::ledger;
use tidemill::record::{OffsetVector, Topic};
use tidemill::task::names::Names;

use crate::pair::SHORT;
use crate::program::{Process, Site};
use crate::shop::{self, HIDDEN, Shop, Writing};
use crate::world::{World, seed, wait_until};

const CUTOVERS: usize = 4;
/// On a machine that is busy.
const LONG: Duration = Duration::from_secs(120);

/// One pipeline of its own over the orders of all.
struct Cutover {
    name: String,
    site: Site,
    sql: String,
    /// Another version that was live before.
    former: Option<String>,
    kills: usize,
}

impl Cutover {
    fn new(world: &World, number: usize, random: &mut StdRng) -> Cutover {
        let name = format!("{}-c{number}", world.name);
        let sql = shop::sql(&name).replace(&format!("'{name}.orders'"), &format!("'{}.orders'", world.name));
        let file = |what: &str, sql: &str| world.file(&format!("{what}{number}.sql"), sql).to_str().unwrap().to_string();
        let faulty = sql.replace(&format!("WHERE amount <> {HIDDEN}"), "WHERE amount <> -1000");
        Cutover {
            site: world.site(&format!("c{number}"), SHORT),
            former: (number % 2 == 1).then(|| file("former", &faulty)),
            sql: file("sql", &sql),
            kills: if number % 4 >= 2 { random.random_range(1..4) } else { 0 },
            name,
        }
    }

    /// Of the candidate.
    fn generation(&self) -> u32 {
        if self.former.is_some() { 2 } else { 1 }
    }

    fn control(&self, world: &World) -> Control {
        ledger::read(world.log.as_ref(), &Names::new("tidemill.", &self.name, 1).unwrap()).unwrap()
    }

    fn is_live(&self, world: &World) -> bool {
        self.control(world).live == Some(self.generation())
    }

    fn progress(&self, world: &World, shop: &Shop, generation: u32) -> i64 {
        world.progress(&format!("tidemill.{}.g{generation}", self.name), &shop.orders)
    }

    /// From a former version, if any, to a candidate that has been live for a while. Returns the kills that came before it was live.
    fn run(&self, world: &World, shop: &Shop, random: &mut StdRng) -> usize {
        let old = world.site(&format!("{}-old", self.name), SHORT);
        let mut former: Option<Process> = self.former.as_ref().map(|file| old.start(&["run", file]));
        if former.is_some() {
            wait_until("the former version commits", LONG, || self.progress(world, shop, 1) > 0);
            std::thread::sleep(Duration::from_millis(random.random_range(200..3_000)));
        }
        let command = ["backfill", self.sql.as_str(), "--from", "earliest", "--to", "latest", "--then-live"];
        let mut before = 0;
        for _ in 0..self.kills {
            let process = self.site.start(&command);
            std::thread::sleep(Duration::from_millis(random.random_range(100..4_000)));
            process.kill();
            before += usize::from(!self.is_live(world));
        }
        let mut process = self.site.start(&command);
        wait_until("it is live", LONG, || {
            assert!(process.is_running(), "it ended by itself:\n{}", process.said());
            self.is_live(world)
        });
        let at = self.progress(world, shop, self.generation());
        wait_until("it goes on", LONG, || self.progress(world, shop, self.generation()) > at);
        std::thread::sleep(Duration::from_millis(random.random_range(0..2_000)));
        if random.random_bool(0.5) {
            process.kill()
        } else {
            assert_eq!(process.terminate(), 0)
        }
        if let Some(former) = &mut former {
            former.wait_for("generation 2 is live");
        }
        former.into_iter().for_each(|former| assert_eq!(former.terminate(), 0));
        before
    }

    /// Where the former version stopped.
    fn vector(&self, world: &World) -> Option<OffsetVector> {
        let control = self.control(world);
        self.former
            .as_ref()
            .map(|_| control::parse_vector(control.generations[&1].ended_at.as_deref().expect("its end")).unwrap())
    }

    fn check(&self, world: &World, shop: &Shop) {
        let live = |sink: &str| Topic::new(format!("{}.{sink}", self.name));
        let shadow = |sink: &str| Topic::new(format!("tidemill.{}.b{}.{sink}", self.name, self.generation()));
        let generation = i64::from(self.generation());
        let always = shop::expected(world, shop);
        let Some(vector) = self.vector(world) else {
            // The shadow holds what came before the cutover, the live sinks the rest.
            let actual = shop::actual_of(world, &self.name, |sink| vec![shadow(sink), live(sink)], generation);
            return shop::assert_equal(&actual, &always);
        };
        let before = |(partition, offset): (i64, i64)| {
            let (_, at) = vector.iter().find(|(p, _)| i64::from(p.partition.0) == partition).expect("every partition is in it");
            offset < at.0
        };
        // The live sinks hold the former version up to the vector, and this one from there on.
        let both = shop::expected_where(world, shop, |place, amount| amount != HIDDEN || before(place));
        shop::assert_equal(&shop::actual_of(world, &self.name, |sink| vec![live(sink)], generation), &both);
        let until = shop::expected_where(world, shop, |place, amount| amount != HIDDEN && before(place));
        let actual = shop::actual_of(world, &self.name, |sink| vec![shadow(sink)], generation);
        shop::differences("the shadow's sold", &actual.sold, &until.sold);
    }
}

#[test]
fn a_backfill_that_goes_live_is_as_a_run_that_was_always_live() {
    let Some(world) = World::shared("cutovers") else { return };
    let wanted = std::env::var("TEST_CUTOVERS").map_or(CUTOVERS, |text| text.parse().expect("a number of cutovers"));
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let shop = Shop::open(&world);
    let writing = Writing::start(&world, &shop, seed, 600);
    let always = world.site("always", SHORT).start(&["run", shop.sql()]);
    wait_until("the first one commits", LONG, || world.progress(&world.group(1), &shop.orders) > 0);
    let began = Instant::now();
    let cutovers: Vec<Cutover> = (0..wanted).map(|number| Cutover::new(&world, number, &mut random)).collect();
    let (mut kills, mut before) = (0, 0);
    for cutover in &cutovers {
        kills += cutover.kills;
        before += cutover.run(&world, &shop, &mut random);
    }
    let took = began.elapsed();
    let written = writing.stop();
    wait_until("the first one catches up", LONG, || world.caught_up(&shop.orders));
    assert_eq!(always.terminate(), 0);
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));
    for cutover in &cutovers {
        cutover.site.done(&["run", &cutover.sql, "--until-caught-up"]);
        eprintln!(
            "{}: {}, {} kills",
            cutover.name,
            cutover.former.as_ref().map_or("first", |_| "in the place of another"),
            cutover.kills
        );
        cutover.check(&world, &shop);
    }
    eprintln!("cutovers: {written} records, {wanted} cutovers in {took:.0?}, {kills} kills, {before} of them before it was live");
}
