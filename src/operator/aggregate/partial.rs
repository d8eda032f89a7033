//! A windowed aggregate in two: partial states before a shuffle, results behind it.
//!
//! The local half runs where its rows come from and closes windows by its own edge. Its rows are partial states:
//!
//! ```text
//! key_0 ... | _window_end Int64 | _rows Int64 (where rows can be taken back) | state columns of the calls, as in the store
//! ```
//!
//! Each has the event time of its window's end - 1 ms and is derived: lateness was decided before. The global half adds them up and
//! closes by the edge of all senders, which is at a window's end only when every sender has closed the window.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::accumulator::{accumulator, state_column};
use super::emit::derived;
use super::{Aggregate, AggregateSpec, Group};
use crate::error::{Error, Result};
use crate::operator::Output;
use crate::operator::evaluate::broken;
use crate::operator::state::check_schema;
use crate::record::Batch;

impl AggregateSpec {
    /// Of the rows between the halves: what a local half emits and a global half takes. The first columns are the group's
    /// expressions, in order, windows left out: by them the rows are shuffled.
    ///
    /// # Errors
    /// As [`Aggregate::new`].
    pub fn partial_schema(&self) -> Result<SchemaRef> {
        let keys = self.groups.iter().filter_map(Group::expression).map(|key| key.data_type(&self.input));
        let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|e| broken("GROUP BY", e))?;
        let mut fields: Vec<Field> =
            keys.into_iter().enumerate().map(|(at, key)| Field::new(format!("key_{at}"), key, true)).collect();
        fields.push(Field::new("_window_end", DataType::Int64, false));
        if self.retracts {
            fields.push(Field::new("_rows", DataType::Int64, false));
        }
        for (at, call) in self.calls.iter().enumerate() {
            let columns = accumulator(self, call)?.fields();
            fields.extend(columns.into_iter().map(|(name, t)| super::accumulator::state_field(at, name, t)));
        }
        Ok(Arc::new(Schema::new(fields)))
    }
}

impl Aggregate {
    /// Emits the partial states of slots whose window is over.
    pub(super) fn emit_partial(&self, slots: &[u32], out: &mut Output) -> Result<()> {
        let slots: Vec<u32> = slots.iter().copied().filter(|slot| self.present(*slot)).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let by_slot = |values: &[i64]| Int64Array::from_iter_values(slots.iter().map(|slot| values[*slot as usize]));
        let ends = by_slot(&self.slots.ends);
        let event_times = ends.unary(|end| end - 1000);
        let mut columns = self.key_columns(&slots)?;
        columns.push(Arc::new(ends) as ArrayRef);
        if self.spec.retracts {
            columns.push(Arc::new(by_slot(&self.slots.rows)));
        }
        for accumulator in self.accumulators.iter().take(self.spec.calls.len()) {
            columns.extend(accumulator.export(&slots)?);
        }
        out.batches.push(derived(&self.partial, columns, event_times, None)?);
        Ok(())
    }

    /// Adds partial states.
    pub(super) fn merge(&mut self, batch: &Batch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        check_schema(&self.partial, &batch.rows).map_err(|e| e.context("partial states"))?;
        let columns = batch.rows.columns();
        let width = self.keys.len();
        let ends = state_column::<Int64Array>(columns, width)?.values();
        self.assert_open(ends.iter().copied().min().unwrap_or(i64::MAX));
        let slots = self.touch(&columns[..width], Some(ends), batch.num_rows())?;
        let mut at = width + 1;
        if self.spec.retracts {
            let rows = state_column::<Int64Array>(columns, at)?;
            slots.iter().zip(rows.values()).for_each(|(slot, rows)| self.slots.rows[*slot as usize] += rows);
            at += 1;
        }
        for (slot, time) in slots.iter().zip(batch.event_times.values()) {
            let known = &mut self.slots.event_times[*slot as usize];
            *known = (*known).max(*time);
        }
        for accumulator in self.accumulators.iter_mut().take(self.spec.calls.len()) {
            let fields = accumulator.fields().len();
            accumulator.merge(&slots, &columns[at..at + fields])?;
            at += fields;
        }
        Ok(())
    }

    pub(super) fn refuse_phase(spec: &AggregateSpec) -> Result<()> {
        match spec.window {
            None if spec.phase != super::Phase::Complete => {
                Err(Error::failed("an aggregate in two halves, but no window that closes the first"))
            }
            _ => Ok(()),
        }
    }
}
