//! Three processes of one pipeline with a join and shuffles, killed, stopped, joined and frozen while producers write: what they published
//! equals the model and a backfill of the same range. `TEST_CREW=50,20,5,2` for a longer run: so many kills, stops, freezes past the
//! timeouts, and crashes of the broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tidemill::codec::partition::murmur2;
use tidemill::contract::{AvroSchema, SchemaId};
use tidemill::record::{Outgoing, Topic};

use crate::join;
use crate::pair::SHORT;
use crate::program::{Process, Site};
use crate::shop::{self, PARTITIONS, Shop, Writing};
use crate::world::{World, avro, seed, wait_until};

/// How often which disturbance has to have happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Quota {
    kills: usize,
    stops: usize,
    /// Past session and transaction.
    freezes: usize,
    broker: usize,
}

const QUOTA: Quota = Quota { kills: 8, stops: 4, freezes: 2, broker: 0 };

impl Quota {
    fn wanted() -> Quota {
        let Ok(text) = std::env::var("TEST_CREW") else { return QUOTA };
        let numbers: Vec<usize> = text.split(',').map(|n| n.parse().expect("TEST_CREW=kills,stops,freezes,broker")).collect();
        let [kills, stops, freezes, broker] = numbers[..] else { panic!("TEST_CREW=kills,stops,freezes,broker") };
        Quota { kills, stops, freezes, broker }
    }

    /// One that has not happened often enough.
    fn pick(&mut self, random: &mut StdRng) -> Option<Disturbance> {
        let left = [
            (Disturbance::Kill, &mut self.kills),
            (Disturbance::Stop, &mut self.stops),
            (Disturbance::Freeze, &mut self.freezes),
            (Disturbance::Broker, &mut self.broker),
        ];
        let all: usize = left.iter().map(|(_, count)| **count).sum();
        let mut at = if all == 0 { return None } else { random.random_range(0..all) };
        for (disturbance, count) in left {
            if at < *count {
                *count -= 1;
                return Some(disturbance);
            }
            at -= *count;
        }
        None
    }
}

#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Kill,
    /// Gone for a while: the others take over. It joins again later.
    Stop,
    Freeze,
    /// The broker dies and is started again.
    Broker,
}

const RATE: usize = 600;
const PROCESSES: usize = 3;

const CUSTOMER: &str = r#"{"type": "record", "name": "Customer", "namespace": "shop", "fields": [
  {"name": "customer_id", "type": "string"},
  {"name": "country", "type": "string"}
]}"#;

fn sql(name: &str) -> String {
    format!(
        "SET 'pipeline.name' = '{name}';

CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND,
  CONSTRAINT positive_amount CHECK (amount >= 0) ON VIOLATION DEAD LETTER
) WITH ('topic' = '{name}.orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE TABLE customers (PRIMARY KEY (customer_id))
  WITH ('topic' = '{name}.customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK enriched WITH ('topic' = '{name}.enriched', 'format' = 'avro');
CREATE SINK by_country (PRIMARY KEY (window_start, country)) WITH ('topic' = '{name}.by_country', 'format' = 'avro');
CREATE SINK by_amount (PRIMARY KEY (amount)) WITH ('topic' = '{name}.by_amount', 'format' = 'avro');

INSERT INTO enriched
SELECT o.order_id, o.amount, c.country
FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id;

INSERT INTO by_country
SELECT window_start, c.country, SUM(o.amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '10' SECOND)) AS o
JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id
GROUP BY window_start, window_end, c.country;

INSERT INTO by_amount SELECT amount, COUNT(*) AS orders FROM orders GROUP BY amount;
"
    )
}

const SINKS: [(&str, bool); 3] = [("enriched", false), ("by_country", true), ("by_amount", true)];

/// Changes of customers, written by the test itself.
struct Customers {
    topic: Topic,
    writer: (SchemaId, Arc<AvroSchema>),
}

impl Customers {
    fn write(&self, world: &World, random: &mut StdRng, changes: usize) {
        let mut out = Outgoing::default();
        for _ in 0..changes {
            let id = format!("c{}", random.random_range(0..40));
            let country = ["de", "fr", "us"][random.random_range(0..3)];
            let value = avro(&self.writer, &json!({"customer_id": id, "country": country}));
            let value = random.random_bool(0.9).then_some(value);
            // Event time as the orders have it: an hour ago.
            let at = shop::now_ms() - 3_600_000;
            out.push(murmur2(id.as_bytes(), PARTITIONS), at, Some(id.as_bytes()), value.as_deref(), Vec::new());
        }
        world.write(&self.topic, &out);
    }
}

/// A sink's rows as they fold: a multiset of an append sink, the last value per key of an upsert sink.
fn folded(world: &World, topic: &Topic, upsert: bool) -> BTreeMap<String, i64> {
    let mut schemas = BTreeMap::new();
    let mut table: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
    let mut rows: BTreeMap<String, i64> = BTreeMap::new();
    for row in world.read(topic) {
        let value = row.bytes.as_deref().map(|bytes| world.value(&mut schemas, bytes));
        match (upsert, value) {
            (false, Some(value)) => *rows.entry(value.to_string()).or_default() += 1,
            (false, None) => panic!("a tombstone in an append sink"),
            // Keys are Avro: the shadow's have another schema id.
            (true, Some(value)) => drop(table.insert(row.key.expect("a key")[5..].to_vec(), value)),
            (true, None) => drop(table.remove(&row.key.expect("a key")[5..])),
        }
    }
    table.into_values().for_each(|value| *rows.entry(value.to_string()).or_default() += 1);
    rows
}

/// `more` is added to every process's settings.
fn run(what: &str, more: &str) {
    let quota = Quota::wanted();
    let world = if quota.broker > 0 { World::own(what) } else { World::shared(what) };
    let Some(world) = world else { return };
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let orders = Shop::open(&world);
    let customers = world.create("customers", PARTITIONS, &[]);
    let customers = Customers { writer: world.register(&customers, CUSTOMER), topic: customers };
    let file = world.pipeline(&sql(&world.name));
    let shop = Shop { file, ..orders };
    customers.write(&world, &mut random, 200);
    let writing = Writing::start(&world, &shop, seed, RATE);
    let sites: Vec<Site> = (0..PROCESSES).map(|n| world.site(&format!("p{n}"), more)).collect();
    let start = |at: usize| Some(sites[at].start(&["run", shop.sql()]));
    let mut processes: Vec<Option<Process>> = (0..PROCESSES).map(start).collect();
    let group = world.group(1);
    wait_until("they commit", Duration::from_secs(90), || world.progress(&group, &shop.orders) > 0);
    let began = Instant::now();
    let mut left = quota;
    while let Some(disturbance) = left.pick(&mut random) {
        std::thread::sleep(Duration::from_millis(random.random_range(200..2_500)));
        customers.write(&world, &mut random, 5);
        for (at, process) in processes.iter_mut().enumerate() {
            let Some(running) = process else {
                // One that was stopped joins again sooner or later.
                *process = if random.random_bool(0.5) { start(at) } else { None };
                continue;
            };
            if !running.is_running() {
                // A machine too busy for its registry, or a broker that is not back yet: a start is refused then, and tried again.
                let said = running.said();
                assert!(said.contains("no answer") || said.contains("no broker"), "it ended by itself:\n{said}");
                *process = start(at);
            }
        }
        let at = random.random_range(0..PROCESSES);
        if let Disturbance::Broker = disturbance {
            world.broker.stop_broker();
            std::thread::sleep(Duration::from_millis(random.random_range(0..5_000)));
            world.broker.start_broker();
            continue;
        }
        let mut process = match processes[at].take() {
            Some(process) => process,
            None => start(at).expect("it is started"),
        };
        match disturbance {
            Disturbance::Kill | Disturbance::Broker => {
                process.kill();
                processes[at] = start(at);
            }
            Disturbance::Stop => {
                // One that has just been started takes no signals yet.
                process.wait_for("generation 1");
                assert_eq!(process.terminate(), 0, "SIGTERM ends with exit code 0");
            }
            Disturbance::Freeze => {
                process.signal("STOP");
                std::thread::sleep(Duration::from_millis(random.random_range(6_000..9_000)));
                process.signal("CONT");
                processes[at] = Some(process);
            }
        }
    }
    let written = writing.stop();
    for (at, process) in processes.iter_mut().enumerate() {
        if process.is_none() {
            *process = start(at);
        }
    }
    wait_until("they catch up", Duration::from_secs(180), || world.caught_up(&shop.orders) && world.caught_up(&customers.topic));
    for process in processes.iter_mut() {
        assert_eq!(process.take().expect("it runs").terminate(), 0);
    }
    sites[0].done(&["run", shop.sql(), "--until-caught-up"]);
    sites[1].done(&["backfill", shop.sql(), "--from", "earliest", "--to", "latest", "--job", "again"]);
    for (sink, upsert) in SINKS {
        let live = folded(&world, &world.topic(sink), upsert);
        let shadow = folded(&world, &Topic::new(format!("tidemill.{}.again.{sink}", world.name)), upsert);
        let only = |a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>| -> Vec<String> {
            a.iter().filter(|(row, n)| b.get(*row) != Some(n)).map(|(row, n)| format!("{row} x{n}")).take(5).collect()
        };
        assert!(!live.is_empty(), "nothing was written to {sink}");
        assert_eq!(live, shadow, "{sink}: only live {:?}, only in the backfill {:?}", only(&live, &shadow), only(&shadow, &live));
    }
    let model = join::model(&world, &shop, &customers.topic);
    for (sink, expected) in [("enriched", &model.enriched), ("by_country", &model.by_country), ("by_amount", &model.by_amount)] {
        let upsert = SINKS.iter().any(|(name, upsert)| *name == sink && *upsert);
        let actual = folded(&world, &world.topic(sink), upsert);
        let only = |a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>| -> Vec<String> {
            a.iter().filter(|(row, n)| b.get(*row) != Some(n)).map(|(row, n)| format!("{row} x{n}")).take(5).collect()
        };
        let (found, missed) = (only(&actual, expected), only(expected, &actual));
        assert!(found.is_empty() && missed.is_empty(), "{sink}: not in the model {found:?}, only in the model {missed:?}");
    }
    eprintln!(
        "{what}: {written} records, {quota:?} in {:.0?}; {} joined rows, {} windows, {} decisions",
        began.elapsed(),
        model.enriched.values().sum::<i64>(),
        model.by_country.len(),
        model.decisions
    );
}

#[test]
fn three_processes_with_a_join_and_shuffles_publish_what_a_backfill_does() {
    run("crew", SHORT);
}

#[test]
fn the_broker_s_group_protocol_does_as_well() {
    // The session is the broker's.
    run("crew848", "[commit]\ntransaction_timeout = \"5s\"\n[kafka.properties]\n\"group.protocol\" = \"consumer\"\n");
}
