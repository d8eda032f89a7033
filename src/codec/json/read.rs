//! Avro bodies to JSON.

use arrow::datatypes::i256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Days, NaiveDate, NaiveTime, SecondsFormat};
use serde_json::{Map, Value, json};

use crate::codec::avro::number::{decimal_text, duration_parts, sign_extended, uuid_text};
use crate::codec::avro::{Cursor, Fault};
use crate::contract::tree::{Kind, Logical, NodeId, Tree};

const DEPTH: usize = 128;

pub(super) fn read(tree: &Tree, id: NodeId, cursor: &mut Cursor<'_>, depth: usize) -> Result<Value, Fault> {
    if depth > DEPTH {
        return Err(Fault::new(format!("nested deeper than {DEPTH}")));
    }
    let node = tree.node(id);
    Ok(match &node.kind {
        Kind::Null => Value::Null,
        Kind::Boolean => Value::Bool(cursor.boolean()?),
        Kind::Int => int(i64::from(cursor.int()?), node.logical),
        Kind::Long => int(cursor.long()?, node.logical),
        Kind::Float => {
            let value = f32::from_le_bytes(cursor.array()?);
            if value.is_finite() { Value::from(value) } else { not_finite(f64::from(value)) }
        }
        Kind::Double => {
            let value = f64::from_le_bytes(cursor.array()?);
            if value.is_finite() { Value::from(value) } else { not_finite(value) }
        }
        Kind::Bytes => bytes(cursor.bytes()?, node.logical)?,
        Kind::Fixed { size, .. } => match node.logical {
            Some(Logical::Uuid) => Value::String(uuid_text(cursor.array()?).iter().map(|b| char::from(*b)).collect()),
            Some(Logical::Duration) => {
                let [months, days, milliseconds] = duration_parts(cursor.array()?);
                json!({"months": months, "days": days, "milliseconds": milliseconds})
            }
            logical => bytes(cursor.take(*size)?, logical)?,
        },
        Kind::String => Value::String(cursor.text()?.to_string()),
        Kind::Enum { symbols, .. } => Value::String(symbols[cursor.index(symbols.len())?].clone()),
        Kind::Union(branches) => {
            let branch = cursor.index(branches.len())?;
            read(tree, branches[branch], cursor, depth + 1)?
        }
        Kind::Array(of) => {
            let mut items = Vec::new();
            let read = cursor.blocks(|cursor| {
                items.push(read(tree, *of, cursor, depth + 1)?);
                Ok(())
            });
            read.map_err(|e| e.within("[]"))?;
            Value::Array(items)
        }
        Kind::Map(of) => {
            let mut entries = Map::new();
            let read = cursor.blocks(|cursor| {
                let key = cursor.text()?.to_string();
                entries.insert(key, read(tree, *of, cursor, depth + 1)?);
                Ok(())
            });
            read.map_err(|e| e.within("{}"))?;
            Value::Object(entries)
        }
        Kind::Record { fields, .. } => {
            let mut object = Map::with_capacity(fields.len());
            for field in fields {
                let value = read(tree, field.of, cursor, depth + 1).map_err(|e| e.within(&field.name))?;
                object.insert(field.name.clone(), value);
            }
            Value::Object(object)
        }
    })
}

/// What no calendar holds stays a number.
fn int(value: i64, logical: Option<Logical>) -> Value {
    temporal(value, logical).map_or_else(|| Value::from(value), Value::String)
}

fn temporal(value: i64, logical: Option<Logical>) -> Option<String> {
    let logical = logical?;
    if logical == Logical::Date {
        let epoch = NaiveDate::default();
        let days = Days::new(value.unsigned_abs());
        let date = if value < 0 { epoch.checked_sub_days(days) } else { epoch.checked_add_days(days) };
        return date.filter(|date| (0..=9999).contains(&chrono::Datelike::year(date))).map(|date| date.to_string());
    }
    let per_second = logical.units_per_second()?;
    let (seconds, part) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    let nanos = u32::try_from(part * (1_000_000_000 / per_second)).ok()?;
    if matches!(logical, Logical::TimeMillis | Logical::TimeMicros) {
        let time = NaiveTime::from_num_seconds_from_midnight_opt(u32::try_from(seconds).ok()?, nanos)?;
        return Some(time.format("%H:%M:%S%.f").to_string());
    }
    let at = DateTime::from_timestamp(seconds, nanos)?;
    if !(0..=9999).contains(&chrono::Datelike::year(&at)) {
        return None;
    }
    Some(match logical {
        Logical::TimestampMillis | Logical::TimestampMicros | Logical::TimestampNanos => {
            at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
        }
        _ => at.naive_utc().format("%Y-%m-%dT%H:%M:%S%.f").to_string(),
    })
}

fn bytes(value: &[u8], logical: Option<Logical>) -> Result<Value, Fault> {
    Ok(Value::String(match logical {
        Some(Logical::Decimal { scale, .. }) => {
            let value = sign_extended(value).ok_or_else(|| Fault::new("a decimal of more than 256 bits"))?;
            decimal_text(i256::from_be_bytes(value), scale)
        }
        _ => STANDARD.encode(value),
    }))
}

fn not_finite(value: f64) -> Value {
    Value::from(if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    })
}
