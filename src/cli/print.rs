//! `tidemill print`: records of a topic, one line each.

use std::ops::ControlFlow;

use super::context::Context;
use super::decode::{Decoder, Form};
use super::range;
use super::report::Exit;
use super::show::{Listing, Row, line};
use crate::error::{Error, Result};
use crate::job::bounds::{self, Bound, Which};
use crate::log::{Isolation, Log};
use crate::record::{OffsetVector, TopicPartition};

#[derive(Debug, clap::Args)]
pub struct Args {
    pub topic: String,
    /// Where to begin: earliest, latest, a time, or topic:partition=offset,... (only these partitions then)
    #[arg(long, value_name = "BOUND", default_value = "earliest")]
    pub from: Bound,
    /// At most so many records
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Go on at the end of the topic, with what arrives
    #[arg(long)]
    pub follow: bool,
    /// Only this partition
    #[arg(long, value_name = "N")]
    pub partition: Option<i32>,
    /// How keys without a schema id are read
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub key: Form,
    /// How values without a schema id are read
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub value: Form,
    /// Show records of open and aborted transactions too
    #[arg(long)]
    pub uncommitted: bool,
    #[command(flatten)]
    pub listing: Listing,
}

pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let log = context.log()?;
    let registry = context.registry()?;
    let isolation = if args.uncommitted { Isolation::Uncommitted } else { Isolation::Committed };
    let (from, partitions) = start(args, log.as_ref())?;
    let to = if args.follow { None } else { Some(log.end_offsets(&partitions, isolation)?) };
    let mut decoder = Decoder::new(registry.as_ref());
    let mut left = args.limit.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(Exit::Done);
    }
    range::read(log.as_ref(), isolation, &from, to.as_ref(), |chunk| {
        for at in 0..chunk.len() {
            let row = decoder.record(chunk, at, args.key, args.value);
            line(&if args.listing.is_json() { serde_json::Value::Object(row).to_string() } else { text(&row) });
            left -= 1;
            if left == 0 {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(Exit::Done)
}

fn start(args: &Args, log: &dyn Log) -> Result<(OffsetVector, Vec<TopicPartition>)> {
    let info = range::topic(log, &args.topic)?;
    let mut partitions = range::partitions(&info);
    if let Some(only) = args.partition {
        partitions.retain(|at| at.partition.0 == only);
        if partitions.is_empty() {
            return Err(Error::config(format!("topic \"{}\" has no partition {only}", args.topic))
                .hint(format!("it has {} partitions, from 0", info.partitions)));
        }
    }
    if let Bound::Offsets(given) = &args.from {
        let named: Vec<TopicPartition> = partitions.iter().filter(|at| given.contains_key(at)).cloned().collect();
        if !named.is_empty() {
            partitions = named;
        }
    }
    Ok((bounds::resolve(log, &partitions, &args.from, Which::From)?, partitions))
}

/// `0:12  2026-01-01T00:00:00Z  key  value  name=header`
fn text(row: &Row) -> String {
    let plain = |name: &str| match &row[name] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "-".to_string(),
        other => other.to_string(),
    };
    let mut text = format!("{}:{}  {}  {}  {}", row["partition"], row["offset"], plain("timestamp"), plain("key"), row["value"]);
    for name in ["schema_id", "key_fault", "fault"] {
        if let Some(value) = row.get(name) {
            text.push_str(&format!("  {name}={value}"));
        }
    }
    for header in row.get("headers").and_then(|headers| headers.as_array()).into_iter().flatten() {
        text.push_str(&format!("  {}={}", header["name"].as_str().unwrap_or_default(), header["value"]));
    }
    text
}
