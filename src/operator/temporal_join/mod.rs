//! `JOIN table FOR SYSTEM_TIME AS OF`: each row of a stream meets the version of a table that held at the row's time.
//!
//! Rows of the stream (port 0) wait until both inputs' watermarks are strictly above their time; versions of the table (port 1) wait
//! as long as a row can still join them. The operator's edge is the lower of both inputs' watermarks, so "below the edge" says both.
//! A version that has not arrived yet is at or above the edge, hence above every row that is released.
//!
//! A join with the *latest* version (`AS OF PROCTIME()`) waits for nothing: a row meets the version that its task has read last, so its
//! result depends on how the inputs interleave. The pipeline has to say that it wants that.
//!
//! Invariant: nothing below the edge waits, and what a row joins does not depend on how the inputs interleave.

mod buffer;
mod state;
mod versions;
mod waiting;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;

use self::buffer::Buffer;
use self::state::Cursor;
use self::versions::Versions;
use super::evaluate::{broken, columns_only, evaluate, evaluate_predicate, isolate, record_batch, reject};
use super::key::{EncodedKeys, KeyShape};
use super::position::{self, Positions};
use super::{Late, Operator, Output};
use crate::error::{BadClass, Error, Result};
use crate::record::{Batch, Offset, Timestamp};
use crate::store::Store;
use crate::watermark::Watermark;

/// A join `AS OF` as planned. Port 0 is the stream, port 1 the table's records as they came: weight +1 a version, -1 a tombstone, of
/// which only the key columns and the position count.
#[derive(Clone, Debug)]
pub struct TemporalJoinSpec {
    /// The stream.
    pub left: SchemaRef,
    /// The table.
    pub right: SchemaRef,
    /// Over `left`: what equals the table's key, column by column, in its types.
    pub left_keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The table's PRIMARY KEY in `right`.
    pub right_keys: Vec<usize>,
    /// Columns of `right` that the output has.
    pub right_columns: Vec<usize>,
    pub kind: JoinKind,
    /// The version that counts.
    pub meets: Meets,
    /// Over `schema`: what ON says beside the keys. A row for which it is not true is joined by nothing.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Whether rows of different origins have to come out in one order. A batch has one origin, so where their times interleave this
    /// makes batches of single rows. If not, rows of one origin stay together, in order, each time the edge moves.
    pub ordered: bool,
    /// Columns of `left`, then `right_columns` (nullable in a left join).
    pub schema: SchemaRef,
}

/// The version that a row meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meets {
    /// The one that held at the row's time.
    AsOf(BeforeFirst),
    /// The last one that was read before the row.
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// A row that finds nothing is dropped.
    Inner,
    /// A row that finds nothing has NULLs.
    Left,
}

/// What a row joins that is older than its key's first version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BeforeFirst {
    #[default]
    None,
    /// The first version, by (effective time, offset), among those whose row watermark is not above the row's time: a later one may
    /// or may not have arrived when the row is released, so it can't count. A tombstone counts as a version.
    FirstKnown,
}

/// Runs a [`TemporalJoinSpec`] in one task.
pub struct TemporalJoin {
    spec: TemporalJoinSpec,
    /// The left rows with their positions.
    positioned: SchemaRef,
    buffer: Buffer,
    versions: Versions,
    edge: Watermark,
    kept_edge: Watermark,
    /// There may be rows below the edge that were not released yet: what was in memory of the versions when their release began.
    releasing: Option<(usize, usize)>,
    state: SchemaRef,
    cursor: Cursor,
    kept_cursor: Cursor,
}

/// Rows that are joined at a time.
const JOINED_ROWS: usize = 8192;
/// So many keys that were read back stay in memory while rows are released.
const READ_KEYS: usize = 65_536;

impl TemporalJoin {
    /// # Errors
    /// Keys that do not fit one another, columns that do not fit the output, types that can't be a key, named.
    pub fn new(spec: TemporalJoinSpec) -> Result<TemporalJoin> {
        let right: Vec<_> = spec.right_keys.iter().map(|c| spec.right.field(*c).data_type().clone()).collect();
        let left = spec.left_keys.iter().map(|key| key.data_type(&spec.left)).collect::<Result<Vec<_>, _>>();
        let left = left.map_err(|e| broken("the keys of a join", e))?;
        if left != right {
            return Err(Error::failed(format!("a join of keys {left:?} with a table's keys {right:?}")));
        }
        let width = spec.left.fields().len();
        if spec.schema.fields().len() != width + spec.right_columns.len() {
            return Err(Error::failed("the columns of a join are not those of its inputs"));
        }
        if spec.kind == JoinKind::Left && spec.schema.fields()[width..].iter().any(|field| !field.is_nullable()) {
            return Err(Error::failed("a left join gives NULLs, but a column of the table may not be null"));
        }
        let kept = Arc::new(spec.right.project(&spec.right_columns).map_err(|e| broken("the columns of a join", e))?);
        let shape = KeyShape::new(right).map_err(|e| e.context("JOIN"))?;
        Ok(TemporalJoin {
            positioned: position::schema(&spec.left),
            buffer: Buffer::new(&spec.left).map_err(|e| e.context("JOIN"))?,
            state: state::schema(&spec, &kept),
            versions: Versions::new(shape, kept, spec.meets == Meets::AsOf(BeforeFirst::FirstKnown)),
            spec,
            edge: Watermark::MIN,
            kept_edge: Watermark::MIN,
            releasing: None,
            cursor: Cursor::start(),
            kept_cursor: Cursor::start(),
        })
    }

    /// Rows of the stream that wait: what a bounded run leaves unemitted.
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Those of them that are on disk.
    pub fn waiting_on_disk(&self) -> usize {
        self.buffer.on_disk()
    }
}

impl Operator for TemporalJoin {
    fn push(&mut self, port: usize, batch: Batch, out: &mut Output) -> Result<()> {
        match port {
            _ if batch.num_rows() == 0 => Ok(()),
            0 => self.push_row(batch, out),
            _ => self.push_version(&batch),
        }
    }

    /// Joins and emits the rows below the edge, in the order (event time, source, partition, offset), derived rows by (event time,
    /// values); unless the plan is not `ordered`, by origin first, part by part.
    fn advance(&mut self, edge: Watermark, out: &mut Output) -> Result<Watermark> {
        if edge <= self.edge && self.releasing.is_none() {
            return Ok(self.edge);
        }
        self.edge = edge;
        let mark = *self.releasing.get_or_insert(self.versions.mark());
        let room = out.room.unwrap_or(usize::MAX);
        let mut made = 0;
        while let Some(rows) = self.buffer.release(edge, self.spec.ordered, (room - made).clamp(1, JOINED_ROWS))? {
            let before = out.batches.len();
            self.join(&rows, out)?;
            made += out.batches[before..].iter().map(Batch::num_rows).sum::<usize>();
            // Keys that are read back to be looked at are many in the end.
            if self.versions.mark().0 - mark.0 >= room.min(READ_KEYS) {
                self.versions.forget(mark);
            }
            if made >= room {
                out.more = true;
                return Ok(self.edge);
            }
        }
        self.releasing = None;
        self.versions.prune(self.over());
        Ok(self.edge)
    }

    fn store(&mut self) -> Option<&mut dyn Store> {
        Some(self)
    }
}

impl TemporalJoin {
    fn push_row(&mut self, batch: Batch, out: &mut Output) -> Result<()> {
        if batch.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|w| *w < 0)) {
            return Err(Error::failed("rows are taken back from the stream of a join AS OF"));
        }
        let latest = self.spec.meets == Meets::Latest;
        let mut batch = if latest { batch } else { self.in_time(batch, out)? };
        // A key that can't be computed rejects its row now, while the record is at hand. Plain columns can't fail.
        if columns_only(&self.spec.left_keys).is_none() {
            let found = isolate(&batch.rows, |rows: &RecordBatch| self.left_keys(rows))?;
            if let Some(keep) = found.keep {
                reject(&batch, &found.failures, BadClass::Expression, out);
                batch = batch.filter(&keep).map_err(|e| broken("filter", e))?;
            }
        }
        let Some(first) = batch.event_times.values().iter().min() else { return Ok(()) };
        if latest {
            let positions = Positions::of(&position::attach(&batch, &self.positioned)?);
            return self.emit(batch.rows, positions, out);
        }
        self.assert_ahead("a row that is not late", *first);
        self.buffer.push(&batch, &self.positioned)
    }

    /// A row is late if and only if its time is below its own row watermark.
    fn in_time(&self, batch: Batch, out: &mut Output) -> Result<Batch> {
        let mut times = batch.event_times.values().iter().zip(batch.row_watermarks.values());
        if batch.derived || times.all(|(time, watermark)| time >= watermark) {
            return Ok(batch);
        }
        let times = batch.event_times.values().iter().zip(batch.row_watermarks.values());
        let keep: BooleanArray = times.map(|(time, watermark)| Some(time >= watermark)).collect();
        let mut last = None;
        for row in (0..batch.num_rows()).filter(|row| !keep.value(*row)) {
            let offset = Offset(batch.offsets.value(row));
            // Copies of one record stand next to one another.
            if last.replace(offset) != Some(offset) {
                out.late.push(Late {
                    source: batch.source,
                    partition: batch.partition,
                    offset,
                    event_time: Timestamp(batch.event_times.value(row)),
                    row_watermark: Watermark(batch.row_watermarks.value(row)),
                });
            }
        }
        batch.filter(&keep).map_err(|e| broken("filter", e))
    }

    fn push_version(&mut self, batch: &Batch) -> Result<()> {
        let times = batch.event_times.values().iter().zip(batch.row_watermarks.values());
        let first = times.map(|(time, watermark)| *time.max(watermark)).min().unwrap_or(i64::MAX);
        self.assert_ahead("a version's effective time", first);
        let keys: Vec<ArrayRef> = self.spec.right_keys.iter().map(|c| batch.rows.column(*c).clone()).collect();
        let columns = self.spec.right_columns.iter().map(|c| batch.rows.column(*c).clone()).collect();
        let rows = record_batch(self.versions.held.schema(), columns, batch.num_rows());
        self.recall(&self.versions.shape.encode(&keys)?, batch.num_rows())?;
        self.versions.push(batch, &keys, rows.map_err(|e| broken("versions", e))?)?;
        // A version at the edge itself takes the place of the one before it at once.
        self.versions.prune(self.over());
        Ok(())
    }

    /// Up to here a version is over once there is a later one.
    fn over(&self) -> Watermark {
        if self.spec.meets == Meets::Latest { Watermark::MAX } else { self.edge }
    }

    fn assert_ahead(&self, what: &str, first: i64) {
        assert!(
            first >= self.edge.0,
            "{what} is not below the edge watermark: that ({}) never passes a row watermark, but {} came",
            self.edge,
            Timestamp(first)
        );
    }

    fn left_keys(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, DataFusionError> {
        self.spec.left_keys.iter().map(|key| evaluate(key, rows)).collect()
    }

    /// The version that each row joins.
    fn found(&mut self, left: &RecordBatch, positions: &Positions) -> Result<Vec<Option<u32>>> {
        let keys = self.left_keys(left).map_err(|e| broken("a key that was computed before", e))?;
        let encoded: EncodedKeys = self.versions.shape.encode(&keys)?;
        self.recall(&encoded, left.num_rows())?;
        let found = |row: usize| {
            if keys.iter().any(|key| key.is_null(row)) {
                return None;
            }
            let key = self.versions.keys.find(&encoded, row)?;
            let time = if self.spec.meets == Meets::Latest { i64::MAX } else { positions.event_times.value(row) };
            self.versions.at(key, time)
        };
        Ok((0..left.num_rows()).map(found).collect())
    }

    /// Joins rows of the buffer and emits them.
    fn join(&mut self, held: &RecordBatch, out: &mut Output) -> Result<()> {
        let positions = self.buffer.positions(held);
        let left = record_batch(&self.spec.left, held.columns()[..self.spec.left.fields().len()].to_vec(), held.num_rows());
        self.emit(left.map_err(|e| broken("the rows of a join", e))?, positions, out)
    }

    /// Left rows with what they join.
    fn emit(&mut self, left: RecordBatch, positions: Positions, out: &mut Output) -> Result<()> {
        let mut found = self.found(&left, &positions)?;
        let mut keep = vec![true; left.num_rows()];
        if let Some(filter) = &self.spec.filter {
            self.filter(filter, &left, &positions, &mut found, &mut keep, out)?;
        }
        if self.spec.kind == JoinKind::Inner {
            keep.iter_mut().zip(&found).for_each(|(keep, found)| *keep &= found.is_some());
        }
        let mut kept = keep.iter();
        found.retain(|_| *kept.next().expect("as many rows as marks"));
        if found.is_empty() {
            return Ok(());
        }
        let (left, positions) = match keep.contains(&false) {
            true => {
                let keep = BooleanArray::from(keep);
                let failed = |e| broken("filter", e);
                (filter_record_batch(&left, &keep).map_err(failed)?, positions.filter(&keep).map_err(failed)?)
            }
            false => (left, positions),
        };
        positions.batches(&self.joined(&left, &found)?, None, &mut out.batches);
        Ok(())
    }

    /// Takes from `found` what ON refuses, and from `keep` the rows on which it fails.
    fn filter(
        &self,
        filter: &Arc<dyn PhysicalExpr>,
        left: &RecordBatch,
        positions: &Positions,
        found: &mut [Option<u32>],
        keep: &mut [bool],
        out: &mut Output,
    ) -> Result<()> {
        let rows: Vec<usize> = (0..found.len()).filter(|row| found[*row].is_some()).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let mask: BooleanArray = found.iter().map(|found| Some(found.is_some())).collect();
        let left = filter_record_batch(left, &mask).map_err(|e| broken("filter", e))?;
        let versions: Vec<Option<u32>> = rows.iter().map(|row| found[*row]).collect();
        let joined = self.joined(&left, &versions)?;
        let tested = isolate(&joined, |rows: &RecordBatch| evaluate_predicate(filter, rows))?;
        for (at, message) in tested.failures {
            keep[rows[at]] = false;
            positions.reject(rows[at], &joined, at, message, out);
        }
        let mut truths = tested.value.values().iter();
        for row in rows.into_iter().filter(|row| keep[*row]) {
            if !truths.next().expect("a truth for every row that does not fail") {
                found[row] = None;
            }
        }
        Ok(())
    }

    /// Left rows with the versions beside them, NULLs where there is none.
    fn joined(&self, left: &RecordBatch, found: &[Option<u32>]) -> Result<RecordBatch> {
        let versions: Vec<u32> = found.iter().flatten().copied().collect();
        let right = self.versions.held.take(&versions)?;
        let mut columns = left.columns().to_vec();
        if versions.len() == found.len() {
            columns.extend(right.columns().iter().cloned());
        } else if versions.is_empty() {
            columns.extend(right.columns().iter().map(|column| arrow::array::new_null_array(column.data_type(), found.len())));
        } else {
            let mut next = 0..;
            let places: UInt32Array = found.iter().map(|found| found.and_then(|_| next.next())).collect();
            for column in right.columns() {
                columns.push(take(column, &places, None).map_err(|e| broken("the rows of a join", e))?);
            }
        }
        record_batch(&self.spec.schema, columns, found.len()).map_err(|e| broken("the rows of a join", e))
    }

    /// Key groups of left rows: those of their keys, so that they stand beside the versions they join.
    fn key_groups(&self, left: &RecordBatch) -> Result<Vec<u8>> {
        let keys = self.left_keys(left).map_err(|e| broken("a key that was computed before", e))?;
        Ok(super::canonical::key_groups(&keys, left.num_rows()))
    }
}

/// Names and types of the columns, all nullable.
fn nullable(prefix: &str, schema: &Schema) -> Vec<arrow::datatypes::Field> {
    let fields = schema.fields().iter().enumerate();
    fields.map(|(n, f)| arrow::datatypes::Field::new(format!("{prefix}_{n}"), f.data_type().clone(), true)).collect()
}
