//! Keys of rows as dense numbers: hash tables over columns, without an allocation per row.
//!
//! A [`KeyShape`] turns key columns into comparable values, a whole batch at once; a [`KeyTable`] gives each distinct key the next
//! number. One integer and one text column have their own way; everything else goes through Arrow's row format.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::canonical::one_zero_one_nan;
use super::evaluate::broken;
use crate::error::{Error, Result};

/// The types of a key and how it is encoded.
pub struct KeyShape {
    types: Vec<DataType>,
    kind: Kind,
}

enum Kind {
    /// No column: one key.
    Unit,
    Integer,
    Text,
    Rows(RowConverter),
}

/// The keys of a batch, by row.
pub enum EncodedKeys {
    Unit,
    Integer(Int64Array),
    Text(StringArray),
    Rows(Rows),
}

impl KeyShape {
    /// # Errors
    /// A type that can't be a key, named.
    pub fn new(types: Vec<DataType>) -> Result<KeyShape> {
        if let Some(refused) = types.iter().find(|t| !super::canonical::supports(t)) {
            return Err(Error::config(format!("a key of type {refused} is not supported")));
        }
        let kind = match types.as_slice() {
            [] => Kind::Unit,
            [DataType::Utf8] => Kind::Text,
            [t] if (t.is_integer() && *t != DataType::UInt64) || matches!(t, DataType::Timestamp(_, _)) => Kind::Integer,
            _ => {
                let fields = types.iter().cloned().map(SortField::new).collect();
                Kind::Rows(RowConverter::new(fields).map_err(|e| Error::config(format!("key columns: {e}")))?)
            }
        };
        Ok(KeyShape { types, kind })
    }

    pub fn types(&self) -> &[DataType] {
        &self.types
    }

    pub fn encode(&self, columns: &[ArrayRef]) -> Result<EncodedKeys> {
        assert_eq!(columns.len(), self.types.len(), "a key has the columns that it was planned with");
        let failed = |e| broken("encode keys", e);
        Ok(match &self.kind {
            Kind::Unit => EncodedKeys::Unit,
            Kind::Integer => {
                EncodedKeys::Integer(cast(&columns[0], &DataType::Int64).map_err(failed)?.as_primitive::<Int64Type>().clone())
            }
            Kind::Text => EncodedKeys::Text(columns[0].as_string::<i32>().clone()),
            Kind::Rows(converter) => {
                let columns: Vec<ArrayRef> = columns.iter().map(canonical_floats).collect();
                EncodedKeys::Rows(converter.convert_columns(&columns).map_err(failed)?)
            }
        })
    }

    pub fn table(&self) -> KeyTable {
        match self.kind {
            Kind::Unit => KeyTable::Unit { present: false },
            Kind::Integer => KeyTable::Integer { values: Vec::new(), null: None, table: HashTable::new() },
            Kind::Text | Kind::Rows(_) => {
                KeyTable::Bytes { arena: Vec::new(), ends: Vec::new(), null: None, table: HashTable::new() }
            }
        }
    }

    /// The key columns of the given numbers.
    pub fn decode(&self, table: &KeyTable, numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        let failed = |e| broken("decode keys", e);
        Ok(match (&self.kind, table) {
            (Kind::Unit, _) => Vec::new(),
            (Kind::Integer, KeyTable::Integer { values, null, .. }) => {
                let values: Int64Array = numbers.iter().map(|n| (*null != Some(*n)).then(|| values[*n as usize])).collect();
                vec![cast(&values, &self.types[0]).map_err(failed)?]
            }
            (Kind::Text, KeyTable::Bytes { null, .. }) => {
                let bytes = numbers.iter().map(|n| table.bytes(*n).len()).sum();
                let mut text = StringBuilder::with_capacity(numbers.len(), bytes);
                for number in numbers {
                    let value = std::str::from_utf8(table.bytes(*number)).expect("only text was interned");
                    text.append_option((*null != Some(*number)).then_some(value));
                }
                vec![Arc::new(text.finish()) as ArrayRef]
            }
            (Kind::Rows(converter), _) => {
                let parser = converter.parser();
                converter.convert_rows(numbers.iter().map(|n| parser.parse(table.bytes(*n)))).map_err(failed)?
            }
            _ => unreachable!("a table belongs to the shape that made it"),
        })
    }
}

impl EncodedKeys {
    /// Appends the key of a row as bytes that sort as [`KeyTable::sorted`] does.
    pub fn write(&self, row: usize, to: &mut Vec<u8>) {
        match self {
            EncodedKeys::Unit => {}
            EncodedKeys::Integer(keys) => write_integer(keys.is_valid(row).then(|| keys.value(row)), to),
            EncodedKeys::Text(text) => write_text(text.is_valid(row).then(|| text.value(row).as_bytes()), to),
            EncodedKeys::Rows(rows) => to.extend_from_slice(rows.row(row).data()),
        }
    }
}

fn write_integer(key: Option<i64>, to: &mut Vec<u8>) {
    to.push(u8::from(key.is_some()));
    if let Some(key) = key {
        to.extend(sortable(key));
    }
}

fn write_text(key: Option<&[u8]>, to: &mut Vec<u8>) {
    to.push(u8::from(key.is_some()));
    to.extend_from_slice(key.unwrap_or_default());
}

/// Bytes that sort as the number does.
pub fn sortable(number: i64) -> [u8; 8] {
    (number as u64 ^ 1 << 63).to_be_bytes()
}

/// The number of the first eight bytes.
pub fn unsortable(bytes: &[u8]) -> i64 {
    let number = bytes.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    (number ^ 1 << 63) as i64
}

/// Distinct keys, numbered from 0 in the order in which they came.
pub enum KeyTable {
    Unit {
        present: bool,
    },
    Integer {
        values: Vec<i64>,
        null: Option<u32>,
        table: HashTable<(i64, u32)>,
    },
    /// Text, or rows in Arrow's format. Only text has a null of its own.
    Bytes {
        arena: Vec<u8>,
        ends: Vec<usize>,
        null: Option<u32>,
        table: HashTable<(u64, u32)>,
    },
}

impl KeyTable {
    /// The number of the key of one row; a new key gets the next.
    pub fn intern(&mut self, keys: &EncodedKeys, row: usize) -> u32 {
        match (self, keys) {
            (KeyTable::Unit { present }, EncodedKeys::Unit) => {
                *present = true;
                0
            }
            (KeyTable::Integer { values, null, table }, EncodedKeys::Integer(keys)) => {
                if keys.is_null(row) {
                    return *null.get_or_insert_with(|| {
                        values.push(0);
                        values.len() as u32 - 1
                    });
                }
                let key = keys.value(row);
                let entry = table.entry(hash_integer(key), |(known, _)| *known == key, |(known, _)| hash_integer(*known));
                entry
                    .or_insert_with(|| {
                        values.push(key);
                        (key, values.len() as u32 - 1)
                    })
                    .get()
                    .1
            }
            (KeyTable::Bytes { arena, ends, null, table }, keys) => {
                let key = match keys {
                    EncodedKeys::Text(text) if text.is_null(row) => {
                        return *null.get_or_insert_with(|| {
                            ends.push(arena.len());
                            ends.len() as u32 - 1
                        });
                    }
                    EncodedKeys::Text(text) => text.value(row).as_bytes(),
                    EncodedKeys::Rows(rows) => rows.row(row).data(),
                    _ => unreachable!("a table belongs to the shape that made it"),
                };
                let hash = xxh3_64(key);
                let equal = |(known, number): &(u64, u32)| *known == hash && range_of(arena, ends, *number) == key;
                if let Some((_, number)) = table.find(hash, equal) {
                    return *number;
                }
                let number = ends.len() as u32;
                arena.extend_from_slice(key);
                ends.push(arena.len());
                table.insert_unique(hash, (hash, number), |(known, _)| *known);
                number
            }
            _ => unreachable!("a table belongs to the shape that made it"),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            KeyTable::Unit { present } => usize::from(*present),
            KeyTable::Integer { values, .. } => values.len(),
            KeyTable::Bytes { ends, .. } => ends.len(),
        }
    }

    /// The number of the key of one row, if it is known.
    pub fn find(&self, keys: &EncodedKeys, row: usize) -> Option<u32> {
        match (self, keys) {
            (KeyTable::Unit { present }, EncodedKeys::Unit) => present.then_some(0),
            (KeyTable::Integer { null, .. }, EncodedKeys::Integer(keys)) if keys.is_null(row) => *null,
            (KeyTable::Integer { table, .. }, EncodedKeys::Integer(keys)) => {
                let key = keys.value(row);
                table.find(hash_integer(key), |(known, _)| *known == key).map(|(_, number)| *number)
            }
            (KeyTable::Bytes { null, .. }, EncodedKeys::Text(text)) if text.is_null(row) => *null,
            (KeyTable::Bytes { arena, ends, table, .. }, keys) => {
                let key = match keys {
                    EncodedKeys::Text(text) => text.value(row).as_bytes(),
                    EncodedKeys::Rows(rows) => rows.row(row).data(),
                    _ => unreachable!("a table belongs to the shape that made it"),
                };
                let hash = xxh3_64(key);
                let equal = |(known, number): &(u64, u32)| *known == hash && range_of(arena, ends, *number) == key;
                table.find(hash, equal).map(|(_, number)| *number)
            }
            _ => unreachable!("a table belongs to the shape that made it"),
        }
    }

    /// Appends the key of a number as [`EncodedKeys::write`] does; `shape` is the one that made the table.
    pub fn write(&self, shape: &KeyShape, number: u32, to: &mut Vec<u8>) {
        match (self, &shape.kind) {
            (KeyTable::Unit { .. }, _) => {}
            (KeyTable::Integer { values, null, .. }, _) => {
                write_integer((*null != Some(number)).then(|| values[number as usize]), to);
            }
            (KeyTable::Bytes { null, .. }, Kind::Text) => write_text((*null != Some(number)).then(|| self.bytes(number)), to),
            (KeyTable::Bytes { .. }, _) => to.extend_from_slice(self.bytes(number)),
        }
    }

    /// The keys of the given numbers alone, numbered anew in the order given: what is left after many keys have gone.
    pub fn subset(&self, numbers: &[u32]) -> KeyTable {
        match self {
            KeyTable::Unit { .. } => KeyTable::Unit { present: !numbers.is_empty() },
            KeyTable::Integer { values, null, .. } => {
                let mut table = HashTable::with_capacity(numbers.len());
                let mut new_null = None;
                for (at, number) in numbers.iter().enumerate() {
                    if *null == Some(*number) {
                        new_null = Some(at as u32);
                        continue;
                    }
                    let key = values[*number as usize];
                    table.insert_unique(hash_integer(key), (key, at as u32), |(known, _)| hash_integer(*known));
                }
                KeyTable::Integer { values: numbers.iter().map(|n| values[*n as usize]).collect(), null: new_null, table }
            }
            KeyTable::Bytes { null, .. } => {
                let (mut arena, mut ends, mut new_null) = (Vec::new(), Vec::with_capacity(numbers.len()), None);
                let mut table = HashTable::with_capacity(numbers.len());
                for (at, number) in numbers.iter().enumerate() {
                    let key = self.bytes(*number);
                    arena.extend_from_slice(key);
                    ends.push(arena.len());
                    if *null == Some(*number) {
                        new_null = Some(at as u32);
                    } else {
                        let hash = xxh3_64(key);
                        table.insert_unique(hash, (hash, at as u32), |(known, _)| *known);
                    }
                }
                KeyTable::Bytes { arena, ends, null: new_null, table }
            }
        }
    }

    /// Forgets all keys numbered `length` and above.
    pub fn truncate(&mut self, length: usize) {
        let current = self.len();
        match self {
            KeyTable::Unit { present } => *present &= length > 0,
            KeyTable::Integer { values, null, table } => {
                *null = null.filter(|n| (*n as usize) < length);
                for (number, key) in values.iter().enumerate().skip(length) {
                    if let Ok(found) = table.find_entry(hash_integer(*key), |(_, n)| *n as usize == number) {
                        found.remove();
                    }
                }
                values.truncate(length);
            }
            KeyTable::Bytes { arena, ends, null, table } => {
                *null = null.filter(|n| (*n as usize) < length);
                for number in length..current {
                    let hash = xxh3_64(range_of(arena, ends, number as u32));
                    if let Ok(found) = table.find_entry(hash, |(_, n)| *n as usize == number) {
                        found.remove();
                    }
                }
                ends.truncate(length);
                arena.truncate(ends.last().copied().unwrap_or(0));
            }
        }
    }

    /// All numbers in the order of their keys, NULL first.
    pub fn sorted(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..self.len() as u32).collect();
        match self {
            KeyTable::Unit { .. } => {}
            KeyTable::Integer { values, null, .. } => {
                numbers.sort_unstable_by_key(|n| (*null != Some(*n), values[*n as usize]));
            }
            KeyTable::Bytes { null, .. } => {
                numbers.sort_unstable_by(|a, b| (*null != Some(*a), self.bytes(*a)).cmp(&(*null != Some(*b), self.bytes(*b))));
            }
        }
        numbers
    }

    /// Estimated memory in bytes.
    pub fn size(&self) -> usize {
        match self {
            KeyTable::Unit { .. } => 0,
            KeyTable::Integer { values, table, .. } => values.capacity() * 8 + table.capacity() * 17,
            KeyTable::Bytes { arena, ends, table, .. } => arena.capacity() + ends.capacity() * 8 + table.capacity() * 17,
        }
    }

    fn bytes(&self, number: u32) -> &[u8] {
        match self {
            KeyTable::Bytes { arena, ends, .. } => range_of(arena, ends, number),
            _ => unreachable!("only byte keys have bytes"),
        }
    }
}

fn range_of<'a>(arena: &'a [u8], ends: &[usize], number: u32) -> &'a [u8] {
    let number = number as usize;
    let start = if number == 0 { 0 } else { ends[number - 1] };
    &arena[start..ends[number]]
}

fn hash_integer(key: i64) -> u64 {
    let wide = u128::from(key as u64 ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93_u128;
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// Arrow's row format tells -0 from 0; SQL does not.
fn canonical_floats(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(one_zero_one_nan)),
        DataType::Float32 => {
            let canonical = |value: f32| one_zero_one_nan(f64::from(value)) as f32;
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(canonical))
        }
        _ => column.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Vec<ArrayRef>> {
        let numbers: Int64Array = vec![Some(7), None, Some(-1), Some(7), Some(i64::MAX)].into();
        let text: StringArray = vec![Some("a"), None, Some(""), Some("a"), Some("b")].into();
        let (numbers, text): (ArrayRef, ArrayRef) = (Arc::new(numbers), Arc::new(text));
        vec![vec![numbers.clone()], vec![text.clone()], vec![numbers, text]]
    }

    #[test]
    fn keys_are_found_and_numbered_anew() {
        for columns in columns() {
            let shape = KeyShape::new(columns.iter().map(|c| c.data_type().clone()).collect()).unwrap();
            let keys = shape.encode(&columns).unwrap();
            let mut table = shape.table();
            assert_eq!(table.find(&keys, 0), None);
            let numbers: Vec<u32> = (0..5).map(|row| table.intern(&keys, row)).collect();
            assert_eq!(numbers, [0, 1, 2, 0, 3]);
            assert_eq!((0..5).map(|row| table.find(&keys, row).unwrap()).collect::<Vec<_>>(), numbers);

            // The first row's key is gone; the others keep their order.
            let mut rest = table.subset(&[1, 2, 3]);
            assert_eq!((0..5).map(|row| rest.find(&keys, row)).collect::<Vec<_>>(), [None, Some(0), Some(1), None, Some(2)]);
            let back = |table: &KeyTable, numbers: &[u32]| shape.decode(table, numbers).unwrap();
            assert_eq!(back(&rest, &[0, 1, 2]), back(&table, &[1, 2, 3]));

            // Bytes say which key, and sort as the table does.
            let bytes = |number: u32| {
                let mut bytes = Vec::new();
                table.write(&shape, number, &mut bytes);
                bytes
            };
            for (row, number) in numbers.iter().enumerate() {
                let mut of_row = Vec::new();
                keys.write(row, &mut of_row);
                assert_eq!(of_row, bytes(*number));
            }
            let mut sorted = table.sorted();
            sorted.sort_by_key(|number| bytes(*number));
            assert_eq!(sorted, table.sorted());
            assert_eq!(rest.intern(&keys, 0), 3);
            rest.truncate(1);
            assert_eq!((rest.find(&keys, 1), rest.find(&keys, 4), rest.len()), (Some(0), None, 1));
        }
    }
}
