//! The way in: one source partition, from bytes to rows with positions.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch, RecordBatchOptions, StringArray,
    StringBuilder, TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{cast, take_record_batch};
use arrow::util::display::array_value_to_string;

use crate::codec::avro::AvroDecoder;
use crate::codec::key::KeyDecoder;
use crate::codec::wire::{HeaderIds, KEY_HEADER, VALUE_HEADER};
use crate::codec::{BadValue, Decoded};
use crate::contract::{AvroSchema, WriterId};
use crate::error::{BadClass, Error, Result};
use crate::operator::ingest::{Ingest, filler};
use crate::operator::{Output, Rejected};
use crate::record::{Batch, Chunk, NextOffset, Offset, Timestamp, TopicPartition};
use crate::task::budget::Budget;
use crate::topology::{Metadata, NullValue, Source, TableSource};
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
    /// The same for `quiet_after`.
    pub quiet: bool,
    pub ingest: Ingest,
    value: AvroDecoder,
    key: Option<KeyDecoder>,
    metadata: Vec<Metadata>,
    decoded: arrow::datatypes::SchemaRef,
    null_value: NullValue,
    /// A table: null values are tombstones.
    table: Option<TableSource>,
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
    /// The highest event time of any stream that reads the partition.
    pub highest: Option<Timestamp>,
    /// The partition was quiet: others need not wait for it.
    pub idle: bool,
    /// It was quiet for so long that event time may go on by the clock, if all are.
    pub quiet: bool,
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
            .map(|key| KeyDecoder::new(key.format, key.contract.as_deref(), &key.columns, &key.members, &key.fields))
            .transpose()?;
        let place = u16::try_from(index).map_err(|_| Error::config("more than 65,535 sources in one pipeline"))?;
        let mut ingest = Ingest::new(source.ingest.clone(), place, partition.partition);
        ingest.restore(state.watermark, state.highest);
        ingest.reached(state.position);
        Ok(Feed {
            partition,
            source: index,
            node,
            position: state.position,
            budget: state.budget,
            idle: state.idle,
            quiet: state.quiet,
            ingest,
            value,
            key,
            metadata: source.metadata.clone(),
            decoded: source.ingest.decoded.clone(),
            null_value: source.null_value,
            table: source.table.clone(),
            skipped: 0,
        })
    }

    pub fn state(&self) -> FeedState {
        let (watermark, budget) = (self.ingest.watermark(), self.budget.clone());
        let (position, highest, others) = (self.position, self.ingest.highest(), Vec::new());
        FeedState { position, watermark, others, budget, highest, idle: self.idle, quiet: self.quiet }
    }

    /// Schema ids in the chunk whose writer is not known yet, in keys and values.
    pub fn missing(&self, chunk: &Chunk) -> Vec<WriterId> {
        let mut ids = self.value.missing(&chunk.values, &value_ids(chunk));
        if let Some(key) = &self.key {
            ids.extend(key.missing(&chunk.keys, &key_ids(chunk)));
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// `None`: the registry knows no such id, so records that carry it are bad.
    ///
    /// # Errors
    /// `Contract` when the writer's schema can't be resolved to the pinned one.
    pub fn add_writer(&mut self, chunk: &Chunk, id: WriterId, schema: Option<&Arc<AvroSchema>>) -> Result<()> {
        if self.value.missing(&chunk.values, &value_ids(chunk)).contains(&id) {
            self.value.add_writer(id, schema.cloned()).map_err(|e| e.context(&self.partition))?;
        }
        if let Some(key) = &mut self.key
            && key.missing(&chunk.keys, &key_ids(chunk)).contains(&id)
        {
            key.add_writer(id, schema.cloned()).map_err(|e| e.context(&self.partition))?;
        }
        Ok(())
    }

    /// Decodes a chunk and gives its rows their positions. Bad records go to `out.rejected`; their schema ids to `ids`. Several batches
    /// only of a table: versions and tombstones alternate.
    pub fn decode(&mut self, chunk: &Chunk, out: &mut Output, ids: &mut BTreeMap<Offset, WriterId>) -> Result<Vec<Batch>> {
        assert!(
            chunk.offsets.first().is_none_or(|first| first.0 >= self.position.0),
            "records are delivered once and in order: {} is at {}, the chunk starts at {:?}",
            self.partition,
            self.position,
            chunk.offsets.first()
        );
        self.position = self.position.max(chunk.next);
        self.idle &= chunk.is_empty();
        self.quiet &= chunk.is_empty();
        let batches = match &self.table {
            _ if chunk.is_empty() => Vec::new(),
            None => self.rows(chunk, out, ids)?.into_iter().collect(),
            Some(table) => self.versions(&table.clone(), chunk, out, ids)?,
        };
        // Decisions up to here apply, also where the last records did not decode or were never delivered.
        self.ingest.reached(self.position);
        Ok(batches)
    }

    fn rows(&mut self, chunk: &Chunk, out: &mut Output, ids: &mut BTreeMap<Offset, WriterId>) -> Result<Option<Batch>> {
        let Decoded { mut rows, mut kept, nulls, bad } = self.value.decode(&chunk.values, &value_ids(chunk))?;
        self.reject(chunk, bad, out, ids);
        self.skipped += nulls.len() as u64;
        if self.null_value == NullValue::DeadLetter {
            let null = |row| BadValue { row, class: BadClass::Null, message: "the value is null".into(), schema_id: None };
            self.reject(chunk, nulls.into_iter().map(null).collect(), out, ids);
        }
        let mut keys = None;
        if let Some(decoder) = &mut self.key {
            let decoded = decoder.decode(&chunk.keys, &key_ids(chunk))?;
            let bad: Vec<BadValue> = decoded.bad.into_iter().filter(|bad| kept.binary_search(&bad.row).is_ok()).collect();
            (rows, kept, keys) = intersect(rows, kept, decoded.rows, &decoded.kept)?;
            self.reject(chunk, bad, out, ids);
        }
        if kept.is_empty() {
            return Ok(None);
        }
        let decoded = self.joined(chunk, &kept, rows.columns(), keys.as_ref())?;
        let (offsets, timestamps) = places(chunk, &kept);
        self.ingest.ingest(decoded, offsets, &timestamps, out).map_err(|e| e.context(&self.partition))
    }

    /// Columns of value, key and metadata as ingest takes them.
    fn joined(&self, chunk: &Chunk, kept: &[u32], values: &[ArrayRef], keys: Option<&RecordBatch>) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = values.to_vec();
        columns.extend(keys.iter().flat_map(|keys| keys.columns().iter().cloned()));
        columns.extend(self.metadata.iter().map(|metadata| metadata_column(*metadata, chunk, kept)));
        let options = RecordBatchOptions::new().with_row_count(Some(kept.len()));
        RecordBatch::try_new_with_options(self.decoded.clone(), columns, &options)
            .map_err(|e| Error::corrupt(format!("{}: decoded columns differ from the plan: {e}", self.partition)))
    }

    /// Records of a table: versions and tombstones, in the order of their offsets.
    fn versions(
        &mut self,
        table: &TableSource,
        chunk: &Chunk,
        out: &mut Output,
        ids: &mut BTreeMap<Offset, WriterId>,
    ) -> Result<Vec<Batch>> {
        let values = self.value.decode(&chunk.values, &value_ids(chunk))?;
        let decoder = self.key.as_mut().expect("a table's key is decoded");
        let keys = decoder.decode(&chunk.keys, &key_ids(chunk))?;
        let (bad_keys, keys) = self.table_keys(&values, keys)?;
        self.reject(chunk, values.bad, out, ids);
        self.reject(chunk, bad_keys, out, ids);

        let (rows, kept, of_kept) = intersect(values.rows, values.kept, keys.0.clone(), &keys.1)?;
        let of_kept = of_kept.expect("keys were given");
        let (agreeing, unlike) = agree(table, &rows, &of_kept, &kept)?;
        self.reject(chunk, unlike, out, ids);
        let take = |batch: &RecordBatch| take_record_batch(batch, &agreeing).map_err(|e| self.broken(&e));
        let (rows, of_kept) = (take(&rows)?, take(&of_kept)?);
        let kept: Vec<u32> = agreeing.values().iter().map(|at| kept[*at as usize]).collect();

        let gone: Vec<u32> = values.nulls.iter().copied().filter(|row| keys.1.binary_search(row).is_ok()).collect();
        let places_of_gone = gone.iter().map(|row| keys.1.binary_search(row).expect("it was kept") as u32);
        let of_gone = take_record_batch(&keys.0, &UInt32Array::from_iter_values(places_of_gone)).map_err(|e| self.broken(&e))?;
        let fillers: Vec<ArrayRef> = rows.schema().fields().iter().map(|field| filler(field, gone.len())).collect();

        let versions = self.joined(chunk, &kept, rows.columns(), Some(&of_kept))?;
        let tombstones = self.joined(chunk, &gone, &fillers, Some(&of_gone))?;
        let mut batches = Vec::new();
        for run in runs(&kept, &gone) {
            let (rows, from, length) = if run.tombstones { (&gone, run.from, run.length) } else { (&kept, run.from, run.length) };
            let (offsets, timestamps) = places(chunk, &rows[from..from + length]);
            let batch = match run.tombstones {
                true => self.ingest.tombstones(&tombstones.slice(from, length), offsets, &timestamps, out),
                false => self.ingest.ingest(versions.slice(from, length), offsets, &timestamps, out),
            };
            batches.extend(batch.map_err(|e| e.context(&self.partition))?);
        }
        Ok(batches)
    }

    /// Keys of records whose value decoded or is a tombstone; a record of a table without a key is bad.
    fn table_keys(&self, values: &Decoded, keys: Decoded) -> Result<(Vec<BadValue>, (RecordBatch, Vec<u32>))> {
        let stands = |row: &u32| values.kept.binary_search(row).is_ok() || values.nulls.binary_search(row).is_ok();
        let mut bad: Vec<BadValue> = keys.bad.into_iter().filter(|bad| stands(&bad.row)).collect();
        let missing = keys.nulls.iter().copied().filter(stands);
        bad.extend(missing.map(|row| BadValue {
            row,
            class: BadClass::Key,
            message: "a record of a table needs a key".into(),
            schema_id: None,
        }));
        let given: Vec<(usize, &u32)> =
            keys.kept.iter().enumerate().filter(|(_, row)| keys.nulls.binary_search(row).is_err()).collect();
        let null = |at: usize| keys.rows.columns().iter().position(|column| column.is_null(at));
        let of_null = given.iter().filter(|(_, row)| stands(row)).filter_map(|(at, row)| Some((null(*at)?, **row)));
        bad.extend(of_null.map(|(column, row)| BadValue {
            row,
            class: BadClass::Key,
            message: format!(
                "\"{}\" of the key is NULL, and a PRIMARY KEY holds none",
                keys.rows.schema_ref().field(column).name()
            ),
            schema_id: None,
        }));
        bad.sort_by_key(|bad| bad.row);
        let given = given.into_iter().filter(|(at, _)| null(*at).is_none());
        let (at, rows): (Vec<u32>, Vec<u32>) = given.map(|(at, row)| (at as u32, *row)).unzip();
        let keys = take_record_batch(&keys.rows, &UInt32Array::from(at)).map_err(|e| self.broken(&e))?;
        Ok((bad, (keys, rows)))
    }

    fn broken(&self, error: &arrow::error::ArrowError) -> Error {
        Error::corrupt(format!("{}: rows of keys and values can't be matched: {error}", self.partition))
    }

    fn reject(&self, chunk: &Chunk, bad: Vec<BadValue>, out: &mut Output, ids: &mut BTreeMap<Offset, WriterId>) {
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

fn value_ids(chunk: &Chunk) -> HeaderIds {
    HeaderIds::of(&chunk.headers, VALUE_HEADER)
}

fn key_ids(chunk: &Chunk) -> HeaderIds {
    HeaderIds::of(&chunk.headers, KEY_HEADER)
}

fn places(chunk: &Chunk, rows: &[u32]) -> (Int64Array, Int64Array) {
    (
        Int64Array::from_iter_values(rows.iter().map(|row| chunk.offsets[*row as usize].0)),
        Int64Array::from_iter_values(rows.iter().map(|row| chunk.timestamps[*row as usize])),
    )
}

/// Records of one kind that follow one another.
struct Run {
    tombstones: bool,
    /// Among the rows of its kind.
    from: usize,
    length: usize,
}

/// Two ascending lists of rows as runs in the order of their rows.
fn runs(versions: &[u32], tombstones: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut v, mut t) = (0, 0);
    while v < versions.len() || t < tombstones.len() {
        let next = t < tombstones.len() && versions.get(v).is_none_or(|version| tombstones[t] < *version);
        let from = if next { t } else { v };
        match runs.last_mut().filter(|run| run.tombstones == next) {
            Some(run) => run.length += 1,
            None => runs.push(Run { tombstones: next, from, length: 1 }),
        }
        if next { t += 1 } else { v += 1 }
    }
    runs
}

/// Rows whose value says of the key what the key says; the others are bad.
fn agree(table: &TableSource, values: &RecordBatch, keys: &RecordBatch, rows: &[u32]) -> Result<(UInt32Array, Vec<BadValue>)> {
    let broken = |e| Error::corrupt(format!("keys and values of a table can't be compared: {e}"));
    let mut bad: BTreeMap<usize, String> = BTreeMap::new();
    for (in_value, in_key) in &table.held_twice {
        let (value, key) = (values.column(*in_value), keys.column(*in_key));
        let value_as_key = cast(value, key.data_type()).map_err(broken)?;
        let unlike = distinct(&value_as_key, key).map_err(broken)?;
        let name = values.schema_ref().field(*in_value).name();
        for row in unlike.values().set_indices() {
            let shown = |array: &ArrayRef| array_value_to_string(array, row).unwrap_or_else(|e| e.to_string());
            bad.entry(row)
                .or_insert_with(|| format!("\"{name}\" is {} in the value and {} in the key", shown(value), shown(key)));
        }
    }
    let kept = (0..rows.len()).filter(|row| !bad.contains_key(row)).map(|row| row as u32);
    let kept = UInt32Array::from_iter_values(kept);
    let bad = bad.into_iter().map(|(row, message)| BadValue { row: rows[row], class: BadClass::Key, message, schema_id: None });
    Ok((kept, bad.collect()))
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
