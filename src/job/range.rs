//! What a range of the past can't give, and where its first whole window begins.

use crate::error::{Error, Result};
use crate::job::control::Control;
use crate::job::{Site, prepare};
use crate::log::Isolation;
use crate::record::{OffsetVector, Timestamp, Topic, TopicPartition};
use crate::topology::Topology;

/// With a `from` in mid-log an aggregate without windows would miss what came before.
pub(super) fn check_mid_log(site: &Site, topology: &Topology, from: &OffsetVector) -> Result<()> {
    let Some(operator) = prepare::has_updating_aggregate(topology) else { return Ok(()) };
    let partitions: Vec<TopicPartition> = from.keys().cloned().collect();
    let starts = site.log.start_offsets(&partitions)?;
    match partitions.iter().find(|partition| from[*partition] > starts[*partition]) {
        None => Ok(()),
        Some(partition) => Err(Error::config(format!(
            "\"{operator}\" aggregates without a window, and the range begins at offset {} of {partition}, above the log start {}",
            from[partition], starts[partition]
        ))
        .hint("give --from earliest: what came before belongs to its result")),
    }
}

/// A compacted topic has lost versions: a join with it is not what the live one was.
pub(super) fn check_history(site: &Site, topology: &Topology, latest_versions: bool) -> Result<()> {
    if latest_versions {
        return Ok(());
    }
    if let Some(table) = prepare::compacted_tables(site, topology)?.first() {
        return Err(Error::config(format!(
            "table \"{}\" (line {}): topic \"{}\" is compacted, so versions that rows of the past had joined may be gone",
            table.name, table.line, table.topic
        ))
        .hint("give --table-history latest to join what is left: the result is then not promised to equal the live one"));
    }
    Ok(())
}

/// `--output live` only into sinks that nothing has written.
pub(super) fn check_unwritten(site: &Site, outputs: &[(String, Topic)]) -> Result<()> {
    for (sink, topic) in outputs {
        let Some(info) = site.log.topic(topic)? else { continue };
        let partitions = crate::log::partitions_of(topic, info.partitions);
        let ends = site.log.end_offsets(&partitions, Isolation::Uncommitted)?;
        if let Some((partition, end)) = ends.iter().find(|(_, end)| end.0 > 0) {
            return Err(Error::config(format!("sink \"{sink}\": {partition} has been written already (its end is {end})"))
                .hint("leave --output live out: the backfill then writes shadow topics of its own"));
        }
    }
    Ok(())
}

/// What writes a live sink is alone in that: the live generation, or one job. Both may have begun and not written yet.
pub(super) fn check_only_writer(topology: &Topology, control: &Control, outputs: &[(String, Topic)]) -> Result<()> {
    let sinks =
        outputs.iter().filter(|(name, topic)| topology.sinks.iter().any(|sink| sink.name == *name && sink.topic == *topic));
    for (sink, topic) in sinks {
        let live = control.live().filter(|live| live.statements.iter().any(|s| s.kind == "INSERT INTO" && s.name == *sink));
        let other = match (live, control.writer_of(topic)) {
            (Some(live), _) => format!("generation {} is live and writes it", live.generation),
            (None, Some(job)) => format!("job \"{}\" writes it", job.job),
            (None, None) => continue,
        };
        return Err(Error::config(format!("sink \"{sink}\" ({topic}): {other}"))
            .hint("leave --output live out: the backfill then writes shadow topics of its own"));
    }
    Ok(())
}

/// With a range that begins in mid-log no window that starts before it is emitted: it would be incomplete. The bound is the highest
/// record timestamp at the beginnings that lie in mid-log.
pub(super) fn emit_from(site: &Site, from: &OffsetVector) -> Result<Option<Timestamp>> {
    let partitions: Vec<TopicPartition> = from.keys().cloned().collect();
    let starts = site.log.start_offsets(&partitions)?;
    let ends = site.log.end_offsets(&partitions, Isolation::Committed)?;
    let mid: OffsetVector =
        from.iter().filter(|(p, at)| **at > starts[*p] && **at < ends[*p]).map(|(p, at)| (p.clone(), *at)).collect();
    let mut bound = None;
    for (partition, at) in mid {
        let mut reader = site.log.reader(crate::log::Isolation::Committed, &OffsetVector::from([(partition.clone(), at)]))?;
        let clock = site.log.clock();
        let deadline = clock.now() + std::time::Duration::from_secs(10);
        while reader.positions()[&partition] < ends[&partition] && clock.now() < deadline {
            let chunks = reader.poll(std::time::Duration::from_millis(200), 1)?;
            if let Some(millis) = chunks.iter().flat_map(|chunk| chunk.timestamps.first()).next() {
                bound = bound.max(Timestamp::from_millis(*millis));
                break;
            }
        }
    }
    Ok(bound)
}
