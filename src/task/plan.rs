//! What all tasks of a run share: the topology, names, targets, and which task reads which partition.
//!
//! The group shares out one *lead* topic per sub-topology, so it assigns tasks; the partitions of the same number of the sub-topology's
//! other topics follow. (No assignor of librdkafka promises that partitions of several topics meet in one member.)

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::operator::exchange::MAX_PARTITIONS;
use crate::record::{Timestamp, Topic, TopicPartition};
use crate::task::names::Names;
use crate::task::outlet::Target;
use crate::topology::{Operation, SubTopology, Topology};
use crate::watermark::Watermark;

/// One task: partition `number` of everything that a sub-topology reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Index of the sub-topology.
    pub sub: usize,
    pub number: i32,
}

impl fmt::Display for TaskId {
    /// As Kafka Streams writes it: `0_3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.sub, self.number)
    }
}

/// What all tasks of a run share.
#[derive(Clone)]
pub struct Plan {
    pub topology: Arc<Topology>,
    pub names: Names,
    /// One per sink.
    pub targets: Vec<Target>,
    /// Partition count of each source's topic.
    pub source_partitions: Vec<i32>,
    /// Partition count of the dead-letter and late topics.
    pub letter_partitions: i32,
    /// Upper bound of a message of an internal topic in bytes.
    pub message_bytes: usize,
    /// The range begins in mid-log: windows that start before this would be incomplete and are not emitted.
    pub emit_from: Option<Timestamp>,
    subs: Vec<Sub>,
    /// The sub-topology that reads a topic.
    readers: BTreeMap<Topic, usize>,
}

/// A sub-topology with what the cluster says of its topics.
#[derive(Clone, Debug)]
struct Sub {
    topology: SubTopology,
    inputs: Vec<Input>,
    /// Index into `inputs` of the topic that the group shares out.
    lead: usize,
}

#[derive(Clone, Debug)]
struct Input {
    reads: Reads,
    topic: Topic,
    partitions: i32,
}

/// What a partition feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Index of the source.
    Source(usize),
    /// Node of the exchange.
    Exchange(usize),
}

/// One topic that a task reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInput {
    pub reads: Reads,
    pub partition: TopicPartition,
}

impl Plan {
    /// # Errors
    /// `Config` when a name of an internal topic is too long.
    pub fn new(
        topology: Arc<Topology>,
        names: Names,
        targets: Vec<Target>,
        source_partitions: Vec<i32>,
        letter_partitions: i32,
        message_bytes: usize,
    ) -> Result<Plan> {
        let exchanged = exchange_partitions(&source_partitions);
        let mut subs = Vec::new();
        let mut readers = BTreeMap::new();
        for sub in topology.sub_topologies() {
            let sources = sub.sources.iter().map(|source| {
                let (topic, partitions) = (topology.sources[*source].topic.clone(), source_partitions[*source]);
                Ok(Input { reads: Reads::Source(*source), topic, partitions })
            });
            let inboxes = sub.inboxes.iter().map(|node| {
                let topic = names.repartition(&topology.nodes[*node].id)?;
                Ok(Input { reads: Reads::Exchange(*node), topic, partitions: exchanged })
            });
            let inputs = sources.chain(inboxes).collect::<Result<Vec<Input>>>()?;
            readers.extend(inputs.iter().map(|input| (input.topic.clone(), subs.len())));
            let most = inputs.iter().map(|input| input.partitions).max().unwrap_or(0);
            let lead = inputs.iter().position(|input| input.partitions == most).expect("a sub-topology reads something");
            subs.push(Sub { topology: sub, inputs, lead });
        }
        Ok(Plan { topology, names, targets, source_partitions, letter_partitions, message_bytes, emit_from: None, subs, readers })
    }

    pub fn subs(&self) -> impl Iterator<Item = &SubTopology> {
        self.subs.iter().map(|sub| &sub.topology)
    }

    pub fn sub(&self, sub: usize) -> &SubTopology {
        &self.subs[sub].topology
    }

    /// The number of tasks of a sub-topology: the largest partition count among what it reads.
    pub fn tasks(&self, sub: usize) -> i32 {
        let sub = &self.subs[sub];
        sub.inputs[sub.lead].partitions
    }

    /// The sub-topology that holds a node; an exchange is on the side that sends.
    pub fn sub_of(&self, node: usize) -> usize {
        self.subs.iter().position(|sub| sub.topology.nodes.contains(&node)).expect("every node is in a sub-topology")
    }

    /// What a receiver knows of the senders of an exchange from the start, by the number of the sender's task: of one that reads nothing which
    /// could become a row of it, that nothing will come. Such a task may never have anything to commit, and no message of its says so.
    pub fn senders(&self, exchange: usize) -> Vec<Watermark> {
        let partitions = self.topology.origins(exchange).into_iter().map(|origin| match self.topology.nodes[origin].operation {
            Operation::Source(source) => self.source_partitions[source],
            _ => self.exchange_partitions(),
        });
        let feeding = partitions.max().unwrap_or(0);
        let first = |number| if number < feeding { Watermark::MIN } else { Watermark::MAX };
        (0..self.tasks(self.sub_of(exchange))).map(first).collect()
    }

    /// Partition count of every repartition topic.
    pub fn exchange_partitions(&self) -> i32 {
        exchange_partitions(&self.source_partitions)
    }

    /// Topics that the group shares out, each with those that follow it.
    pub fn leads(&self) -> BTreeMap<Topic, Vec<Topic>> {
        let of = |sub: &Sub| {
            let lead = &sub.inputs[sub.lead].topic;
            let mut followers: Vec<Topic> =
                sub.inputs.iter().map(|input| &input.topic).filter(|topic| *topic != lead).cloned().collect();
            followers.sort();
            followers.dedup();
            (lead.clone(), followers)
        };
        self.subs.iter().map(of).collect()
    }

    /// The task that reads a partition.
    pub fn task_of(&self, partition: &TopicPartition) -> Option<TaskId> {
        let sub = *self.readers.get(&partition.topic)?;
        Some(TaskId { sub, number: partition.partition.0 })
    }

    /// What a task reads: source partitions, then repartition topics. Two sources may read one partition.
    pub fn inputs(&self, task: TaskId) -> Vec<TaskInput> {
        let inputs = self.subs[task.sub].inputs.iter().filter(|input| task.number < input.partitions);
        inputs.map(|input| TaskInput { reads: input.reads, partition: input.topic.partition(task.number) }).collect()
    }

    /// Every partition of the sources.
    pub fn source_partitions(&self) -> impl Iterator<Item = TopicPartition> {
        let counts = self.topology.sources.iter().zip(&self.source_partitions);
        counts.flat_map(|(source, count)| crate::log::partitions_of(&source.topic, *count))
    }

    /// Nodes of a sub-topology with state, with their ids.
    pub fn stateful_nodes(&self, sub: usize) -> impl Iterator<Item = (usize, &str)> {
        let nodes = self.subs[sub].topology.nodes.iter();
        nodes
            .map(|index| (*index, &self.topology.nodes[*index]))
            .filter(|(_, node)| node.operation.stateful())
            .map(|(index, node)| (index, node.id.as_str()))
    }

    pub fn is_table(&self, topic: &Topic) -> bool {
        self.topology.sources.iter().any(|source| source.topic == *topic && source.table.is_some())
    }

    /// The stream partitions that a table's partition waits for: those that meet it in its task, or, where rows move first, all.
    pub fn met_by(&self, table: &TopicPartition) -> Vec<TopicPartition> {
        let timed = |source: &usize| {
            let source = &self.topology.sources[*source];
            source.table.is_none() && source.ingest.has_watermark()
        };
        let here = self.task_of(table).into_iter().flat_map(|task| self.inputs(task));
        let here: Vec<TopicPartition> = here
            .filter(|input| matches!(input.reads, Reads::Source(source) if timed(&source)))
            .map(|input| input.partition)
            .collect();
        if !here.is_empty() {
            return here;
        }
        let all = (0..self.topology.sources.len()).filter(timed);
        all.flat_map(|at| crate::log::partitions_of(&self.topology.sources[at].topic, self.source_partitions[at])).collect()
    }

    pub fn has_tables(&self) -> bool {
        self.topology.sources.iter().any(|source| source.table.is_some())
    }

    /// Every partition that transactions of the run may write.
    pub fn written(&self) -> Result<Vec<TopicPartition>> {
        let mut topics: BTreeMap<Topic, i32> =
            self.targets.iter().map(|target| (target.topic.clone(), target.partitions)).collect();
        topics.extend([self.names.dead(), self.names.late()].map(|topic| (topic, self.letter_partitions)));
        topics.insert(self.names.decisions(), 1);
        for (index, sub) in self.subs.iter().enumerate() {
            for (_, id) in self.stateful_nodes(index) {
                topics.insert(self.names.changelog(id)?, self.tasks(index));
            }
            let inboxes = sub.inputs.iter().filter(|input| matches!(input.reads, Reads::Exchange(_)));
            topics.extend(inboxes.map(|input| (input.topic.clone(), input.partitions)));
        }
        Ok(topics.into_iter().flat_map(|(topic, count)| crate::log::partitions_of(&topic, count)).collect())
    }

    pub fn has_state(&self) -> bool {
        self.topology.nodes.iter().any(|node| node.operation.stateful())
    }
}

/// As many as the widest source has; never more than key groups.
pub fn exchange_partitions(source_partitions: &[i32]) -> i32 {
    source_partitions.iter().copied().max().unwrap_or(1).clamp(1, MAX_PARTITIONS)
}
