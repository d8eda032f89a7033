//! A task from its last commit: committed offsets, then the local checkpoint, then the changelog up to the right bound.
//!
//! The bound is the changelog's *high watermark*, read `read_committed`: a decided transaction whose markers are still on their
//! way would lose its last delta under the last stable offset (KAFKA-10167).
//!
//! A task that was read ahead as a standby (`task::standby`) brings its stores along: then only what its changelog got since is read.
//!
//! Invariant: state and offsets are of one commit. Where they differ, the pipeline stops and prints both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::log::{CommittedOffsets, Isolation, Log};
use crate::record::{NextOffset, OffsetVector, TopicPartition};
use crate::store::changelog::CommitRecord;
use crate::store::checkpoint::Checkpoints;
use crate::store::memory::Memory;
use crate::task::exchange::InboxState;
use crate::task::feed::FeedState;
use crate::task::graph::{Task, recoverable};
use crate::task::local::LocalCopies;
use crate::task::plan::{Plan, Reads, TaskId};
use crate::task::progress::{self, TaskState};
use crate::task::replica::{Basis, Replica};
use crate::task::run::Run;
use crate::task::watch::Watch;
use crate::watermark::Watermark;

/// Where a restore gets its bytes from.
#[derive(Clone)]
pub struct Sources {
    pub log: Arc<dyn Log>,
    pub checkpoints: Option<Arc<Checkpoints>>,
    /// Whether the local checkpoints may be read.
    pub trusted: bool,
    /// Where partitions begin that have no committed offset and no state.
    pub start: Arc<OffsetVector>,
    pub memory: Memory,
    /// Bytes of rows that a store may hold of it; more goes to disk.
    pub room: usize,
}

impl Sources {
    pub fn of(log: &Arc<dyn Log>, run: &Run, local: Option<&LocalCopies>) -> Sources {
        let checkpoints = local.map(|local| local.checkpoints.clone());
        let (start, memory) = (Arc::new(run.start.clone()), run.memory.clone());
        Sources { log: log.clone(), checkpoints, trusted: true, start, room: memory.of_stores() / 8, memory }
    }
}

/// A task as of its last commit.
pub struct Restored {
    pub task: Task,
    /// Keys held by the stores in the end.
    pub rows: u64,
    /// Rows taken from local checkpoints, and from changelogs; a key may have come more than once.
    pub from_checkpoint: u64,
    pub from_changelog: u64,
    /// Keys that had been read ahead.
    pub from_standby: u64,
    pub elapsed: Duration,
    /// Where its changelogs ended.
    pub changelogs: OffsetVector,
    /// What the local checkpoints lack, by operator.
    pub bases: BTreeMap<String, Basis>,
}

/// The stores of a task that were restored ahead, by operator.
pub struct Warm {
    pub task: Task,
    pub replicas: BTreeMap<String, Replica>,
}

/// Builds the task as of its last commit.
///
/// # Errors
/// `Config` when offsets and state are not of one commit, or the offsets lie outside the log; `Corrupt` when the changelog is broken;
/// `Fenced` when another member committed meanwhile; `Away` when the broker can't be asked, or the watch was told to stop.
pub fn restore(plan: &Arc<Plan>, id: TaskId, sources: &Sources, warm: Option<Warm>, watch: &Watch) -> Result<Restored> {
    watch.begin();
    let mut partitions: Vec<TopicPartition> = plan.inputs(id).into_iter().map(|input| input.partition).collect();
    partitions.sort();
    partitions.dedup();
    let group = plan.names.group();
    let committed = sources.log.committed(&group, &partitions)?;
    watch.found(committed.iter().map(|(partition, offset)| (partition.clone(), offset.next)).collect());
    let ahead = warm.is_some();
    let attempt = |sources: &Sources, warm| {
        let restored = restore_from(plan, id, &partitions, &committed, sources, warm, watch);
        restored.map_err(|error| of_one_commit(id, &group, &committed, &partitions, sources, error))
    };
    match attempt(sources, warm) {
        Err(error) if !recoverable(error.kind) && ((sources.checkpoints.is_some() && sources.trusted) || ahead) => {
            // A process that slept while it wrote its local copy may have taken another owner's commits for its own. The changelog decides.
            tracing::warn!(task = %id, %error, "the local checkpoint is left out: the state is read from its changelog alone");
            watch.begin();
            attempt(&Sources { trusted: false, ..sources.clone() }, None)
        }
        restored => restored,
    }
}

/// Why a restore failed: if the group's offsets have moved since they were asked for, this process slept and another owns the task by now.
/// Then what was read is of two commits, not damaged.
fn of_one_commit(
    id: TaskId,
    group: &str,
    committed: &CommittedOffsets,
    partitions: &[TopicPartition],
    sources: &Sources,
    error: Error,
) -> Error {
    if error.kind == Kind::Away {
        return error;
    }
    match sources.log.committed(group, partitions) {
        Ok(now) if now == *committed => error,
        Ok(_) => {
            Error::new(Kind::Fenced, format!("task {id} of group \"{group}\": another member committed while it was restored"))
        }
        Err(away) => away,
    }
}

fn restore_from(
    plan: &Arc<Plan>,
    id: TaskId,
    partitions: &[TopicPartition],
    committed: &CommittedOffsets,
    sources: &Sources,
    warm: Option<Warm>,
    watch: &Watch,
) -> Result<Restored> {
    let clock = sources.log.clock();
    let began = clock.now();
    let mut state = committed_state(plan, id, committed, &sources.start)?;
    let mut task = Task::new(plan.clone(), id, &state)?;
    let mut replicas = BTreeMap::new();
    if let Some(warm) = warm {
        task.adopt(warm.task);
        replicas = warm.replicas;
    }
    let from_standby = replicas.keys().map(|id: &String| task.store(id).len() as u64).sum();
    let ahead: u64 = replicas.values().map(|replica: &Replica| replica.from_checkpoint + replica.from_changelog()).sum();
    let changelogs = restore_stores(plan, &mut task, &mut replicas, sources, watch)?;
    let last = last_commit(plan, id, &replicas)?;
    let mut commit = 0;
    for (partition, offset) in committed {
        commit = commit.max(progress::commit_of(partition, offset)?);
    }
    if !replicas.is_empty() {
        commit = last.map_or(0, |record| record.number);
        if let Some(corrected) = agree(plan, id, partitions, committed, last)? {
            let stores = std::mem::replace(&mut task, Task::new(plan.clone(), id, &corrected)?);
            task.adopt(stores);
            state = corrected;
        }
    }
    check_bounds(sources.log.as_ref(), &state)?;
    for (id, replica) in &replicas {
        let store = task.store(id);
        store.expire(replica.edge());
        store.keep();
    }
    task.resume(commit)?;
    let (mut rows, mut from_checkpoint, mut from_changelog, mut bases) = (0, 0, 0, BTreeMap::new());
    for (id, mut replica) in replicas {
        let store = task.store(&id);
        rows += store.len() as u64;
        (from_checkpoint, from_changelog) =
            (from_checkpoint + replica.from_checkpoint, from_changelog + replica.from_changelog());
        if sources.checkpoints.is_some() {
            bases.insert(id, replica.take_basis(store)?);
        }
    }
    if ahead > 0 {
        (from_checkpoint, from_changelog) = (0, from_checkpoint + from_changelog - ahead);
    }
    let elapsed = clock.since(began);
    Ok(Restored { task, rows, from_checkpoint, from_changelog, from_standby, elapsed, changelogs, bases })
}

/// What the group's offsets say; a partition without one begins where the run does.
pub(super) fn committed_state(plan: &Plan, id: TaskId, committed: &CommittedOffsets, start: &OffsetVector) -> Result<TaskState> {
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
            Reads::Exchange(node) => drop(state.inboxes.insert(partition, InboxState::start(plan.senders(node)))),
        }
    }
    Ok(state)
}

/// Every store of the task from its replica, its checkpoint and its changelog. Returns where the changelogs end.
fn restore_stores(
    plan: &Plan,
    task: &mut Task,
    replicas: &mut BTreeMap<String, Replica>,
    sources: &Sources,
    watch: &Watch,
) -> Result<OffsetVector> {
    let log = sources.log.as_ref();
    let mut changelogs = Vec::new();
    for (_, id) in plan.stateful_nodes(task.id.sub) {
        changelogs.push((id, plan.names.changelog(id)?.partition(task.id.number)));
    }
    let only: Vec<TopicPartition> = changelogs.iter().map(|(_, partition)| partition.clone()).collect();
    if only.is_empty() {
        return Ok(OffsetVector::new());
    }
    let ends = log.end_offsets(&only, Isolation::Uncommitted)?;
    let of = task.id;
    for (id, partition) in &changelogs {
        let store = task.store(id);
        if !replicas.contains_key(*id) {
            let replica = Replica::begin(plan, of, id, ends[partition], sources, store, watch)?;
            replicas.insert((*id).to_string(), replica);
        }
        let replica = replicas.get_mut(*id).expect("it was just put there");
        replica.read_to(ends[partition], sources, store, watch)?;
    }
    Ok(ends)
}

/// The record of the last commit; all stores must be of the same.
fn last_commit<'a>(plan: &Plan, task: TaskId, replicas: &'a BTreeMap<String, Replica>) -> Result<Option<&'a CommitRecord>> {
    let mut last: Option<(&str, &CommitRecord)> = None;
    for (_, id) in plan.stateful_nodes(task.sub) {
        let Some(record) = replicas[id].last() else { continue };
        match last {
            Some((other, known)) if known.number != record.number => {
                return Err(Error::corrupt(format!(
                    "task {task} of pipeline \"{}\": the changelog of \"{id}\" ends at commit {}, that of \"{other}\" at commit {}",
                    plan.names.pipeline, record.number, known.number
                ))
                .hint("a changelog was cut off: rebuild with \"tidemill reset\" and a run from the earliest offset"));
            }
            _ => last = Some((id, record)),
        }
    }
    Ok(last.map(|(_, record)| record))
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
    let highest = progress::highest(&record.extra);
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
                let (highest, idle, quiet) = (highest.get(&partition).copied(), false, false);
                state.feeds.insert(partition, FeedState { position, watermark, others, budget, highest, idle, quiet });
            }
            Reads::Exchange(node) => {
                let senders = senders.remove(&partition).unwrap_or_else(|| plan.senders(node));
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
