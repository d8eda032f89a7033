//! MIN, MAX, BOOL_AND, BOOL_OR and COUNT DISTINCT over rows that can be taken out again.

use arrow::array::{Array, ArrayRef, BinaryArray, Int64Array};
use arrow::datatypes::DataType;

use super::accumulator::{Accumulator, Evaluated, Input, column, result};
use super::bag::{Bags, Order, list_of, list_values, lists};
use super::extreme::one_nan;
use crate::error::{Error, Result};
use crate::operator::canonical;

pub struct ExtremeOfBag {
    bags: Bags<Box<[u8]>>,
    order: Order,
    output: DataType,
    greatest: bool,
}

impl ExtremeOfBag {
    pub fn new(arg: DataType, output: DataType, greatest: bool) -> Result<ExtremeOfBag> {
        Ok(ExtremeOfBag { bags: Bags::new(), order: Order::new(arg)?, output, greatest })
    }
}

impl Accumulator for ExtremeOfBag {
    fn grow(&mut self, slots: usize) {
        self.bags.grow(slots);
    }

    fn reset(&mut self, slot: u32) {
        self.bags.reset(slot);
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let arg = one_nan(input.arg(&self.order.data_type)?);
        let values = self.order.encode(&arg)?;
        input.each(arg.logical_nulls().as_ref(), |row, slot, weight| {
            let value = values.row(row);
            self.bags.add(slot, value.data(), weight.into(), || value.data().into());
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let (values, ranges) = lists(columns, 0)?;
        let counts = list_values::<Int64Array>(columns, 1, &ranges)?;
        let values = self.order.encode(values)?;
        for (slot, range) in slots.iter().zip(ranges) {
            for at in range {
                let value = values.row(at);
                self.bags.add(*slot as usize, value.data(), counts.value(at), || value.data().into());
            }
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        let values = slots.iter().map(|slot| self.bags.extreme(*slot, self.greatest).map(|value| &**value));
        Ok(result(self.order.decode(values)?, &self.output)?.into())
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("values", list_of(self.order.data_type.clone())), ("counts", list_of(DataType::Int64))]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let values = self.order.decode(self.bags.each(slots).map(|(value, _)| Some(&**value)))?;
        Ok(vec![self.bags.lists(slots, values), self.bags.counts(slots)])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        slots.iter().for_each(|slot| self.bags.reset(*slot));
        self.merge(slots, columns)
    }

    fn size(&self) -> usize {
        self.bags.size(16)
    }
}

/// Distinct values (or tuples without a NULL), in the canonical encoding, with their counts.
pub struct DistinctOfBag {
    bags: Bags<Box<[u8]>>,
    output: DataType,
}

impl DistinctOfBag {
    pub fn new(output: DataType) -> DistinctOfBag {
        DistinctOfBag { bags: Bags::new(), output }
    }
}

impl Accumulator for DistinctOfBag {
    fn grow(&mut self, slots: usize) {
        self.bags.grow(slots);
    }

    fn reset(&mut self, slot: u32) {
        self.bags.reset(slot);
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let mut value = Vec::new();
        input.each(input.nulls().as_ref(), |row, slot, weight| {
            value.clear();
            input.args.iter().for_each(|arg| canonical::encode(arg, row, &mut value));
            self.bags.add(slot, value.as_slice(), weight.into(), || value.clone().into_boxed_slice());
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let (values, ranges) = lists(columns, 0)?;
        let counts = list_values::<Int64Array>(columns, 1, &ranges)?;
        let values = values.as_any().downcast_ref::<BinaryArray>();
        let values = values.ok_or_else(|| Error::corrupt("a state of distinct values holds no bytes"))?;
        for (slot, range) in slots.iter().zip(ranges) {
            for at in range {
                self.bags.add(*slot as usize, values.value(at), counts.value(at), || values.value(at).into());
            }
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        let there = |slot: &u32| self.bags.slots[*slot as usize].values().filter(|count| **count > 0).count() as i64;
        Ok(result(column(Int64Array::from_iter_values(slots.iter().map(there))), &self.output)?.into())
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("values", list_of(DataType::Binary)), ("counts", list_of(DataType::Int64))]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let values: BinaryArray = self.bags.each(slots).map(|(value, _)| Some(value)).collect();
        Ok(vec![self.bags.lists(slots, column(values)), self.bags.counts(slots)])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        slots.iter().for_each(|slot| self.bags.reset(*slot));
        self.merge(slots, columns)
    }

    fn size(&self) -> usize {
        self.bags.size(16)
    }
}
