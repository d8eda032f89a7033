//! How soon partitions have an owner again: after SIGTERM, after a kill and a restart, after a kill without one.

use std::time::{Duration, Instant};

use crate::pair;
use crate::program::Process;
use crate::shop::{self, Shop, Writing};
use crate::world::{World, seed, wait_until};

/// What the program promises is 3 s; a machine that is busy with other tests gets more.
const SOON: Duration = Duration::from_secs(8);

/// How long it takes until everything that is in the topic now is committed.
#[track_caller]
fn taken_over(world: &World, shop: &Shop, limit: Duration) -> Duration {
    let (ends, began) = (world.ends(&shop.orders), Instant::now());
    wait_until("all partitions have an owner", limit, || {
        let committed = world.log.committed(&world.group(1), &world.partitions(&shop.orders)).unwrap_or_default();
        ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|c| c.next >= *end))
    });
    began.elapsed()
}

/// Both have restored or started a task of their own.
fn both(processes: [&Process; 2], world: &World, shop: &Shop) {
    let owned = |process: &Process| process.said().matches("assigned").count();
    wait_until("both have tasks", Duration::from_secs(60), || processes.iter().all(|process| owned(process) > 0));
    taken_over(world, shop, Duration::from_secs(60));
}

#[test]
fn partitions_have_an_owner_again_soon() {
    let Some(world) = World::shared("owner") else { return };
    let shop = Shop::open(&world);
    let writing = Writing::start(&world, &shop, seed(), 1_000);
    let sites = [world.site("a", ""), world.site("b", "")];
    let start = |at: usize| sites[at].start(&["run", shop.sql()]);
    let (first, second) = (start(0), start(1));
    both([&first, &second], &world, &shop);

    assert_eq!(first.terminate(), 0);
    let after_sigterm = taken_over(&world, &shop, SOON);
    let first = start(0);
    both([&first, &second], &world, &shop);

    second.kill();
    let second = start(1);
    let after_restart = taken_over(&world, &shop, SOON);
    both([&first, &second], &world, &shop);

    first.kill();
    let after_session = taken_over(&world, &shop, Duration::from_secs(40));
    writing.stop();
    wait_until("it catches up", Duration::from_secs(60), || world.caught_up(&shop.orders));
    assert_eq!(second.terminate(), 0);
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));
    eprintln!(
        "all partitions have an owner again {after_sigterm:.1?} after SIGTERM, {after_restart:.1?} after kill -9 and restart, \
         {after_session:.1?} after kill -9 (the session is 10 s)"
    );
}

/// A state directory that was copied with its identity: the two fence each other, until one takes another name.
#[test]
fn a_copied_state_directory_does_no_harm() {
    let Some(world) = World::shared("copied") else { return };
    let shop = Shop::open(&world);
    let sites = [world.site("a", pair::SHORT), world.site("b", pair::SHORT)];
    for name in ["a", "b"] {
        world.file(&format!("state-{name}/instance"), "0123abcd");
    }
    let writing = Writing::start(&world, &shop, seed(), 500);
    let mut processes = sites.each_ref().map(|site| site.start(&["run", shop.sql()]));
    wait_until("one of them takes another name", Duration::from_secs(90), || {
        processes.iter().any(|process| process.said().contains("Give every process a state directory of its own"))
    });
    let named = world.progress(&world.group(1), &shop.orders);
    wait_until("they go on", Duration::from_secs(60), || world.progress(&world.group(1), &shop.orders) > named + 2_000);
    writing.stop();
    wait_until("they catch up", Duration::from_secs(60), || world.caught_up(&shop.orders));
    assert!(processes.iter_mut().all(Process::is_running), "both live on");
    for process in processes {
        assert_eq!(process.terminate(), 0);
    }
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));
}
