//! `tidemill demo`: a small shop on the embedded log. Live with two kills, then a backfill; prints that the tables are equal.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::cli::test::compare;
use crate::cli::test::world::{Tables, World};
use crate::cli::{Context, Format};
use crate::codec::json::to_avro;
use crate::codec::partition::murmur2;
use crate::codec::wire::frame;
use crate::contract::lock::Pinned;
use crate::contract::registry::MemoryRegistry;
use crate::contract::subject::Strategy;
use crate::contract::{AvroSchema, Registry};
use crate::error::Result;
use crate::job::backfill::{self, Output, Request};
use crate::job::bounds::Bound;
use crate::job::live;
use crate::record::Topic;
use crate::task::core::Cadence;
use crate::task::run::{Run, Step, Worker};
use crate::topology::{self, Options, SqlFile, Topology};

/// Runs a small shop on the embedded log: live with kills, then a backfill, and compares. Needs nothing but this binary.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Orders to make.
    #[arg(long, default_value_t = 20_000)]
    orders: u32,
    /// Seed of the shop's orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

const PARTITIONS: i32 = 3;
const CUSTOMERS: [&str; 8] = ["ada", "barbara", "donald", "edsger", "grace", "john", "leslie", "niklaus"];

const CONTRACT: &str = r#"{"type": "record", "name": "Order", "fields": [
  {"name": "order_id", "type": "long"},
  {"name": "customer_id", "type": "string"},
  {"name": "amount", "type": "double"},
  {"name": "quantity", "type": "int"},
  {"name": "ordered_at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}"#;

const SQL: &str = "SET 'pipeline.name' = 'shop';

CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND,
  CONSTRAINT positive_amount CHECK (amount >= 0) ON VIOLATION DEAD LETTER
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE SINK revenue_by_minute (PRIMARY KEY (window_start, customer_id)) WITH ('topic' = 'revenue_by_minute', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = 'totals', 'format' = 'avro', 'key.format' = 'string');

INSERT INTO revenue_by_minute
SELECT window_start, customer_id, SUM(amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, customer_id;

INSERT INTO totals
SELECT customer_id, SUM(amount) AS revenue, COUNT(*) AS orders, MAX(quantity) AS largest
FROM orders GROUP BY customer_id;
";

/// One record of the shop.
struct Order {
    partition: i32,
    timestamp: i64,
    key: &'static str,
    value: Vec<u8>,
}

pub fn run(args: &Args, _context: &Context) -> Result<ExitCode> {
    let began = Instant::now();
    let text = args.output == Format::Text;
    let say = |line: &str| {
        if text {
            println!("{line}");
        }
    };
    let registry = MemoryRegistry::new();
    let contract = AvroSchema::parse(CONTRACT)?;
    let id = registry.register("orders-value", &contract)?.id;
    let file = SqlFile { name: "demo.sql".into(), text: SQL.into() };
    let topology = topology::compile(&file, &Pinned::new(None, &registry, Strategy::TopicName), &Options::default())?;
    let orders = shop(args, &contract, &frame(id))?;
    let world = World::with(registry, [&Topic::new("orders")], PARTITIONS)?;

    say("the pipeline:\n");
    SQL.lines().for_each(|line| say(&format!("  {line}")));
    say(&format!("\n1. live: {} orders arrive (some late, some bad); the process is killed twice and restarted", orders.len()));
    let live_topics: Vec<Topic> = topology.sinks.iter().map(|sink| sink.topic.clone()).collect();
    live(&world, &topology, &orders)?;
    let live = world.tables(&topology, &live_topics, 1)?;

    say("\n2. backfill: the same range of the log, through the same code, into shadow topics");
    let (generation, shadows) = backfilled(&world, &topology)?;
    let replayed = world.tables(&topology, &shadows, generation)?;

    let differences = compare::between(&live, &replayed);
    let equal = differences.is_empty();
    if text {
        show(&live, &topology);
        println!("\nlive (killed twice):  {}", summary(&live));
        println!("backfill:             {}", summary(&replayed));
        match equal {
            true => println!("\nthe tables are equal ({:.1} s)", began.elapsed().as_secs_f64()),
            false => {
                println!("\nTHE TABLES DIFFER in {} rows:", differences.len());
                differences.iter().take(20).for_each(|line| println!("  {line}"));
            }
        }
    } else {
        let report = json!({
            "orders": orders.len(), "equal": equal, "differences": differences, "seconds": began.elapsed().as_secs_f64(),
            "tables": live.sinks, "dead_letters": live.dead.len(), "late": live.late.len(),
        });
        println!("{report}");
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// Orders of 40 minutes, in the order in which they arrive.
fn shop(args: &Args, contract: &AvroSchema, frame: &[u8]) -> Result<Vec<Order>> {
    let mut rng = StdRng::seed_from_u64(args.seed);
    let start = 1_767_225_600_000i64; // 2026-01-01T00:00:00Z
    let step = 40 * 60_000 / i64::from(args.orders.max(1));
    let mut orders = Vec::new();
    for number in 0..args.orders {
        let now = start + i64::from(number) * step;
        let disorder = rng.random_range(0..3_000);
        // One in two hundred comes minutes late; one in three hundred has a negative amount; one in five hundred is no Avro at all.
        let late = if rng.random_ratio(1, 200) { rng.random_range(60_000..240_000) } else { 0 };
        let cents = rng.random_range(100..20_000);
        let amount = f64::from(if rng.random_ratio(1, 300) { -cents } else { cents }) / 100.0;
        let customer = CUSTOMERS[rng.random_range(0..CUSTOMERS.len())];
        let ordered_at = now - disorder - late;
        let order = json!({"order_id": number, "customer_id": customer, "amount": amount,
            "quantity": rng.random_range(1..10), "ordered_at": ordered_at});
        let mut value = frame.to_vec();
        value.extend(to_avro(contract, &order)?);
        if rng.random_ratio(1, 500) {
            value.truncate(rng.random_range(0..9));
        }
        orders.push(Order { partition: murmur2(customer.as_bytes(), PARTITIONS), timestamp: now, key: customer, value });
    }
    Ok(orders)
}

fn live(world: &World, topology: &Topology, orders: &[Order]) -> Result<()> {
    let topic = Topic::new("orders");
    let bar = Bar::new(orders.len() as u64, "orders");
    let kills = [orders.len() * 2 / 5, orders.len() * 7 / 10];
    let mut worker = open(world, live_run(world, topology, false)?)?;
    for (at, order) in orders.iter().enumerate() {
        world.log.append(&topic, order.partition, order.timestamp, Some(order.key.as_bytes()), Some(&order.value), Vec::new())?;
        if at % 100 == 0 {
            worker.step(Duration::from_millis(1))?;
            bar.at(at as u64);
        }
        if kills.contains(&at) {
            // Dropped with an open transaction, like a process killed with -9.
            drop(worker);
            bar.say(&format!("   killed at order {at} with an open transaction, restarted"));
            worker = open(world, live_run(world, topology, false)?)?;
        }
    }
    drop(worker);
    let mut run = live_run(world, topology, true)?;
    run.finish = true;
    let mut worker = open(world, run)?;
    while worker.step(Duration::from_millis(1))? != Step::Left {}
    bar.end(orders.len() as u64);
    Ok(())
}

fn live_run(world: &World, topology: &Topology, to_the_end: bool) -> Result<Run> {
    let mut run = live::prepare(&world.site, topology, None, to_the_end)?.run;
    run.cadence = Cadence { max_records: 500, ..Cadence::live(20) };
    Ok(run)
}

fn backfilled(world: &World, topology: &Topology) -> Result<(u32, Vec<Topic>)> {
    let request = Request {
        from: Bound::Earliest,
        to: Bound::Latest,
        job: Some("replay".into()),
        output: Output::Shadow,
        latest_versions: false,
        finish: true,
        then_live: false,
    };
    let (planned, run) = backfill::prepare(&world.site, topology, &request)?;
    let bar = Bar::new(planned.records, "orders");
    let mut worker = open(world, run)?;
    while worker.step(Duration::from_millis(1))? != Step::Left {
        bar.at(worker.progress.lock().map_or(0, |progress| progress.records_in));
    }
    bar.end(planned.records);
    backfill::finish(&world.site, topology, &planned)?;
    Ok((planned.generation, planned.outputs.into_iter().map(|(_, topic)| topic).collect()))
}

fn open(world: &World, run: Run) -> Result<Worker> {
    Worker::open(Arc::new(world.log.clone()), Arc::new(world.registry.clone()), run)
}

fn summary(tables: &Tables) -> String {
    let sinks: Vec<String> = tables.sinks.iter().map(|(sink, rows)| format!("{sink} {} rows", rows.len())).collect();
    let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
    for letter in &tables.dead {
        *classes.entry(letter.class.as_deref().unwrap_or("?")).or_default() += 1;
    }
    let dead: Vec<String> = classes.iter().map(|(class, count)| format!("{count} {class}")).collect();
    format!("{}, {} late, {} dead letters ({})", sinks.join(", "), tables.late.len(), tables.dead.len(), dead.join(", "))
}

fn show(tables: &Tables, topology: &Topology) {
    for sink in &topology.sinks {
        let rows = &tables.sinks[&sink.name];
        let columns: Vec<&str> = sink.schema.fields().iter().map(|field| field.name().as_str()).collect();
        println!("\n{} ({} rows{})", sink.name, rows.len(), if rows.len() > 8 { ", the first 8" } else { "" });
        println!("  {}", columns.iter().map(|name| format!("{name:<26}")).collect::<String>().trim_end());
        for row in rows.iter().take(8) {
            let cell = |name: &&str| match &row[*name] {
                Value::String(text) => format!("{text:<26}"),
                Value::Number(number) => match number.as_f64().filter(|_| !number.is_i64()) {
                    Some(double) => format!("{double:<26.2}"),
                    None => format!("{number:<26}"),
                },
                other => format!("{other:<26}"),
            };
            println!("  {}", columns.iter().map(cell).collect::<String>().trim_end());
        }
    }
}

/// Progress on a terminal as a bar, elsewhere as nothing but its end.
struct Bar {
    bar: ProgressBar,
    began: Instant,
    what: &'static str,
}

impl Bar {
    fn new(len: u64, what: &'static str) -> Bar {
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new(len),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("   {bar:40} {percent:>3} % {pos} {msg} {per_sec}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        Bar { bar, began: Instant::now(), what }
    }

    fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    fn say(&self, line: &str) {
        match self.bar.is_hidden() {
            true => eprintln!("{line}"),
            false => self.bar.println(line),
        }
    }

    fn end(&self, len: u64) {
        self.bar.finish_and_clear();
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        eprintln!("   100 %  {len} {} in {seconds:.1} s, {:.0} a second", self.what, len as f64 / seconds);
    }
}
