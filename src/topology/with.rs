//! `WITH ('key' = 'value')`: known options, checked; unknown ones refused with where they belong.

use std::collections::BTreeMap;

use super::NullValue;
use super::ddl::{Name, WithOption};
use super::fault::{Fault, Place, Result};
use crate::codec::KeyFormat;
use crate::error::BadClass;
use crate::operator::ingest::OnViolation;
use crate::operator::temporal_join::BeforeFirst;

/// What the options of a stream or a sink say.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub topic: Option<Name>,
    pub key_format: Option<KeyFormat>,
    pub key_fields: Vec<Name>,
    pub key_prefix: String,
    pub except_key: bool,
    pub null_value: Option<NullValue>,
    /// `Some(None)`: not checked.
    pub max_ahead_micros: Option<Option<i64>>,
    pub value_subject: Option<String>,
    pub key_subject: Option<String>,
    pub trusted: bool,
    pub on_bad: BTreeMap<BadClass, OnViolation>,
    pub partitions: Option<i32>,
    pub before_first: BeforeFirst,
}

/// Whose options they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stream,
    Table,
    Sink,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Stream => "stream",
            Kind::Table => "table",
            Kind::Sink => "sink",
        }
    }
}

const STREAM: [&str; 13] = [
    "connector",
    "topic",
    "format",
    "value.format",
    "key.format",
    "key.fields",
    "key.fields-prefix",
    "value.fields-include",
    "tombstones",
    "max_ahead",
    "value.subject",
    "key.subject",
    "partitioner",
];

const TABLE: [&str; 13] = [
    "connector",
    "topic",
    "format",
    "value.format",
    "key.format",
    "key.fields",
    "key.fields-prefix",
    "value.fields-include",
    "max_ahead",
    "value.subject",
    "key.subject",
    "partitioner",
    "before_first",
];

const SINK: [&str; 9] = [
    "connector",
    "topic",
    "format",
    "value.format",
    "key.format",
    "value.fields-include",
    "value.subject",
    "key.subject",
    "partitions",
];

/// Reads the options of a stream, a table or a sink.
pub(super) fn options(given: &[WithOption], kind: Kind) -> Result<Options> {
    let sink = kind == Kind::Sink;
    let known: &[&str] = match kind {
        Kind::Stream => &STREAM,
        Kind::Table => &TABLE,
        Kind::Sink => &SINK,
    };
    let mut options = Options::default();
    let mut seen: Vec<&str> = Vec::new();
    for WithOption { key, value } in given {
        let name = key.value.as_str();
        if seen.contains(&name) {
            return Err(Fault::new(format!("option '{name}' is given twice")).at(key.place));
        }
        seen.push(name);
        let class = name.strip_prefix("on.");
        if !known.contains(&name) && (sink || class.is_none()) {
            return Err(unknown(key, kind, known));
        }
        let read = match class {
            Some(class) => on_bad(&mut options, class, value).map_err(|f| f.at(key.place)),
            None => option(&mut options, name, value),
        };
        read.map_err(|fault| fault.at(value.place))?;
    }
    Ok(options)
}

fn option(options: &mut Options, name: &str, value: &Name) -> Result<()> {
    let text = value.value.as_str();
    if text.is_empty() && name != "key.fields-prefix" {
        return Err(Fault::new(format!("option '{name}' is empty")));
    }
    match name {
        "connector" => choose(name, text, &[("kafka", ()), ("upsert-kafka", ())])?,
        "topic" => options.topic = Some(value.clone()),
        "format" | "value.format" => format(name, text)?,
        "key.format" => options.key_format = Some(key_format(text)?),
        "key.fields" => options.key_fields = names(value)?,
        "key.fields-prefix" => options.key_prefix = text.to_owned(),
        "value.fields-include" => options.except_key = choose(name, text, &[("ALL", false), ("EXCEPT_KEY", true)])?,
        "tombstones" => {
            if text == "row" {
                return Err(Fault::new("'tombstones' = 'row' is not in this release").hint("use 'skip' or 'dead_letter'"));
            }
            options.null_value = Some(choose(name, text, &[("skip", NullValue::Skip), ("dead_letter", NullValue::DeadLetter)])?);
        }
        "max_ahead" => {
            let read = if text == "none" { Some(None) } else { super::interval::duration(text).map(Some) };
            let Some(read) = read else {
                return Err(
                    Fault::new(format!("'max_ahead' = '{text}' is not a duration")).hint("write '1 d', '10 min' or 'none'")
                );
            };
            options.max_ahead_micros = Some(read);
        }
        "before_first" => {
            let read = [("none", BeforeFirst::None), ("first_known", BeforeFirst::FirstKnown)];
            options.before_first = choose(name, text, &read)?;
        }
        "value.subject" => options.value_subject = Some(text.to_owned()),
        "key.subject" => options.key_subject = Some(text.to_owned()),
        "partitioner" => match text {
            "trusted" => options.trusted = true,
            "murmur2" | "none" => {
                return Err(
                    Fault::new(format!("'partitioner' = '{text}' is not in this release")).hint("use 'trusted' or leave it out")
                );
            }
            _ => choose(name, text, &[("trusted", ())])?,
        },
        "partitions" => {
            options.partitions = match text.parse::<i32>() {
                Ok(count) if count > 0 => Some(count),
                _ => return Err(Fault::new(format!("'partitions' = '{text}' is not a number above zero"))),
            }
        }
        _ => return Err(Fault::new(format!("option '{name}' is not known"))),
    }
    Ok(())
}

fn on_bad(options: &mut Options, class: &str, value: &Name) -> Result<()> {
    let Some(class) = BadClass::ALL.into_iter().find(|c| c.as_str() == class) else {
        return Err(Fault::new(format!("'on.{class}': there is no such class of bad record"))
            .nearest(class, BadClass::ALL.map(BadClass::as_str)));
    };
    let known = [("dead_letter", OnViolation::DeadLetter), ("drop", OnViolation::Drop), ("fail", OnViolation::Fail)];
    let policy = choose(&format!("on.{class}"), &value.value, &known).map_err(|f| f.at(value.place))?;
    options.on_bad.insert(class, policy);
    Ok(())
}

fn choose<T: Copy>(name: &str, given: &str, known: &[(&str, T)]) -> Result<T> {
    if let Some((_, value)) = known.iter().find(|(text, _)| *text == given) {
        return Ok(*value);
    }
    let all: Vec<String> = known.iter().map(|(text, _)| format!("'{text}'")).collect();
    Err(Fault::new(format!("'{name}' = '{given}' is not known: it is {}", all.join(" or ")))
        .nearest(given, known.iter().map(|(t, _)| *t)))
}

fn format(name: &str, text: &str) -> Result<()> {
    match text {
        "avro" | "avro-confluent" => Ok(()),
        "json"
        | "debezium-json"
        | "debezium-avro-confluent"
        | "csv"
        | "raw"
        | "protobuf"
        | "protobuf-confluent"
        | "canal-json" => Err(Fault::new(format!("'{name}' = '{text}' is not in this release")).hint("values are Avro: 'avro'")),
        _ => choose(name, text, &[("avro", ()), ("avro-confluent", ())]),
    }
}

fn key_format(text: &str) -> Result<KeyFormat> {
    match text {
        "avro" | "avro-confluent" => Ok(KeyFormat::Avro),
        // Flink's raw format takes the column's type; a text is the usual one.
        "string" | "raw" => Ok(KeyFormat::String),
        "json" => Ok(KeyFormat::Json),
        _ => choose(
            "key.format",
            text,
            &[
                ("avro", KeyFormat::Avro),
                ("json", KeyFormat::Json),
                ("string", KeyFormat::String),
                ("long", KeyFormat::Long),
                ("int", KeyFormat::Int),
                ("bytes", KeyFormat::Bytes),
            ],
        ),
    }
}

fn names(value: &Name) -> Result<Vec<Name>> {
    let names: Vec<Name> =
        value.value.split([';', ',']).map(|n| Name { value: n.trim().to_owned(), place: value.place }).collect();
    if names.iter().any(|n| n.value.is_empty()) {
        return Err(Fault::new(format!("'key.fields' = '{}' has an empty name", value.value)));
    }
    if let Some(twice) = names.iter().enumerate().find(|(n, name)| names[..*n].iter().any(|other| other.value == name.value)) {
        return Err(Fault::new(format!("'key.fields' names \"{}\" twice", twice.1.value)));
    }
    Ok(names)
}

fn unknown(key: &Name, kind: Kind, known: &[&str]) -> Fault {
    let name = key.value.as_str();
    let place: Option<Place> = key.place;
    if let Some(hint) = elsewhere(name) {
        return Fault::new(format!("option '{name}' does not belong in SQL")).at(place).hint(hint);
    }
    let others = |what: &str, hint: &str| Fault::new(format!("option '{name}' is not one of a {what}")).at(place).hint(hint);
    let (sink, table) = (kind == Kind::Sink, kind == Kind::Table);
    match name {
        "partitions" if !sink => return others(kind.word(), "a topic that is read has its partitions already"),
        "tombstones" if table => return others("table", "a null value removes its key's row"),
        "before_first" if !table => return others(kind.word(), "it is an option of CREATE TABLE"),
        "key.fields" | "key.fields-prefix" if sink => return others("sink", "a sink's key is its PRIMARY KEY"),
        "partitioner" if sink => return others("sink", "a sink partitions as Java does, by its PRIMARY KEY"),
        _ if sink && STREAM.contains(&name) => return others("sink", "it is an option of CREATE STREAM"),
        _ if sink && name.starts_with("on.") => return others("sink", "bad records are a stream's: put it there"),
        _ => {}
    }
    let fault = Fault::new(format!("option '{name}' is not known")).at(place);
    match ksql(name) {
        Some(ours) => fault.hint(format!("{} is ksqlDB's: {ours}", name.to_uppercase())),
        None => fault.nearest(name, known.iter().copied()),
    }
}

/// Where Flink's other options belong.
fn elsewhere(name: &str) -> Option<&'static str> {
    Some(match name {
        "properties.bootstrap.servers" => "brokers are set in the config file, under [kafka]",
        "properties.group.id" => "the group is the pipeline's: SET 'pipeline.name' names it",
        _ if name.starts_with("properties.") => "clients' properties are set in the config file, under [kafka]",
        _ if name.starts_with("scan.startup") => {
            "where to start is given to the command: --from earliest, a timestamp, or topic:partition=offset"
        }
        _ if name.starts_with("scan.bounded") => "where to end is given to the command: backfill --to, or run --until-caught-up",
        "idle_after" | "scan.watermark.idle-timeout" => {
            "how long a partition may be quiet is set in the config file: [time] idle_after"
        }
        "quiet_after" => "when event time goes on by the clock is set in the config file: [time] quiet_after",
        _ if name.starts_with("scan.") => "how a topic is read is set in the config file",
        "sink.delivery-guarantee" | "sink.semantic" => "delivery is set in the config file: exactly_once or at_least_once",
        "sink.partitioner" => "a sink partitions as Java does, by its PRIMARY KEY",
        _ if name.starts_with("sink.") => "how a topic is written is set in the config file",
        _ if name.contains("schema-registry") || name.ends_with("avro-confluent.url") => {
            "the registry is set in the config file, under [registry]"
        }
        "value.avro-confluent.subject" | "avro-confluent.subject" => "write 'value.subject'",
        "key.avro-confluent.subject" => "write 'key.subject'",
        "topic-pattern" => "a stream reads one topic: 'topic'",
        _ => return None,
    })
}

/// What ksqlDB's option is called here.
pub(super) fn ksql(name: &str) -> Option<&'static str> {
    Some(match name.to_uppercase().as_str() {
        "KAFKA_TOPIC" => "write 'topic' = '...'",
        "VALUE_FORMAT" => "write 'format' = 'avro'",
        "KEY_FORMAT" => "write 'key.format' = '...'",
        "FORMAT" => "write 'format' = 'avro'",
        "PARTITIONS" => "write 'partitions' = '...' (of a sink)",
        "REPLICAS" => "replication is set in the config file",
        "TIMESTAMP" => "declare WATERMARK FOR the column",
        "TIMESTAMP_FORMAT" => "compute the column: ts AS to_timestamp(text, format)",
        "KEY" => "write 'key.fields' = '...'",
        "VALUE_AVRO_SCHEMA_FULL_NAME" | "VALUE_SCHEMA_ID" => "write 'value.subject' = '...'",
        "WRAP_SINGLE_VALUE" => "values are always records",
        _ => return None,
    })
}
