//! The four places where a record names its writer's schema, through a whole pipeline on the embedded log.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidemill::cli::test::world::World;
use tidemill::codec::json::to_avro;
use tidemill::codec::wire::{KEY_HEADER, VALUE_HEADER, frame};
use tidemill::contract::{AvroSchema, Guid, MemoryRegistry, Pinned, SchemaId, Strategy};
use tidemill::error::Result;
use tidemill::job::live;
use tidemill::record::{Header, Topic};
use tidemill::task::run::{Step, Worker};
use tidemill::topology::{self, Options, SqlFile, Topology};

const V1: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"int"}]}"#;
const V2: &str = r#"{"type":"record","name":"Order","fields":[
    {"name":"note","type":"string","default":"-"},{"name":"id","type":"long"}]}"#;
const KEY: &str = r#"{"type":"record","name":"Key","fields":[{"name":"customer","type":"string"}]}"#;
const SQL: &str = "SET 'pipeline.name' = 'ids';
CREATE STREAM orders WITH ('topic' = 'orders', 'format' = 'avro', 'key.format' = 'avro', 'key.fields' = 'customer');
CREATE SINK copy WITH ('topic' = 'copy', 'format' = 'avro');
INSERT INTO copy SELECT customer, id, note FROM orders;";

const GUID: Guid = Guid([0xab, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
const KEY_GUID: Guid = Guid([0xcd; 16]);

struct Shop {
    world: World,
    topology: Topology,
    worker: Worker,
    /// Kept for its schemas.
    schemas: [AvroSchema; 3],
}

/// How a record names a schema.
#[derive(Clone, Copy)]
enum Named {
    Number(u32),
    Guid(Guid),
    NumberInHeader(u32),
    GuidInHeader(Guid),
}

impl Named {
    /// The record's bytes, and the header if there is one.
    fn write(self, body: Vec<u8>, header: &str) -> (Vec<u8>, Option<Header>) {
        let guid = |guid: Guid| [&[1][..], &guid.0].concat();
        match self {
            Named::Number(id) => ([&frame(SchemaId(id))[..], &body].concat(), None),
            Named::Guid(id) => ([guid(id), body].concat(), None),
            Named::NumberInHeader(id) => (body, Some(Header::new(header, frame(SchemaId(id))))),
            Named::GuidInHeader(id) => (body, Some(Header::new(header, guid(id)))),
        }
    }
}

impl Shop {
    fn open() -> Shop {
        let schemas = [V1, V2, KEY].map(|text| AvroSchema::parse(text).unwrap());
        let registry = MemoryRegistry::new();
        registry.register_as("orders-value", SchemaId(11), schemas[0].clone()).unwrap();
        registry.register_as("orders-value", SchemaId(12), schemas[1].clone()).unwrap();
        registry.register_as("orders-key", SchemaId(13), schemas[2].clone()).unwrap();
        registry.set_guid(SchemaId(11), GUID);
        registry.set_guid(SchemaId(13), KEY_GUID);
        let world = World::with(registry.clone(), [&Topic::new("orders")], 1).unwrap();
        let file = SqlFile { name: "ids.sql".into(), text: SQL.into() };
        let contracts = Pinned::new(None, &registry, Strategy::TopicName);
        let topology = topology::compile(&file, &contracts, &Options::default()).unwrap();
        let mut run = live::prepare(&world.site, &topology, None, false).unwrap().run;
        // Every round is one transaction.
        run.cadence.max_records = 1;
        let worker = Worker::open(Arc::new(world.log.clone()), Arc::new(registry), run).unwrap();
        Shop { world, topology, worker, schemas }
    }

    fn send(&self, key: Named, value: Named, number: i64, more: Vec<Header>) {
        let reader = match value {
            Named::Number(12) | Named::NumberInHeader(12) => 1,
            _ => 0,
        };
        let body = to_avro(&self.schemas[reader], &json!({ "id": number })).unwrap();
        let (value, value_header) = value.write(body, VALUE_HEADER);
        let body = to_avro(&self.schemas[2], &json!({ "customer": format!("c{number}") })).unwrap();
        let (key, key_header) = key.write(body, KEY_HEADER);
        let headers = more.into_iter().chain(value_header).chain(key_header).collect();
        self.world.log.append(&Topic::new("orders"), 0, 1_000, Some(&key), Some(&value), headers).unwrap();
    }

    fn settle(&mut self) -> Result<()> {
        let mut idle = 0;
        while idle < 3 {
            idle = if self.worker.step(Duration::from_millis(2))? == Step::Idle { idle + 1 } else { 0 };
        }
        Ok(())
    }

    /// The ids that came out, and the places and classes of bad records.
    fn found(&self) -> (Vec<i64>, Vec<(i64, String)>) {
        let tables = self.world.tables(&self.topology, &[Topic::new("copy")], 1).unwrap();
        let ids: &Vec<Value> = &tables.sinks["copy"];
        for row in ids {
            assert_eq!(row["customer"], format!("c{}", row["id"]), "the key is of the same record");
        }
        let mut ids: Vec<i64> = ids.iter().map(|row| row["id"].as_i64().unwrap()).collect();
        ids.sort_unstable();
        (ids, tables.dead.into_iter().map(|letter| (letter.offset, letter.class.unwrap())).collect())
    }
}

#[test]
fn all_four_places_are_read_in_any_mixture() {
    let mut shop = Shop::open();
    let values = [Named::Number(11), Named::Guid(GUID), Named::NumberInHeader(12), Named::GuidInHeader(GUID), Named::Number(12)];
    let keys = [Named::Number(13), Named::Guid(KEY_GUID), Named::NumberInHeader(13), Named::GuidInHeader(KEY_GUID)];
    let mut number = 0;
    for value in values {
        for key in keys {
            shop.send(key, value, number, vec![Header::new("trace", "x")]);
            number += 1;
        }
    }
    shop.settle().unwrap();
    assert_eq!(shop.found(), ((0..number).collect(), vec![]));
}

#[test]
fn a_header_goes_before_what_the_bytes_look_like_and_the_last_of_a_name_counts() {
    let mut shop = Shop::open();
    // A body that looks framed: id 0 under V2 is `note` "" and so on; here the header says what it is.
    let misleading = vec![Header::new(VALUE_HEADER, frame(SchemaId(99)))];
    shop.send(Named::Number(13), Named::NumberInHeader(11), 0, misleading);
    shop.settle().unwrap();
    assert_eq!(shop.found(), (vec![0], vec![]));
}

#[test]
fn unknown_and_broken_ids_are_bad_records_and_harm_no_neighbour() {
    let mut shop = Shop::open();
    let good = (Named::Number(13), Named::Guid(GUID));
    let unknown = Guid([7; 16]);
    shop.send(good.0, good.1, 0, vec![]);
    shop.send(good.0, Named::Guid(unknown), 1, vec![]);
    shop.send(good.0, Named::GuidInHeader(unknown), 2, vec![]);
    shop.send(good.0, Named::NumberInHeader(99), 3, vec![]);
    shop.send(Named::GuidInHeader(unknown), good.1, 4, vec![]);
    // Broken headers: they count although the bytes would be well framed.
    for (number, header) in [(5, &b""[..]), (6, &[0, 0, 0, 1]), (7, &[2; 17]), (8, &[1; 18])] {
        shop.send(good.0, good.1, number, vec![Header::new(VALUE_HEADER, header)]);
    }
    shop.send(good.0, good.1, 9, vec![]);
    shop.settle().unwrap();
    let (ids, bad) = shop.found();
    assert_eq!(ids, [0, 9]);
    let class = |offset: i64, class: &str| (offset, class.to_string());
    let schema = (1..=4).map(|at| class(at, "schema"));
    assert_eq!(bad, schema.chain((5..=8).map(|at| class(at, "wire"))).collect::<Vec<_>>());
}

#[test]
fn a_registry_that_is_away_makes_guids_wait() {
    let mut shop = Shop::open();
    shop.send(Named::Number(13), Named::Number(11), 0, vec![]);
    shop.settle().unwrap();
    shop.world.registry.set_away(true);
    shop.send(Named::Number(13), Named::GuidInHeader(GUID), 1, vec![]);
    for _ in 0..5 {
        shop.worker.step(Duration::from_millis(2)).unwrap();
    }
    shop.world.registry.set_away(false);
    assert_eq!(shop.found(), (vec![0], vec![]), "it waits, and is not given up");
    let began = std::time::Instant::now();
    while shop.found().0 != [0, 1] {
        assert!(began.elapsed() < Duration::from_secs(10), "it comes through once the registry is back");
        shop.worker.step(Duration::from_millis(2)).unwrap();
    }
}
