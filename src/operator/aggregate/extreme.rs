//! MIN and MAX, BOOL_AND and BOOL_OR. NaN is above every other number, -0 below 0.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Date32Type, Date64Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};

use super::accumulator::{Accumulator, Evaluated, Input, column, pick, result, state_column};
use crate::error::{Error, Result};
use crate::operator::evaluate::broken;

/// `None` for types that have no order here.
pub fn accumulator(arg: &DataType, output: DataType, greatest: bool) -> Option<Box<dyn Accumulator>> {
    use DataType::*;
    fn boxed<T: ArrowPrimitiveType>(arg: &DataType, output: DataType, greatest: bool) -> Option<Box<dyn Accumulator>> {
        Some(Box::new(Extreme::<T>::new(arg.clone(), output, greatest)))
    }
    let make = match arg {
        Boolean => return boxed::<Int8Type>(&Int8, output, greatest),
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => {
            return Some(Box::new(ExtremeBytes::new(output, greatest)));
        }
        Int8 => boxed::<Int8Type>,
        Int16 => boxed::<Int16Type>,
        Int32 => boxed::<Int32Type>,
        Int64 => boxed::<Int64Type>,
        UInt8 => boxed::<UInt8Type>,
        UInt16 => boxed::<UInt16Type>,
        UInt32 => boxed::<UInt32Type>,
        UInt64 => boxed::<UInt64Type>,
        Float32 => boxed::<Float32Type>,
        Float64 => boxed::<Float64Type>,
        Decimal128(_, _) => boxed::<Decimal128Type>,
        Decimal256(_, _) => boxed::<Decimal256Type>,
        Date32 => boxed::<Date32Type>,
        Date64 => boxed::<Date64Type>,
        Time32(TimeUnit::Second) => boxed::<Time32SecondType>,
        Time32(TimeUnit::Millisecond) => boxed::<Time32MillisecondType>,
        Time64(TimeUnit::Microsecond) => boxed::<Time64MicrosecondType>,
        Time64(TimeUnit::Nanosecond) => boxed::<Time64NanosecondType>,
        Timestamp(TimeUnit::Second, _) => boxed::<TimestampSecondType>,
        Timestamp(TimeUnit::Millisecond, _) => boxed::<TimestampMillisecondType>,
        Timestamp(TimeUnit::Microsecond, _) => boxed::<TimestampMicrosecondType>,
        Timestamp(TimeUnit::Nanosecond, _) => boxed::<TimestampNanosecondType>,
        _ => return None,
    };
    make(arg, output, greatest)
}

struct Extreme<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    seen: Vec<bool>,
    /// Of the values and of the state.
    data_type: DataType,
    output: DataType,
    greatest: bool,
}

impl<T: ArrowPrimitiveType> Extreme<T> {
    fn new(data_type: DataType, output: DataType, greatest: bool) -> Extreme<T> {
        Extreme { values: Vec::new(), seen: Vec::new(), data_type, output, greatest }
    }

    #[inline]
    fn offer(&mut self, slot: usize, value: T::Native) {
        let known = self.values[slot];
        let better = if self.greatest { value.is_gt(known) } else { value.is_lt(known) };
        if better || !self.seen[slot] {
            self.values[slot] = value;
            self.seen[slot] = true;
        }
    }

    fn column(&self, slots: &[u32]) -> ArrayRef {
        let seen = pick(&self.seen, slots).into();
        column(PrimitiveArray::<T>::new(pick(&self.values, slots).into(), Some(seen)).with_data_type(self.data_type.clone()))
    }
}

impl<T: ArrowPrimitiveType> Accumulator for Extreme<T> {
    fn grow(&mut self, slots: usize) {
        self.values.resize(slots, T::Native::default());
        self.seen.resize(slots, false);
    }

    fn reset(&mut self, slot: u32) {
        self.seen[slot as usize] = false;
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let arg = one_nan(input.arg(&self.data_type)?);
        let arg = arg.as_primitive::<T>();
        let numbers = arg.values();
        input.each(arg.nulls(), |row, slot, _| self.offer(slot, numbers[row]));
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let values = state_column::<PrimitiveArray<T>>(columns, 0)?;
        for (row, slot) in slots.iter().enumerate().filter(|(row, _)| values.is_valid(*row)) {
            self.offer(*slot as usize, values.value(row));
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        Ok(result(self.column(slots), &self.output)?.into())
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("value", self.data_type.clone())]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.column(slots)])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let values = state_column::<PrimitiveArray<T>>(columns, 0)?;
        for (row, slot) in slots.iter().enumerate() {
            self.values[*slot as usize] = values.value(row);
            self.seen[*slot as usize] = values.is_valid(row);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }
}

/// One NaN, above all: machines differ in the sign of the NaN that they make.
pub fn one_nan(arg: ArrayRef) -> ArrayRef {
    match arg.data_type() {
        DataType::Float64 => {
            column(arg.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| if v.is_nan() { f64::NAN } else { v }))
        }
        DataType::Float32 => {
            column(arg.as_primitive::<Float32Type>().unary::<_, Float32Type>(|v| if v.is_nan() { f32::NAN } else { v }))
        }
        _ => arg,
    }
}

/// Text and bytes, by their bytes.
struct ExtremeBytes {
    values: Vec<Vec<u8>>,
    seen: Vec<bool>,
    output: DataType,
    greatest: bool,
}

impl ExtremeBytes {
    fn new(output: DataType, greatest: bool) -> ExtremeBytes {
        ExtremeBytes { values: Vec::new(), seen: Vec::new(), output, greatest }
    }

    fn column(&self, slots: &[u32]) -> BinaryArray {
        slots.iter().map(|slot| self.seen[*slot as usize].then_some(self.values[*slot as usize].as_slice())).collect()
    }

    fn offer(&mut self, slot: usize, value: &[u8]) {
        let held = self.values[slot].as_slice();
        if !self.seen[slot] || if self.greatest { value > held } else { value < held } {
            self.set(slot, value);
        }
    }

    fn set(&mut self, slot: usize, value: &[u8]) {
        self.values[slot].clear();
        self.values[slot].extend_from_slice(value);
        self.seen[slot] = true;
    }
}

impl Accumulator for ExtremeBytes {
    fn grow(&mut self, slots: usize) {
        self.values.resize_with(slots, Vec::new);
        self.seen.resize(slots, false);
    }

    fn reset(&mut self, slot: u32) {
        self.values[slot as usize].clear();
        self.seen[slot as usize] = false;
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let arg = match input.args[0].data_type() {
            DataType::Utf8 => column(BinaryArray::from(input.args[0].as_string::<i32>().clone())),
            DataType::Binary => input.args[0].clone(),
            _ => cast(&input.args[0], &DataType::Binary).map_err(|e| broken("an aggregate's argument", e))?,
        };
        let arg = arg.as_binary::<i32>();
        input.each(arg.nulls(), |row, slot, _| self.offer(slot, arg.value(row)));
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let values = state_column::<BinaryArray>(columns, 0)?;
        for (row, slot) in slots.iter().enumerate().filter(|(row, _)| values.is_valid(*row)) {
            self.offer(*slot as usize, values.value(row));
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        Ok(result(column(self.column(slots)), &self.output)?.into())
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("value", DataType::Binary)]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![column(self.column(slots))])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let values = state_column::<BinaryArray>(columns, 0)?;
        if values.len() < slots.len() {
            return Err(Error::corrupt("a state column is too short"));
        }
        for (row, slot) in slots.iter().enumerate() {
            self.reset(*slot);
            if values.is_valid(row) {
                self.set(*slot as usize, values.value(row));
            }
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.values.iter().map(|value| value.capacity() + 24).sum::<usize>() + self.seen.capacity()
    }
}
