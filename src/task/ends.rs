//! Where a bounded run ends: source partitions at their captured ends, repartition topics where their senders ended.
//!
//! What a sender has written is complete once the group has committed all source partitions behind it to their ends: then the end of the
//! repartition topic is taken, once, and never again. Committed offsets are all that the members of the group need to know of one
//! another; no message says that a task is done.
//!
//! Invariant: ends never move.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::log::{CommittedOffsets, Isolation, Log, partitions_of};
use crate::record::{NextOffset, OffsetVector, TopicPartition};
use crate::task::decision::Decision;
use crate::task::graph::Task;
use crate::task::plan::Plan;
use crate::task::progress;
use crate::topology::Operation;
use crate::watermark::Watermark;

/// The ends of a run, found one after the other.
pub struct Ends {
    known: OffsetVector,
    /// Inputs before their users.
    exchanges: Vec<Exchanged>,
    /// The run declares at its end that nothing more will come: a source partition is done when its watermark says so.
    finish: bool,
    /// Source partitions about which decisions are recorded: done when they have been followed.
    decided: BTreeMap<TopicPartition, Watermark>,
    /// Partitions of tables, which are done when they have been raised to where the stream partitions are that they meet.
    tables: BTreeMap<TopicPartition, Vec<TopicPartition>>,
}

struct Exchanged {
    node: usize,
    partitions: Vec<TopicPartition>,
    /// Source partitions and repartition topics that its rows come from.
    behind: Vec<TopicPartition>,
    ended: bool,
}

impl Ends {
    pub fn new(plan: &Plan, sources: &OffsetVector, finish: bool, raise_tables: bool, decisions: &[Decision]) -> Result<Ends> {
        let mut exchanges: Vec<Exchanged> = Vec::new();
        for node in plan.topology.exchanges() {
            let topic = plan.names.repartition(&plan.topology.nodes[node].id)?;
            let behind = behind(plan, node, &exchanges);
            exchanges.push(Exchanged {
                node,
                partitions: partitions_of(&topic, plan.exchange_partitions()),
                behind,
                ended: false,
            });
        }
        let raised = plan.source_partitions().filter(|p| raise_tables && !finish && plan.is_table(&p.topic));
        let tables = raised.map(|partition| (partition.clone(), plan.met_by(&partition))).collect();
        let mut decided: BTreeMap<TopicPartition, Watermark> = BTreeMap::new();
        for Decision { partition, at, to } in decisions {
            if sources.get(partition).is_some_and(|end| at <= end) {
                let known = decided.entry(partition.clone()).or_insert(*to);
                *known = (*known).max(*to);
            }
        }
        Ok(Ends { known: sources.clone(), exchanges, finish, decided, tables })
    }

    pub fn get(&self, partition: &TopicPartition) -> Option<NextOffset> {
        self.known.get(partition).copied()
    }

    /// Whether the task has read its source partitions to their ends.
    pub fn sources_reached(&self, task: &Task) -> bool {
        task.source_positions().all(|(partition, at)| self.known.get(&partition).is_none_or(|end| at >= *end))
    }

    /// Whether the task has read all there is for it.
    pub fn reached(&self, task: &Task) -> bool {
        let at_end = |(partition, at): (&TopicPartition, &NextOffset)| self.known.get(partition).is_some_and(|end| at >= end);
        self.sources_reached(task) && task.inbox_positions().iter().all(at_end)
    }

    pub fn has_exchanges(&self) -> bool {
        !self.exchanges.is_empty()
    }

    /// Takes the ends of repartition topics whose senders have ended.
    pub fn find(&mut self, log: &dyn Log, group: &str, start: &OffsetVector) -> Result<()> {
        for at in 0..self.exchanges.len() {
            if self.exchanges[at].ended {
                continue;
            }
            let mut asked = self.exchanges[at].behind.clone();
            asked.extend(self.tables.values().flatten().cloned());
            let committed = log.committed(group, &asked)?;
            if !self.all_done(&self.exchanges[at].behind, &committed, start) {
                return Ok(());
            }
            // The high watermark: markers of the last transactions may still be on their way (KAFKA-10167).
            let ends = log.end_offsets(&self.exchanges[at].partitions, Isolation::Uncommitted)?;
            self.known.extend(ends);
            self.exchanges[at].ended = true;
        }
        Ok(())
    }

    /// Whether the group has committed everything to its end.
    pub fn all_committed(&self, log: &dyn Log, group: &str, start: &OffsetVector) -> Result<bool> {
        if self.exchanges.iter().any(|exchange| !exchange.ended) {
            return Ok(false);
        }
        let all: Vec<TopicPartition> = self.known.keys().cloned().collect();
        let committed = log.committed(group, &all)?;
        Ok(self.all_done(&all, &committed, start))
    }

    /// Whether the group has committed all source partitions to their ends.
    pub fn sources_committed(&self, log: &dyn Log, group: &str, start: &OffsetVector) -> Result<bool> {
        let exchanged = |p: &TopicPartition| self.exchanges.iter().any(|exchange| exchange.partitions.contains(p));
        let sources: Vec<TopicPartition> = self.known.keys().filter(|p| !exchanged(p)).cloned().collect();
        let committed = log.committed(group, &sources)?;
        let at_end = |p: &TopicPartition| {
            let at = committed.get(p).map_or_else(|| start.get(p).copied().unwrap_or(NextOffset(0)), |committed| committed.next);
            at >= self.known[p]
        };
        Ok(sources.iter().all(at_end))
    }

    /// Whether a table's partition has been raised to the lowest watermark of the streams that it meets.
    fn raised(&self, partition: &TopicPartition, committed: &CommittedOffsets) -> bool {
        let Some(met) = self.tables.get(partition) else { return true };
        let of = |p: &TopicPartition| {
            committed.get(p).and_then(|c| progress::from_committed(p, c).ok()).map_or(Watermark::MIN, |state| state.watermark)
        };
        met.iter().map(of).min().is_none_or(|to| to == Watermark::MIN || of(partition) >= to)
    }

    /// Whether what is decided about a partition up to its end has been followed: rows that a raise released come after the offsets.
    fn followed(&self, partition: &TopicPartition, committed: &CommittedOffsets) -> bool {
        let Some(decided) = self.decided.get(partition) else { return true };
        let state = committed.get(partition).and_then(|committed| progress::from_committed(partition, committed).ok());
        state.is_some_and(|state| state.watermark >= *decided)
    }

    fn all_done(&self, partitions: &[TopicPartition], committed: &CommittedOffsets, start: &OffsetVector) -> bool {
        partitions.iter().all(|partition| {
            let Some(end) = self.known.get(partition) else { return false };
            if !self.raised(partition, committed) || !self.followed(partition, committed) {
                return false;
            }
            let exchanged = self.exchanges.iter().any(|exchange| exchange.partitions.contains(partition));
            match committed.get(partition) {
                Some(committed) if self.finish && !exchanged => {
                    let declared = progress::from_committed(partition, committed).is_ok_and(|s| s.watermark == Watermark::MAX);
                    committed.next >= *end && declared
                }
                Some(committed) => committed.next >= *end,
                None => (exchanged || !self.finish) && start.get(partition).copied().unwrap_or(NextOffset(0)) >= *end,
            }
        })
    }
}

/// Partitions whose records can become rows of the exchange, up to the exchanges before it.
fn behind(plan: &Plan, exchange: usize, before: &[Exchanged]) -> Vec<TopicPartition> {
    let mut found = BTreeSet::new();
    for origin in plan.topology.origins(exchange) {
        match &plan.topology.nodes[origin].operation {
            Operation::Source(source) => {
                let topic = &plan.topology.sources[*source].topic;
                found.extend(partitions_of(topic, plan.source_partitions[*source]));
            }
            _ => {
                let other = before.iter().find(|other| other.node == origin).expect("inputs stand before their users");
                found.extend(other.partitions.iter().cloned());
            }
        }
    }
    found.into_iter().collect()
}
