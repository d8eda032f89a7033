//! Columns to framed Avro values.
//!
//! A batch's columns are first brought to the types that the schema's fields have as columns (`Int8` to `Int32`, a dictionary to
//! text); what does not fit there, or not into its Avro type, makes its row bad, and only that row.

use std::collections::HashMap;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Decimal256Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, IntervalMonthDayNanoArray, ListArray, MapArray, RecordBatch, StringArray, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Int32Type, Int64Type, SchemaRef, Time32MillisecondType, Time64MicrosecondType,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, i256,
};

use super::cursor::Fault;
use super::number::{fits, parse_uuid, too_precise, write_bytes, write_decimal, write_interval, write_long};
use crate::codec::wire::frame;
use crate::codec::{BadValue, Encoded};
use crate::contract::tree::{Kind, Logical, NodeId, Tree};
use crate::contract::{AvroSchema, SchemaId};
use crate::error::{BadClass, Error, Result};
use crate::record::Bytes;

/// Encodes rows under one registered schema.
#[derive(Debug)]
pub struct AvroEncoder {
    id: SchemaId,
    columns: Vec<FieldPlan>,
    /// Bytes of a value so far, for the next batch's arena.
    value_size: usize,
}

/// How one column becomes one field.
#[derive(Debug)]
struct FieldPlan {
    name: String,
    /// The column in the batch.
    column: usize,
    data_type: DataType,
    op: Op,
}

/// How one value is written.
#[derive(Debug)]
enum Op {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed,
    UuidFixed,
    Decimal {
        size: Option<usize>,
        precision: u8,
    },
    Duration,
    Enum(HashMap<String, i64>),
    Array(Box<Op>),
    Map(Box<Op>),
    Record(Vec<(String, Op)>),
    /// A union of null and one type: the branch of null, the other's, and how the other is written.
    Nullable {
        null: i64,
        value: i64,
        op: Box<Op>,
    },
    /// Any other union, from a struct of its types: the branch of null, and each member's branch.
    Union {
        null: Option<i64>,
        members: Vec<(i64, Op)>,
    },
}

impl AvroEncoder {
    /// `rows` must have a column for every field of the schema, by name. `Contract` error naming the field: there is none, or its
    /// type does not become the field's. A schema that is not a record takes the only column.
    pub fn new(schema: &AvroSchema, id: SchemaId, rows: &SchemaRef) -> Result<AvroEncoder> {
        let tree = schema.tree()?;
        let natural = tree.columns("value")?;
        let mut columns = Vec::with_capacity(natural.fields().len());
        for (field, node) in natural.fields().iter().zip(tree.column_nodes()) {
            let (name, of) = (field.name(), field.data_type());
            let column = match tree.fields() {
                None if rows.fields().len() == 1 => 0,
                _ => rows.index_of(name).map_err(|_| {
                    Error::contract(format!("field \"{name}\" of the schema has no column of that name"))
                        .hint("select it under that name, or register a schema without it")
                })?,
            };
            let given = rows.field(column).data_type();
            if given != of && !(can_cast_types(given, of) && becomes(given, of)) {
                let wants = tree.describe(node);
                return Err(Error::contract(format!("field \"{name}\": the column has type {given}, the schema has {wants}"))
                    .hint("cast the column, or let the schema be derived"));
            }
            columns.push(FieldPlan { name: name.clone(), column, data_type: of.clone(), op: op(&tree, node) });
        }
        Ok(AvroEncoder { id, columns, value_size: 32 })
    }

    /// `Failed` error: the batch does not have the schema that was given to `new`.
    pub fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        let count = rows.num_rows();
        let mut misfits: Vec<(usize, String)> = Vec::new();
        let mut arrays = Vec::with_capacity(self.columns.len());
        for plan in &self.columns {
            arrays.push(bring(plan, rows.column(plan.column), &mut misfits)?);
        }
        let sources = arrays.iter().zip(&self.columns).map(|(array, plan)| Source::new(array.as_ref(), &plan.op));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        misfits.sort();
        let mut misfits = misfits.into_iter().peekable();
        let mut out = Encoded { values: Bytes::with_capacity(count, count * self.value_size), ..Encoded::default() };
        out.kept.reserve(count);
        let frame = frame(self.id);
        let mut scratch = Vec::new();
        for row in 0..count {
            let number = row as u32;
            let mut misfit = None;
            while let Some((_, why)) = misfits.next_if(|(at, _)| *at == row) {
                misfit.get_or_insert(why);
            }
            let written = match misfit {
                Some(why) => Err(why),
                None => {
                    scratch.clear();
                    scratch.extend_from_slice(&frame);
                    let mut fields = sources.iter().zip(&self.columns);
                    let written =
                        fields.try_for_each(|(source, plan)| source.write(row, &mut scratch).map_err(|e| e.within(&plan.name)));
                    written.map_err(|fault| fault.to_string())
                }
            };
            match written {
                Ok(()) => {
                    out.values.push_with(|arena| arena.extend_from_slice(&scratch));
                    out.kept.push(number);
                }
                Err(message) => {
                    out.bad.push(BadValue { row: number, class: BadClass::Expression, message, schema_id: Some(self.id.into()) });
                }
            }
        }
        if !out.kept.is_empty() {
            self.value_size = out.values.size() / out.kept.len() + 1;
        }
        Ok(out)
    }
}

/// Casts that keep the value or fail on it. Arrow would also turn numbers into text and instants into dates.
fn becomes(given: &DataType, of: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Date32, Decimal128, Decimal256, Float16, Float32, Float64, LargeBinary, LargeUtf8, Utf8, Utf8View,
    };
    match (given, of) {
        (DataType::Null, _) => true,
        (DataType::Dictionary(_, values), _) => **values == *of || becomes(values, of),
        (Utf8 | LargeUtf8 | Utf8View, Utf8) | (Binary | LargeBinary | BinaryView | DataType::FixedSizeBinary(_), Binary) => true,
        (Binary | LargeBinary | BinaryView, DataType::FixedSizeBinary(_)) => true,
        (given, DataType::Int32 | DataType::Int64) if given.is_integer() => true,
        (given, Float32 | Float64) if given.is_integer() => true,
        (Float16, Float32 | Float64) | (Float32, Float64) | (Float64, Float32) | (DataType::Date64, Date32) => true,
        (Decimal128(_, from) | Decimal256(_, from), Decimal128(_, to) | Decimal256(_, to)) => from <= to,
        (given, Decimal128(..) | Decimal256(..)) if given.is_integer() => true,
        (DataType::Timestamp(_, from), DataType::Timestamp(_, to)) => from.is_some() == to.is_some(),
        (DataType::Time32(_) | DataType::Time64(_), DataType::Time32(_) | DataType::Time64(_)) => true,
        (
            DataType::List(from) | DataType::LargeList(from) | DataType::FixedSizeList(from, _) | DataType::Map(from, _),
            DataType::List(to) | DataType::Map(to, _),
        ) => from.data_type() == to.data_type() || becomes(from.data_type(), to.data_type()),
        (DataType::Struct(from), DataType::Struct(to)) => {
            from.len() == to.len()
                && from.iter().zip(to).all(|(a, b)| a.data_type() == b.data_type() || becomes(a.data_type(), b.data_type()))
        }
        _ => false,
    }
}

/// The column in the type that the field has; values that do not fit are told by row.
fn bring(plan: &FieldPlan, array: &ArrayRef, misfits: &mut Vec<(usize, String)>) -> Result<ArrayRef> {
    if array.data_type() == &plan.data_type {
        return Ok(array.clone());
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let cast = cast_with_options(array, &plan.data_type, &options)
        .map_err(|e| Error::failed(format!("field \"{}\": {e}", plan.name)))?;
    if cast.null_count() != array.logical_null_count() {
        let was_null = array.logical_nulls();
        for row in (0..array.len()).filter(|row| cast.is_null(*row) && !was_null.as_ref().is_some_and(|n| n.is_null(*row))) {
            misfits.push((row, format!("field \"{}\": the value does not fit {}", plan.name, plan.data_type)));
        }
    }
    Ok(cast)
}

fn op(tree: &Tree, id: NodeId) -> Op {
    let node = tree.node(id);
    match (&node.kind, node.logical) {
        (Kind::Null, _) => Op::Null,
        (Kind::Boolean, _) => Op::Boolean,
        (Kind::Int, _) => Op::Int,
        (Kind::Long, _) => Op::Long,
        (Kind::Float, _) => Op::Float,
        (Kind::Double, _) => Op::Double,
        (Kind::Bytes, Some(Logical::Decimal { precision, .. })) => Op::Decimal { size: None, precision },
        (Kind::Bytes, _) => Op::Bytes,
        (Kind::String, _) => Op::Text,
        (Kind::Fixed { size, .. }, Some(Logical::Decimal { precision, .. })) => Op::Decimal { size: Some(*size), precision },
        (Kind::Fixed { .. }, Some(Logical::Uuid)) => Op::UuidFixed,
        (Kind::Fixed { .. }, Some(Logical::Duration)) => Op::Duration,
        (Kind::Fixed { .. }, _) => Op::Fixed,
        (Kind::Enum { symbols, .. }, _) => Op::Enum(symbols.iter().cloned().zip(0..).collect()),
        (Kind::Array(items), _) => Op::Array(Box::new(op(tree, *items))),
        (Kind::Map(values), _) => Op::Map(Box::new(op(tree, *values))),
        (Kind::Record { fields, .. }, _) => Op::Record(fields.iter().map(|f| (f.name.clone(), op(tree, f.of))).collect()),
        (Kind::Union(branches), _) => {
            let null = (0..).zip(branches).find(|(_, branch)| tree.is_null(**branch)).map(|(at, _)| at);
            let others = (0..).zip(branches).filter(|(_, branch)| !tree.is_null(**branch));
            let mut members: Vec<(i64, Op)> = others.map(|(at, branch)| (at, op(tree, *branch))).collect();
            match (null, members.len()) {
                (Some(null), 1) => {
                    let (value, op) = members.remove(0);
                    Op::Nullable { null, value, op: Box::new(op) }
                }
                // Null alone in brackets: its column is one of nulls, which takes no bytes but the branch.
                (Some(null), 0) => Op::Nullable { null, value: null, op: Box::new(Op::Null) },
                // One type in brackets: its column is that of the type, which is never NULL.
                (None, 1) => {
                    let (value, op) = members.remove(0);
                    Op::Nullable { null: -1, value, op: Box::new(op) }
                }
                _ => Op::Union { null, members },
            }
        }
    }
}

/// A column as the encoder reads it.
struct Source<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Null,
    Boolean(&'a BooleanArray),
    Int(&'a [i32]),
    Long(&'a [i64]),
    Float(&'a [f32]),
    Double(&'a [f64]),
    Bytes(&'a BinaryArray),
    Text(&'a StringArray),
    Fixed(&'a FixedSizeBinaryArray),
    UuidFixed(&'a StringArray),
    Decimal { values: &'a [i128], size: Option<usize>, limit: u128, precision: u8 },
    WideDecimal { values: &'a [i256], size: Option<usize>, precision: u8 },
    Duration(&'a IntervalMonthDayNanoArray),
    Enum(&'a StringArray, &'a HashMap<String, i64>),
    List { ends: &'a [i32], items: Box<Source<'a>> },
    Map { ends: &'a [i32], keys: &'a StringArray, values: Box<Source<'a>> },
    Record(Vec<(&'a str, Source<'a>)>),
    Nullable { null: i64, value: i64, of: Box<Source<'a>> },
    Union { null: Option<i64>, members: Vec<(i64, Source<'a>)> },
}

impl<'a> Source<'a> {
    fn new(array: &'a dyn Array, op: &'a Op) -> Result<Source<'a>> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        let values = match op {
            Op::Null => Values::Null,
            Op::Boolean => Values::Boolean(typed(array)?),
            Op::Int => Values::Int(match array.data_type() {
                DataType::Date32 => primitive::<Date32Type>(array)?,
                DataType::Time32(_) => primitive::<Time32MillisecondType>(array)?,
                _ => primitive::<Int32Type>(array)?,
            }),
            Op::Long => Values::Long(match array.data_type() {
                DataType::Time64(_) => primitive::<Time64MicrosecondType>(array)?,
                DataType::Timestamp(TimeUnit::Millisecond, _) => primitive::<TimestampMillisecondType>(array)?,
                DataType::Timestamp(TimeUnit::Microsecond, _) => primitive::<TimestampMicrosecondType>(array)?,
                DataType::Timestamp(TimeUnit::Nanosecond, _) => primitive::<TimestampNanosecondType>(array)?,
                _ => primitive::<Int64Type>(array)?,
            }),
            Op::Float => Values::Float(typed::<Float32Array>(array)?.values()),
            Op::Double => Values::Double(typed::<Float64Array>(array)?.values()),
            Op::Bytes => Values::Bytes(typed(array)?),
            Op::Text => Values::Text(typed(array)?),
            Op::Fixed => Values::Fixed(typed(array)?),
            Op::UuidFixed => Values::UuidFixed(typed(array)?),
            Op::Decimal { size, precision } if *precision <= 38 => Values::Decimal {
                values: typed::<Decimal128Array>(array)?.values(),
                size: *size,
                limit: 10_u128.pow(u32::from(*precision)),
                precision: *precision,
            },
            Op::Decimal { size, precision } => {
                Values::WideDecimal { values: typed::<Decimal256Array>(array)?.values(), size: *size, precision: *precision }
            }
            Op::Duration => Values::Duration(typed(array)?),
            Op::Enum(symbols) => Values::Enum(typed(array)?, symbols),
            Op::Array(op) => {
                let list: &ListArray = typed(array)?;
                Values::List { ends: list.value_offsets(), items: Box::new(Source::new(list.values().as_ref(), op)?) }
            }
            Op::Map(op) => {
                let map: &MapArray = typed(array)?;
                let values = Box::new(Source::new(map.values().as_ref(), op)?);
                Values::Map { ends: map.value_offsets(), keys: typed(map.keys().as_ref())?, values }
            }
            Op::Record(fields) => {
                let record: &StructArray = typed(array)?;
                let members = record.columns().iter().zip(fields);
                let members = members.map(|(column, (name, op))| Ok((name.as_str(), Source::new(column.as_ref(), op)?)));
                Values::Record(members.collect::<Result<_>>()?)
            }
            Op::Nullable { null, value, op } => {
                Values::Nullable { null: *null, value: *value, of: Box::new(Source::new(array, op)?) }
            }
            Op::Union { null, members } => {
                let record: &StructArray = typed(array)?;
                let members = record.columns().iter().zip(members);
                let members = members.map(|(column, (branch, op))| Ok((*branch, Source::new(column.as_ref(), op)?)));
                Values::Union { null: *null, members: members.collect::<Result<_>>()? }
            }
        };
        Ok(Source { nulls, values })
    }

    fn is_null(&self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.is_null(row) {
            match &self.values {
                Values::Nullable { null, .. } if *null >= 0 => write_long(*null, out),
                Values::Union { null: Some(null), .. } => write_long(*null, out),
                Values::Null => {}
                _ => return Err(Fault::new("NULL, which the schema does not allow")),
            }
            return Ok(());
        }
        match &self.values {
            Values::Null => {}
            Values::Boolean(values) => out.push(u8::from(values.value(row))),
            Values::Int(values) => write_long(i64::from(values[row]), out),
            Values::Long(values) => write_long(values[row], out),
            Values::Float(values) => out.extend_from_slice(&values[row].to_le_bytes()),
            Values::Double(values) => out.extend_from_slice(&values[row].to_le_bytes()),
            Values::Bytes(values) => write_bytes(values.value(row), out),
            Values::Text(values) => write_bytes(values.value(row).as_bytes(), out),
            Values::Fixed(values) => out.extend_from_slice(values.value(row)),
            Values::UuidFixed(values) => out.extend_from_slice(&parse_uuid(values.value(row))?),
            Values::Decimal { values, size, limit, precision } => {
                let value = values[row];
                if value.unsigned_abs() >= *limit {
                    return Err(too_precise(*precision));
                }
                write_decimal(&value.to_be_bytes(), *size, out);
            }
            Values::WideDecimal { values, size, precision } => {
                let value = values[row];
                if !fits(value, *precision) {
                    return Err(too_precise(*precision));
                }
                write_decimal(&value.to_be_bytes(), *size, out);
            }
            Values::Duration(values) => write_interval(values.value(row), out)?,
            Values::Enum(values, symbols) => {
                let symbol = values.value(row);
                match symbols.get(symbol) {
                    Some(index) => write_long(*index, out),
                    None => return Err(Fault::new(format!("the enum has no symbol \"{symbol}\""))),
                }
            }
            Values::List { ends, items } => {
                let (from, to) = (ends[row] as usize, ends[row + 1] as usize);
                if from < to {
                    write_long((to - from) as i64, out);
                }
                for item in from..to {
                    items.write(item, out).map_err(|e| e.within("[]"))?;
                }
                out.push(0);
            }
            Values::Map { ends, keys, values } => {
                let (from, to) = (ends[row] as usize, ends[row + 1] as usize);
                if from < to {
                    write_long((to - from) as i64, out);
                }
                for entry in from..to {
                    write_bytes(keys.value(entry).as_bytes(), out);
                    values.write(entry, out).map_err(|e| e.within("{}"))?;
                }
                out.push(0);
            }
            Values::Record(members) => {
                for (name, member) in members {
                    member.write(row, out).map_err(|e| e.within(name))?;
                }
            }
            Values::Nullable { value, of, .. } => {
                write_long(*value, out);
                of.write(row, out)?;
            }
            Values::Union { null, members } => {
                let mut set = members.iter().filter(|(_, member)| !member.is_null(row));
                match (set.next(), set.next(), null) {
                    (Some((branch, member)), None, _) => {
                        write_long(*branch, out);
                        member.write(row, out)?;
                    }
                    (None, _, Some(null)) => write_long(*null, out),
                    (None, _, None) => return Err(Fault::new("no member of the union is set")),
                    (Some(_), Some(_), _) => return Err(Fault::new("more than one member of the union is set")),
                }
            }
        }
        Ok(())
    }
}

fn typed<T: 'static>(array: &dyn Array) -> Result<&T> {
    array.as_any().downcast_ref().ok_or_else(|| Error::failed(format!("a column of {} came to the encoder", array.data_type())))
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> Result<&[T::Native]> {
    Ok(typed::<arrow::array::PrimitiveArray<T>>(array)?.values())
}
