//! `row.field`, `map['key']`, `list[1]`: what is absent is NULL.
//!
//! A field's values under a NULL row are whatever the decoder left there; the library returns them. Here they are NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::compute::nullif;
use arrow::datatypes::{DataType, FieldRef};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{
    Case, ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, lit,
};
use datafusion_functions::core::getfield::GetFieldFunc;

use crate::topology::fault::{Fault, list};
use crate::topology::types::sql_name;

/// The library's `get_field`, with NULL for the fields of a NULL row.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FieldOf {
    library: GetFieldFunc,
}

/// `get_field` as planned, as it runs: refused where the row has no such field, or the map no such keys.
pub(super) fn field(args: Vec<Expr>, schema: &DFSchema) -> datafusion_common::Result<Expr> {
    let mut data_type = args[0].get_type(schema)?;
    for name in &args[1..] {
        data_type = part_type(&data_type, name)?;
    }
    let udf = Arc::new(ScalarUDF::from(FieldOf { library: GetFieldFunc::new() }));
    Ok(Expr::ScalarFunction(ScalarFunction { func: udf, args }))
}

fn part_type(of: &DataType, name: &Expr) -> datafusion_common::Result<DataType> {
    let Expr::Literal(value, _) = name else {
        return Err(Fault::new("the key of a map must be a constant").hint("write map['key']").into());
    };
    let text = value.try_as_str().flatten();
    match of {
        DataType::Struct(fields) => {
            let Some(text) = text else {
                return Err(Fault::new(format!("{} has no elements", sql_name(of))).hint("write row.field").into());
            };
            match fields.iter().find(|f| f.name() == text) {
                Some(field) => Ok(field.data_type().clone()),
                None => {
                    let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
                    let fault = Fault::new(format!("field \"{text}\" is not known"));
                    Err(match crate::error::nearest(text, names.iter().copied()) {
                        Some(near) => fault.hint(format!("did you mean \"{near}\"?")),
                        None => fault.hint(format!("the fields here are {}", list(&names))),
                    }
                    .into())
                }
            }
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 && *fields[0].data_type() == value.data_type() => {
                Ok(fields[1].data_type().clone())
            }
            _ => Err(Fault::new(format!("{value} is no key of {}", sql_name(of))).hint("write map['key']").into()),
        },
        other => {
            let shown = text.map_or_else(|| value.to_string(), |t| format!("\"{t}\""));
            Err(Fault::new(format!("{} has no field {shown}", sql_name(other))).into())
        }
    }
}

/// `list[index]`: from 1, as in Flink; the library would count a negative index from the end.
pub(super) fn element(call: Expr, index: &Expr) -> datafusion_common::Result<Expr> {
    let fixed = match index {
        Expr::Literal(value, _) => value.cast_to(&DataType::Int64).ok(),
        _ => None,
    };
    match fixed {
        Some(ScalarValue::Int64(Some(n))) if n < 1 => {
            Err(Fault::new(format!("elements count from 1, not from {n}")).hint("the first element is [1]").into())
        }
        Some(ScalarValue::Int64(Some(_))) => Ok(call),
        _ => Ok(Expr::Case(Case {
            expr: None,
            when_then_expr: vec![(Box::new(index.clone().gt(lit(0_i32))), Box::new(call))],
            else_expr: None,
        })),
    }
}

impl ScalarUDFImpl for FieldOf {
    fn name(&self) -> &str {
        self.library.name()
    }

    fn schema_name(&self, args: &[Expr]) -> datafusion_common::Result<String> {
        self.library.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.library.signature()
    }

    fn return_type(&self, types: &[DataType]) -> datafusion_common::Result<DataType> {
        self.library.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> datafusion_common::Result<FieldRef> {
        self.library.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> datafusion_common::Result<Vec<DataType>> {
        self.library.coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let mut value = args.args[0].to_array(args.number_rows)?;
        for name in &args.args[1..] {
            let part = match value.data_type() {
                DataType::Null => return Ok(ColumnarValue::Scalar(ScalarValue::try_from(args.return_field.data_type())?)),
                DataType::Struct(_) => match name {
                    ColumnarValue::Scalar(name) => name
                        .try_as_str()
                        .flatten()
                        .and_then(|name| value.as_struct().column_by_name(name).cloned())
                        .ok_or_else(|| Fault::new("a field was lost"))?,
                    ColumnarValue::Array(_) => return Err(Fault::new("a field's name is a constant").into()),
                },
                _ => {
                    let args =
                        ScalarFunctionArgs { args: vec![ColumnarValue::Array(Arc::clone(&value)), name.clone()], ..args.clone() };
                    self.library.invoke_with_args(args.clone())?.into_array(args.number_rows)?
                }
            };
            value = masked(part, value.nulls())?;
        }
        Ok(ColumnarValue::Array(value))
    }
}

/// The values where their row is not NULL.
fn masked(values: ArrayRef, rows: Option<&NullBuffer>) -> datafusion_common::Result<ArrayRef> {
    match rows {
        Some(rows) if rows.null_count() > 0 && *values.data_type() != DataType::Null => {
            Ok(nullif(&values, &BooleanArray::new(!rows.inner(), None))?)
        }
        _ => Ok(values),
    }
}
