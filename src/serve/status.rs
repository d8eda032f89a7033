//! Which pipelines this process runs, and how each one is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::record::{NextOffset, TopicPartition};
use crate::task::run::Progress;
use crate::task::standby::StandbyProgress;
use crate::task::watch::RestoreProgress;

/// Where a pipeline's worker is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    Running,
    /// It came to its end, or was stopped.
    Ended,
    /// Why.
    Failed(String),
}

struct Watched {
    life: Life,
    progress: Arc<Mutex<Progress>>,
    /// Records between the committed position and the end, of the partitions held when it was last measured.
    lag: BTreeMap<TopicPartition, i64>,
}

/// All pipelines of the process, by name.
#[derive(Default)]
pub struct Pipelines {
    watched: Mutex<BTreeMap<String, Watched>>,
}

impl Pipelines {
    /// Adds a pipeline whose worker starts now.
    pub fn watch(&self, pipeline: &str, progress: Arc<Mutex<Progress>>) {
        self.lock().insert(pipeline.to_string(), Watched { life: Life::Running, progress, lag: BTreeMap::new() });
    }

    pub fn set(&self, pipeline: &str, life: Life) {
        if let Some(watched) = self.lock().get_mut(pipeline) {
            watched.life = life;
            watched.lag.clear();
        }
    }

    /// Running pipelines with the positions of the partitions that they hold.
    pub fn positions(&self) -> Vec<(String, BTreeMap<TopicPartition, NextOffset>)> {
        let running = self.snapshots().into_iter().filter(|(_, life, _, _)| *life == Life::Running);
        running.map(|(pipeline, _, progress, _)| (pipeline, progress.positions)).collect()
    }

    /// All pipelines with their restores, if there are any.
    pub fn restores(&self) -> Vec<(String, Vec<RestoreProgress>)> {
        self.snapshots().into_iter().map(|(pipeline, _, progress, _)| (pipeline, progress.restores)).collect()
    }

    /// Replaces a pipeline's lag: a partition that it no longer holds is gone from it.
    pub fn set_lag(&self, pipeline: &str, lag: BTreeMap<TopicPartition, i64>) {
        if let Some(watched) = self.lock().get_mut(pipeline) {
            watched.lag = lag;
        }
    }

    /// Name, life, progress and lag of each.
    pub(super) fn snapshots(&self) -> Vec<(String, Life, Progress, BTreeMap<TopicPartition, i64>)> {
        let watched = self.lock();
        let snapshot = |(name, w): (&String, &Watched)| {
            let progress = w.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (name.clone(), w.life.clone(), progress, w.lag.clone())
        };
        watched.iter().map(snapshot).collect()
    }

    /// Alive: at least one pipeline runs, or all came to a good end. A process that only has failed ones is of no use.
    pub(super) fn healthy(&self) -> (bool, Value) {
        let all = self.snapshots();
        let alive = all.iter().any(|(_, life, _, _)| *life == Life::Running);
        let failed = all.iter().any(|(_, life, _, _)| matches!(life, Life::Failed(_)));
        let pipelines: Vec<Value> =
            all.iter().map(|(name, life, _, _)| json!({ "pipeline": name, "state": state(life) })).collect();
        let good = alive || !failed;
        (good, json!({ "healthy": good, "pipelines": pipelines }))
    }

    /// Ready: every pipeline holds its tasks and delivers.
    pub(super) fn ready(&self) -> (bool, Value) {
        let all = self.snapshots();
        let described: Vec<(bool, Value)> = all.iter().map(|(name, life, progress, _)| describe(name, life, progress)).collect();
        let good = !described.is_empty() && described.iter().all(|(ready, _)| *ready);
        let pipelines: Vec<Value> = described.into_iter().map(|(_, value)| value).collect();
        (good, json!({ "ready": good, "pipelines": pipelines }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn state(life: &Life) -> &'static str {
    match life {
        Life::Running => "running",
        Life::Ended => "ended",
        Life::Failed(_) => "failed",
    }
}

fn waiting(progress: &Progress) -> String {
    let copies = copies(progress).map_or(String::new(), |copies| format!("; it keeps {copies}"));
    format!("it waits for partitions of its consumer group{copies}")
}

/// What is kept of the tasks of others.
fn copies(progress: &Progress) -> Option<String> {
    let StandbyProgress { tasks, rows, lag } = &progress.standby_tasks;
    let tasks: Vec<String> = tasks.iter().map(ToString::to_string).collect();
    (!tasks.is_empty()).then(|| format!("warm copies of tasks {} ({rows} keys, {lag} messages behind)", tasks.join(", ")))
}

fn restoring(progress: &Progress) -> String {
    let tasks = progress.restores.len();
    let ratio = progress.restore_ratio();
    let rate: f64 = progress.restores.iter().map(RestoreProgress::rows_per_second).sum();
    format!("it restores its state: {tasks} tasks to come, {:.0} % of them read, {rate:.0} keys/s", 100.0 * ratio)
}

fn describe(name: &str, life: &Life, progress: &Progress) -> (bool, Value) {
    let mut waits = Vec::new();
    match life {
        Life::Failed(error) => waits.push(format!("it failed: {error}")),
        Life::Ended => {}
        Life::Running if progress.standby.is_some() => {
            let copies = copies(progress).map_or(String::new(), |copies| format!("; it keeps {copies}"));
            waits.push(format!("it stands by: {}{copies}", progress.standby.as_deref().unwrap_or_default()));
        }
        Life::Running if progress.restoring => waits.push(restoring(progress)),
        Life::Running if !progress.ready => waits.push(waiting(progress)),
        Life::Running => {}
    }
    let ready = waits.is_empty();
    if progress.waiting_for_schemas > 0 {
        // Other partitions go on, so this is shown and does not make the pipeline unready.
        waits.push(format!("{} schema ids wait for the registry", progress.waiting_for_schemas));
    }
    let value = json!({
        "pipeline": name,
        "ready": ready,
        "state": state(life),
        "waits": waits,
        "partitions": progress.positions.len(),
        "standby_tasks": progress.standby_tasks.tasks.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    (ready, value)
}
