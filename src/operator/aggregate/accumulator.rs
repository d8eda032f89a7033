//! What the columns of state of one aggregate call can do.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};

use super::{AggregateCall, AggregateSpec, Function};
use crate::error::{Error, Result};
use crate::operator::evaluate::broken;
pub use crate::operator::state::state_column;
use crate::record::Batch;

use super::count::{Count, Distinct};
use super::deviation::{Deviation, ExactDeviation};
use super::extreme;
use super::library::Library;
use super::multiset::{DistinctOfBag, ExtremeOfBag};
use super::place::{Place, PlaceOfBag};
use super::sum::{SumDecimal, SumDouble, SumExact, SumInteger};

/// The state of one aggregate call for all groups, by slot: columns, not objects.
pub trait Accumulator: Send {
    /// Makes room for so many slots; new ones are empty.
    fn grow(&mut self, slots: usize);

    /// Makes a slot empty again.
    fn reset(&mut self, slot: u32);

    fn update(&mut self, input: &Input) -> Result<()>;

    /// Results of the given slots.
    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated>;

    /// Names and types of the state columns.
    fn fields(&self) -> Vec<(&'static str, DataType)>;

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>>;

    /// Adds rows of state, which other rows of the same groups led to, to the given slots. A slot may come more than once.
    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()>;

    /// Overwrites the given slots.
    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()>;

    /// Estimated memory in bytes.
    fn size(&self) -> usize;
}

/// Rows for one call, those that its FILTER leaves.
pub struct Input<'a> {
    /// The slot of each row.
    pub slots: &'a [u32],
    pub args: &'a [ArrayRef],
    /// For weights and positions.
    pub batch: &'a Batch,
}

/// Results by slot; those that could not be computed are null and listed.
pub struct Evaluated {
    pub column: ArrayRef,
    pub failures: Vec<(usize, &'static str)>,
}

impl From<ArrayRef> for Evaluated {
    fn from(column: ArrayRef) -> Evaluated {
        Evaluated { column, failures: Vec::new() }
    }
}

impl Input<'_> {
    /// Visits the rows where no argument is NULL: row, slot, weight.
    pub fn each(&self, nulls: Option<&NullBuffer>, mut visit: impl FnMut(usize, usize, i8)) {
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        match (nulls, &self.batch.weights) {
            (None, None) => self.slots.iter().enumerate().for_each(|(row, slot)| visit(row, *slot as usize, 1)),
            (nulls, weights) => {
                for (row, slot) in self.slots.iter().enumerate() {
                    if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                        visit(row, *slot as usize, weights.as_ref().map_or(1, |w| w.value(row)));
                    }
                }
            }
        }
    }

    /// Null where any argument is.
    pub fn nulls(&self) -> Option<NullBuffer> {
        self.args.iter().fold(None, |nulls, arg| NullBuffer::union(nulls.as_ref(), arg.logical_nulls().as_ref()))
    }

    pub fn arg(&self, to: &DataType) -> Result<ArrayRef> {
        if self.args[0].data_type() == to {
            return Ok(self.args[0].clone());
        }
        cast(&self.args[0], to).map_err(|e| broken("an aggregate's argument", e))
    }
}

/// Chooses the accumulator of a call.
///
/// # Errors
/// A function, type or combination that is not supported, named.
pub fn accumulator(spec: &AggregateSpec, call: &AggregateCall) -> Result<Box<dyn Accumulator>> {
    let name = call.function.name();
    let args =
        call.args.iter().map(|arg| arg.data_type(&spec.input)).collect::<Result<Vec<_>, _>>().map_err(|e| broken(name, e))?;
    let output = call.output.data_type().clone();
    let types = args.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
    let refused = |what: &str| Error::config(format!("{name}({types}) as {output}: {what}"));

    let takes_distinct = matches!(
        call.function,
        Function::Count | Function::Min | Function::Max | Function::BoolAnd | Function::BoolOr | Function::Other(_)
    );
    if call.distinct && !takes_distinct {
        return Err(refused("DISTINCT is not supported").hint("aggregate a subquery that groups by the value"));
    }
    let wanted = match call.function {
        Function::Count | Function::Other(_) => None,
        _ => Some(1),
    };
    if wanted.is_some_and(|wanted| wanted != args.len()) || (call.distinct && args.is_empty()) {
        return Err(refused("wrong number of arguments"));
    }
    Ok(match &call.function {
        Function::Count if call.distinct => {
            if args.iter().any(|t| !crate::operator::canonical::supports(t)) {
                return Err(refused("the type is not supported with DISTINCT"));
            }
            if spec.retracts { Box::new(DistinctOfBag::new(output)) } else { Box::new(Distinct::new(output)) }
        }
        Function::Count => Box::new(Count::new(output)),
        Function::Sum | Function::Avg => {
            let mean = matches!(call.function, Function::Avg);
            match &args[0] {
                t if t.is_integer() && (output.is_integer() || (mean && output.is_floating())) => {
                    Box::new(SumInteger::new(output, mean))
                }
                t if t.is_floating() && output.is_floating() => match spec.exact() {
                    true => Box::new(SumExact::new(output, mean)),
                    false => Box::new(SumDouble::new(output, mean)),
                },
                t if t.is_decimal() && output.is_decimal() => Box::new(
                    SumDecimal::new(t, output.clone(), mean).ok_or_else(|| refused("the precision or scale is not supported"))?,
                ),
                _ => return Err(refused("the types are not supported")),
            }
        }
        Function::Min | Function::Max | Function::BoolAnd | Function::BoolOr => {
            let greatest = matches!(call.function, Function::Max | Function::BoolOr);
            let last_only = extreme::accumulator(&args[0], output.clone(), greatest);
            let last_only = last_only.ok_or_else(|| refused("the type is not supported"))?;
            if spec.retracts { Box::new(ExtremeOfBag::new(args[0].clone(), output, greatest)?) } else { last_only }
        }
        Function::StddevPop | Function::StddevSamp | Function::VarPop | Function::VarSamp => {
            if !args[0].is_numeric() || !output.is_floating() {
                return Err(refused("the types are not supported"));
            }
            let sample = matches!(call.function, Function::StddevSamp | Function::VarSamp);
            let root = matches!(call.function, Function::StddevPop | Function::StddevSamp);
            match spec.exact() {
                true => Box::new(ExactDeviation::new(output, sample, root)),
                false => Box::new(Deviation::new(output, sample, root)),
            }
        }
        Function::FirstValue | Function::LastValue => {
            let last = matches!(call.function, Function::LastValue);
            match spec.retracts {
                true => Box::new(PlaceOfBag::new(args[0].clone(), output, last)?),
                false => Box::new(Place::new(args[0].clone(), output, last, spec.exact())?),
            }
        }
        Function::Other(_) if spec.retracts => {
            return Err(refused("not supported over rows that are taken back")
                .hint("aggregate a stream or a window's results, or use COUNT, SUM, AVG, MIN, MAX"));
        }
        Function::Other(expr) => Box::new(Library::new(expr.clone(), output)?),
    })
}

/// One state column's field.
pub fn state_field(call: usize, name: &str, data_type: DataType) -> Field {
    Field::new(format!("_{call}_{name}"), data_type, true)
}

/// Converts a result to the type that the plan promised.
pub fn result(column: ArrayRef, output: &DataType) -> Result<ArrayRef> {
    if column.data_type() == output {
        return Ok(column);
    }
    cast(&column, output).map_err(|e| broken("an aggregate's result", e))
}

/// Collects values of the given slots.
pub fn pick<T: Copy>(values: &[T], slots: &[u32]) -> Vec<T> {
    slots.iter().map(|slot| values[*slot as usize]).collect()
}

/// Validity of results that are NULL where nothing was counted.
pub fn counted(counts: &[i64], slots: &[u32], least: i64) -> NullBuffer {
    slots.iter().map(|slot| counts[*slot as usize] >= least).collect()
}

/// An array as a column.
pub fn column(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}
