//! Until contract::derive is there: plain types only.

use arrow::datatypes::{DataType, TimeUnit};
use serde_json::{Value, json};

use crate::contract::AvroSchema;
use crate::contract::derive::DerivedField;
use crate::error::{Error, Result};

pub(super) fn derive_value(record: &str, namespace: Option<&str>, fields: &[DerivedField]) -> Result<AvroSchema> {
    match crate::contract::derive::derive_value(record, namespace, fields) {
        Err(e) if e.message == "not yet" => {}
        other => return other,
    }
    let fields = fields.iter().map(|f| {
        let inner = avro(f.field.data_type())?;
        Ok(if f.field.is_nullable() {
            json!({"name": f.field.name(), "type": ["null", inner], "default": null})
        } else {
            json!({"name": f.field.name(), "type": inner})
        })
    });
    let fields = fields.collect::<Result<Vec<_>>>()?;
    AvroSchema::parse(&json!({"type": "record", "name": record, "fields": fields}).to_string())
}

pub(super) fn derive_key(record: &str, namespace: Option<&str>, fields: &[DerivedField]) -> Result<AvroSchema> {
    derive_value(&format!("{record}_key"), namespace, fields)
}

fn avro(data_type: &DataType) -> Result<Value> {
    Ok(match data_type {
        DataType::Boolean => json!("boolean"),
        DataType::Int32 => json!("int"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Utf8 => json!("string"),
        DataType::Binary => json!("bytes"),
        DataType::Date32 => json!({"type": "int", "logicalType": "date"}),
        DataType::Decimal128(p, s) => json!({"type": "bytes", "logicalType": "decimal", "precision": p, "scale": s}),
        DataType::Timestamp(TimeUnit::Millisecond, zone) => {
            json!({"type": "long", "logicalType": if zone.is_some() { "timestamp-millis" } else { "local-timestamp-millis" }})
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            json!({"type": "long", "logicalType": if zone.is_some() { "timestamp-micros" } else { "local-timestamp-micros" }})
        }
        other => return Err(Error::failed(format!("no Avro type for {other} yet"))),
    })
}
