//! How far a bounded run is: a bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use crate::record::OffsetVector;
use crate::task::run::Progress;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows offsets done of offsets to do.
pub struct Display {
    from: OffsetVector,
    to: OffsetVector,
    total: u64,
    /// Done when this process began (a resumed job).
    began_with: Option<u64>,
    began_at: Instant,
    shown_at: Instant,
    bar: Option<ProgressBar>,
}

impl Display {
    pub fn new(from: &OffsetVector, to: &OffsetVector, total: u64) -> Display {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {human_pos}/{human_len}  {msg}")
                .expect("the template is a constant");
            ProgressBar::new(total).with_style(style)
        });
        let now = Instant::now();
        Display { from: from.clone(), to: to.clone(), total, began_with: None, began_at: now, shown_at: now, bar }
    }

    /// Offsets of the range that are committed. Partitions that another process has are not counted here.
    fn done(&self, positions: &OffsetVector) -> u64 {
        let done = positions.iter().map(|(at, position)| {
            let from = self.from.get(at).map_or(0, |from| from.0);
            let to = self.to.get(at).map_or(from, |to| to.0);
            (position.0.min(to) - from).max(0) as u64
        });
        done.sum()
    }

    pub fn show(&mut self, progress: &Progress) {
        if progress.positions.is_empty() {
            if let Some(bar) = &self.bar {
                bar.set_message(if progress.restoring { restoring(progress) } else { "waiting for partitions".into() });
            }
            return;
        }
        let done = self.done(&progress.positions);
        let before = *self.began_with.get_or_insert(done);
        let elapsed = self.began_at.elapsed();
        let text = rate(done.saturating_sub(before), elapsed, self.total.saturating_sub(done), progress);
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(text);
            }
            None if self.shown_at.elapsed() >= LINE_EVERY => {
                self.shown_at = Instant::now();
                eprintln!("{}", self.line(done, &text));
            }
            None => {}
        }
    }

    fn line(&self, done: u64, text: &str) -> String {
        let percent = (done * 100).checked_div(self.total).unwrap_or(100);
        format!("{percent} %  {}/{} offsets  {text}", HumanCount(done), HumanCount(self.total))
    }

    pub fn is_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// Takes the bar away, so that what follows stands alone.
    pub fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn restoring(progress: &Progress) -> String {
    format!("restoring {:.0} %", 100.0 * progress.restore_ratio())
}

/// Rate, what waits, and when it will be done.
fn rate(done: u64, elapsed: Duration, left: u64, progress: &Progress) -> String {
    let per_second = done as f64 / elapsed.as_secs_f64().max(0.001);
    let mut text = format!("{}/s", HumanCount(per_second as u64));
    if left > 0 && per_second >= 1.0 {
        text.push_str(&format!("  {} left", HumanDuration(Duration::from_secs_f64(left as f64 / per_second))));
    }
    if progress.restoring {
        text.push_str(&format!("  {}", restoring(progress)));
    }
    if progress.waiting_for_schemas > 0 {
        text.push_str("  waiting for the schema registry");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{NextOffset, Topic};

    #[test]
    fn a_resumed_job_counts_what_was_done_before() {
        let at = Topic::new("orders").partition(0);
        let vector = |n| OffsetVector::from([(at.clone(), NextOffset(n))]);
        let display = Display::new(&vector(100), &vector(300), 200);
        assert_eq!(display.done(&vector(100)), 0);
        assert_eq!(display.done(&vector(150)), 50);
        assert_eq!(display.done(&vector(999)), 200, "a position behind the end counts to the end");
        assert!(display.line(50, "x").starts_with("25 %  50/200 offsets"));
    }
}
