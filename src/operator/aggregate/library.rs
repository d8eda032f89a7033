//! Any other aggregate of the library: one accumulator per group, slower than the columns beside it.

use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_empty_array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::Accumulator as Single;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use super::accumulator::{Accumulator, Evaluated, Input, result};
use crate::error::Result;
use crate::operator::evaluate::{broken, message};

/// The library's accumulators may be used up when they are read, so reading puts a fresh one in its place, made from the state.
pub struct Library {
    expr: Arc<AggregateFunctionExpr>,
    groups: Vec<RefCell<Option<Box<dyn Single>>>>,
    state: Vec<DataType>,
    output: DataType,
}

/// State columns have names that outlive one run.
const STATE_NAMES: [&str; 8] = ["state0", "state1", "state2", "state3", "state4", "state5", "state6", "state7"];

impl Library {
    pub fn new(expr: Arc<AggregateFunctionExpr>, output: DataType) -> Result<Library> {
        let fields = expr.state_fields().map_err(|e| broken(expr.name(), e))?;
        assert!(fields.len() <= STATE_NAMES.len(), "no aggregate of the library has that many state columns");
        let state = fields.iter().map(|field| field.data_type().clone()).collect();
        Ok(Library { expr, groups: Vec::new(), state, output })
    }

    fn failed(&self, error: datafusion_common::DataFusionError) -> crate::error::Error {
        broken(self.expr.name(), message(&error))
    }

    fn merged(&self, state: &[ScalarValue]) -> Result<Box<dyn Single>> {
        let mut fresh = self.expr.create_accumulator().map_err(|e| self.failed(e))?;
        let columns = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>, _>>().map_err(|e| self.failed(e))?;
        fresh.merge_batch(&columns).map_err(|e| self.failed(e))?;
        Ok(fresh)
    }

    fn state_of(&self, slot: u32) -> Result<Vec<ScalarValue>> {
        let mut group = self.groups[slot as usize].borrow_mut();
        let mut single = match group.take() {
            Some(single) => single,
            None => self.expr.create_accumulator().map_err(|e| self.failed(e))?,
        };
        let state = single.state().map_err(|e| self.failed(e))?;
        *group = Some(self.merged(&state)?);
        Ok(state)
    }
}

impl Accumulator for Library {
    fn grow(&mut self, slots: usize) {
        self.groups.resize_with(slots, RefCell::default);
    }

    fn reset(&mut self, slot: u32) {
        self.groups[slot as usize] = RefCell::default();
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let mut rows: Vec<u32> = (0..input.slots.len() as u32).collect();
        rows.sort_by_key(|row| input.slots[*row as usize]);
        for rows in rows.chunk_by(|a, b| input.slots[*a as usize] == input.slots[*b as usize]) {
            let slot = input.slots[rows[0] as usize] as usize;
            let rows = UInt32Array::from(rows.to_vec());
            let args = input.args.iter().map(|arg| take(arg, &rows, None)).collect::<Result<Vec<_>, _>>();
            let args = args.map_err(|e| broken(self.expr.name(), e))?;
            if self.groups[slot].get_mut().is_none() {
                *self.groups[slot].get_mut() = Some(self.expr.create_accumulator().map_err(|e| self.failed(e))?);
            }
            let single = self.groups[slot].get_mut().as_mut().expect("just made");
            single.update_batch(&args).map_err(|e| broken(self.expr.name(), message(&e)))?;
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        if slots.is_empty() {
            return Ok(new_empty_array(&self.output).into());
        }
        let mut failures = Vec::new();
        let mut values = Vec::with_capacity(slots.len());
        let null = ScalarValue::try_from(&self.output).map_err(|e| self.failed(e))?;
        for (at, slot) in slots.iter().enumerate() {
            let state = self.state_of(*slot)?;
            match self.merged(&state)?.evaluate() {
                Ok(value) => values.push(value),
                Err(_) => {
                    failures.push((at, "the result could not be computed"));
                    values.push(null.clone());
                }
            }
        }
        let column = ScalarValue::iter_to_array(values).map_err(|e| self.failed(e))?;
        Ok(Evaluated { column: result(column, &self.output)?, failures })
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        STATE_NAMES.into_iter().zip(self.state.iter().cloned()).collect()
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut columns: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(slots.len()); self.state.len()];
        for slot in slots {
            self.state_of(*slot)?.into_iter().zip(&mut columns).for_each(|(value, column)| column.push(value));
        }
        let columns = columns.into_iter().zip(&self.state).map(|(values, data_type)| match values.is_empty() {
            true => Ok(new_empty_array(data_type)),
            false => ScalarValue::iter_to_array(values).map_err(|e| self.failed(e)).and_then(|column| result(column, data_type)),
        });
        columns.collect()
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        for (row, slot) in slots.iter().enumerate() {
            let mut group = self.groups[*slot as usize].borrow_mut();
            let single = match &mut *group {
                Some(single) => single,
                none => none.insert(self.expr.create_accumulator().map_err(|e| self.failed(e))?),
            };
            let state: Vec<ArrayRef> = columns.iter().map(|column| column.slice(row, 1)).collect();
            single.merge_batch(&state).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        for (row, slot) in slots.iter().enumerate() {
            let mut single = self.expr.create_accumulator().map_err(|e| self.failed(e))?;
            let state: Vec<ArrayRef> = columns.iter().map(|column| column.slice(row, 1)).collect();
            single.merge_batch(&state).map_err(|e| self.failed(e))?;
            *self.groups[*slot as usize].get_mut() = Some(single);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.groups.iter().map(|group| 16 + group.borrow().as_ref().map_or(0, |single| single.size())).sum()
    }
}
