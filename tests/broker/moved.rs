//! What a pipeline reads changes under it: its log begins later, has more partitions, is deleted; its offsets expire. It stops with the
//! numbers and the remedy, or goes on where nothing is lost; it never reads from a place that it guessed.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tidemill::record::{NextOffset, OffsetVector, Outgoing, Topic};

use crate::program::Process;
use crate::shop::{self, ORDER, Shop, Source};
use crate::world::{World, wait_until};

/// Changes of topics are seen at once.
const WATCHFUL: &str = "[kafka.properties]\n\"topic.metadata.refresh.interval.ms\" = \"500\"\n";

impl World {
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.broker.brokers).create().unwrap()
    }

    fn add_partitions(&self, topic: &Topic, count: usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let new = [NewPartitions::new(topic.as_str(), count)];
        let options = AdminOptions::new();
        runtime.block_on(async { self.admin().create_partitions(&new, &options).await }).unwrap()[0].as_ref().unwrap();
        wait_until("the partitions are there", Duration::from_secs(20), || self.partitions(topic).len() == count);
    }
}

/// Waits until it ends by itself, which must be a failure that says all this and a remedy.
#[track_caller]
fn fails(mut process: Process, limit: Duration, says: &[&str]) {
    wait_until("it ends by itself", limit, || !process.is_running());
    let said = process.said();
    for text in says.iter().chain(&["hint: "]) {
        assert!(said.contains(text), "\"{text}\" is not in:\n{said}");
    }
    assert_eq!(process.code(), 1, "{said}");
    eprintln!("stopped: {}", said.lines().rev().take(2).collect::<Vec<_>>().join(" <- "));
}

#[test]
fn the_log_begins_behind_the_position_of_a_running_process() {
    let Some(world) = World::shared("trimmed") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    let mut source = Source::new(1, shop.writer.clone());
    world.write(&shop.orders, &source.batch(1_000));
    let process = site.start(&["run", shop.sql()]);
    wait_until("it catches up", Duration::from_secs(60), || world.caught_up(&shop.orders));
    process.signal("STOP");
    // The fetch that was on its way may bring the first of them.
    for _ in 0..3 {
        world.write(&shop.orders, &source.batch(1_000));
        std::thread::sleep(Duration::from_millis(300));
    }
    let ends = world.ends(&shop.orders);
    world.log.delete_records(&ends).unwrap();
    process.signal("CONT");
    let (partition, end) = ends.first_key_value().unwrap();
    fails(process, Duration::from_secs(30), &[&partition.topic.to_string(), "below the log start", &end.to_string(), "reset"]);
    let again = site.run(&["run", shop.sql()]);
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("below the log start") && again.stderr.contains("hint: "), "{}", again.stderr);
}

#[test]
fn partitions_added_to_a_source_stop_what_has_state() {
    let Some(world) = World::shared("grown") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", WATCHFUL);
    let mut source = Source::new(1, shop.writer.clone());
    world.write(&shop.orders, &source.batch(3_000));
    let process = site.start(&["run", shop.sql()]);
    wait_until("it catches up", Duration::from_secs(60), || world.caught_up(&shop.orders));
    let (expected, stood) = (shop::expected(&world, &shop), world.progress(&world.group(1), &shop.orders));
    world.add_partitions(&shop.orders, shop::PARTITIONS as usize + 1);
    let says = [shop.orders.as_str(), "has 4 partitions now", "began with 3", "reset"];
    fails(process, Duration::from_secs(60), &says);
    assert_eq!(world.progress(&world.group(1), &shop.orders), stood, "it stands at its last commit");
    shop::assert_equal(&shop::actual(&world, None, 1), &expected);
    let again = site.run(&["run", shop.sql()]);
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("has 4 partitions") && again.stderr.contains("hint: "), "{}", again.stderr);
}

/// A pipeline without state.
fn copy(world: &World, orders: &Topic) -> String {
    let name = &world.name;
    let file = world.pipeline(&format!(
        "SET 'pipeline.name' = '{name}';
CREATE STREAM orders WITH ('topic' = '{orders}', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK copy WITH ('topic' = '{name}.copy', 'format' = 'avro');
INSERT INTO copy SELECT order_id, customer_id, amount FROM orders;
"
    ));
    file.to_str().unwrap().to_string()
}

/// Good orders for one partition.
fn good(source: &mut Source, partition: i32, count: usize) -> Outgoing {
    let mut out = source.good(count);
    out.partitions.iter_mut().for_each(|at| *at = partition);
    out
}

#[test]
fn partitions_added_to_a_source_are_taken_up_by_what_has_no_state() {
    let Some(world) = World::shared("wider") else { return };
    let orders = world.create("orders", 2, &[]);
    let mut source = Source::new(1, world.register(&orders, ORDER));
    let sql = copy(&world, &orders);
    let site = world.site("live", WATCHFUL);
    world.write(&orders, &good(&mut source, 1, 100));
    let process = site.start(&["run", &sql]);
    wait_until("it catches up", Duration::from_secs(60), || world.caught_up(&orders));
    world.add_partitions(&orders, 3);
    world.write(&orders, &good(&mut source, 2, 50));
    wait_until("the new partition is read", Duration::from_secs(60), || world.caught_up(&orders));
    assert_eq!(process.terminate(), 0);
    assert_eq!(world.read(&world.topic("copy")).len(), 150);
    world.write(&orders, &good(&mut source, 2, 50));
    site.done(&["run", &sql, "--until-caught-up"]);
    assert_eq!(world.read(&world.topic("copy")).len(), 200);
}

#[test]
fn a_topic_that_is_deleted_while_it_is_read() {
    let Some(world) = World::shared("deleted") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", WATCHFUL);
    let mut source = Source::new(1, shop.writer.clone());
    world.write(&shop.orders, &source.batch(1_000));
    let process = site.start(&["run", shop.sql()]);
    wait_until("it catches up", Duration::from_secs(60), || world.caught_up(&shop.orders));
    world.log.delete_topics(std::slice::from_ref(&shop.orders)).unwrap();
    fails(process, Duration::from_secs(60), &[shop.orders.as_str(), "was deleted", "reset"]);
    // One of the same name is another log, even when it is longer.
    world.create("orders", shop::PARTITIONS, &[]);
    world.write(&shop.orders, &source.batch(5_000));
    let again = site.run(&["run", shop.sql()]);
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("was deleted and created again since generation 1"), "{}", again.stderr);
    assert!(again.stderr.contains("hint: "), "{}", again.stderr);
}

#[test]
fn offsets_that_expired() {
    let Some(world) = World::shared("expired") else { return };
    // With state: they are in the last delta.
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    let mut source = Source::new(1, shop.writer.clone());
    world.write(&shop.orders, &source.batch(2_000));
    site.done(&["run", shop.sql(), "--until-caught-up"]);
    world.write(&shop.orders, &source.batch(2_000));
    world.log.delete_group(&world.group(1)).unwrap();
    site.done(&["run", shop.sql(), "--until-caught-up"]);
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));

    // Without: nobody knows them, and a beginning is not guessed.
    let Some(world) = World::shared("forgotten") else { return };
    let orders = world.create("orders", 2, &[]);
    let mut source = Source::new(1, world.register(&orders, ORDER));
    let sql = copy(&world, &orders);
    let site = world.site("live", "");
    world.write(&orders, &good(&mut source, 1, 100));
    site.done(&["run", &sql, "--until-caught-up"]);
    world.log.delete_group(&world.group(1)).unwrap();
    let again = site.run(&["run", &sql, "--until-caught-up"]);
    assert_eq!(again.code, 2, "{}", again.stderr);
    for text in [world.group(1).as_str(), orders.as_str(), "no committed offset any more", "from 0 to", "hint: "] {
        assert!(again.stderr.contains(text), "\"{text}\" is not in:\n{}", again.stderr);
    }
    assert_eq!(world.read(&world.topic("copy")).len(), 100, "nothing was read twice");
}

/// A partition that nothing was read from is no lost one, and a first start from the middle stays there.
#[test]
fn a_first_start_in_mid_log_goes_on_there() {
    let Some(world) = World::shared("middle") else { return };
    let orders = world.create("orders", 2, &[]);
    let mut source = Source::new(1, world.register(&orders, ORDER));
    let sql = copy(&world, &orders);
    let site = world.site("live", "");
    world.write(&orders, &good(&mut source, 1, 100));
    let from = format!("{orders}:0=0,{orders}:1=40");
    site.done(&["run", &sql, "--until-caught-up", "--from", &from]);
    site.done(&["run", &sql, "--until-caught-up"]);
    assert_eq!(world.read(&world.topic("copy")).len(), 60);
    let committed = world.log.committed(&world.group(1), &world.partitions(&orders)).unwrap();
    let next: OffsetVector = committed.into_iter().map(|(partition, at)| (partition, at.next)).collect();
    assert_eq!(next[&orders.partition(0)], NextOffset(0));
}

/// Shadows carry event time, which a retention of the broker's would take for age.
#[test]
fn shadow_topics_never_expire() {
    let Some(world) = World::shared("shadow") else { return };
    let shop = Shop::open(&world);
    let site = world.site("live", "");
    world.write(&shop.orders, &Source::new(1, shop.writer.clone()).batch(500));
    site.done(&["backfill", shop.sql(), "--from", "earliest", "--to", "latest", "--job", "b"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for sink in ["sold", "revenue", "totals"] {
        let topic = format!("tidemill.{}.b.{sink}", world.name);
        let place = [rdkafka::admin::ResourceSpecifier::Topic(&topic)];
        let options = AdminOptions::new();
        let config = runtime.block_on(async { world.admin().describe_configs(&place, &options).await }).unwrap();
        let value = |name| config[0].as_ref().unwrap().get(name).and_then(|entry| entry.value.clone()).unwrap_or_default();
        assert_eq!((value("retention.ms").as_str(), value("retention.bytes").as_str()), ("-1", "-1"), "{topic}");
        assert_eq!(value("message.timestamp.after.max.ms"), i64::MAX.to_string(), "{topic}");
    }
}
