//! Writes to the embedded log: transactions with fencing, or at least once.
//!
//! Records are in the partitions from `send` on and hold back the last stable offset until the transaction is decided, as in Kafka.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::log::{CommittedOffsets, GroupMetadata, Producer, ProducerSettings};
use crate::record::{Outgoing, Topic, TopicPartition};

use super::fault::CommitFault;
use super::partition::{Record, TransactionNumber};
use super::state::{State, fenced};
use super::{Draw, Shared};

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Transactional id and epoch; `None`: at least once.
    transactional: Option<(String, i32)>,
    timeout: Duration,
    /// After `Fenced` or `Unknown` only a new producer goes on.
    dead: bool,
}

impl Writer {
    pub fn open(shared: Arc<Shared>, settings: &ProducerSettings) -> Result<Writer> {
        let transactional = shared.change(|state| {
            state.reachable()?;
            Ok(settings.transactional_id.clone().map(|id| {
                let epoch = state.open_producer(&id);
                (id, epoch)
            }))
        })?;
        Ok(Writer { shared, transactional, timeout: settings.transaction_timeout, dead: false })
    }

    fn alive(&self) -> Result<()> {
        if self.dead { Err(fenced("producer ended by an earlier error".to_owned())) } else { Ok(()) }
    }

    /// Runs one change; an error after which only a new producer can go on ends this one.
    fn change<T>(&mut self, change: impl FnOnce(&mut State, Option<&(String, i32)>) -> Result<T>) -> Result<T> {
        self.alive()?;
        let result = self.shared.change(|state| change(state, self.transactional.as_ref()));
        self.dead = matches!(&result, Err(error) if matches!(error.kind, Kind::Fenced | Kind::Unknown));
        result
    }
}

impl Producer for Writer {
    fn begin(&mut self) -> Result<()> {
        let timeout = self.timeout;
        self.change(|state, transactional| match transactional {
            Some((id, epoch)) => state.begin(id, *epoch, timeout).map(|_| ()),
            None => Ok(()),
        })
    }

    fn send(&mut self, topic: &Topic, records: &Outgoing) -> Result<()> {
        self.change(|state, transactional| {
            let number = open_transaction(state, transactional)?;
            for row in 0..records.len() {
                let record = Record {
                    timestamp: records.timestamps[row],
                    key: records.keys.get(row).map(Box::from),
                    value: records.values.get(row).map(Box::from),
                    headers: records.row_headers(row).to_vec(),
                };
                state.append(&topic.partition(records.partitions[row]), number, record)?;
            }
            Ok(())
        })
    }

    fn commit(&mut self, offsets: &CommittedOffsets, group: Option<(&str, &GroupMetadata)>) -> Result<()> {
        if group.is_none() && !offsets.is_empty() {
            return Err(Error::failed("offsets without a group to commit them for"));
        }
        self.change(|state, transactional| {
            state.reachable()?;
            let number = open_transaction(state, transactional)?;
            let fault = state.plan.commits.get(&state.commits).copied();
            state.commits += 1;
            if let Some((name, metadata)) = group {
                state.check_member(name, metadata)?;
                state.check_partitions(offsets)?;
            }
            match fault {
                Some(CommitFault::Abort) => return Err(Error::new(Kind::Abort, "commit: abort asked for (an injected fault)")),
                Some(CommitFault::Fenced) => {
                    if let Some((id, _)) = transactional {
                        state.open_producer(id);
                    }
                    return Err(fenced("commit: fenced (an injected fault)".to_owned()));
                }
                _ => {}
            }
            if let Some((name, _)) = group {
                let offsets = offsets.clone();
                match number {
                    Some(number) => state.with_group(name, |group, _| group.pending.entry(number).or_default().extend(offsets)),
                    None if fault == Some(CommitFault::LostBefore) => {}
                    None => state.with_group(name, |group, _| group.offsets.extend(offsets)),
                }
            }
            if let (Some(number), Some((id, epoch))) = (number, transactional)
                && fault != Some(CommitFault::LostBefore)
            {
                state.transactional(id, *epoch)?.open = None;
                state.finish_left(id, true);
                match fault {
                    Some(CommitFault::LateMarkers) => state.finish_late(number),
                    Some(CommitFault::SlowMarkers(seed)) => {
                        let mut draw = Draw(seed);
                        state.finish_slowly(id, number, || Duration::from_millis(draw.below(3_000) as u64));
                    }
                    _ => state.finish(number, true),
                }
            }
            match fault {
                None | Some(CommitFault::LateMarkers | CommitFault::SlowMarkers(_)) => Ok(()),
                Some(_) => Err(Error::new(Kind::Unknown, "commit: no answer (an injected fault)")
                    .hint("open the producer again, then ask for the committed offsets")),
            }
        })
    }

    fn abort(&mut self) -> Result<()> {
        self.change(|state, transactional| {
            state.reachable()?;
            if let Some((id, epoch)) = transactional
                && let Some(number) = state.transactional(id, *epoch)?.open.take()
            {
                state.finish(number, false);
            }
            Ok(())
        })
    }

    /// What is aborted here is closed everywhere, except where a fault has it otherwise.
    fn settle(&mut self, _: &[TopicPartition], _: Option<&str>) -> Result<()> {
        self.change(|state, transactional| {
            let Some((id, epoch)) = transactional else { return Ok(()) };
            state.transactional(id, *epoch)?;
            state.finish_left(id, false);
            Ok(())
        })
    }
}

/// The open transaction's number; `None` at least once. Sending or committing without `begin` is the caller's mistake.
fn open_transaction(state: &mut State, transactional: Option<&(String, i32)>) -> Result<Option<TransactionNumber>> {
    let Some((id, epoch)) = transactional else { return Ok(None) };
    match state.transactional(id, *epoch)?.open {
        Some(number) => Ok(Some(number)),
        None => Err(Error::failed(format!("transactional id \"{id}\": no transaction is open"))),
    }
}
