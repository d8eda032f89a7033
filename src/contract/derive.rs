//! Sink schemas from the columns that a query yields.

use std::sync::Arc;

use arrow::datatypes::FieldRef;

use super::{AvroSchema, Contract};
use crate::error::{Error, Result};

/// One column of a sink.
#[derive(Clone, Debug)]
pub struct DerivedField {
    pub field: FieldRef,
    /// Where the column comes from unchanged: a contract and the index of its field.
    pub origin: Option<(Arc<Contract>, usize)>,
}

/// The value schema of a sink.
pub fn derive_value(record_name: &str, namespace: Option<&str>, fields: &[DerivedField]) -> Result<AvroSchema> {
    let _ = (record_name, namespace, fields);
    Err(Error::failed("not yet"))
}

/// The key schema of a sink: a record `<sink>_key`.
pub fn derive_key(sink: &str, namespace: Option<&str>, fields: &[DerivedField]) -> Result<AvroSchema> {
    derive_value(&format!("{sink}_key"), namespace, fields)
}
