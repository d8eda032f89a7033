//! A stream that is ahead of its table: its rows wait on disk, and are released as they would be from memory.
//!
//! `cargo test --release --test backlog -- --ignored --nocapture` measures 1,000,000 rows (`TEST_ROWS` for another number).

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tidemill::cli::test::world::{Tables, World};
use tidemill::codec::json::to_avro;
use tidemill::codec::wire::frame;
use tidemill::contract::{AvroSchema, MemoryRegistry, Pinned, SchemaId, Strategy};
use tidemill::job::live;
use tidemill::record::Topic;
use tidemill::store::memory::{self, Memory};
use tidemill::task::core::Cadence;
use tidemill::task::restorer::Restoring;
use tidemill::task::run::{Progress, Step, Worker};
use tidemill::topology::{self, Options, SqlFile, Topology};

const ORDER: &str = r#"{"type":"record","name":"Order","fields":[{"name":"customer","type":"string"},{"name":"amount","type":"long"},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;
const CUSTOMER: &str =
    r#"{"type":"record","name":"Customer","fields":[{"name":"customer","type":"string"},{"name":"country","type":"string"}]}"#;
const JOINED: &str = "SET 'pipeline.name' = 'joined';
CREATE STREAM orders (WATERMARK FOR at AS at - INTERVAL '5' SECOND)
  WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer');
CREATE TABLE customers (PRIMARY KEY (customer)) WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');
CREATE SINK by_country (PRIMARY KEY (country)) WITH ('topic' = 'by_country', 'format' = 'avro');
INSERT INTO by_country SELECT c.country, COUNT(*) AS orders, SUM(o.amount) AS total, LAST_VALUE(o.amount) AS last
FROM orders AS o JOIN customers FOR SYSTEM_TIME AS OF o.at AS c ON o.customer = c.customer GROUP BY c.country;";

const CUSTOMERS: i64 = 1_000;

struct Shop {
    world: World,
    topology: Topology,
    order: AvroSchema,
    customer: AvroSchema,
}

impl Shop {
    fn open(memory: Memory) -> Shop {
        let (order, customer) = (AvroSchema::parse(ORDER).expect("a schema"), AvroSchema::parse(CUSTOMER).expect("a schema"));
        let registry = MemoryRegistry::new();
        registry.register_as("orders-value", SchemaId(11), order.clone()).expect("it is registered");
        registry.register_as("customers-value", SchemaId(12), customer.clone()).expect("it is registered");
        let mut world = World::with(registry.clone(), [&Topic::new("orders"), &Topic::new("customers")], 1).expect("a world");
        world.site.settings.restoring = Restoring::Threads;
        world.site.settings.max_poll_records = 5_000;
        world.site.settings.memory = memory;
        let file = SqlFile { name: "joined.sql".into(), text: JOINED.into() };
        let pinned = Pinned::new(None, &registry, Strategy::TopicName);
        let topology = topology::compile(&file, &pinned, &Options::default()).expect("it compiles");
        Shop { world, topology, order, customer }
    }

    fn worker(&self) -> Worker {
        let mut run = live::prepare(&self.world.site, &self.topology, None, false).expect("a live run").run;
        // The table has no more to tell for now, and is not at its end.
        run.raise_tables = false;
        run.cadence = Cadence { max_records: 20_000, ..Cadence::live(5) };
        Worker::open(Arc::new(self.world.log.clone()), Arc::new(self.world.registry.clone()), run).expect("the worker starts")
    }

    fn append(&self, topic: &str, id: u32, schema: &AvroSchema, at: i64, customer: i64, value: &serde_json::Value) {
        let mut bytes = frame(SchemaId(id)).to_vec();
        bytes.extend(to_avro(schema, value).expect("a value"));
        let key = format!("c{customer}");
        self.world.log.append(&Topic::new(topic), 0, at, Some(key.as_bytes()), Some(&bytes), Vec::new()).expect("a record");
    }

    fn orders(&self, count: i64) {
        for number in 0..count {
            let (customer, at) = (number * 7 % CUSTOMERS, 100_000 + number * 10 + number * 31 % 3_000);
            let order = json!({"customer": format!("c{customer}"), "amount": number, "at": at});
            self.append("orders", 11, &self.order, at, customer, &order);
        }
    }

    /// All customers, from `at` on.
    fn customers(&self, at: i64, country: impl Fn(i64) -> String) {
        for customer in 0..CUSTOMERS {
            let value = json!({"customer": format!("c{customer}"), "country": country(customer)});
            self.append("customers", 12, &self.customer, at, customer, &value);
        }
    }
}

/// The largest amounts seen.
#[derive(Default)]
struct Most {
    state_bytes: usize,
    spilled_keys: usize,
    resident: usize,
}

/// Steps until the log brings nothing more.
fn settle(worker: &mut Worker, most: &mut Most) -> Progress {
    let mut idle = 0;
    while idle < 20 || !worker.progress.lock().expect("no panic").ready {
        idle = if worker.step(Duration::from_millis(1)).expect("a step") == Step::Idle { idle + 1 } else { 0 };
        let progress = worker.progress.lock().expect("no panic").clone();
        most.state_bytes = most.state_bytes.max(progress.state_bytes);
        most.spilled_keys = most.spilled_keys.max(progress.spilled_keys);
        most.resident = most.resident.max(memory::resident_bytes().unwrap_or_default());
    }
    worker.progress.lock().expect("no panic").clone()
}

/// A backlog of orders behind a table that stands still, then moves on in steps; half of the orders are there when the worker is killed.
fn backlog(orders: i64, memory: Memory) -> (Tables, Most, u64) {
    let shop = Shop::open(memory);
    let mut most = Most::default();
    shop.customers(50_000, |customer| format!("old-{}", customer % 5));
    shop.orders(orders);
    let mut worker = shop.worker();
    let began = Instant::now();
    let waiting = settle(&mut worker, &mut most);
    assert!(waiting.state_keys as i64 >= orders, "they wait: {}", waiting.state_keys);
    eprintln!("{orders} rows wait after {:.2?}, {} MB resident", began.elapsed(), most.resident >> 20);
    drop(worker);
    let mut worker = shop.worker();
    let began = Instant::now();
    settle(&mut worker, &mut most);
    eprintln!("restored after {:.2?}, {} MB resident", began.elapsed(), most.resident >> 20);
    let began = Instant::now();
    for step in 1..=4 {
        shop.customers(100_000 + orders * 10 * step / 4, |customer| format!("{step}-{}", customer % 3));
        settle(&mut worker, &mut most);
    }
    shop.customers(200_000 + orders * 10, |_| "none".to_string());
    let done = settle(&mut worker, &mut most);
    eprintln!("released after {:.2?}, {} MB resident", began.elapsed(), most.resident >> 20);
    // Those of the last seconds wait for their own stream.
    assert!(done.state_keys < 20_000, "{}", done.state_keys);
    drop(worker);
    let tables = shop.world.tables(&shop.topology, &[Topic::new("by_country")], 1).expect("the sink is read");
    (tables, most, shop.world.site.settings.memory.spills().waiting())
}

#[test]
fn a_backlog_that_waits_for_its_table_goes_to_disk_and_comes_back_in_order() {
    let orders = 40_000;
    let (expected, plenty, none) = backlog(orders, Memory::of(8 << 30));
    let (tables, small, spilled) = backlog(orders, Memory::of(3 << 20));
    assert_eq!((none, plenty.spilled_keys), (0, 0));
    assert!(spilled >= orders as u64, "{spilled} rows went to disk");
    assert!(small.spilled_keys as i64 >= orders / 2, "{} were there at once", small.spilled_keys);
    assert!(small.state_bytes < plenty.state_bytes / 4, "{} bytes, of {} with plenty", small.state_bytes, plenty.state_bytes);
    assert_eq!(tables.sinks["by_country"].len(), 5 + 3 * 3);
    assert_eq!(tables, expected);
}

#[test]
#[ignore = "a measurement: build it optimised"]
fn a_large_backlog() {
    let orders = std::env::var("TEST_ROWS").map_or(1_000_000, |text| text.parse().expect("a number of rows"));
    let megabytes: usize = std::env::var("TEST_BUDGET_MB").map_or(300, |text| text.parse().expect("a number of megabytes"));
    let (_, most, spilled) = backlog(orders, Memory::of(megabytes << 20));
    let megabytes = |bytes: usize| bytes >> 20;
    eprintln!(
        "{spilled} rows went to disk, {} at once; state at most {} MB in memory, process {} MB",
        most.spilled_keys,
        megabytes(most.state_bytes),
        megabytes(most.resident)
    );
}
