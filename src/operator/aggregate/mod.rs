//! Windowed and updating aggregates: hash aggregation by key, state as columns.
//!
//! Every (window, key) has a slot, a number; every aggregate call keeps columns by slot (`accumulator`). `slots` gives and takes
//! back slots and knows which of them a commit touched; `state` is the store made of both; `change` compares old results with new.
//!
//! Invariant: a window is in the store if and only if its end is above the edge watermark (or its closing is not yet known to be
//! committed). Its groups are in memory or, when the store has outgrown its share, on disk (`cold`).

mod accumulator;
mod bag;
mod change;
mod cold;
mod count;
mod deviation;
mod emit;
mod expansion;
mod extreme;
mod library;
mod multiset;
mod partial;
mod place;
mod slots;
mod state;
mod sum;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{DataType, FieldRef, Int64Type, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use self::accumulator::{Accumulator, Input, accumulator};
use self::cold::{Closing, Cold};
use self::emit::derived;
use self::multiset::ExtremeOfBag;
use self::slots::Slots;
use self::state::State;
use super::evaluate::{broken, evaluate, evaluate_predicate, isolate, micros, reject};
use super::key::KeyShape;
use super::{Late, Operator, Output};
use crate::error::{BadClass, Error, Result};
use crate::record::{Batch, Offset, Timestamp};
use crate::store::Store;
use crate::watermark::Watermark;

/// `GROUP BY` as planned.
///
/// With a window: rows are refused by their row watermark (a row all of whose windows refuse it is late), results are emitted
/// once, when the edge watermark reaches the window's end, ordered by (window end, key). Without: results are updates, one
/// retraction and one insertion (weights) per touched key and commit, emitted at `flush`.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    pub input: SchemaRef,
    pub window: Option<WindowColumn>,
    /// In GROUP BY order: the first columns of the output.
    pub groups: Vec<Group>,
    /// The columns of the output after the groups.
    pub calls: Vec<AggregateCall>,
    pub schema: SchemaRef,
    /// Rows of one group may come from several source partitions (a union, a shuffle): sums of doubles then use an exact accumulator.
    pub order_free: bool,
    /// Rows may be taken back (a table, the changes of another aggregate): MIN, MAX, FIRST_VALUE, LAST_VALUE and COUNT DISTINCT then
    /// keep all values with their counts, and a group whose last row is taken back disappears.
    pub retracts: bool,
    /// Half of an aggregate that is split by a shuffle: all else in the spec, `input` and `schema` included, is that of the whole.
    pub phase: Phase,
}

/// Which part of an aggregate runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Complete,
    /// Before a shuffle: takes `input`, emits [`AggregateSpec::partial_schema`] when its edge closes a window.
    Local,
    /// Behind a shuffle: takes [`AggregateSpec::partial_schema`], emits `schema`.
    Global,
}

impl AggregateSpec {
    /// Whether results may not depend on the order of arrival.
    pub fn exact(&self) -> bool {
        self.order_free || self.retracts || self.phase != Phase::Complete
    }
}

/// Where the window of a row stands in the aggregate's input.
#[derive(Clone, Debug)]
pub struct WindowColumn {
    /// A `window_start` (`is_start`) or `window_end` column, `Timestamp(Millisecond, _)`.
    pub column: usize,
    pub is_start: bool,
    pub size_micros: i64,
}

/// One column of GROUP BY.
#[derive(Clone, Debug)]
pub enum Group {
    WindowStart,
    WindowEnd,
    /// `window_end` - 1 ms.
    WindowTime,
    Expression(Arc<dyn PhysicalExpr>),
}

#[derive(Clone, Debug)]
pub struct AggregateCall {
    pub function: Function,
    /// COUNT(*) has none.
    pub args: Vec<Arc<dyn PhysicalExpr>>,
    pub distinct: bool,
    /// FILTER (WHERE ...).
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Name and type of the result, as SQL states it: SUM of integers is Int64 (checked), AVG of integers and doubles Float64.
    pub output: FieldRef,
}

#[derive(Clone, Debug)]
pub enum Function {
    Count,
    /// Integers add in i128 and are range-checked when read; decimals in their own (widened) precision; floats in Float64.
    Sum,
    Min,
    Max,
    Avg,
    StddevPop,
    StddevSamp,
    VarPop,
    VarSamp,
    /// By event time, then source's place, partition, offset. NULLs are passed over, as in Flink.
    FirstValue,
    LastValue,
    BoolAnd,
    BoolOr,
    /// Any other aggregate of the library: one accumulator per group (slower).
    Other(Arc<AggregateFunctionExpr>),
}

impl Function {
    /// As SQL spells it.
    pub fn name(&self) -> &str {
        match self {
            Function::Count => "COUNT",
            Function::Sum => "SUM",
            Function::Min => "MIN",
            Function::Max => "MAX",
            Function::Avg => "AVG",
            Function::StddevPop => "STDDEV_POP",
            Function::StddevSamp => "STDDEV_SAMP",
            Function::VarPop => "VAR_POP",
            Function::VarSamp => "VAR_SAMP",
            Function::FirstValue => "FIRST_VALUE",
            Function::LastValue => "LAST_VALUE",
            Function::BoolAnd => "BOOL_AND",
            Function::BoolOr => "BOOL_OR",
            Function::Other(expr) => expr.name(),
        }
    }
}

/// Runs an [`AggregateSpec`] in one task.
pub struct Aggregate {
    spec: AggregateSpec,
    /// The expressions of GROUP BY, windows left out.
    keys: Vec<Arc<dyn PhysicalExpr>>,
    shape: KeyShape,
    /// Of the calls; where rows can be taken back, then one for the event times of the rows that are there.
    accumulators: Vec<Box<dyn Accumulator>>,
    /// Of the rows between two halves.
    partial: SchemaRef,
    slots: Slots,
    /// Results at the last flush of the groups touched since, in parts (updating aggregates only).
    before: Vec<Before>,
    state: State,
    /// Groups on disk; `None` until the store spills for the first time.
    cold: Option<Cold>,
    /// Windows that are being emitted.
    closing: Option<Closing>,
    /// Holds groups on their way from disk to the output.
    scratch: Option<Box<Aggregate>>,
}

/// Results of groups before they were touched.
struct Before {
    slots: Vec<u32>,
    event_times: Vec<i64>,
    rows: Results,
}

/// Results of some slots: columns as in the output, rows that could not be computed marked.
struct Results {
    columns: Vec<ArrayRef>,
    /// Row, call, what happened.
    failures: Vec<(usize, usize, &'static str)>,
}

/// The most rows of one emitted batch.
const EMITTED_ROWS: usize = 8192;

impl Aggregate {
    /// # Errors
    /// A function, type or key that is not supported, named.
    pub fn new(spec: AggregateSpec) -> Result<Aggregate> {
        let keys: Vec<Arc<dyn PhysicalExpr>> = spec.groups.iter().filter_map(Group::expression).cloned().collect();
        let types = keys.iter().map(|key| key.data_type(&spec.input)).collect::<Result<Vec<_>, _>>();
        let types = types.map_err(|e| broken("GROUP BY", e))?;
        if spec.window.is_none() && keys.len() < spec.groups.len() {
            return Err(Error::failed("a window column in GROUP BY, but no window"));
        }
        Aggregate::refuse_phase(&spec)?;
        let shape = KeyShape::new(types.clone()).map_err(|e| e.context("GROUP BY"))?;
        let accumulators = accumulators(&spec)?;
        let state = State::new(&spec, &types, &accumulators);
        let partial = spec.partial_schema()?;
        let (slots, before) = (Slots::default(), Vec::new());
        let (cold, closing, scratch) = (None, None, None);
        Ok(Aggregate { spec, keys, shape, accumulators, partial, slots, before, state, cold, closing, scratch })
    }

    /// Groups with a window still open: what a bounded run leaves unemitted.
    pub fn open_windows(&self) -> usize {
        if self.spec.window.is_none() {
            return 0;
        }
        let cold = self.cold.iter().flat_map(|cold| cold.live.keys()).filter(|end| **end > self.slots.edge.0);
        cold.filter(|end| !self.slots.windows.contains_key(*end)).count() + self.slots.windows.len()
    }
}

fn accumulators(spec: &AggregateSpec) -> Result<Vec<Box<dyn Accumulator>>> {
    let mut accumulators = spec.calls.iter().map(|call| accumulator(spec, call)).collect::<Result<Vec<_>>>()?;
    if spec.retracts {
        accumulators.push(Box::new(ExtremeOfBag::new(DataType::Int64, DataType::Int64, true)?));
    }
    Ok(accumulators)
}

impl Group {
    pub fn expression(&self) -> Option<&Arc<dyn PhysicalExpr>> {
        match self {
            Group::Expression(expr) => Some(expr),
            _ => None,
        }
    }
}

impl Operator for Aggregate {
    fn push(&mut self, _port: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if self.spec.phase == Phase::Global {
            return self.merge(&batch);
        }
        let Some((batch, ends)) = self.accepted(batch, out)? else { return Ok(()) };
        let found = isolate(&batch.rows, |rows: &RecordBatch| self.evaluate(rows))?;
        let (batch, ends) = match &found.keep {
            None => (batch, ends),
            Some(keep) => {
                reject(&batch, &found.failures, BadClass::Expression, out);
                let kept = ends.map(|ends| keep.values().set_indices().map(|row| ends[row]).collect::<Vec<_>>());
                (batch.filter(keep).map_err(|e| broken("filter", e))?, kept)
            }
        };
        if batch.num_rows() > 0 {
            self.update(&batch, ends.as_deref(), &found.value)?;
        }
        Ok(())
    }

    /// Emits the windows whose end the edge watermark has reached. The output watermark is the edge cut to milliseconds: a window
    /// that is open, or may still open, ends after the edge, so its result's event time (end - 1 ms) is not below that.
    fn advance(&mut self, edge: Watermark, out: &mut Output) -> Result<Watermark> {
        if self.spec.window.is_none() {
            self.slots.edge = self.slots.edge.max(edge);
            return Ok(self.slots.edge);
        }
        if edge > self.slots.edge {
            match self.emit_closing(edge, out)? {
                true => self.slots.close(edge),
                false => out.more = true,
            }
        }
        Ok(match self.slots.edge {
            Watermark::MIN | Watermark::MAX => self.slots.edge,
            Watermark(micros) => Watermark(micros.div_euclid(1000).saturating_mul(1000).max(i64::MIN + 1)),
        })
    }

    /// An updating aggregate emits, for every group touched since the last flush, its old row (weight -1) and its new one (+1).
    fn flush(&mut self, out: &mut Output) -> Result<()> {
        if self.spec.window.is_some() {
            return Ok(());
        }
        let slots = self.slots.take_unflushed();
        if slots.is_empty() {
            return Ok(());
        }
        let new = self.results(&slots)?;
        let keys = self.key_columns(&slots)?;
        let changes = self.changes(&slots, &new, &keys, out)?;
        self.before.clear();
        if changes.is_empty() {
            return Ok(());
        }
        let event_times = Int64Array::from(changes.event_times);
        let keys = taken(&keys, &UInt32Array::from(changes.rows))?;
        let columns = self.output_columns(keys, changes.columns, &[])?;
        let schema = &self.spec.schema;
        out.batches.push(derived(schema, columns, event_times, Some(Int8Array::from(changes.weights)))?);
        Ok(())
    }

    fn store(&mut self) -> Option<&mut dyn Store> {
        Some(self)
    }
}

/// What a batch's rows mean for the groups.
struct EvaluatedRows {
    keys: Vec<ArrayRef>,
    calls: Vec<EvaluatedCall>,
}

struct EvaluatedCall {
    /// Rows that FILTER leaves; `None`: all. The arguments are of those.
    filter: Option<BooleanArray>,
    args: Vec<ArrayRef>,
}

impl Aggregate {
    /// Sorts out rows that their window refuses; returns the others with their windows' ends.
    fn accepted(&self, batch: Batch, out: &mut Output) -> Result<Option<(Batch, Option<Vec<i64>>)>> {
        if batch.num_rows() == 0 {
            return Ok(None);
        }
        let Some(window) = &self.spec.window else { return Ok(Some((batch, None))) };
        let times = micros(batch.rows.column(window.column))?;
        if times.values.null_count() > 0 || !times.overflowed.is_empty() {
            return Err(Error::failed("a row without a window reached a windowed aggregate"));
        }
        let shift = if window.is_start { window.size_micros } else { 0 };
        let mut ends: Vec<i64> = times.values.values().iter().map(|time| time.saturating_add(shift)).collect();
        let first_end = ends.iter().copied().min().unwrap_or(i64::MAX);
        let highest = batch.row_watermarks.values().iter().copied().max().unwrap_or(i64::MIN);
        if batch.derived || first_end > highest {
            self.assert_open(first_end);
            return Ok(Some((batch, Some(ends))));
        }
        let keep: Vec<bool> = ends.iter().zip(batch.row_watermarks.values()).map(|(end, watermark)| end > watermark).collect();
        late_rows(&batch, &keep, out);
        let mut kept = keep.iter();
        ends.retain(|_| *kept.next().expect("as many rows as ends"));
        let Some(first_end) = ends.iter().copied().min() else { return Ok(None) };
        self.assert_open(first_end);
        let batch = batch.filter(&BooleanArray::from(keep)).map_err(|e| broken("filter", e))?;
        Ok(Some((batch, Some(ends))))
    }

    fn assert_open(&self, first_end: i64) {
        let edge = self.slots.edge;
        assert!(
            first_end > edge.0,
            "a row that is not late finds its window open: the edge watermark ({edge}) never passes a row watermark, but the \
             window that ends at {} is closed",
            Timestamp(first_end)
        );
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<EvaluatedRows, DataFusionError> {
        let keys = self.keys.iter().map(|key| evaluate(key, rows)).collect::<Result<Vec<_>, _>>()?;
        let calls = self.spec.calls.iter().map(|call| {
            let filter = match &call.filter {
                Some(filter) => Some(evaluate_predicate(filter, rows)?).filter(|keep| keep.true_count() < rows.num_rows()),
                None => None,
            };
            let args = match &filter {
                // `SUM(a / b) FILTER (WHERE b <> 0)` divides only where it may.
                Some(keep) => {
                    let rows = filter_record_batch(rows, keep)?;
                    call.args.iter().map(|arg| evaluate(arg, &rows)).collect::<Result<Vec<_>, _>>()?
                }
                None => call.args.iter().map(|arg| evaluate(arg, rows)).collect::<Result<Vec<_>, _>>()?,
            };
            Ok(EvaluatedCall { filter, args })
        });
        Ok(EvaluatedRows { keys, calls: calls.collect::<Result<_, DataFusionError>>()? })
    }

    fn update(&mut self, batch: &Batch, ends: Option<&[i64]>, evaluated: &EvaluatedRows) -> Result<()> {
        self.refuse_retractions(batch)?;
        let slots = self.touch(&evaluated.keys, ends, batch.num_rows())?;
        if self.spec.retracts {
            slots.iter().enumerate().for_each(|(row, slot)| self.slots.rows[*slot as usize] += i64::from(batch.weight(row)));
            self.update_times(batch, &slots)?;
        } else {
            for (row, slot) in slots.iter().map(|slot| *slot as usize).enumerate() {
                let time = &mut self.slots.event_times[slot];
                *time = (*time).max(batch.event_times.value(row));
            }
        }
        for (accumulator, call) in self.accumulators.iter_mut().zip(&evaluated.calls) {
            match &call.filter {
                None => accumulator.update(&Input { slots: &slots, args: &call.args, batch })?,
                Some(keep) => {
                    let slots: Vec<u32> = keep.values().set_indices().map(|row| slots[row]).collect();
                    let batch = batch.filter(keep).map_err(|e| broken("filter", e))?;
                    accumulator.update(&Input { slots: &slots, args: &call.args, batch: &batch })?;
                }
            }
        }
        Ok(())
    }

    /// A group's time is the highest of the rows that are there: of one that was there once it would depend on the order of arrival.
    fn update_times(&mut self, batch: &Batch, slots: &[u32]) -> Result<()> {
        let times = self.accumulators.last_mut().expect("it stands behind those of the calls");
        let args: [ArrayRef; 1] = [Arc::new(batch.event_times.clone())];
        times.update(&Input { slots, args: &args, batch })?;
        let mut touched = slots.to_vec();
        touched.sort_unstable();
        touched.dedup();
        let found = times.evaluate(&touched)?.column;
        for (slot, time) in touched.iter().zip(found.as_primitive::<Int64Type>().iter()) {
            self.slots.event_times[*slot as usize] = time.unwrap_or(i64::MIN);
        }
        Ok(())
    }

    /// Finds or makes the slot of every row; saves what a failed commit and the next flush need of them.
    fn touch(&mut self, keys: &[ArrayRef], ends: Option<&[i64]>, rows: usize) -> Result<Vec<u32>> {
        let keys = self.shape.encode(keys)?;
        self.recall(&keys, ends, rows)?;
        let touched = self.slots.intern(&self.shape, &keys, ends, rows);
        for accumulator in &mut self.accumulators {
            accumulator.grow(self.slots.capacity());
            touched.created.iter().for_each(|slot| accumulator.reset(*slot));
        }
        self.save(&touched.first_since_kept)?;
        // A group whose rows had all been retracted had no result then.
        let before: Vec<u32> = touched.first_since_flush.iter().copied().filter(|slot| self.alive(*slot)).collect();
        if !before.is_empty() {
            let rows = self.results(&before)?;
            let event_times = before.iter().map(|slot| self.slots.event_times[*slot as usize]).collect();
            self.before.push(Before { slots: before, event_times, rows });
        }
        Ok(touched.slots)
    }

    fn refuse_retractions(&self, batch: &Batch) -> Result<()> {
        let retracts = batch.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|w| *w < 0));
        if retracts && !self.spec.retracts {
            return Err(Error::failed("rows are retracted from an aggregate that was planned without retractions"));
        }
        Ok(())
    }
}

/// A record is late when every window that it fell into refuses it: copies of one record stand next to one another.
fn late_rows(batch: &Batch, keep: &[bool], out: &mut Output) {
    let offsets = batch.offsets.values();
    let mut row = 0;
    for copies in offsets.chunk_by(|a, b| a == b) {
        if !keep[row..row + copies.len()].contains(&true) {
            out.late.push(Late {
                source: batch.source,
                partition: batch.partition,
                offset: Offset(copies[0]),
                event_time: Timestamp(batch.event_times.value(row)),
                row_watermark: Watermark(batch.row_watermarks.value(row)),
            });
        }
        row += copies.len();
    }
}

fn taken(columns: &[ArrayRef], rows: &UInt32Array) -> Result<Vec<ArrayRef>> {
    columns.iter().map(|column| take(column, rows, None).map_err(|e| broken("take", e))).collect()
}
