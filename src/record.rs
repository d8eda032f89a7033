//! The words that every room shares: topics, positions, time, records as bytes and batches of rows.
//!
//! A position is never a bare integer. [`Offset`] is the place of one record; [`NextOffset`] is the first record that has
//! not been processed, which is what Kafka commits. The one place where one becomes the other is [`Offset::next`].

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int8Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat, filter, filter_record_batch, take, take_record_batch};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

/// The name of a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Topic(Arc<str>);

impl Topic {
    pub fn new(name: impl AsRef<str>) -> Topic {
        Topic(Arc::from(name.as_ref()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn partition(&self, partition: i32) -> TopicPartition {
        TopicPartition { topic: self.clone(), partition: Partition(partition) }
    }
}

impl From<String> for Topic {
    fn from(name: String) -> Topic {
        Topic(Arc::from(name))
    }
}

impl From<&str> for Topic {
    fn from(name: &str) -> Topic {
        Topic(Arc::from(name))
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> String {
        topic.0.to_string()
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The number of a partition within its topic, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub i32);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of one record in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    /// The position after this record: the only `+ 1` between the two types.
    pub fn next(self) -> NextOffset {
        NextOffset(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first offset of a partition that has not been processed (a consumer's position, a committed offset, a log's end).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NextOffset(pub i64);

impl fmt::Display for NextOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    pub topic: Topic,
    pub partition: Partition,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic \"{}\" partition {}", self.topic, self.partition)
    }
}

/// A position in each of several partitions.
pub type OffsetVector = BTreeMap<TopicPartition, NextOffset>;

/// A point in event time: microseconds since 1970-01-01T00:00:00Z, may be negative.
///
/// Kafka's record timestamps are milliseconds: see [`Timestamp::from_millis`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// `None` when the instant does not fit microseconds (beyond the year 290,000).
    pub fn from_millis(millis: i64) -> Option<Timestamp> {
        millis.checked_mul(1000).map(Timestamp)
    }

    /// Rounded down, so that -1 µs is -1 ms and not 0.
    pub fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match chrono::DateTime::from_timestamp_micros(self.0) {
            Some(at) => write!(f, "{}", at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
            None => write!(f, "{} µs", self.0),
        }
    }
}

/// One header of a record. Names may repeat; a value may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: Option<Vec<u8>>,
}

impl Header {
    pub fn new(name: impl Into<String>, value: impl AsRef<[u8]>) -> Header {
        Header { name: name.into(), value: Some(value.as_ref().to_vec()) }
    }
}

/// A column of optional byte strings in one arena: no allocation per value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    arena: Vec<u8>,
    /// End of value `i` in `arena`; its start is the end of `i - 1`.
    ends: Vec<usize>,
    /// Whether value `i` is null; empty while none is.
    nulls: Vec<bool>,
}

impl Bytes {
    pub fn with_capacity(values: usize, bytes: usize) -> Bytes {
        Bytes { arena: Vec::with_capacity(bytes), ends: Vec::with_capacity(values), nulls: Vec::new() }
    }

    pub fn push(&mut self, value: Option<&[u8]>) {
        if value.is_none() && self.nulls.is_empty() {
            self.nulls = vec![false; self.ends.len()];
        }
        if value.is_none() || !self.nulls.is_empty() {
            self.nulls.push(value.is_none());
        }
        self.arena.extend_from_slice(value.unwrap_or_default());
        self.ends.push(self.arena.len());
    }

    /// Appends a value whose bytes `write` adds to the arena.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.arena);
        if !self.nulls.is_empty() {
            self.nulls.push(false);
        }
        self.ends.push(self.arena.len());
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all values together.
    pub fn size(&self) -> usize {
        self.arena.len()
    }

    pub fn get(&self, i: usize) -> Option<&[u8]> {
        if self.nulls.get(i).copied().unwrap_or(false) {
            return None;
        }
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.arena[start..self.ends[i]])
    }

    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.len()).map(|i| self.get(i))
    }

    pub fn null_count(&self) -> usize {
        self.nulls.iter().filter(|null| **null).count()
    }
}

impl<'a> FromIterator<Option<&'a [u8]>> for Bytes {
    fn from_iter<I: IntoIterator<Item = Option<&'a [u8]>>>(values: I) -> Bytes {
        let mut bytes = Bytes::default();
        for value in values {
            bytes.push(value);
        }
        bytes
    }
}

/// Records of one partition in offset order, as bytes and by column: what a log delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub partition: TopicPartition,
    pub offsets: Vec<Offset>,
    /// Record timestamps in milliseconds since the epoch; -1 where the record has none (as Kafka has it).
    pub timestamps: Vec<i64>,
    /// Whether the timestamps are the broker's append time (else the producer's create time).
    pub log_append_time: bool,
    pub keys: Bytes,
    pub values: Bytes,
    /// Only the rows that have headers, by row number, ascending.
    pub headers: Vec<(usize, Vec<Header>)>,
    /// The reader's position after this chunk. It can be above the last record's `next()`, because control records and
    /// aborted records occupy offsets and are never delivered; a chunk may hold no record and only move the position.
    pub next: NextOffset,
}

impl Chunk {
    pub fn empty(partition: TopicPartition, next: NextOffset) -> Chunk {
        Chunk {
            partition,
            offsets: Vec::new(),
            timestamps: Vec::new(),
            log_append_time: false,
            keys: Bytes::default(),
            values: Bytes::default(),
            headers: Vec::new(),
            next,
        }
    }

    /// Appends one record and moves `next` behind it.
    pub fn push(&mut self, offset: Offset, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: Vec<Header>) {
        if !headers.is_empty() {
            self.headers.push((self.offsets.len(), headers));
        }
        self.offsets.push(offset);
        self.timestamps.push(timestamp);
        self.keys.push(key);
        self.values.push(value);
        self.next = offset.next();
    }

    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Estimated memory in bytes.
    pub fn size(&self) -> usize {
        let of_header = |header: &Header| size_of::<Header>() + header.name.len() + header.value.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().flat_map(|(_, headers)| headers).map(of_header).sum();
        self.keys.size() + self.values.size() + self.len() * 32 + headers
    }

    pub fn row_headers(&self, row: usize) -> &[Header] {
        match self.headers.binary_search_by_key(&row, |(at, _)| *at) {
            Ok(found) => &self.headers[found].1,
            Err(_) => &[],
        }
    }

    /// The row of the record at `offset`, if this chunk holds it.
    pub fn row_of(&self, offset: Offset) -> Option<usize> {
        self.offsets.binary_search(&offset).ok()
    }

    /// Rows `from..to` as a chunk of their own, whose position is behind its last record.
    pub fn slice(&self, from: usize, to: usize) -> Chunk {
        let mut part = Chunk::empty(self.partition.clone(), NextOffset(self.offsets.get(from).map_or(self.next.0, |o| o.0)));
        part.log_append_time = self.log_append_time;
        for row in from..to {
            let headers = self.row_headers(row).to_vec();
            part.push(self.offsets[row], self.timestamps[row], self.keys.get(row), self.values.get(row), headers);
        }
        if to == self.len() {
            part.next = self.next;
        }
        part
    }
}

/// Records to be written to one topic, by column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The partition of each record.
    pub partitions: Vec<i32>,
    pub keys: Bytes,
    pub values: Bytes,
    /// Milliseconds since the epoch.
    pub timestamps: Vec<i64>,
    /// Only the rows that have headers, by row number, ascending.
    pub headers: Vec<(usize, Vec<Header>)>,
}

impl Outgoing {
    pub fn push(&mut self, partition: i32, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: Vec<Header>) {
        if !headers.is_empty() {
            self.headers.push((self.partitions.len(), headers));
        }
        self.partitions.push(partition);
        self.timestamps.push(timestamp);
        self.keys.push(key);
        self.values.push(value);
    }

    pub fn len(&self) -> usize {
        self.partitions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    pub fn row_headers(&self, row: usize) -> &[Header] {
        match self.headers.binary_search_by_key(&row, |(at, _)| *at) {
            Ok(found) => &self.headers[found].1,
            Err(_) => &[],
        }
    }

    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        self.keys.size() + self.values.size()
    }
}

/// Rows between operators: an Arrow batch and, beside it, what every row carries with it through the topology.
///
/// Invariant: all rows come from one source partition, or (`derived`) from an operator that made them. A shuffle keeps this:
/// it sends one message per source partition.
#[derive(Clone, Debug)]
pub struct Batch {
    pub rows: RecordBatch,
    /// The source's place in the SQL, from 0.
    pub source: u16,
    pub partition: Partition,
    /// Offset of the record that each row comes from. For derived rows: 0.
    pub offsets: Int64Array,
    /// Event time in microseconds. For a window's result its end - 1 ms. Never null.
    pub event_times: Int64Array,
    /// The row watermark in microseconds: what the row's source partition had reached just before it. Never null.
    pub row_watermarks: Int64Array,
    /// +1 insert, -1 retract; absent means that all are +1.
    pub weights: Option<Int8Array>,
    /// Rows that an operator made (a window's result): never tested for lateness.
    pub derived: bool,
}

impl Batch {
    pub fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    /// The same rows with other columns.
    pub fn with_rows(&self, rows: RecordBatch) -> Batch {
        assert_eq!(rows.num_rows(), self.num_rows(), "columns change, rows stay");
        Batch { rows, ..self.clone() }
    }

    pub fn filter(&self, keep: &BooleanArray) -> Result<Batch, ArrowError> {
        Ok(Batch {
            rows: filter_record_batch(&self.rows, keep)?,
            offsets: int64(filter(&self.offsets, keep)?),
            event_times: int64(filter(&self.event_times, keep)?),
            row_watermarks: int64(filter(&self.row_watermarks, keep)?),
            weights: self.weights.as_ref().map(|w| filter(w, keep).map(int8)).transpose()?,
            ..self.clone()
        })
    }

    pub fn take(&self, rows: &UInt32Array) -> Result<Batch, ArrowError> {
        Ok(Batch {
            rows: take_record_batch(&self.rows, rows)?,
            offsets: int64(take(&self.offsets, rows, None)?),
            event_times: int64(take(&self.event_times, rows, None)?),
            row_watermarks: int64(take(&self.row_watermarks, rows, None)?),
            weights: self.weights.as_ref().map(|w| take(w, rows, None).map(int8)).transpose()?,
            ..self.clone()
        })
    }

    pub fn slice(&self, from: usize, rows: usize) -> Batch {
        Batch {
            rows: self.rows.slice(from, rows),
            offsets: self.offsets.slice(from, rows),
            event_times: self.event_times.slice(from, rows),
            row_watermarks: self.row_watermarks.slice(from, rows),
            weights: self.weights.as_ref().map(|w| w.slice(from, rows)),
            ..self.clone()
        }
    }

    /// +1 or -1.
    pub fn weight(&self, row: usize) -> i8 {
        self.weights.as_ref().map_or(1, |w| w.value(row))
    }
}

/// Appends batches of one operator's output to one another; all must have one schema. `None` when there is none.
pub fn concat_rows(batches: &[RecordBatch]) -> Result<Option<RecordBatch>, ArrowError> {
    let Some(first) = batches.first() else { return Ok(None) };
    let columns = (0..first.num_columns())
        .map(|c| concat(&batches.iter().map(|b| b.column(c) as &dyn Array).collect::<Vec<_>>()))
        .collect::<Result<Vec<ArrayRef>, _>>()?;
    RecordBatch::try_new(first.schema(), columns).map(Some)
}

fn int64(array: ArrayRef) -> Int64Array {
    array.as_any().downcast_ref::<Int64Array>().expect("a kernel keeps its input's type").clone()
}

fn int8(array: ArrayRef) -> Int8Array {
    array.as_any().downcast_ref::<Int8Array>().expect("a kernel keeps its input's type").clone()
}
