//! Where a source's decoded rows enter: computed columns, checks, event time and the row watermark.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion_physical_expr::PhysicalExpr;

/// What a source adds to its decoded columns.
///
/// Input of ingest: the decoded columns of key and value that the plan uses, then the metadata columns it uses, in the order of
/// `decoded`. Output: `schema`.
#[derive(Clone, Debug)]
pub struct IngestSpec {
    pub decoded: SchemaRef,
    /// One per column of `schema`: a plain column of `decoded`, or a computed one.
    pub columns: Vec<Arc<dyn PhysicalExpr>>,
    /// What the topology sees.
    pub schema: SchemaRef,
    /// Over `schema`; in the order of the SQL; the first that fails names the dead letter. NULL passes (as SQL has it).
    pub checks: Vec<Check>,
    pub event_time: EventTime,
}

#[derive(Clone, Debug)]
pub struct Check {
    pub name: String,
    /// As written, for messages.
    pub text: String,
    pub expr: Arc<dyn PhysicalExpr>,
    pub on_violation: OnViolation,
}

/// What a failed check or a bad record leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnViolation {
    DeadLetter,
    Drop,
    Fail,
}

/// Where a row's event time comes from.
#[derive(Clone, Debug)]
pub enum EventTime {
    /// No WATERMARK declared: the record's timestamp; rows are never late, the watermark does not move.
    RecordTimestamp,
    Column {
        /// In `schema`; any timestamp type. NULL is a bad record of class `time`.
        column: usize,
        delay_micros: i64,
        /// Further ahead of the record's timestamp than this: class `future`. `None`: not checked.
        max_ahead_micros: Option<i64>,
    },
}
