//! Keys as JSON objects, as Flink's `json` key format has them: one member per key column.
//!
//! Read: members that no column wants are ignored, a missing one is NULL. Written: one text per value (the members in the order of
//! the columns, no spaces, escapes as Jackson writes them), because the bytes decide the partition. Times are in SQL's form
//! (`2026-01-31 12:34:56.789`, an instant with a `Z` behind it), bytes are base64, decimals have all digits of their scale.
//! Floating point numbers have several texts, and are no keys here.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal256Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, FieldRef, TimeUnit, i256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveTime};
use serde_json::{Map, Value};

use super::{checked_cast, null_key, with_rows};
use crate::codec::avro::number::{decimal_text, parse_decimal};
use crate::codec::avro::{Column, Values};
use crate::codec::json::parse_temporal;
use crate::codec::{BadValue, Decoded, Encoded};
use crate::contract::tree::Logical;
use crate::error::{BadClass, Error, Result};
use crate::record::Bytes;

/// How values of a column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Boolean,
    Int,
    Long,
    Decimal { precision: u8, scale: i8 },
    Text,
    Bytes,
    Time(Logical),
}

/// Whether a member can hold values of this type.
pub fn holds(of: &DataType) -> bool {
    form(of).is_some()
}

fn form(of: &DataType) -> Option<Form> {
    Some(match of {
        DataType::Boolean => Form::Boolean,
        DataType::Int32 => Form::Int,
        DataType::Int64 => Form::Long,
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) if *scale >= 0 => {
            Form::Decimal { precision: *precision, scale: *scale }
        }
        DataType::Utf8 => Form::Text,
        DataType::Binary => Form::Bytes,
        DataType::Date32 => Form::Time(Logical::Date),
        DataType::Time32(TimeUnit::Millisecond) => Form::Time(Logical::TimeMillis),
        DataType::Time64(TimeUnit::Microsecond) => Form::Time(Logical::TimeMicros),
        DataType::Timestamp(unit, zone) => Form::Time(match (unit, zone.is_some()) {
            (TimeUnit::Millisecond, true) => Logical::TimestampMillis,
            (TimeUnit::Microsecond, true) => Logical::TimestampMicros,
            (TimeUnit::Nanosecond, true) => Logical::TimestampNanos,
            (TimeUnit::Millisecond, false) => Logical::LocalTimestampMillis,
            (TimeUnit::Microsecond, false) => Logical::LocalTimestampMicros,
            (TimeUnit::Nanosecond, false) => Logical::LocalTimestampNanos,
            (TimeUnit::Second, _) => return None,
        }),
        _ => return None,
    })
}

fn checked_form(field: &FieldRef) -> Result<Form> {
    form(field.data_type()).ok_or_else(|| {
        Error::config(format!("column \"{}\" of type {} can't be a member of a JSON key", field.name(), field.data_type()))
            .hint("cast it to one of STRING, BOOLEAN, INT, BIGINT, DECIMAL, BYTES, DATE, TIME and TIMESTAMP(3)")
    })
}

/// Decodes keys of one topic.
#[derive(Debug)]
pub(super) struct JsonDecoder {
    members: Vec<Member>,
    built: Vec<Column>,
}

#[derive(Debug)]
struct Member {
    name: String,
    form: Form,
    nullable: bool,
}

impl JsonDecoder {
    /// `names` are the members that the fields come from.
    pub fn new(names: &[String], fields: &[FieldRef]) -> Result<JsonDecoder> {
        assert_eq!(names.len(), fields.len(), "every column comes from a member");
        let member = |(name, field): (&String, &FieldRef)| {
            Ok(Member { name: name.clone(), form: checked_form(field)?, nullable: field.is_nullable() })
        };
        Ok(JsonDecoder {
            members: names.iter().zip(fields).map(member).collect::<Result<_>>()?,
            built: fields.iter().map(|field| Column::new(field)).collect::<Result<_>>()?,
        })
    }

    /// A null key is a row of NULLs, unless `nullable` is false: then it is bad.
    pub fn decode(&mut self, keys: &Bytes, schema: &arrow::datatypes::SchemaRef, nullable: bool) -> Result<Decoded> {
        let (mut kept, mut nulls, mut bad) = (Vec::with_capacity(keys.len()), Vec::new(), Vec::new());
        for (row, key) in (0_u32..).zip(keys.iter()) {
            let Some(key) = key else {
                nulls.push(row);
                if nullable {
                    self.built.iter_mut().for_each(Column::push_null);
                    kept.push(row);
                } else {
                    bad.push(null_key(row));
                }
                continue;
            };
            match self.read(key) {
                Ok(()) => kept.push(row),
                Err(message) => {
                    self.built.iter_mut().for_each(|column| column.truncate(kept.len()));
                    bad.push(BadValue { row, class: BadClass::Key, message, schema_id: None });
                }
            }
        }
        let arrays = self.built.iter_mut().map(|column| column.finish(kept.len())).collect::<Result<Vec<_>>>()?;
        Ok(Decoded { rows: with_rows(schema, arrays, kept.len())?, kept, nulls, bad })
    }

    /// Appends one value to every column, or to some of them and says why not to the others.
    fn read(&mut self, key: &[u8]) -> Result<(), String> {
        let object: Map<String, Value> = serde_json::from_slice(key).map_err(|e| format!("the key is no JSON object: {e}"))?;
        for (member, column) in self.members.iter().zip(&mut self.built) {
            match object.get(&member.name).unwrap_or(&Value::Null) {
                Value::Null if member.nullable => column.push_null(),
                Value::Null if object.contains_key(&member.name) => {
                    return Err(format!("the key's member \"{}\" is null", member.name));
                }
                Value::Null => return Err(format!("the key has no member \"{}\"", member.name)),
                value => {
                    push(member.form, value, &mut column.values).map_err(|why| {
                        let why = why.unwrap_or_else(|| format!("{} where {} is wanted", shown(value), member.form.word()));
                        format!("the key's member \"{}\": {why}", member.name)
                    })?;
                    column.set();
                }
            }
        }
        Ok(())
    }
}

impl Form {
    fn word(self) -> String {
        match self {
            Form::Boolean => "a BOOLEAN".into(),
            Form::Int => "an INT".into(),
            Form::Long => "a BIGINT".into(),
            Form::Decimal { precision, scale } => format!("a DECIMAL({precision}, {scale})"),
            Form::Text => "a STRING".into(),
            Form::Bytes => "base64".into(),
            Form::Time(logical) => format!("a {logical}"),
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// `Err(None)`: the value is not of the form.
fn push(form: Form, value: &Value, values: &mut Values) -> Result<(), Option<String>> {
    match (form, values) {
        (Form::Boolean, Values::Boolean(values)) => values.push(value.as_bool().ok_or(None)?),
        (Form::Int, Values::I32(values)) => values.push(i32::try_from(whole(value)?).map_err(|_| None)?),
        (Form::Long, Values::I64(values)) => values.push(whole(value)?),
        (Form::Decimal { precision, scale }, values) => {
            let text = match value {
                Value::Number(number) => number.to_string(),
                Value::String(text) => text.clone(),
                _ => return Err(None),
            };
            let unscaled = parse_decimal(&text, precision, scale).map_err(|fault| Some(fault.to_string()))?;
            match values {
                Values::I128(values) => values.push(unscaled.to_i128().ok_or(None)?),
                Values::I256(values) => values.push(unscaled),
                other => unreachable!("a decimal column holds decimals: {other:?}"),
            }
        }
        (Form::Text, values) => {
            // Numbers and booleans as their text, as Jackson's asText has them.
            let text = match value {
                Value::String(text) => std::borrow::Cow::Borrowed(text.as_str()),
                Value::Number(_) | Value::Bool(_) => std::borrow::Cow::Owned(value.to_string()),
                _ => return Err(None),
            };
            values.push_bytes(text.as_bytes()).map_err(|fault| Some(fault.to_string()))?;
        }
        (Form::Bytes, values) => {
            let bytes = STANDARD.decode(value.as_str().ok_or(None)?).map_err(|_| None)?;
            values.push_bytes(&bytes).map_err(|fault| Some(fault.to_string()))?;
        }
        (Form::Time(logical), values) => {
            let text = value.as_str().ok_or(None)?;
            let time = parse_temporal(text, logical).ok_or(None)?.map_err(|fault| Some(fault.to_string()))?;
            match values {
                Values::I64(values) => values.push(time),
                Values::I32(values) => values.push(i32::try_from(time).map_err(|_| None)?),
                other => unreachable!("a column of times holds numbers: {other:?}"),
            }
        }
        (form, values) => unreachable!("a column fits its form: {form:?} {values:?}"),
    }
    Ok(())
}

/// A text that spells a whole number is one, as Flink reads it.
fn whole(value: &Value) -> Result<i64, Option<String>> {
    match value {
        Value::Number(number) => number.as_i64().ok_or(None),
        Value::String(text) => text.trim().parse().map_err(|_| None),
        _ => Err(None),
    }
}

/// Encodes keys of one sink.
#[derive(Debug)]
pub(super) struct JsonEncoder {
    /// `"name":` as it is written, and the type that the column is brought to.
    members: Vec<(String, DataType)>,
}

impl JsonEncoder {
    pub fn new(fields: &[FieldRef]) -> Result<JsonEncoder> {
        if fields.is_empty() {
            return Err(Error::config("a key of format json needs a column"));
        }
        let member = |field: &FieldRef| {
            let mut label = Vec::new();
            quote(field.name(), &mut label);
            label.push(b':');
            let stored = stored(field.data_type());
            checked_form(&std::sync::Arc::new(field.as_ref().clone().with_data_type(stored.clone())))?;
            Ok((String::from_utf8_lossy(&label).into_owned(), stored))
        };
        Ok(JsonEncoder { members: fields.iter().map(member).collect::<Result<_>>()? })
    }

    pub fn encode(&self, rows: &RecordBatch) -> Result<Encoded> {
        let count = rows.num_rows();
        let mut arrays = Vec::with_capacity(self.members.len());
        for ((_, of), given) in self.members.iter().zip(rows.columns()) {
            arrays.push(checked_cast(given, of)?);
        }
        let cells = arrays.iter().map(Cells::new).collect::<Result<Vec<_>>>()?;
        let given_nulls: Vec<_> = rows.columns().iter().map(|column| column.logical_nulls()).collect();
        let mut out = Encoded { values: Bytes::with_capacity(count, 32 * count), ..Encoded::default() };
        let mut scratch = Vec::new();
        for row in 0..count {
            scratch.clear();
            let mut fault = None;
            for (at, (label, of)) in self.members.iter().enumerate() {
                scratch.push(if at == 0 { b'{' } else { b',' });
                scratch.extend_from_slice(label.as_bytes());
                let null = given_nulls[at].as_ref().is_some_and(|nulls| nulls.is_null(row));
                let written = match (null, arrays[at].is_null(row)) {
                    (true, _) => {
                        scratch.extend_from_slice(b"null");
                        Ok(())
                    }
                    (false, true) => Err(format!("the value does not fit {of}")),
                    (false, false) => cells[at].write(row, &mut scratch),
                };
                if let Err(why) = written {
                    fault = Some(format!("column \"{}\": {why}", rows.schema().field(at).name()));
                    break;
                }
            }
            scratch.push(b'}');
            match fault {
                None => {
                    out.values.push(Some(&scratch));
                    out.kept.push(row as u32);
                }
                Some(message) => {
                    out.bad.push(BadValue { row: row as u32, class: BadClass::Key, message, schema_id: None });
                }
            }
        }
        Ok(out)
    }
}

/// The type that a column of a like type is written as.
fn stored(of: &DataType) -> DataType {
    match of {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, values) => stored(values),
        DataType::Timestamp(TimeUnit::Second, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::Time32(TimeUnit::Second) => DataType::Time32(TimeUnit::Millisecond),
        other => other.clone(),
    }
}

/// A column as the encoder reads it.
enum Cells {
    Boolean(BooleanArray),
    Number(Int64Array),
    Decimal(Decimal256Array, i8),
    Text(StringArray),
    Bytes(BinaryArray),
    Time(Int64Array, Logical),
}

impl Cells {
    fn new(array: &ArrayRef) -> Result<Cells> {
        let number = |array: &ArrayRef| -> Result<Int64Array> {
            let array = match array.data_type() {
                DataType::Date32 | DataType::Time32(_) => checked_cast(array, &DataType::Int32)?,
                _ => array.clone(),
            };
            Ok(checked_cast(&array, &DataType::Int64)?.as_primitive().clone())
        };
        Ok(match form(array.data_type()) {
            Some(Form::Boolean) => Cells::Boolean(array.as_boolean().clone()),
            Some(Form::Int | Form::Long) => Cells::Number(number(array)?),
            Some(Form::Decimal { scale, .. }) => {
                Cells::Decimal(checked_cast(array, &DataType::Decimal256(76, scale))?.as_primitive().clone(), scale)
            }
            Some(Form::Text) => Cells::Text(array.as_string().clone()),
            Some(Form::Bytes) => Cells::Bytes(array.as_binary().clone()),
            Some(Form::Time(logical)) => Cells::Time(number(array)?, logical),
            None => return Err(Error::failed(format!("a key column of {} came to the encoder", array.data_type()))),
        })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Cells::Boolean(values) => out.extend_from_slice(if values.value(row) { b"true" } else { b"false" }),
            Cells::Number(values) => out.extend_from_slice(values.value(row).to_string().as_bytes()),
            Cells::Decimal(values, scale) => {
                let value: i256 = values.value(row);
                out.extend_from_slice(decimal_text(value, *scale).as_bytes());
            }
            Cells::Text(values) => quote(values.value(row), out),
            Cells::Bytes(values) => quote(&STANDARD.encode(values.value(row)), out),
            Cells::Time(values, logical) => {
                let value = values.value(row);
                let text = time_text(value, *logical).ok_or_else(|| format!("{value} is no {logical} that a calendar holds"))?;
                quote(&text, out);
            }
        }
        Ok(())
    }
}

/// As Jackson writes a text: short escapes where JSON has them, upper-case hex for other control characters, all else as it is.
fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            0x00..=0x1f => out.extend_from_slice(format!("\\u{byte:04X}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// SQL's form, without zeros at the end of the fraction.
fn time_text(value: i64, logical: Logical) -> Option<String> {
    if logical == Logical::Date {
        return NaiveDate::default().checked_add_signed(chrono::Duration::try_days(value)?).map(|date| date.to_string());
    }
    let per_second = logical.units_per_second()?;
    let seconds = value.div_euclid(per_second);
    let nanos = u32::try_from(value.rem_euclid(per_second) * (1_000_000_000 / per_second)).ok()?;
    let mut text = match logical {
        Logical::TimeMillis | Logical::TimeMicros => {
            NaiveTime::from_num_seconds_from_midnight_opt(u32::try_from(seconds).ok()?, 0)?.format("%H:%M:%S").to_string()
        }
        _ => DateTime::from_timestamp(seconds, 0)?.format("%Y-%m-%d %H:%M:%S").to_string(),
    };
    if nanos > 0 {
        text.push('.');
        text.push_str(format!("{nanos:09}").trim_end_matches('0'));
    }
    if matches!(logical, Logical::TimestampMillis | Logical::TimestampMicros | Logical::TimestampNanos) {
        text.push('Z');
    }
    Some(text)
}
