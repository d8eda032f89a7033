//! A golden case as a folder: pipeline, contracts, inputs, expected rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine;
use serde::Deserialize;
use serde_json::Value;

use crate::codec::KeyFormat;
use crate::codec::json::to_avro;
use crate::codec::wire::frame;
use crate::contract::Contracts;
use crate::contract::files::FileContracts;
use crate::error::{Error, Result};
use crate::record::{Header, Topic};
use crate::topology::{self, Options, SqlFile, Topology};

/// `case.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaseSettings {
    /// Whether the input is all there will ever be: windows still open are emitted at the end.
    #[serde(rename = "final")]
    pub finish: bool,
    /// Partition count of every topic, or a table of counts by topic; by default the highest partition that an input names, plus one.
    pub partitions: Counts,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Counts {
    OfAll(i32),
    ByTopic(BTreeMap<String, i32>),
}

impl Default for CaseSettings {
    fn default() -> CaseSettings {
        CaseSettings { finish: true, partitions: Counts::ByTopic(BTreeMap::new()) }
    }
}

/// One line of an input, encoded.
#[derive(Clone, Debug)]
pub enum Input {
    Record {
        topic: Topic,
        partition: i32,
        timestamp: i64,
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<Header>,
    },
    /// The idle decision is made here.
    Idle {
        topic: Topic,
        partition: i32,
    },
    /// All streams have been quiet for as long as it takes to close the last windows.
    Quiet {
        topic: Topic,
    },
}

impl Input {
    /// Where it stands; what is about all streams, in a partition that every topic has.
    pub fn place(&self) -> (&Topic, i32) {
        match self {
            Input::Record { topic, partition, .. } | Input::Idle { topic, partition } => (topic, *partition),
            Input::Quiet { topic } => (topic, 0),
        }
    }
}

pub struct Case {
    pub name: String,
    pub dir: PathBuf,
    pub topology: Topology,
    pub contracts: FileContracts,
    /// All inputs, merged by timestamp; each file's order is kept.
    pub inputs: Vec<Input>,
    /// Of topics that have another number of partitions than the others.
    counts: BTreeMap<Topic, i32>,
    /// Of the others.
    partitions: i32,
    pub finish: bool,
    /// Expected rows by file stem (a sink's name, or its topic's).
    pub expected: BTreeMap<String, Vec<Value>>,
    pub dead: Option<BTreeSet<Letter>>,
    pub late: Option<BTreeSet<Letter>>,
}

/// A dead letter or a late row, by the coordinates of its record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Letter {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    #[serde(default)]
    pub class: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    partition: Option<i32>,
    #[serde(default)]
    timestamp: Option<Value>,
    #[serde(default)]
    key: Option<Value>,
    #[serde(default)]
    value: Option<Value>,
    #[serde(default)]
    raw: Option<String>,
    #[serde(default)]
    schema: Option<String>,
    #[serde(default)]
    headers: Option<Value>,
    #[serde(default)]
    idle: bool,
    #[serde(default)]
    quiet: bool,
}

impl Case {
    pub fn open(dir: &Path, options: &Options) -> Result<Case> {
        let name = dir.file_name().map_or_else(|| dir.display().to_string(), |name| name.to_string_lossy().into_owned());
        let sql = dir.join("pipeline.sql");
        let file = SqlFile { name: sql.display().to_string(), text: read(&sql)? };
        let contracts = FileContracts::open(dir.join("contracts"))?;
        let settings = settings(&dir.join("case.toml"))?;
        let counts: BTreeMap<Topic, i32> = match &settings.partitions {
            Counts::OfAll(_) => BTreeMap::new(),
            Counts::ByTopic(counts) => counts.iter().map(|(topic, count)| (Topic::new(topic), *count)).collect(),
        };
        let options = Options { default_name: Some(name.clone()), partitions: counts.clone(), ..options.clone() };
        let mut topology = topology::compile(&file, &contracts, &options)?;
        // A case need not name its pipeline: its folder does.
        topology.named = true;
        let mut files: Vec<Vec<(i64, Input)>> = Vec::new();
        for path in listing(&dir.join("input"), "jsonl")? {
            files.push(inputs(&path, &topology, &contracts)?);
        }
        let inputs = merge(files);
        for (topic, partition) in inputs.iter().map(Input::place) {
            if counts.get(topic).is_some_and(|count| partition >= *count) {
                let path = dir.join("case.toml");
                return Err(Error::config(format!(
                    "{}: topic \"{topic}\" has an input of partition {partition}",
                    path.display()
                ))
                .hint("give it as many partitions as its input names"));
            }
        }
        let others = inputs.iter().map(Input::place).filter(|(topic, _)| !counts.contains_key(*topic));
        let highest = others.map(|(_, partition)| partition + 1).max().unwrap_or(1);
        let partitions = if let Counts::OfAll(count) = settings.partitions { count.max(highest) } else { highest };
        if !counts.is_empty() {
            // Planned anew with what the inputs say of the other topics.
            let all = topology.sources.iter().map(|source| &source.topic);
            let all = all.map(|topic| (topic.clone(), counts.get(topic).copied().unwrap_or(partitions))).collect();
            topology = topology::compile(&file, &contracts, &Options { partitions: all, ..options })?;
            topology.named = true;
        }
        let mut expected = BTreeMap::new();
        let (mut dead, mut late) = (None, None);
        for path in listing(&dir.join("expected"), "jsonl")? {
            match stem(&path).as_str() {
                "dead_letter" => dead = Some(lines(&path)?.into_iter().collect()),
                "late" => late = Some(lines(&path)?.into_iter().collect()),
                sink => {
                    if !topology.sinks.iter().any(|s| s.name == sink || s.topic.as_str() == sink) {
                        let known: Vec<&str> = topology.sinks.iter().map(|s| s.name.as_str()).collect();
                        return Err(Error::config(format!("{}: the pipeline has no sink \"{sink}\"", path.display()))
                            .hint(format!("its sinks are {}", known.join(", "))));
                    }
                    expected.insert(sink.to_string(), lines(&path)?);
                }
            }
        }
        Ok(Case {
            name,
            dir: dir.to_path_buf(),
            topology,
            contracts,
            inputs,
            counts,
            partitions,
            finish: settings.finish,
            expected,
            dead,
            late,
        })
    }
}

impl Case {
    /// How many partitions a topic has.
    pub fn partitions(&self, topic: &Topic) -> i32 {
        self.counts.get(topic).copied().unwrap_or(self.partitions)
    }
}

/// The cases that a path means: itself, or the folders in it.
pub fn find(path: &Path) -> Result<Vec<PathBuf>> {
    if path.join("pipeline.sql").is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| {
        Error::config(format!("{}: {e}", path.display())).hint("name a folder with a pipeline.sql, or a folder of such folders")
    })?;
    let mut cases: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.join("pipeline.sql").is_file()).collect();
    cases.sort();
    if cases.is_empty() {
        return Err(Error::config(format!("{} holds no case", path.display()))
            .hint("a case is a folder with pipeline.sql, contracts/, input/ and expected/"));
    }
    Ok(cases)
}

fn settings(path: &Path) -> Result<CaseSettings> {
    if !path.exists() {
        return Ok(CaseSettings::default());
    }
    toml::from_str(&read(path)?)
        .map_err(|e| Error::config(format!("{}: {e}", path.display())).hint("known keys: final, partitions"))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Error::config(format!("{}: {e}", path.display())).hint("the file must be readable UTF-8"))
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn listing(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    Ok(files)
}

fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = read(path)?;
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(at, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            Error::config(format!("{}:{}:{}: {e}", path.display(), at + 1, e.column())).hint("one JSON object per line")
        })
    };
    numbered.map(parse).collect()
}

/// Merges the files by timestamp; a line never overtakes one of its own file.
fn merge(mut files: Vec<Vec<(i64, Input)>>) -> Vec<Input> {
    files.iter_mut().for_each(|file| file.reverse());
    let mut merged = Vec::new();
    while let Some(next) = (0..files.len()).filter(|f| !files[*f].is_empty()).min_by_key(|f| files[*f].last().map(|(at, _)| *at))
    {
        merged.extend(files[next].pop().map(|(_, input)| input));
    }
    merged
}

fn inputs(path: &Path, topology: &Topology, contracts: &FileContracts) -> Result<Vec<(i64, Input)>> {
    let topic = Topic::new(stem(path));
    let mut highest = i64::MIN;
    let mut inputs = Vec::new();
    for (at, line) in lines::<Line>(path)?.into_iter().enumerate() {
        let place = || format!("{}: record {}", path.display(), at + 1);
        let timestamp = match &line.timestamp {
            None => -1,
            Some(Value::Number(number)) => {
                number.as_i64().ok_or_else(|| Error::config(format!("{}: timestamp {number} is no integer", place())))?
            }
            Some(Value::String(text)) => chrono::DateTime::parse_from_rfc3339(text)
                .map_err(|e| Error::config(format!("{}: timestamp \"{text}\": {e}", place())))?
                .timestamp_millis(),
            Some(other) => return Err(Error::config(format!("{}: timestamp {other} is neither a string nor a number", place()))),
        };
        highest = highest.max(timestamp);
        let partition = || line.partition.ok_or_else(|| Error::config(format!("{}: it names no partition", place())));
        let input = match (line.idle, line.quiet) {
            (_, true) => Input::Quiet { topic: topic.clone() },
            (true, _) => Input::Idle { topic: topic.clone(), partition: partition()? },
            _ => record(&topic, partition()?, &line, timestamp, topology, contracts).map_err(|e| e.context(place()))?,
        };
        inputs.push((highest, input));
    }
    Ok(inputs)
}

fn record(
    topic: &Topic,
    partition: i32,
    line: &Line,
    timestamp: i64,
    topology: &Topology,
    contracts: &FileContracts,
) -> Result<Input> {
    let value = match (&line.raw, &line.value) {
        (Some(raw), _) => Some(decode_base64(raw)?),
        (None, None | Some(Value::Null)) => None,
        (None, Some(value)) => {
            let subject = line.schema.clone().unwrap_or_else(|| value_subject(topic, topology));
            Some(encode(contracts, &subject, value)?)
        }
    };
    let key = match &line.key {
        None | Some(Value::Null) => None,
        Some(key) => Some(encode_key(topic, key, topology, contracts)?),
    };
    Ok(Input::Record { topic: topic.clone(), partition, timestamp, key, value, headers: headers(line.headers.as_ref())? })
}

fn value_subject(topic: &Topic, topology: &Topology) -> String {
    let source = topology.sources.iter().find(|source| source.topic == *topic);
    source.map_or_else(|| format!("{topic}-value"), |source| source.value.subject.clone())
}

fn encode(contracts: &FileContracts, subject: &str, value: &Value) -> Result<Vec<u8>> {
    let contract = contracts.get(subject).or_else(|| contracts.get(subject.trim_end_matches(".avsc"))).ok_or_else(|| {
        Error::config(format!("there is no contract \"{subject}\"")).hint(format!("add contracts/{subject}.avsc"))
    })?;
    let mut bytes = frame(contract.id).to_vec();
    bytes.extend(to_avro(&contract.schema, value)?);
    Ok(bytes)
}

fn encode_key(topic: &Topic, key: &Value, topology: &Topology, contracts: &FileContracts) -> Result<Vec<u8>> {
    let declared = topology.sources.iter().find(|source| source.topic == *topic).and_then(|source| source.key_format);
    let format = match declared {
        Some(format) => format,
        None if contracts.key(topic, None)?.is_some() => KeyFormat::Avro,
        None => KeyFormat::String,
    };
    let number = || key.as_i64().ok_or_else(|| Error::config(format!("key {key} is no integer, as key.format has it")));
    Ok(match format {
        KeyFormat::Avro => encode(contracts, &format!("{topic}-key"), key)?,
        KeyFormat::Long => number()?.to_be_bytes().to_vec(),
        KeyFormat::Int => {
            i32::try_from(number()?).map_err(|_| Error::config(format!("key {key} does not fit an int")))?.to_be_bytes().to_vec()
        }
        KeyFormat::Json => key.to_string().into_bytes(),
        KeyFormat::Bytes => decode_base64(key.as_str().unwrap_or_default())?,
        KeyFormat::String => match key {
            Value::String(text) => text.as_bytes().to_vec(),
            other => other.to_string().into_bytes(),
        },
    })
}

fn headers(headers: Option<&Value>) -> Result<Vec<Header>> {
    let header = |name: &str, value: &Value| match value {
        Value::Null => Header { name: name.into(), value: None },
        Value::String(text) => Header::new(name, text),
        other => Header::new(name, other.to_string()),
    };
    match headers {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(fields)) => Ok(fields.iter().map(|(name, value)| header(name, value)).collect()),
        Some(other) => Err(Error::config(format!("headers {other} are no object"))),
    }
}

fn decode_base64(text: &str) -> Result<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| Error::config(format!("\"{text}\" is no base64: {e}")))
}
