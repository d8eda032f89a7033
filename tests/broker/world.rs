//! A broker, a registry, and names, files and topics that no other test uses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tidemill::codec::{json, wire};
use tidemill::contract::{AvroSchema, HttpRegistry, Registry, RegistrySettings, SchemaId, WriterId};
use tidemill::log::kafka::{KafkaLog, KafkaSettings};
use tidemill::log::{CommittedOffsets, Isolation, Log, NewTopic, Producer, ProducerSettings, partitions_of};
use tidemill::record::{Header, NextOffset, OffsetVector, Outgoing, Topic, TopicPartition};

use crate::support::{self, Broker};

pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct World {
    pub broker: Broker,
    pub log: Arc<dyn Log>,
    pub registry: HttpRegistry,
    pub registry_url: String,
    /// The pipeline's name, and what every topic of the test begins with.
    pub name: String,
    pub dir: tempfile::TempDir,
}

/// A record as it was read back.
#[derive(Clone, Debug)]
pub struct Row {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub bytes: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

impl Row {
    pub fn header(&self, name: &str) -> Option<String> {
        let header = self.headers.iter().rev().find(|header| header.name == name)?;
        Some(String::from_utf8_lossy(header.value.as_deref()?).into_owned())
    }

    pub fn number(&self, name: &str) -> i64 {
        self.header(name).unwrap_or_else(|| panic!("no header {name}: {self:?}")).parse().unwrap()
    }

    pub fn key_text(&self) -> String {
        String::from_utf8(self.key.clone().expect("a key")).unwrap()
    }
}

impl World {
    /// On the broker that all tests share.
    pub fn shared(what: &str) -> Option<World> {
        World::on(support::kafka()?, what)
    }

    /// On a broker that this test may stop.
    pub fn own(what: &str) -> Option<World> {
        World::on(support::kafka_of_my_own()?, what)
    }

    /// On a given broker.
    pub fn on(broker: Broker, what: &str) -> Option<World> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Some(registry_url) = broker.registry.clone() else {
            assert!(std::env::var("REQUIRE_KAFKA").is_err(), "REQUIRE_KAFKA is set, and there is no schema registry");
            eprintln!("SKIPPED, no schema registry");
            return None;
        };
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let name = format!("{what}-{started}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let log = Arc::new(connect(&broker.brokers));
        let registry =
            HttpRegistry::new(RegistrySettings { timeout: Duration::from_secs(5), ..RegistrySettings::at([&registry_url]) });
        let registry = registry.unwrap();
        Some(World { broker, log, registry, registry_url, name, dir: tempfile::tempdir().unwrap() })
    }

    pub fn topic(&self, what: &str) -> Topic {
        Topic::new(format!("{}.{what}", self.name))
    }

    pub fn create(&self, what: &str, partitions: i32, config: &[(&str, &str)]) -> Topic {
        let topic = self.topic(what);
        let mut config: BTreeMap<String, String> = config.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
        config.entry("message.timestamp.after.max.ms".into()).or_insert(i64::MAX.to_string());
        self.log.create_topics(&[NewTopic { topic: topic.clone(), partitions, replication: -1, config }]).unwrap();
        topic
    }

    pub fn register(&self, topic: &Topic, schema: &str) -> (SchemaId, Arc<AvroSchema>) {
        let schema = Arc::new(AvroSchema::parse(schema).unwrap());
        (self.registry.register(&format!("{topic}-value"), &schema).unwrap().id, schema)
    }

    /// Writes a file into the test's directory.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Not transactional: a record is visible when `commit` returned.
    pub fn plain_producer(&self) -> Box<dyn Producer> {
        self.log.producer(&ProducerSettings { transactional_id: None, transaction_timeout: Duration::from_secs(15) }).unwrap()
    }

    pub fn transactional_producer(&self) -> Box<dyn Producer> {
        let id = Some(format!("{}.input", self.name));
        self.log.producer(&ProducerSettings { transactional_id: id, transaction_timeout: Duration::from_secs(15) }).unwrap()
    }

    pub fn write(&self, topic: &Topic, records: &Outgoing) {
        let mut producer = self.plain_producer();
        producer.begin().unwrap();
        producer.send(topic, records).unwrap();
        producer.commit(&CommittedOffsets::new(), None).unwrap();
    }

    pub fn partitions(&self, topic: &Topic) -> Vec<TopicPartition> {
        let info = self.log.topic(topic).unwrap().unwrap_or_else(|| panic!("topic {topic} does not exist"));
        partitions_of(topic, info.partitions)
    }

    pub fn ends(&self, topic: &Topic) -> OffsetVector {
        self.log.end_offsets(&self.partitions(topic), Isolation::Committed).unwrap()
    }

    /// What a `read_committed` reader sees, in the order of each partition.
    pub fn read(&self, topic: &Topic) -> Vec<Row> {
        self.read_with_times(topic).into_iter().map(|(row, _)| row).collect()
    }

    /// The same with the records' timestamps in milliseconds.
    pub fn read_with_times(&self, topic: &Topic) -> Vec<(Row, i64)> {
        let partitions = self.partitions(topic);
        let start = self.log.start_offsets(&partitions).unwrap();
        let to = self.log.end_offsets(&partitions, Isolation::Committed).unwrap();
        let mut reader = self.log.reader(Isolation::Committed, &start).unwrap();
        let mut rows = Vec::new();
        let began = Instant::now();
        while to.iter().any(|(partition, end)| reader.positions()[partition] < *end) {
            assert!(began.elapsed() < DEADLINE, "a bounded read of {topic} hangs at {:?} of {to:?}", reader.positions());
            for chunk in reader.poll(Duration::from_millis(100), 10_000).unwrap() {
                for at in 0..chunk.len() {
                    if chunk.offsets[at].0 < to[&chunk.partition].0 {
                        let row = Row {
                            partition: chunk.partition.partition.0,
                            offset: chunk.offsets[at].0,
                            key: chunk.keys.get(at).map(<[u8]>::to_vec),
                            bytes: chunk.values.get(at).map(<[u8]>::to_vec),
                            headers: chunk.row_headers(at).to_vec(),
                        };
                        rows.push((row, chunk.timestamps[at]));
                    }
                }
            }
        }
        rows
    }

    /// Rows that exist, or none for a topic that does not.
    pub fn read_if_there(&self, topic: &Topic) -> Vec<Row> {
        if self.log.topic(topic).unwrap().is_some() { self.read(topic) } else { Vec::new() }
    }

    /// The value of framed bytes by its writer's schema.
    pub fn value(&self, schemas: &mut BTreeMap<WriterId, Arc<AvroSchema>>, bytes: &[u8]) -> Value {
        let (id, body) = wire::unframe(bytes).unwrap();
        let schema = schemas
            .entry(id)
            .or_insert_with(|| self.registry.schema(id).unwrap().unwrap_or_else(|| panic!("schema {id} is not registered")));
        json::from_avro(schema, body).unwrap()
    }

    /// Committed offsets of the pipeline's live generation, summed: they only grow.
    pub fn progress(&self, group: &str, topic: &Topic) -> i64 {
        let committed = self.log.committed(group, &self.partitions(topic)).unwrap_or_default();
        committed.values().map(|committed| committed.next.0).sum()
    }

    pub fn group(&self, generation: u32) -> String {
        format!("tidemill.{}.g{generation}", self.name)
    }

    pub fn caught_up(&self, topic: &Topic) -> bool {
        let ends = self.ends(topic);
        let committed = self.log.committed(&self.group(1), &self.partitions(topic)).unwrap_or_default();
        ends.iter().all(|(partition, end)| committed.get(partition).map_or(NextOffset(0), |c| c.next) >= *end)
    }
}

pub fn connect(brokers: &str) -> KafkaLog {
    KafkaLog::connect(KafkaSettings { brokers: brokers.to_string(), properties: BTreeMap::new() }).unwrap()
}

/// Polls until the condition holds.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < deadline, "waited in vain for {deadline:?} until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A framed Avro value from JSON.
pub fn avro((id, schema): &(SchemaId, Arc<AvroSchema>), value: &Value) -> Vec<u8> {
    let mut bytes = wire::frame(*id).to_vec();
    bytes.extend(json::to_avro(schema, value).unwrap());
    bytes
}

pub fn lines(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A number for a test's randomness: `TEST_SEED`, or the clock; printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = match std::env::var("TEST_SEED") {
        Ok(given) => given.parse().expect("TEST_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
    };
    eprintln!("TEST_SEED={seed}");
    seed
}
