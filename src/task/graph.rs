//! One task: partition *p* of all that a sub-topology reads, through its operators, up to what a commit will hold.
//!
//! [`Task::process`] takes a chunk of one source partition all the way: decode, ingest, operators, encode; a chunk of a repartition topic
//! enters behind the exchange. Then the watermark moves on, node by node: an operator's rows reach its children before its watermark does.
//! [`Task::prepare`] turns what has gathered into the records and offsets of one transaction.
//!
//! Invariant: no clock, no I/O. The same chunks in the same order give the same records, wherever the commits fall.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};

use crate::contract::{AvroSchema, WriterId};
use crate::error::{Error, Kind, Result};
use crate::log::{CommittedOffset, CommittedOffsets};
use crate::operator::aggregate::{Aggregate, Phase};
use crate::operator::assign::Assign;
use crate::operator::consolidate::Consolidate;
use crate::operator::filter::Filter;
use crate::operator::ingest::OnViolation;
use crate::operator::materialize::Materialize;
use crate::operator::project::Project;
use crate::operator::table::Table;
use crate::operator::temporal_join::TemporalJoin;
use crate::operator::{Late, Operator, Output, Rejected};
use crate::record::{Batch, Chunk, NextOffset, Offset, OffsetVector, Outgoing, Partition, Topic, TopicPartition};
use crate::store::changelog::{self, CommitRecord};
use crate::store::spill::Spills;
use crate::store::{Spilled, Store};
use crate::task::decision::Decision;
use crate::task::exchange::{Inbox, Outbox};
use crate::task::feed::{Feed, FeedState};
use crate::task::idle::Stand;
use crate::task::letters::{self, Orphan, Sender};
use crate::task::outlet::Outlet;
use crate::task::plan::{Plan, Reads, TaskId, TaskInput};
use crate::task::progress::{self, TaskState};
use crate::topology::Operation;
use crate::watermark::{EdgeWatermark, Watermark};

/// What was counted since the last call of [`Task::take_counts`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub records_in: u64,
    pub records_out: u64,
    pub late: u64,
    pub withdrawn: u64,
    pub dead: BTreeMap<&'static str, u64>,
    pub dropped: BTreeMap<&'static str, u64>,
    pub skipped: u64,
}

/// One transaction's share of a task.
#[derive(Debug, Default)]
pub struct Prepared {
    pub outgoing: Vec<(Topic, Outgoing)>,
    pub offsets: CommittedOffsets,
}

/// A node in this task; one of another sub-topology has neither operator nor children.
struct NodeState {
    operator: Option<Box<dyn Operator>>,
    /// Of its inputs. For an exchange: of what is sent.
    edge: EdgeWatermark,
    /// Node and the port of it that this one feeds.
    children: Vec<(usize, usize)>,
}

/// Partition `id.number` of all that sub-topology `id.sub` reads.
pub struct Task {
    pub id: TaskId,
    plan: Arc<Plan>,
    feeds: Vec<Feed>,
    inboxes: Vec<Inbox>,
    /// The nodes of the sub-topology and the exchanges that it reads, ascending: inputs before their users.
    order: Vec<usize>,
    nodes: Vec<NodeState>,
    /// By sink.
    outlets: Vec<(usize, Outlet)>,
    outboxes: Vec<Outbox>,
    sender: Sender,
    dead: Outgoing,
    late: Outgoing,
    /// The number of the last commit.
    commit: u64,
    dirty: bool,
    counts: Counts,
    /// Chunks of this commit, kept while rows of theirs may still be rejected at `flush`.
    recent: Vec<Chunk>,
    keep_recent: bool,
    /// Letters whose records have to be read again.
    orphans: Vec<Orphan>,
    /// Withdrawn groups to be logged: node, key, message.
    withdrawn: Vec<(String, String, String)>,
    /// Whether the snapshot round of every store was completed by the commit being prepared.
    wrapped: bool,
    /// What is under way; it has stopped so that its output can be sent.
    unfinished: Option<Unfinished>,
    flow: Flow,
    /// The delta of each store in the commit being prepared, by operator.
    deltas: Vec<(String, RecordBatch)>,
}

/// When a step that makes much output stops for it to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Rows that an operator makes at once.
    pub rows: usize,
    /// Bytes that may wait to be sent.
    pub bytes: usize,
}

/// Watermarks on their way through the graph.
struct Unfinished {
    /// The node that goes on.
    node: usize,
    found: Found,
    /// The chunk of a source that began it, if one did; held only while the step waits.
    chunk: Option<Arc<Chunk>>,
    schema_ids: BTreeMap<Offset, WriterId>,
    emitted: usize,
}

/// Rows and letters of one call into the operators.
#[derive(Default)]
struct Found {
    rejected: Vec<(usize, Rejected)>,
    late: Vec<(usize, Late)>,
    withdrawn: Vec<(usize, crate::operator::Withdrawn)>,
}

impl Found {
    fn take(&mut self, node: usize, out: &mut Output) {
        self.rejected.extend(out.rejected.drain(..).map(|r| (node, r)));
        self.late.extend(out.late.drain(..).map(|l| (node, l)));
        self.withdrawn.extend(out.withdrawn.drain(..).map(|w| (node, w)));
    }
}

impl Unfinished {
    fn new(found: Found) -> Unfinished {
        Unfinished { node: 0, found, chunk: None, schema_ids: BTreeMap::new(), emitted: 0 }
    }
}

impl Task {
    /// A task whose stores are still empty: see [`Task::stores`] and [`Task::resume`].
    pub fn new(plan: Arc<Plan>, id: TaskId, state: &TaskState) -> Result<Task> {
        let topology = plan.topology.clone();
        let sub = plan.sub(id.sub).clone();
        let (mut feeds, mut inboxes) = (Vec::new(), Vec::new());
        for TaskInput { reads, partition } in plan.inputs(id) {
            match reads {
                Reads::Source(index) => {
                    let node = topology.nodes.iter().position(|n| matches!(n.operation, Operation::Source(s) if s == index));
                    let node = node.expect("every source of a topology has a node");
                    let state = state.feeds.get(&partition).expect("the caller gives the state of every source partition");
                    let nth = feeds.iter().filter(|feed: &&Feed| feed.partition == partition).count();
                    feeds.push(Feed::new(&topology.sources[index], index, node, partition, state.of_stream(nth))?);
                }
                Reads::Exchange(node) => {
                    let state = state.inboxes.get(&partition).expect("the caller gives the state of every inbox");
                    inboxes.push(Inbox::new(partition, node, topology.nodes[node].schema.clone(), state.clone()));
                }
            }
        }
        let mut order: Vec<usize> = sub.nodes.iter().chain(&sub.inboxes).copied().collect();
        order.sort_unstable();
        order.dedup();
        let mut nodes: Vec<NodeState> = Vec::new();
        let (mut outlets, mut outboxes) = (Vec::new(), Vec::new());
        for (index, node) in topology.nodes.iter().enumerate() {
            let here = sub.nodes.contains(&index);
            if here {
                for (port, input) in node.inputs.iter().enumerate() {
                    nodes[*input].children.push((index, port));
                }
            }
            let senders = match &node.operation {
                Operation::Source(source) => feeds.iter().filter(|feed| feed.source == *source).count(),
                _ => node.inputs.len(),
            };
            match &node.operation {
                Operation::Exchange(spec) if here => {
                    let told = plan.senders(index)[id.number as usize];
                    outboxes.push(Outbox::new(index, node, spec, &plan.names, plan.exchange_partitions(), told)?);
                }
                Operation::Sink(sink) if here => {
                    outlets.push((*sink, Outlet::new(&topology.sinks[*sink], plan.targets[*sink].clone())?));
                }
                _ => {}
            }
            nodes.push(NodeState {
                operator: if here { operator(&node.operation)? } else { None },
                edge: EdgeWatermark::new(senders),
                children: Vec::new(),
            });
        }
        // Several INSERTs may write one sink.
        outlets.sort_by_key(|(sink, _)| *sink);
        outlets.dedup_by_key(|(sink, _)| *sink);
        let consolidates = sub.nodes.iter().any(|node| matches!(topology.nodes[*node].operation, Operation::Consolidate(_)));
        Ok(Task {
            id,
            sender: Sender { pipeline: plan.names.pipeline.clone(), generation: plan.names.generation },
            keep_recent: consolidates,
            plan,
            feeds,
            inboxes,
            order,
            nodes,
            outlets,
            outboxes,
            dead: Outgoing::default(),
            late: Outgoing::default(),
            commit: 0,
            dirty: false,
            counts: Counts::default(),
            recent: Vec::new(),
            orphans: Vec::new(),
            withdrawn: Vec::new(),
            wrapped: false,
            unfinished: None,
            flow: Flow { rows: usize::MAX, bytes: usize::MAX },
            deltas: Vec::new(),
        })
    }

    /// The stores of the task with their operators' ids.
    pub fn stores(&mut self) -> impl Iterator<Item = (&str, &mut dyn Store)> {
        let ids = self.plan.topology.nodes.iter();
        self.nodes.iter_mut().zip(ids).filter_map(|(node, spec)| Some((spec.id.as_str(), node.operator.as_mut()?.store()?)))
    }

    /// The store of a stateful operator of the sub-topology.
    pub fn store(&mut self, operator: &str) -> &mut dyn Store {
        let found = self.stores().find(|(id, _)| *id == operator);
        found.expect("the plan's stateful nodes have stores").1
    }

    /// Takes the operators, with their stores, of another task of the same plan that has processed nothing.
    pub fn adopt(&mut self, other: Task) {
        assert_eq!(self.id, other.id, "stores belong to their task");
        for (node, other) in self.nodes.iter_mut().zip(other.nodes) {
            node.operator = other.operator;
        }
    }

    /// After the stores have been restored: goes on after commit `commit` with the watermarks that the feeds were given.
    ///
    /// # Errors
    /// `Corrupt` when a store still holds what the watermarks say has been emitted.
    pub fn resume(&mut self, commit: u64) -> Result<()> {
        self.commit = commit;
        let mut start = Unfinished::new(Found::default());
        self.propagate(&mut start)?;
        let emitted = start.emitted;
        if emitted > 0 {
            return Err(Error::corrupt(format!(
                "task {} of pipeline \"{}\": the restored state holds {emitted} rows that the last commit had emitted already",
                self.id, self.plan.names.pipeline
            ))
            .hint("delete the state directory so that the state is rebuilt from its changelog"));
        }
        if commit > 0 {
            // Every commit tells all targets where the sender is: what is known again from the last one has been told.
            for outbox in &mut self.outboxes {
                outbox.told(self.nodes[outbox.node].edge.current());
            }
        }
        Ok(())
    }

    pub fn commit_number(&self) -> u64 {
        self.commit
    }

    /// Of source partitions and repartition topics.
    pub fn positions(&self) -> OffsetVector {
        self.source_positions().chain(self.inbox_positions()).collect()
    }

    pub fn inbox_positions(&self) -> OffsetVector {
        self.inboxes.iter().map(|inbox| (inbox.partition.clone(), inbox.state.position)).collect()
    }

    pub fn source_positions(&self) -> impl Iterator<Item = (TopicPartition, NextOffset)> {
        self.feeds.iter().map(|feed| (feed.partition.clone(), feed.position))
    }

    /// Of each source partition, for every stream that reads it.
    pub fn watermarks(&self) -> BTreeMap<TopicPartition, Watermark> {
        self.feed_states().into_iter().map(|(partition, state)| (partition, state.lowest())).collect()
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub fn state_rows(&mut self) -> usize {
        self.stores().map(|(_, store)| store.len()).sum()
    }

    pub fn state_bytes(&mut self) -> usize {
        self.stores().map(|(_, store)| store.size()).sum()
    }

    /// What of the stores is on disk.
    pub fn spilled(&mut self) -> Spilled {
        self.stores()
            .map(|(_, store)| store.spilled())
            .fold(Spilled::default(), |sum, of_store| Spilled { keys: sum.keys + of_store.keys, size: sum.size + of_store.size })
    }

    /// Moves the stores with more than `least` bytes of rows to disk, those that can. Only between two commits. Returns how many bytes are
    /// free now.
    pub fn spill(&mut self, spills: &Arc<Spills>, least: usize) -> Result<usize> {
        let mut freed = 0;
        for (_, store) in self.stores() {
            let rows = |store: &dyn Store| store.size().saturating_sub(store.spilled().size);
            let before = rows(store);
            if before > least && store.spill(spills)? {
                freed += before.saturating_sub(rows(store));
            }
        }
        Ok(freed)
    }

    /// Memory that the next commit takes for what it has touched, estimated.
    pub fn touched_bytes(&mut self) -> usize {
        self.stores().map(|(_, store)| store.pending()).sum()
    }

    /// Bytes waiting to be sent.
    pub fn pending_bytes(&self) -> usize {
        let outlets: usize = self.outlets.iter().map(|(_, outlet)| outlet.outgoing.size()).sum();
        let outboxes: usize = self.outboxes.iter().map(Outbox::pending_bytes).sum();
        outlets + outboxes + self.dead.size() + self.late.size()
    }

    pub fn take_counts(&mut self) -> Counts {
        let mut counts = std::mem::take(&mut self.counts);
        for feed in &mut self.feeds {
            counts.skipped += std::mem::take(&mut feed.skipped);
            let dropped = std::mem::take(&mut feed.ingest.dropped);
            if dropped > 0 {
                *counts.dropped.entry("check").or_default() += dropped;
            }
        }
        counts
    }

    /// Letters of the commit being prepared whose records are not in memory.
    pub fn take_orphans(&mut self) -> Vec<Orphan> {
        std::mem::take(&mut self.orphans)
    }

    /// Groups whose result could not be computed since the last call: operator, key, reason.
    pub fn take_withdrawn(&mut self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.withdrawn)
    }

    pub fn missing(&self, chunk: &Chunk) -> Vec<WriterId> {
        let feeds = self.feeds.iter().filter(|feed| feed.partition == chunk.partition);
        let mut ids: Vec<WriterId> = feeds.flat_map(|feed| feed.missing(chunk)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    pub fn add_writer(&mut self, chunk: &Chunk, id: WriterId, schema: Option<&Arc<AvroSchema>>) -> Result<()> {
        for feed in self.feeds.iter_mut().filter(|feed| feed.partition == chunk.partition) {
            feed.add_writer(chunk, id, schema)?;
        }
        Ok(())
    }

    /// Takes a chunk through the sub-topology. Several sources may read one topic: each gets it.
    pub fn process(&mut self, chunk: &Chunk) -> Result<()> {
        self.dirty = true;
        if let Some(inbox) = self.inboxes.iter().position(|inbox| inbox.partition == chunk.partition) {
            return self.receive(inbox, chunk);
        }
        self.counts.records_in += chunk.len() as u64;
        let mut found = Found::default();
        let mut schema_ids = BTreeMap::new();
        for at in 0..self.feeds.len() {
            if self.feeds[at].partition != chunk.partition {
                continue;
            }
            let mut out = Output::default();
            let batches = self.feeds[at].decode(chunk, &mut out, &mut schema_ids)?;
            let node = self.feeds[at].node;
            found.take(node, &mut out);
            for batch in batches {
                self.forward(node, batch, &mut found)?;
            }
        }
        self.carry_on(Unfinished { schema_ids, ..Unfinished::new(found) }, Some(chunk))
    }

    /// A step has stopped in between: what [`Task::take_ready`] gives has to be sent, then it goes on by [`Task::proceed`], before anything else
    /// happens to the task.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    pub fn proceed(&mut self) -> Result<()> {
        let Some(step) = self.unfinished.take() else { return Ok(()) };
        let chunk = step.chunk.clone();
        self.carry_on(step, chunk.as_deref())
    }

    /// Lets steps stop; without, each goes to its end at once.
    pub fn set_flow(&mut self, flow: Flow) {
        self.flow = flow;
    }

    /// Watermarks through the graph as far as there is room for output; at the end the letters of the step.
    fn carry_on(&mut self, mut step: Unfinished, chunk: Option<&Chunk>) -> Result<()> {
        if !self.propagate(&mut step)? {
            step.chunk = step.chunk.or_else(|| chunk.cloned().map(Arc::new));
            self.unfinished = Some(step);
            return Ok(());
        }
        match chunk {
            Some(chunk) => self.account(chunk, &step.found)?,
            None => self.refuse_failing(&step.found)?,
        }
        self.write_letters(&step.found, &step.schema_ids, chunk);
        if let Some(chunk) = chunk.filter(|chunk| self.keep_recent && !chunk.is_empty()) {
            self.recent.push(chunk.clone());
        }
        Ok(())
    }

    /// What has gathered so far, to be sent ahead of the commit, in its transaction.
    pub fn take_ready(&mut self) -> Result<Vec<(Topic, Outgoing)>> {
        let mut ready = Vec::new();
        for outbox in &mut self.outboxes {
            ready.push(outbox.take(self.id.number, self.commit + 1, None, self.plan.message_bytes)?);
        }
        self.take_outlets(&mut ready);
        ready.retain(|(_, records)| !records.is_empty());
        Ok(ready)
    }

    /// Rows of sinks, dead letters and late rows.
    fn take_outlets(&mut self, to: &mut Vec<(Topic, Outgoing)>) {
        for (_, outlet) in &mut self.outlets {
            self.counts.records_out += outlet.outgoing.len() as u64;
            to.push((outlet.target.topic.clone(), std::mem::take(&mut outlet.outgoing)));
        }
        to.push((self.plan.names.dead(), std::mem::take(&mut self.dead)));
        to.push((self.plan.names.late(), std::mem::take(&mut self.late)));
    }

    /// Takes messages of a repartition topic.
    fn receive(&mut self, inbox: usize, chunk: &Chunk) -> Result<()> {
        let mut found = Found::default();
        let node = self.inboxes[inbox].node;
        for batch in self.inboxes[inbox].take(chunk)? {
            self.forward(node, batch, &mut found)?;
        }
        self.carry_on(Unfinished::new(found), None)
    }

    /// Recorded decisions about the task's source partitions.
    pub fn follow<'d>(&mut self, decisions: impl IntoIterator<Item = &'d Decision>) -> Result<()> {
        let before: Vec<Watermark> = self.feeds.iter().map(|feed| feed.ingest.watermark()).collect();
        for Decision { partition, at, to } in decisions {
            for feed in self.feeds.iter_mut().filter(|feed| feed.partition == *partition) {
                feed.ingest.raise(*at, *to);
            }
        }
        if self.feeds.iter().map(|feed| feed.ingest.watermark()).eq(before) {
            return Ok(());
        }
        self.dirty = true;
        self.carry_on(Unfinished::new(Found::default()), None)
    }

    /// Source partitions that have event time, with where they stand.
    pub fn stands(&self) -> BTreeMap<TopicPartition, Stand> {
        let mut stands: BTreeMap<TopicPartition, Stand> = BTreeMap::new();
        for feed in self.feeds.iter().filter(|feed| feed.ingest.has_watermark()) {
            let (watermark, highest) = (feed.ingest.watermark(), feed.ingest.highest());
            let own = Stand { watermark, highest, idle: feed.idle, quiet: feed.quiet };
            let stand = stands.entry(feed.partition.clone()).or_insert(own);
            stand.watermark = stand.watermark.min(own.watermark);
            stand.highest = stand.highest.max(own.highest);
        }
        stands
    }

    /// Notes whether a source partition is quiet, for `idle_after` and for `quiet_after`; the next commit says so.
    pub fn set_silence(&mut self, partition: &TopicPartition, idle: bool, quiet: bool) {
        for feed in self.feeds.iter_mut().filter(|feed| feed.partition == *partition) {
            self.dirty |= (feed.idle, feed.quiet) != (idle, quiet);
            (feed.idle, feed.quiet) = (idle, quiet);
        }
    }

    /// Nothing more will come (`--final`): every watermark goes to infinity.
    pub fn finish(&mut self) -> Result<()> {
        let decisions = self.source_positions().map(|(partition, at)| Decision { partition, at, to: Watermark::MAX });
        let decisions: Vec<Decision> = decisions.collect();
        // A task that said so in an earlier life has nothing to add: what reads its shuffles may have ended already.
        self.dirty |= self.feeds.iter().any(|feed| feed.ingest.watermark() != Watermark::MAX);
        self.follow(&decisions)
    }

    /// Everything that has gathered since the last commit, as records and offsets; `None` when nothing has happened. The task then
    /// stands at the new commit: it must be kept (`keep`) or thrown away.
    pub fn prepare(&mut self) -> Result<Option<Prepared>> {
        if !self.dirty {
            return Ok(None);
        }
        assert!(!self.is_unfinished(), "a step goes to its end before it is committed");
        let mut found = Found::default();
        for index in self.order.clone() {
            let mut out = Output::default();
            let Some(operator) = &mut self.nodes[index].operator else { continue };
            operator.flush(&mut out)?;
            self.emit(index, &mut out, &mut found)?;
        }
        self.refuse_failing(&found)?;
        self.write_letters(&found, &BTreeMap::new(), None);
        self.recent.clear();
        let mut prepared = Prepared { offsets: self.offsets(), outgoing: Vec::new() };
        self.write_changelogs(&mut prepared)?;
        for outbox in &mut self.outboxes {
            let watermark = self.nodes[outbox.node].edge.current();
            prepared.outgoing.push(outbox.take(self.id.number, self.commit + 1, Some(watermark), self.plan.message_bytes)?);
        }
        self.take_outlets(&mut prepared.outgoing);
        prepared.outgoing.retain(|(_, records)| !records.is_empty());
        self.commit += 1;
        self.dirty = false;
        Ok(Some(prepared))
    }

    /// The prepared commit is known to have succeeded. Returns whether it completed a round of the rolling snapshot.
    pub fn keep(&mut self) -> bool {
        self.stores().for_each(|(_, store)| store.keep());
        std::mem::take(&mut self.wrapped)
    }

    /// What the commit that was kept changed in the stores, by operator.
    pub fn take_deltas(&mut self) -> Vec<(String, RecordBatch)> {
        std::mem::take(&mut self.deltas)
    }

    /// Where the source partitions stand, each once.
    fn feed_states(&self) -> BTreeMap<TopicPartition, FeedState> {
        let mut states: BTreeMap<TopicPartition, FeedState> = BTreeMap::new();
        for feed in &self.feeds {
            match states.get_mut(&feed.partition) {
                Some(first) => {
                    first.others.push(feed.ingest.watermark());
                    first.highest = first.highest.max(feed.ingest.highest());
                }
                None => drop(states.insert(feed.partition.clone(), feed.state())),
            }
        }
        states
    }

    /// The offsets of the next commit with what a restart needs beside them.
    fn offsets(&self) -> CommittedOffsets {
        let commit = self.commit + 1;
        let feeds = self.feed_states().into_iter().map(|(partition, state)| {
            let metadata = progress::to_metadata(&state, commit);
            (partition, CommittedOffset { next: state.position, metadata })
        });
        let inboxes = self.inboxes.iter().map(|inbox| {
            let metadata = progress::inbox_metadata(commit);
            (inbox.partition.clone(), CommittedOffset { next: inbox.state.position, metadata })
        });
        feeds.chain(inboxes).collect()
    }

    /// The record that the next commit writes beside its deltas.
    fn commit_record(&self, edge: Watermark, commit: u64, previous: u64) -> CommitRecord {
        let states = self.feed_states();
        let watermarks = states.iter().flat_map(|(partition, state)| {
            let all = std::iter::once(state.watermark).chain(state.others.iter().copied());
            all.map(|watermark| (partition.topic.clone(), partition.partition, watermark))
        });
        CommitRecord {
            generation: self.plan.names.generation,
            number: commit,
            previous,
            edge,
            positions: self.positions().into_iter().map(|(p, at)| (p.topic, p.partition, at)).collect(),
            watermarks: watermarks.collect(),
            extra: progress::to_extra(states.iter(), self.inboxes.iter().map(|inbox| (&inbox.partition, &inbox.state))),
        }
    }

    /// The record of the last commit as the changelog of `operator` holds it (for a checkpoint).
    pub fn last_commit_record(&self, operator: &str) -> CommitRecord {
        let node = self.plan.topology.nodes.iter().position(|node| node.id == operator).expect("the operator is in the topology");
        self.commit_record(self.nodes[node].edge.current(), self.commit, self.commit.saturating_sub(1))
    }

    fn write_changelogs(&mut self, prepared: &mut Prepared) -> Result<()> {
        let plan = self.plan.clone();
        let mut wrapped = true;
        for (index, id) in plan.stateful_nodes(self.id.sub) {
            let record = self.commit_record(self.nodes[index].edge.current(), self.commit + 1, self.commit);
            let store = self.nodes[index].operator.as_mut().and_then(|operator| operator.store());
            let store = store.expect("a stateful operator has a store");
            let delta = store.delta()?;
            // The round of the snapshot goes on at the pace of the changes, so a restore reads about twice the live state.
            let rows = delta.as_ref().map_or(0, |rows| rows.num_rows());
            let slice = store.slice(rows.max(16))?;
            wrapped &= slice.wrapped;
            let (partition, bytes) = (Partition(self.id.number), plan.message_bytes);
            let messages = changelog::encode(&record, delta.as_ref(), slice.rows.as_ref(), partition, 0, bytes)?;
            prepared.outgoing.push((plan.names.changelog(id)?, messages));
            self.deltas.extend(delta.map(|delta| (id.to_string(), delta)));
        }
        self.wrapped = wrapped;
        Ok(())
    }

    /// Hands rows that `node` produced to its children.
    fn forward(&mut self, node: usize, batch: Batch, found: &mut Found) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let children = self.nodes[node].children.clone();
        let last = children.len().saturating_sub(1);
        let mut batch = Some(batch);
        for (at, (child, port)) in children.into_iter().enumerate() {
            let batch = if at == last { batch.take() } else { batch.clone() };
            self.push(child, port, batch.expect("it is taken by the last child only"), found)?;
        }
        Ok(())
    }

    fn push(&mut self, node: usize, port: usize, batch: Batch, found: &mut Found) -> Result<()> {
        let mut out = Output::default();
        match (&self.plan.topology.nodes[node].operation, &mut self.nodes[node].operator) {
            (Operation::Sink(sink), _) => {
                let outlet = self.outlets.iter_mut().find(|(of, _)| of == sink);
                outlet.expect("the sinks of the sub-topology have outlets").1.write(&batch, &mut out)?;
                found.take(node, &mut out);
                Ok(())
            }
            (Operation::Exchange(_), _) => {
                let outbox = self.outboxes.iter_mut().find(|outbox| outbox.node == node);
                outbox.expect("the exchanges of the sub-topology have outboxes").write(batch, &mut out)?;
                found.take(node, &mut out);
                Ok(())
            }
            (_, Some(operator)) => {
                operator.push(port, batch, &mut out)?;
                self.emit(node, &mut out, found)
            }
            (_, None) => self.forward(node, batch, found),
        }
    }

    fn emit(&mut self, node: usize, out: &mut Output, found: &mut Found) -> Result<()> {
        found.take(node, out);
        for batch in std::mem::take(&mut out.batches) {
            let batch = self.complete_windows(node, batch)?;
            self.forward(node, batch, found)?;
        }
        Ok(())
    }

    /// Leaves out results of windows that began before the range did.
    fn complete_windows(&self, node: usize, batch: Batch) -> Result<Batch> {
        let (Some(from), Operation::Aggregate(spec)) = (self.plan.emit_from, &self.plan.topology.nodes[node].operation) else {
            return Ok(batch);
        };
        let Some(window) = spec.window.as_ref().filter(|_| spec.phase != Phase::Local) else { return Ok(batch) };
        // A result's event time is its window's end - 1 ms.
        let first = from.0.saturating_add(window.size_micros).saturating_sub(1_000);
        let keep: BooleanArray = batch.event_times.values().iter().map(|time| Some(*time >= first)).collect();
        batch
            .filter(&keep)
            .map_err(|e| Error::corrupt(format!("rows of {} can't be filtered: {e}", self.plan.topology.nodes[node].id)))
    }

    /// Carries the feeds' watermarks through the graph: a node's rows before its watermark. Returns whether it came to the end.
    fn propagate(&mut self, step: &mut Unfinished) -> Result<bool> {
        for index in self.order.clone() {
            if index < step.node {
                continue;
            }
            if let Operation::Source(source) = self.plan.topology.nodes[index].operation {
                let feeds = self.feeds.iter().filter(|feed| feed.source == source);
                for (sender, feed) in feeds.enumerate() {
                    self.nodes[index].edge.update(sender, feed.ingest.watermark());
                }
            }
            let output = loop {
                let mut out = Output { room: Some(self.flow.rows), ..Output::default() };
                let output = self.advance(index, &mut out)?;
                step.emitted += out.batches.iter().map(Batch::num_rows).sum::<usize>();
                let more = out.more;
                self.emit(index, &mut out, &mut step.found)?;
                if !more {
                    break output;
                }
                if self.pending_bytes() >= self.flow.bytes {
                    step.node = index;
                    return Ok(false);
                }
            };
            for (child, port) in self.nodes[index].children.clone() {
                self.nodes[child].edge.update(port, output);
            }
        }
        Ok(true)
    }

    fn advance(&mut self, node: usize, out: &mut Output) -> Result<Watermark> {
        let edge = self.nodes[node].edge.current();
        match (&mut self.nodes[node].operator, self.inboxes.iter().find(|inbox| inbox.node == node)) {
            (Some(operator), _) => operator.advance(edge, out),
            // What lies behind an exchange goes by what its senders say.
            (None, Some(inbox)) => Ok(inbox.watermark()),
            (None, None) => Ok(edge),
        }
    }

    /// Rows that fail where their record is no longer at hand: the policy "fail" still holds.
    fn refuse_failing(&self, found: &Found) -> Result<()> {
        let failing = found.rejected.iter().map(|(_, rejected)| rejected).find(|r| self.policy(r) == OnViolation::Fail);
        let Some(rejected) = failing else { return Ok(()) };
        let from = self.plan.topology.sources[usize::from(rejected.source)].topic.partition(rejected.partition.0);
        Err(fails(rejected, &from))
    }

    /// Applies the policies of bad records and the budget.
    fn account(&mut self, chunk: &Chunk, found: &Found) -> Result<()> {
        let mut bad: Vec<usize> = Vec::new();
        self.refuse_failing(found)?;
        let here: Vec<usize> =
            self.feeds.iter().filter(|feed| feed.partition == chunk.partition).map(|feed| feed.source).collect();
        for (_, rejected) in &found.rejected {
            // A join may refuse rows of other partitions, and of earlier chunks: they were counted as good when they came.
            if rejected.partition != chunk.partition.partition || !here.contains(&usize::from(rejected.source)) {
                continue;
            }
            let policy = self.policy(rejected);
            if policy == OnViolation::DeadLetter
                && let Some(row) = chunk.row_of(rejected.offset)
            {
                bad.push(row);
            }
        }
        bad.sort_unstable();
        bad.dedup();
        for feed in self.feeds.iter_mut().filter(|feed| feed.partition == chunk.partition) {
            if let Some(row) = feed.budget.count(chunk.len(), bad.iter().copied()) {
                let offset = chunk.offsets[row];
                let first = found.rejected.iter().map(|(_, r)| r).find(|r| r.offset == offset);
                let why = first.map_or(String::new(), |r| format!("; the last one: {}: {}", r.class, r.message));
                return Err(Error::failed(format!(
                    "{} offset {offset}: more than 1 % of the last 10,000 records are bad{why}",
                    chunk.partition
                ))
                .hint("look at them with \"tidemill dlq list\"; correct the source or its checks, then start again"));
            }
        }
        Ok(())
    }

    fn policy(&self, rejected: &Rejected) -> OnViolation {
        let source = &self.plan.topology.sources[usize::from(rejected.source)];
        source.on_bad.get(&rejected.class).copied().unwrap_or(OnViolation::DeadLetter)
    }

    fn write_letters(&mut self, found: &Found, schema_ids: &BTreeMap<Offset, WriterId>, chunk: Option<&Chunk>) {
        let plan = self.plan.clone();
        let id = |node: usize| plan.topology.nodes[node].id.as_str();
        for (node, rejected) in &found.rejected {
            if self.policy(rejected) == OnViolation::Drop {
                *self.counts.dropped.entry(rejected.class.as_str()).or_default() += 1;
                continue;
            }
            let from = plan.topology.sources[usize::from(rejected.source)].topic.partition(rejected.partition.0);
            match original(chunk, &self.recent, &from, rejected.offset) {
                None => self.orphans.push(Orphan::rejected(rejected, id(*node), from)),
                original => {
                    self.sender.dead(rejected, id(*node), &from, original, schema_ids, plan.letter_partitions, &mut self.dead);
                }
            }
            *self.counts.dead.entry(rejected.class.as_str()).or_default() += 1;
        }
        for (node, late) in &found.late {
            let from = plan.topology.sources[usize::from(late.source)].topic.partition(late.partition.0);
            match original(chunk, &self.recent, &from, late.offset) {
                None => self.orphans.push(Orphan::late(late, id(*node), from)),
                original => self.sender.late(late, id(*node), &from, original, plan.letter_partitions, &mut self.late),
            }
            self.counts.late += 1;
        }
        for (node, withdrawn) in &found.withdrawn {
            self.counts.withdrawn += 1;
            self.withdrawn.push((id(*node).to_string(), withdrawn.key.clone(), withdrawn.message.clone()));
        }
    }
}

fn fails(rejected: &Rejected, from: &TopicPartition) -> Error {
    Error::failed(letters::describe(rejected.class, &rejected.message, from, rejected.offset))
        .hint("the policy for this class is \"fail\": correct the record or change the policy")
}

/// The chunk that holds the record: the one at hand, or one of this commit.
fn original<'a>(chunk: Option<&'a Chunk>, recent: &'a [Chunk], from: &TopicPartition, offset: Offset) -> Option<&'a Chunk> {
    chunk.into_iter().chain(recent).find(|chunk| chunk.partition == *from && chunk.row_of(offset).is_some())
}

/// The operator of a node with state, empty.
pub fn stateful_operator(plan: &Plan, id: &str) -> Result<Option<Box<dyn Operator>>> {
    let node = plan.topology.nodes.iter().find(|node| node.id == id && node.operation.stateful());
    node.map_or(Ok(None), |node| operator(&node.operation))
}

fn operator(operation: &Operation) -> Result<Option<Box<dyn Operator>>> {
    Ok(match operation {
        Operation::Source(_) | Operation::Union | Operation::Exchange(_) | Operation::Sink(_) => None,
        Operation::Filter(spec) => Some(Box::new(Filter::new(spec.clone()))),
        Operation::Project(spec) => Some(Box::new(Project::new(spec.clone()))),
        Operation::Assign(spec) => Some(Box::new(Assign::new(spec.clone())?)),
        Operation::Aggregate(spec) => Some(Box::new(Aggregate::new(spec.clone())?)),
        Operation::Consolidate(spec) => Some(Box::new(Consolidate::new(spec.clone()))),
        Operation::Table(spec) => Some(Box::new(Table::new(spec.clone())?)),
        Operation::TemporalJoin(spec) => Some(Box::new(TemporalJoin::new(spec.clone())?)),
        Operation::Materialize(spec) => Some(Box::new(Materialize::new(spec.clone())?)),
    })
}

/// Whether an error ends only what is in memory (go back to the last commit) rather than the pipeline.
pub fn recoverable(kind: Kind) -> bool {
    matches!(kind, Kind::Away | Kind::Abort | Kind::Fenced | Kind::Unknown)
}
