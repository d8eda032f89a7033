//! COUNT and COUNT DISTINCT.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, BinaryArray, BinaryBuilder, Int64Array, ListArray, ListBuilder};
use arrow::datatypes::{DataType, Field};
use hashbrown::HashSet;

use super::accumulator::{Accumulator, Evaluated, Input, column, pick, result, state_column};
use crate::error::{Error, Result};
use crate::operator::canonical;

/// Rows, or rows where no argument is NULL.
pub struct Count {
    counts: Vec<i64>,
    output: DataType,
}

impl Count {
    pub fn new(output: DataType) -> Count {
        Count { counts: Vec::new(), output }
    }
}

impl Accumulator for Count {
    fn grow(&mut self, slots: usize) {
        self.counts.resize(slots, 0);
    }

    fn reset(&mut self, slot: u32) {
        self.counts[slot as usize] = 0;
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let counts = &mut self.counts;
        input.each(input.nulls().as_ref(), |_, slot, weight| counts[slot] += i64::from(weight));
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let counts = state_column::<Int64Array>(columns, 0)?;
        slots.iter().zip(counts.values()).for_each(|(slot, count)| self.counts[*slot as usize] += *count);
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        Ok(result(column(Int64Array::from(pick(&self.counts, slots))), &self.output)?.into())
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("count", DataType::Int64)]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![column(Int64Array::from(pick(&self.counts, slots)))])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let counts = state_column::<Int64Array>(columns, 0)?;
        slots.iter().zip(counts.values()).for_each(|(slot, count)| self.counts[*slot as usize] = *count);
        Ok(())
    }

    fn size(&self) -> usize {
        self.counts.capacity() * 8
    }
}

/// Distinct values (or tuples without a NULL), in the canonical encoding.
pub struct Distinct {
    values: Vec<HashSet<Box<[u8]>>>,
    bytes: usize,
    output: DataType,
}

impl Distinct {
    pub fn new(output: DataType) -> Distinct {
        Distinct { values: Vec::new(), bytes: 0, output }
    }

    fn insert(&mut self, slot: usize, value: &[u8]) {
        let known = &mut self.values[slot];
        if !known.contains(value) {
            self.bytes += value.len();
            known.insert(value.into());
        }
    }
}

impl Accumulator for Distinct {
    fn grow(&mut self, slots: usize) {
        self.values.resize_with(slots, HashSet::new);
        if slots == 0 {
            self.bytes = 0;
        }
    }

    fn reset(&mut self, slot: u32) {
        let old = std::mem::take(&mut self.values[slot as usize]);
        self.bytes -= old.iter().map(|value| value.len()).sum::<usize>();
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let mut value = Vec::new();
        input.each(input.nulls().as_ref(), |row, slot, _| {
            value.clear();
            input.args.iter().for_each(|arg| canonical::encode(arg, row, &mut value));
            self.insert(slot, &value);
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let lists = state_column::<ListArray>(columns, 0)?;
        for (row, slot) in slots.iter().enumerate() {
            let values = lists.value(row);
            let values = values.as_any().downcast_ref::<BinaryArray>();
            let values = values.ok_or_else(|| Error::corrupt("a state of distinct values holds no bytes"))?;
            for at in 0..values.len() {
                self.insert(*slot as usize, values.value(at));
            }
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        let counts: Int64Array = slots.iter().map(|slot| Some(self.values[*slot as usize].len() as i64)).collect();
        Ok(result(column(counts), &self.output)?.into())
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("values", DataType::List(Field::new_list_field(DataType::Binary, true).into()))]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut lists = ListBuilder::new(BinaryBuilder::new());
        for slot in slots {
            // Sorted: equal states are equal bytes.
            let values: BTreeSet<&[u8]> = self.values[*slot as usize].iter().map(|value| &**value).collect();
            values.into_iter().for_each(|value| lists.values().append_value(value));
            lists.append(true);
        }
        Ok(vec![column(lists.finish())])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        slots.iter().for_each(|slot| self.reset(*slot));
        self.merge(slots, columns)
    }

    fn size(&self) -> usize {
        self.values.iter().map(|values| values.capacity() * 17).sum::<usize>() + self.bytes + self.values.capacity() * 32
    }
}
