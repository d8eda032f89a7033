//! The model of `crew`: orders joined with the version of their customer that held at their time, from the two topics and the decisions.

use std::collections::BTreeMap;

use serde_json::json;
use tidemill::record::Topic;
use tidemill::task::decision;

use crate::shop::{self, PARTITIONS, Shop};
use crate::world::World;

const WINDOW_MS: i64 = 10_000;
const DELAY_MS: i64 = 5_000;

/// Rows as JSON, with how often each is there.
#[derive(Debug, Default)]
pub struct Model {
    pub enriched: BTreeMap<String, i64>,
    pub by_country: BTreeMap<String, i64>,
    pub by_amount: BTreeMap<String, i64>,
    pub decisions: usize,
}

/// What a partition had reached, in microseconds.
struct Reached {
    watermark: i64,
    /// Raises by offset, in order.
    raises: Vec<(i64, i64)>,
}

impl Reached {
    /// Just before the record at `offset`.
    fn before(&mut self, offset: i64) -> i64 {
        let raised = self.raises.iter().filter(|(at, _)| *at <= offset).map(|(_, to)| *to).max();
        self.watermark = self.watermark.max(raised.unwrap_or(i64::MIN));
        self.watermark
    }

    fn observe(&mut self, micros: i64) {
        self.watermark = self.watermark.max(micros);
    }
}

struct Version {
    effective: i64,
    offset: i64,
    country: Option<String>,
}

struct Order {
    id: i64,
    customer: String,
    amount: i64,
    ms: i64,
    partition: i32,
}

pub fn model(world: &World, shop: &Shop, customers: &Topic) -> Model {
    let decided = Topic::new(format!("tidemill.{}.decisions", world.name));
    let decisions = decision::read(world.log.as_ref(), &decided).unwrap();
    let reached = |topic: &Topic, partition: i32| {
        let of = decisions.iter().filter(|d| d.partition == topic.partition(partition));
        Reached { watermark: i64::MIN, raises: of.map(|d| (d.at.0, d.to.0)).collect() }
    };
    let mut model = Model { decisions: decisions.len(), ..Model::default() };
    let mut schemas = BTreeMap::new();

    let mut tables: Vec<Reached> = (0..PARTITIONS).map(|p| reached(customers, p)).collect();
    let mut versions: BTreeMap<String, Vec<Version>> = BTreeMap::new();
    for row in world.read_with_times(customers) {
        let (row, timestamp) = row;
        let before = tables[row.partition as usize].before(row.offset);
        let value = row.bytes.as_deref().map(|bytes| world.value(&mut schemas, bytes));
        let country = value.map(|value| shop::text(&value["country"]));
        let version = Version { effective: (timestamp * 1_000).max(before), offset: row.offset, country };
        versions.entry(row.key_text()).or_default().push(version);
        tables[row.partition as usize].observe(timestamp * 1_000);
    }
    versions.values_mut().for_each(|of_key| of_key.sort_by_key(|v| (v.effective, v.offset)));

    let mut streams: Vec<Reached> = (0..PARTITIONS).map(|p| reached(&shop.orders, p)).collect();
    let mut amounts: BTreeMap<i64, i64> = BTreeMap::new();
    let mut orders = Vec::new();
    for row in world.read(&shop.orders) {
        let order = row.bytes.as_deref().and_then(|bytes| shop::decode(world, &mut schemas, bytes));
        let Some((id, customer, amount, ms)) = order.filter(|(_, _, amount, _)| *amount >= 0) else { continue };
        *amounts.entry(amount).or_default() += 1;
        let stream = &mut streams[row.partition as usize];
        // Late for the join.
        if ms * 1_000 >= stream.before(row.offset) {
            orders.push(Order { id, customer, amount, ms, partition: row.partition });
        }
        stream.observe((ms - DELAY_MS) * 1_000);
    }
    for (amount, orders) in amounts {
        model.by_amount.insert(json!({"amount": amount, "orders": orders}).to_string(), 1);
    }

    // At the end of each partition, with what was decided there.
    let edges: Vec<i64> = streams.iter_mut().zip(&mut tables).map(|(s, t)| s.before(i64::MAX).min(t.before(i64::MAX))).collect();
    let edge = edges.iter().min().copied().unwrap_or(i64::MIN);
    let mut windows: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
    for order in orders.iter().filter(|order| order.ms * 1_000 < edges[order.partition as usize]) {
        let of_key = versions.get(&order.customer).map_or(&[][..], |v| v);
        let version = of_key.iter().rev().find(|v| v.effective <= order.ms * 1_000);
        let Some(country) = version.and_then(|v| v.country.clone()) else { continue };
        let row = json!({"order_id": order.id, "amount": order.amount, "country": country});
        *model.enriched.entry(row.to_string()).or_default() += 1;
        let start = order.ms.div_euclid(WINDOW_MS) * WINDOW_MS;
        let window = windows.entry((start, country)).or_default();
        *window = (window.0 + order.amount, window.1 + 1);
    }
    for ((start, country), (revenue, orders)) in windows {
        if (start + WINDOW_MS) * 1_000 <= edge {
            let start = chrono::DateTime::from_timestamp_millis(start)
                .expect("a time")
                .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
            let row = json!({"window_start": start, "country": country, "revenue": revenue, "orders": orders});
            model.by_country.insert(row.to_string(), 1);
        }
    }
    model
}
