//! What a commit says of a source partition beside its offset: watermark and dead-letter budget.
//!
//! It stands in the metadata of the group's committed offset (so that stateless tasks need no topic of their own, and standard
//! tools show it) and, for tasks with state, in the commit record of the changelog.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::log::CommittedOffset;
use crate::record::{NextOffset, TopicPartition};
use crate::task::budget::Budget;
use crate::task::feed::FeedState;
use crate::watermark::Watermark;

/// Format version of the metadata. Readers accept this and the one before.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Metadata {
    /// Format version.
    v: u32,
    /// Watermark in microseconds; absent: none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    w: Option<i64>,
    #[serde(default)]
    b: Budget,
}

pub fn to_metadata(state: &FeedState) -> String {
    let w = Some(state.watermark).filter(|w| *w != Watermark::MIN).map(|w| w.0);
    serde_json::to_string(&Metadata { v: FORMAT, w, b: state.budget.clone() }).expect("numbers serialize")
}

/// # Errors
/// `Config` when the metadata was not written by Tidemill (offsets moved by hand), or by a later version.
pub fn from_committed(partition: &TopicPartition, committed: &CommittedOffset) -> Result<FeedState> {
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
    let watermark = metadata.w.map_or(Watermark::MIN, Watermark);
    Ok(FeedState { position: committed.next, watermark, budget: metadata.b })
}

/// A partition that nothing has been read from.
pub fn start(position: NextOffset) -> FeedState {
    FeedState { position, watermark: Watermark::MIN, budget: Budget::default() }
}

/// Budgets, by topic and partition, for the commit record.
pub fn to_extra<'a>(states: impl Iterator<Item = (&'a TopicPartition, &'a FeedState)>) -> serde_json::Value {
    let budgets: Vec<(&TopicPartition, &Budget)> = states.map(|(partition, state)| (partition, &state.budget)).collect();
    serde_json::json!({ "budgets": budgets })
}

/// The inverse of [`to_extra`]; what is missing is empty.
pub fn from_extra(extra: &serde_json::Value) -> BTreeMap<TopicPartition, Budget> {
    let budgets = extra.get("budgets").cloned().unwrap_or_default();
    serde_json::from_value::<Vec<(TopicPartition, Budget)>>(budgets).unwrap_or_default().into_iter().collect()
}
