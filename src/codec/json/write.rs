//! JSON to Avro bodies.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use serde_json::{Number, Value};

use crate::codec::avro::Fault;
use crate::codec::avro::number::{parse_decimal, parse_uuid, write_bytes, write_decimal, write_long};
use crate::contract::tree::{Kind, Logical, Node, NodeId, RecordField, Tree};

/// What a missing field is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Default,
    /// Null where the schema allows it, else its default.
    Null,
}

pub(super) struct Writer<'a> {
    pub tree: &'a Tree,
    pub missing: Missing,
}

impl Writer<'_> {
    pub fn write(&self, id: NodeId, value: &Value, out: &mut Vec<u8>) -> Result<(), Fault> {
        let node = self.tree.node(id);
        match (&node.kind, value) {
            (Kind::Union(branches), _) => self.union(id, branches, value, out)?,
            (Kind::Null, Value::Null) => {}
            (Kind::Boolean, Value::Bool(value)) => out.push(u8::from(*value)),
            (Kind::Int, _) => {
                let value = self.whole(node, id, value)?;
                let value = i32::try_from(value).map_err(|_| Fault::new(format!("{value} does not fit an int")))?;
                write_long(i64::from(value), out);
            }
            (Kind::Long, _) => write_long(self.whole(node, id, value)?, out),
            (Kind::Float, _) => {
                let double = self.double(id, value)?;
                let float = match value {
                    // Parsed as what it is: by way of a double it could be rounded twice.
                    Value::Number(number) => number.to_string().parse().unwrap_or(double as f32),
                    _ => double as f32,
                };
                if double.is_finite() && float.is_infinite() {
                    return Err(Fault::new(format!("{value} does not fit a float")));
                }
                out.extend_from_slice(&float.to_le_bytes());
            }
            (Kind::Double, _) => out.extend_from_slice(&self.double(id, value)?.to_le_bytes()),
            (Kind::Bytes, _) => match node.logical {
                Some(Logical::Decimal { precision, scale }) => {
                    write_decimal(&self.decimal(id, value, precision, scale)?, None, out);
                }
                _ => write_bytes(&self.base64(id, value)?, out),
            },
            (Kind::String, Value::String(text)) => write_bytes(text.as_bytes(), out),
            (Kind::Fixed { size, .. }, _) => self.fixed(node, id, *size, value, out)?,
            (Kind::Enum { symbols, name, .. }, Value::String(symbol)) => {
                let index = symbols.iter().position(|known| known == symbol);
                let index = index.ok_or_else(|| Fault::new(format!("enum {} has no symbol \"{symbol}\"", name.full)))?;
                write_long(index as i64, out);
            }
            (Kind::Array(of), Value::Array(items)) => {
                if !items.is_empty() {
                    write_long(items.len() as i64, out);
                }
                for item in items {
                    self.write(*of, item, out).map_err(|e| e.within("[]"))?;
                }
                out.push(0);
            }
            (Kind::Map(of), Value::Object(entries)) => {
                if !entries.is_empty() {
                    write_long(entries.len() as i64, out);
                }
                for (key, item) in entries {
                    write_bytes(key.as_bytes(), out);
                    self.write(*of, item, out).map_err(|e| e.within(&format!("{{{key}}}")))?;
                }
                out.push(0);
            }
            (Kind::Record { fields, name }, Value::Object(object)) => {
                if let Some(unknown) = object.keys().find(|key| !fields.iter().any(|field| field.name == **key)) {
                    let near = crate::error::nearest(unknown, fields.iter().map(|field| field.name.as_str()));
                    let near = near.map_or(String::new(), |near| format!(" (did you mean \"{near}\"?)"));
                    return Err(Fault::new(format!("record {} has no field \"{unknown}\"{near}", name.full)));
                }
                for field in fields {
                    let written = match object.get(&field.name) {
                        Some(value) => self.write(field.of, value, out),
                        None => self.absent(field, out),
                    };
                    written.map_err(|e| e.within(&field.name))?;
                }
            }
            _ => return Err(self.mismatch(id, value)),
        }
        Ok(())
    }

    fn absent(&self, field: &RecordField, out: &mut Vec<u8>) -> Result<(), Fault> {
        match &field.default {
            _ if self.missing == Missing::Null && self.tree.without_null(field.of).1 => self.write(field.of, &Value::Null, out),
            Some(default) => self.write_default(field.of, default, out),
            None => Err(Fault::new("missing, and the schema has no default")),
        }
    }

    /// Tries to write; `false` leaves `out` as it was.
    fn attempt(&self, id: NodeId, branch: usize, value: &Value, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        write_long(branch as i64, out);
        let written = self.write(id, value, out).is_ok();
        if !written {
            out.truncate(before);
        }
        written
    }

    fn union(&self, id: NodeId, branches: &[NodeId], value: &Value, out: &mut Vec<u8>) -> Result<(), Fault> {
        if let Value::Object(object) = value
            && object.len() == 1
            && let Some((tag, inner)) = object.iter().next()
            && let Some(branch) = branches.iter().position(|branch| self.is_tag(*branch, tag))
            && self.attempt(branches[branch], branch, inner, out)
        {
            return Ok(());
        }
        let whole = value.as_i64().is_some();
        let is_whole = |branch: &NodeId| matches!(self.tree.node(*branch).kind, Kind::Int | Kind::Long);
        let mut order: Vec<usize> = (0..branches.len()).collect();
        order.sort_by_key(|branch| whole && !is_whole(&branches[*branch]));
        for branch in order {
            if self.attempt(branches[branch], branch, value, out) {
                return Ok(());
            }
        }
        // Of a nullable type the reason is that of its one type.
        match self.tree.without_null(id) {
            (inner, true) if inner != id && !value.is_null() => self.write(inner, value, &mut Vec::new()),
            _ => Err(self.mismatch(id, value)),
        }
    }

    fn is_tag(&self, branch: NodeId, tag: &str) -> bool {
        let name = self.tree.type_name(branch);
        name == tag || name.rsplit('.').next() == Some(tag)
    }

    fn fixed(&self, node: &Node, id: NodeId, size: usize, value: &Value, out: &mut Vec<u8>) -> Result<(), Fault> {
        match (node.logical, value) {
            (Some(Logical::Decimal { precision, scale }), _) => {
                write_decimal(&self.decimal(id, value, precision, scale)?, Some(size), out);
            }
            (Some(Logical::Uuid), Value::String(text)) if text.len() == 36 => out.extend_from_slice(&parse_uuid(text)?),
            (Some(Logical::Duration), Value::Object(parts)) => {
                for part in ["months", "days", "milliseconds"] {
                    let value = parts.get(part).map_or(Some(0), Value::as_u64).and_then(|value| u32::try_from(value).ok());
                    let value = value.ok_or_else(|| Fault::new(format!("\"{part}\" is not a number of 32 bits")))?;
                    out.extend_from_slice(&value.to_le_bytes());
                }
            }
            _ => {
                let bytes = self.base64(id, value)?;
                if bytes.len() != size {
                    return Err(Fault::new(format!("{} bytes where the schema has {size}", bytes.len())));
                }
                out.extend_from_slice(&bytes);
            }
        }
        Ok(())
    }

    fn whole(&self, node: &Node, id: NodeId, value: &Value) -> Result<i64, Fault> {
        match (value, node.logical) {
            (Value::Number(number), _) => whole_number(number).ok_or_else(|| self.mismatch(id, value)),
            (Value::String(text), Some(logical)) => {
                parse_temporal(text, logical).unwrap_or_else(|| Err(self.mismatch(id, value)))
            }
            _ => Err(self.mismatch(id, value)),
        }
    }

    fn double(&self, id: NodeId, value: &Value) -> Result<f64, Fault> {
        match value {
            Value::Number(number) => number.as_f64().filter(|value| value.is_finite()),
            Value::String(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| self.mismatch(id, value))
    }

    fn decimal(&self, id: NodeId, value: &Value, precision: u8, scale: i8) -> Result<[u8; 32], Fault> {
        let text = match value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            _ => return Err(self.mismatch(id, value)),
        };
        parse_decimal(&text, precision, scale).map(|value| value.to_be_bytes())
    }

    fn base64(&self, id: NodeId, value: &Value) -> Result<Vec<u8>, Fault> {
        let text = value.as_str().ok_or_else(|| self.mismatch(id, value))?;
        STANDARD.decode(text).map_err(|e| Fault::new(format!("\"{text}\" is not base64: {e}")))
    }

    fn mismatch(&self, id: NodeId, value: &Value) -> Fault {
        let mut found = value.to_string();
        if found.chars().count() > 60 {
            found = found.chars().take(57).chain("...".chars()).collect();
        }
        Fault::new(format!("{found} where the schema has {}", self.tree.describe(id)))
    }

    pub fn write_default(&self, id: NodeId, default: &Value, out: &mut Vec<u8>) -> Result<(), Fault> {
        let node = self.tree.node(id);
        match (&node.kind, default) {
            (Kind::Union(branches), _) => {
                let before = out.len();
                for (index, branch) in branches.iter().enumerate() {
                    out.truncate(before);
                    write_long(index as i64, out);
                    if self.write_default(*branch, default, out).is_ok() {
                        return Ok(());
                    }
                }
                Err(self.mismatch(id, default))
            }
            (Kind::Bytes, Value::String(text)) => {
                write_bytes(&self.latin1(text)?, out);
                Ok(())
            }
            (Kind::Fixed { size, .. }, Value::String(text)) => {
                let bytes = self.latin1(text)?;
                if bytes.len() != *size {
                    return Err(Fault::new(format!("{} bytes where the schema has {size}", bytes.len())));
                }
                out.extend_from_slice(&bytes);
                Ok(())
            }
            (Kind::Bytes | Kind::Fixed { .. }, _) => Err(self.mismatch(id, default)),
            (Kind::Int | Kind::Long, Value::String(_)) => Err(self.mismatch(id, default)),
            (Kind::Array(of), Value::Array(items)) => {
                if !items.is_empty() {
                    write_long(items.len() as i64, out);
                }
                items.iter().try_for_each(|item| self.write_default(*of, item, out))?;
                out.push(0);
                Ok(())
            }
            (Kind::Map(of), Value::Object(entries)) => {
                if !entries.is_empty() {
                    write_long(entries.len() as i64, out);
                }
                for (key, item) in entries {
                    write_bytes(key.as_bytes(), out);
                    self.write_default(*of, item, out)?;
                }
                out.push(0);
                Ok(())
            }
            (Kind::Record { fields, .. }, Value::Object(object)) => fields.iter().try_for_each(|field| {
                let default = object.get(&field.name).or(field.default.as_ref());
                let default = default.ok_or_else(|| Fault::new("missing, and the schema has no default").within(&field.name))?;
                self.write_default(field.of, default, out).map_err(|e| e.within(&field.name))
            }),
            _ => self.write(id, default, out),
        }
    }

    fn latin1(&self, text: &str) -> Result<Vec<u8>, Fault> {
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        bytes.ok_or_else(|| Fault::new("a default of bytes has code points below 256 only"))
    }
}

/// Also `3.0`: the value counts, not how it is written.
fn whole_number(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let value = number.as_f64()?;
        (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
    })
}

/// `None`: text does not stand for this type.
pub(crate) fn parse_temporal(text: &str, logical: Logical) -> Option<Result<i64, Fault>> {
    let bad = |what: &str| Fault::new(format!("\"{text}\" is not {what}"));
    let (seconds, nanos) = match logical {
        Logical::Date => {
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| bad("a date like 2026-01-31"));
            return Some(date.map(|date| date.signed_duration_since(NaiveDate::default()).num_days()));
        }
        Logical::TimeMillis | Logical::TimeMicros => match NaiveTime::parse_from_str(text, "%H:%M:%S%.f") {
            Ok(time) => (i64::from(time.num_seconds_from_midnight()), time.nanosecond()),
            Err(_) => return Some(Err(bad("a time like 12:34:56.789"))),
        },
        Logical::TimestampMillis | Logical::TimestampMicros | Logical::TimestampNanos => match DateTime::parse_from_rfc3339(text)
        {
            Ok(at) => (at.timestamp(), at.timestamp_subsec_nanos()),
            Err(_) => return Some(Err(bad("an instant like 2026-01-31T12:34:56.789Z (with an offset)"))),
        },
        Logical::LocalTimestampMillis | Logical::LocalTimestampMicros | Logical::LocalTimestampNanos => {
            let parsed = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"];
            match parsed.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok()) {
                Some(at) => (at.and_utc().timestamp(), at.and_utc().timestamp_subsec_nanos()),
                None => return Some(Err(bad("a local timestamp like 2026-01-31T12:34:56.789 (without an offset)"))),
            }
        }
        _ => return None,
    };
    let per_second = logical.units_per_second()?;
    let nanos_per_unit = 1_000_000_000 / per_second;
    if i64::from(nanos) % nanos_per_unit != 0 {
        return Some(Err(Fault::new(format!("\"{text}\" is finer than {logical} can hold"))));
    }
    let value = seconds.checked_mul(per_second).and_then(|value| value.checked_add(i64::from(nanos) / nanos_per_unit));
    Some(value.ok_or_else(|| bad("within the range of its type")))
}
