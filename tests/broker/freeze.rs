//! A process that is frozen past its session and its transaction, while another takes over, and then goes on.

use std::time::{Duration, Instant};

use crate::pair::SHORT;
use crate::shop::{self, Shop, Writing};
use crate::world::{World, seed, wait_until};

/// On a machine that is busy.
const LONG: Duration = Duration::from_secs(180);

#[test]
fn frozen_while_another_takes_over_it_wakes_and_does_no_harm() {
    let Some(world) = World::shared("freeze") else { return };
    let seed = seed();
    let shop = Shop::open(&world);
    let group = world.group(1);
    let writing = Writing::start(&world, &shop, seed, 1_000);
    let sites = [world.site("a", SHORT), world.site("b", SHORT)];
    let mut frozen = sites[0].start(&["run", shop.sql()]);
    wait_until("the first one commits", LONG, || world.progress(&group, &shop.orders) > 0);
    let mut other = sites[1].start(&["run", shop.sql()]);
    // Both have tasks, so that what is frozen holds some of them with a transaction open.
    other.wait_for("generation 1 ");
    for round in 0..2 {
        let joined = world.progress(&group, &shop.orders);
        wait_until("both go on", LONG, || world.progress(&group, &shop.orders) > joined + 2_000);
        frozen.signal("STOP");
        let at = Instant::now();
        // The whole input goes on only when the frozen one's partitions have another owner.
        let ends = world.ends(&shop.orders);
        wait_until("the other has taken over", LONG, || {
            let committed = world.log.committed(&group, &world.partitions(&shop.orders)).unwrap_or_default();
            ends.iter().all(|(partition, end)| committed.get(partition).is_some_and(|c| c.next >= *end))
        });
        let took_over = at.elapsed();
        // Past the session and the transaction, whatever it held when it was frozen.
        std::thread::sleep(Duration::from_secs(7).saturating_sub(took_over));
        frozen.signal("CONT");
        eprintln!("freeze, round {round}: taken over after {took_over:.1?}");
        let woken = world.progress(&group, &shop.orders);
        wait_until("both go on after waking", LONG, || world.progress(&group, &shop.orders) > woken + 2_000);
        assert!(frozen.is_running() && other.is_running(), "both live on:\n{}\n{}", frozen.said(), other.said());
        std::mem::swap(&mut frozen, &mut other);
    }
    writing.stop();
    wait_until("they catch up", LONG, || world.caught_up(&shop.orders));
    assert_eq!((frozen.terminate(), other.terminate()), (0, 0));
    sites[1].done(&["run", shop.sql(), "--until-caught-up"]);
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));
}
