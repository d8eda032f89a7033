//! Framed Avro values to columns.

use std::sync::Arc;

use crate::codec::Decoded;
use crate::contract::{AvroSchema, Contract, SchemaId};
use crate::error::{Error, Result};
use crate::record::Bytes;

/// Decodes the values of one subject under a pinned reader.
#[derive(Debug)]
pub struct AvroDecoder {}

impl AvroDecoder {
    pub fn new(reader: &Contract, columns: &[usize]) -> Result<AvroDecoder> {
        let _ = (reader, columns);
        Err(Error::failed("not yet"))
    }

    pub fn missing(&self, values: &Bytes) -> Vec<SchemaId> {
        let _ = values;
        Vec::new()
    }

    pub fn add_writer(&mut self, id: SchemaId, schema: Option<Arc<AvroSchema>>) -> Result<()> {
        let _ = (id, schema);
        Ok(())
    }

    pub fn decode(&mut self, values: &Bytes) -> Result<Decoded> {
        let _ = values;
        Err(Error::failed("not yet"))
    }
}
