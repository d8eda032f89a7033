//! A task from its last commit: committed offsets, then the local checkpoint, then the changelog up to the right bound.
//!
//! The bound is the changelog's *high watermark*, read `read_committed`: a decided transaction whose markers are still on their
//! way would lose its last delta under the last stable offset (KAFKA-10167).
//!
//! Invariant: state and offsets are of one commit. Where they differ, the pipeline stops and prints both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};
use crate::log::{CommittedOffsets, Isolation, Log};
use crate::record::{NextOffset, OffsetVector, TopicPartition};
use crate::store::Store;
use crate::store::changelog::{CommitRecord, Fold};
use crate::store::checkpoint::{Checkpoint, Checkpoints};
use crate::store::memory::{self, Memory};
use crate::task::exchange::InboxState;
use crate::task::feed::FeedState;
use crate::task::graph::Task;
use crate::task::plan::{Plan, Reads, TaskId};
use crate::task::progress::{self, TaskState};
use crate::watermark::Watermark;

/// Where a restore gets its bytes from.
pub struct Sources<'a> {
    pub log: &'a dyn Log,
    pub checkpoints: Option<&'a Checkpoints>,
    /// Where partitions begin that have no committed offset and no state.
    pub start: &'a OffsetVector,
    pub memory: &'a Memory,
    /// Bytes of rows that a store may hold of it; more goes to disk.
    pub room: usize,
}

/// Keys and time of a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Held by the stores in the end.
    pub rows: u64,
    /// Of these, from the local checkpoint (some may have been replaced since).
    pub from_checkpoint: u64,
    pub elapsed: Duration,
}

/// Builds the task as of its last commit.
///
/// # Errors
/// `Config` when offsets and state are not of one commit, or the offsets lie outside the log; `Corrupt` when the changelog is broken;
/// `Away` when the broker can't be asked.
pub fn restore(plan: &Arc<Plan>, id: TaskId, sources: &Sources<'_>) -> Result<(Task, Restored)> {
    let mut partitions: Vec<TopicPartition> = plan.inputs(id).into_iter().map(|input| input.partition).collect();
    partitions.sort();
    partitions.dedup();
    let group = plan.names.group();
    let committed = sources.log.committed(&group, &partitions)?;
    let restored = restore_from(plan, id, &partitions, &committed, sources);
    let Err(error) = &restored else { return restored };
    if error.kind == Kind::Away {
        return restored;
    }
    if sources.log.committed(&group, &partitions)? != committed {
        // This process slept, and another owns the task by now: what was read is of two commits, not damaged.
        let message = format!("task {id} of group \"{group}\": another member committed while it was restored");
        return Err(Error::new(Kind::Fenced, message));
    }
    if sources.checkpoints.is_some() {
        // A process that slept while it wrote its local copy may have taken another owner's commits for its own. The changelog decides.
        tracing::warn!(task = %id, %error, "the local checkpoint is left out: the state is read from its changelog alone");
        let sources = Sources { checkpoints: None, ..*sources };
        return restore_from(plan, id, &partitions, &committed, &sources);
    }
    restored
}

fn restore_from(
    plan: &Arc<Plan>,
    id: TaskId,
    partitions: &[TopicPartition],
    committed: &CommittedOffsets,
    sources: &Sources<'_>,
) -> Result<(Task, Restored)> {
    let began = Instant::now();
    let mut restored = Restored::default();
    let mut state = committed_state(plan, id, committed, sources.start)?;
    let mut task = Task::new(plan.clone(), id, &state)?;
    let (last, edges) = restore_stores(plan, &mut task, sources, &mut restored)?;
    let mut commit = 0;
    for (partition, offset) in committed {
        commit = commit.max(progress::commit_of(partition, offset)?);
    }
    if !edges.is_empty() {
        commit = last.as_ref().map_or(0, |record| record.number);
        if let Some(corrected) = agree(plan, id, partitions, committed, last.as_ref())? {
            state = corrected;
            task = Task::new(plan.clone(), id, &state)?;
            restore_stores(plan, &mut task, sources, &mut restored)?;
        }
    }
    check_bounds(sources.log, &state)?;
    for (id, edge) in edges {
        if let Some((_, store)) = task.stores().find(|(store, _)| *store == id) {
            store.expire(edge);
            store.keep();
        }
    }
    task.resume(commit)?;
    restored.elapsed = began.elapsed();
    Ok((task, restored))
}

/// What the group's offsets say; a partition without one begins where the run does.
fn committed_state(plan: &Plan, id: TaskId, committed: &CommittedOffsets, start: &OffsetVector) -> Result<TaskState> {
    let mut state = TaskState::default();
    for input in plan.inputs(id) {
        let partition = input.partition;
        match input.reads {
            Reads::Source(_) => {
                let feed = match committed.get(&partition) {
                    Some(committed) => progress::from_committed(&partition, committed)?,
                    None => progress::start(*start.get(&partition).unwrap_or(&NextOffset(0))),
                };
                state.feeds.insert(partition, feed);
            }
            // Its senders stand in the commit record alone.
            Reads::Exchange(node) => drop(state.inboxes.insert(partition, InboxState::start(plan.tasks(plan.sub_of(node))))),
        }
    }
    Ok(state)
}

/// Stores by operator id, with the edge watermark of their last commit.
type Edges = Vec<(String, Watermark)>;

/// Every store of the task from its checkpoint and changelog. Returns the record of the last commit; all stores must be of the same.
fn restore_stores(
    plan: &Plan,
    task: &mut Task,
    sources: &Sources<'_>,
    restored: &mut Restored,
) -> Result<(Option<CommitRecord>, Edges)> {
    let mut last: Option<(String, CommitRecord)> = None;
    let mut edges = Vec::new();
    for (_, id) in plan.stateful_nodes(task.id.sub) {
        let Some(record) = restore_store(plan, task, id, sources, restored)? else {
            edges.push((id.to_string(), Watermark::MIN));
            continue;
        };
        edges.push((id.to_string(), record.edge));
        match &last {
            Some((other, known)) if known.number != record.number => {
                return Err(Error::corrupt(format!(
                    "task {} of pipeline \"{}\": the changelog of \"{id}\" ends at commit {}, that of \"{other}\" at commit {}",
                    task.id, plan.names.pipeline, record.number, known.number
                ))
                .hint("a changelog was cut off: rebuild with \"tidemill reset\" and a run from the earliest offset"));
            }
            _ => last = Some((id.to_string(), record)),
        }
    }
    Ok((last.map(|(_, record)| record), edges))
}

fn restore_store(
    plan: &Plan,
    task: &mut Task,
    id: &str,
    sources: &Sources<'_>,
    restored: &mut Restored,
) -> Result<Option<CommitRecord>> {
    let name = task.id.to_string();
    let partition = plan.names.changelog(id)?.partition(task.id.number);
    let only = std::slice::from_ref(&partition);
    let start = sources.log.start_offsets(only)?[&partition];
    let end = sources.log.end_offsets(only, Isolation::Uncommitted)?[&partition];
    let (_, store) = task.stores().find(|(store, _)| *store == id).expect("the plan's stateful nodes have stores");
    store.clear();
    let mut known = None;
    let mut from = start;
    if let Some(checkpoints) = sources.checkpoints
        && let Some(Checkpoint { commit: record, changelog: position, image }) = checkpoints.load(&name, id)?
    {
        let usable = position >= start && position <= end && record.generation == plan.names.generation;
        if usable {
            for rows in &image {
                store.apply(rows)?;
                relieve(store, sources)?;
                restored.from_checkpoint += rows.num_rows() as u64;
            }
            (known, from) = (Some(record), position);
        } else {
            tracing::info!(%partition, %position, %start, "the local checkpoint does not reach into the changelog: it is left out");
        }
    }
    let mut fold = known.map_or_else(|| Fold::new(plan.names.generation), Fold::after);
    if from < end {
        let mut reader = sources.log.reader(Isolation::Committed, &OffsetVector::from([(partition.clone(), from)]))?;
        let mut said = Instant::now();
        let mut heard = Instant::now();
        while reader.positions()[&partition] < end {
            let chunks = reader.poll(Duration::from_millis(200), 100_000);
            for chunk in chunks.map_err(|error| trimmed(sources.log, &partition, reader.positions()[&partition], error))? {
                fold.take(&chunk, store)?;
                relieve(store, sources)?;
                heard = Instant::now();
            }
            let at = reader.positions()[&partition];
            let percent = 100 * (at.0 - from.0) / (end.0 - from.0).max(1);
            let waits = heard.elapsed() >= Duration::from_secs(5);
            if said.elapsed() >= Duration::from_secs(if waits { 10 } else { 1 }) {
                said = Instant::now();
                let why = if waits { "restoring, held up by a transaction that is not decided yet" } else { "restoring" };
                tracing::info!(%partition, percent, %at, %end, rows = store.len(), "{why}");
            }
            if heard.elapsed() > Duration::from_secs(60) {
                return Err(Error::away(format!("{partition}: nothing was read for 60 s at offset {at}, before the end {end}"))
                    .hint(
                        "an open transaction of a killed process may hold it back until its timeout; the restore is tried again",
                    ));
            }
        }
    }
    if fold.unfinished() {
        return Err(Error::corrupt(format!("{partition}: the changelog ends within a commit, at offset {end}"))
            .hint("rebuild with \"tidemill reset\" and a run from the earliest offset"));
    }
    restored.rows += store.len() as u64;
    Ok(fold.last().cloned())
}

/// What a store can't hold goes to disk while it is restored.
fn relieve(store: &mut dyn Store, sources: &Sources<'_>) -> Result<()> {
    let rows = store.size().saturating_sub(store.spilled().size);
    if rows > sources.room || (rows > sources.room / 8 && sources.memory.is_short()) {
        store.spill(sources.memory.spills())?;
        memory::trim();
    }
    Ok(())
}

/// A former owner that slept may trim the changelog as it wakes: what went was written again before, so the restore begins anew.
fn trimmed(log: &dyn Log, partition: &TopicPartition, at: NextOffset, error: Error) -> Error {
    match log.start_offsets(std::slice::from_ref(partition)) {
        Ok(start) if start[partition] > at => {
            Error::away(format!("{partition}: it was trimmed to {} while it was read at {at}", start[partition]))
        }
        _ => error,
    }
}

/// Checks that offsets and state are of one commit. Returns another state where the changelog knows more than the offsets: of inboxes
/// always, of sources when the group has lost its offsets.
fn agree(
    plan: &Plan,
    id: TaskId,
    partitions: &[TopicPartition],
    committed: &CommittedOffsets,
    record: Option<&CommitRecord>,
) -> Result<Option<TaskState>> {
    let pipeline = &plan.names.pipeline;
    let Some(record) = record else {
        let Some((partition, offset)) = committed.iter().next() else { return Ok(None) };
        return Err(Error::config(format!(
            "task {id} of pipeline \"{pipeline}\": group \"{}\" has committed offset {} of {partition}, but the changelog holds no commit",
            plan.names.group(),
            offset.next
        ))
        .hint("offsets were moved by hand or the changelog was deleted: start over with \"tidemill reset\""));
    };
    if committed.is_empty() {
        tracing::warn!(pipeline, task = %id, "the group has no offsets: they are taken from the last delta");
        return Ok(Some(recorded_state(plan, id, record, None)));
    }
    let of_record = positions(record);
    for partition in partitions {
        let (group, state) = (committed.get(partition).map(|c| c.next), of_record.get(partition).copied());
        if group != state {
            let show = |offset: Option<NextOffset>| offset.map_or("none".to_string(), |offset| offset.to_string());
            return Err(Error::config(format!(
                "{partition}: group \"{}\" has committed offset {}, the state of pipeline \"{pipeline}\" is at {}",
                plan.names.group(),
                show(group),
                show(state)
            ))
            .hint("offsets were moved by hand: put them back, or start over with \"tidemill reset\", or recompute with \"tidemill backfill\""));
        }
    }
    for (partition, offset) in committed {
        let commit = progress::commit_of(partition, offset)?;
        if commit != record.number {
            return Err(Error::config(format!(
                "{partition}: group \"{}\" stands at commit {commit} of task {id}, the state of pipeline \"{pipeline}\" at commit {}",
                plan.names.group(),
                record.number
            ))
            .hint("offsets were moved by hand or a changelog was cut off: start over with \"tidemill reset\""));
        }
    }
    if plan.sub(id.sub).inboxes.is_empty() {
        return Ok(None);
    }
    Ok(Some(recorded_state(plan, id, record, Some(committed))))
}

fn positions(record: &CommitRecord) -> OffsetVector {
    record.positions.iter().map(|(topic, partition, next)| (topic.partition(partition.0), *next)).collect()
}

/// The state that a commit record tells.
fn recorded_state(plan: &Plan, id: TaskId, record: &CommitRecord, committed: Option<&CommittedOffsets>) -> TaskState {
    let positions = positions(record);
    let mut budgets = progress::budgets(&record.extra);
    let mut senders = progress::senders(&record.extra);
    // One per stream that reads the partition, in their order.
    let mut watermarks: BTreeMap<TopicPartition, Vec<Watermark>> = BTreeMap::new();
    for (topic, partition, watermark) in &record.watermarks {
        watermarks.entry(topic.partition(partition.0)).or_default().push(*watermark);
    }
    let mut state = TaskState::default();
    for input in plan.inputs(id) {
        let partition = input.partition;
        let position = positions.get(&partition).copied().unwrap_or(NextOffset(0));
        match input.reads {
            Reads::Source(_) => {
                // A second stream over the topic meets the state that is there already.
                if state.feeds.contains_key(&partition) {
                    continue;
                }
                let (watermark, others) = match watermarks.remove(&partition).as_deref() {
                    Some([first, others @ ..]) => (*first, others.to_vec()),
                    _ => (Watermark::MIN, Vec::new()),
                };
                let budget = budgets.remove(&partition).unwrap_or_default();
                state.feeds.insert(partition, FeedState { position, watermark, others, budget, idle: false });
            }
            Reads::Exchange(node) => {
                let of_start = || InboxState::start(plan.tasks(plan.sub_of(node))).senders;
                let senders = senders.remove(&partition).unwrap_or_else(of_start);
                state.inboxes.insert(partition, InboxState { position, senders });
            }
        }
    }
    debug_assert!(committed.is_none_or(|c| state.positions().all(|(p, at)| c.get(p).is_none_or(|c| c.next == at))));
    state
}

/// A position outside the log is never mended by a reset policy.
fn check_bounds(log: &dyn Log, state: &TaskState) -> Result<()> {
    let partitions: Vec<TopicPartition> = state.positions().map(|(partition, _)| partition.clone()).collect();
    let starts = log.start_offsets(&partitions)?;
    let ends = log.end_offsets(&partitions, Isolation::Uncommitted)?;
    for (partition, position) in state.positions() {
        let (start, end) = (starts[partition], ends[partition]);
        if position < start {
            return Err(Error::config(format!("{partition}: offset {position} is below the log start {start}"))
                .hint("the records in between are gone: start over with \"tidemill reset\", or give a later --from"));
        }
        if position > end {
            return Err(Error::config(format!("{partition}: offset {position} is above the end {end}"))
                .hint("the topic was deleted and created again, or it is another cluster: start over with \"tidemill reset\""));
        }
    }
    Ok(())
}
