//! Orders, a pipeline over them, and a model of what it must yield: written from the rules, without the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tidemill::codec::partition::murmur2;
use tidemill::contract::{AvroSchema, Registry, SchemaId, WriterId};
use tidemill::log::{CommittedOffsets, Producer, ProducerSettings};
use tidemill::record::{Outgoing, Topic};

use crate::world::{Row, World, avro};

pub const PARTITIONS: i32 = 3;
const WINDOW_MS: i64 = 10_000;
const DELAY_MS: i64 = 5_000;
/// Rows of this amount are filtered out of the append sink.
pub const HIDDEN: i64 = 13;

pub const ORDER: &str = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "order_id", "type": "long"},
  {"name": "customer_id", "type": "string"},
  {"name": "amount", "type": "long"},
  {"name": "ordered_at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
]}"#;

/// The pipeline: an append sink, closed windows, totals that update.
pub fn sql(name: &str) -> String {
    format!(
        "SET 'pipeline.name' = '{name}';

CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND,
  CONSTRAINT positive_amount CHECK (amount >= 0) ON VIOLATION DEAD LETTER
) WITH ('topic' = '{name}.orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK sold WITH ('topic' = '{name}.sold', 'format' = 'avro');
CREATE SINK revenue (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = '{name}.revenue', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = '{name}.totals', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO sold SELECT order_id, customer_id, amount FROM orders WHERE amount <> {HIDDEN};

INSERT INTO revenue
SELECT window_start, window_end, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '10' SECOND))
GROUP BY window_start, window_end, customer_id;

INSERT INTO totals
SELECT customer_id, SUM(amount) AS total, COUNT(*) AS orders
FROM orders
GROUP BY customer_id;
"
    )
}

/// Topic of orders, its schema, the pipeline's file.
pub struct Shop {
    pub orders: Topic,
    pub writer: (SchemaId, Arc<AvroSchema>),
    pub file: PathBuf,
}

impl Shop {
    pub fn open(world: &World) -> Shop {
        let orders = world.create("orders", PARTITIONS, &[]);
        let writer = world.register(&orders, ORDER);
        Shop { orders, writer, file: world.pipeline(&sql(&world.name)) }
    }

    pub fn sql(&self) -> &str {
        self.file.to_str().unwrap()
    }
}

/// Event times are near the clock's, else a broker's retention would take the records away.
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Makes orders: event time runs 20 ms a record and partition; 1 % are out of order within the delay, some late, some bad.
pub struct Source {
    random: StdRng,
    writer: (SchemaId, Arc<AvroSchema>),
    next: i64,
    time: [i64; PARTITIONS as usize],
}

impl Source {
    pub fn new(seed: u64, writer: (SchemaId, Arc<AvroSchema>)) -> Source {
        Source { random: StdRng::seed_from_u64(seed), writer, next: 0, time: [now_ms() - 3_600_000; PARTITIONS as usize] }
    }

    pub fn push(&mut self, out: &mut Outgoing) {
        let customer = format!("c{}", self.random.random_range(0..40));
        let partition = murmur2(customer.as_bytes(), PARTITIONS);
        let time = &mut self.time[partition as usize];
        *time += 20;
        let dice = self.random.random_range(0..1_000);
        // About 0.4 % are bad: the budget is 1 % of the last 10,000.
        let at = match dice {
            0..10 => *time - self.random.random_range(0..DELAY_MS),
            10..20 => *time - self.random.random_range(WINDOW_MS..10 * WINDOW_MS),
            _ => *time,
        };
        let amount = match dice {
            20..22 => -1,
            _ => self.random.random_range(1..100),
        };
        let order = json!({"order_id": self.next, "customer_id": customer, "amount": amount, "ordered_at": at});
        self.next += 1;
        let mut bytes = avro(&self.writer, &order);
        match dice {
            22 => bytes.truncate(bytes.len() - 3),
            23 => bytes = b"no avro at all".to_vec(),
            _ => {}
        }
        out.push(partition, *time, Some(customer.as_bytes()), Some(&bytes), Vec::new());
    }

    pub fn batch(&mut self, records: usize) -> Outgoing {
        let mut out = Outgoing::default();
        (0..records).for_each(|_| self.push(&mut out));
        out
    }
}

impl Source {
    /// Orders that nothing is wrong with.
    pub fn good(&mut self, records: usize) -> Outgoing {
        let mut out = Outgoing::default();
        for _ in 0..records {
            let order = json!({"order_id": self.next, "customer_id": "c1", "amount": 1, "ordered_at": now_ms()});
            self.next += 1;
            out.push(0, now_ms(), Some(b"c1"), Some(&avro(&self.writer, &order)), Vec::new());
        }
        out
    }
}

/// Keeps writing on a thread of its own until it is told to stop.
pub struct Writing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<i64>>,
}

impl Writing {
    /// About `rate` records a second. A broker that is away is waited for.
    pub fn start(world: &World, shop: &Shop, seed: u64, rate: usize) -> Writing {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, topic) = (stop.clone(), shop.orders.clone());
        let mut source = Source::new(seed, shop.writer.clone());
        let mut producer: Box<dyn Producer> = world.plain_producer();
        let log = world.log.clone();
        let thread = std::thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                let batch = source.batch(rate / 50);
                let sent = (|| {
                    producer.begin()?;
                    producer.send(&topic, &batch)?;
                    producer.commit(&CommittedOffsets::new(), None)
                })();
                if let Err(error) = sent {
                    // What was written of the batch stays: the input is what is in the topic.
                    eprintln!("the writer opens its producer again: {error}");
                    while !asked.load(Ordering::Relaxed) {
                        let settings = ProducerSettings { transactional_id: None, transaction_timeout: Duration::from_secs(15) };
                        match log.producer(&settings) {
                            Ok(new) => {
                                producer = new;
                                break;
                            }
                            Err(_) => std::thread::sleep(Duration::from_millis(200)),
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            source.next
        });
        Writing { stop, thread: Some(thread) }
    }

    /// Stops it; returns how many records it tried to write.
    pub fn stop(mut self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

type Order = (i64, String, i64);

/// What the pipeline yields, each as it is compared.
#[derive(Debug, Default, PartialEq)]
pub struct Tables {
    /// Multiset of the append sink's rows.
    pub sold: BTreeMap<Order, usize>,
    /// Every record of a window and key: there is one.
    pub revenue: BTreeMap<(i64, String), Vec<(i64, i64)>>,
    /// Last value per key.
    pub totals: BTreeMap<String, (i64, i64)>,
    /// Source partition and offset of each letter; one of each.
    pub dead: Vec<(i64, i64)>,
    pub late: Vec<(i64, i64)>,
}

/// The model: what is in the topic, record by record.
pub fn expected(world: &World, shop: &Shop) -> Tables {
    expected_where(world, shop, |_, amount| amount != HIDDEN)
}

/// The same with another filter of the append sink, by a row's partition and offset, and amount.
pub fn expected_where(world: &World, shop: &Shop, sells: impl Fn((i64, i64), i64) -> bool) -> Tables {
    let mut tables = Tables::default();
    let mut watermarks: BTreeMap<i32, i64> = BTreeMap::new();
    let mut windows: BTreeMap<(i64, String), (i32, i64, i64)> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut schemas = BTreeMap::new();
    for row in world.read(&shop.orders) {
        let place = (i64::from(row.partition), row.offset);
        let bytes = row.bytes.as_deref().unwrap();
        let Some((order_id, customer, amount, at)) = decode(world, &mut schemas, bytes) else {
            tables.dead.push(place);
            continue;
        };
        if amount < 0 {
            tables.dead.push(place);
            continue;
        }
        ids.insert(order_id);
        if sells(place, amount) {
            *tables.sold.entry((order_id, customer.clone(), amount)).or_default() += 1;
        }
        let total = tables.totals.entry(customer.clone()).or_default();
        *total = (total.0 + amount, total.1 + 1);
        let watermark = watermarks.entry(row.partition).or_insert(i64::MIN);
        let start = at.div_euclid(WINDOW_MS) * WINDOW_MS;
        if start + WINDOW_MS <= *watermark {
            tables.late.push(place);
        } else {
            let window = windows.entry((start, customer)).or_insert((row.partition, 0, 0));
            *window = (row.partition, window.1 + amount, window.2 + 1);
        }
        *watermark = (*watermark).max(at - DELAY_MS);
    }
    for ((start, customer), (partition, revenue, orders)) in windows {
        if start + WINDOW_MS <= watermarks[&partition] {
            tables.revenue.insert((start, customer), vec![(revenue, orders)]);
        }
    }
    tables.dead.sort();
    tables.late.sort();
    tables
}

pub fn decode(world: &World, schemas: &mut BTreeMap<WriterId, Arc<AvroSchema>>, bytes: &[u8]) -> Option<(i64, String, i64, i64)> {
    let (id, body) = tidemill::codec::wire::unframe(bytes).ok()?;
    let schema = schemas.entry(id).or_insert_with(|| world.registry.schema(id).unwrap().unwrap());
    let order = tidemill::codec::json::from_avro(schema, body).ok()?;
    Some((number(&order["order_id"]), text(&order["customer_id"]), number(&order["amount"]), millis(&order["ordered_at"])))
}

/// What a `read_committed` reader sees of generation `generation`, in the live sinks or in a job's shadows.
pub fn actual(world: &World, job: Option<&str>, generation: i64) -> Tables {
    let topic = |sink: &str| match job {
        None => world.topic(sink),
        Some(job) => Topic::new(format!("tidemill.{}.{job}.{sink}", world.name)),
    };
    actual_of(world, &world.name, |sink| vec![topic(sink)], generation)
}

/// The same of any pipeline, whose sinks' rows may be in several topics, one after the other.
pub fn actual_of(world: &World, pipeline: &str, topics: impl Fn(&str) -> Vec<Topic>, generation: i64) -> Tables {
    let read = |sink: &str| topics(sink).iter().flat_map(|topic| world.read_if_there(topic)).collect::<Vec<Row>>();
    let mut schemas = BTreeMap::new();
    let mut tables = Tables::default();
    for row in read("sold") {
        let value = world.value(&mut schemas, row.bytes.as_deref().unwrap());
        let order = (number(&value["order_id"]), text(&value["customer_id"]), number(&value["amount"]));
        *tables.sold.entry(order).or_default() += 1;
    }
    for row in read("revenue") {
        let value = world.value(&mut schemas, row.bytes.as_deref().expect("no window is withdrawn"));
        let key = (millis(&value["window_start"]), text(&value["customer_id"]));
        tables.revenue.entry(key).or_default().push((number(&value["revenue"]), number(&value["orders"])));
    }
    for row in read("totals") {
        let value = world.value(&mut schemas, row.bytes.as_deref().expect("no total is withdrawn"));
        assert_eq!(row.key_text(), text(&value["customer_id"]), "key and value");
        tables.totals.insert(row.key_text(), (number(&value["total"]), number(&value["orders"])));
    }
    let letters = |what: &str| {
        let topic = Topic::new(format!("tidemill.{pipeline}.{what}"));
        let of_generation = |row: &Row| row.number("tidemill.generation") == generation;
        let place = |row: &Row| (row.number("tidemill.partition"), row.number("tidemill.offset"));
        let mut places: Vec<(i64, i64)> =
            world.read_if_there(&topic).iter().filter(|row| of_generation(row)).map(place).collect();
        places.sort();
        places
    };
    (tables.dead, tables.late) = (letters("dead"), letters("late"));
    tables
}

/// Compares table by table, and says where the first differences are.
#[track_caller]
pub fn assert_equal(actual: &Tables, expected: &Tables) {
    differences("sold", &actual.sold, &expected.sold);
    differences("revenue", &actual.revenue, &expected.revenue);
    differences("totals", &actual.totals, &expected.totals);
    let counted = |places: &[(i64, i64)]| {
        let mut counts = BTreeMap::new();
        places.iter().for_each(|place| *counts.entry(*place).or_insert(0) += 1);
        counts
    };
    differences("dead letters", &counted(&actual.dead), &counted(&expected.dead));
    differences("late rows", &counted(&actual.late), &counted(&expected.late));
}

#[track_caller]
pub fn differences<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    table: &str,
    actual: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) {
    let keys: BTreeSet<&K> = actual.keys().chain(expected.keys()).collect();
    let differ: Vec<&&K> = keys.iter().filter(|key| actual.get(**key) != expected.get(**key)).collect();
    if !differ.is_empty() {
        for key in differ.iter().take(10) {
            eprintln!("{table} {key:?}: found {:?}, expected {:?}", actual.get(**key), expected.get(**key));
        }
        let (found, wanted) = (actual.len(), expected.len());
        panic!(
            "{table}: {} of {} entries differ (found {found}, expected {wanted}), the first are above",
            differ.len(),
            keys.len()
        );
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_string()
}

pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// An instant as `json` shows it.
pub fn millis(value: &Value) -> i64 {
    match value.as_str() {
        Some(text) => chrono::DateTime::parse_from_rfc3339(text).unwrap_or_else(|e| panic!("{text}: {e}")).timestamp_millis(),
        None => number(value),
    }
}
