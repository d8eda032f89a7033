//! Keys to columns and back: Avro under a contract, or one raw value.

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, SchemaRef};
use std::sync::Arc;

use crate::codec::{Decoded, Encoded, KeyFormat};
use crate::contract::{AvroSchema, Contract, SchemaId};
use crate::error::{Error, Result};
use crate::record::Bytes;

/// Decodes the keys of one topic.
#[derive(Debug)]
pub struct KeyDecoder {}

impl KeyDecoder {
    /// `fields` are the resulting columns, in order. Avro: `columns` are the contract's field indexes that they come from. Raw
    /// formats: `contract` is `None`, `columns` is empty or `[0]`, and there is at most one field.
    pub fn new(format: KeyFormat, contract: Option<&Contract>, columns: &[usize], fields: &[FieldRef]) -> Result<KeyDecoder> {
        let _ = (format, contract, columns, fields);
        Err(Error::failed("keys are not decoded yet"))
    }

    pub fn missing(&self, keys: &Bytes) -> Vec<SchemaId> {
        let _ = keys;
        Vec::new()
    }

    pub fn add_writer(&mut self, id: SchemaId, schema: Option<Arc<AvroSchema>>) -> Result<()> {
        let _ = (id, schema);
        Ok(())
    }

    pub fn decode(&mut self, keys: &Bytes) -> Result<Decoded> {
        let _ = keys;
        Err(Error::failed("keys are not decoded yet"))
    }
}

/// Encodes the keys of one sink.
#[derive(Debug)]
pub struct KeyEncoder {}

impl KeyEncoder {
    /// `schema` is the registered key schema where the format is Avro. `rows` are the key columns in order; a raw format takes one.
    pub fn new(format: KeyFormat, schema: Option<(&AvroSchema, SchemaId)>, rows: &SchemaRef) -> Result<KeyEncoder> {
        let _ = (format, schema, rows);
        Err(Error::failed("keys are not encoded yet"))
    }

    pub fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        let _ = rows;
        Err(Error::failed("keys are not encoded yet"))
    }
}
