//! A lull: all streams of the pipeline are quiet, and the last windows wait for a record that may not come for long.
//!
//! With `quiet_after` event time then goes on by the clock: the watermark is where it would be if the stream with the highest event time had
//! gone on at the pace of the clock. So a record that comes after all is late only if it is as late by the clock. The watermark moves only
//! when that closes something, and no further than to the end of the last windows that a record so far can lie in. Every move is a
//! [`Decision`](super::decision::Decision).
//!
//! Invariant: no clock here; time comes in as milliseconds of any monotonic clock.

use std::collections::BTreeMap;

use crate::operator::assign::AssignSpec;
use crate::operator::temporal_join::Meets;
use crate::record::{Timestamp, TopicPartition};
use crate::task::idle::Stand;
use crate::topology::{Node, Operation, Topology};
use crate::watermark::Watermark;

/// Since when everything has been quiet.
#[derive(Debug, Default)]
pub struct Lull {
    since: Option<(Timestamp, u64)>,
}

impl Lull {
    /// Looks at all stream partitions, whoever has them. While all are quiet: the highest event time of a record, and for how many
    /// milliseconds it has been so.
    pub fn look(
        &mut self,
        own: &BTreeMap<TopicPartition, Stand>,
        others: &BTreeMap<TopicPartition, Stand>,
        now_ms: u64,
    ) -> Option<(Timestamp, u64)> {
        let highest = highest_if(own, others, |stand| stand.quiet);
        self.since = highest.map(|highest| match self.since {
            Some((known, since)) if known == highest => (known, since),
            _ => (highest, now_ms),
        });
        self.since.map(|(highest, since)| (highest, now_ms.saturating_sub(since)))
    }
}

/// What an owner knows itself counts more than what is committed.
fn highest_if(
    own: &BTreeMap<TopicPartition, Stand>,
    others: &BTreeMap<TopicPartition, Stand>,
    quiet: impl Fn(&Stand) -> bool,
) -> Option<Timestamp> {
    let others = others.iter().filter(|(partition, _)| !own.contains_key(*partition));
    let all: Vec<&Stand> = own.iter().chain(others).map(|(_, stand)| stand).collect();
    if !all.iter().all(|stand| quiet(stand)) {
        return None;
    }
    all.iter().filter_map(|stand| stand.highest).max()
}

/// When all are idle and something waits all the same: where the watermark is, and where it would have to be.
pub fn waiting(
    topology: &Topology,
    own: &BTreeMap<TopicPartition, Stand>,
    others: &BTreeMap<TopicPartition, Stand>,
) -> Option<(Watermark, Watermark)> {
    let highest = highest_if(own, others, |stand| stand.idle)?;
    let watermark = own.values().map(|stand| stand.watermark).min()?;
    let to = release(topology, highest, Watermark::MAX)?;
    (watermark < to).then_some((watermark, to))
}

/// The raises with which event time goes on up to `until`: of each stream partition that is behind where something closes.
pub fn raises(
    topology: &Topology,
    streams: &BTreeMap<TopicPartition, Stand>,
    highest: Timestamp,
    until: Watermark,
) -> Vec<(TopicPartition, Watermark)> {
    let Some(to) = release(topology, highest, until) else { return Vec::new() };
    let behind = streams.iter().filter(|(_, stand)| stand.watermark < to);
    behind.map(|(partition, _)| (partition.clone(), to)).collect()
}

/// The largest that a stream declares: how far the watermark stays behind the highest event time.
pub fn delay_micros(topology: &Topology) -> i64 {
    let streams = topology.sources.iter().filter(|source| source.table.is_none());
    streams.map(|source| source.ingest.delay_micros()).max().unwrap_or_default()
}

/// What comes out of a node for records up to the highest event time.
#[derive(Clone, Default)]
struct Reach<'a> {
    /// The highest event time of a row; `None`: rows have none that moves a watermark.
    latest: Option<i64>,
    /// The windows of its rows.
    windows: Vec<Windows<'a>>,
}

#[derive(Clone)]
struct Windows<'a> {
    spec: &'a AssignSpec,
    /// The end of the last one that a row can lie in.
    last_end: i64,
}

/// The highest watermark up to `until` that closes something which records up to `highest` can lie in; `None`: none does, or nothing in the
/// pipeline waits for time.
pub fn release(topology: &Topology, highest: Timestamp, until: Watermark) -> Option<Watermark> {
    let mut reached: Vec<Reach> = Vec::with_capacity(topology.nodes.len());
    let mut to: Option<i64> = None;
    for node in &topology.nodes {
        let (reach, waits) = step(topology, node, &reached, highest, until.0);
        reached.push(reach);
        to = to.max(waits);
    }
    // The end of all time is for `--final` alone.
    to.filter(|to| *to < Watermark::MAX.0).map(Watermark)
}

/// What a node gives, and up to where it waits for the watermark.
fn step<'a>(
    topology: &Topology,
    node: &'a Node,
    reached: &[Reach<'a>],
    highest: Timestamp,
    until: i64,
) -> (Reach<'a>, Option<i64>) {
    let input = || Reach::union(node.inputs.iter().map(|input| &reached[*input]));
    match &node.operation {
        Operation::Source(source) => {
            let source = &topology.sources[*source];
            let timed = source.table.is_none() && source.ingest.has_watermark();
            (Reach { latest: timed.then_some(highest.0), windows: Vec::new() }, None)
        }
        Operation::Assign(spec) => {
            let latest = input().latest;
            let last_end = latest.and_then(|latest| spec.last_end(latest));
            (Reach { latest, windows: last_end.map(|last_end| Windows { spec, last_end }).into_iter().collect() }, None)
        }
        Operation::Aggregate(spec) if spec.window.is_some() => {
            let Reach { latest, windows } = input();
            let last_end = windows.iter().map(|windows| windows.last_end).max();
            let end = |of: &Windows| if of.last_end <= until { Some(of.last_end) } else { of.spec.end_by(until) };
            let waits = windows.iter().filter_map(end).max();
            (Reach { latest: last_end.map(|end| end.saturating_sub(1000)).or(latest), windows }, waits)
        }
        Operation::TemporalJoin(spec) => {
            let stream = reached[node.inputs[0]].clone();
            // Rows go when the watermark is above them. Those of windows are at whole milliseconds.
            let above = stream.latest.and_then(|latest| latest.div_euclid(1000).checked_add(1)?.checked_mul(1000));
            (stream, above.filter(|above| *above <= until && spec.meets != Meets::Latest))
        }
        Operation::Filter(_)
        | Operation::Project(_)
        | Operation::Union
        | Operation::Aggregate(_)
        | Operation::Consolidate(_)
        | Operation::Table(_)
        | Operation::Materialize(_)
        | Operation::Exchange(_)
        | Operation::Sink(_) => (input(), None),
    }
}

impl<'a> Reach<'a> {
    fn union<'r>(inputs: impl Iterator<Item = &'r Reach<'a>>) -> Reach<'a>
    where
        'a: 'r,
    {
        inputs.fold(Reach::default(), |mut all, input| {
            all.latest = all.latest.max(input.latest);
            all.windows.extend(input.windows.iter().cloned());
            all
        })
    }
}
