//! Records as people read them: bytes to JSON, by the registry's schema where they carry an id.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::show::{Row, row};
use crate::codec::{json, wire};
use crate::contract::{AvroSchema, Registry, WriterId};
use crate::record::{Chunk, Header, Timestamp};
use crate::store::changelog::from_ipc;

/// How bytes that carry no schema id are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// Avro where the wire format shows, else a JSON object, else text, else base64.
    #[default]
    Auto,
    String,
    Json,
    /// Eight bytes, big endian.
    Long,
    /// Four bytes, big endian.
    Int,
    /// base64.
    Bytes,
}

/// What bytes turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub value: Value,
    pub schema_id: Option<WriterId>,
    /// Why it is shown as bytes although it has a schema id.
    pub fault: Option<String>,
}

/// Decodes, remembering schemas.
pub struct Decoder<'a> {
    registry: &'a dyn Registry,
    known: BTreeMap<WriterId, Result<Arc<AvroSchema>, String>>,
}

impl<'a> Decoder<'a> {
    pub fn new(registry: &'a dyn Registry) -> Decoder<'a> {
        Decoder { registry, known: BTreeMap::new() }
    }

    /// `header` is the one that names the schema where the record has it: then that, and not what the bytes look like, tells.
    pub fn show(&mut self, bytes: Option<&[u8]>, form: Form, headers: &[Header], header: &str) -> Shown {
        let plain = |value: Value| Shown { value, schema_id: None, fault: None };
        let Some(bytes) = bytes else { return plain(Value::Null) };
        match form {
            Form::Auto => {
                let given = wire::HeaderIds::of_record(headers, header);
                match given.map_or_else(|| wire::unframe(bytes), |id| id.map(|id| (id, bytes))) {
                    Ok((id, body)) => match self.avro(id, body) {
                        Ok(value) => Shown { value, schema_id: Some(id), fault: None },
                        Err(fault) => Shown { value: base64(bytes), schema_id: Some(id), fault: Some(fault) },
                    },
                    Err(_) => plain(internal(bytes).unwrap_or_else(|| text(bytes))),
                }
            }
            Form::String => plain(Value::String(String::from_utf8_lossy(bytes).into_owned())),
            Form::Json => match serde_json::from_slice(bytes) {
                Ok(value) => plain(value),
                Err(e) => Shown { value: text(bytes), schema_id: None, fault: Some(format!("not JSON: {e}")) },
            },
            Form::Long => plain(bytes.try_into().map(|b| json!(i64::from_be_bytes(b))).unwrap_or_else(|_| base64(bytes))),
            Form::Int => plain(bytes.try_into().map(|b| json!(i32::from_be_bytes(b))).unwrap_or_else(|_| base64(bytes))),
            Form::Bytes => plain(base64(bytes)),
        }
    }

    fn avro(&mut self, id: WriterId, body: &[u8]) -> Result<Value, String> {
        let registry = self.registry;
        let schema = self.known.entry(id).or_insert_with(|| match registry.schema(id) {
            Ok(Some(schema)) => Ok(schema),
            Ok(None) => Err(format!("the registry knows no schema {id}")),
            Err(error) => Err(error.message),
        });
        json::from_avro(schema.as_ref().map_err(Clone::clone)?, body).map_err(|e| e.message)
    }

    /// A whole record; what is absent is left out.
    pub fn record(&mut self, chunk: &Chunk, at: usize, key_form: Form, value_form: Form) -> Row {
        let given = chunk.row_headers(at);
        let key = self.show(chunk.keys.get(at), key_form, given, wire::KEY_HEADER);
        let value = self.show(chunk.values.get(at), value_form, given, wire::VALUE_HEADER);
        let mut row = row! {
            "partition": chunk.partition.partition,
            "offset": chunk.offsets[at],
            "timestamp": time(chunk.timestamps[at]),
            "key": key.value,
            "value": value.value,
        };
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                row.insert(name.to_string(), value);
            }
        };
        put("key_schema_id", key.schema_id.map(|id| json!(id)));
        put("schema_id", value.schema_id.map(|id| json!(id)));
        put("key_fault", key.fault.map(Value::String));
        put("fault", value.fault.map(Value::String));
        put("headers", headers(chunk.row_headers(at)));
        row
    }
}

/// Milliseconds as RFC 3339; `None` where the record has no timestamp.
pub fn time(millis: i64) -> Option<String> {
    Timestamp::from_millis(millis).filter(|_| millis >= 0).map(|at| at.to_string())
}

/// Names may repeat, so this is a list.
fn headers(headers: &[Header]) -> Option<Value> {
    let one = |header: &Header| json!({ "name": header.name, "value": header.value.as_deref().map_or(Value::Null, text) });
    (!headers.is_empty()).then(|| headers.iter().map(one).collect())
}

/// UTF-8 as text, anything else as base64.
pub fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => Value::String(text.to_string()),
        _ => base64(bytes),
    }
}

pub fn base64(bytes: &[u8]) -> Value {
    json!({ "base64": STANDARD.encode(bytes) })
}

/// What Tidemill writes for itself: JSON records, and Arrow IPC streams, which are summarised.
fn internal(bytes: &[u8]) -> Option<Value> {
    if bytes.first() == Some(&b'{') {
        return serde_json::from_slice(bytes).ok();
    }
    // An IPC stream begins with a continuation marker.
    if !bytes.starts_with(&[0xff; 4]) {
        return None;
    }
    let batches = from_ipc(bytes).ok()?;
    let columns: Vec<String> = batches.first()?.schema().fields().iter().map(|field| field.name().clone()).collect();
    let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
    Some(json!({ "arrow": { "rows": rows, "columns": columns, "bytes": bytes.len() } }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{MemoryRegistry, SchemaId};

    #[test]
    fn bytes_show_as_what_they_are() {
        let registry = MemoryRegistry::new();
        let mut decoder = Decoder::new(&registry);
        assert_eq!(decoder.show(None, Form::Auto, &[], wire::VALUE_HEADER).value, Value::Null);
        assert_eq!(decoder.show(Some(b"ada"), Form::Auto, &[], wire::VALUE_HEADER).value, json!("ada"));
        assert_eq!(decoder.show(Some(&[0xfe, 1]), Form::Auto, &[], wire::VALUE_HEADER).value, json!({ "base64": "/gE=" }));
        assert_eq!(decoder.show(Some(&7i64.to_be_bytes()), Form::Long, &[], wire::VALUE_HEADER).value, json!(7));
        assert_eq!(decoder.show(Some(&[1]), Form::Long, &[], wire::VALUE_HEADER).value, json!({ "base64": "AQ==" }));
        assert_eq!(decoder.show(Some(b"{\"a\":1}"), Form::Auto, &[], wire::VALUE_HEADER).value, json!({ "a": 1 }));
        assert_eq!(decoder.show(Some(b"[1, 2]"), Form::Json, &[], wire::VALUE_HEADER).value, json!([1, 2]));
        let broken = decoder.show(Some(b"{\"a\":"), Form::Json, &[], wire::VALUE_HEADER);
        assert_eq!(broken.value, json!("{\"a\":"));
        assert!(broken.fault.unwrap().contains("not JSON"));
        let unknown = decoder.show(Some(&[0, 0, 0, 0, 9, 1]), Form::Auto, &[], wire::VALUE_HEADER);
        assert_eq!(unknown.schema_id, Some(SchemaId(9).into()));
        assert!(unknown.fault.unwrap().contains("no schema 9"));
    }
}
