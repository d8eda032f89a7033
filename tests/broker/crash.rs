//! A producer keeps writing while the process is killed, or asked to stop, at random moments and started again.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::shop::{self, Shop, Writing};
use crate::world::{World, seed, wait_until};

const KILLS: usize = 30;
const STOPS: usize = 10;
/// Records a second.
const RATE: usize = 1_500;

#[test]
fn killed_at_any_moment_nothing_is_lost_and_nothing_is_twice() {
    let Some(world) = World::shared("kill") else { return };
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    let writing = Writing::start(&world, &shop, seed, RATE);
    let began = Instant::now();
    let (mut reached, mut moved) = (0, 0);
    for kill in 0..KILLS {
        let mut process = site.start(&["run", shop.sql()]);
        // Planning, joining and restoring are hit, and lives that have committed something.
        match kill % 3 {
            0 => {}
            1 => process.wait_for("generation 1 "),
            _ => wait_until("this life commits", Duration::from_secs(30), || {
                world.progress(&world.group(1), &shop.orders) > reached
            }),
        }
        std::thread::sleep(Duration::from_millis(random.random_range(100..900)));
        process.kill();
        let now = world.progress(&world.group(1), &shop.orders);
        moved += usize::from(now > reached);
        reached = now;
    }
    let killing = began.elapsed();
    let written = writing.stop();
    assert!(
        moved >= KILLS / 3,
        "only {moved} of {KILLS} lives committed something, the test shows little:\n{}",
        crate::world::lines(&world.path("live.log"))
    );
    let caught_up = site.done(&["run", shop.sql(), "--until-caught-up"]);
    let expected = shop::expected(&world, &shop);
    assert!(!expected.dead.is_empty() && !expected.late.is_empty() && expected.revenue.len() > 100, "the input has it all");
    shop::assert_equal(&shop::actual(&world, None, 1), &expected);
    let backfill = site.done(&["backfill", shop.sql(), "--from", "earliest", "--to", "latest", "--job", "again"]);
    shop::assert_equal(&shop::actual(&world, Some("again"), 2), &expected);
    eprintln!(
        "kill -9: {written} records; {KILLS} kills in {killing:.1?}, {moved} lives committed; {} before the last start; {} rows, {} windows, \
         {} totals, {} dead, {} late; caught up in {:.1?}; backfill in {:.1?}",
        reached,
        expected.sold.len(),
        expected.revenue.len(),
        expected.totals.len(),
        expected.dead.len(),
        expected.late.len(),
        caught_up.took,
        backfill.took,
    );
}

#[test]
fn asked_to_stop_it_commits_leaves_and_goes_on_from_its_checkpoint() {
    let Some(world) = World::shared("term") else { return };
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    let writing = Writing::start(&world, &shop, seed, RATE);
    let mut had_state = false;
    for stop in 0..STOPS {
        let before = world.progress(&world.group(1), &shop.orders);
        let mut process = site.start(&["run", shop.sql()]);
        process.wait_for("generation 1 ");
        wait_until("it commits", Duration::from_secs(30), || world.progress(&world.group(1), &shop.orders) > before);
        std::thread::sleep(Duration::from_millis(random.random_range(0..500)));
        let said = process.said();
        if had_state {
            let from_checkpoint =
                said.lines().filter(|line| line.contains("restored ") && !line.contains("checkpoint=0 ")).count();
            assert!(from_checkpoint > 0, "start {stop} restored nothing from the local checkpoint:\n{said}");
            assert!(!said.contains("does not reach into the changelog"), "{said}");
        }
        let began = Instant::now();
        assert_eq!(process.terminate(), 0, "SIGTERM ends with exit code 0, log:\n{said}");
        assert!(began.elapsed() < Duration::from_secs(10), "stopping took {:?}", began.elapsed());
        had_state = true;
    }
    writing.stop();
    site.done(&["run", shop.sql(), "--until-caught-up"]);
    let expected = shop::expected(&world, &shop);
    shop::assert_equal(&shop::actual(&world, None, 1), &expected);
}
