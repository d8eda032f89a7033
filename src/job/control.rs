//! The control topic of a pipeline: which generation is live, and its jobs with their resolved vectors.
//!
//! Compacted; keys are `generation.<N>`, `live` and `job.<name>`, values JSON with a format version. It is written in transactions of
//! their own, and read to its end before a run starts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::log::{CommittedOffsets, Isolation, Log, NewTopic, ProducerSettings};
use crate::record::{NextOffset, OffsetVector, Outgoing};
use crate::task::names::Names;
use crate::topology::Statement;

/// Format version of the records. Readers accept this and the one before.
const FORMAT: u32 = 1;

/// One version of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRecord {
    pub format: u32,
    pub generation: u32,
    pub fingerprint: String,
    pub statements: Vec<StatementRecord>,
    /// Partition count by source topic: they belong to the generation.
    pub partitions: BTreeMap<String, i32>,
    /// The id of each source topic, where the broker tells it: one that is deleted and created again is another log.
    #[serde(default)]
    pub ids: BTreeMap<String, String>,
    /// Its group had an offset for every partition when it began: one that is missing later was lost.
    #[serde(default)]
    pub offsets: bool,
    /// Where its first run began: `topic:partition=offset,...`.
    pub from: String,
    /// The job that made it; absent for a live one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub job: Option<String>,
    /// Version of the program that wrote it.
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementRecord {
    pub kind: String,
    pub name: String,
    pub text: String,
    pub line: u64,
}

impl From<&Statement> for StatementRecord {
    fn from(statement: &Statement) -> StatementRecord {
        StatementRecord {
            kind: statement.kind.clone(),
            name: statement.name.clone(),
            text: statement.text.clone(),
            line: statement.line,
        }
    }
}

impl From<&StatementRecord> for Statement {
    fn from(record: &StatementRecord) -> Statement {
        Statement {
            kind: record.kind.clone(),
            name: record.name.clone(),
            text: record.text.clone(),
            line: record.line,
            column: 1,
        }
    }
}

/// A backfill: what it was asked for, resolved to numbers, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    pub format: u32,
    pub job: String,
    pub generation: u32,
    /// `topic:partition=offset,...`
    pub from: String,
    pub to: String,
    /// Sink to topic.
    pub outputs: BTreeMap<String, String>,
    pub finish: bool,
    pub state: JobState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Running,
    Finished,
}

/// What the control topic says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    pub generations: BTreeMap<u32, GenerationRecord>,
    /// The generation that writes the live sinks.
    pub live: Option<u32>,
    pub jobs: BTreeMap<String, JobRecord>,
}

impl Control {
    pub fn live(&self) -> Option<&GenerationRecord> {
        self.generations.get(&self.live?)
    }

    pub fn next_generation(&self) -> u32 {
        self.generations.keys().max().map_or(1, |last| last + 1)
    }
}

/// Reads the control topic to its end; empty when it does not exist.
pub fn read(log: &dyn Log, names: &Names) -> Result<Control> {
    let topic = names.control();
    if log.topic(&topic)?.is_none() {
        return Ok(Control::default());
    }
    let partition = topic.partition(0);
    let only = std::slice::from_ref(&partition);
    let start = log.start_offsets(only)?[&partition];
    let end = log.end_offsets(only, Isolation::Committed)?[&partition];
    let mut control = Control::default();
    if start >= end {
        return Ok(control);
    }
    let mut reader = log.reader(Isolation::Committed, &OffsetVector::from([(partition.clone(), start)]))?;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while reader.positions()[&partition] < end {
        for chunk in reader.poll(Duration::from_millis(100), 10_000)? {
            for row in 0..chunk.len() {
                let key = String::from_utf8_lossy(chunk.keys.get(row).unwrap_or_default()).into_owned();
                let place = format!("{partition} offset {}", chunk.offsets[row]);
                control.apply(&key, chunk.values.get(row)).map_err(|e| e.context(place))?;
            }
        }
        if std::time::Instant::now() > deadline {
            return Err(Error::away(format!("{partition}: not read to its end {end} within 30 s")));
        }
    }
    Ok(control)
}

impl Control {
    fn apply(&mut self, key: &str, value: Option<&[u8]>) -> Result<()> {
        if let Some(number) = key.strip_prefix("generation.") {
            let number: u32 = number.parse().map_err(|_| Error::corrupt(format!("key \"{key}\" has no generation number")))?;
            match value {
                Some(value) => self.generations.insert(number, decode(value)?),
                None => self.generations.remove(&number),
            };
        } else if let Some(job) = key.strip_prefix("job.") {
            match value {
                Some(value) => self.jobs.insert(job.to_string(), decode(value)?),
                None => self.jobs.remove(job),
            };
        } else if key == "live" {
            self.live = value.map(decode).transpose()?;
        }
        Ok(())
    }
}

fn decode<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|e| {
        Error::corrupt(format!("the control record can't be read: {e}")).hint("a later version of tidemill may have written it")
    })
}

/// Changes to the control topic that happen together.
#[derive(Debug, Default)]
pub struct Change {
    records: Vec<(String, Option<Vec<u8>>)>,
}

impl Change {
    pub fn generation(mut self, record: &GenerationRecord) -> Change {
        self.put(format!("generation.{}", record.generation), record);
        self
    }

    pub fn live(mut self, generation: u32) -> Change {
        self.put("live".into(), &generation);
        self
    }

    /// No generation is live: the next run begins a new one.
    pub fn no_live(mut self) -> Change {
        self.records.push(("live".into(), None));
        self
    }

    pub fn job(mut self, record: &JobRecord) -> Change {
        self.put(format!("job.{}", record.job), record);
        self
    }

    fn put(&mut self, key: String, value: &impl Serialize) {
        self.records.push((key, Some(serde_json::to_vec(value).expect("records have string keys only"))));
    }
}

pub fn new_generation(generation: u32, fingerprint: &str, statements: &[Statement], from: &OffsetVector) -> GenerationRecord {
    GenerationRecord {
        format: FORMAT,
        generation,
        fingerprint: fingerprint.to_string(),
        statements: statements.iter().map(StatementRecord::from).collect(),
        partitions: BTreeMap::new(),
        ids: BTreeMap::new(),
        offsets: false,
        from: super::bounds::show(from),
        job: None,
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

pub fn new_job(
    job: &str,
    generation: u32,
    from: &OffsetVector,
    to: &OffsetVector,
    outputs: BTreeMap<String, String>,
    finish: bool,
) -> JobRecord {
    JobRecord {
        format: FORMAT,
        job: job.to_string(),
        generation,
        from: super::bounds::show(from),
        to: super::bounds::show(to),
        outputs,
        finish,
        state: JobState::Running,
    }
}

/// The topic itself: compacted, one partition.
pub fn new_topic(names: &Names, replication: i32) -> NewTopic {
    let config = BTreeMap::from([("cleanup.policy".to_string(), "compact".to_string())]);
    NewTopic { topic: names.control(), partitions: 1, replication, config }
}

/// Writes changes in one transaction. `instance` names the writer.
pub fn write(log: &dyn Log, names: &Names, instance: &str, change: Change) -> Result<()> {
    let mut records = Outgoing::default();
    let now = chrono::Utc::now().timestamp_millis();
    for (key, value) in &change.records {
        records.push(0, now, Some(key.as_bytes()), value.as_deref(), Vec::new());
    }
    let id = format!("{}{}.control.{instance}", names.prefix, names.pipeline);
    let settings = ProducerSettings { transactional_id: Some(id), transaction_timeout: Duration::from_secs(15) };
    let mut producer = log.producer(&settings)?;
    producer.begin()?;
    producer.send(&names.control(), &records)?;
    producer.commit(&CommittedOffsets::new(), None)
}

/// A vector as a control record holds it.
pub fn parse_vector(text: &str) -> Result<BTreeMap<crate::record::TopicPartition, NextOffset>> {
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    match text.parse()? {
        super::bounds::Bound::Offsets(offsets) => Ok(offsets),
        _ => Err(Error::corrupt(format!("\"{text}\" is no offset vector"))),
    }
}
