//! Deltas as messages of a changelog topic.
//!
//! Each commit of a task writes, per store, one or more messages to the store's changelog partition: the delta's rows, then a slice
//! of the rolling snapshot, as Arrow IPC streams (LZ4) with a checksum, split below the message limit. The last part carries the [`CommitRecord`].
//! A commit that touched nothing writes one message with an empty value and the record.
//!
//! ```text
//! headers   tidemill.format = 1 | tidemill.part = i/n | tidemill.kind = delta, snapshot | tidemill.commit = JSON, last part only
//! ```
//!
//! Invariant: commit numbers form a chain (`previous`). A break is corruption, never skipped.

use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use super::Store;
use crate::error::{Error, Result};
use crate::record::{Chunk, Header, NextOffset, Outgoing, Partition, Topic};
use crate::watermark::Watermark;

/// The format of messages and of state rows that this version writes and reads.
pub const FORMAT: &str = "1";
/// Stays below the broker's usual limit of 1 MiB with room for headers.
pub const MAX_BYTES: usize = 900_000;

const FORMAT_HEADER: &str = "tidemill.format";
const PART_HEADER: &str = "tidemill.part";
const KIND_HEADER: &str = "tidemill.kind";
const COMMIT_HEADER: &str = "tidemill.commit";

/// One commit of a task, as each of its stores' changelogs tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// Of the pipeline.
    pub generation: u32,
    /// Of the commit within the task; numbers grow.
    pub number: u64,
    /// The number of the commit before, 0 before the first.
    pub previous: u64,
    /// The edge watermark of the store's operator after the commit: windows that end at or before it have left the store.
    pub edge: Watermark,
    /// The task's positions after the commit.
    pub positions: Vec<(Topic, Partition, NextOffset)>,
    /// The watermarks of the task's source partitions after the commit.
    pub watermarks: Vec<(Topic, Partition, Watermark)>,
    /// What the task adds.
    pub extra: serde_json::Value,
}

/// The messages of one commit for one store. `timestamp_ms` is the record timestamp of all of them.
///
/// # Errors
/// `Failed` when a single row is larger than `max_bytes`.
pub fn encode(
    commit: &CommitRecord,
    delta: Option<&RecordBatch>,
    slice: Option<&RecordBatch>,
    partition: Partition,
    timestamp_ms: i64,
    max_bytes: usize,
) -> Result<Outgoing> {
    let mut parts: Vec<(&str, Vec<u8>)> = Vec::new();
    for (kind, rows) in [("delta", delta), ("snapshot", slice)] {
        if let Some(rows) = rows.filter(|rows| rows.num_rows() > 0) {
            split_ipc(rows, max_bytes, &mut |bytes| parts.push((kind, bytes)))?;
        }
    }
    if parts.is_empty() {
        parts.push(("delta", Vec::new()));
    }
    let count = parts.len();
    let mut messages = Outgoing::default();
    for (at, (kind, bytes)) in parts.into_iter().enumerate() {
        let mut headers = vec![
            Header::new(FORMAT_HEADER, FORMAT),
            Header::new(PART_HEADER, format!("{}/{count}", at + 1)),
            Header::new(KIND_HEADER, kind),
        ];
        if at + 1 == count {
            let record = serde_json::to_vec(commit).map_err(|e| Error::failed(format!("a commit record: {e}")))?;
            headers.push(Header::new(COMMIT_HEADER, record));
        }
        messages.push(partition.0, timestamp_ms, None, Some(&bytes), headers);
    }
    Ok(messages)
}

/// Rows as Arrow IPC streams, each below `max_bytes`.
///
/// # Errors
/// `Failed` when a single row is larger.
pub fn split_ipc(rows: &RecordBatch, max_bytes: usize, emit: &mut impl FnMut(Vec<u8>)) -> Result<()> {
    let bytes = to_ipc(std::slice::from_ref(rows))?;
    if bytes.len() <= max_bytes {
        emit(bytes);
        return Ok(());
    }
    let count = rows.num_rows();
    if count == 1 {
        return Err(Error::failed(format!("one row takes {} bytes, above the message limit {max_bytes}", bytes.len()))
            .hint("a group holds too much (COUNT DISTINCT, ARRAY_AGG): use a smaller window or an approximate aggregate"));
    }
    // As many pieces as the size asks for; each is checked again.
    let pieces = (bytes.len() / max_bytes + 1).clamp(2, count);
    for piece in 0..pieces {
        let (from, to) = (count * piece / pieces, count * (piece + 1) / pieces);
        split_ipc(&rows.slice(from, to - from), max_bytes, emit)?;
    }
    Ok(())
}

/// Batches of one schema (at least one) as an Arrow IPC stream, with a checksum behind it.
pub fn to_ipc(batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let failed = |e| Error::failed(format!("encode rows of state: {e}"));
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).map_err(failed)?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), batches[0].schema_ref(), options).map_err(failed)?;
    for rows in batches {
        writer.write(rows).map_err(failed)?;
    }
    let mut bytes = writer.into_inner().map_err(failed)?;
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    Ok(bytes)
}

/// The batches of an Arrow IPC stream that [`to_ipc`] wrote. The checksum comes first: Arrow's reader believes the lengths in damaged bytes,
/// and a process that is asked for an exabyte of memory does not come back.
///
/// # Errors
/// `Corrupt` when it is none.
pub fn from_ipc(bytes: &[u8]) -> Result<Vec<RecordBatch>> {
    let failed = |e| Error::corrupt(format!("rows of state do not decode: {e}"));
    let stream = match bytes.split_last_chunk::<4>() {
        Some((stream, sum)) if crc32fast::hash(stream) == u32::from_be_bytes(*sum) => stream,
        _ => return Err(Error::corrupt(format!("rows of state do not decode: the checksum of {} bytes is wrong", bytes.len()))),
    };
    let reader = StreamReader::try_new(stream, None).map_err(failed)?;
    reader.map(|rows| rows.map_err(failed)).collect()
}

/// State = fold(changelog): takes a changelog partition from its start, or from behind a checkpoint, into a store.
///
/// ```text
///  at the log's start ──part 1/n──▶ in a commit ──part n/n──▶ between commits ──part 1/n──▶ in a commit ...
///   (parts of a commit that was                  (applied)
///    cut off are passed over)
/// ```
pub struct Fold {
    generation: u32,
    last: Option<CommitRecord>,
    /// Commits up to here are in the checkpoint.
    known: u64,
    /// Rows of the commit that is being read.
    rows: Vec<RecordBatch>,
    /// Part read last, and of how many; (0, 0) between commits.
    part: (usize, usize),
    /// Rows taken into the store.
    taken_rows: u64,
    /// Batches taken into the store, where somebody wants them.
    tail: Option<Vec<RecordBatch>>,
    tail_bytes: usize,
}

impl Fold {
    /// From the start of the changelog. The log may begin in mid-history, since the rolling snapshot allows its head to be deleted.
    pub fn new(generation: u32) -> Fold {
        Fold { generation, last: None, known: 0, rows: Vec::new(), part: (0, 0), taken_rows: 0, tail: None, tail_bytes: 0 }
    }

    /// From a checkpoint: the store holds its image already. Commits up to the checkpoint's are skipped.
    pub fn after(checkpoint: CommitRecord) -> Fold {
        Fold { known: checkpoint.number, last: Some(checkpoint.clone()), ..Fold::new(checkpoint.generation) }
    }

    /// Takes the next messages. A commit is applied when its last part is there; windows that it closed leave the store.
    ///
    /// # Errors
    /// `Corrupt`, with topic, partition and offset: unknown format, parts or numbers out of order, rows that do not decode.
    pub fn take(&mut self, chunk: &Chunk, store: &mut dyn Store) -> Result<()> {
        for row in 0..chunk.len() {
            let taken = self.take_message(chunk.row_headers(row), chunk.values.get(row).unwrap_or_default(), store);
            taken.map_err(|e| e.context(format!("{}: offset {}", chunk.partition, chunk.offsets[row])))?;
        }
        Ok(())
    }

    /// The last commit that is in the store.
    pub fn last(&self) -> Option<&CommitRecord> {
        self.last.as_ref()
    }

    /// Keeps what is taken from here on for [`Fold::take_tail`].
    pub fn keep_tail(&mut self) {
        self.tail.get_or_insert_default();
    }

    /// What was taken since the tail is kept, or since the last call.
    pub fn take_tail(&mut self) -> Vec<RecordBatch> {
        self.tail_bytes = 0;
        self.tail.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What would be taken, in bytes.
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// No tail is kept any more.
    pub fn drop_tail(&mut self) {
        (self.tail, self.tail_bytes) = (None, 0);
    }

    /// Rows taken into the store so far.
    pub fn taken_rows(&self) -> u64 {
        self.taken_rows
    }

    /// Whether the messages taken so far end within a commit: at the log's end that is corruption.
    pub fn unfinished(&self) -> bool {
        self.part != (0, 0)
    }

    fn take_message(&mut self, headers: &[Header], value: &[u8], store: &mut dyn Store) -> Result<()> {
        match text(headers, FORMAT_HEADER) {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(Error::corrupt(format!(
                    "format \"{other}\" of the changelog is not known, this version reads \"{FORMAT}\""
                ))
                .hint("a newer version wrote it: use that version"));
            }
            None => return Err(Error::corrupt(format!("no header \"{FORMAT_HEADER}\": this is no message of a changelog"))),
        }
        let part = text(headers, PART_HEADER).and_then(parse_part);
        let (at, count) = part.ok_or_else(|| Error::corrupt(format!("header \"{PART_HEADER}\" is missing or malformed")))?;
        let (before, of) = self.part;
        if before == 0 && at != 1 && self.last.is_none() {
            return Ok(());
        }
        if at != before + 1 || (before > 0 && count != of) {
            let found = format!("part {at}/{count} of a commit follows");
            return Err(Error::corrupt(match before {
                0 => format!("{found} a finished commit"),
                _ => format!("{found} part {before}/{of}"),
            }));
        }
        self.part = (at, count);
        if !value.is_empty() {
            self.rows.extend(from_ipc(value)?);
        }
        if at < count {
            return Ok(());
        }
        let record =
            text(headers, COMMIT_HEADER).ok_or_else(|| Error::corrupt("the last part of a commit has no commit record"))?;
        let record =
            serde_json::from_str(record).map_err(|e| Error::corrupt(format!("the commit record does not parse: {e}")))?;
        self.finish(record, store)
    }

    fn finish(&mut self, record: CommitRecord, store: &mut dyn Store) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        self.part = (0, 0);
        if record.generation != self.generation {
            let (found, own) = (record.generation, self.generation);
            return Err(Error::corrupt(format!("a commit of generation {found} in the changelog of generation {own}")));
        }
        if record.number <= record.previous {
            return Err(Error::corrupt(format!("commit {} claims to follow commit {}", record.number, record.previous)));
        }
        if record.number <= self.known {
            return Ok(());
        }
        if let Some(last) = self.last.as_ref().filter(|last| last.number != record.previous) {
            let (number, previous, last) = (record.number, record.previous, last.number);
            return Err(Error::corrupt(format!("commit {number} follows commit {previous}, but the last one read is {last}"))
                .hint("the changelog lost or repeats messages: rebuild the state by a backfill"));
        }
        for rows in &rows {
            store.apply(rows)?;
            self.taken_rows += rows.num_rows() as u64;
        }
        store.expire(record.edge);
        self.last = Some(record);
        if let Some(tail) = &mut self.tail {
            self.tail_bytes += rows.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
            tail.extend(rows);
        }
        Ok(())
    }
}

fn text<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.name == name)?;
    std::str::from_utf8(header.value.as_deref()?).ok()
}

fn parse_part(text: &str) -> Option<(usize, usize)> {
    let (at, count) = text.split_once('/')?;
    let (at, count) = (at.parse().ok()?, count.parse().ok()?);
    (at >= 1 && at <= count).then_some((at, count))
}

/// The commit record of a message, if it carries one: for `print`, and for finding a changelog's last commit.
pub fn commit_record(headers: &[Header]) -> Option<CommitRecord> {
    serde_json::from_str(text(headers, COMMIT_HEADER)?).ok()
}
