//! Columns to framed Avro values.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::codec::Encoded;
use crate::contract::{AvroSchema, SchemaId};
use crate::error::{Error, Result};

/// Encodes rows under one registered schema.
#[derive(Debug)]
pub struct AvroEncoder {}

impl AvroEncoder {
    pub fn new(schema: &AvroSchema, id: SchemaId, rows: &SchemaRef) -> Result<AvroEncoder> {
        let _ = (schema, id, rows);
        Err(Error::failed("not yet"))
    }

    pub fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        let _ = rows;
        Err(Error::failed("not yet"))
    }
}
