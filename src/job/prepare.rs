//! What every run needs before its first record: topics looked at and created, contracts checked and registered.
//!
//! Everything that can be refused is refused before anything is created.

use std::collections::{BTreeMap, BTreeSet};

use crate::contract::{AvroSchema, RegisteredSchema, SchemaId};
use crate::error::{Error, Result, nearest};
use crate::job::control::GenerationRecord;
use crate::job::{SchemaRegistration, Site, TopicsCreate};
use crate::log::{CommittedOffset, CommittedOffsets, Isolation, NewTopic, partitions_of};
use crate::operator::aggregate::Phase;
use crate::operator::temporal_join::Meets;
use crate::record::{NextOffset, OffsetVector, Topic, TopicPartition};
use crate::task::names::Names;
use crate::task::outlet::Target;
use crate::task::plan::{Plan, exchange_partitions};
use crate::task::progress;
use crate::topology::{Operation, Sink, Source, Topology};

/// Partition count of every source's topic.
///
/// # Errors
/// `Config` naming the statement when a topic is missing, or when inputs that meet in a state have unequal counts.
pub fn sources(site: &Site, topology: &Topology) -> Result<Vec<i32>> {
    let mut counts = Vec::new();
    for source in &topology.sources {
        let Some(info) = site.log.topic(&source.topic)? else {
            let known = site.log.topics("")?;
            let near = nearest(source.topic.as_str(), known.iter().map(|info| info.topic.as_str()));
            let hint = match near {
                Some(near) => format!("did you mean \"{near}\"? otherwise create the topic first"),
                None => "create the topic, or correct the 'topic' option".to_string(),
            };
            let place = format!("stream \"{}\" (line {})", source.name, source.line);
            return Err(Error::config(format!("{place}: topic \"{}\" does not exist", source.topic)).hint(hint));
        };
        counts.push(info.partitions);
    }
    check_counts(topology, &counts)?;
    Ok(counts)
}

/// Inputs that meet in a state have as many partitions as one another. The local half of an aggregate takes rows as they lie.
fn check_counts(topology: &Topology, counts: &[i32]) -> Result<()> {
    let shuffled = exchange_partitions(counts);
    for (index, node) in topology.nodes.iter().enumerate() {
        let local = matches!(&node.operation, Operation::Aggregate(spec) if spec.phase == Phase::Local);
        if local || !node.operation.stateful() {
            continue;
        }
        let count = |origin: &usize| match &topology.nodes[*origin].operation {
            Operation::Source(source) => (topology.sources[*source].topic.as_str(), counts[*source]),
            _ => (topology.nodes[*origin].id.as_str(), shuffled),
        };
        let met: Vec<(&str, i32)> = topology.origins(index).iter().map(count).collect();
        if met.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            let show: Vec<String> = met.iter().map(|(name, count)| format!("\"{name}\" has {count}")).collect();
            return Err(Error::config(format!(
                "inputs that meet in the state of \"{}\" have unequal partition counts: {}",
                node.id,
                show.join(", ")
            ))
            .hint("plan it anew, now that the counts are known; or give the topics as many partitions as one another"));
        }
    }
    Ok(())
}

/// Tables that a join reads whose topic is compacted: versions that rows of the past had joined may be gone.
pub fn compacted_tables<'t>(site: &Site, topology: &'t Topology) -> Result<Vec<&'t Source>> {
    let mut joined = BTreeSet::new();
    for node in topology
        .nodes
        .iter()
        .filter(|node| matches!(&node.operation, Operation::TemporalJoin(join) if join.meets != Meets::Latest))
    {
        let mut table = node.inputs[1];
        while let Operation::Exchange(_) = topology.nodes[table].operation {
            table = topology.nodes[table].inputs[0];
        }
        if let Operation::Source(source) = topology.nodes[table].operation {
            joined.insert(source);
        }
    }
    let mut compacted = Vec::new();
    for table in joined.into_iter().map(|source| &topology.sources[source]) {
        if site.log.topic(&table.topic)?.is_some_and(|info| info.compacted) {
            compacted.push(table);
        }
    }
    Ok(compacted)
}

/// What a generation remembers of its sources: how many partitions they had and which topics they were.
pub fn remember_sources(site: &Site, topology: &Topology, record: &mut GenerationRecord) -> Result<()> {
    for source in &topology.sources {
        if let Some(info) = site.log.topic(&source.topic)? {
            record.partitions.insert(source.topic.to_string(), info.partitions);
            record.ids.extend(info.id.map(|id| (source.topic.to_string(), id)));
        }
    }
    Ok(())
}

/// A topic that was deleted and created again is another log: its offsets mean other records.
pub fn check_ids(site: &Site, record: &GenerationRecord, name: &str) -> Result<()> {
    for (topic, known) in &record.ids {
        if let Some(id) = site.log.topic(&Topic::new(topic))?.and_then(|info| info.id)
            && id != *known
        {
            let generation = record.generation;
            return Err(Error::config(format!(
                "topic \"{topic}\" was deleted and created again since generation {generation} of pipeline \"{name}\" began \
                 (its id is {id}, not {known})"
            ))
            .hint(format!("its records are others than those that were read: start over with \"tidemill reset {name} --yes\"")));
        }
    }
    Ok(())
}

/// A pipeline without state has its positions in its group alone. All are there with its generation, so that one that is missing later is
/// known to be lost (a group at rest forgets its offsets after a week) and not taken for a beginning. To be asked for and written as part of
/// the change that records the generation: nobody has read anything then.
pub fn first_offsets(site: &Site, topology: &Topology, group: &str, start: &OffsetVector) -> Result<CommittedOffsets> {
    if has_state(topology) {
        return Ok(CommittedOffsets::new());
    }
    let partitions: Vec<TopicPartition> = start.keys().cloned().collect();
    let known = site.log.committed(group, &partitions)?;
    let begin = |next: &NextOffset| CommittedOffset { next: *next, metadata: progress::to_metadata(&progress::start(*next), 0) };
    // Nothing can have been processed but where the control topic was lost: then that counts.
    let untouched = |at: &CommittedOffset| at.metadata == begin(&at.next).metadata;
    let missing = start.iter().filter(|(partition, _)| known.get(*partition).is_none_or(untouched));
    Ok(missing.map(|(partition, next)| (partition.clone(), begin(next))).collect())
}

/// An offset that was there when the generation began, and is not any more.
pub fn check_offsets(
    site: &Site,
    record: &GenerationRecord,
    name: &str,
    group: &str,
    partitions: &[TopicPartition],
) -> Result<()> {
    if !record.offsets {
        return Ok(());
    }
    let began_with = |at: &&TopicPartition| record.partitions.get(at.topic.as_str()).is_none_or(|count| at.partition.0 < *count);
    let known = site.log.committed(group, partitions)?;
    let Some(lost) = partitions.iter().filter(began_with).find(|partition| !known.contains_key(*partition)) else {
        return Ok(());
    };
    let only = std::slice::from_ref(lost);
    let (start, end) = (site.log.start_offsets(only)?[lost], site.log.end_offsets(only, Isolation::Committed)?[lost]);
    Err(Error::config(format!(
        "{lost}: group \"{group}\" has no committed offset any more (the log goes from {start} to {end}): it expired while the group was \
         empty, or was deleted"
    ))
    .hint(format!(
        "without it records would be read twice or passed over: start over with \"tidemill reset {name} --yes\" and \"tidemill run --from ...\" \
         at the offset that the sinks show as the last one"
    )))
}

pub fn has_state(topology: &Topology) -> bool {
    topology.nodes.iter().any(|node| node.operation.stateful())
}

/// Every source partition of the pipeline.
pub fn partitions(topology: &Topology, counts: &[i32]) -> Vec<TopicPartition> {
    let mut all: Vec<TopicPartition> =
        topology.sources.iter().zip(counts).flat_map(|(source, count)| partitions_of(&source.topic, *count)).collect();
    all.sort();
    all.dedup();
    all
}

/// Tables are read from the start of their log, whatever the range begins with.
pub fn tables_from_start(site: &Site, topology: &Topology, from: &mut OffsetVector) -> Result<()> {
    let tables: Vec<&Topic> = topology.sources.iter().filter(|s| s.table.is_some()).map(|s| &s.topic).collect();
    let partitions: Vec<TopicPartition> = from.keys().filter(|p| tables.contains(&&p.topic)).cloned().collect();
    if !partitions.is_empty() {
        from.extend(site.log.start_offsets(&partitions)?);
    }
    Ok(())
}

/// The topics that a run writes, with what they would be created with.
pub fn sink_topics(
    site: &Site,
    topology: &Topology,
    tasks: i32,
    topic_of: &dyn Fn(&Sink) -> Result<Topic>,
) -> Result<Vec<NewTopic>> {
    let create = |sink: &Sink| {
        let policy = if sink.key.is_some() { "compact" } else { "delete" };
        Ok(NewTopic {
            topic: topic_of(sink)?,
            partitions: sink.partitions.unwrap_or(tasks),
            replication: site.settings.replication,
            config: BTreeMap::from([("cleanup.policy".to_string(), policy.to_string()), any_time()]),
        })
    };
    topology.sinks.iter().map(create).collect()
}

/// Internal topics of a generation and the pipeline's letters.
pub fn internal_topics(site: &Site, topology: &Topology, names: &Names, counts: &[i32]) -> Result<Vec<NewTopic>> {
    let config = BTreeMap::from([("cleanup.policy".to_string(), "delete".to_string()), any_time()]);
    let replication = site.settings.replication;
    let new = |topic: Topic, partitions: i32| {
        let mut new = NewTopic { topic, partitions, replication, config: config.clone() };
        keep_for_ever(&mut new);
        new
    };
    let most = counts.iter().copied().max().unwrap_or(0);
    let mut topics = vec![super::control::new_topic(names, replication), new(names.dead(), most), new(names.late(), most)];
    topics.push(crate::task::decision::new_topic(names.decisions(), replication));
    let shuffled = exchange_partitions(counts);
    for sub in topology.sub_topologies() {
        let sources = sub.sources.iter().map(|source| counts[*source]);
        let tasks = sources.chain(sub.inboxes.iter().map(|_| shuffled)).max().unwrap_or(0);
        for node in sub.nodes.iter().map(|node| &topology.nodes[*node]).filter(|node| node.operation.stateful()) {
            topics.push(new(names.changelog(&node.id)?, tasks));
        }
    }
    for node in topology.exchanges() {
        topics.push(new(names.repartition(&topology.nodes[node].id)?, shuffled));
    }
    Ok(topics)
}

/// Records carry event time: by its retention a broker would delete the past as soon as it is written.
pub fn keep_for_ever(topic: &mut NewTopic) {
    topic.config.extend(["retention.ms", "retention.bytes"].map(|name| (name.to_string(), "-1".to_string())));
}

/// Output records carry event time, which may be ahead of the broker's clock by more than the hour that it allows by default (KIP-937).
fn any_time() -> (String, String) {
    ("message.timestamp.after.max.ms".to_string(), i64::MAX.to_string())
}

/// Looks at topics before anything is created: a missing one that may not be created is refused; sinks get their real counts.
pub fn check_topics(site: &Site, wanted: &mut [NewTopic], internal: bool) -> Result<()> {
    let may_create = match site.settings.topics_create {
        TopicsCreate::All => true,
        TopicsCreate::Internal => internal,
        TopicsCreate::None => false,
    };
    for topic in wanted {
        match site.log.topic(&topic.topic)? {
            Some(info) => topic.partitions = info.partitions,
            None if may_create => {}
            None => {
                return Err(Error::config(format!(
                    "topic \"{}\" does not exist, and topics.create forbids creating it",
                    topic.topic
                ))
                .hint("create it (\"tidemill topics PIPELINE.sql\" prints the commands), or set topics.create = \"all\""));
            }
        }
    }
    Ok(())
}

/// Checks a sink's schemas under their subjects' compatibility, without registering anything.
pub fn check_schemas(site: &Site, topology: &Topology) -> Result<()> {
    for sink in &topology.sinks {
        for (subject, schema) in schemas(sink) {
            if let Some(faults) = site.registry.check(subject, schema)? {
                let level = site.registry.compatibility(subject)?;
                return Err(Error::contract(format!(
                    "sink \"{}\" (line {}): the schema is incompatible with subject \"{subject}\" under {level}:\n  {}",
                    sink.name,
                    sink.line,
                    faults.join("\n  ")
                ))
                .hint("change the SELECT list to keep the published fields, write to another topic, or change the subject's compatibility"));
            }
        }
    }
    Ok(())
}

fn schemas(sink: &Sink) -> Vec<(&str, &AvroSchema)> {
    let key = sink.key.as_ref().and_then(|key| key.avro.as_ref()).map(|(subject, schema)| (subject.as_str(), schema.as_ref()));
    std::iter::once((sink.value_subject.as_str(), sink.value_schema.as_ref())).chain(key).collect()
}

/// Registers (or finds) the schemas and says where rows go. `subject_of` maps a live subject to the one used in this run.
pub fn targets(
    site: &Site,
    topology: &Topology,
    topics: &[NewTopic],
    subject_of: &dyn Fn(&Sink, &str) -> String,
) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for (sink, topic) in topology.sinks.iter().zip(topics) {
        let mut ids: Vec<SchemaId> = Vec::new();
        for (subject, schema) in schemas(sink) {
            ids.push(register(site, sink, &subject_of(sink, subject), schema)?.id);
        }
        targets.push(Target {
            topic: topic.topic.clone(),
            partitions: topic.partitions,
            value_id: ids[0],
            key_id: ids.get(1).copied(),
            max_record_bytes: site.settings.max_record_bytes,
        });
    }
    Ok(targets)
}

fn register(site: &Site, sink: &Sink, subject: &str, schema: &AvroSchema) -> Result<RegisteredSchema> {
    if site.settings.schema_registration == SchemaRegistration::Register {
        return site
            .registry
            .register(subject, schema)
            .map_err(|e| e.context(format!("sink \"{}\" (line {})", sink.name, sink.line)));
    }
    let versions = site.registry.versions(subject)?;
    versions.into_iter().rev().find(|known| known.schema.fingerprint == schema.fingerprint).ok_or_else(|| {
        Error::config(format!("sink \"{}\" (line {}): subject \"{subject}\" does not hold its schema", sink.name, sink.line))
            .hint("register it first (\"tidemill explain\" prints it), or set schema.registration = \"register\"")
    })
}

/// What all tasks share.
pub fn plan(
    site: &Site,
    topology: &Topology,
    names: Names,
    source_partitions: Vec<i32>,
    targets: Vec<Target>,
    letters: i32,
) -> Result<Plan> {
    let message_bytes = site.settings.max_record_bytes.saturating_sub(100_000).max(10_000);
    Plan::new(std::sync::Arc::new(topology.clone()), names, targets, source_partitions, letters, message_bytes)
}

/// A sink that writes into one of the pipeline's own sources would feed itself for ever.
pub fn check_loops(topology: &Topology) -> Result<()> {
    for sink in &topology.sinks {
        if let Some(source) = topology.sources.iter().find(|source| source.topic == sink.topic) {
            return Err(Error::config(format!(
                "sink \"{}\" (line {}) writes topic \"{}\", which stream \"{}\" (line {}) reads",
                sink.name, sink.line, sink.topic, source.name, source.line
            ))
            .hint("give the sink a topic of its own: the pipeline would feed itself for ever"));
        }
    }
    Ok(())
}

/// Whether an aggregate without windows is in the topology.
pub fn has_updating_aggregate(topology: &Topology) -> Option<&str> {
    let updating = |operation: &Operation| matches!(operation, Operation::Aggregate(spec) if spec.window.is_none());
    topology.nodes.iter().find(|node| updating(&node.operation)).map(|node| node.id.as_str())
}
