//! The shop: its pipeline, its contracts, and the records of forty minutes in the order in which they arrive.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::codec::json::to_avro;
use crate::codec::partition::murmur2;
use crate::codec::wire::frame;
use crate::contract::registry::MemoryRegistry;
use crate::contract::{AvroSchema, Registry};
use crate::error::Result;
use crate::record::Topic;

pub const PARTITIONS: i32 = 3;

pub const SQL: &str = "SET 'pipeline.name' = 'shop';

CREATE STREAM orders (
  WATERMARK FOR ordered_at AS ordered_at - INTERVAL '5' SECOND,
  CONSTRAINT positive_amount CHECK (amount >= 0) ON VIOLATION DEAD LETTER
) WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'customer_id');

CREATE TABLE customers (PRIMARY KEY (customer_id))
  WITH ('topic' = 'customers', 'format' = 'avro', 'key.format' = 'string');

CREATE SINK revenue_by_minute (PRIMARY KEY (window_start, country)) WITH ('topic' = 'revenue_by_minute', 'format' = 'avro');
CREATE SINK totals (PRIMARY KEY (customer_id)) WITH ('topic' = 'totals', 'format' = 'avro', 'key.format' = 'string');

-- each order meets the version of its customer that held when it was placed
INSERT INTO revenue_by_minute
SELECT window_start, c.country, SUM(o.amount) AS revenue, COUNT(*) AS orders
FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ordered_at), INTERVAL '1' MINUTE)) AS o
JOIN customers FOR SYSTEM_TIME AS OF o.ordered_at AS c ON o.customer_id = c.customer_id
GROUP BY window_start, window_end, c.country;

INSERT INTO totals
SELECT customer_id, SUM(amount) AS revenue, COUNT(*) AS orders, MAX(quantity) AS largest
FROM orders GROUP BY customer_id;
";

const ORDER: &str = r#"{"type": "record", "name": "Order", "fields": [
  {"name": "order_id", "type": "long"},
  {"name": "customer_id", "type": "string"},
  {"name": "amount", "type": "double"},
  {"name": "quantity", "type": "int"},
  {"name": "ordered_at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}"#;

const CUSTOMER: &str = r#"{"type": "record", "name": "Customer", "fields": [
  {"name": "customer_id", "type": "string"},
  {"name": "country", "type": "string"}]}"#;

const CUSTOMERS: [&str; 8] = ["ada", "barbara", "donald", "edsger", "grace", "john", "leslie", "niklaus"];
const COUNTRIES: [&str; 5] = ["CH", "GB", "HU", "NL", "US"];
const START_MS: i64 = 1_767_225_600_000; // 2026-01-01T00:00:00Z
const LENGTH_MS: i64 = 40 * 60_000;

/// One record of either topic.
pub struct Record {
    pub topic: Topic,
    pub partition: i32,
    pub timestamp: i64,
    pub key: &'static str,
    pub value: Option<Vec<u8>>,
}

pub struct Shop {
    pub registry: MemoryRegistry,
    pub records: Vec<Record>,
    pub orders: usize,
    pub changes: usize,
}

/// A contract as its writer has it.
struct Writer {
    topic: Topic,
    schema: AvroSchema,
    frame: Vec<u8>,
}

impl Writer {
    fn new(topic: &str, schema: &str, registry: &MemoryRegistry) -> Result<Writer> {
        let schema = AvroSchema::parse(schema)?;
        let id = registry.register(&format!("{topic}-value"), &schema)?.id;
        Ok(Writer { topic: Topic::new(topic), schema, frame: frame(id).to_vec() })
    }

    fn record(&self, timestamp: i64, key: &'static str, value: Option<Value>) -> Result<Record> {
        let encode = |value: &Value| -> Result<Vec<u8>> { Ok([self.frame.clone(), to_avro(&self.schema, value)?].concat()) };
        let value = value.as_ref().map(encode).transpose()?;
        Ok(Record { topic: self.topic.clone(), partition: murmur2(key.as_bytes(), PARTITIONS), timestamp, key, value })
    }
}

impl Shop {
    pub fn new(orders: u32, seed: u64) -> Result<Shop> {
        let registry = MemoryRegistry::new();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut records = customers(&Writer::new("customers", CUSTOMER, &registry)?, &mut rng)?;
        let changes = records.len();
        records.extend(self::orders(orders, &Writer::new("orders", ORDER, &registry)?, &mut rng)?);
        // Stable: what happened at the same time stays in its order.
        records.sort_by_key(|record| record.timestamp);
        Ok(Shop { registry, records, orders: orders as usize, changes })
    }
}

/// Everyone is there when the shop opens; later they move, one in four leaves for a while.
fn customers(writer: &Writer, rng: &mut StdRng) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for customer in CUSTOMERS {
        let mut at = START_MS - 60_000;
        while at < START_MS + LENGTH_MS {
            let country = COUNTRIES[rng.random_range(0..COUNTRIES.len())];
            records.push(writer.record(at, customer, Some(json!({"customer_id": customer, "country": country})))?);
            at += rng.random_range(5 * 60_000..15 * 60_000);
            if rng.random_ratio(1, 4) && at < START_MS + LENGTH_MS {
                records.push(writer.record(at, customer, None)?);
                at += rng.random_range(60_000..3 * 60_000);
            }
        }
    }
    Ok(records)
}

/// One in two hundred comes minutes late; one in three hundred has a negative amount; one in five hundred is no Avro at all.
fn orders(count: u32, writer: &Writer, rng: &mut StdRng) -> Result<Vec<Record>> {
    let step = LENGTH_MS / i64::from(count.max(1));
    let mut records = Vec::new();
    for number in 0..count {
        let now = START_MS + i64::from(number) * step;
        let late = if rng.random_ratio(1, 200) { rng.random_range(60_000..240_000) } else { 0 };
        let cents = rng.random_range(100..20_000);
        let amount = f64::from(if rng.random_ratio(1, 300) { -cents } else { cents }) / 100.0;
        let customer = CUSTOMERS[rng.random_range(0..CUSTOMERS.len())];
        let order = json!({"order_id": number, "customer_id": customer, "amount": amount,
            "quantity": rng.random_range(1..10), "ordered_at": now - rng.random_range(0..3_000) - late});
        let mut record = writer.record(now, customer, Some(order))?;
        if let Some(value) = &mut record.value
            && rng.random_ratio(1, 500)
        {
            value.truncate(rng.random_range(0..9));
        }
        records.push(record);
    }
    Ok(records)
}
