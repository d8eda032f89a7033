//! What the control topic of a pipeline says: which generation is live, which is on its way there, and the jobs with their vectors.
//!
//! Compacted; keys are `generation.<N>`, `live`, `promotion` and `job.<name>`, values JSON with a format version. [`super::ledger`] reads
//! and changes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::log::{CommittedOffsets, NewTopic};
use crate::record::{NextOffset, OffsetVector, Timestamp, Topic};
use crate::task::names::Names;
use crate::topology::Statement;

/// Format version of the records. Readers accept this and the one before.
pub(super) const FORMAT: u32 = 1;

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
    /// The job that made it; absent for one that began live.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub job: Option<String>,
    /// It began in mid-log: windows that start before this (microseconds) would be incomplete and are never emitted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub emit_from: Option<i64>,
    /// Where it stood when another took its place: `topic:partition=offset,...`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_at: Option<String>,
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
    /// It was asked not to follow recorded decisions.
    #[serde(default)]
    pub ignore_decisions: bool,
    /// It becomes live when it has come to its end.
    #[serde(default)]
    pub then_live: bool,
    /// How far the decisions' topic had been read when the job began on its way to `to`. A decision that was recorded later about an offset
    /// before `to` was not followed.
    #[serde(default)]
    pub decisions: i64,
    /// The promotion for which it went to `to`, where the former generation had stopped.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt: Option<String>,
    pub state: JobState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Running,
    /// At `to`.
    Finished,
    /// Its generation is live.
    Live,
    /// Given up: its group and internal topics are gone.
    Cancelled,
}

impl JobState {
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Finished => "finished",
            JobState::Live => "live",
            JobState::Cancelled => "cancelled",
        }
    }
}

/// A generation on its way to take the live one's place. Drawn in [`super::promote`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionRecord {
    pub format: u32,
    /// Tells it from an earlier one of the same generations that was given up.
    pub attempt: String,
    /// The candidate.
    pub generation: u32,
    /// The live one, which stops.
    pub former: u32,
    /// Where the former one stopped: its committed offsets once its group was empty. Absent until then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<String>,
}

/// What a generation may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stance {
    /// Read on and write the live sinks.
    Live,
    /// It is being replaced and has stopped: it only publishes what it has shuffled, up to its vector.
    Drain(PromotionRecord),
    /// Nothing; why.
    Standby(String),
}

/// What the control topic says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    pub generations: BTreeMap<u32, GenerationRecord>,
    /// The generation that writes the live sinks.
    pub live: Option<u32>,
    /// While it is there the live generation reads nothing more.
    pub promotion: Option<PromotionRecord>,
    pub jobs: BTreeMap<String, JobRecord>,
}

impl Control {
    pub fn live(&self) -> Option<&GenerationRecord> {
        self.generations.get(&self.live?)
    }

    /// What the generation may do now.
    pub fn stance(&self, generation: u32) -> Stance {
        let standby = |text: String| Stance::Standby(text);
        match (&self.promotion, self.live) {
            (None, Some(live)) if live == generation => Stance::Live,
            (_, None) => standby("no generation is live".to_string()),
            (_, Some(live)) if live != generation => standby(format!("generation {live} is live")),
            (Some(promotion), _) if promotion.at.is_some() => Stance::Drain(promotion.clone()),
            (Some(promotion), _) => standby(format!("generation {} is taking its place", promotion.generation)),
            (None, Some(_)) => unreachable!("the live generation without a promotion was the first case"),
        }
    }

    /// The job whose shadow a generation writes.
    pub fn job_of(&self, generation: u32) -> Option<&JobRecord> {
        self.jobs.values().find(|job| job.generation == generation)
    }

    /// The job that fills a topic at the moment.
    pub fn writer_of(&self, topic: &Topic) -> Option<&JobRecord> {
        let writes = |job: &&JobRecord| job.state == JobState::Running && job.outputs.values().any(|to| to == topic.as_str());
        self.jobs.values().find(writes)
    }

    pub fn next_generation(&self) -> u32 {
        self.generations.keys().max().map_or(1, |last| last + 1)
    }
}

impl Control {
    /// Takes one record of the topic.
    pub(super) fn apply(&mut self, key: &str, value: Option<&[u8]>) -> Result<()> {
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
        } else if key == "promotion" {
            self.promotion = value.map(decode).transpose()?;
        }
        Ok(())
    }
}

fn decode<T: serde::de::DeserializeOwned>(value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|e| {
        Error::corrupt(format!("the control record can't be read: {e}")).hint("a later version of tidemill may have written it")
    })
}

/// Changes to the control topic that happen together, and the offsets with which the group of a generation begins.
#[derive(Debug, Default)]
pub struct Change {
    pub(super) records: Vec<(String, Option<Vec<u8>>)>,
    pub(super) offsets: CommittedOffsets,
}

impl Change {
    pub fn generation(mut self, record: &GenerationRecord) -> Change {
        self.put(format!("generation.{}", record.generation), record);
        self
    }

    /// Where the group of the generation begins: there with its record, or not at all.
    pub fn offsets(mut self, offsets: CommittedOffsets) -> Change {
        self.offsets = offsets;
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

    pub fn promotion(mut self, record: &PromotionRecord) -> Change {
        self.put("promotion".into(), record);
        self
    }

    pub fn no_promotion(mut self) -> Change {
        self.records.push(("promotion".into(), None));
        self
    }

    pub fn job(mut self, record: &JobRecord) -> Change {
        self.put(format!("job.{}", record.job), record);
        self
    }

    pub fn no_job(mut self, job: &str) -> Change {
        self.records.push((format!("job.{job}"), None));
        self
    }

    fn put(&mut self, key: String, value: &impl Serialize) {
        self.records.push((key, Some(serde_json::to_vec(value).expect("records have string keys only"))));
    }
}

impl GenerationRecord {
    pub fn emit_from(&self) -> Option<Timestamp> {
        self.emit_from.map(Timestamp)
    }
}

impl PromotionRecord {
    pub fn new(generation: u32, former: u32) -> PromotionRecord {
        let attempt = format!("{:016x}", rand::random::<u64>());
        PromotionRecord { format: FORMAT, attempt, generation, former, at: None }
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
        emit_from: None,
        ended_at: None,
        version: env!("CARGO_PKG_VERSION").into(),
    }
}

/// The topic itself: compacted, one partition.
pub fn new_topic(names: &Names, replication: i32) -> NewTopic {
    let config = BTreeMap::from([("cleanup.policy".to_string(), "compact".to_string())]);
    NewTopic { topic: names.control(), partitions: 1, replication, config }
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
