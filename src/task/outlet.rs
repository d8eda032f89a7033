//! The way out: rows of one sink to keys and values as bytes.

use arrow::array::AsArray;
use arrow::array::{Array, Int8Array, RecordBatch, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};

use crate::codec::Encoded;
use crate::codec::avro::AvroEncoder;
use crate::codec::key::KeyEncoder;
use crate::codec::partition::murmur2;
use crate::contract::SchemaId;
use crate::error::{BadClass, Error, Result};
use crate::operator::{Output, Rejected, Withdrawn};
use crate::record::{Batch, Offset, Outgoing, Timestamp, Topic};
use crate::topology::Sink;

/// Where a sink's rows go in this run: the live topic, or a shadow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub topic: Topic,
    pub partitions: i32,
    pub value_id: SchemaId,
    /// For Avro keys.
    pub key_id: Option<SchemaId>,
    /// Records whose key and value are larger than this are refused (class `too_large`).
    pub max_record_bytes: usize,
}

/// One sink of one task.
pub struct Outlet {
    pub target: Target,
    /// What was encoded since the last commit.
    pub outgoing: Outgoing,
    value: AvroEncoder,
    value_columns: Vec<usize>,
    key: Option<(KeyEncoder, Vec<usize>)>,
    timestamp_column: Option<usize>,
}

impl Outlet {
    pub fn new(sink: &Sink, target: Target) -> Result<Outlet> {
        let project = |columns: &[usize]| {
            sink.schema
                .project(columns)
                .map(std::sync::Arc::new)
                .map_err(|e| Error::config(format!("sink \"{}\": {e}", sink.name)))
        };
        let value = AvroEncoder::new(&sink.value_schema, target.value_id, &project(&sink.value_columns)?)
            .map_err(|e| e.context(format!("sink \"{}\"", sink.name)))?;
        let key = match &sink.key {
            None => None,
            Some(key) => {
                let avro = match (&key.avro, target.key_id) {
                    (Some((_, schema)), Some(id)) => Some((schema.as_ref(), id)),
                    _ => None,
                };
                let encoder = KeyEncoder::new(key.format, avro, &project(&key.columns)?)
                    .map_err(|e| e.context(format!("sink \"{}\" key", sink.name)))?;
                Some((encoder, key.columns.clone()))
            }
        };
        Ok(Outlet {
            target,
            outgoing: Outgoing::default(),
            value,
            value_columns: sink.value_columns.clone(),
            key,
            timestamp_column: sink.timestamp_column,
        })
    }

    /// Encodes a batch. A row that can't be encoded, or is too large, is rejected (withdrawn, if an operator made it).
    pub fn write(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let arrow = |e: arrow::error::ArrowError| Error::corrupt(format!("sink topic \"{}\": {e}", self.target.topic));
        let timestamps = self.timestamps(batch)?;
        let (inserted, retracted) = split(batch.weights.as_ref(), rows);
        let mut values: Vec<Option<usize>> = vec![None; if retracted.is_empty() { 0 } else { rows }];
        let live = match &inserted {
            None => batch.rows.clone(),
            Some(inserted) => arrow::compute::take_record_batch(&batch.rows, inserted).map_err(arrow)?,
        };
        let Encoded { values: bytes, kept, bad } = self.value.encode(&live.project(&self.value_columns).map_err(arrow)?)?;
        let mut refused: Vec<(usize, BadClass, String)> = Vec::new();
        let row_of = |at: u32| inserted.as_ref().map_or(at as usize, |rows| rows.value(at as usize) as usize);
        for bad in bad {
            refused.push((row_of(bad.row), bad.class, bad.message));
        }
        // Rows that go out, in order, each with the place of its value (none for a tombstone).
        let mut go: Vec<(usize, Option<usize>)> = Vec::with_capacity(kept.len() + retracted.len());
        if retracted.is_empty() {
            go.extend(kept.iter().enumerate().map(|(at, row)| (row_of(*row), Some(at))));
        } else {
            for (at, row) in kept.iter().enumerate() {
                values[row_of(*row)] = Some(at);
            }
            let gone: std::collections::HashSet<usize> = refused.iter().map(|(row, ..)| *row).collect();
            go.extend((0..rows).filter(|row| !gone.contains(row)).map(|row| (row, values[row])));
        }
        match &mut self.key {
            None => {
                for (row, value) in go {
                    let partition = batch.partition.0.rem_euclid(self.target.partitions);
                    let value = value.and_then(|at| bytes.get(at));
                    if value.map_or(0, <[u8]>::len) > self.target.max_record_bytes {
                        refused.push(too_large(row, value, self.target.max_record_bytes));
                        continue;
                    }
                    self.outgoing.push(partition, timestamps[row], None, value, Vec::new());
                }
            }
            Some((encoder, columns)) => {
                let Encoded { values: keys, kept: key_rows, bad } =
                    encoder.encode(&batch.rows.project(columns).map_err(arrow)?)?;
                refused.extend(bad.into_iter().map(|bad| (bad.row as usize, bad.class, bad.message)));
                let all = key_rows.len() == rows;
                for (row, value) in go {
                    let key_at = if all {
                        row
                    } else {
                        match key_rows.binary_search(&(row as u32)) {
                            Ok(at) => at,
                            Err(_) => continue,
                        }
                    };
                    let (key, value) = (keys.get(key_at), value.and_then(|at| bytes.get(at)));
                    let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
                    if size > self.target.max_record_bytes {
                        refused.push(too_large(row, value, self.target.max_record_bytes));
                        continue;
                    }
                    let partition = murmur2(key.unwrap_or_default(), self.target.partitions);
                    self.outgoing.push(partition, timestamps[row], key, value, Vec::new());
                }
            }
        }
        for (row, class, message) in refused {
            refuse(batch, row, class, message, out);
        }
        Ok(())
    }

    /// Milliseconds: the declared column, else the rows' event times.
    fn timestamps(&self, batch: &Batch) -> Result<Vec<i64>> {
        let Some(column) = self.timestamp_column else {
            return Ok(batch.event_times.values().iter().map(|micros| Timestamp(*micros).millis().max(-1)).collect());
        };
        let millis = cast(batch.rows.column(column), &DataType::Timestamp(TimeUnit::Millisecond, None))
            .and_then(|array| cast(&array, &DataType::Int64))
            .map_err(|e| Error::corrupt(format!("sink topic \"{}\": timestamp column: {e}", self.target.topic)))?;
        let millis = millis.as_primitive::<Int64Type>();
        let or_event_time = |row: usize| match millis.is_valid(row) {
            true => millis.value(row).max(-1),
            false => Timestamp(batch.event_times.value(row)).millis().max(-1),
        };
        Ok((0..batch.num_rows()).map(or_event_time).collect())
    }
}

/// Rows to insert (`None`: all) and rows to retract.
fn split(weights: Option<&Int8Array>, rows: usize) -> (Option<UInt32Array>, Vec<usize>) {
    let Some(weights) = weights else { return (None, Vec::new()) };
    let retracted: Vec<usize> = (0..rows).filter(|row| weights.value(*row) < 0).collect();
    if retracted.is_empty() {
        return (None, retracted);
    }
    (Some((0..rows as u32).filter(|row| weights.value(*row as usize) > 0).collect()), retracted)
}

fn too_large(row: usize, value: Option<&[u8]>, max: usize) -> (usize, BadClass, String) {
    (row, BadClass::TooLarge, format!("the output record has {} bytes, more than {max}", value.map_or(0, <[u8]>::len)))
}

fn refuse(batch: &Batch, row: usize, class: BadClass, message: String, out: &mut Output) {
    if batch.derived {
        let key = row_text(&batch.rows, row);
        out.withdrawn.push(Withdrawn { key, message: format!("{class}: {message}") });
    } else {
        let offset = Offset(batch.offsets.value(row));
        out.rejected.push(Rejected { source: batch.source, partition: batch.partition, offset, class, message });
    }
}

fn row_text(rows: &RecordBatch, row: usize) -> String {
    let column = |(field, array): (&std::sync::Arc<arrow::datatypes::Field>, &arrow::array::ArrayRef)| {
        let text = arrow::util::display::array_value_to_string(array, row).unwrap_or_else(|e| e.to_string());
        (field.name().clone(), serde_json::Value::String(text))
    };
    serde_json::Value::Object(rows.schema().fields().iter().zip(rows.columns()).map(column).collect()).to_string()
}
