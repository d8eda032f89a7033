//! `tidemill sample load`: orders of a small shop, for the tutorial and the example pipelines.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::context::Context;
use super::report::Exit;
use super::show::line;
use crate::codec::json::to_avro;
use crate::codec::partition::murmur2;
use crate::codec::wire;
use crate::contract::AvroSchema;
use crate::error::{Error, Result};
use crate::log::{CommittedOffsets, NewTopic, ProducerSettings};
use crate::record::{Outgoing, Topic};

const CONTRACT: &str = include_str!("../../config/pipelines/contracts/orders-value.avsc");
const CUSTOMERS: [(&str, &str); 8] = [
    ("ada", "GB"),
    ("barbara", "US"),
    ("donald", "US"),
    ("edsger", "NL"),
    ("grace", "US"),
    ("john", "HU"),
    ("leslie", "US"),
    ("niklaus", "CH"),
];
const PRODUCTS: [&str; 5] = ["flour", "bread", "rolls", "bran", "semolina"];
const BATCH: usize = 5_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write orders to a topic, which is created if it is missing
    Load(Load),
}

#[derive(Debug, clap::Args)]
pub struct Load {
    #[arg(long, default_value = "orders")]
    pub topic: String,
    #[arg(long, default_value_t = 10_000)]
    pub count: u64,
    /// Of a topic that has to be created
    #[arg(long, default_value_t = 3)]
    pub partitions: i32,
    /// Orders per second; 0: as fast as it goes, with order times spread over the last hour
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// So many customers, in turn, instead of the shop's eight: for state of any size
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub customers: Option<u64>,
    /// Of the random choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let Command::Load(load) = &args.command;
    let site = context.site()?;
    let topic = Topic::new(&load.topic);
    if site.log.topic(&topic)?.is_none() {
        let (partitions, replication) = (load.partitions, context.settings.typed.topics.replication);
        site.log.create_topics(&[NewTopic { topic: topic.clone(), partitions, replication, config: Default::default() }])?;
    }
    let partitions = match site.log.topic(&topic)? {
        Some(info) => info.partitions,
        None => return Err(Error::failed(format!("topic \"{topic}\" was created and is not there"))),
    };
    let contract = AvroSchema::parse(CONTRACT)?;
    let id = site.registry.register(&format!("{topic}-value"), &contract)?.id;
    let mut producer =
        site.log.producer(&ProducerSettings { transactional_id: None, transaction_timeout: Duration::from_secs(15) })?;
    let (rng, customers) = (StdRng::seed_from_u64(load.seed), load.customers);
    let mut shop = Shop { rng, contract, frame: wire::frame(id), partitions, customers };
    let mut sent = 0;
    while sent < load.count {
        let count = (load.count - sent).min(if load.rate == 0 { BATCH as u64 } else { load.rate.div_ceil(10) });
        let mut records = Outgoing::default();
        for number in sent..sent + count {
            // Without a rate the orders look as if they had come in over the last hour.
            let age_ms = if load.rate == 0 { 3_600_000 - number as i64 * 3_600_000 / load.count as i64 } else { 0 };
            shop.order(number, now_ms() - age_ms, &mut records)?;
        }
        producer.begin()?;
        producer.send(&topic, &records)?;
        producer.commit(&CommittedOffsets::new(), None)?;
        sent += count;
        if load.rate > 0 {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    line(&format!("{sent} orders are in topic {topic} ({partitions} partitions); subject {topic}-value has schema id {id}"));
    Ok(Exit::Done)
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

struct Shop {
    rng: StdRng,
    contract: AvroSchema,
    frame: [u8; wire::FRAME],
    partitions: i32,
    customers: Option<u64>,
}

/// A prime: the numbers of customers come in no order, each once before one comes again.
const STRIDE: u128 = 2_147_483_647;

impl Shop {
    /// One in two hundred is some minutes late, one in three hundred has a negative amount, one in five hundred is cut off.
    fn order(&mut self, number: u64, now: i64, records: &mut Outgoing) -> Result<()> {
        let rng = &mut self.rng;
        let (customer, country) = CUSTOMERS[rng.random_range(0..CUSTOMERS.len())];
        let numbered = self.customers.map(|all| format!("customer-{}", u128::from(number) * STRIDE % u128::from(all)));
        let customer = numbered.as_deref().unwrap_or(customer);
        let late = if rng.random_ratio(1, 200) { rng.random_range(60_000..240_000) } else { 0 };
        let quantity = rng.random_range(1..10);
        let cents = i64::from(quantity) * rng.random_range(100..5_000);
        let amount = if rng.random_ratio(1, 300) { -cents } else { cents } as f64 / 100.0;
        let order = json!({
            "order_id": number,
            "customer_id": customer,
            "product": PRODUCTS[rng.random_range(0..PRODUCTS.len())],
            "country": country,
            "amount": amount,
            "quantity": quantity,
            "ordered_at": now - rng.random_range(0..3_000) - late,
        });
        let mut value = self.frame.to_vec();
        value.extend(to_avro(&self.contract, &order)?);
        if rng.random_ratio(1, 500) {
            value.truncate(rng.random_range(0..9));
        }
        records.push(murmur2(customer.as_bytes(), self.partitions), now, Some(customer.as_bytes()), Some(&value), Vec::new());
        Ok(())
    }
}
