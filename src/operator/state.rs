//! What the stores of operators have in common.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::Schema;

use crate::error::{Error, Result};

/// Refuses rows that another version of the pipeline wrote.
pub fn check_schema(own: &Schema, rows: &RecordBatch) -> Result<()> {
    if rows.schema_ref().fields() == own.fields() {
        return Ok(());
    }
    Err(Error::corrupt(format!("the state has columns {}, its changelog {}", names(own), names(rows.schema_ref())))
        .hint("the state was written by another version of the pipeline: reset it"))
}

fn names(schema: &Schema) -> String {
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect::<Vec<_>>().join(", ")
}

/// The state column `at` as an array of its type.
///
/// # Errors
/// `Corrupt` when the column has another type.
pub fn state_column<A: Array + 'static>(columns: &[ArrayRef], at: usize) -> Result<&A> {
    columns[at]
        .as_any()
        .downcast_ref::<A>()
        .ok_or_else(|| Error::corrupt(format!("a state column has type {}", columns[at].data_type())))
}
