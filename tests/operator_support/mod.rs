//! Rows and expressions for tests of operators.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod changelog;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int8Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator as Op;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use tidemill::operator::Output;
use tidemill::record::{Batch, Partition};

pub type Expr = Arc<dyn PhysicalExpr>;

pub fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(|(name, t)| Field::new(*name, t.clone(), true)).collect::<Vec<_>>()))
}

pub fn field(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

pub fn col(schema: &Schema, name: &str) -> Expr {
    Arc::new(Column::new(name, schema.index_of(name).unwrap()))
}

pub fn lit(value: impl Into<ScalarValue>) -> Expr {
    Arc::new(Literal::new(value.into()))
}

pub fn op(left: Expr, op: Op, right: Expr) -> Expr {
    Arc::new(BinaryExpr::new(left, op, right))
}

pub fn millis() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into()))
}

pub fn column(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

pub fn rows(schema: &SchemaRef, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

/// Source rows at offsets from 0, without watermark.
pub fn batch(rows: RecordBatch) -> Batch {
    let count = rows.num_rows();
    Batch {
        rows,
        source: 0,
        partition: Partition(0),
        offsets: Int64Array::from_iter_values(0..count as i64),
        event_times: Int64Array::from_value(0, count),
        row_watermarks: Int64Array::from_value(i64::MIN, count),
        weights: None,
        derived: false,
    }
}

pub fn weighted(batch: Batch, weights: &[i8]) -> Batch {
    Batch { weights: Some(Int8Array::from(weights.to_vec())), ..batch }
}

/// One line per row: the weight where there are weights, then the values.
pub fn lines(batches: &[Batch]) -> Vec<String> {
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| line(batch, row))).collect()
}

fn line(batch: &Batch, row: usize) -> String {
    let mut parts: Vec<String> = batch.weights.iter().map(|w| format!("{:+}", w.value(row))).collect();
    parts.extend(batch.rows.columns().iter().map(|c| value(c, row)));
    parts.join(" ")
}

pub fn value(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default().with_null("NULL");
    ArrayFormatter::try_new(column, &options).unwrap().value(row).to_string()
}

pub fn rejected(out: &Output) -> Vec<String> {
    out.rejected.iter().map(|r| format!("{} {} {}", r.offset, r.class, r.message)).collect()
}
