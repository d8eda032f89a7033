//! One encoding of key values: equal values give equal bytes, whatever their column's width.
//!
//! It is part of what a changelog holds (key groups, distinct values), so it changes only with the format version, and never with
//! the version of a library. Each value is a tag, then its bytes:
//!
//! ```text
//! 0 null | 1 bool u8 | 2 integer i64 BE | 3 integer above i64 u64 BE | 4 double, -0 as 0, one NaN, bits BE
//! 5 text  u32 length, UTF-8 | 6 bytes  u32 length | 7 decimal  scale i8, i256 BE | 8 instant  i128 nanoseconds BE
//! 9 date  i32 days BE | 10 time of day  i64 nanoseconds BE | 11 list  u32 length, values | 12 struct  values
//! ```

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};
use xxhash_rust::xxh3::xxh3_64;

/// How many key groups there are: the unit in which state could be divided.
pub const KEY_GROUPS: u64 = 256;

/// Whether values of the type can be a key.
pub fn supports(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Null | Boolean | Float32 | Float64 | Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView
        | FixedSizeBinary(_) => true,
        Decimal128(_, _) | Decimal256(_, _) | Timestamp(_, _) | Date32 | Time32(_) | Time64(_) => true,
        List(field) => supports(field.data_type()),
        Struct(fields) => fields.iter().all(|field| supports(field.data_type())),
        other => other.is_integer(),
    }
}

/// The key group of every row.
pub fn key_groups(keys: &[ArrayRef], rows: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    (0..rows)
        .map(|row| {
            bytes.clear();
            for column in keys {
                encode(column, row, &mut bytes);
            }
            (xxh3_64(&bytes) % KEY_GROUPS) as u8
        })
        .collect()
}

/// Appends one value. The type must be [`supports`]ed.
pub fn encode(column: &dyn Array, row: usize, to: &mut Vec<u8>) {
    use DataType::*;
    if column.is_null(row) {
        return to.push(0);
    }
    match column.data_type() {
        Null => to.push(0),
        Boolean => to.extend([1, u8::from(column.as_boolean().value(row))]),
        Int8 => integer(column.as_primitive::<Int8Type>().value(row).into(), to),
        Int16 => integer(column.as_primitive::<Int16Type>().value(row).into(), to),
        Int32 => integer(column.as_primitive::<Int32Type>().value(row).into(), to),
        Int64 => integer(column.as_primitive::<Int64Type>().value(row), to),
        UInt8 => integer(column.as_primitive::<UInt8Type>().value(row).into(), to),
        UInt16 => integer(column.as_primitive::<UInt16Type>().value(row).into(), to),
        UInt32 => integer(column.as_primitive::<UInt32Type>().value(row).into(), to),
        UInt64 => match column.as_primitive::<UInt64Type>().value(row) {
            value if value <= i64::MAX as u64 => integer(value as i64, to),
            value => tagged(3, &value.to_be_bytes(), to),
        },
        Float32 => double(column.as_primitive::<Float32Type>().value(row).into(), to),
        Float64 => double(column.as_primitive::<Float64Type>().value(row), to),
        Utf8 => sized(5, column.as_string::<i32>().value(row).as_bytes(), to),
        LargeUtf8 => sized(5, column.as_string::<i64>().value(row).as_bytes(), to),
        Utf8View => sized(5, column.as_string_view().value(row).as_bytes(), to),
        Binary => sized(6, column.as_binary::<i32>().value(row), to),
        LargeBinary => sized(6, column.as_binary::<i64>().value(row), to),
        BinaryView => sized(6, column.as_binary_view().value(row), to),
        FixedSizeBinary(_) => sized(6, column.as_fixed_size_binary().value(row), to),
        Decimal128(_, scale) => decimal(i256::from_i128(column.as_primitive::<Decimal128Type>().value(row)), *scale, to),
        Decimal256(_, scale) => decimal(column.as_primitive::<Decimal256Type>().value(row), *scale, to),
        Timestamp(unit, _) => {
            let (value, nanos) = match unit {
                TimeUnit::Second => (column.as_primitive::<TimestampSecondType>().value(row), 1_000_000_000),
                TimeUnit::Millisecond => (column.as_primitive::<TimestampMillisecondType>().value(row), 1_000_000),
                TimeUnit::Microsecond => (column.as_primitive::<TimestampMicrosecondType>().value(row), 1_000),
                TimeUnit::Nanosecond => (column.as_primitive::<TimestampNanosecondType>().value(row), 1),
            };
            tagged(8, &(i128::from(value) * nanos).to_be_bytes(), to);
        }
        Date32 => tagged(9, &column.as_primitive::<Date32Type>().value(row).to_be_bytes(), to),
        Time32(TimeUnit::Second) => {
            time(i64::from(column.as_primitive::<Time32SecondType>().value(row)).wrapping_mul(1_000_000_000), to);
        }
        Time32(_) => time(i64::from(column.as_primitive::<Time32MillisecondType>().value(row)).wrapping_mul(1_000_000), to),
        Time64(TimeUnit::Microsecond) => {
            time(column.as_primitive::<Time64MicrosecondType>().value(row).wrapping_mul(1000), to);
        }
        Time64(_) => time(column.as_primitive::<Time64NanosecondType>().value(row), to),
        List(_) => {
            let values = column.as_list::<i32>().value(row);
            tagged(11, &(values.len() as u32).to_be_bytes(), to);
            for at in 0..values.len() {
                encode(&values, at, to);
            }
        }
        Struct(_) => {
            to.push(12);
            for field in column.as_struct().columns() {
                encode(field, row, to);
            }
        }
        other => unreachable!("keys of type {other} are refused before they reach here"),
    }
}

fn tagged(tag: u8, value: &[u8], to: &mut Vec<u8>) {
    to.push(tag);
    to.extend_from_slice(value);
}

fn sized(tag: u8, value: &[u8], to: &mut Vec<u8>) {
    tagged(tag, &(value.len() as u32).to_be_bytes(), to);
    to.extend_from_slice(value);
}

fn integer(value: i64, to: &mut Vec<u8>) {
    tagged(2, &value.to_be_bytes(), to);
}

fn double(value: f64, to: &mut Vec<u8>) {
    tagged(4, &one_zero_one_nan(value).to_bits().to_be_bytes(), to);
}

fn time(nanos: i64, to: &mut Vec<u8>) {
    tagged(10, &nanos.to_be_bytes(), to);
}

fn decimal(value: i256, scale: i8, to: &mut Vec<u8>) {
    to.extend([7, scale as u8]);
    to.extend(value.to_be_bytes());
}

/// SQL knows one zero and one NaN.
pub fn one_zero_one_nan(value: f64) -> f64 {
    if value.is_nan() {
        f64::NAN
    } else if value == 0.0 {
        0.0
    } else {
        value
    }
}
