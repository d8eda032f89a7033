//! What happened in a run, line by line with its simulated time, and a hash of it all: two runs of one seed have the same.

use std::fmt::Display;

use crate::clock::Moment;

#[derive(Debug, Default)]
pub struct Trace {
    pub lines: Vec<String>,
    hash: u64,
}

impl Trace {
    /// Notes what happened to a process (or, without a number, to all).
    pub fn note(&mut self, at: Moment, process: Option<usize>, what: impl Display) {
        let at = at.as_duration();
        let who = process.map_or_else(|| "--".to_owned(), |number| format!("p{number}"));
        let line = format!("{:>5}.{:06} {who} {what}", at.as_secs(), at.subsec_micros());
        // FNV-1a, over all lines.
        let mut hash = if self.lines.is_empty() { 0xcbf2_9ce4_8422_2325 } else { self.hash };
        for byte in line.bytes().chain([b'\n']) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.hash = hash;
        self.lines.push(line);
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
}
