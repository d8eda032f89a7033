//! A takeover: the tasks that stayed go on while those that came restore, and a task that was read ahead restores only the last of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use tidemill::log::{CommittedOffsets, Isolation};
use tidemill::record::{Outgoing, TopicPartition};

use crate::pair::SHORT;
use crate::program::Process;
use crate::shop::{self, PARTITIONS, Shop, Writing};
use crate::world::{World, avro, seed, wait_until};

/// The numbers of the partitions that a process says it holds.
fn held(process: &Process) -> BTreeSet<i32> {
    let mut held = BTreeSet::new();
    for line in process.said().lines() {
        let Some((_, partitions)) = line.split_once("partitions=\"") else { continue };
        let list = partitions.split('"').next().unwrap_or_default();
        let numbers = list.split(',').filter_map(|at| at.rsplit_once(':')?.1.parse::<i32>().ok());
        if line.contains(" assigned ") {
            held.extend(numbers);
        } else if line.contains(" revoked ") || line.contains("were lost") {
            numbers.for_each(|number| {
                held.remove(&number);
            });
        }
    }
    held
}

/// Each holds some of the tasks, and both work.
fn two(world: &World, shop: &Shop, more: &str) -> (Process, Process) {
    let sites = [world.site("a", more), world.site("b", more)];
    let first = sites[0].start(&["run", shop.sql()]);
    wait_until("the first holds all", Duration::from_secs(60), || held(&first).len() == PARTITIONS as usize);
    let second = sites[1].start(&["run", shop.sql()]);
    let share = || (held(&first), held(&second));
    wait_until("they share", Duration::from_secs(90), || {
        let (one, other) = share();
        !one.is_empty() && !other.is_empty() && one.len() + other.len() == PARTITIONS as usize && one.is_disjoint(&other)
    });
    let before = world.progress(&world.group(1), &shop.orders);
    wait_until("they work", Duration::from_secs(60), || world.progress(&world.group(1), &shop.orders) > before + 2_000);
    (first, second)
}

fn committed(world: &World, partitions: &[TopicPartition]) -> i64 {
    let committed = world.log.committed(&world.group(1), partitions).unwrap_or_default();
    committed.values().map(|committed| committed.next.0).sum()
}

#[test]
fn tasks_go_on_while_others_restore() {
    let Some(world) = World::shared("beside") else { return };
    let shop = Shop::open(&world);
    let writing = Writing::start(&world, &shop, seed(), 1_000);
    let (mut first, second) = two(&world, &shop, SHORT);
    let (stay, come): (Vec<_>, Vec<_>) =
        world.partitions(&shop.orders).into_iter().partition(|at| held(&first).contains(&at.partition.0));

    // An undecided transaction in their changelogs makes the restores last for as long as it is open.
    let changelogs = world.log.topics(&format!("{}.", world.group(1))).unwrap();
    let changelog = changelogs.iter().find(|topic| topic.topic.as_str().ends_with(".changelog")).expect("a changelog");
    let mut holder = world.transactional_producer();
    holder.begin().unwrap();
    let mut garbage = Outgoing::default();
    come.iter().for_each(|at| garbage.push(at.partition.0, 0, None, Some(b"never to be seen"), Vec::new()));
    holder.send(&changelog.topic, &garbage).unwrap();
    second.kill();
    let all = PARTITIONS as usize;
    wait_until("the first is given the rest", Duration::from_secs(60), || held(&first).len() == all);

    let (began, mut values) = (Instant::now(), BTreeSet::new());
    while began.elapsed() < Duration::from_secs(10) {
        values.insert(committed(&world, &stay));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(values.len() >= 10, "the tasks that stayed committed {} times within 10 s", values.len());
    first.wait_for("restoring, held up by a transaction that is not decided yet");
    let said = first.said();
    let line = said.lines().find(|line| line.contains(" restoring")).expect("a line of progress");
    for shown in [&format!("tasks={}", come.len()), "percent=", "rows=", "rows_per_second="] {
        assert!(line.contains(shown), "{shown} in {line}");
    }
    let waiting = committed(&world, &come);
    let ends = world.log.end_offsets(&come, Isolation::Committed).unwrap();
    assert!(ends.values().map(|end| end.0).sum::<i64>() > waiting + 2_000, "there is something to do for the tasks that restore");

    holder.abort().unwrap();
    wait_until("the tasks that came go on", Duration::from_secs(60), || committed(&world, &come) > waiting);
    writing.stop();
    wait_until("it catches up", Duration::from_secs(60), || world.caught_up(&shop.orders));
    assert_eq!(first.terminate(), 0);
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));
    assert!(holder.commit(&CommittedOffsets::new(), None).is_err(), "the transaction of the test is over");
}

#[test]
fn a_task_that_was_read_ahead_restores_only_the_last_of_it() {
    let Some(world) = World::shared("ahead") else { return };
    let shop = Shop::open(&world);
    let writing = Writing::start(&world, &shop, seed(), 1_000);
    let (first, mut second) = two(&world, &shop, SHORT);
    second.wait_for("standby tasks");
    let copied = second.said().lines().rev().find(|line| line.contains("standby tasks")).map(ToString::to_string);
    let copied = copied.and_then(|line| Some(line.split_once("tasks=\"")?.1.split('"').next()?.to_string())).expect("a task");
    // What it has to read once more is what is committed after the last look.
    std::thread::sleep(Duration::from_secs(4));
    first.kill();
    let line = |process: &Process| {
        let said = process.said();
        let line = said.lines().rev().find(|line| line.contains(" restored ") && line.contains(&format!("task={copied} ")))?;
        Some(line.to_string())
    };
    wait_until("it takes over", Duration::from_secs(60), || line(&second).is_some_and(|line| !line.contains("standby=0 ")));
    let line = line(&second).expect("it restored");
    let number = |name: &str| -> i64 {
        let text = line.split_once(&format!(" {name}=")).expect("it is said").1;
        text.split(' ').next().and_then(|text| text.parse().ok()).expect("a number")
    };
    assert_eq!(number("checkpoint"), 0, "{line}");
    assert!(number("standby") > 0, "{line}");
    writing.stop();
    wait_until("it catches up", Duration::from_secs(60), || world.caught_up(&shop.orders));
    assert_eq!(second.terminate(), 0);
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));
    eprintln!("{line}");
}

const TOTAL: &str = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "customer_id", "type": "string"},
  {"name": "amount", "type": "long"}
]}"#;

/// When a process said something first, as its log has it.
fn said_at(process: &Process, text: &str) -> chrono::DateTime<chrono::FixedOffset> {
    let said = process.said();
    let line = said.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("it never said \"{text}\":\n{said}"));
    let time = line.split(' ').next().expect("a time");
    chrono::DateTime::parse_from_rfc3339(time).unwrap_or_else(|e| panic!("{time}: {e}"))
}

/// `TEST_KEYS` for another number; the program must be built optimised for its figures to mean something.
#[test]
#[ignore = "a measurement: build it optimised"]
fn a_large_state_is_back_soon_after_kill_9() {
    let Some(world) = World::shared("large") else { return };
    let keys: i64 = std::env::var("TEST_KEYS").map_or(1_000_000, |text| text.parse().expect("a number of keys"));
    let orders = world.create("orders", 1, &[]);
    let writer = world.register(&orders, TOTAL);
    let write = |from: i64, to: i64| {
        let mut out = Outgoing::default();
        for number in from..to {
            let customer = format!("customer-{:08}", number % keys);
            let value = avro(&writer, &json!({"customer_id": customer, "amount": 1}));
            out.push(0, shop::now_ms(), Some(customer.as_bytes()), Some(&value), Vec::new());
        }
        world.write(&orders, &out);
    };
    (0..keys).step_by(50_000).for_each(|from| write(from, keys.min(from + 50_000)));
    let name = &world.name;
    let file = world.pipeline(&format!(
        "SET 'pipeline.name' = '{name}';
         CREATE STREAM orders WITH ('topic' = '{name}.orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');
         CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = '{name}.totals', 'format' = 'avro');
         INSERT INTO totals SELECT customer_id, COUNT(*) AS orders, SUM(amount) AS total FROM orders GROUP BY customer_id;"
    ));
    let site = world.site("live", "");
    let run = || site.start(&["run", file.to_str().unwrap()]);
    let began = Instant::now();
    let mut process = run();
    wait_until("the state is there", Duration::from_secs(300), || world.caught_up(&orders));
    eprintln!("{keys} keys: state built in {:.1?}", began.elapsed());
    std::thread::sleep(Duration::from_secs(5));
    for (at, what) in ["kill -9, restart on the same disk", "kill -9, restart on an empty disk"].into_iter().enumerate() {
        process.kill();
        if at == 1 {
            std::fs::remove_dir_all(world.path("state-live")).unwrap();
        }
        write(keys + at as i64, keys + at as i64 + 1);
        let (began, started) = (Instant::now(), chrono::Utc::now());
        process = run();
        wait_until("it goes on", Duration::from_secs(120), || world.caught_up(&orders));
        let took = began.elapsed();
        let (assigned, restored) = (said_at(&process, " assigned "), said_at(&process, " restored "));
        let line = process.said().lines().find(|line| line.contains(" restored ")).map(ToString::to_string);
        let ms = |span: chrono::TimeDelta| span.num_milliseconds();
        eprintln!(
            "{what}: processing again {took:.2?} after its start; {} ms until assigned, restored {} ms later\n  {}",
            ms(assigned - started.fixed_offset()),
            ms(restored - assigned),
            line.unwrap_or_default()
        );
    }
    assert_eq!(process.terminate(), 0);
}
