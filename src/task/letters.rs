//! Dead letters and late rows: the original record with where it came from and why it was not processed.

use std::collections::BTreeMap;

use crate::contract::WriterId;
use crate::error::BadClass;
use crate::operator::{Late, Rejected};
use crate::record::{Chunk, Header, Offset, Outgoing, TopicPartition};

/// Headers that Tidemill adds all begin so.
pub const HEADER_PREFIX: &str = "tidemill.";
pub const TOPIC: &str = "tidemill.topic";
pub const PARTITION: &str = "tidemill.partition";
pub const OFFSET: &str = "tidemill.offset";
pub const TIMESTAMP: &str = "tidemill.timestamp";
pub const PIPELINE: &str = "tidemill.pipeline";
pub const GENERATION: &str = "tidemill.generation";
pub const OPERATOR: &str = "tidemill.operator";
pub const CLASS: &str = "tidemill.class";
pub const MESSAGE: &str = "tidemill.message";
pub const SCHEMA_ID: &str = "tidemill.schema.id";
pub const EVENT_TIME: &str = "tidemill.event.time";
pub const ROW_WATERMARK: &str = "tidemill.row.watermark";

/// Who writes the letters.
#[derive(Clone, Debug)]
pub struct Sender {
    pub pipeline: String,
    pub generation: u32,
}

impl Sender {
    /// The dead letter of a rejected record, into a partition of the dead-letter topic. `chunk` holds the original; without it
    /// (the record is no longer in memory) the letter has only its coordinates.
    pub fn dead(
        &self,
        rejected: &Rejected,
        operator: &str,
        from: &TopicPartition,
        chunk: Option<&Chunk>,
        schema_ids: &BTreeMap<Offset, WriterId>,
        partitions: i32,
        letters: &mut Outgoing,
    ) {
        let mut headers = self.provenance(from, rejected.offset, operator);
        headers.push(Header::new(CLASS, rejected.class.as_str()));
        headers.push(Header::new(MESSAGE, &rejected.message));
        if let Some(id) = schema_ids.get(&rejected.offset) {
            headers.push(Header::new(SCHEMA_ID, id.to_string()));
        }
        push(letters, partitions, from, rejected.offset, chunk, headers);
    }

    pub fn late(
        &self,
        late: &Late,
        operator: &str,
        from: &TopicPartition,
        chunk: Option<&Chunk>,
        partitions: i32,
        letters: &mut Outgoing,
    ) {
        let mut headers = self.provenance(from, late.offset, operator);
        headers.push(Header::new(EVENT_TIME, late.event_time.to_string()));
        headers.push(Header::new(ROW_WATERMARK, late.row_watermark.to_string()));
        push(letters, partitions, from, late.offset, chunk, headers);
    }

    fn provenance(&self, from: &TopicPartition, offset: Offset, operator: &str) -> Vec<Header> {
        vec![
            Header::new(TOPIC, from.topic.as_str()),
            Header::new(PARTITION, from.partition.to_string()),
            Header::new(OFFSET, offset.to_string()),
            Header::new(PIPELINE, &self.pipeline),
            Header::new(GENERATION, self.generation.to_string()),
            Header::new(OPERATOR, operator),
        ]
    }
}

fn push(
    letters: &mut Outgoing,
    partitions: i32,
    from: &TopicPartition,
    offset: Offset,
    chunk: Option<&Chunk>,
    provenance: Vec<Header>,
) {
    let partition = from.partition.0.rem_euclid(partitions);
    let original = chunk.and_then(|chunk| Some((chunk, chunk.row_of(offset)?)));
    let Some((chunk, row)) = original else {
        return letters.push(partition, -1, None, None, provenance);
    };
    let mut headers: Vec<Header> = chunk.row_headers(row).to_vec();
    headers.push(Header::new(TIMESTAMP, chunk.timestamps[row].to_string()));
    headers.extend(provenance);
    letters.push(partition, chunk.timestamps[row], chunk.keys.get(row), chunk.values.get(row), headers);
}

/// What a bad record does: the class decides together with the source's policy.
pub fn describe(class: BadClass, message: &str, from: &TopicPartition, offset: Offset) -> String {
    format!("{from} offset {offset}: {class}: {message}")
}
