//! Two processes are started at the same instant, and one of them is killed: what begins once begins once.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemill::job::ledger;
use tidemill::task::names::Names;

use crate::pair::SHORT;
use crate::shop::{HIDDEN, Shop, Source};
use crate::world::{World, seed, wait_until};

const ROUNDS: usize = 5;
const RECORDS: usize = 6_000;

/// Without state, and with an append sink: a record that is processed twice shows.
fn sql(world: &World, name: &str) -> String {
    format!(
        "SET 'pipeline.name' = '{name}';
CREATE STREAM orders WITH ('topic' = '{}.orders', 'format' = 'avro');
CREATE SINK sold WITH ('topic' = '{name}.sold', 'format' = 'avro');
INSERT INTO sold SELECT order_id, amount FROM orders WHERE amount <> {HIDDEN};
",
        world.name
    )
}

fn numbers(world: &World, topic: &str) -> BTreeMap<i64, usize> {
    let mut schemas = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    for row in world.read_if_there(&tidemill::record::Topic::new(topic)) {
        let value = world.value(&mut schemas, &row.bytes.expect("a value"));
        if value["amount"] != HIDDEN {
            *numbers.entry(value["order_id"].as_i64().expect("a number")).or_default() += 1;
        }
    }
    numbers
}

#[test]
fn two_that_start_at_the_same_instant_begin_once_though_one_is_killed() {
    let Some(world) = World::shared("starts") else { return };
    let shop = Shop::open(&world);
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut source = Source::new(seed, shop.writer.clone());
    (0..10).for_each(|_| world.write(&shop.orders, &source.good(RECORDS / 10)));
    let expected = numbers(&world, shop.orders.as_str());
    assert!(expected.len() == RECORDS && expected.values().all(|count| *count == 1), "the input has every number once");
    let mut began = [0, 0];
    for round in 0..ROUNDS {
        let name = format!("{}-r{round}", world.name);
        let file = world.file(&format!("r{round}.sql"), &sql(&world, &name));
        let sites = ["a", "b"].map(|who| world.site(&format!("{who}{round}"), SHORT));
        let [first, second] = sites.each_ref().map(|site| site.start(&["run", file.to_str().unwrap()]));
        let group = format!("tidemill.{name}.g1");
        if round % 2 == 0 {
            wait_until("one of them has committed", Duration::from_secs(60), || world.progress(&group, &shop.orders) > 0);
            std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        } else {
            // Somewhere between its start, its decision to begin and its first commits.
            std::thread::sleep(Duration::from_millis(random.random_range(100..1_000)));
        }
        let reached = world.progress(&group, &shop.orders);
        began[usize::from(reached > 0)] += 1;
        let (killed, left) = if random.random_bool(0.5) { (first, second) } else { (second, first) };
        killed.kill();
        wait_until("the other one catches up", Duration::from_secs(60), || {
            world.progress(&group, &shop.orders) >= world.ends(&shop.orders).values().map(|end| end.0).sum()
        });
        assert_eq!(left.terminate(), 0);
        let names = Names::new("tidemill.", &name, 1).unwrap();
        let control = ledger::read(world.log.as_ref(), &names).unwrap();
        assert_eq!((control.live, control.generations.len()), (Some(1), 1), "round {round}");
        assert!(control.generations[&1].offsets, "round {round}: a lost offset will be known");
        let published = numbers(&world, &format!("{name}.sold"));
        assert!(
            published == expected,
            "round {round}: {:?}",
            published.iter().filter(|(_, count)| **count != 1).take(5).collect::<Vec<_>>()
        );
    }
    eprintln!("{ROUNDS} rounds: one was killed before anything was committed in {}, after that in {}", began[0], began[1]);
}
