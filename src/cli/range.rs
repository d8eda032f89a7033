//! Reads a range of a topic to its end: `print` and `dlq`.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::error::{Error, Result, nearest};
use crate::log::{Isolation, Log, TopicInfo, partitions_of};
use crate::record::{Chunk, OffsetVector, Topic, TopicPartition};

/// Without progress for so long a read is given up.
const STALLED: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);
const POLL_RECORDS: usize = 1_000;

/// The topic, or an error that names the nearest one.
pub fn topic(log: &dyn Log, name: &str) -> Result<TopicInfo> {
    let topic = Topic::new(name);
    if let Some(info) = log.topic(&topic)? {
        return Ok(info);
    }
    let known = log.topics("")?;
    let hint = match nearest(name, known.iter().map(|info| info.topic.as_str())) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => "check the name and --brokers".to_string(),
    };
    Err(Error::config(format!("topic \"{name}\" does not exist")).hint(hint))
}

pub fn partitions(info: &TopicInfo) -> Vec<TopicPartition> {
    partitions_of(&info.topic, info.partitions)
}

/// Calls `each` with every chunk from `from` up to `to` (`None`: for ever), until it breaks. A chunk may reach behind `to`: its records
/// there are cut off.
pub fn read(
    log: &dyn Log,
    isolation: Isolation,
    from: &OffsetVector,
    to: Option<&OffsetVector>,
    mut each: impl FnMut(&Chunk) -> ControlFlow<()>,
) -> Result<()> {
    let from: OffsetVector = match to {
        // A partition without anything to read is not opened.
        Some(to) => from
            .iter()
            .filter(|(at, start)| to.get(*at).is_some_and(|end| **start < *end))
            .map(|(a, s)| (a.clone(), *s))
            .collect(),
        None => from.clone(),
    };
    if from.is_empty() {
        return Ok(());
    }
    let mut reader = log.reader(isolation, &from)?;
    let mut moved_at = Instant::now();
    let mut before = from;
    loop {
        for chunk in reader.poll(POLL, POLL_RECORDS)? {
            let end = to.and_then(|to| to.get(&chunk.partition));
            let rows = end.map_or(chunk.len(), |end| chunk.offsets.partition_point(|offset| offset.0 < end.0));
            let inside = if rows < chunk.len() { chunk.slice(0, rows) } else { chunk };
            if each(&inside).is_break() {
                return Ok(());
            }
        }
        let Some(to) = to else { continue };
        let positions = reader.positions();
        if positions.iter().all(|(at, position)| to.get(at).is_none_or(|end| position >= end)) {
            return Ok(());
        }
        if positions != before {
            before = positions;
            moved_at = Instant::now();
        } else if moved_at.elapsed() > STALLED {
            let waits = positions.iter().find(|(at, position)| to.get(*at).is_some_and(|end| *position < end));
            let place = waits.map(|(at, position)| format!("{at} stays at offset {position}")).unwrap_or_default();
            return Err(Error::away(format!("{place}: nothing arrived for {} s", STALLED.as_secs()))
                .hint("look at the broker, and whether this user may read the topic"));
        }
    }
}
