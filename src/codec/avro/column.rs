//! A column being built: appended to value by value, cut back to a number of rows when a value turns out to be bad.

use arrow::array::{Array, ArrayData, ArrayRef, BooleanBuilder, NullArray, NullBufferBuilder, StructArray, make_array};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, i256};
use std::sync::Arc;

use super::cursor::Fault;
use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Column {
    data_type: DataType,
    /// `None`: the column is not nullable.
    nulls: Option<NullBufferBuilder>,
    pub values: Values,
}

#[derive(Debug)]
pub(crate) enum Values {
    Null(usize),
    Boolean(Vec<bool>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    I128(Vec<i128>),
    I256(Vec<i256>),
    Interval(Vec<IntervalMonthDayNano>),
    /// Text or bytes; `ends` starts with 0.
    Bytes {
        ends: Vec<i32>,
        bytes: Vec<u8>,
    },
    Fixed {
        size: usize,
        len: usize,
        bytes: Vec<u8>,
    },
    /// A list, or a map whose item is a struct of key and value; `ends` starts with 0.
    List {
        ends: Vec<i32>,
        item: Box<Column>,
    },
    Struct {
        len: usize,
        members: Vec<Column>,
    },
}

impl Column {
    /// `Failed` error: no values of this type come from Avro.
    pub fn new(field: &Field) -> Result<Column> {
        Column::within(field, false)
    }

    /// Members of a NULL struct are NULL themselves, whatever their field says: who reads a member does not look at its struct again.
    fn within(field: &Field, nullable_struct: bool) -> Result<Column> {
        let nullable = field.is_nullable() || nullable_struct;
        let values = match field.data_type() {
            DataType::Null => Values::Null(0),
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Int32 | DataType::Date32 | DataType::Time32(_) => Values::I32(Vec::new()),
            DataType::Int64 | DataType::Time64(_) | DataType::Timestamp(..) => Values::I64(Vec::new()),
            DataType::Float32 => Values::F32(Vec::new()),
            DataType::Float64 => Values::F64(Vec::new()),
            DataType::Decimal128(..) => Values::I128(Vec::new()),
            DataType::Decimal256(..) => Values::I256(Vec::new()),
            DataType::Interval(_) => Values::Interval(Vec::new()),
            DataType::Utf8 | DataType::Binary => Values::Bytes { ends: vec![0], bytes: Vec::new() },
            DataType::FixedSizeBinary(size) => Values::Fixed { size: *size as usize, len: 0, bytes: Vec::new() },
            DataType::List(item) | DataType::Map(item, _) => Values::List { ends: vec![0], item: Box::new(Column::new(item)?) },
            DataType::Struct(members) => Values::Struct {
                len: 0,
                members: members.iter().map(|member| Column::within(member, nullable)).collect::<Result<_>>()?,
            },
            other => return Err(Error::failed(format!("column \"{}\": Avro has no values of type {other}", field.name()))),
        };
        let nulls = nullable.then(|| NullBufferBuilder::new(0));
        Ok(Column { data_type: field.data_type().clone(), nulls, values })
    }

    /// To be called after a value was appended to `values`.
    #[inline]
    pub fn set(&mut self) {
        if let Some(nulls) = &mut self.nulls {
            nulls.append_non_null();
        }
    }

    /// Appends NULL (or, below a NULL struct, something in its place).
    pub fn push_null(&mut self) {
        if let Some(nulls) = &mut self.nulls {
            nulls.append_null();
        }
        self.values.push_nothing();
    }

    /// Forgets all but the first `rows` values, and half a value behind them.
    pub fn truncate(&mut self, rows: usize) {
        if let Some(nulls) = &mut self.nulls {
            nulls.truncate(rows);
        }
        self.values.truncate(rows);
    }

    /// The array, leaving an empty column with room for as much again.
    pub fn finish(&mut self, rows: usize) -> Result<ArrayRef> {
        let nulls = self.nulls.as_mut().and_then(NullBufferBuilder::finish);
        self.values.finish(&self.data_type, rows, nulls)
    }
}

impl Values {
    fn push_nothing(&mut self) {
        match self {
            Values::Null(len) => *len += 1,
            Values::Boolean(values) => values.push(false),
            Values::I32(values) => values.push(0),
            Values::I64(values) => values.push(0),
            Values::F32(values) => values.push(0.0),
            Values::F64(values) => values.push(0.0),
            Values::I128(values) => values.push(0),
            Values::I256(values) => values.push(i256::ZERO),
            Values::Interval(values) => values.push(IntervalMonthDayNano::ZERO),
            Values::Bytes { ends, .. } | Values::List { ends, .. } => ends.push(*ends.last().expect("starts with 0")),
            Values::Fixed { size, len, bytes } => {
                *len += 1;
                bytes.resize(*len * *size, 0);
            }
            Values::Struct { len, members } => {
                *len += 1;
                members.iter_mut().for_each(Column::push_null);
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        match self {
            Values::Null(len) => *len = (*len).min(rows),
            Values::Boolean(values) => values.truncate(rows),
            Values::I32(values) => values.truncate(rows),
            Values::I64(values) => values.truncate(rows),
            Values::F32(values) => values.truncate(rows),
            Values::F64(values) => values.truncate(rows),
            Values::I128(values) => values.truncate(rows),
            Values::I256(values) => values.truncate(rows),
            Values::Interval(values) => values.truncate(rows),
            Values::Bytes { ends, bytes } => {
                ends.truncate(rows + 1);
                bytes.truncate(*ends.last().expect("starts with 0") as usize);
            }
            Values::Fixed { size, len, bytes } => {
                *len = (*len).min(rows);
                bytes.truncate(*len * *size);
            }
            Values::List { ends, item } => {
                ends.truncate(rows + 1);
                item.truncate(*ends.last().expect("starts with 0") as usize);
            }
            Values::Struct { len, members } => {
                *len = (*len).min(rows);
                members.iter_mut().for_each(|member| member.truncate(rows));
            }
        }
    }

    fn finish(&mut self, of: &DataType, rows: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        match self {
            Values::Null(len) => {
                *len = 0;
                Ok(Arc::new(NullArray::new(rows)))
            }
            Values::Boolean(values) => {
                let mut builder = BooleanBuilder::with_capacity(rows);
                builder.append_slice(values);
                values.clear();
                let data = builder.finish().into_data().into_builder().nulls(nulls);
                Ok(make_array(data.build().map_err(broken)?))
            }
            Values::I32(values) => array(of, rows, nulls, vec![drain(values)], vec![]),
            Values::I64(values) => array(of, rows, nulls, vec![drain(values)], vec![]),
            Values::F32(values) => array(of, rows, nulls, vec![drain(values)], vec![]),
            Values::F64(values) => array(of, rows, nulls, vec![drain(values)], vec![]),
            Values::I128(values) => array(of, rows, nulls, vec![drain(values)], vec![]),
            Values::I256(values) => array(of, rows, nulls, vec![drain(values)], vec![]),
            Values::Interval(values) => array(of, rows, nulls, vec![drain(values)], vec![]),
            Values::Bytes { ends, bytes } => array(of, rows, nulls, vec![drain_ends(ends), drain(bytes)], vec![]),
            Values::Fixed { len, bytes, .. } => {
                *len = 0;
                array(of, rows, nulls, vec![drain(bytes)], vec![])
            }
            Values::List { ends, item } => {
                let items = *ends.last().expect("starts with 0") as usize;
                let item = item.finish(items)?;
                array(of, rows, nulls, vec![drain_ends(ends)], vec![item.to_data()])
            }
            Values::Struct { len, members } => {
                *len = 0;
                let arrays = members.iter_mut().map(|member| member.finish(rows)).collect::<Result<Vec<_>>>()?;
                let DataType::Struct(fields) = of else { unreachable!("a struct column has struct values") };
                let made = StructArray::try_new_with_length(fields.clone(), arrays, nulls, rows);
                Ok(Arc::new(made.map_err(broken)?))
            }
        }
    }

    #[inline]
    pub fn push_bytes(&mut self, value: &[u8]) -> Result<(), Fault> {
        let Values::Bytes { ends, bytes } = self else { unreachable!("the plan fits its column") };
        bytes.extend_from_slice(value);
        ends.push(end(bytes.len())?);
        Ok(())
    }
}

/// An offset within a column.
#[inline]
pub(crate) fn end(len: usize) -> Result<i32, Fault> {
    i32::try_from(len).map_err(|_| Fault::new("more than 2 GiB in one column"))
}

fn drain<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> Buffer {
    let room = Vec::with_capacity(values.len());
    Buffer::from_vec(std::mem::replace(values, room))
}

fn drain_ends(ends: &mut Vec<i32>) -> Buffer {
    let mut room = Vec::with_capacity(ends.len());
    room.push(0);
    Buffer::from_vec(std::mem::replace(ends, room))
}

fn array(
    of: &DataType,
    rows: usize,
    nulls: Option<NullBuffer>,
    buffers: Vec<Buffer>,
    children: Vec<ArrayData>,
) -> Result<ArrayRef> {
    let data = ArrayData::builder(of.clone()).len(rows).nulls(nulls).buffers(buffers).child_data(children);
    Ok(make_array(data.build().map_err(broken)?))
}

fn broken(e: arrow::error::ArrowError) -> Error {
    Error::failed(format!("decoded column is broken: {e}"))
}
