//! Positions as columns: what a row carries with it, while an operator holds rows of several origins together.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int8Array, Int32Array, Int64Array, RecordBatch, UInt16Array};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, UInt16Type};
use arrow::error::ArrowError;

use super::evaluate::{broken, record_batch, row_json};
use super::{Output, Rejected, Withdrawn};
use crate::error::{BadClass, Result};
use crate::record::{Batch, Offset, Partition};

/// How many columns a position is.
pub const COLUMNS: usize = 6;

/// Names and types of the columns, in order.
pub const FIELDS: [(&str, DataType); COLUMNS] = [
    ("_event_time", DataType::Int64),
    ("_row_watermark", DataType::Int64),
    ("_source", DataType::UInt16),
    ("_partition", DataType::Int32),
    ("_offset", DataType::Int64),
    ("_derived", DataType::Boolean),
];

/// Positions of rows of any origin.
#[derive(Clone)]
pub struct Positions {
    pub event_times: Int64Array,
    pub row_watermarks: Int64Array,
    pub sources: UInt16Array,
    pub partitions: Int32Array,
    pub offsets: Int64Array,
    pub derived: BooleanArray,
}

/// The schema of rows with their positions behind them.
pub fn schema(rows: &Schema) -> SchemaRef {
    let positions = FIELDS.into_iter().map(|(name, data_type)| Arc::new(Field::new(name, data_type, false)));
    Arc::new(Schema::new(rows.fields().iter().cloned().chain(positions).collect::<Vec<_>>()))
}

/// A batch's rows with their positions behind them.
pub fn attach(batch: &Batch, schema: &SchemaRef) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let mut columns = batch.rows.columns().to_vec();
    columns.extend([
        Arc::new(batch.event_times.clone()) as ArrayRef,
        Arc::new(batch.row_watermarks.clone()),
        Arc::new(UInt16Array::from_value(batch.source, rows)),
        Arc::new(Int32Array::from_value(batch.partition.0, rows)),
        Arc::new(batch.offsets.clone()),
        Arc::new(BooleanArray::from(vec![batch.derived; rows])),
    ]);
    record_batch(schema, columns, rows).map_err(|e| broken("positions", e))
}

impl Positions {
    /// From the last columns of rows.
    pub fn of(rows: &RecordBatch) -> Positions {
        Positions::from_columns(&rows.columns()[rows.num_columns() - COLUMNS..])
    }

    /// From columns that [`attach`] made.
    pub fn from_columns(columns: &[ArrayRef]) -> Positions {
        Positions {
            event_times: columns[0].as_primitive::<Int64Type>().clone(),
            row_watermarks: columns[1].as_primitive::<Int64Type>().clone(),
            sources: columns[2].as_primitive::<UInt16Type>().clone(),
            partitions: columns[3].as_primitive::<Int32Type>().clone(),
            offsets: columns[4].as_primitive::<Int64Type>().clone(),
            derived: columns[5].as_boolean().clone(),
        }
    }

    fn origin(&self, row: usize) -> (u16, i32, bool) {
        (self.sources.value(row), self.partitions.value(row), self.derived.value(row))
    }

    /// Rows as batches: runs of one origin, in order.
    pub fn batches(&self, rows: &RecordBatch, weights: Option<&Int8Array>, to: &mut Vec<Batch>) {
        let mut from = 0;
        for row in 1..=rows.num_rows() {
            if row < rows.num_rows() && self.origin(row) == self.origin(from) {
                continue;
            }
            let (source, partition, derived) = self.origin(from);
            let length = row - from;
            to.push(Batch {
                rows: rows.slice(from, length),
                source,
                partition: Partition(partition),
                offsets: self.offsets.slice(from, length),
                event_times: self.event_times.slice(from, length),
                row_watermarks: self.row_watermarks.slice(from, length),
                weights: weights.map(|weights| weights.slice(from, length)).filter(|w| w.values().iter().any(|w| *w < 0)),
                derived,
            });
            from = row;
        }
    }

    pub fn filter(&self, keep: &BooleanArray) -> Result<Positions, ArrowError> {
        let columns = [
            Arc::new(self.event_times.clone()) as ArrayRef,
            Arc::new(self.row_watermarks.clone()),
            Arc::new(self.sources.clone()),
            Arc::new(self.partitions.clone()),
            Arc::new(self.offsets.clone()),
            Arc::new(self.derived.clone()),
        ];
        let columns = columns.iter().map(|column| filter(column, keep)).collect::<Result<Vec<_>, _>>()?;
        Ok(Positions::from_columns(&columns))
    }

    /// An expression failed on a row: a source row becomes a dead letter, a derived one is withdrawn. Its columns are row `at` of
    /// `rows`.
    pub fn reject(&self, row: usize, rows: &RecordBatch, at: usize, message: String, out: &mut Output) {
        if self.derived.value(row) {
            out.withdrawn.push(Withdrawn { key: row_json(rows, at), message });
            return;
        }
        let rejected = Rejected {
            source: self.sources.value(row),
            partition: Partition(self.partitions.value(row)),
            offset: Offset(self.offsets.value(row)),
            class: BadClass::Expression,
            message,
        };
        // Copies of one record (hopping windows) stand next to one another: one dead letter is enough.
        if out.rejected.last() != Some(&rejected) {
            out.rejected.push(rejected);
        }
    }
}
