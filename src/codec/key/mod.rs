//! Keys to columns and back: Avro under a contract, a JSON object, or one raw value.

mod json;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, BinaryBuilder, Int64Array, Int64Builder, RecordBatch, RecordBatchOptions};
use arrow::array::{StringArray, StringBuilder, UInt32Array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options, take, take_record_batch};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};

use crate::codec::wire::HeaderIds;
use crate::codec::{AvroDecoder, AvroEncoder, BadValue, Decoded, Encoded, KeyFormat};
use crate::contract::{AvroSchema, Contract, SchemaId, WriterId};
use crate::error::{BadClass, Error, Result};
use crate::record::Bytes;

use json::{JsonDecoder, JsonEncoder};

pub use json::holds as json_holds;

/// Decodes the keys of one topic. A null key is told in `nulls`, and its row is there with NULL columns; where a column is not
/// nullable it is bad instead.
#[derive(Debug)]
pub struct KeyDecoder {
    format: KeyFormat,
    how: How,
    schema: SchemaRef,
    nullable: bool,
}

#[derive(Debug)]
enum How {
    Avro(Box<AvroDecoder>),
    Json(JsonDecoder),
    Raw,
}

impl KeyDecoder {
    /// `fields` are the resulting columns, in order. Avro: `columns` are the contract's field indexes that they come from,
    /// ascending, and give them their types. Json: `members` are the object's members that they come from. Raw formats: there is at
    /// most one field: text (or a number that the text spells) for `String`, integers for `Long` and `Int`, binary or text for
    /// `Bytes`. `Config` error: the format does not yield a column of that type.
    pub fn new(
        format: KeyFormat,
        contract: Option<&Contract>,
        columns: &[usize],
        members: &[String],
        fields: &[FieldRef],
    ) -> Result<KeyDecoder> {
        let how = match (format, contract) {
            (KeyFormat::Avro, Some(contract)) => {
                let decoder = AvroDecoder::new(contract, columns)?;
                let found: Vec<&DataType> = decoder.schema().fields().iter().map(|field| field.data_type()).collect();
                if !found.iter().copied().eq(fields.iter().map(|field| field.data_type())) {
                    return Err(Error::config(format!("subject \"{}\": key columns have types {found:?}", contract.subject)));
                }
                How::Avro(Box::new(decoder))
            }
            (KeyFormat::Avro, None) => {
                return Err(Error::config("the key's format is avro, but there is no key schema")
                    .hint("register a schema for the topic's keys, or set 'key.format'"));
            }
            (KeyFormat::Json, _) => How::Json(JsonDecoder::new(members, fields)?),
            _ => {
                one_field(format, fields)?;
                How::Raw
            }
        };
        let nullable = fields.iter().all(|field| field.is_nullable());
        Ok(KeyDecoder { format, how, schema: Arc::new(Schema::new(fields.to_vec())), nullable })
    }

    /// As [`AvroDecoder::missing`]; none for other formats.
    pub fn missing(&self, keys: &Bytes, given: &HeaderIds) -> Vec<WriterId> {
        match &self.how {
            How::Avro(avro) => avro.missing(keys, given),
            _ => Vec::new(),
        }
    }

    /// As [`AvroDecoder::add_writer`].
    pub fn add_writer(&mut self, id: WriterId, schema: Option<Arc<AvroSchema>>) -> Result<()> {
        match &mut self.how {
            How::Avro(avro) => avro.add_writer(id, schema),
            _ => Ok(()),
        }
    }

    /// `given` are the ids that stand in headers.
    pub fn decode(&mut self, keys: &Bytes, given: &HeaderIds) -> Result<Decoded> {
        match &mut self.how {
            How::Avro(avro) => {
                let decoded = avro.decode(keys, given)?;
                let rows = with_rows(&self.schema, decoded.rows.columns().to_vec(), decoded.kept.len())?;
                self.with_nulls(Decoded { rows, ..decoded })
            }
            How::Json(json) => json.decode(keys, &self.schema, self.nullable),
            How::Raw => self.raw(keys),
        }
    }

    /// Puts rows of NULLs where the keys were null.
    fn with_nulls(&self, mut decoded: Decoded) -> Result<Decoded> {
        if decoded.nulls.is_empty() {
            return Ok(decoded);
        }
        if !self.nullable {
            decoded.bad.extend(decoded.nulls.iter().map(|row| null_key(*row)));
            decoded.bad.sort_by_key(|bad| bad.row);
            return Ok(decoded);
        }
        let mut kept = Vec::with_capacity(decoded.kept.len() + decoded.nulls.len());
        let mut sources = Vec::with_capacity(kept.capacity());
        let mut nulls = decoded.nulls.iter().peekable();
        for (source, row) in (0_u32..).zip(&decoded.kept) {
            while let Some(null) = nulls.next_if(|null| *null < row) {
                kept.push(*null);
                sources.push(None);
            }
            kept.push(*row);
            sources.push(Some(source));
        }
        kept.extend(nulls);
        sources.resize(kept.len(), None);
        let rows = if decoded.rows.num_columns() == 0 {
            with_rows(&self.schema, Vec::new(), kept.len())?
        } else {
            take_record_batch(&decoded.rows, &UInt32Array::from(sources)).map_err(|e| Error::failed(format!("keys: {e}")))?
        };
        Ok(Decoded { rows, kept, ..decoded })
    }

    fn raw(&self, keys: &Bytes) -> Result<Decoded> {
        let (mut kept, mut nulls, mut bad) = (Vec::with_capacity(keys.len()), Vec::new(), Vec::new());
        let field = self.schema.fields().first();
        let text = self.format == KeyFormat::String || field.is_some_and(|field| *field.data_type() == DataType::Utf8);
        let mut column = Raw::new(self.format, text, keys);
        for (row, key) in (0_u32..).zip(keys.iter()) {
            match key {
                None if !self.nullable => {
                    nulls.push(row);
                    bad.push(null_key(row));
                    continue;
                }
                None => {
                    nulls.push(row);
                    column.push_null();
                }
                Some(key) => {
                    if let Err(message) = column.push(key) {
                        bad.push(BadValue { row, class: BadClass::Key, message, schema_id: None });
                        continue;
                    }
                }
            }
            kept.push(row);
        }
        let Some(field) = field else {
            return Ok(Decoded { rows: with_rows(&self.schema, Vec::new(), kept.len())?, kept, nulls, bad });
        };
        let raw = column.finish();
        let array = checked_cast(&raw, field.data_type())?;
        let misfits: Vec<usize> = (0..raw.len()).filter(|at| array.is_null(*at) && raw.is_valid(*at)).collect();
        if misfits.is_empty() {
            return Ok(Decoded { rows: with_rows(&self.schema, vec![array], kept.len())?, kept, nulls, bad });
        }
        for at in &misfits {
            let message = format!("the key is not a value of column \"{}\" ({})", field.name(), field.data_type());
            bad.push(BadValue { row: kept[*at], class: BadClass::Key, message, schema_id: None });
        }
        bad.sort_by_key(|bad| bad.row);
        let good: Vec<u32> = (0..raw.len()).filter(|at| misfits.binary_search(at).is_err()).map(|at| at as u32).collect();
        let kept: Vec<u32> = good.iter().map(|at| kept[*at as usize]).collect();
        let array = take(&array, &UInt32Array::from(good), None).map_err(|e| Error::failed(format!("keys: {e}")))?;
        Ok(Decoded { rows: with_rows(&self.schema, vec![array], kept.len())?, kept, nulls, bad })
    }
}

/// A raw key's column before it gets the type of its field.
enum Raw {
    Text(StringBuilder),
    Number { builder: Int64Builder, size: usize },
    Binary(BinaryBuilder),
}

impl Raw {
    fn new(format: KeyFormat, text: bool, keys: &Bytes) -> Raw {
        match format {
            KeyFormat::Long => Raw::Number { builder: Int64Builder::with_capacity(keys.len()), size: 8 },
            KeyFormat::Int => Raw::Number { builder: Int64Builder::with_capacity(keys.len()), size: 4 },
            _ if text => Raw::Text(StringBuilder::with_capacity(keys.len(), keys.size())),
            _ => Raw::Binary(BinaryBuilder::with_capacity(keys.len(), keys.size())),
        }
    }

    fn push_null(&mut self) {
        match self {
            Raw::Text(builder) => builder.append_null(),
            Raw::Number { builder, .. } => builder.append_null(),
            Raw::Binary(builder) => builder.append_null(),
        }
    }

    fn push(&mut self, key: &[u8]) -> Result<(), String> {
        match self {
            Raw::Text(builder) => match std::str::from_utf8(key) {
                Ok(text) => builder.append_value(text),
                Err(e) => return Err(format!("the key is not UTF-8 at byte {}", e.valid_up_to())),
            },
            Raw::Number { builder, size } => {
                builder.append_value(match (*size, <[u8; 8]>::try_from(key), <[u8; 4]>::try_from(key)) {
                    (8, Ok(bytes), _) => i64::from_be_bytes(bytes),
                    (4, _, Ok(bytes)) => i64::from(i32::from_be_bytes(bytes)),
                    _ => return Err(format!("the key has {} bytes, not {size}", key.len())),
                })
            }
            Raw::Binary(builder) => builder.append_value(key),
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        match self {
            Raw::Text(mut builder) => Arc::new(builder.finish()),
            Raw::Number { mut builder, .. } => Arc::new(builder.finish()),
            Raw::Binary(mut builder) => Arc::new(builder.finish()),
        }
    }
}

/// Encodes the keys of one sink. Raw formats have no bytes for NULL, so a NULL is bad there; Avro and JSON hold it.
#[derive(Debug)]
pub struct KeyEncoder {
    format: KeyFormat,
    avro: Option<AvroEncoder>,
    json: Option<JsonEncoder>,
}

impl KeyEncoder {
    /// `schema` is the registered key schema where the format is Avro. `rows` are the key columns in order; a raw format takes one.
    /// `Config` error: it takes no such column.
    pub fn new(format: KeyFormat, schema: Option<(&AvroSchema, SchemaId)>, rows: &SchemaRef) -> Result<KeyEncoder> {
        let (mut avro, mut json) = (None, None);
        match (format, schema) {
            (KeyFormat::Avro, Some((schema, id))) => avro = Some(AvroEncoder::new(schema, id, rows)?),
            (KeyFormat::Avro, None) => return Err(Error::config("the key's format is avro, but there is no key schema")),
            (KeyFormat::Json, _) => json = Some(JsonEncoder::new(rows.fields())?),
            _ => {
                one_field(format, rows.fields())?;
                if rows.fields().is_empty() {
                    return Err(Error::config(format!("a key of format {} needs a column", format.as_str())));
                }
            }
        }
        Ok(KeyEncoder { format, avro, json })
    }

    pub fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        if let Some(avro) = &mut self.avro {
            let mut encoded = avro.encode(rows)?;
            encoded.bad.iter_mut().for_each(|bad| bad.class = BadClass::Key);
            return Ok(encoded);
        }
        if let Some(json) = &self.json {
            return json.encode(rows);
        }
        let given = rows.column(0);
        let mut out = Encoded { values: Bytes::with_capacity(rows.num_rows(), 8 * rows.num_rows()), ..Encoded::default() };
        let write: Box<dyn Fn(usize, &mut Vec<u8>) -> Result<(), String>> = match self.format {
            KeyFormat::Long | KeyFormat::Int => {
                let array = checked_cast(given, &DataType::Int64)?;
                let numbers: Int64Array = array.as_any().downcast_ref::<Int64Array>().expect("was cast").clone();
                let int = self.format == KeyFormat::Int;
                Box::new(move |row, out| {
                    let value =
                        if numbers.is_null(row) { Err("does not fit 64 bits".to_string()) } else { Ok(numbers.value(row)) }?;
                    match i32::try_from(value) {
                        Ok(value) if int => out.extend_from_slice(&value.to_be_bytes()),
                        Err(_) if int => return Err(format!("{value} does not fit a key of four bytes")),
                        _ => out.extend_from_slice(&value.to_be_bytes()),
                    }
                    Ok(())
                })
            }
            KeyFormat::String => {
                let array = checked_cast(given, &DataType::Utf8)?;
                let texts: StringArray = array.as_any().downcast_ref::<StringArray>().expect("was cast").clone();
                Box::new(move |row, out| {
                    out.extend_from_slice(texts.value(row).as_bytes());
                    Ok(())
                })
            }
            _ => {
                let array = checked_cast(given, &DataType::Binary)?;
                let bytes: BinaryArray = array.as_any().downcast_ref::<BinaryArray>().expect("was cast").clone();
                Box::new(move |row, out| {
                    out.extend_from_slice(bytes.value(row));
                    Ok(())
                })
            }
        };
        let nulls = given.logical_nulls();
        let mut scratch = Vec::new();
        for row in 0..rows.num_rows() {
            scratch.clear();
            let written = match nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                true => Err("the key is NULL".to_string()),
                false => write(row, &mut scratch),
            };
            match written {
                Ok(()) => {
                    out.values.push(Some(&scratch));
                    out.kept.push(row as u32);
                }
                Err(why) => {
                    let message = format!("column \"{}\": {why}", rows.schema().field(0).name());
                    out.bad.push(BadValue { row: row as u32, class: BadClass::Key, message, schema_id: None });
                }
            }
        }
        Ok(out)
    }
}

/// Whether a raw format can hold the column.
fn one_field(format: KeyFormat, fields: &[FieldRef]) -> Result<()> {
    let [field] = fields else {
        return match fields.len() {
            0 => Ok(()),
            many => Err(Error::config(format!("a key of format {} holds one column, not {many}", format.as_str()))
                .hint("use 'key.format' = 'avro' or 'json' for a key of several columns")),
        };
    };
    let of = field.data_type();
    let text = matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let fits = match format {
        KeyFormat::String => text || of.is_integer(),
        KeyFormat::Long | KeyFormat::Int => of.is_integer(),
        KeyFormat::Bytes => text || matches!(of, DataType::Binary | DataType::LargeBinary | DataType::BinaryView),
        KeyFormat::Avro | KeyFormat::Json => true,
    };
    if fits {
        return Ok(());
    }
    Err(Error::config(format!("column \"{}\" of type {of} can't be a key of format {}", field.name(), format.as_str()))
        .hint("cast the column, or set 'key.format' = 'avro'"))
}

fn null_key(row: u32) -> BadValue {
    BadValue { row, class: BadClass::Key, message: "the record has no key".into(), schema_id: None }
}

/// NULL where a value does not fit.
fn checked_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("a key of type {} as {to}: {e}", array.data_type()));
    if !can_cast_types(array.data_type(), to) {
        return Err(failed(&"no such cast"));
    }
    cast_with_options(array, to, &options).map_err(|e| failed(&e))
}

fn with_rows(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(|e| Error::failed(format!("keys: {e}")))
}
