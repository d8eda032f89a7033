//! Sub-topologies: what runs without a shuffle in between.
//!
//! A topology is cut at its exchanges. What stays connected runs in one task per partition number; so do sources that read one topic,
//! since a partition has one committed offset. The word is Kafka Streams'.

use std::collections::BTreeSet;

use super::{Node, Operation, Source};

/// Nodes that are connected without a shuffle, and what they read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubTopology {
    /// Ascending. An exchange belongs to the side that sends.
    pub nodes: Vec<usize>,
    /// Indexes of the topology's sources.
    pub sources: Vec<usize>,
    /// Exchange nodes whose repartition topics are read here.
    pub inboxes: Vec<usize>,
}

/// The sub-topologies, in the order of their first nodes.
pub(super) fn sub_topologies(nodes: &[Node], sources: &[Source]) -> Vec<SubTopology> {
    let mut group: Vec<usize> = (0..nodes.len()).collect();
    for (index, node) in nodes.iter().enumerate() {
        for input in &node.inputs {
            if !matches!(nodes[*input].operation, Operation::Exchange(_)) {
                join(&mut group, index, *input);
            }
        }
    }
    // Behind an exchange all readers are one group, too.
    for exchange in exchanges(nodes) {
        let readers: Vec<usize> = readers(nodes, exchange).collect();
        readers.windows(2).for_each(|pair| join(&mut group, pair[0], pair[1]));
    }
    let of_source = |wanted: usize| nodes.iter().position(|n| matches!(n.operation, Operation::Source(s) if s == wanted));
    for (index, source) in sources.iter().enumerate() {
        let same = sources[..index].iter().position(|other| other.topic == source.topic);
        if let (Some(a), Some(b)) = (same.and_then(of_source), of_source(index)) {
            join(&mut group, a, b);
        }
    }
    let mut subs: Vec<(usize, SubTopology)> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let root = find(&group, index);
        let at = match subs.iter().position(|(known, _)| *known == root) {
            Some(at) => at,
            None => {
                subs.push((root, SubTopology::default()));
                subs.len() - 1
            }
        };
        let sub = &mut subs[at].1;
        sub.nodes.push(index);
        if let Operation::Source(source) = node.operation {
            sub.sources.push(source);
        }
        let read = node.inputs.iter().copied().filter(|input| matches!(nodes[*input].operation, Operation::Exchange(_)));
        for exchange in read {
            if !sub.inboxes.contains(&exchange) {
                sub.inboxes.push(exchange);
            }
        }
    }
    subs.into_iter().map(|(_, sub)| sub).collect()
}

/// The sources and shuffles before a node.
pub(super) fn origins(nodes: &[Node], node: usize) -> BTreeSet<usize> {
    let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut ahead = nodes[node].inputs.clone();
    while let Some(node) = ahead.pop() {
        match nodes[node].operation {
            _ if !seen.insert(node) => {}
            Operation::Source(_) | Operation::Exchange(_) => drop(found.insert(node)),
            _ => ahead.extend(&nodes[node].inputs),
        }
    }
    found
}

/// The nodes that are shuffles.
pub(super) fn exchanges(nodes: &[Node]) -> impl Iterator<Item = usize> {
    nodes.iter().enumerate().filter(|(_, node)| matches!(node.operation, Operation::Exchange(_))).map(|(index, _)| index)
}

fn readers(nodes: &[Node], exchange: usize) -> impl Iterator<Item = usize> {
    nodes.iter().enumerate().filter(move |(_, node)| node.inputs.contains(&exchange)).map(|(index, _)| index)
}

fn find(group: &[usize], mut at: usize) -> usize {
    while group[at] != at {
        at = group[at];
    }
    at
}

fn join(group: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(group, a), find(group, b));
    group[a.max(b)] = a.min(b);
}
