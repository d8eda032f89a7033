//! What a commit says of a source partition beside its offset: watermark and dead-letter budget.
//!
//! It stands in the metadata of the group's committed offset (so that stateless tasks need no topic of their own, and standard
//! tools show it) and, for tasks with state, in the commit record of the changelog. What an inbox knows of its senders stands in the
//! commit record alone: a task that reads a repartition topic has state, and metadata are too small for hundreds of senders.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::log::CommittedOffset;
use crate::record::{NextOffset, Timestamp, TopicPartition};
use crate::task::budget::Budget;
use crate::task::exchange::InboxState;
use crate::task::feed::FeedState;
use crate::watermark::Watermark;

/// Format version of the metadata. Readers accept this and the one before.
const FORMAT: u32 = 1;

/// Where a task stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskState {
    pub feeds: BTreeMap<TopicPartition, FeedState>,
    pub inboxes: BTreeMap<TopicPartition, InboxState>,
}

impl TaskState {
    pub fn positions(&self) -> impl Iterator<Item = (&TopicPartition, NextOffset)> {
        let feeds = self.feeds.iter().map(|(partition, state)| (partition, state.position));
        feeds.chain(self.inboxes.iter().map(|(partition, state)| (partition, state.position)))
    }
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    /// Format version.
    v: u32,
    /// Number of the task's commit: tells two commits apart that stand at the same offset.
    #[serde(default)]
    n: u64,
    /// Watermark in microseconds; absent: none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    w: Option<i64>,
    /// Watermarks of further streams over the topic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    o: Vec<Watermark>,
    #[serde(default)]
    b: Budget,
    /// Idle.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    i: bool,
    /// Quiet, for `quiet_after`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    q: bool,
    /// The highest event time; absent: none, or written by a version that did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    h: Option<Timestamp>,
}

/// `commit` is the number of the task's commit.
pub fn to_metadata(state: &FeedState, commit: u64) -> String {
    let w = Some(state.watermark).filter(|w| *w != Watermark::MIN).map(|w| w.0);
    let (o, b) = (state.others.clone(), state.budget.clone());
    let (i, q, h) = (state.idle, state.quiet, state.highest);
    serde_json::to_string(&Metadata { v: FORMAT, n: commit, w, o, b, i, q, h }).expect("numbers serialize")
}

/// Beside the offset of a repartition topic.
pub fn inbox_metadata(commit: u64) -> String {
    serde_json::json!({ "v": FORMAT, "n": commit }).to_string()
}

/// # Errors
/// `Config` when the metadata was not written by Tidemill (offsets moved by hand), or by a later version.
pub fn from_committed(partition: &TopicPartition, committed: &CommittedOffset) -> Result<FeedState> {
    let Metadata { w, o: others, b: budget, i: idle, q: quiet, h: highest, .. } = metadata(partition, committed)?;
    let watermark = w.map_or(Watermark::MIN, Watermark);
    Ok(FeedState { position: committed.next, watermark, others, budget, highest, idle, quiet })
}

/// The number of the task's commit that wrote the offset; errors as [`from_committed`].
pub fn commit_of(partition: &TopicPartition, committed: &CommittedOffset) -> Result<u64> {
    Ok(metadata(partition, committed)?.n)
}

fn metadata(partition: &TopicPartition, committed: &CommittedOffset) -> Result<Metadata> {
    let metadata: Metadata = serde_json::from_str(&committed.metadata).map_err(|e| {
        Error::config(format!(
            "{partition}: the committed offset {} was not written by tidemill (moved by hand?): {}",
            committed.next,
            if committed.metadata.is_empty() { "it has no metadata".into() } else { e.to_string() }
        ))
        .hint("offsets and state belong together: start over with \"tidemill reset\", or recompute a range with \"tidemill backfill\"")
    })?;
    if metadata.v != FORMAT {
        return Err(Error::config(format!(
            "{partition}: committed offset has format {}, this version reads {FORMAT}",
            metadata.v
        ))
        .hint("run the version of tidemill that wrote it, or a later one"));
    }
    Ok(metadata)
}

/// A partition that nothing has been read from.
pub fn start(position: NextOffset) -> FeedState {
    let (watermark, others, budget) = (Watermark::MIN, Vec::new(), Budget::default());
    FeedState { position, watermark, others, budget, highest: None, idle: false, quiet: false }
}

/// What the commit record holds beside positions and watermarks.
#[derive(Default, Serialize, Deserialize)]
struct Extra {
    #[serde(default)]
    budgets: Vec<(TopicPartition, Budget)>,
    /// The highest event times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    highest: Vec<(TopicPartition, Timestamp)>,
    /// Watermarks of the senders of each inbox, by the number of the sender's task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    senders: Vec<(TopicPartition, Vec<Watermark>)>,
}

/// Budgets and highest event times of source partitions and watermarks of senders, for the commit record.
pub fn to_extra<'a>(
    feeds: impl Iterator<Item = (&'a TopicPartition, &'a FeedState)> + Clone,
    inboxes: impl Iterator<Item = (&'a TopicPartition, &'a InboxState)>,
) -> serde_json::Value {
    let extra = Extra {
        budgets: feeds.clone().map(|(partition, state)| (partition.clone(), state.budget.clone())).collect(),
        highest: feeds.filter_map(|(partition, state)| Some((partition.clone(), state.highest?))).collect(),
        senders: inboxes.map(|(partition, state)| (partition.clone(), state.senders.clone())).collect(),
    };
    serde_json::to_value(extra).expect("numbers and names serialize")
}

/// The budgets that [`to_extra`] took; what is missing is empty.
pub fn budgets(extra: &serde_json::Value) -> BTreeMap<TopicPartition, Budget> {
    from_extra(extra).budgets.into_iter().collect()
}

/// The highest event times that [`to_extra`] took; what is missing is not known.
pub fn highest(extra: &serde_json::Value) -> BTreeMap<TopicPartition, Timestamp> {
    from_extra(extra).highest.into_iter().collect()
}

/// The senders' watermarks that [`to_extra`] took, by inbox.
pub fn senders(extra: &serde_json::Value) -> BTreeMap<TopicPartition, Vec<Watermark>> {
    from_extra(extra).senders.into_iter().collect()
}

fn from_extra(extra: &serde_json::Value) -> Extra {
    serde_json::from_value(extra.clone()).unwrap_or_default()
}
