//! A corrected version takes over from a live one under a writing producer, killed on its way; a process of the old version sleeps through it.
//! Then back again.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemill::job::control::{self, Control};
use tidemill::job::ledger;
use tidemill::record::OffsetVector;
use tidemill::task::names::Names;

use crate::pair::SHORT;
use crate::shop::{self, HIDDEN, Shop, Writing};
use crate::world::{World, seed, wait_until};

/// On a machine that is busy.
const LONG: Duration = Duration::from_secs(180);
const KILLS: usize = 8;

fn said(world: &World) -> Control {
    let names = Names::new("tidemill.", &world.name, 1).unwrap();
    ledger::read(world.log.as_ref(), &names).unwrap()
}

/// Where a generation stopped.
fn ended(world: &World, generation: u32) -> OffsetVector {
    let control = said(world);
    control::parse_vector(control.generations[&generation].ended_at.as_deref().expect("its final vector is kept")).unwrap()
}

fn before(vector: &OffsetVector, (partition, offset): (i64, i64)) -> bool {
    let (_, at) = vector.iter().find(|(p, _)| i64::from(p.partition.0) == partition).expect("every partition is in it");
    offset < at.0
}

#[test]
fn a_corrected_version_takes_over_at_one_vector_and_goes_back() {
    let Some(world) = World::shared("promote") else { return };
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let shop = Shop::open(&world);
    // The first version sells what should be hidden.
    let faulty = shop::sql(&world.name).replace(&format!("WHERE amount <> {HIDDEN}"), "WHERE amount <> -1000");
    let faulty = world.file("faulty.sql", &faulty);
    let faulty = faulty.to_str().unwrap();
    let (old, sleeper, new) = (world.site("old", SHORT), world.site("sleeper", SHORT), world.site("new", SHORT));

    let writing = Writing::start(&world, &shop, seed, 1_000);
    let mut live = old.start(&["run", faulty]);
    let mut sleeping = sleeper.start(&["run", faulty]);
    sleeping.wait_for("generation 1 ");
    wait_until("the old version commits", LONG, || world.progress(&world.group(1), &shop.orders) > 3_000);
    let refused = new.run(&["run", shop.sql()]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("--then-live") && refused.stderr.contains("tidemill reset"), "{}", refused.stderr);
    sleeping.signal("STOP");

    let takes_over = ["backfill", shop.sql(), "--from", "earliest", "--to", "latest", "--then-live"];
    let texts: [&str; KILLS] =
        ["starts", "assigned", "is asked to stop", "has stopped at", "in its shadow", "is live", "assigned", "assigned"];
    let began = Instant::now();
    let mut before_live = 0;
    for text in texts {
        let mut process = new.start(&takes_over);
        wait_until("it has come so far, or further", LONG, || {
            assert!(process.is_running(), "it ended by itself:\n{}", process.said());
            process.said().contains(text) || said(&world).live == Some(2)
        });
        std::thread::sleep(Duration::from_millis(random.random_range(0..400)));
        process.kill();
        before_live += usize::from(said(&world).live == Some(1));
    }
    assert!(before_live >= 3, "only {before_live} kills came before the new version was live, the test shows little");
    let mut successor = new.start(&takes_over);
    wait_until("it is live", LONG, || {
        assert!(successor.is_running(), "it ended by itself:\n{}", successor.said());
        said(&world).live == Some(2)
    });
    let took = began.elapsed();
    let vector = ended(&world, 1);
    let after = world.progress(&world.group(2), &shop.orders);
    sleeping.signal("CONT");
    wait_until("the new version goes on", LONG, || world.progress(&world.group(2), &shop.orders) > after + 2_000);
    live.wait_for("generation 2 is live");
    sleeping.wait_for("generation 2 is live");
    assert!(live.is_running() && sleeping.is_running(), "both stand by");
    let refused = sleeper.run(&["--state-dir", "other", "run", faulty]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let jobs = new.done(&["jobs", "list", &world.name, "--output", "json"]);
    let jobs: serde_json::Value = serde_json::from_str(&jobs.stdout).unwrap();
    assert_eq!((jobs[0]["state"].as_str(), jobs[0]["generation"].as_i64()), (Some("live"), Some(2)), "{jobs}");

    // Its SQL is run as any other from now on.
    assert_eq!(successor.terminate(), 0);
    let mut successor = new.start(&["run", shop.sql()]);
    successor.wait_for("generation 2 goes on");
    let reached = world.progress(&world.group(2), &shop.orders);
    wait_until("it goes on", LONG, || world.progress(&world.group(2), &shop.orders) > reached + 2_000);

    // Back again: those that stand by go on.
    let back = old.run_within(LONG, &["promote", faulty, "--generation", "1"]);
    assert_eq!(back.code, 0, "{}{}", back.stdout, back.stderr);
    let back_at = ended(&world, 2);
    successor.wait_for("generation 1 is live");
    let reached = world.progress(&world.group(1), &shop.orders);
    wait_until("the old version goes on", LONG, || world.progress(&world.group(1), &shop.orders) > reached + 2_000);
    let written = writing.stop();
    wait_until("it catches up", LONG, || world.caught_up(&shop.orders));
    assert_eq!((live.terminate(), sleeping.terminate(), successor.terminate()), (0, 0, 0));

    let sells = |place, amount| amount != HIDDEN || before(&vector, place) || !before(&back_at, place);
    let expected = shop::expected_where(&world, &shop, sells);
    let hidden = |place: (i64, i64)| before(&back_at, place) && !before(&vector, place);
    assert!(expected != shop::expected(&world, &shop), "the versions differ");
    // Every generation has read all of the input once: what it did in its shadow it did not do in the live sinks.
    shop::assert_equal(&shop::actual(&world, None, 1), &expected);
    eprintln!(
        "promote: {written} records; live after {KILLS} kills, {before_live} before it, in {took:.1?}; {} of {} late rows lie between the vectors; back in {:.1?}",
        expected.late.iter().filter(|place| hidden(**place)).count(),
        expected.late.len(),
        back.took
    );
}
