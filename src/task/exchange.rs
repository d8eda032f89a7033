//! Rows through a repartition topic: what a task sends, and what it receives.
//!
//! A message is a whole Arrow IPC batch for one target partition, and its rows are of one origin. A commit of the sender ends, for every
//! target partition, with a message that says how far the sender is: its output watermark after its last row. When the watermark moved,
//! that message goes out even without rows.
//!
//! ```text
//! headers   tidemill.format = 1 | tidemill.sender = task's number | tidemill.commit = number of the sender's commit
//!           tidemill.origin = source/partition/derived, with rows only | tidemill.watermark = microseconds, last message of a commit only
//! value     columns of the rows, _offset, _event_time, _row_watermark, and _weight where rows carry weights
//! ```
//!
//! Invariant: a receiver starts every sender that can have rows for it at minus infinity, so its edge watermark moves only when all of them
//! have spoken.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema, SchemaRef};

use crate::error::{Error, Result};
use crate::operator::Output;
use crate::operator::exchange::{Exchange, ExchangeSpec};
use crate::record::{Batch, Chunk, Header, NextOffset, Outgoing, Partition, Topic, TopicPartition};
use crate::store::changelog::{from_ipc, split_ipc};
use crate::task::names::Names;
use crate::topology::Node;
use crate::watermark::Watermark;

/// The format of messages that this version writes and reads.
const FORMAT: &str = "1";
const FORMAT_HEADER: &str = "tidemill.format";
const SENDER_HEADER: &str = "tidemill.sender";
const COMMIT_HEADER: &str = "tidemill.commit";
const ORIGIN_HEADER: &str = "tidemill.origin";
const WATERMARK_HEADER: &str = "tidemill.watermark";

/// Columns that a message adds to the rows'.
const POSITIONS: [&str; 3] = ["_offset", "_event_time", "_row_watermark"];
const WEIGHT: &str = "_weight";

/// Where a batch's rows come from; a message holds rows of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    source: u16,
    partition: i32,
    derived: bool,
    weighted: bool,
}

/// What a task sends through one exchange.
pub struct Outbox {
    pub node: usize,
    topic: Topic,
    partitions: i32,
    exchange: Exchange,
    /// Columns of the rows.
    schema: SchemaRef,
    /// Since the last commit, by target partition and origin.
    rows: BTreeMap<(i32, Origin), Vec<Batch>>,
    bytes: usize,
    /// The watermark that all targets know: they begin where it does (`Plan::senders`). A task that has nothing to say writes nothing, so that
    /// the topic's end may be taken as soon as all sources behind it are read, whether or not an empty one was ever committed (`task::ends`).
    told: Watermark,
}

impl Outbox {
    /// `told` is what the targets know of this sender from the start.
    pub fn new(
        node: usize,
        exchange: &Node,
        spec: &ExchangeSpec,
        names: &Names,
        partitions: i32,
        told: Watermark,
    ) -> Result<Outbox> {
        Ok(Outbox {
            node,
            topic: names.repartition(&exchange.id)?,
            partitions,
            exchange: Exchange::new(spec.clone(), partitions),
            schema: exchange.schema.clone(),
            rows: BTreeMap::new(),
            bytes: 0,
            told,
        })
    }

    /// Takes rows that reached the exchange.
    pub fn write(&mut self, batch: Batch, out: &mut Output) -> Result<()> {
        for (target, part) in self.exchange.split(batch, out)? {
            let origin = Origin {
                source: part.source,
                partition: part.partition.0,
                derived: part.derived,
                weighted: part.weights.is_some(),
            };
            self.bytes += part.rows.get_array_memory_size();
            self.rows.entry((target, origin)).or_default().push(part);
        }
        Ok(())
    }

    /// The last commit of a former life told this watermark to all targets.
    pub fn told(&mut self, watermark: Watermark) {
        self.told = watermark;
    }

    /// Bytes waiting to be sent, estimated.
    pub fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// The messages of a commit: rows, then how far the sender is. Without a watermark: rows that go ahead of the commit.
    pub fn take(
        &mut self,
        sender: i32,
        commit: u64,
        watermark: Option<Watermark>,
        max_bytes: usize,
    ) -> Result<(Topic, Outgoing)> {
        let mut messages = Outgoing::default();
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let mut rows = rows.into_iter().peekable();
        for target in 0..self.partitions {
            let mut parts: Vec<(Option<Origin>, Vec<u8>)> = Vec::new();
            while let Some(((_, origin), batches)) = rows.next_if(|((to, _), _)| *to == target) {
                let rows = to_message(&self.schema, &batches)?;
                split_ipc(&rows, max_bytes, &mut |bytes| parts.push((Some(origin), bytes)))?;
            }
            if parts.is_empty() {
                if watermark.is_none_or(|watermark| watermark == self.told) {
                    continue;
                }
                parts.push((None, Vec::new()));
            }
            let last = parts.len() - 1;
            for (at, (origin, bytes)) in parts.into_iter().enumerate() {
                let mut headers = vec![
                    Header::new(FORMAT_HEADER, FORMAT),
                    Header::new(SENDER_HEADER, sender.to_string()),
                    Header::new(COMMIT_HEADER, commit.to_string()),
                ];
                if let Some(Origin { source, partition, derived, .. }) = origin {
                    headers.push(Header::new(ORIGIN_HEADER, format!("{source}/{partition}/{}", u8::from(derived))));
                }
                if at == last
                    && let Some(watermark) = watermark
                {
                    headers.push(Header::new(WATERMARK_HEADER, watermark.0.to_string()));
                }
                messages.push(target, 0, None, Some(&bytes), headers);
            }
        }
        self.told = watermark.unwrap_or(self.told);
        Ok((self.topic.clone(), messages))
    }
}

/// Batches of one origin as the columns of a message.
fn to_message(schema: &SchemaRef, batches: &[Batch]) -> Result<RecordBatch> {
    let failed = |e| Error::corrupt(format!("rows of a shuffle can't be joined: {e}"));
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    fields.extend(POSITIONS.iter().map(|name| Arc::new(Field::new(*name, DataType::Int64, false))));
    if batches[0].weights.is_some() {
        fields.push(Arc::new(Field::new(WEIGHT, DataType::Int8, false)));
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let with_positions = |batch: &Batch| {
        let mut columns: Vec<ArrayRef> = batch.rows.columns().to_vec();
        columns.push(Arc::new(batch.offsets.clone()));
        columns.push(Arc::new(batch.event_times.clone()));
        columns.push(Arc::new(batch.row_watermarks.clone()));
        columns.extend(batch.weights.as_ref().map(|weights| Arc::new(weights.clone()) as ArrayRef));
        RecordBatch::try_new(schema.clone(), columns)
    };
    let parts = batches.iter().map(with_positions).collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
    concat_batches(&schema, &parts).map_err(failed)
}

/// What a task receives through one exchange.
pub struct Inbox {
    pub partition: TopicPartition,
    /// The exchange.
    pub node: usize,
    pub state: InboxState,
    /// Columns of the rows.
    schema: SchemaRef,
}

/// Where an inbox stands; enough to go back to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxState {
    pub position: NextOffset,
    /// Output watermark of every sender, by the number of its task.
    pub senders: Vec<Watermark>,
}

impl InboxState {
    /// Nothing was received yet.
    pub fn start(senders: Vec<Watermark>) -> InboxState {
        InboxState { position: NextOffset(0), senders }
    }
}

impl Inbox {
    pub fn new(partition: TopicPartition, node: usize, schema: SchemaRef, state: InboxState) -> Inbox {
        Inbox { partition, node, state, schema }
    }

    /// The lowest over all senders.
    pub fn watermark(&self) -> Watermark {
        self.state.senders.iter().copied().min().unwrap_or(Watermark::MAX)
    }

    /// The rows of a chunk of messages, in their order; senders' watermarks are noted behind them all.
    ///
    /// # Errors
    /// `Corrupt`, with the place, for a message that this version can't have written.
    pub fn take(&mut self, chunk: &Chunk) -> Result<Vec<Batch>> {
        assert!(
            chunk.offsets.first().is_none_or(|first| first.0 >= self.state.position.0),
            "messages are delivered once and in order: {} is at {}, the chunk starts at {:?}",
            self.partition,
            self.state.position,
            chunk.offsets.first()
        );
        let mut batches = Vec::new();
        for row in 0..chunk.len() {
            let taken = self.take_message(chunk.row_headers(row), chunk.values.get(row).unwrap_or_default(), &mut batches);
            taken.map_err(|e| e.context(format!("{}: offset {}", self.partition, chunk.offsets[row])))?;
        }
        self.state.position = self.state.position.max(chunk.next);
        Ok(batches)
    }

    fn take_message(&mut self, headers: &[Header], value: &[u8], batches: &mut Vec<Batch>) -> Result<()> {
        match text(headers, FORMAT_HEADER) {
            Some(FORMAT) => {}
            found => {
                return Err(Error::corrupt(format!(
                    "format {found:?} of a repartition message, this version reads \"{FORMAT}\""
                ))
                .hint("something else wrote into the topic, or a newer version of tidemill did"));
            }
        }
        let number = |name: &str| text(headers, name).and_then(|text| text.parse::<i64>().ok());
        let sender = number(SENDER_HEADER).and_then(|n| usize::try_from(n).ok()).filter(|n| *n < self.state.senders.len());
        let sender = sender
            .ok_or_else(|| Error::corrupt(format!("header \"{SENDER_HEADER}\" names no task of {}", self.state.senders.len())))?;
        if !value.is_empty() {
            let origin = text(headers, ORIGIN_HEADER).and_then(parse_origin);
            let origin = origin.ok_or_else(|| Error::corrupt(format!("header \"{ORIGIN_HEADER}\" is missing or malformed")))?;
            for rows in from_ipc(value)? {
                batches.push(self.batch(&rows, origin)?);
            }
        }
        if let Some(watermark) = number(WATERMARK_HEADER) {
            let known = &mut self.state.senders[sender];
            *known = (*known).max(Watermark(watermark));
        }
        Ok(())
    }

    fn batch(&self, rows: &RecordBatch, (source, partition, derived): (u16, i32, bool)) -> Result<Batch> {
        let width = self.schema.fields().len();
        let columns = rows.columns();
        let positions = |at: usize| -> Result<Int64Array> {
            let column = columns.get(width + at).and_then(|column| column.as_primitive_opt::<Int64Type>());
            column.cloned().ok_or_else(|| Error::corrupt(format!("a message lacks the column \"{}\"", POSITIONS[at])))
        };
        let weights = columns.get(width + POSITIONS.len()).and_then(|column| column.as_primitive_opt::<Int8Type>()).cloned();
        let kept = columns.get(..width).unwrap_or_default().to_vec();
        // `COUNT(*)` of a union needs no column at all: how many rows there are is all that its messages say.
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), kept, &options)
            .map_err(|e| Error::corrupt(format!("rows of a message differ from the plan: {e}")))?;
        Ok(Batch {
            offsets: positions(0)?,
            event_times: positions(1)?,
            row_watermarks: positions(2)?,
            rows,
            source,
            partition: Partition(partition),
            weights,
            derived,
        })
    }
}

fn text<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.name == name)?;
    std::str::from_utf8(header.value.as_deref()?).ok()
}

fn parse_origin(text: &str) -> Option<(u16, i32, bool)> {
    let mut parts = text.split('/');
    let origin = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()? == "1");
    parts.next().is_none().then_some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Operation;

    #[test]
    fn a_task_writes_when_its_watermark_has_moved_to_every_target_and_else_nothing() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let spec = ExchangeSpec { keys: Vec::new(), refuse_late: false, bare_key: None, reason: String::new() };
        let node = Node { id: "sink.exchange".into(), operation: Operation::Exchange(spec.clone()), inputs: vec![0], schema };
        let names = Names::new("tidemill.", "p", 1).expect("a name");
        let mut outbox = Outbox::new(1, &node, &spec, &names, 3, Watermark::MIN).expect("an outbox");
        let none: [i32; 0] = [];
        let mut partitions = |watermark| outbox.take(0, 1, Some(watermark), 1_000).expect("messages").1.partitions;
        assert_eq!(partitions(Watermark::MIN), none, "receivers begin there: an end that was taken before stays the end");
        assert_eq!(partitions(Watermark(5)), [0, 1, 2]);
        assert_eq!(partitions(Watermark(5)), none);
        assert_eq!(partitions(Watermark(6)), [0, 1, 2]);
    }
}
