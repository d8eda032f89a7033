//! Framed Avro values to columns.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

use super::column::Column;
use super::plan::Plan;
use crate::codec::wire::{HeaderIds, unframe};
use crate::codec::{BadValue, Decoded};
use crate::contract::tree::Tree;
use crate::contract::{AvroSchema, Contract, WriterId, compat};
use crate::error::{BadClass, Error, Result};
use crate::record::Bytes;

/// Values of more bytes than this are not decoded at once: a column's offsets have 31 bits.
const CHUNK_BYTES: usize = 1 << 30;

/// Decodes values of one subject to the reader's columns. Writers are told to it as their ids turn up; values of several writers
/// may be mixed.
#[derive(Debug)]
pub struct AvroDecoder {
    subject: String,
    reader: Arc<AvroSchema>,
    tree: Tree,
    /// The wanted columns, by index in the contract, ascending.
    columns: Vec<usize>,
    schema: SchemaRef,
    built: Vec<Column>,
    /// `None`: the registry does not know the id.
    writers: HashMap<WriterId, Option<Plan>>,
}

impl AvroDecoder {
    /// `columns`: the contract's columns that are wanted, ascending; may be empty (values are still checked).
    pub fn new(reader: &Contract, columns: &[usize]) -> Result<AvroDecoder> {
        assert!(columns.is_sorted(), "columns are asked for in their order");
        let schema = reader.columns.project(columns);
        let schema = schema.map_err(|e| Error::failed(format!("subject \"{}\": {e}", reader.subject)))?;
        Ok(AvroDecoder {
            subject: reader.subject.clone(),
            reader: reader.schema.clone(),
            tree: reader.schema.tree()?,
            columns: columns.to_vec(),
            built: schema.fields().iter().map(|field| Column::new(field)).collect::<Result<_>>()?,
            schema: Arc::new(schema),
            writers: HashMap::new(),
        })
    }

    /// The columns that come out.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The ids of values whose writer has not been added, each once. `given` are the ids that stand in headers.
    pub fn missing(&self, values: &Bytes, given: &HeaderIds) -> Vec<WriterId> {
        let mut missing = Vec::new();
        let mut last = None;
        let mut given = given.iter().peekable();
        for (row, value) in (0_u32..).zip(values.iter()) {
            let header = given.next_if(|(at, _)| *at == row).map(|(_, id)| id);
            let id = match (value, header) {
                (None, _) | (_, Some(Err(_))) => continue,
                (_, Some(Ok(id))) => *id,
                (Some(value), None) => match unframe(value) {
                    Ok((id, _)) => id,
                    Err(_) => continue,
                },
            };
            if last != Some(id) {
                last = Some(id);
                if !self.writers.contains_key(&id) && !missing.contains(&id) {
                    missing.push(id);
                }
            }
        }
        missing
    }

    /// `None`: the registry knows no such id, and values with it are bad. `Contract` error: nothing that this writer writes can be
    /// read, with the differences.
    pub fn add_writer(&mut self, id: WriterId, schema: Option<Arc<AvroSchema>>) -> Result<()> {
        let plan = match schema {
            None => None,
            Some(schema) => Some(Plan::new(&self.tree, &self.columns, schema.tree()?).map_err(|why| {
                let found = compat::differences(&self.reader, &schema);
                let found = if found.is_empty() { vec![why] } else { found };
                let lines: String = found.iter().map(|line| format!("\n  {line}")).collect();
                Error::contract(format!(
                    "subject \"{}\": values written with schema id {id} can't be read with the pinned schema{lines}",
                    self.subject
                ))
                .hint("pin a reader's schema that can read both, or have the producer go back to a compatible schema")
            })?),
        };
        self.writers.insert(id, plan);
        Ok(())
    }

    /// `Failed` error: an id of [`Self::missing`] was not added, or the values are too many to decode at once.
    pub fn decode(&mut self, values: &Bytes, given: &HeaderIds) -> Result<Decoded> {
        if values.size() > CHUNK_BYTES {
            return Err(Error::failed(format!("{} bytes are too many to decode at once", values.size())));
        }
        let mut kept = Vec::with_capacity(values.len());
        let (mut nulls, mut bad) = (Vec::new(), Vec::new());
        let mut last: Option<(WriterId, Option<&Plan>)> = None;
        let mut given = given.iter().peekable();
        for (row, value) in (0_u32..).zip(values.iter()) {
            let header = given.next_if(|(at, _)| *at == row);
            let Some(value) = value else {
                nulls.push(row);
                continue;
            };
            let framed = match header {
                None => unframe(value),
                Some((_, id)) => id.clone().map(|id| (id, value)),
            };
            let (id, body) = match framed {
                Ok(framed) => framed,
                Err(fault) => {
                    bad.push(BadValue { row, class: fault.class, message: fault.message, schema_id: None });
                    continue;
                }
            };
            let plan = match last {
                Some((known, plan)) if known == id => plan,
                _ => {
                    let plan = self.writers.get(&id).ok_or_else(|| {
                        Error::failed(format!("subject \"{}\": schema id {id} was not fetched before decoding", self.subject))
                    });
                    let plan = match plan {
                        Ok(plan) => plan.as_ref(),
                        Err(e) => {
                            self.built.iter_mut().for_each(|column| column.truncate(0));
                            return Err(e);
                        }
                    };
                    last = Some((id, plan));
                    plan
                }
            };
            match plan.map(|plan| plan.read(body, &mut self.built)) {
                Some(Ok(())) => kept.push(row),
                Some(Err(fault)) => {
                    self.built.iter_mut().for_each(|column| column.truncate(kept.len()));
                    bad.push(BadValue { row, class: BadClass::Decode, message: fault.to_string(), schema_id: Some(id) });
                }
                None => {
                    let message = format!("the schema registry does not know schema id {id}");
                    bad.push(BadValue { row, class: BadClass::Schema, message, schema_id: Some(id) });
                }
            }
        }
        let rows = kept.len();
        let arrays = self.built.iter_mut().map(|column| column.finish(rows)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let rows = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
            .map_err(|e| Error::failed(format!("subject \"{}\": {e}", self.subject)))?;
        Ok(Decoded { rows, kept, nulls, bad })
    }
}
