//! Rows of state as bytes, one by one: what a store writes where rows are found by key.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};

use super::evaluate::{broken, record_batch};
use crate::error::Result;
use crate::store::changelog::{from_ipc, to_ipc};

/// To bytes and back, bit by bit the same.
pub struct RowCodec {
    schema: SchemaRef,
    /// `None`: a column's type would not come back from Arrow's row format. Each row is an IPC stream then.
    converter: Option<RowConverter>,
}

impl RowCodec {
    pub fn new(schema: SchemaRef) -> RowCodec {
        let fields: Vec<SortField> = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let comes_back = schema.fields().iter().all(|field| comes_back(field.data_type()));
        let supported = comes_back && !fields.is_empty() && RowConverter::supports_fields(&fields);
        RowCodec { schema, converter: if supported { RowConverter::new(fields).ok() } else { None } }
    }

    /// Visits the rows of a batch in their order.
    pub fn encode(&self, rows: &RecordBatch, mut visit: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        match &self.converter {
            Some(converter) => {
                let bytes = converter.convert_columns(rows.columns()).map_err(|e| broken("rows as bytes", e))?;
                (0..rows.num_rows()).try_for_each(|row| visit(row, bytes.row(row).data()))
            }
            None => (0..rows.num_rows()).try_for_each(|row| visit(row, &to_ipc(&[rows.slice(row, 1)])?)),
        }
    }

    pub fn decode<'a>(&self, rows: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<RecordBatch> {
        let count = rows.len();
        let failed = |e| broken("rows of bytes", e);
        match &self.converter {
            Some(converter) => {
                let parser = converter.parser();
                let columns = converter.convert_rows(rows.map(|row| parser.parse(row))).map_err(failed)?;
                record_batch(&self.schema, columns, count).map_err(failed)
            }
            None => {
                let mut parts = Vec::with_capacity(count);
                for row in rows {
                    parts.extend(from_ipc(row)?);
                }
                concat_batches(&self.schema, &parts).map_err(failed)
            }
        }
    }
}

/// Whether a value has the type that it had: a dictionary comes back as its values.
pub fn comes_back(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, _) | DataType::RunEndEncoded(_, _) | DataType::Union(_, _) | DataType::Map(_, _) => false,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => comes_back(field.data_type()),
        DataType::Struct(fields) => fields.iter().all(|field| comes_back(field.data_type())),
        other => !other.is_nested(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float32Array,
        Float64Array, Int64Array, ListArray, StringArray, StructArray, TimestampMillisecondArray,
    };
    use arrow::datatypes::{Field, Float64Type, Int32Type, Int64Type, Schema};

    use super::*;

    fn there_and_back(columns: Vec<ArrayRef>) {
        let fields = columns.iter().enumerate().map(|(n, c)| Field::new(format!("c{n}"), c.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let codec = RowCodec::new(schema);
        let mut bytes: Vec<Vec<u8>> = Vec::new();
        codec
            .encode(&rows, |_, row| {
                bytes.push(row.to_vec());
                Ok(())
            })
            .unwrap();
        let back = codec.decode(bytes.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(back, rows);
        for (there, back) in rows.columns().iter().zip(back.columns()) {
            if let (Some(there), Some(back)) = (there.as_primitive_opt::<Float64Type>(), back.as_primitive_opt::<Float64Type>()) {
                let bits = |a: &Float64Array| a.values().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(there), bits(back), "every bit of a double comes back");
            }
        }
    }

    #[test]
    fn every_type_of_state_comes_back_bit_by_bit() {
        let odd = f64::from_bits(0x7ff8_0000_0000_1234);
        let structs = StructArray::from(vec![(
            Arc::new(Field::new("a", DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef,
        )]);
        there_and_back(vec![
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
            Arc::new(Float64Array::from(vec![-0.0, odd, f64::NEG_INFINITY])),
            Arc::new(Float32Array::from(vec![Some(-0.0), None, Some(f32::MIN)])),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            Arc::new(StringArray::from(vec![Some(""), None, Some("zwölf")])),
            Arc::new(BinaryArray::from(vec![Some(&b"\0\xff"[..]), None, Some(&b""[..])])),
            Arc::new(FixedSizeBinaryArray::try_from_iter([[0u8; 16], [1; 16], [255; 16]].iter()).unwrap()),
            Arc::new(
                Decimal128Array::from(vec![Some(-1), None, Some(i128::from(i64::MAX) * 7)])
                    .with_precision_and_scale(38, 9)
                    .unwrap(),
            ),
            Arc::new(TimestampMillisecondArray::from(vec![Some(-1), None, Some(1)]).with_timezone("+00:00")),
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])])),
            Arc::new(structs),
        ]);
    }

    #[test]
    fn a_dictionary_stays_one() {
        let values: DictionaryArray<Int32Type> = vec![Some("a"), None, Some("b")].into_iter().collect();
        there_and_back(vec![Arc::new(values), Arc::new(Int64Array::from(vec![1, 2, 3]))]);
    }
}
