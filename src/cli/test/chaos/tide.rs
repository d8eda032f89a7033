//! What arrives while a run goes on: each partition's records in their order, and its idle decisions in their places.

use std::collections::{BTreeMap, VecDeque};

use rand::Rng;
use rand::rngs::StdRng;

use crate::cli::test::case::{Case, Input};
use crate::clock::Moment;
use crate::record::TopicPartition;
use crate::task::decision::Decision;

#[derive(Clone, Debug)]
enum Next {
    Record(Input),
    /// The partition's owner is asked to make it; what comes behind waits until it has been committed.
    Decide(Decision, Option<Moment>),
}

#[derive(Debug, Default)]
pub(super) struct Tide {
    partitions: BTreeMap<TopicPartition, VecDeque<Next>>,
}

impl Tide {
    /// With decisions to be made on the way, each at its offset.
    pub fn new(case: &Case, decisions: &[Decision]) -> Tide {
        let mut partitions: BTreeMap<TopicPartition, VecDeque<Next>> = BTreeMap::new();
        for input in case.inputs.iter().filter(|input| matches!(input, Input::Record { .. })) {
            let (topic, partition) = input.place();
            partitions.entry(topic.partition(partition)).or_default().push_back(Next::Record(input.clone()));
        }
        // From the last to the first, so that places in front stay what they are.
        for decision in decisions.iter().rev() {
            let queue = partitions.entry(decision.partition.clone()).or_default();
            let at = queue.iter().scan(0, |records, next| {
                let before = *records;
                *records += i64::from(matches!(next, Next::Record(_)));
                Some(before)
            });
            let place = at.zip(0..).find(|(before, _)| *before == decision.at.0).map_or(queue.len(), |(_, place)| place);
            queue.insert(place, Next::Decide(decision.clone(), None));
        }
        Tide { partitions }
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.values().all(VecDeque::is_empty)
    }

    /// The next record of some partition; `None`: all that is left waits for decisions.
    pub fn record(&mut self, dice: &mut StdRng) -> Option<Input> {
        let mut flowing: Vec<_> =
            self.partitions.values_mut().filter(|queue| matches!(queue.front(), Some(Next::Record(_)))).collect();
        if flowing.is_empty() {
            return None;
        }
        let at = dice.random_range(0..flowing.len());
        match flowing[at].pop_front() {
            Some(Next::Record(input)) => Some(input),
            _ => None,
        }
    }

    /// Decisions that are due, with the time at which they were asked for last.
    pub fn due(&mut self) -> Vec<(Decision, Option<Moment>)> {
        let front = |queue: &VecDeque<Next>| match queue.front() {
            Some(Next::Decide(decision, asked_at)) => Some((decision.clone(), *asked_at)),
            _ => None,
        };
        self.partitions.values().filter_map(front).collect()
    }

    pub fn asked(&mut self, partition: &TopicPartition, now: Moment) {
        if let Some(Next::Decide(_, asked_at)) = self.partitions.get_mut(partition).and_then(VecDeque::front_mut) {
            *asked_at = Some(now);
        }
    }

    /// It was made. Nothing happens if that was known: one who slept while he asked for another decision comes late with this one.
    pub fn decided(&mut self, made: &Decision) {
        let Some(queue) = self.partitions.get_mut(&made.partition) else { return };
        queue.pop_front_if(|next| matches!(next, Next::Decide(decision, _) if decision == made));
    }
}
