//! Measures lag: how far the committed positions of the partitions held are from the ends of their logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::status::Pipelines;
use crate::log::{Isolation, Log};
use crate::record::TopicPartition;

/// A thread that asks the log for its ends every few seconds, until it is dropped.
pub struct Collector {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    pub fn start(log: Arc<dyn Log>, pipelines: Arc<Pipelines>, every: Duration) -> Collector {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new()
            .name("lag".into())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
                    measure(log.as_ref(), &pipelines);
                }
            })
            .map_err(|error| tracing::error!(%error, "lag is not measured: its thread can't start"))
            .ok();
        Collector { stop: Some(stop), thread }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn measure(log: &dyn Log, pipelines: &Pipelines) {
    for (pipeline, positions) in pipelines.positions() {
        let partitions: Vec<TopicPartition> = positions.keys().cloned().collect();
        if partitions.is_empty() {
            pipelines.set_lag(&pipeline, BTreeMap::new());
            continue;
        }
        // The last stable offset: what a read_committed consumer can reach. An unreachable broker leaves the last figures.
        match log.end_offsets(&partitions, Isolation::Committed) {
            Ok(ends) => {
                let behind = |(at, position): (&TopicPartition, &crate::record::NextOffset)| {
                    ends.get(at).map(|end| (at.clone(), (end.0 - position.0).max(0)))
                };
                pipelines.set_lag(&pipeline, positions.iter().filter_map(behind).collect());
            }
            Err(error) => tracing::debug!(pipeline, %error, "lag could not be measured"),
        }
    }
}
