//! Results as rows: of windows that closed, and of groups that can't be computed.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int8Array, Int64Array, TimestampMillisecondArray};
use arrow::compute::filter;
use arrow::datatypes::SchemaRef;

use super::{Aggregate, Group, Results, accumulator};
use crate::error::Result;
use crate::operator::evaluate::{broken, record_batch, row_json};
use crate::operator::{Output, Withdrawn};
use crate::record::{Batch, Partition};
use crate::watermark::Watermark;

impl Aggregate {
    /// Results of the given slots, without the groups' columns.
    pub(super) fn results(&self, slots: &[u32]) -> Result<Results> {
        let mut failures = Vec::new();
        let mut columns = Vec::with_capacity(self.spec.calls.len());
        for (call, accumulator) in self.accumulators.iter().take(self.spec.calls.len()).enumerate() {
            let evaluated = accumulator.evaluate(slots)?;
            failures.extend(evaluated.failures.into_iter().map(|(row, what)| (row, call, what)));
            columns.push(evaluated.column);
        }
        failures.sort_unstable_by_key(|(row, call, _)| (*row, *call));
        Ok(Results { columns, failures })
    }

    /// Emits the results of slots whose window is over, in the order given.
    pub(super) fn emit(&self, slots: &[u32], out: &mut Output) -> Result<()> {
        let mut slots: Vec<u32> = slots.iter().copied().filter(|slot| self.alive(*slot)).collect();
        let mut results = self.results(&slots)?;
        let mut keys = self.key_columns(&slots)?;
        if !results.failures.is_empty() {
            let mut keep = vec![true; slots.len()];
            for (row, call, what) in &results.failures {
                // One report per group, whatever the number of its results that failed.
                if std::mem::replace(&mut keep[*row], false) {
                    out.withdrawn.push(self.withdrawn(&keys, &slots, *row, *call, what)?);
                }
            }
            let mut kept = keep.iter();
            slots.retain(|_| *kept.next().expect("as many slots as rows"));
            let keep = BooleanArray::from(keep);
            for column in keys.iter_mut().chain(&mut results.columns) {
                *column = filter(column, &keep).map_err(|e| broken("filter", e))?;
            }
        }
        if slots.is_empty() {
            return Ok(());
        }
        let ends: Vec<i64> = slots.iter().map(|slot| self.slots.ends[*slot as usize]).collect();
        let event_times = ends.iter().map(|end| end - 1000).collect::<Vec<_>>().into();
        let columns = self.output_columns(keys, results.columns, &ends)?;
        out.batches.push(derived(&self.spec.schema, columns, event_times, None)?);
        Ok(())
    }

    pub(super) fn withdrawn(&self, keys: &[ArrayRef], slots: &[u32], row: usize, call: usize, what: &str) -> Result<Withdrawn> {
        let keys: Vec<ArrayRef> = keys.iter().map(|key| key.slice(row, 1)).collect();
        let ends = [self.slots.ends[slots[row] as usize]];
        let columns = self.output_columns(keys, Vec::new(), &ends)?;
        let groups: Vec<usize> = (0..columns.len()).collect();
        let schema = self.spec.schema.project(&groups).map_err(|e| broken("the groups of a result", e))?;
        let rows = record_batch(&Arc::new(schema), columns, 1).map_err(|e| broken("the groups of a result", e))?;
        let message = format!("\"{}\": {what}", self.spec.calls[call].output.name());
        Ok(Withdrawn { key: row_json(&rows, 0), message })
    }

    /// Group columns, windows among them, then results.
    pub(super) fn output_columns(&self, keys: Vec<ArrayRef>, results: Vec<ArrayRef>, ends: &[i64]) -> Result<Vec<ArrayRef>> {
        let size = self.spec.window.as_ref().map_or(0, |window| window.size_micros);
        let mut keys = keys.into_iter();
        let mut columns = Vec::with_capacity(self.spec.groups.len() + results.len());
        for (at, group) in self.spec.groups.iter().enumerate() {
            let shift = match group {
                Group::WindowStart => -size,
                Group::WindowEnd => 0,
                Group::WindowTime => -1000,
                Group::Expression(_) => {
                    columns.push(keys.next().expect("one key column per expression"));
                    continue;
                }
            };
            let millis = TimestampMillisecondArray::from_iter_values(ends.iter().map(|end| (end + shift).div_euclid(1000)));
            columns.push(accumulator::result(Arc::new(millis), self.spec.schema.field(at).data_type())?);
        }
        columns.extend(results);
        Ok(columns)
    }
}

/// Rows that no source record stands behind.
pub fn derived(schema: &SchemaRef, columns: Vec<ArrayRef>, event_times: Int64Array, weights: Option<Int8Array>) -> Result<Batch> {
    let count = event_times.len();
    let rows = record_batch(schema, columns, count).map_err(|e| broken("the result of an aggregate", e))?;
    Ok(Batch {
        rows,
        source: 0,
        partition: Partition(0),
        offsets: Int64Array::from_value(0, count),
        event_times,
        row_watermarks: Int64Array::from_value(Watermark::MIN.0, count),
        weights,
        derived: true,
    })
}
