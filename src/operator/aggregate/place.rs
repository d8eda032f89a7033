//! FIRST_VALUE and LAST_VALUE by event time, then source's place, partition, offset. NULLs are passed over, as in Flink.
//!
//! Rows of one position (derived rows) keep their order of arrival where that is known; where rows of several partitions meet, the
//! least value is the first and the greatest the last.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, UInt16Array};
use arrow::datatypes::DataType;

use super::accumulator::{Accumulator, Evaluated, Input, column, result, state_column};
use super::bag::{Bags, Order, list_of, list_values, lists};
use crate::error::Result;
use crate::record::Batch;

/// Event time, source, partition, offset.
type Position = (i64, u16, i32, i64);

fn position(batch: &Batch, row: usize) -> Position {
    (batch.event_times.value(row), batch.source, batch.partition.0, batch.offsets.value(row))
}

pub struct Place {
    /// As bytes that sort as the values do.
    values: Vec<Vec<u8>>,
    known: Vec<bool>,
    positions: Vec<Position>,
    order: Order,
    output: DataType,
    last: bool,
    /// Whether the order of arrival means nothing.
    order_free: bool,
}

impl Place {
    pub fn new(arg: DataType, output: DataType, last: bool, order_free: bool) -> Result<Place> {
        let order = Order::new(arg)?;
        Ok(Place { values: Vec::new(), known: Vec::new(), positions: Vec::new(), order, output, last, order_free })
    }

    fn offer(&mut self, slot: usize, position: Position, value: &[u8]) {
        let better = match position.cmp(&self.positions[slot]) {
            _ if !self.known[slot] => true,
            Ordering::Equal if !self.order_free => self.last,
            Ordering::Equal => (value > self.values[slot].as_slice()) == self.last,
            order => order.is_gt() == self.last,
        };
        if better {
            self.set(slot, position, value);
        }
    }

    fn set(&mut self, slot: usize, position: Position, value: &[u8]) {
        self.known[slot] = true;
        self.positions[slot] = position;
        self.values[slot].clear();
        self.values[slot].extend_from_slice(value);
    }

    fn column(&self, slots: &[u32]) -> Result<ArrayRef> {
        let value = |slot: &u32| self.known[*slot as usize].then(|| self.values[*slot as usize].as_slice());
        self.order.decode(slots.iter().map(value))
    }

    /// Visits rows of state: slot, position, value; `None` where there is none.
    fn rows(
        &mut self,
        slots: &[u32],
        columns: &[ArrayRef],
        mut visit: impl FnMut(&mut Place, usize, Position, Option<&[u8]>),
    ) -> Result<()> {
        let times = state_column::<Int64Array>(columns, 1)?;
        let sources = state_column::<UInt16Array>(columns, 2)?;
        let partitions = state_column::<Int32Array>(columns, 3)?;
        let offsets = state_column::<Int64Array>(columns, 4)?;
        let values = self.order.encode(&columns[0])?;
        for (row, slot) in slots.iter().enumerate() {
            let position = (times.value(row), sources.value(row), partitions.value(row), offsets.value(row));
            let value = values.row(row);
            visit(self, *slot as usize, position, columns[0].is_valid(row).then_some(value.data()));
        }
        Ok(())
    }
}

impl Accumulator for Place {
    fn grow(&mut self, slots: usize) {
        self.values.resize_with(slots, Vec::new);
        self.known.resize(slots, false);
        self.positions.resize(slots, (0, 0, 0, 0));
    }

    fn reset(&mut self, slot: u32) {
        self.known[slot as usize] = false;
        self.positions[slot as usize] = (0, 0, 0, 0);
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let values = self.order.encode(&input.arg(&self.order.data_type)?)?;
        input.each(input.nulls().as_ref(), |row, slot, _| self.offer(slot, position(input.batch, row), values.row(row).data()));
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        self.rows(slots, columns, |place, slot, position, value| {
            if let Some(value) = value {
                place.offer(slot, position, value);
            }
        })
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        Ok(result(self.column(slots)?, &self.output)?.into())
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![
            ("value", self.order.data_type.clone()),
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
        self.rows(slots, columns, |place, slot, position, value| match value {
            Some(value) => place.set(slot, position, value),
            None => place.reset(slot as u32),
        })
    }

    fn size(&self) -> usize {
        self.values.iter().map(|value| value.capacity() + 49).sum()
    }
}

/// The same over rows that can be taken out again: every value is kept under its position.
pub struct PlaceOfBag {
    bags: Bags<(Position, Box<[u8]>)>,
    order: Order,
    output: DataType,
    last: bool,
}

impl PlaceOfBag {
    pub fn new(arg: DataType, output: DataType, last: bool) -> Result<PlaceOfBag> {
        Ok(PlaceOfBag { bags: Bags::new(), order: Order::new(arg)?, output, last })
    }

    fn add(&mut self, slot: usize, position: Position, value: &[u8], count: i64) {
        let key = (position, value.into());
        self.bags.add(slot, &key, count, || key.clone());
    }
}

impl Accumulator for PlaceOfBag {
    fn grow(&mut self, slots: usize) {
        self.bags.grow(slots);
    }

    fn reset(&mut self, slot: u32) {
        self.bags.reset(slot);
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let values = self.order.encode(&input.arg(&self.order.data_type)?)?;
        input.each(input.nulls().as_ref(), |row, slot, weight| {
            self.add(slot, position(input.batch, row), values.row(row).data(), weight.into());
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let (values, ranges) = lists(columns, 0)?;
        let times = list_values::<Int64Array>(columns, 1, &ranges)?;
        let sources = list_values::<UInt16Array>(columns, 2, &ranges)?;
        let partitions = list_values::<Int32Array>(columns, 3, &ranges)?;
        let offsets = list_values::<Int64Array>(columns, 4, &ranges)?;
        let counts = list_values::<Int64Array>(columns, 5, &ranges)?;
        let values = self.order.encode(values)?;
        for (slot, range) in slots.iter().zip(ranges) {
            for at in range {
                let position = (times.value(at), sources.value(at), partitions.value(at), offsets.value(at));
                self.add(*slot as usize, position, values.row(at).data(), counts.value(at));
            }
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        let values = slots.iter().map(|slot| self.bags.extreme(*slot, self.last).map(|(_, value)| &**value));
        Ok(result(self.order.decode(values)?, &self.output)?.into())
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![
            ("values", list_of(self.order.data_type.clone())),
            ("event_times", list_of(DataType::Int64)),
            ("sources", list_of(DataType::UInt16)),
            ("partitions", list_of(DataType::Int32)),
            ("offsets", list_of(DataType::Int64)),
            ("counts", list_of(DataType::Int64)),
        ]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let values = self.order.decode(self.bags.each(slots).map(|((_, value), _)| Some(&**value)))?;
        let positions = || self.bags.each(slots).map(|((position, _), _)| *position);
        Ok(vec![
            self.bags.lists(slots, values),
            self.bags.lists(slots, column(Int64Array::from_iter_values(positions().map(|p| p.0)))),
            self.bags.lists(slots, column(UInt16Array::from_iter_values(positions().map(|p| p.1)))),
            self.bags.lists(slots, column(Int32Array::from_iter_values(positions().map(|p| p.2)))),
            self.bags.lists(slots, column(Int64Array::from_iter_values(positions().map(|p| p.3)))),
            self.bags.counts(slots),
        ])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        slots.iter().for_each(|slot| self.bags.reset(*slot));
        self.merge(slots, columns)
    }

    fn size(&self) -> usize {
        self.bags.size(16)
    }
}
