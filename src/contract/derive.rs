//! Sink schemas from the columns that a query yields.
//!
//! A column that passes unchanged keeps its Avro field as it was (enum, fixed, logical type, default, doc); any other gets the Avro
//! type of its Arrow type, in a union with null where it is nullable. Named types are written out once, at their first use.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use serde_json::{Map, Value, json};

use super::text::{Definitions, Inliner, full_name, namespace_of};
use super::{AvroSchema, Contract};
use crate::error::{Error, Result};

/// One column of a sink.
#[derive(Clone, Debug)]
pub struct DerivedField {
    pub field: FieldRef,
    /// Where the column comes from unchanged: a contract and the index of its field.
    pub origin: Option<(Arc<Contract>, usize)>,
}

/// The value schema of a sink. Characters of the name that Avro does not allow become `_`.
///
/// # Errors
/// `Contract` for a column whose name or type Avro does not have, and for two named types of one name that differ.
pub fn derive_value(record_name: &str, namespace: Option<&str>, fields: &[DerivedField]) -> Result<AvroSchema> {
    let name = avro_name(record_name);
    let full = full_name(&name, namespace.unwrap_or_default());
    let known = definitions(fields)?;
    let mut inliner = Inliner::new(&known).within(&full);
    let mut written: Vec<Value> = Vec::with_capacity(fields.len());
    for column in fields {
        let field = match origin_field(column) {
            Some((field, around)) => kept(column, field, &around, &mut inliner)?,
            None => derived(column, &name)?,
        };
        written.push(field);
    }
    let mut record = Map::new();
    record.insert("type".into(), "record".into());
    record.insert("name".into(), name.into());
    if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
        record.insert("namespace".into(), namespace.into());
    }
    record.insert("fields".into(), written.into());
    AvroSchema::parse(&Value::Object(record).to_string()).map_err(|e| e.context(format!("schema of \"{record_name}\"")))
}

/// The key schema of a sink: a record `<sink>_key`.
pub fn derive_key(sink: &str, namespace: Option<&str>, fields: &[DerivedField]) -> Result<AvroSchema> {
    derive_value(&format!("{sink}_key"), namespace, fields)
}

/// A name as the Avro specification has it: letters, digits and `_`, not beginning with a digit.
fn avro_name(name: &str) -> String {
    let mut out: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if out.is_empty() || out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

/// Named types that columns carry along from their contracts.
fn definitions(fields: &[DerivedField]) -> Result<Definitions> {
    let mut known = Definitions::default();
    for column in fields {
        let (Some((contract, _)), Some((field, around))) = (&column.origin, origin_field(column)) else { continue };
        let mut own = Definitions::default();
        own.collect(&contract.schema.json(), "");
        let of = field.get("type").cloned().unwrap_or_default();
        known.merge(own.used_by(&of, &around)).map_err(|name| {
            Error::contract(format!(
                "type \"{name}\" of subject \"{}\" is another one than that of an earlier column",
                contract.subject
            ))
            .hint("cast one of the columns, so that it no longer carries its Avro type")
        })?;
    }
    Ok(known)
}

/// The Avro field that a column comes from, and the namespace around it; `None` where the contract is not a record.
fn origin_field(column: &DerivedField) -> Option<(Map<String, Value>, String)> {
    let (contract, index) = column.origin.as_ref()?;
    let schema = contract.schema.json();
    let record = schema.as_object()?;
    let field = record.get("fields")?.as_array()?.get(*index)?.as_object()?.clone();
    let name = record.get("name")?.as_str()?;
    let own = record.get("namespace").and_then(Value::as_str).unwrap_or_default();
    Some((field, namespace_of(&full_name(name, own)).to_string()))
}

fn kept(column: &DerivedField, mut field: Map<String, Value>, around: &str, inliner: &mut Inliner<'_>) -> Result<Value> {
    let name = column.field.name();
    check_name(name)?;
    if field.get("name").and_then(Value::as_str) != Some(name) {
        // Aliases are former names of the field, not of the column that was renamed.
        field.remove("aliases");
        field.insert("name".into(), name.as_str().into());
    }
    let of = field.get("type").cloned().unwrap_or_default();
    let of = inliner.write(&of, around).map_err(|e| e.context(format!("column \"{name}\"")))?;
    let (contract, index) = column.origin.as_ref().expect("the caller found the origin's field");
    if column.field.is_nullable() && !contract.columns.field(*index).is_nullable() {
        field.remove("default");
        field.insert("type".into(), nullable(of));
        field.insert("default".into(), Value::Null);
    } else {
        field.insert("type".into(), of);
    }
    Ok(Value::Object(field))
}

fn nullable(of: Value) -> Value {
    match of {
        Value::Array(mut branches) => {
            branches.insert(0, "null".into());
            Value::Array(branches)
        }
        of => json!(["null", of]),
    }
}

fn derived(column: &DerivedField, record: &str) -> Result<Value> {
    let field = &column.field;
    check_name(field.name())?;
    write_field(field, &format!("{record}_{}", field.name()), field.name())
}

fn write_field(field: &Field, type_name: &str, path: &str) -> Result<Value> {
    check_name(field.name())?;
    let of = avro_type(field.data_type(), type_name, path)?;
    Ok(match field.is_nullable() {
        true => json!({"name": field.name(), "type": ["null", of], "default": null}),
        false => json!({"name": field.name(), "type": of}),
    })
}

/// An element of an array or a map.
fn element(field: &Field, type_name: &str, path: &str) -> Result<Value> {
    let of = avro_type(field.data_type(), type_name, path)?;
    Ok(if field.is_nullable() { json!(["null", of]) } else { of })
}

fn avro_type(of: &DataType, type_name: &str, path: &str) -> Result<Value> {
    let logical = |base: &str, name: &str| json!({"type": base, "logicalType": name});
    Ok(match of {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => "int".into(),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "long".into(),
        DataType::Float16 | DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "bytes".into(),
        DataType::Dictionary(_, values) => avro_type(values, type_name, path)?,
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) if *scale >= 0 => {
            json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
        }
        DataType::Date32 => logical("int", "date"),
        DataType::Time32(TimeUnit::Millisecond) => logical("int", "time-millis"),
        DataType::Time64(TimeUnit::Microsecond) => logical("long", "time-micros"),
        DataType::Timestamp(unit, zone) => {
            let unit = match unit {
                TimeUnit::Second | TimeUnit::Millisecond => "millis",
                TimeUnit::Microsecond => "micros",
                TimeUnit::Nanosecond => "nanos",
            };
            let local = if zone.is_some() { "" } else { "local-" };
            logical("long", &format!("{local}timestamp-{unit}"))
        }
        DataType::List(item) | DataType::LargeList(item) => {
            json!({"type": "array", "items": element(item, &format!("{type_name}_item"), &format!("{path}[]"))?})
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 && fields[0].data_type() == &DataType::Utf8 => {
                json!({"type": "map", "values": element(&fields[1], &format!("{type_name}_value"), &format!("{path}{{}}"))?})
            }
            _ => return Err(no_avro(of, path)),
        },
        DataType::Struct(members) => {
            let member = |m: &FieldRef| write_field(m, &format!("{type_name}_{}", m.name()), &format!("{path}.{}", m.name()));
            let members = members.iter().map(member).collect::<Result<Vec<_>>>()?;
            json!({"type": "record", "name": avro_name(type_name), "fields": members})
        }
        _ => return Err(no_avro(of, path)),
    })
}

fn no_avro(of: &DataType, path: &str) -> Error {
    Error::contract(format!("column \"{path}\": Avro has no type for {of}"))
        .hint("cast it, for example to STRING or TIMESTAMP(3)")
}

fn check_name(name: &str) -> Result<()> {
    if name == avro_name(name) {
        return Ok(());
    }
    Err(Error::contract(format!("column \"{name}\" has a name that Avro does not allow"))
        .hint(format!("give it another one: ... AS {}", avro_name(name))))
}
