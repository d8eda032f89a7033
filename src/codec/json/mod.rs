//! JSON to Avro bodies and back, and JSON compared by type: test cases, `print`.
//!
//! The JSON is plain: instants are ISO 8601 text with an offset (written with `Z`) or a number in the schema's unit, local
//! timestamps the same without an offset, dates `2026-01-31` or days, times `12:34:56.789` or a number; decimals are text or numbers
//! (written as text), bytes and fixed are base64, NaN and the infinities are text, durations are
//! `{"months": 0, "days": 0, "milliseconds": 0}`. A union's value stands for itself, or is tagged with its type's name as in Avro's
//! own JSON; where several types could take it, whole numbers go to int or long, and all else to the first type that takes it.

mod read;
mod write;

use serde_json::Value;

use crate::codec::avro::{Cursor, Fault};
use crate::contract::AvroSchema;
use crate::contract::tree::{NodeId, Tree};
use crate::error::{Error, Result};

pub(crate) use write::parse_temporal;
use write::{Missing, Writer};

/// The body (no frame) of a value. A missing field takes its default; a field that the schema does not have is refused.
/// `Contract` error with the field's path.
pub fn to_avro(schema: &AvroSchema, value: &Value) -> Result<Vec<u8>> {
    let tree = schema.tree()?;
    let mut body = Vec::new();
    Writer { tree: &tree, missing: Missing::Default }.write(tree.root, value, &mut body).map_err(not_fitting)?;
    Ok(body)
}

/// The value of a body (no frame). `Contract` error with the field's path where the bytes are not of this schema.
pub fn from_avro(schema: &AvroSchema, body: &[u8]) -> Result<Value> {
    let tree = schema.tree()?;
    let mut cursor = Cursor::new(body);
    let value = read::read(&tree, tree.root, &mut cursor, 0).map_err(not_fitting)?;
    match cursor.rest.len() {
        0 => Ok(value),
        left => Err(Error::contract(format!("{left} bytes are left over after the value"))),
    }
}

/// Whether both are the same value of this schema, however it is written (`3` is `3.0` where the schema has a double; `0.0` is
/// `-0.0`, NaN is NaN; maps have no order). A field that is missing is null where the schema allows null, else its default.
/// What does not fit the schema is the same as nothing.
pub fn same(schema: &AvroSchema, expected: &Value, actual: &Value) -> bool {
    let Ok(tree) = schema.tree() else { return false };
    match (canonical(&tree, expected), canonical(&tree, actual)) {
        (Ok(expected), Ok(actual)) => equal(&expected, &actual),
        _ => false,
    }
}

/// The one way that [`from_avro`] writes the value.
fn canonical(tree: &Tree, value: &Value) -> Result<Value, Fault> {
    let mut body = Vec::new();
    Writer { tree, missing: Missing::Null }.write(tree.root, value, &mut body)?;
    read::read(tree, tree.root, &mut Cursor::new(&body), 0)
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.as_f64() == Some(0.0) && b.as_f64() == Some(0.0)),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

/// A field's default as the schema writes it: bytes and fixed are text of code points below 256, a union's is of one of its types.
pub(crate) fn write_default(tree: &Tree, of: NodeId, default: &Value, out: &mut Vec<u8>) -> Result<(), Fault> {
    Writer { tree, missing: Missing::Default }.write_default(of, default, out)
}

fn not_fitting(fault: Fault) -> Error {
    Error::contract(fault.to_string())
}
