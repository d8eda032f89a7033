//! `tidemill dlq`: dead letters of a pipeline, with where they came from and why.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::context::Context;
use super::decode::{Decoder, Form, base64, time};
use super::range;
use super::report::Exit;
use super::show::{Listing, Row, line, row};
use crate::codec::wire;
use crate::error::{BadClass, Error, Result, nearest};
use crate::log::Isolation;
use crate::record::{Chunk, Header};
use crate::task::letters;
use crate::task::names::Names;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// One line per dead letter, the newest last
    List(Which),
    /// Dead letters in full: value, original bytes, headers
    Show(Which),
}

#[derive(Debug, clap::Args)]
pub struct Which {
    /// The pipeline's name
    #[arg(value_name = "PIPELINE")]
    pub pipeline: String,
    /// Only this class: wire, schema, decode, key, null, time, future, check, expression, too_large
    #[arg(long, value_parser = class)]
    pub class: Option<BadClass>,
    /// Only the letter at this place of the dead-letter topic, as "list" shows it: partition:offset
    #[arg(long, value_name = "P:OFFSET", value_parser = place)]
    pub at: Option<(i32, i64)>,
    /// The newest N
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    #[command(flatten)]
    pub listing: Listing,
}

fn class(text: &str) -> Result<BadClass> {
    BadClass::ALL.into_iter().find(|class| class.as_str() == text).ok_or_else(|| {
        let known = BadClass::ALL.map(BadClass::as_str);
        let near = nearest(text, known).map(|near| format!("did you mean \"{near}\"? ")).unwrap_or_default();
        Error::config(format!("there is no class \"{text}\"")).hint(format!("{near}classes are {}", known.join(", ")))
    })
}

fn place(text: &str) -> Result<(i32, i64)> {
    let parsed = text.split_once(':').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parsed.ok_or_else(|| Error::config(format!("\"{text}\" is no place")).hint("give partition:offset, such as 0:17"))
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let (which, full) = match &args.command {
        Command::List(which) => (which, false),
        Command::Show(which) => (which, true),
    };
    let log = context.log()?;
    let names = Names::new(context.name_prefix(), &which.pipeline, 1)?;
    let info = range::topic(log.as_ref(), names.dead().as_str())?;
    let partitions = range::partitions(&info);
    let (start, end) = (log.start_offsets(&partitions)?, log.end_offsets(&partitions, Isolation::Committed)?);
    let registry = context.registry()?;
    let mut decoder = Decoder::new(registry.as_ref());
    let mut newest: VecDeque<(i64, Row)> = VecDeque::new();
    range::read(log.as_ref(), Isolation::Committed, &start, Some(&end), |chunk| {
        for at in 0..chunk.len() {
            if !matches(which, chunk, at) {
                continue;
            }
            let row = if full { letter(&mut decoder, chunk, at) } else { summary(chunk, at) };
            newest.push_back((chunk.timestamps[at], row));
            if newest.len() > which.limit * 2 + 1_000 {
                keep(&mut newest, which.limit);
            }
        }
        ControlFlow::Continue(())
    })?;
    keep(&mut newest, which.limit);
    let rows: Vec<Row> = newest.into_iter().map(|(_, row)| row).collect();
    if !full || which.listing.is_json() {
        which.listing.rows(&rows, "no dead letters");
    } else if rows.is_empty() {
        line("no dead letters");
    } else {
        rows.iter().for_each(|row| line(&in_full(row)));
    }
    Ok(Exit::Done)
}

/// Keeps the newest, in the order of their time: partitions arrive interleaved.
fn keep(letters: &mut VecDeque<(i64, Row)>, limit: usize) {
    letters.make_contiguous().sort_by_key(|(at, _)| *at);
    let over = letters.len().saturating_sub(limit);
    letters.drain(..over);
}

fn matches(which: &Which, chunk: &Chunk, at: usize) -> bool {
    let here = (chunk.partition.partition.0, chunk.offsets[at].0);
    which.at.is_none_or(|place| place == here)
        && which.class.is_none_or(|class| find(chunk, at, letters::CLASS).as_deref() == Some(class.as_str()))
}

/// A header of ours. The last one counts: an original record may bring one of the same name.
fn find(chunk: &Chunk, at: usize, name: &str) -> Option<String> {
    let header = chunk.row_headers(at).iter().rev().find(|header| header.name == name)?;
    Some(String::from_utf8_lossy(header.value.as_deref()?).into_owned())
}

fn number(chunk: &Chunk, at: usize, name: &str) -> Option<i64> {
    find(chunk, at, name)?.parse().ok()
}

fn summary(chunk: &Chunk, at: usize) -> Row {
    row! {
        "at": format!("{}:{}", chunk.partition.partition, chunk.offsets[at]),
        "time": time(chunk.timestamps[at]),
        "class": find(chunk, at, letters::CLASS),
        "topic": find(chunk, at, letters::TOPIC),
        "partition": number(chunk, at, letters::PARTITION),
        "offset": number(chunk, at, letters::OFFSET),
        "operator": find(chunk, at, letters::OPERATOR),
        "message": find(chunk, at, letters::MESSAGE),
    }
}

fn letter(decoder: &mut Decoder<'_>, chunk: &Chunk, at: usize) -> Row {
    let mut row = summary(chunk, at);
    row.insert("generation".into(), serde_json::json!(number(chunk, at, letters::GENERATION)));
    let key = decoder.show(chunk.keys.get(at), Form::Auto, chunk.row_headers(at), wire::KEY_HEADER);
    let value = decoder.show(chunk.values.get(at), Form::Auto, chunk.row_headers(at), wire::VALUE_HEADER);
    let bytes = |bytes: Option<&[u8]>| bytes.map_or(serde_json::Value::Null, |bytes| base64(bytes)["base64"].clone());
    row.insert("schema_id".into(), serde_json::json!(value.schema_id));
    row.insert("key".into(), key.value);
    row.insert("value".into(), value.value);
    row.insert("fault".into(), serde_json::json!(value.fault));
    row.insert("key_base64".into(), bytes(chunk.keys.get(at)));
    row.insert("value_base64".into(), bytes(chunk.values.get(at)));
    let original = |header: &&Header| !header.name.starts_with(letters::HEADER_PREFIX);
    let headers: Vec<serde_json::Value> = chunk
        .row_headers(at)
        .iter()
        .filter(original)
        .map(|header| serde_json::json!({ "name": header.name, "value": header.value.as_deref().map(super::decode::text) }))
        .collect();
    row.insert("headers".into(), headers.into());
    row
}

fn in_full(row: &Row) -> String {
    let mut text = String::new();
    for (name, value) in row.iter().filter(|(_, value)| !value.is_null()) {
        let shown = value.as_str().map(str::to_string).unwrap_or_else(|| value.to_string());
        text.push_str(&format!("{name:<13} {}\n", shown.replace('\n', "\n              ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{NextOffset, Offset, Topic};

    #[test]
    fn a_letter_is_found_by_its_class_and_place() {
        let mut chunk = Chunk::empty(Topic::new("tidemill.p.dead").partition(2), NextOffset(0));
        let headers =
            vec![Header::new(letters::CLASS, "mine"), Header::new(letters::CLASS, "wire"), Header::new(letters::OFFSET, "17")];
        chunk.push(Offset(5), 0, None, Some(b"x"), headers);
        let mut which = Which {
            pipeline: "p".into(),
            class: Some(BadClass::Wire),
            at: None,
            limit: 1,
            listing: Listing { output: super::super::show::Format::Text },
        };
        assert!(matches(&which, &chunk, 0), "our header stands after the original's");
        which.class = Some(BadClass::Check);
        assert!(!matches(&which, &chunk, 0));
        (which.class, which.at) = (None, Some((2, 5)));
        assert!(matches(&which, &chunk, 0));
        which.at = Some((2, 6));
        assert!(!matches(&which, &chunk, 0));
        assert_eq!(summary(&chunk, 0)["offset"], serde_json::json!(17));
        assert!(class("wires").unwrap_err().hint.unwrap().contains("\"wire\""));
    }
}
