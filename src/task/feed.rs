//! The way in: one source partition, from bytes to rows with positions.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch, RecordBatchOptions, StringArray,
    StringBuilder, TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::take_record_batch;

use crate::codec::avro::AvroDecoder;
use crate::codec::key::KeyDecoder;
use crate::codec::{BadValue, Decoded};
use crate::contract::{AvroSchema, SchemaId};
use crate::error::{BadClass, Error, Result};
use crate::operator::ingest::Ingest;
use crate::operator::{Output, Rejected};
use crate::record::{Batch, Chunk, NextOffset, Offset, TopicPartition};
use crate::task::budget::Budget;
use crate::topology::{Metadata, NullValue, Source};
use crate::watermark::Watermark;

/// One source partition of a task.
pub struct Feed {
    pub partition: TopicPartition,
    /// Index into the topology's sources.
    pub source: usize,
    /// The node of the topology that this feeds.
    pub node: usize,
    pub position: NextOffset,
    pub budget: Budget,
    /// Quiet for long enough, as of its owner's last look; a record ends it.
    pub idle: bool,
    pub ingest: Ingest,
    value: AvroDecoder,
    key: Option<KeyDecoder>,
    metadata: Vec<Metadata>,
    decoded: arrow::datatypes::SchemaRef,
    null_value: NullValue,
    /// Null values skipped.
    pub skipped: u64,
}

/// What a source partition was at a commit; enough to go back to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedState {
    pub position: NextOffset,
    pub watermark: Watermark,
    /// Where several streams read the topic, each has a watermark of its own: those behind the first, in the order of the SQL.
    pub others: Vec<Watermark>,
    pub budget: Budget,
    /// The partition was quiet: others need not wait for it.
    pub idle: bool,
}

impl FeedState {
    /// As the `nth` stream that reads the partition has it.
    pub fn of_stream(&self, nth: usize) -> FeedState {
        let watermark = if nth == 0 { self.watermark } else { self.others.get(nth - 1).copied().unwrap_or(Watermark::MIN) };
        FeedState { watermark, others: Vec::new(), ..self.clone() }
    }

    /// What the partition has reached for every stream that reads it.
    pub fn lowest(&self) -> Watermark {
        self.others.iter().copied().fold(self.watermark, Watermark::min)
    }
}

impl Feed {
    pub fn new(source: &Source, index: usize, node: usize, partition: TopicPartition, state: FeedState) -> Result<Feed> {
        let value = AvroDecoder::new(&source.value, &source.value_columns)?;
        let key = source
            .key
            .as_ref()
            .map(|key| KeyDecoder::new(key.format, key.contract.as_deref(), &key.columns, &key.fields))
            .transpose()?;
        let place = u16::try_from(index).map_err(|_| Error::config("more than 65,535 sources in one pipeline"))?;
        let mut ingest = Ingest::new(source.ingest.clone(), place, partition.partition);
        ingest.restore(state.watermark);
        ingest.reached(state.position);
        Ok(Feed {
            partition,
            source: index,
            node,
            position: state.position,
            budget: state.budget,
            idle: state.idle,
            ingest,
            value,
            key,
            metadata: source.metadata.clone(),
            decoded: source.ingest.decoded.clone(),
            null_value: source.null_value,
            skipped: 0,
        })
    }

    pub fn state(&self) -> FeedState {
        let (watermark, budget) = (self.ingest.watermark(), self.budget.clone());
        FeedState { position: self.position, watermark, others: Vec::new(), budget, idle: self.idle }
    }

    /// Schema ids in the chunk whose writer is not known yet, in keys and values.
    pub fn missing(&self, chunk: &Chunk) -> Vec<SchemaId> {
        let mut ids = self.value.missing(&chunk.values);
        if let Some(key) = &self.key {
            ids.extend(key.missing(&chunk.keys));
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// `None`: the registry knows no such id, so records that carry it are bad.
    ///
    /// # Errors
    /// `Contract` when the writer's schema can't be resolved to the pinned one.
    pub fn add_writer(&mut self, chunk: &Chunk, id: SchemaId, schema: Option<&Arc<AvroSchema>>) -> Result<()> {
        if self.value.missing(&chunk.values).contains(&id) {
            self.value.add_writer(id, schema.cloned()).map_err(|e| e.context(&self.partition))?;
        }
        if let Some(key) = &mut self.key
            && key.missing(&chunk.keys).contains(&id)
        {
            key.add_writer(id, schema.cloned()).map_err(|e| e.context(&self.partition))?;
        }
        Ok(())
    }

    /// Decodes a chunk and gives its rows their positions. Bad records go to `out.rejected`; their schema ids to `ids`.
    pub fn decode(&mut self, chunk: &Chunk, out: &mut Output, ids: &mut BTreeMap<Offset, SchemaId>) -> Result<Option<Batch>> {
        assert!(
            chunk.offsets.first().is_none_or(|first| first.0 >= self.position.0),
            "records are delivered once and in order: {} is at {}, the chunk starts at {:?}",
            self.partition,
            self.position,
            chunk.offsets.first()
        );
        self.position = self.position.max(chunk.next);
        self.idle &= chunk.is_empty();
        let batch = if chunk.is_empty() { None } else { self.rows(chunk, out, ids)? };
        // Decisions up to here apply, also where the last records did not decode or were never delivered.
        self.ingest.reached(self.position);
        Ok(batch)
    }

    fn rows(&mut self, chunk: &Chunk, out: &mut Output, ids: &mut BTreeMap<Offset, SchemaId>) -> Result<Option<Batch>> {
        let Decoded { mut rows, mut kept, nulls, bad } = self.value.decode(&chunk.values)?;
        self.reject(chunk, bad, out, ids);
        self.skipped += nulls.len() as u64;
        if self.null_value == NullValue::DeadLetter {
            let null = |row| BadValue { row, class: BadClass::Null, message: "the value is null".into(), schema_id: None };
            self.reject(chunk, nulls.into_iter().map(null).collect(), out, ids);
        }
        let mut keys = None;
        if let Some(decoder) = &mut self.key {
            let decoded = decoder.decode(&chunk.keys)?;
            let bad: Vec<BadValue> = decoded.bad.into_iter().filter(|bad| kept.binary_search(&bad.row).is_ok()).collect();
            (rows, kept, keys) = intersect(rows, kept, decoded.rows, &decoded.kept)?;
            self.reject(chunk, bad, out, ids);
        }
        if kept.is_empty() {
            return Ok(None);
        }
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        if let Some(keys) = keys {
            columns.extend(keys.columns().iter().cloned());
        }
        for metadata in &self.metadata {
            columns.push(metadata_column(*metadata, chunk, &kept));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(kept.len()));
        let decoded = RecordBatch::try_new_with_options(self.decoded.clone(), columns, &options)
            .map_err(|e| Error::corrupt(format!("{}: decoded columns differ from the plan: {e}", self.partition)))?;
        let offsets = Int64Array::from_iter_values(kept.iter().map(|row| chunk.offsets[*row as usize].0));
        let timestamps = Int64Array::from_iter_values(kept.iter().map(|row| chunk.timestamps[*row as usize]));
        self.ingest.ingest(decoded, offsets, &timestamps, out).map_err(|e| e.context(&self.partition))
    }

    fn reject(&self, chunk: &Chunk, bad: Vec<BadValue>, out: &mut Output, ids: &mut BTreeMap<Offset, SchemaId>) {
        for bad in bad {
            let offset = chunk.offsets[bad.row as usize];
            if let Some(id) = bad.schema_id {
                ids.insert(offset, id);
            }
            out.rejected.push(Rejected {
                source: self.source as u16,
                partition: self.partition.partition,
                offset,
                class: bad.class,
                message: bad.message,
            });
        }
    }
}

/// Rows that decoded in both value and key.
fn intersect(
    values: RecordBatch,
    value_rows: Vec<u32>,
    keys: RecordBatch,
    key_rows: &[u32],
) -> Result<(RecordBatch, Vec<u32>, Option<RecordBatch>)> {
    if value_rows == key_rows {
        return Ok((values, value_rows, Some(keys)));
    }
    let mut rows = Vec::with_capacity(value_rows.len().min(key_rows.len()));
    let (mut take_values, mut take_keys) = (Vec::new(), Vec::new());
    for (at, row) in value_rows.iter().enumerate() {
        if let Ok(key_at) = key_rows.binary_search(row) {
            rows.push(*row);
            take_values.push(at as u32);
            take_keys.push(key_at as u32);
        }
    }
    let arrow = |e: arrow::error::ArrowError| Error::corrupt(format!("rows of keys and values can't be matched: {e}"));
    Ok((
        take_record_batch(&values, &UInt32Array::from(take_values)).map_err(arrow)?,
        rows,
        Some(take_record_batch(&keys, &UInt32Array::from(take_keys)).map_err(arrow)?),
    ))
}

fn metadata_column(metadata: Metadata, chunk: &Chunk, kept: &[u32]) -> ArrayRef {
    let rows = kept.len();
    let at = |row: &u32| *row as usize;
    match metadata {
        Metadata::Partition => Arc::new(Int32Array::from_value(chunk.partition.partition.0, rows)),
        Metadata::Offset => Arc::new(Int64Array::from_iter_values(kept.iter().map(|r| chunk.offsets[at(r)].0))),
        Metadata::Topic => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(chunk.partition.topic.as_str(), rows))),
        Metadata::Timestamp => Arc::new(
            TimestampMillisecondArray::from_iter(kept.iter().map(|r| Some(chunk.timestamps[at(r)]).filter(|t| *t >= 0)))
                .with_timezone("+00:00"),
        ),
        Metadata::TimestampType => {
            let name = |r: &u32| match (chunk.timestamps[at(r)], chunk.log_append_time) {
                (-1, _) => "NoTimestampType",
                (_, true) => "LogAppendTime",
                (_, false) => "CreateTime",
            };
            Arc::new(StringArray::from_iter_values(kept.iter().map(name)))
        }
        Metadata::Key => {
            let mut keys = BinaryBuilder::new();
            kept.iter().for_each(|r| keys.append_option(chunk.keys.get(at(r))));
            Arc::new(keys.finish())
        }
        Metadata::Headers => {
            let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
            let mut headers = MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new());
            for row in kept {
                for header in chunk.row_headers(at(row)) {
                    headers.keys().append_value(&header.name);
                    headers.values().append_option(header.value.as_deref());
                }
                headers.append(true).expect("keys and values were appended in pairs");
            }
            Arc::new(headers.finish())
        }
    }
}
