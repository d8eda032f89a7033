//! The embedded log and registry that a case runs on, and what a run left in them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::test::case::{Case, Input, Letter};
use crate::clock::Clock;
use crate::codec::KeyFormat;
use crate::codec::json::from_avro;
use crate::codec::wire::unframe;
use crate::contract::Registry;
use crate::contract::registry::MemoryRegistry;
use crate::error::{Error, Result};
use crate::job::{Settings, Site};
use crate::log::embedded::EmbeddedLog;
use crate::log::{Isolation, Log, NewTopic};
use crate::record::{Chunk, Topic};
use crate::task::letters;
use crate::task::restorer::Restoring;
use crate::topology::{Sink, Topology};

/// A fresh log and registry for one run of a case.
pub struct World {
    pub log: EmbeddedLog,
    pub registry: MemoryRegistry,
    pub site: Site,
}

/// What a run left: the output tables, dead letters and late rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tables {
    /// By sink: rows sorted by their text.
    pub sinks: BTreeMap<String, Vec<Value>>,
    pub dead: BTreeSet<Letter>,
    pub late: BTreeSet<Letter>,
}

impl World {
    pub fn new(case: &Case) -> Result<World> {
        let sources = case.topology.sources.iter().map(|source| &source.topic);
        let topics: BTreeSet<&Topic> = sources.chain(case.inputs.iter().map(|input| input.place().0)).collect();
        World::of(case.contracts.registry(), topics.into_iter().map(|topic| (topic, case.partitions(topic))))
    }

    /// With topics of so many partitions each.
    pub fn with<'a>(registry: MemoryRegistry, topics: impl IntoIterator<Item = &'a Topic>, partitions: i32) -> Result<World> {
        World::of(registry, topics.into_iter().map(|topic| (topic, partitions)))
    }

    fn of<'a>(registry: MemoryRegistry, topics: impl IntoIterator<Item = (&'a Topic, i32)>) -> Result<World> {
        // Nothing that a run waits for takes real time.
        let log = EmbeddedLog::on(Clock::simulated(1));
        let new = |(topic, partitions): (&Topic, i32)| NewTopic {
            topic: topic.clone(),
            partitions,
            replication: -1,
            config: BTreeMap::new(),
        };
        log.create_topics(&topics.into_iter().map(new).collect::<Vec<_>>())?;
        let settings = Settings { max_poll_records: 1_000, restoring: Restoring::Steps(0), ..Settings::default() };
        let site = Site { log: Arc::new(log.clone()), registry: Arc::new(registry.clone()), settings };
        Ok(World { log, registry, site })
    }

    pub fn append(&self, input: &Input) -> Result<()> {
        if let Input::Record { topic, partition, timestamp, key, value, headers } = input {
            self.log.append(topic, *partition, *timestamp, key.as_deref(), value.as_deref(), headers.clone())?;
        }
        Ok(())
    }

    pub fn append_all(&self, case: &Case) -> Result<()> {
        case.inputs.iter().try_for_each(|input| self.append(input))
    }

    /// Reads the given topics (sink by sink) as a consumer with `read_committed` would.
    pub fn tables(&self, topology: &Topology, topics: &[Topic], generation: u32) -> Result<Tables> {
        let topics: Vec<Vec<Topic>> = topics.iter().map(|topic| vec![topic.clone()]).collect();
        self.tables_over(topology, &topics, generation)
    }

    /// The same where a sink's rows are in several topics, one after the other.
    pub fn tables_over(&self, topology: &Topology, topics: &[Vec<Topic>], generation: u32) -> Result<Tables> {
        let mut tables = Tables::default();
        for (sink, topics) in topology.sinks.iter().zip(topics) {
            let mut rows = self.rows(sink, topics)?;
            rows.sort_by_cached_key(Value::to_string);
            tables.sinks.insert(sink.name.clone(), rows);
        }
        let prefix = format!("{}{}", self.site.settings.name_prefix, topology.pipeline);
        tables.dead = self.letters(&Topic::new(format!("{prefix}.dead")), generation)?;
        tables.late = self.letters(&Topic::new(format!("{prefix}.late")), generation)?;
        Ok(tables)
    }

    fn rows(&self, sink: &Sink, topics: &[Topic]) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        let mut table: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
        let mut chunks = Vec::new();
        for topic in topics {
            chunks.extend(self.log.read(topic, Isolation::Committed)?);
        }
        for chunk in chunks {
            for row in 0..chunk.len() {
                let value = self
                    .row(sink, &chunk, row)
                    .map_err(|e| e.context(format!("{} offset {}", chunk.partition, chunk.offsets[row])))?;
                match (sink.key.is_some(), value) {
                    (false, value) => rows.extend(value),
                    (true, Some(value)) => drop(table.insert(chunk.keys.get(row).unwrap_or_default().to_vec(), value)),
                    (true, None) => drop(table.remove(chunk.keys.get(row).unwrap_or_default())),
                }
            }
        }
        rows.extend(table.into_values());
        Ok(rows)
    }

    /// Value and key columns as one object; `None` for a tombstone.
    fn row(&self, sink: &Sink, chunk: &Chunk, row: usize) -> Result<Option<Value>> {
        let Some(value) = chunk.values.get(row) else { return Ok(None) };
        let Value::Object(mut fields) = self.avro(value)? else {
            return Err(Error::corrupt("a sink's value is no record"));
        };
        if let (Some(key), Some(bytes)) = (&sink.key, chunk.keys.get(row)) {
            let name = |at: usize| sink.schema.field(key.columns[at]).name().clone();
            let columns = match key.format {
                KeyFormat::Avro => self.avro(bytes)?,
                KeyFormat::String => json!({ name(0): String::from_utf8_lossy(bytes) }),
                KeyFormat::Long | KeyFormat::Int => {
                    json!({ name(0): bytes.iter().fold(if bytes[0] > 127 { -1i64 } else { 0 }, |n, byte| (n << 8) | i64::from(*byte)) })
                }
                KeyFormat::Json => {
                    serde_json::from_slice(bytes).map_err(|e| Error::corrupt(format!("a sink's key is not JSON: {e}")))?
                }
                KeyFormat::Bytes => Value::Null,
            };
            for (name, value) in columns.as_object().into_iter().flatten() {
                fields.entry(name).or_insert(value.clone());
            }
        }
        Ok(Some(Value::Object(fields)))
    }

    fn avro(&self, bytes: &[u8]) -> Result<Value> {
        let (id, body) = unframe(bytes).map_err(|fault| Error::corrupt(fault.message))?;
        let schema = self.registry.schema(id)?.ok_or_else(|| Error::corrupt(format!("schema id {id} is not registered")))?;
        from_avro(&schema, body)
    }

    /// Coordinates in the headers of a letter topic; those that the given generation wrote.
    fn letters(&self, topic: &Topic, generation: u32) -> Result<BTreeSet<Letter>> {
        let mut found = BTreeSet::new();
        if self.log.topic(topic)?.is_none() {
            return Ok(found);
        }
        for chunk in self.log.read(topic, Isolation::Committed)? {
            for row in 0..chunk.len() {
                let header = |name: &str| {
                    let header = chunk.row_headers(row).iter().rev().find(|header| header.name == name)?;
                    Some(String::from_utf8_lossy(header.value.as_deref()?).into_owned())
                };
                if header(letters::GENERATION) != Some(generation.to_string()) {
                    continue;
                }
                let number = |name: &str| header(name).and_then(|text| text.parse::<i64>().ok());
                let place = header(letters::TOPIC).zip(number(letters::PARTITION)).zip(number(letters::OFFSET));
                let Some(((topic, partition), offset)) = place else {
                    return Err(Error::corrupt(format!(
                        "{} offset {}: a letter without coordinates",
                        chunk.partition, chunk.offsets[row]
                    )));
                };
                found.insert(Letter { topic, partition: partition as i32, offset, class: header(letters::CLASS) });
            }
        }
        Ok(found)
    }
}
