//! How far restores are: a bar per pipeline on a terminal, a line every few seconds elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use crate::serve::Pipelines;
use crate::task::plan::TaskId;
use crate::task::watch::RestoreProgress;

/// Restores that are over sooner are not shown.
const SHOWN_AFTER: Duration = Duration::from_millis(800);
/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Of all pipelines of the process.
pub struct Restores {
    terminal: bool,
    begun: BTreeMap<String, Begun>,
}

/// What one pipeline restores since it last had nothing to restore.
struct Begun {
    at: Instant,
    tasks: BTreeMap<TaskId, RestoreProgress>,
    said_at: Option<Instant>,
    bar: Option<ProgressBar>,
}

/// What is shown.
#[derive(Debug, PartialEq)]
struct Stand {
    tasks: usize,
    /// 0 to 100.
    percent: u64,
    rows: u64,
    rows_per_second: u64,
    left: Option<Duration>,
    held_up: bool,
}

impl Default for Restores {
    fn default() -> Restores {
        Restores { terminal: std::io::stderr().is_terminal(), begun: BTreeMap::new() }
    }
}

impl Restores {
    /// Shows where a pipeline's restores are now.
    pub fn show(&mut self, pipeline: &str, restores: &[RestoreProgress]) {
        if restores.is_empty() {
            if let Some(bar) = self.begun.remove(pipeline).and_then(|begun| begun.bar) {
                bar.finish_and_clear();
            }
            return;
        }
        let new = || Begun { at: Instant::now(), tasks: BTreeMap::new(), said_at: None, bar: None };
        let begun = self.begun.entry(pipeline.to_string()).or_insert_with(new);
        begun.look(restores);
        let elapsed = begun.at.elapsed();
        if elapsed < SHOWN_AFTER {
            return;
        }
        let stand = begun.stand(elapsed);
        if self.terminal {
            let bar = begun.bar.get_or_insert_with(|| bar(pipeline));
            bar.set_position(stand.percent);
            bar.set_message(stand.text());
        } else if begun.said_at.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            begun.said_at = Some(Instant::now());
            let Stand { tasks, percent, rows, rows_per_second, left, held_up } = stand;
            let left_ms = left.map(|left| left.as_millis() as u64);
            let why = if held_up { "restoring, held up by a transaction that is not decided yet" } else { "restoring" };
            tracing::info!(pipeline, tasks, percent, rows, rows_per_second, left_ms, "{why}");
        }
    }
}

impl Begun {
    fn look(&mut self, restores: &[RestoreProgress]) {
        // One that is not listed any more is done.
        for (task, known) in &mut self.tasks {
            if !restores.iter().any(|restore| restore.task == *task) {
                known.ratio = 1.0;
            }
        }
        self.tasks.extend(restores.iter().map(|restore| (restore.task, restore.clone())));
    }

    fn stand(&self, elapsed: Duration) -> Stand {
        let ratio = self.tasks.values().map(|task| task.ratio).sum::<f64>() / self.tasks.len().max(1) as f64;
        let rows = self.tasks.values().map(|task| task.rows).sum();
        let going = || self.tasks.values().filter(|task| task.ratio < 1.0);
        let held_up = going().any(|task| task.held_up);
        let seconds = elapsed.as_secs_f64().max(0.001);
        Stand {
            tasks: going().count(),
            percent: (ratio * 100.0) as u64,
            rows,
            rows_per_second: (rows as f64 / seconds) as u64,
            left: (ratio > 0.0 && !held_up).then(|| Duration::from_secs_f64(seconds * (1.0 - ratio) / ratio)),
            held_up,
        }
    }
}

impl Stand {
    fn text(&self) -> String {
        let mut text = format!("{} keys  {}/s", HumanCount(self.rows), HumanCount(self.rows_per_second));
        if let Some(left) = self.left {
            text.push_str(&format!("  {} left", HumanDuration(left)));
        }
        if self.held_up {
            text.push_str("  held up by a transaction that is not decided yet");
        }
        text
    }
}

fn bar(pipeline: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix} restoring {bar:30} {percent:>3} %  {msg}").expect("the template is a constant");
    ProgressBar::new(100).with_style(style).with_prefix(pipeline.to_string())
}

/// A thread that shows the restores of all pipelines, until it is dropped.
pub struct Display {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    pub fn start(pipelines: Arc<Pipelines>) -> Display {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("restores".into()).spawn(move || {
            let mut restores = Restores::default();
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
                for (pipeline, of_pipeline) in pipelines.restores() {
                    restores.show(&pipeline, &of_pipeline);
                }
            }
        });
        let thread = thread.map_err(|error| tracing::error!(%error, "restores are not shown: the thread can't start")).ok();
        Display { stop: Some(stop), thread }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restore(number: i32, ratio: f64, rows: u64) -> RestoreProgress {
        let task = TaskId { sub: 0, number };
        RestoreProgress { task, ratio, rows, elapsed: Duration::from_secs(1), held_up: false }
    }

    #[test]
    fn a_task_that_is_done_still_counts() {
        let mut begun = Begun { at: Instant::now(), tasks: BTreeMap::new(), said_at: None, bar: None };
        begun.look(&[restore(0, 0.5, 500_000), restore(1, 0.0, 0)]);
        begun.look(&[restore(1, 0.5, 400_000)]);
        let stand = begun.stand(Duration::from_secs(3));
        let left = Some(Duration::from_secs(1));
        assert_eq!(stand, Stand { tasks: 1, percent: 75, rows: 900_000, rows_per_second: 300_000, left, held_up: false });
        assert_eq!(stand.text(), "900,000 keys  300,000/s  1 second left");
    }

    #[test]
    fn nothing_is_promised_while_a_transaction_holds_it_up() {
        let mut begun = Begun { at: Instant::now(), tasks: BTreeMap::new(), said_at: None, bar: None };
        begun.look(&[RestoreProgress { held_up: true, ..restore(0, 0.9, 90) }]);
        let stand = begun.stand(Duration::from_secs(9));
        assert_eq!((stand.left, stand.percent), (None, 90));
        assert!(stand.text().ends_with("not decided yet"));
    }
}
