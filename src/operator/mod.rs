//! One file per operator. Operators are pure: no clock, no I/O, no await; rows in, rows out.
//!
//! Each file holds a `...Spec` (what the planner decided: expressions and columns) and the operator that runs it. A task pushes
//! batches through [`Operator::push`], tells of event-time progress through [`Operator::advance`], and asks for the state that
//! a commit touched through [`Operator::store`].
//!
//! Invariant: an operator emits rows *before* the watermark that released them, and its output watermark never passes what it
//! still buffers. Lateness is decided by the row watermark of a row alone, never by the edge watermark.

pub mod aggregate;
pub mod assign;
pub mod canonical;
mod cold;
pub mod consolidate;
mod evaluate;
pub mod exchange;
pub mod filter;
mod held;
pub mod ingest;
mod key;
pub mod materialize;
mod position;
pub mod project;
mod rows;
mod state;
pub mod table;
pub mod temporal_join;

use crate::error::{BadClass, Result};
use crate::record::{Batch, Offset, Partition, Timestamp};
use crate::store::Store;
use crate::watermark::Watermark;

/// A step of a topology for one task.
pub trait Operator: Send {
    /// Takes rows that arrived at input `port` (from 0; only a join or a union has more than one).
    ///
    /// # Errors
    /// Only broken invariants and corrupt state. A bad row goes to `out.rejected` and harms no other row.
    fn push(&mut self, port: usize, batch: Batch, out: &mut Output) -> Result<()>;

    /// The edge watermark of the operator's input moved to `edge`. Returns the output watermark. With `out.more` set it has stopped in between,
    /// since it made `out.room` rows: it is to be called again with the same edge, before anything else, and its output watermark waits.
    fn advance(&mut self, edge: Watermark, out: &mut Output) -> Result<Watermark> {
        let _ = out;
        Ok(edge)
    }

    /// A commit is about to be made: emits what is held back until then (an updating aggregate emits one change per key).
    fn flush(&mut self, out: &mut Output) -> Result<()> {
        let _ = out;
        Ok(())
    }

    /// Estimated memory in bytes of what is held back until then and is no state.
    fn held_back(&self) -> usize {
        0
    }

    /// The operator's state, if it has any.
    fn store(&mut self) -> Option<&mut dyn Store> {
        None
    }
}

/// What a call of an operator produced.
#[derive(Debug, Default)]
pub struct Output {
    pub batches: Vec<Batch>,
    /// Source rows on which an expression failed.
    pub rejected: Vec<Rejected>,
    /// Source rows that every window refused.
    pub late: Vec<Late>,
    /// Groups whose result could not be computed.
    pub withdrawn: Vec<Withdrawn>,
    /// About so many rows may be made by one call of [`Operator::advance`]; `None`: all that there are.
    pub room: Option<usize>,
    /// There are more.
    pub more: bool,
}

/// A source record that an operator could not process: it becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub source: u16,
    pub partition: Partition,
    pub offset: Offset,
    pub class: BadClass,
    pub message: String,
}

/// A row that came after its window (all its windows) had closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    pub source: u16,
    pub partition: Partition,
    pub offset: Offset,
    pub event_time: Timestamp,
    pub row_watermark: Watermark,
}

/// A group whose result can't be computed (overflow, division by the group's zero): its row is withdrawn, reported by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// The group's key columns as JSON, e.g. `{"customer_id":"c1"}`.
    pub key: String,
    pub message: String,
}
