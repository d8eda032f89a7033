//! The recorder of counters and histograms, and the page that Prometheus reads.
//!
//! Gauges are not kept by the recorder: they are written from the pipelines' progress at each request, so that one whose partition was
//! revoked is gone at once.

use std::fmt::Write;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::status::{Life, Pipelines};
use crate::error::{Error, Result};
use crate::metric;
use crate::task::run::Progress;
use crate::task::watch::RestoreProgress;
use crate::watermark::Watermark;

/// Counters and histograms with what they mean.
const COUNTERS: &[(&str, &str)] = &[
    (metric::RECORDS_IN, "Records read from sources."),
    (metric::RECORDS_OUT, "Records committed to sinks."),
    (metric::DEAD_LETTERS, "Records sent to the dead-letter topic."),
    (metric::DROPPED, "Bad records dropped by policy."),
    (metric::LATE, "Rows sent to the late topic."),
    (metric::IDLE_RAISES, "Raises of quiet partitions' watermarks."),
    (metric::WITHDRAWN, "Groups whose result could not be computed."),
    (metric::SKIPPED, "Null values skipped."),
    (metric::COMMITS, "Transactions committed."),
    (metric::COMMIT_FAILURES, "Transactions that failed, by error kind."),
    (metric::SPILL_WRITTEN_BYTES, "Bytes that stores wrote to disk because they outgrew their share of memory."),
    (metric::SPILL_READS, "Blocks of spilled state that were read back."),
    (metric::RESTORED_ROWS, "Keys read back from local checkpoints and changelogs, of restores that are done."),
];
const HISTOGRAMS: &[(&str, &str)] = &[(metric::COMMIT_SECONDS, "Seconds from the start of a commit until it is known.")];
const GAUGES: &[(&str, &str)] = &[
    (metric::LAG_RECORDS, "Records between the committed position and the end of the partition."),
    (metric::WATERMARK_SECONDS, "The partition's watermark in seconds since the epoch."),
    (metric::STATE_KEYS, "Keys held in stores."),
    (metric::SPILLED_KEYS, "Of the keys held in stores, those on disk alone."),
    (metric::STATE_BYTES, "Estimated memory of stores, in bytes."),
    (metric::RESTORING_TASKS, "Tasks that restore their state."),
    (metric::RESTORE_RATIO, "How much these have read of what they have to, 0 to 1."),
    (metric::RESTORE_ROWS_PER_SECOND, "Rows that they read a second."),
    (metric::STANDBY_TASKS, "Tasks of others of which warm copies are kept."),
    (metric::STANDBY_LAG_MESSAGES, "Messages of changelogs that are not in the copies yet."),
    (metric::READY, "1 while the pipeline runs and has its tasks."),
];

/// Upper bounds of [`metric::COMMIT_SECONDS`].
const COMMIT_BUCKETS: &[f64] = &[0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Renders what the process has counted.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the recorder of this process; later calls return the same.
    pub fn install() -> Result<Metrics> {
        static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
        if let Some(handle) = INSTALLED.get() {
            return Ok(Metrics { handle: handle.clone() });
        }
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder)
            .map_err(|e| Error::failed(format!("the recorder of metrics can't be installed: {e}")))?;
        describe();
        let handle = INSTALLED.get_or_init(|| handle).clone();
        Ok(Metrics { handle })
    }

    /// A recorder that nothing records into: tests of the server.
    #[cfg(test)]
    pub(super) fn local() -> Metrics {
        Metrics { handle: builder().build_recorder().handle() }
    }

    pub(super) fn render(&self, pipelines: &Pipelines) -> String {
        self.handle.run_upkeep();
        let mut text = self.handle.render();
        gauges(&mut text, pipelines);
        text
    }
}

fn builder() -> PrometheusBuilder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(metric::COMMIT_SECONDS.into()), COMMIT_BUCKETS)
        .expect("the list of buckets is not empty")
}

fn describe() {
    for (name, text) in COUNTERS {
        metrics::describe_counter!(*name, *text);
    }
    for (name, text) in HISTOGRAMS {
        metrics::describe_histogram!(*name, *text);
    }
}

fn gauges(text: &mut String, pipelines: &Pipelines) {
    let all = pipelines.snapshots();
    for (name, help) in GAUGES {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (pipeline, life, progress, lag) in &all {
            match *name {
                metric::LAG_RECORDS => {
                    for (at, records) in lag {
                        line(text, name, pipeline, Some((at.topic.as_str(), at.partition.0)), *records as f64);
                    }
                }
                metric::WATERMARK_SECONDS => {
                    for (at, watermark) in known_watermarks(progress) {
                        line(text, name, pipeline, Some((at.topic.as_str(), at.partition.0)), watermark);
                    }
                }
                metric::STATE_KEYS => line(text, name, pipeline, None, progress.state_keys as f64),
                metric::SPILLED_KEYS => line(text, name, pipeline, None, progress.spilled_keys as f64),
                metric::STATE_BYTES => line(text, name, pipeline, None, progress.state_bytes as f64),
                metric::STANDBY_TASKS => line(text, name, pipeline, None, progress.standby_tasks.tasks.len() as f64),
                metric::STANDBY_LAG_MESSAGES => line(text, name, pipeline, None, progress.standby_tasks.lag as f64),
                metric::RESTORING_TASKS => line(text, name, pipeline, None, progress.restores.len() as f64),
                metric::RESTORE_RATIO => line(text, name, pipeline, None, progress.restore_ratio()),
                metric::RESTORE_ROWS_PER_SECOND => {
                    let rate = progress.restores.iter().map(RestoreProgress::rows_per_second).sum();
                    line(text, name, pipeline, None, rate);
                }
                _ => line(text, name, pipeline, None, f64::from(u8::from(*life == Life::Running && progress.ready))),
            }
        }
        text.push('\n');
    }
}

/// Watermarks of partitions that are held, in seconds; "none yet" and "end" are no numbers.
fn known_watermarks(progress: &Progress) -> impl Iterator<Item = (&crate::record::TopicPartition, f64)> {
    progress
        .watermarks
        .iter()
        .filter(|(at, w)| progress.positions.contains_key(*at) && **w != Watermark::MIN && **w != Watermark::MAX)
        .map(|(at, w)| (at, w.0 as f64 / 1e6))
}

fn line(text: &mut String, name: &str, pipeline: &str, partition: Option<(&str, i32)>, value: f64) {
    // Names of pipelines and topics have only letters, digits, '.', '_' and '-': nothing to escape.
    let _ = match partition {
        Some((topic, partition)) => {
            writeln!(text, "{name}{{pipeline=\"{pipeline}\",topic=\"{topic}\",partition=\"{partition}\"}} {value}")
        }
        None => writeln!(text, "{name}{{pipeline=\"{pipeline}\"}} {value}"),
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::record::{NextOffset, Topic};

    #[test]
    fn every_metric_is_described() {
        let source = include_str!("../metric.rs");
        let named: Vec<&str> = source.split('"').skip(1).step_by(2).collect();
        assert!(named.len() >= 15);
        for name in named {
            let described = [COUNTERS, HISTOGRAMS, GAUGES].concat().iter().filter(|(known, _)| *known == name).count();
            assert_eq!(described, 1, "{name}");
        }
    }

    #[test]
    fn gauges_of_partitions_that_left_are_gone() {
        let pipelines = Pipelines::default();
        let progress = Arc::new(Mutex::new(Progress::default()));
        pipelines.watch("revenue", progress.clone());
        let at = Topic::new("orders").partition(1);
        {
            let mut progress = progress.lock().unwrap();
            progress.positions.insert(at.clone(), NextOffset(7));
            progress.watermarks.insert(at.clone(), Watermark(1_500_000));
        }
        pipelines.set_lag("revenue", BTreeMap::from([(at.clone(), 12)]));
        let text = Metrics::local().render(&pipelines);
        assert!(text.contains("tidemill_lag_records{pipeline=\"revenue\",topic=\"orders\",partition=\"1\"} 12\n"), "{text}");
        assert!(
            text.contains("tidemill_watermark_seconds{pipeline=\"revenue\",topic=\"orders\",partition=\"1\"} 1.5\n"),
            "{text}"
        );
        progress.lock().unwrap().positions.clear();
        pipelines.set_lag("revenue", BTreeMap::new());
        let text = Metrics::local().render(&pipelines);
        assert!(!text.contains("orders"), "{text}");
        assert!(text.contains("tidemill_ready{pipeline=\"revenue\"} 0\n"));
    }
}
