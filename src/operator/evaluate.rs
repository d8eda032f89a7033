//! Evaluates expressions so that a row on which one fails harms no other row.
//!
//! An expression fails as a whole batch. [`isolate`] then halves the batch until it knows which rows fail alone, and runs over the
//! others. Nothing is paid for a batch that does not fail.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{
    DataType, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;

use super::{Output, Rejected, Withdrawn};
use crate::error::{BadClass, Error, Result};
use crate::record::{Batch, Offset, Timestamp};

/// What [`isolate`] found.
pub struct Isolated<T> {
    pub value: T,
    /// Rows that fail alone, ascending, with the message.
    pub failures: Vec<(usize, String)>,
    /// The rows that `value` is about; `None`: all.
    pub keep: Option<BooleanArray>,
}

/// Runs `work` over all rows; if it fails, over those that do not fail alone.
///
/// # Errors
/// When `work` fails on rows none of which fails alone: a broken plan, not a bad row.
pub fn isolate<T>(rows: &RecordBatch, work: impl Fn(&RecordBatch) -> Result<T, DataFusionError>) -> Result<Isolated<T>> {
    let error = match work(rows) {
        Ok(value) => return Ok(Isolated { value, failures: Vec::new(), keep: None }),
        Err(error) => error,
    };
    let mut failures = Vec::new();
    find_failures(rows, 0, error, &work, &mut failures);
    let mut keep = vec![true; rows.num_rows()];
    for (row, _) in &failures {
        keep[*row] = false;
    }
    let keep = BooleanArray::from(keep);
    let good = filter_record_batch(rows, &keep).map_err(|e| broken("filter", e))?;
    let value = work(&good).map_err(|e| broken("an expression fails on rows that do not fail alone", message(&e)))?;
    Ok(Isolated { value, failures, keep: Some(keep) })
}

fn find_failures<T>(
    rows: &RecordBatch,
    first: usize,
    error: DataFusionError,
    work: &impl Fn(&RecordBatch) -> Result<T, DataFusionError>,
    failures: &mut Vec<(usize, String)>,
) {
    match rows.num_rows() {
        0 => {}
        1 => failures.push((first, message(&error))),
        n => {
            for (from, length) in [(0, n / 2), (n / 2, n - n / 2)] {
                let half = rows.slice(from, length);
                if let Err(error) = work(&half) {
                    find_failures(&half, first + from, error, work, failures);
                }
            }
        }
    }
}

/// The values of an expression, one per row.
pub fn evaluate(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    expr.evaluate(rows)?.into_array(rows.num_rows())
}

/// A predicate's truth per row: NULL counts as false.
pub fn evaluate_predicate(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<BooleanArray, DataFusionError> {
    let values = evaluate(expr, rows)?;
    let Some(truth) = values.as_boolean_opt() else {
        return Err(DataFusionError::Internal(format!("a condition of type {}", values.data_type())));
    };
    Ok(match truth.nulls() {
        Some(nulls) if nulls.null_count() > 0 => BooleanArray::new(truth.values() & nulls.inner(), None),
        _ => BooleanArray::new(truth.values().clone(), None),
    })
}

/// Columns computed from rows, as a batch of `schema`. A NULL in a column that may not be null fails its row.
pub fn evaluate_columns(
    exprs: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
    rows: &RecordBatch,
) -> Result<RecordBatch, DataFusionError> {
    let columns = exprs.iter().map(|expr| evaluate(expr, rows)).collect::<Result<Vec<_>, _>>()?;
    record_batch(schema, columns, rows.num_rows()).map_err(DataFusionError::from)
}

/// A batch that may have no column.
pub fn record_batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

/// Whether every expression is a plain column, so that nothing can fail.
pub fn columns_only(exprs: &[Arc<dyn PhysicalExpr>]) -> Option<Vec<usize>> {
    exprs.iter().map(|expr| expr.downcast_ref::<Column>().map(Column::index)).collect()
}

/// An error's text without the library's prefixes: lower case at the start.
pub fn message(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::DivideByZero => "division by zero".to_owned(),
            ArrowError::ComputeError(text)
            | ArrowError::CastError(text)
            | ArrowError::ParseError(text)
            | ArrowError::InvalidArgumentError(text)
            | ArrowError::ArithmeticOverflow(text) => text.clone(),
            other => other.to_string(),
        },
        DataFusionError::Execution(text) => text.clone(),
        root => root.strip_backtrace(),
    };
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if !text.starts_with(|c: char| c.is_uppercase()) || letters.as_str().starts_with(char::is_uppercase) => {
            format!("{first}{}", letters.as_str())
        }
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "unknown error".to_owned(),
    }
}

/// A fault of the plan or of this code, never of a row.
pub fn broken(what: &str, error: impl std::fmt::Display) -> Error {
    Error::failed(format!("{what}: {error}"))
}

/// Removes rows on which an expression failed: source rows become dead letters, derived ones are withdrawn.
pub fn reject(batch: &Batch, failures: &[(usize, String)], class: BadClass, out: &mut Output) {
    let mut last = None;
    for (row, message) in failures {
        // A row that is taken back was reported when it came.
        if batch.weight(*row) < 0 {
            continue;
        }
        if batch.derived {
            out.withdrawn.push(Withdrawn { key: row_json(&batch.rows, *row), message: message.clone() });
            continue;
        }
        let offset = Offset(batch.offsets.value(*row));
        // Copies of one record (hopping windows) stand next to one another: one dead letter is enough.
        if last.replace(offset) != Some(offset) {
            let (source, partition) = (batch.source, batch.partition);
            out.rejected.push(Rejected { source, partition, offset, class, message: message.clone() });
        }
    }
}

/// One row as a JSON object: numbers and booleans as they are, all else as text.
pub fn row_json(rows: &RecordBatch, row: usize) -> String {
    let fields = rows.schema_ref().fields().iter().zip(rows.columns());
    let object: serde_json::Map<_, _> = fields.map(|(field, column)| (field.name().clone(), value_json(column, row))).collect();
    serde_json::Value::Object(object).to_string()
}

fn value_json(column: &ArrayRef, row: usize) -> serde_json::Value {
    if column.is_null(row) {
        return serde_json::Value::Null;
    }
    let one = column.slice(row, 1);
    match column.data_type() {
        DataType::Boolean => one.as_boolean().value(0).into(),
        DataType::UInt64 => one.as_primitive::<arrow::datatypes::UInt64Type>().value(0).into(),
        t if t.is_integer() => match cast(&one, &DataType::Int64) {
            Ok(number) => number.as_primitive::<arrow::datatypes::Int64Type>().value(0).into(),
            Err(error) => error.to_string().into(),
        },
        t if t.is_floating() => match cast(&one, &DataType::Float64) {
            Ok(number) => number.as_primitive::<arrow::datatypes::Float64Type>().value(0).into(),
            Err(error) => error.to_string().into(),
        },
        DataType::Timestamp(_, _) => match micros(&one) {
            Ok(time) if time.overflowed.is_empty() => Timestamp(time.values.value(0)).to_string().into(),
            _ => "out of range".into(),
        },
        _ => match ArrayFormatter::try_new(&one, &FormatOptions::default()) {
            Ok(text) => text.value(0).to_string().into(),
            Err(error) => error.to_string().into(),
        },
    }
}

/// A timestamp column as microseconds.
pub struct Micros {
    /// Null where the timestamp is; 0 where it does not fit.
    pub values: Int64Array,
    /// Rows that microseconds can't hold, ascending.
    pub overflowed: Vec<usize>,
}

/// Any timestamp type as microseconds, rounded down.
///
/// # Errors
/// The column is no timestamp: the planner checks that.
pub fn micros(column: &ArrayRef) -> Result<Micros> {
    let plain = |values| Micros { values, overflowed: Vec::new() };
    Ok(match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let times = column.as_primitive::<TimestampMicrosecondType>();
            plain(Int64Array::new(times.values().clone(), times.nulls().cloned()))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            plain(column.as_primitive::<TimestampNanosecondType>().unary(|nanos| nanos.div_euclid(1000)))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let times = column.as_primitive::<TimestampMillisecondType>();
            scaled(&Int64Array::new(times.values().clone(), times.nulls().cloned()), 1000)
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            let times = column.as_primitive::<TimestampSecondType>();
            scaled(&Int64Array::new(times.values().clone(), times.nulls().cloned()), 1_000_000)
        }
        other => return Err(Error::failed(format!("an event time of type {other}"))),
    })
}

/// Values times `factor`.
pub fn scaled(values: &Int64Array, factor: i64) -> Micros {
    let (low, high) = (i64::MIN / factor, i64::MAX / factor);
    if values.values().iter().all(|value| (low..=high).contains(value)) {
        return Micros { values: values.unary(|value| value * factor), overflowed: Vec::new() };
    }
    let fits = |row: &usize| values.is_null(*row) || (low..=high).contains(&values.value(*row));
    let overflowed = (0..values.len()).filter(|row| !fits(row)).collect();
    Micros { values: values.unary(|value| value.checked_mul(factor).unwrap_or(0)), overflowed }
}
