//! Where a source's decoded rows enter: computed columns, checks, event time and the row watermark.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, StructArray, make_array, new_null_array};
use arrow::compute::not;
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;

use super::Output;
use super::evaluate::{broken, columns_only, evaluate, evaluate_columns, isolate, message, micros, record_batch, reject, scaled};
use crate::error::{BadClass, Error, Result};
use crate::record::{Batch, NextOffset, Offset, Partition, Timestamp};
use crate::watermark::{PartitionWatermark, Watermark};

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
    /// Of a table: its PRIMARY KEY in `schema`, which a tombstone has, too. None: a stream.
    pub table_key: Vec<usize>,
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
    /// A table without WATERMARK: a version's time is its record's timestamp, and moves the watermark.
    VersionTimestamp,
    Column {
        /// In `schema`; any timestamp type. NULL is a bad record of class `time`.
        column: usize,
        delay_micros: i64,
        /// Further ahead of the record's timestamp than this: class `future`. `None`: not checked.
        max_ahead_micros: Option<i64>,
    },
}

impl IngestSpec {
    /// Whether records move the watermark: without a WATERMARK they do not.
    pub fn has_watermark(&self) -> bool {
        !matches!(self.event_time, EventTime::RecordTimestamp)
    }

    /// How far out of order event times may be.
    pub fn delay_micros(&self) -> i64 {
        match self.event_time {
            EventTime::RecordTimestamp | EventTime::VersionTimestamp => 0,
            EventTime::Column { delay_micros, .. } => delay_micros,
        }
    }
}

/// Runs an [`IngestSpec`] for one source partition, in offset order.
pub struct Ingest {
    spec: IngestSpec,
    source: u16,
    partition: Partition,
    watermark: PartitionWatermark,
    /// Behind the last row seen.
    position: Option<NextOffset>,
    /// Decisions at positions that are still to come, ascending.
    raises: VecDeque<(NextOffset, Watermark)>,
    /// Set when every column is a plain one: nothing is evaluated then.
    columns: Option<Vec<usize>>,
    /// Rows that failed a check with `ON VIOLATION DROP`, since the start.
    pub dropped: u64,
}

impl Ingest {
    pub fn new(spec: IngestSpec, source: u16, partition: Partition) -> Ingest {
        let delay_micros = spec.delay_micros();
        let columns = columns_only(&spec.columns);
        let watermark = PartitionWatermark::new(delay_micros);
        Ingest { spec, source, partition, watermark, position: None, raises: VecDeque::new(), columns, dropped: 0 }
    }

    /// Takes decoded rows in offset order. `record_timestamps_ms` has -1 where a record has none.
    ///
    /// A record without a timestamp has event time 0 (1970) where the record's timestamp is the event time.
    ///
    /// # Errors
    /// A check with `ON VIOLATION FAIL` failed.
    pub fn ingest(
        &mut self,
        decoded: RecordBatch,
        offsets: Int64Array,
        record_timestamps_ms: &Int64Array,
        out: &mut Output,
    ) -> Result<Option<Batch>> {
        assert_eq!(decoded.num_rows(), offsets.len(), "every row has an offset");
        let Some(last) = offsets.values().last().copied() else { return Ok(None) };
        let reported = out.rejected.len();
        let no_times = Int64Array::from_value(0, offsets.len());
        let mut batch = Batch {
            rows: decoded,
            source: self.source,
            partition: self.partition,
            offsets,
            event_times: record_timestamps_ms.clone(),
            row_watermarks: no_times,
            weights: None,
            derived: false,
        };
        batch = self.compute(batch, out)?;
        for check in 0..self.spec.checks.len() {
            batch = self.check(check, batch, out)?;
        }
        batch = self.stamp(batch, out)?;
        batch.row_watermarks = self.observe(&batch.offsets, &batch.event_times);
        self.reached(Offset(last).next());
        out.rejected[reported..].sort_by_key(|rejected| rejected.offset);
        Ok((batch.num_rows() > 0).then_some(batch))
    }

    /// Takes tombstones of a table in offset order: of `decoded` only key and metadata count. A tombstone has no value, so its time is its
    /// record's timestamp, and no check holds it back.
    pub fn tombstones(
        &mut self,
        decoded: &RecordBatch,
        offsets: Int64Array,
        record_timestamps_ms: &Int64Array,
        out: &mut Output,
    ) -> Result<Option<Batch>> {
        let Some(last) = offsets.values().last().copied() else { return Ok(None) };
        let rows = offsets.len();
        let column = |(at, field): (usize, &FieldRef)| match self.spec.table_key.contains(&at) {
            true => evaluate(&self.spec.columns[at], decoded).map_err(|e| broken("the key of a tombstone", message(&e))),
            false => Ok(filler(field, rows)),
        };
        let columns = self.spec.schema.fields().iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
        let batch = Batch {
            rows: record_batch(&self.spec.schema, columns, rows).map_err(|e| broken("tombstones", e))?,
            source: self.source,
            partition: self.partition,
            offsets,
            event_times: record_timestamps_ms.clone(),
            row_watermarks: Int64Array::from_value(0, rows),
            weights: Some(Int8Array::from_value(-1, rows)),
            derived: false,
        };
        let mut batch = record_times(batch, out)?;
        batch.row_watermarks = self.observe(&batch.offsets, &batch.event_times);
        self.reached(Offset(last).next());
        Ok((batch.num_rows() > 0).then_some(batch))
    }

    /// A recorded decision: rows at or after `at` see at least `to`. Applies at once if the partition has come that far.
    pub fn raise(&mut self, at: NextOffset, to: Watermark) {
        if self.position.is_some_and(|position| at <= position) {
            return self.watermark.raise(to);
        }
        let place = self.raises.partition_point(|(known, _)| *known <= at);
        self.raises.insert(place, (at, to));
    }

    /// The partition's position is now `next` (a start, a restore, records that did not decode, a move over control records):
    /// decisions up to there apply.
    pub fn reached(&mut self, next: NextOffset) {
        self.position = self.position.max(Some(next));
        while self.raises.front().is_some_and(|(at, _)| *at <= next) {
            let (_, to) = self.raises.pop_front().expect("just seen");
            self.watermark.raise(to);
        }
    }

    /// The partition's watermark: what its next row would see.
    pub fn watermark(&self) -> Watermark {
        self.watermark.current()
    }

    pub fn has_watermark(&self) -> bool {
        self.spec.has_watermark()
    }

    /// The highest event time of an accepted row; `None` where rows move no watermark.
    pub fn highest(&self) -> Option<Timestamp> {
        self.watermark.highest()
    }

    /// Back to a commit: sets watermark and highest event time and forgets position and decisions, which the caller gives again
    /// ([`Ingest::reached`], [`Ingest::raise`]).
    pub fn restore(&mut self, watermark: Watermark, highest: Option<Timestamp>) {
        self.watermark.restore(watermark, highest);
        self.position = None;
        self.raises.clear();
    }

    fn compute(&self, mut batch: Batch, out: &mut Output) -> Result<Batch> {
        if let Some(columns) = &self.columns {
            let columns = columns.iter().map(|c| batch.rows.column(*c).clone()).collect();
            if let Ok(rows) = record_batch(&self.spec.schema, columns, batch.num_rows()) {
                return Ok(Batch { rows, ..batch });
            }
        }
        let work = |rows: &RecordBatch| evaluate_columns(&self.spec.columns, &self.spec.schema, rows);
        let found = isolate(&batch.rows, work)?;
        if let Some(keep) = found.keep {
            reject(&batch, &found.failures, BadClass::Expression, out);
            batch = batch.filter(&keep).map_err(|e| broken("filter", e))?;
        }
        Ok(Batch { rows: found.value, ..batch })
    }

    fn check(&mut self, check: usize, mut batch: Batch, out: &mut Output) -> Result<Batch> {
        let check = &self.spec.checks[check];
        let found = isolate(&batch.rows, |rows: &RecordBatch| violations(&check.expr, rows))?;
        if let Some(keep) = found.keep {
            reject(&batch, &found.failures, BadClass::Expression, out);
            batch = batch.filter(&keep).map_err(|e| broken("filter", e))?;
        }
        let violations = found.value;
        if violations.true_count() == 0 {
            return Ok(batch);
        }
        let rows = violations.values().set_indices();
        match check.on_violation {
            OnViolation::Drop => self.dropped += violations.true_count() as u64,
            OnViolation::DeadLetter => {
                let message = format!("check \"{}\" failed: {}", check.name, check.text);
                let failures: Vec<_> = rows.map(|row| (row, message.clone())).collect();
                reject(&batch, &failures, BadClass::Check, out);
            }
            OnViolation::Fail => {
                let offset = rows.map(|row| batch.offsets.value(row)).next().unwrap_or_default();
                let place = format!("source {} partition {}: offset {offset}", self.source, self.partition);
                return Err(Error::failed(format!("{place} fails check \"{}\": {}", check.name, check.text))
                    .hint("correct or skip the record, or declare the check ON VIOLATION DEAD LETTER"));
            }
        }
        batch.filter(&not(&violations).map_err(|e| broken("checks", e))?).map_err(|e| broken("filter", e))
    }

    /// Replaces the record timestamps in `event_times` by event times.
    fn stamp(&self, mut batch: Batch, out: &mut Output) -> Result<Batch> {
        let (column, max_ahead_micros) = match self.spec.event_time {
            EventTime::RecordTimestamp | EventTime::VersionTimestamp => return record_times(batch, out),
            EventTime::Column { column, max_ahead_micros, .. } => (column, max_ahead_micros),
        };
        let times = micros(batch.rows.column(column))?;
        let name = self.spec.schema.field(column).name();
        let record_millis = std::mem::replace(&mut batch.event_times, times.values);
        let mut bad: Vec<(usize, String)> = Vec::new();
        if batch.event_times.null_count() > 0 {
            let nulls = (0..batch.num_rows()).filter(|row| batch.event_times.is_null(*row));
            bad.extend(nulls.map(|row| (row, format!("the event time \"{name}\" is NULL"))));
        }
        bad.extend(times.overflowed.into_iter().map(|row| (row, format!("the event time \"{name}\" is out of range"))));
        bad.sort_unstable_by_key(|(row, _)| *row);

        let mut ahead = Vec::new();
        if let Some(max_ahead) = max_ahead_micros {
            let pairs = batch.event_times.values().iter().zip(record_millis.values());
            let rows = pairs.enumerate().filter(|(_, (time, millis))| {
                **millis != -1 && i128::from(**time) - i128::from(**millis) * 1000 > i128::from(max_ahead)
            });
            let rows = rows.filter(|(row, _)| bad.binary_search_by_key(row, |(row, _)| *row).is_err());
            ahead.extend(rows.map(|(row, (time, millis))| {
                let record = Timestamp::from_millis(*millis).map_or_else(|| format!("{millis} ms"), |at| at.to_string());
                (
                    row,
                    format!("the event time \"{name}\" {} is too far ahead of the record's timestamp {record}", Timestamp(*time)),
                )
            }));
        }
        reject(&batch, &ahead, BadClass::Future, out);
        let refused: Vec<_> = ahead.into_iter().map(|(row, _)| row).collect();
        reject(&batch, &bad, BadClass::Time, out);
        keep_others(batch, refused.into_iter().chain(bad.into_iter().map(|(row, _)| row)))
    }

    /// Row watermarks, with the decisions that apply in between.
    fn observe(&mut self, offsets: &Int64Array, event_times: &Int64Array) -> Int64Array {
        let moves = self.has_watermark();
        let mut before: Vec<i64> = Vec::new();
        let mut from = 0;
        loop {
            while self.raises.front().is_some_and(|(at, _)| offsets.values().get(from).is_some_and(|offset| at.0 <= *offset)) {
                let (_, to) = self.raises.pop_front().expect("just seen");
                self.watermark.raise(to);
            }
            let to = self.raises.front().map_or(offsets.len(), |(at, _)| offsets.values().partition_point(|o| *o < at.0));
            let part = event_times.slice(from, to - from);
            let part = if moves { self.watermark.observe(&part) } else { Int64Array::from_value(self.watermark().0, part.len()) };
            if from == 0 && to == offsets.len() {
                return part;
            }
            before.extend_from_slice(part.values());
            if to == offsets.len() {
                return Int64Array::from(before);
            }
            from = to;
        }
    }
}

/// True where the check is false (NULL passes).
fn violations(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<BooleanArray, DataFusionError> {
    let truth = evaluate(expr, rows)?;
    let Some(truth) = truth.as_boolean_opt() else {
        return Err(DataFusionError::Internal(format!("a check of type {}", truth.data_type())));
    };
    let violated = !truth.values();
    Ok(BooleanArray::new(truth.nulls().map_or(violated.clone(), |nulls| &violated & nulls.inner()), None))
}

/// Record timestamps, in milliseconds, as event times; a record without one has 1970.
fn record_times(mut batch: Batch, out: &mut Output) -> Result<Batch> {
    let millis: Int64Array = batch.event_times.unary(|millis| if millis == -1 { 0 } else { millis });
    let times = scaled(&millis, 1000);
    let bad = times.overflowed.into_iter().map(|row| (row, "the record's timestamp is out of range".to_owned()));
    batch.event_times = times.values;
    without(batch, &bad.collect::<Vec<_>>(), BadClass::Time, out)
}

/// Values that count for nothing, in a column that may not be null either: NULL where it may, else what the type begins with.
pub fn filler(field: &Field, rows: usize) -> ArrayRef {
    if field.is_nullable() {
        return new_null_array(field.data_type(), rows);
    }
    match field.data_type() {
        DataType::Struct(fields) if !fields.is_empty() => {
            let children = fields.iter().map(|child| filler(child, rows)).collect();
            Arc::new(StructArray::new(fields.clone(), children, None))
        }
        data_type => {
            let data = new_null_array(data_type, rows).to_data().into_builder().nulls(None).build();
            make_array(data.expect("an array of nulls holds zeros, and is valid without its nulls"))
        }
    }
}

fn without(batch: Batch, bad: &[(usize, String)], class: BadClass, out: &mut Output) -> Result<Batch> {
    reject(&batch, bad, class, out);
    keep_others(batch, bad.iter().map(|(row, _)| *row))
}

fn keep_others(batch: Batch, refused: impl Iterator<Item = usize>) -> Result<Batch> {
    let mut keep: Option<Vec<bool>> = None;
    for row in refused {
        keep.get_or_insert_with(|| vec![true; batch.num_rows()])[row] = false;
    }
    match keep {
        Some(keep) => batch.filter(&BooleanArray::from(keep)).map_err(|e| broken("filter", e)),
        None => Ok(batch),
    }
}
