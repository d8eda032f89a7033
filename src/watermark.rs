//! Event-time progress: how far a source partition has come, and how far all senders of an input have come.
//!
//! The *row watermark* is what a row's own source partition had reached just before it: a pure function of that partition's
//! records in offset order and of recorded decisions. It decides lateness. The *edge watermark* is the lowest over an input's
//! senders: it decides what an operator may emit. The two never mix.
//!
//! Invariant: neither ever goes back.

use std::fmt;

use arrow::array::Int64Array;
use serde::{Deserialize, Serialize};

use crate::record::Timestamp;

/// A statement about event time: no row below it is to come (edge), or this is how far the partition had come (row).
/// Microseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watermark(pub i64);

impl Watermark {
    /// Nothing is known yet: where every sender starts.
    pub const MIN: Watermark = Watermark(i64::MIN);
    /// Nothing more will come (`--final`).
    pub const MAX: Watermark = Watermark(i64::MAX);

    /// The watermark that an event time stands for under an allowed disorder of `delay_micros`.
    pub fn after(event_time: Timestamp, delay_micros: i64) -> Watermark {
        // i64::MIN means "nothing known", so a real watermark stays above it.
        Watermark(event_time.0.saturating_sub(delay_micros).max(i64::MIN + 1))
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Watermark::MIN => f.write_str("none"),
            Watermark::MAX => f.write_str("end"),
            Watermark(micros) => Timestamp(micros).fmt(f),
        }
    }
}

/// The watermark of one source partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionWatermark {
    delay_micros: i64,
    now: Watermark,
    /// The highest event time of an accepted record.
    highest: Option<Timestamp>,
}

impl PartitionWatermark {
    pub fn new(delay_micros: i64) -> PartitionWatermark {
        PartitionWatermark { delay_micros, now: Watermark::MIN, highest: None }
    }

    pub fn current(&self) -> Watermark {
        self.now
    }

    /// What records alone have brought: raises do not move it.
    pub fn highest(&self) -> Option<Timestamp> {
        self.highest
    }

    /// Back to a commit.
    pub fn restore(&mut self, now: Watermark, highest: Option<Timestamp>) {
        *self = PartitionWatermark { now, highest, ..*self };
    }

    /// A recorded decision, a restored value, or the end of a `--final` run. Lower values change nothing.
    pub fn raise(&mut self, to: Watermark) {
        self.now = self.now.max(to);
    }

    /// Takes the event times of accepted records in offset order (microseconds, no nulls) and returns each row's row watermark:
    /// the value just *before* that row.
    pub fn observe(&mut self, event_times: &Int64Array) -> Int64Array {
        let mut now = self.now;
        let before = event_times.values().iter().map(|&time| {
            let before = now;
            now = now.max(Watermark::after(Timestamp(time), self.delay_micros));
            before.0
        });
        let before = Int64Array::from_iter_values(before);
        self.now = now;
        self.highest = self.highest.max(arrow::compute::max(event_times).map(Timestamp));
        before
    }
}

/// The edge watermark of an input: the lowest over its senders, all of which start at minus infinity.
#[derive(Clone, Debug)]
pub struct EdgeWatermark {
    senders: Vec<Watermark>,
}

impl EdgeWatermark {
    pub fn new(senders: usize) -> EdgeWatermark {
        EdgeWatermark { senders: vec![Watermark::MIN; senders] }
    }

    /// Notes a sender's output watermark and returns the lowest over all.
    pub fn update(&mut self, sender: usize, to: Watermark) -> Watermark {
        let known = &mut self.senders[sender];
        *known = (*known).max(to);
        self.current()
    }

    /// With no sender at all nothing will ever come.
    pub fn current(&self) -> Watermark {
        self.senders.iter().copied().min().unwrap_or(Watermark::MAX)
    }
}
