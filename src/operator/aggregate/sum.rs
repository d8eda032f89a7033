//! SUM and AVG: integers and decimals exactly, doubles in order of arrival or exactly.

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Decimal256Array, Float64Array, Int64Array, ListArray, ListBuilder,
};
use arrow::array::{Float64Builder, UInt64Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Field, Float64Type, Int64Type, UInt64Type, i256};

use super::accumulator::{Accumulator, Evaluated, Input, column, counted, pick, result, state_column};
use super::expansion::Expansion;
use crate::error::{Error, Result};

const OVERFLOW: &str = "overflow";

/// Sums of integers in 128 bits, checked against the result's range when read. A mean of integers as an integer is cut towards
/// zero, as Flink has it.
pub struct SumInteger {
    sums: Vec<i128>,
    counts: Vec<i64>,
    output: DataType,
    mean: bool,
}

impl SumInteger {
    pub fn new(output: DataType, mean: bool) -> SumInteger {
        SumInteger { sums: Vec::new(), counts: Vec::new(), output, mean }
    }
}

impl Accumulator for SumInteger {
    fn grow(&mut self, slots: usize) {
        self.sums.resize(slots, 0);
        self.counts.resize(slots, 0);
    }

    fn reset(&mut self, slot: u32) {
        self.sums[slot as usize] = 0;
        self.counts[slot as usize] = 0;
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let (sums, counts) = (&mut self.sums, &mut self.counts);
        let mut add = |slot: usize, value: i128, weight: i8| {
            sums[slot] += value * i128::from(weight);
            counts[slot] += i64::from(weight);
        };
        if let Some(values) = input.args[0].as_primitive_opt::<UInt64Type>() {
            let numbers = values.values();
            input.each(values.nulls(), |row, slot, weight| add(slot, numbers[row].into(), weight));
            return Ok(());
        }
        let values = input.arg(&DataType::Int64)?;
        let values = values.as_primitive::<Int64Type>();
        let numbers = values.values();
        input.each(values.nulls(), |row, slot, weight| add(slot, numbers[row].into(), weight));
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let sums = state_column::<Decimal128Array>(columns, 0)?;
        let counts = state_column::<Int64Array>(columns, 1)?;
        for (row, slot) in slots.iter().enumerate() {
            self.sums[*slot as usize] += sums.value(row);
            self.counts[*slot as usize] += counts.value(row);
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        let nulls = counted(&self.counts, slots, 1);
        if self.mean && self.output.is_floating() {
            let mean = |slot: &u32| self.sums[*slot as usize] as f64 / self.counts[*slot as usize] as f64;
            let means = Float64Array::new(slots.iter().map(mean).collect(), Some(nulls));
            return Ok(result(column(means), &self.output)?.into());
        }
        let (low, high) = integer_range(&self.output);
        let mut failures = Vec::new();
        let results: Vec<Option<i128>> = slots
            .iter()
            .enumerate()
            .map(|(at, slot)| {
                let (sum, count) = (self.sums[*slot as usize], self.counts[*slot as usize]);
                let value = if self.mean && count > 0 { sum / i128::from(count) } else { sum };
                if count > 0 && !(low..=high).contains(&value) {
                    failures.push((at, OVERFLOW));
                    return None;
                }
                (count > 0).then_some(value)
            })
            .collect();
        let results = match self.output {
            DataType::UInt64 => column(results.into_iter().map(|v| v.map(|v| v as u64)).collect::<UInt64Array>()),
            _ => column(results.into_iter().map(|v| v.map(|v| v as i64)).collect::<Int64Array>()),
        };
        Ok(Evaluated { column: result(results, &self.output)?, failures })
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("sum", DataType::Decimal128(38, 0)), ("count", DataType::Int64)]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        // The type serves as 128 bits: a sum of 64-bit integers has fewer than 38 digits.
        let sums = Decimal128Array::from(pick(&self.sums, slots)).with_data_type(DataType::Decimal128(38, 0));
        Ok(vec![column(sums), column(Int64Array::from(pick(&self.counts, slots)))])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let sums = state_column::<Decimal128Array>(columns, 0)?;
        let counts = state_column::<Int64Array>(columns, 1)?;
        for (row, slot) in slots.iter().enumerate() {
            self.sums[*slot as usize] = sums.value(row);
            self.counts[*slot as usize] = counts.value(row);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.sums.capacity() * 16 + self.counts.capacity() * 8
    }
}

fn integer_range(output: &DataType) -> (i128, i128) {
    match output {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        DataType::UInt64 => (0, u64::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    }
}

/// Sums of decimals in 256 bits, checked against the result's precision when read; a mean is rounded half away from zero.
pub struct SumDecimal {
    sums: Vec<i256>,
    counts: Vec<i64>,
    output: DataType,
    /// 10 to the result's precision: what a result stays below.
    bound: i256,
    /// 10 to the digits that the result's scale has more than the argument's.
    shift: i256,
    mean: bool,
}

impl SumDecimal {
    /// `None` when sums could pass 256 bits, or when the result has fewer digits after the point than the argument.
    pub fn new(arg: &DataType, output: DataType, mean: bool) -> Option<SumDecimal> {
        let scaled = |t: &DataType| match t {
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => Some((*precision, *scale)),
            _ => None,
        };
        let (arg_precision, arg_scale) = scaled(arg)?;
        let (precision, scale) = scaled(&output)?;
        let more = u32::try_from(i32::from(scale) - i32::from(arg_scale)).ok()?;
        // 10^57 * 10^18 rows is below 2^255.
        if arg_precision > 57 || u32::from(arg_precision) + more > 57 {
            return None;
        }
        let ten = i256::from_i128(10);
        let (bound, shift) = (ten.checked_pow(precision.into())?, ten.checked_pow(more)?);
        Some(SumDecimal { sums: Vec::new(), counts: Vec::new(), output, bound, shift, mean })
    }

    fn read(&self, slot: usize) -> i256 {
        let sum = self.sums[slot].wrapping_mul(self.shift);
        if !self.mean {
            return sum;
        }
        let count = i256::from_i128(self.counts[slot].into());
        let (quotient, rest) = (sum.wrapping_div(count), sum.wrapping_rem(count));
        match rest.wrapping_abs().wrapping_mul(i256::from_i128(2)) >= count {
            true if sum.is_negative() => quotient.wrapping_sub(i256::ONE),
            true => quotient.wrapping_add(i256::ONE),
            false => quotient,
        }
    }
}

impl Accumulator for SumDecimal {
    fn grow(&mut self, slots: usize) {
        self.sums.resize(slots, i256::ZERO);
        self.counts.resize(slots, 0);
    }

    fn reset(&mut self, slot: u32) {
        self.sums[slot as usize] = i256::ZERO;
        self.counts[slot as usize] = 0;
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let (sums, counts) = (&mut self.sums, &mut self.counts);
        let mut add = |slot: usize, value: i256, weight: i8| {
            sums[slot] = if weight < 0 { sums[slot].wrapping_sub(value) } else { sums[slot].wrapping_add(value) };
            counts[slot] += i64::from(weight);
        };
        if let Some(values) = input.args[0].as_primitive_opt::<Decimal128Type>() {
            let numbers = values.values();
            input.each(values.nulls(), |row, slot, weight| add(slot, i256::from_i128(numbers[row]), weight));
        } else {
            let values = input.args[0].as_primitive::<Decimal256Type>();
            let numbers = values.values();
            input.each(values.nulls(), |row, slot, weight| add(slot, numbers[row], weight));
        }
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let sums = state_column::<Decimal256Array>(columns, 0)?;
        let counts = state_column::<Int64Array>(columns, 1)?;
        for (row, slot) in slots.iter().enumerate() {
            let sum = &mut self.sums[*slot as usize];
            *sum = sum.wrapping_add(sums.value(row));
            self.counts[*slot as usize] += counts.value(row);
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        let mut failures = Vec::new();
        let values = slots.iter().enumerate().map(|(at, slot)| {
            let slot = *slot as usize;
            let value = if self.counts[slot] > 0 { self.read(slot) } else { return None };
            if value.wrapping_abs() >= self.bound {
                failures.push((at, OVERFLOW));
                return None;
            }
            Some(value)
        });
        let values: Vec<Option<i256>> = values.collect();
        let results = match self.output {
            DataType::Decimal128(_, _) => {
                let values = values.into_iter().map(|v| v.map(i256::as_i128));
                column(values.collect::<Decimal128Array>().with_data_type(self.output.clone()))
            }
            _ => column(values.into_iter().collect::<Decimal256Array>().with_data_type(self.output.clone())),
        };
        Ok(Evaluated { column: results, failures })
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("sum", DataType::Decimal256(76, 0)), ("count", DataType::Int64)]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let sums = ScalarBuffer::from(pick(&self.sums, slots));
        let sums = Decimal256Array::new(sums, None).with_data_type(DataType::Decimal256(76, 0));
        Ok(vec![column(sums), column(Int64Array::from(pick(&self.counts, slots)))])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let sums = state_column::<Decimal256Array>(columns, 0)?;
        let counts = state_column::<Int64Array>(columns, 1)?;
        for (row, slot) in slots.iter().enumerate() {
            self.sums[*slot as usize] = sums.value(row);
            self.counts[*slot as usize] = counts.value(row);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.sums.capacity() * 32 + self.counts.capacity() * 8
    }
}

/// Sums of doubles in order of arrival: where all rows of a group come from one source partition.
pub struct SumDouble {
    sums: Vec<f64>,
    counts: Vec<i64>,
    output: DataType,
    mean: bool,
}

impl SumDouble {
    pub fn new(output: DataType, mean: bool) -> SumDouble {
        SumDouble { sums: Vec::new(), counts: Vec::new(), output, mean }
    }
}

impl Accumulator for SumDouble {
    fn grow(&mut self, slots: usize) {
        self.sums.resize(slots, 0.0);
        self.counts.resize(slots, 0);
    }

    fn reset(&mut self, slot: u32) {
        self.sums[slot as usize] = 0.0;
        self.counts[slot as usize] = 0;
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let values = input.arg(&DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let (numbers, sums, counts) = (values.values(), &mut self.sums, &mut self.counts);
        input.each(values.nulls(), |row, slot, _| {
            sums[slot] += numbers[row];
            counts[slot] += 1;
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let sums = state_column::<Float64Array>(columns, 0)?;
        let counts = state_column::<Int64Array>(columns, 1)?;
        for (row, slot) in slots.iter().enumerate() {
            self.sums[*slot as usize] += sums.value(row);
            self.counts[*slot as usize] += counts.value(row);
        }
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        let sum = |slot: &u32| self.sums[*slot as usize];
        doubles(slots, sum, &self.counts, self.mean, &self.output)
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("sum", DataType::Float64), ("count", DataType::Int64)]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let sums = Float64Array::from(pick(&self.sums, slots));
        Ok(vec![column(sums), column(Int64Array::from(pick(&self.counts, slots)))])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let sums = state_column::<Float64Array>(columns, 0)?;
        let counts = state_column::<Int64Array>(columns, 1)?;
        for (row, slot) in slots.iter().enumerate() {
            self.sums[*slot as usize] = sums.value(row);
            self.counts[*slot as usize] = counts.value(row);
        }
        Ok(())
    }

    fn size(&self) -> usize {
        self.sums.capacity() * 8 + self.counts.capacity() * 8
    }
}

fn doubles(slots: &[u32], sum: impl Fn(&u32) -> f64, counts: &[i64], mean: bool, output: &DataType) -> Result<Evaluated> {
    let read = |slot: &u32| if mean { sum(slot) / counts[*slot as usize] as f64 } else { sum(slot) };
    let values = Float64Array::new(slots.iter().map(read).collect(), Some(counted(counts, slots, 1)));
    Ok(result(column(values), output)?.into())
}

/// Exact sums of doubles: where rows of several partitions meet, or rows can be retracted.
pub struct SumExact {
    sums: Vec<Expansion>,
    counts: Vec<i64>,
    output: DataType,
    mean: bool,
}

impl SumExact {
    pub fn new(output: DataType, mean: bool) -> SumExact {
        SumExact { sums: Vec::new(), counts: Vec::new(), output, mean }
    }
}

impl Accumulator for SumExact {
    fn grow(&mut self, slots: usize) {
        self.sums.resize_with(slots, Expansion::default);
        self.counts.resize(slots, 0);
    }

    fn reset(&mut self, slot: u32) {
        self.sums[slot as usize] = Expansion::default();
        self.counts[slot as usize] = 0;
    }

    fn update(&mut self, input: &Input) -> Result<()> {
        let values = input.arg(&DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let (numbers, sums, counts) = (values.values(), &mut self.sums, &mut self.counts);
        input.each(values.nulls(), |row, slot, weight| {
            sums[slot].add(numbers[row], weight);
            counts[slot] += i64::from(weight);
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        merge_expansions(&mut self.sums, slots, columns, 0)?;
        let counts = state_column::<Int64Array>(columns, 1)?;
        slots.iter().zip(counts.values()).for_each(|(slot, count)| self.counts[*slot as usize] += *count);
        Ok(())
    }

    fn evaluate(&self, slots: &[u32]) -> Result<Evaluated> {
        doubles(slots, |slot| self.sums[*slot as usize].value(), &self.counts, self.mean, &self.output)
    }

    fn fields(&self) -> Vec<(&'static str, DataType)> {
        vec![("sum", expansion_type()), ("count", DataType::Int64)]
    }

    fn export(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![export_expansions(&self.sums, slots), column(Int64Array::from(pick(&self.counts, slots)))])
    }

    fn import(&mut self, slots: &[u32], columns: &[ArrayRef]) -> Result<()> {
        import_expansions(&mut self.sums, slots, columns, 0)?;
        let counts = state_column::<Int64Array>(columns, 1)?;
        slots.iter().zip(counts.values()).for_each(|(slot, count)| self.counts[*slot as usize] = *count);
        Ok(())
    }

    fn size(&self) -> usize {
        let parts: usize = self.sums.iter().map(Expansion::size).sum();
        parts + self.sums.capacity() * size_of::<Expansion>() + self.counts.capacity() * 8
    }
}

pub fn expansion_type() -> DataType {
    DataType::List(Field::new_list_field(DataType::Float64, true).into())
}

pub fn export_expansions(sums: &[Expansion], slots: &[u32]) -> ArrayRef {
    let mut lists = ListBuilder::new(Float64Builder::new());
    let mut doubles = Vec::new();
    for slot in slots {
        doubles.clear();
        sums[*slot as usize].write(&mut doubles);
        lists.values().append_slice(&doubles);
        lists.append(true);
    }
    column(lists.finish())
}

pub fn import_expansions(sums: &mut [Expansion], slots: &[u32], columns: &[ArrayRef], at: usize) -> Result<()> {
    slots.iter().for_each(|slot| sums[*slot as usize] = Expansion::default());
    merge_expansions(sums, slots, columns, at)
}

pub fn merge_expansions(sums: &mut [Expansion], slots: &[u32], columns: &[ArrayRef], at: usize) -> Result<()> {
    let lists = state_column::<ListArray>(columns, at)?;
    for (row, slot) in slots.iter().enumerate() {
        let doubles = lists.value(row);
        let doubles = doubles.as_primitive_opt::<Float64Type>().map(|doubles| doubles.values());
        let sum = doubles.and_then(|doubles| Expansion::read(doubles));
        sums[*slot as usize].merge(sum.ok_or_else(|| Error::corrupt("a state of an exact sum is malformed"))?);
    }
    Ok(())
}
