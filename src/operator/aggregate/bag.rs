//! Values with counts, by slot: what an aggregate keeps whose rows can be taken out again.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, Int64Array, ListArray, new_empty_array, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use arrow::row::{RowConverter, Rows, SortField};

use super::accumulator::{column, state_column};
use crate::error::{Error, Result};
use crate::operator::evaluate::broken;

/// Values of one type as bytes that sort as the values do.
pub struct Order {
    converter: RowConverter,
    null: Rows,
    pub data_type: DataType,
}

impl Order {
    /// # Errors
    /// A type without an order.
    pub fn new(data_type: DataType) -> Result<Order> {
        let converter = RowConverter::new(vec![SortField::new(data_type.clone())]);
        let converter = converter.map_err(|e| Error::config(format!("values of type {data_type}: {e}")))?;
        let null = converter.convert_columns(&[new_null_array(&data_type, 1)]).map_err(|e| broken("values as bytes", e))?;
        Ok(Order { converter, null, data_type })
    }

    pub fn encode(&self, values: &ArrayRef) -> Result<Rows> {
        self.converter.convert_columns(std::slice::from_ref(values)).map_err(|e| broken("values as bytes", e))
    }

    pub fn decode<'a>(&'a self, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<ArrayRef> {
        let parser = self.converter.parser();
        let rows = values.map(|value| parser.parse(value.unwrap_or(self.null.row(0).data())));
        let mut columns = self.converter.convert_rows(rows).map_err(|e| broken("values of bytes", e))?;
        Ok(columns.pop().unwrap_or_else(|| new_empty_array(&self.data_type)))
    }
}

/// A multiset of values for every slot. A count below zero is a value whose retraction came first.
pub struct Bags<K> {
    pub slots: Vec<BTreeMap<K, i64>>,
    values: usize,
}

impl<K: Ord> Bags<K> {
    pub fn new() -> Bags<K> {
        Bags { slots: Vec::new(), values: 0 }
    }

    pub fn grow(&mut self, slots: usize) {
        self.slots.resize_with(slots, BTreeMap::new);
        if slots == 0 {
            self.values = 0;
        }
    }

    pub fn reset(&mut self, slot: u32) {
        self.values -= std::mem::take(&mut self.slots[slot as usize]).len();
    }

    pub fn add<Q: Ord + ?Sized>(&mut self, slot: usize, value: &Q, count: i64, owned: impl FnOnce() -> K)
    where
        K: std::borrow::Borrow<Q>,
    {
        let bag = &mut self.slots[slot];
        match bag.get_mut(value) {
            Some(known) => {
                *known += count;
                if *known == 0 {
                    bag.remove(value);
                    self.values -= 1;
                }
            }
            None if count == 0 => {}
            None => {
                bag.insert(owned(), count);
                self.values += 1;
            }
        }
    }

    /// The least or the greatest value that is there.
    pub fn extreme(&self, slot: u32, greatest: bool) -> Option<&K> {
        let mut there = self.slots[slot as usize].iter().filter(|(_, count)| **count > 0);
        if greatest { there.next_back().map(|(key, _)| key) } else { there.next().map(|(key, _)| key) }
    }

    /// Every value of the slots with its count, slot by slot.
    pub fn each<'a>(&'a self, slots: &'a [u32]) -> impl Iterator<Item = (&'a K, i64)> {
        slots.iter().flat_map(|slot| self.slots[*slot as usize].iter().map(|(key, count)| (key, *count)))
    }

    /// Lists, one per slot, of something of every value.
    pub fn lists(&self, slots: &[u32], values: ArrayRef) -> ArrayRef {
        let offsets = OffsetBuffer::from_lengths(slots.iter().map(|slot| self.slots[*slot as usize].len()));
        let field = Field::new_list_field(values.data_type().clone(), true).into();
        column(ListArray::new(field, offsets, values, None))
    }

    pub fn counts(&self, slots: &[u32]) -> ArrayRef {
        self.lists(slots, column(Int64Array::from_iter_values(self.each(slots).map(|(_, count)| count))))
    }

    /// Estimated memory in bytes, for values of about `bytes` bytes.
    pub fn size(&self, bytes: usize) -> usize {
        self.values * (size_of::<K>() + 16 + bytes) + self.slots.capacity() * size_of::<BTreeMap<K, i64>>()
    }
}

/// The type of a list in the state.
pub fn list_of(data_type: DataType) -> DataType {
    DataType::List(Field::new_list_field(data_type, true).into())
}

/// The state's lists at `at`: all their values, and where each list begins and ends among them.
pub fn lists(columns: &[ArrayRef], at: usize) -> Result<(&ArrayRef, Vec<std::ops::Range<usize>>)> {
    let lists = state_column::<ListArray>(columns, at)?;
    let offsets = lists.value_offsets();
    Ok((lists.values(), (0..lists.len()).map(|row| offsets[row] as usize..offsets[row + 1] as usize).collect()))
}

/// The values of the state's lists at `at`, which have to be as long as those of `ranges`.
pub fn list_values<'a, A: Array + 'static>(columns: &'a [ArrayRef], at: usize, like: &[std::ops::Range<usize>]) -> Result<&'a A> {
    let (values, ranges) = lists(columns, at)?;
    let values = values.as_any().downcast_ref::<A>().filter(|_| ranges == like);
    values.ok_or_else(|| Error::corrupt("the lists of a state differ in length or type"))
}
