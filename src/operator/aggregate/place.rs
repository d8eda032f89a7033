//! FIRST_VALUE and LAST_VALUE by event time, then source's place, partition, offset. NULLs are passed over, as in Flink.

use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, UInt16Array};
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;

use super::accumulator::{Accumulator, Evaluated, Input, column, result, state_column};
use crate::error::Result;
use crate::operator::evaluate::broken;

/// Event time, source, partition, offset.
type Position = (i64, u16, i32, i64);

pub struct Place {
    values: Vec<Option<ScalarValue>>,
    positions: Vec<Position>,
    arg: DataType,
    output: DataType,
    last: bool,
}

impl Place {
    pub fn new(arg: DataType, output: DataType, last: bool) -> Place {
        Place { values: Vec::new(), positions: Vec::new(), arg, output, last }
    }

    fn column(&self, slots: &[u32]) -> Result<ArrayRef> {
        if slots.is_empty() {
            return Ok(arrow::array::new_empty_array(&self.arg));
        }
        let null = ScalarValue::try_from(&self.arg).map_err(|e| broken("FIRST_VALUE, LAST_VALUE", e))?;
        let values = slots.iter().map(|slot| self.values[*slot as usize].clone().unwrap_or_else(|| null.clone()));
        ScalarValue::iter_to_array(values).map_err(|e| broken("FIRST_VALUE, LAST_VALUE", e))
    }
}

impl Accumulator for Place {
    fn grow(&mut self, slots: usize) {
        self.values.resize(slots, None);
        self.positions.resize(slots, (0, 0, 0, 0));
    }

    fn reset(&mut self, slot: u32) {
        self.values[slot as usize] = None;
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let arg = &input.args[0];
        let batch = input.batch;
        // First who wins each slot, then one value per winner: a value is copied once per batch and slot.
        let mut winners: Vec<(usize, usize)> = Vec::new();
        input.each(input.nulls().as_ref(), |row, slot, _| {
            let position = (batch.event_times.value(row), batch.source, batch.partition.0, batch.offsets.value(row));
            let known = self.positions[slot];
            // Rows of one position (derived rows) keep their order of arrival.
            let better = if self.last { position >= known } else { position < known };
            if better || self.values[slot].is_none() {
                self.positions[slot] = position;
                self.values[slot] = Some(ScalarValue::Null);
                winners.push((slot, row));
            }
        });
        winners.reverse();
        let mut done = hashbrown::HashSet::with_capacity(winners.len());
        for (slot, row) in winners {
            if done.insert(slot) {
                let mut value = ScalarValue::try_from_array(arg, row).map_err(|e| broken("FIRST_VALUE, LAST_VALUE", e))?;
                value.compact();
                self.values[slot] = Some(value);
            }
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        Ok(result(self.column(slots)?, &self.output)?.into())
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![
            ("value", self.arg.clone()),
            ("event_time", DataType::Int64),
            ("source", DataType::UInt16),
            ("partition", DataType::Int32),
            ("offset", DataType::Int64),
        ]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let positions = || slots.iter().map(|slot| self.positions[*slot as usize]);
        Ok(vec![
            self.column(slots)?,
            column(Int64Array::from_iter_values(positions().map(|p| p.0))),
            column(UInt16Array::from_iter_values(positions().map(|p| p.1))),
            column(Int32Array::from_iter_values(positions().map(|p| p.2))),
            column(Int64Array::from_iter_values(positions().map(|p| p.3))),
        ])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let times = state_column::<Int64Array>(columns, 1)?;
        let sources = state_column::<UInt16Array>(columns, 2)?;
        let partitions = state_column::<Int32Array>(columns, 3)?;
        let offsets = state_column::<Int64Array>(columns, 4)?;
        for (row, slot) in slots.iter().enumerate() {
            let slot = *slot as usize;
            self.positions[slot] = (times.value(row), sources.value(row), partitions.value(row), offsets.value(row));
            self.values[slot] = match columns[0].is_valid(row) {
                true => Some(ScalarValue::try_from_array(&columns[0], row).map_err(|e| broken("restore", e))?),
                false => None,
            };
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.values.iter().flatten().map(ScalarValue::size).sum::<usize>() + self.positions.capacity() * 24
    }
}
