//! `row.field`, `map['key']`, `list[1]`: what is absent is NULL; and operands, checked as they are planned.
//!
//! A field's values under a NULL row are whatever the decoder left there; the library returns them. Here they are NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr};
use datafusion_expr::{
    Case, ColumnarValue, Expr, ExprSchemable, GetFieldAccess, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, lit,
};
use datafusion_functions::core::getfield::GetFieldFunc;
use datafusion_sql::sqlparser::ast::BinaryOperator;

use crate::topology::fault::{Fault, Result, list};
use crate::topology::lower::place_in;
use crate::topology::types::sql_name;

/// Plans fields and elements, before the library does.
#[derive(Debug)]
pub(super) struct Access;

impl ExprPlanner for Access {
    fn plan_compound_identifier(
        &self,
        column: &Field,
        qualifier: Option<&TableReference>,
        names: &[String],
    ) -> datafusion_common::Result<PlannerResult<Vec<Expr>>> {
        // A field that is not there is refused when the type is asked for: errors of this method are thrown away.
        let base = Expr::Column(Column::from((qualifier, column)));
        let args = std::iter::once(base).chain(names.iter().map(|name| lit(name.as_str())));
        Ok(PlannerResult::Planned(call(args.collect())))
    }

    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> datafusion_common::Result<PlannerResult<RawFieldAccessExpr>> {
        let name = match &access.field_access {
            GetFieldAccess::NamedStructField { name } => Expr::Literal(name.clone(), None),
            GetFieldAccess::ListIndex { key } => (**key).clone(),
            GetFieldAccess::ListRange { .. } => return Ok(PlannerResult::Original(access)),
        };
        match access.expr.get_type(schema)? {
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)
                if matches!(access.field_access, GetFieldAccess::ListIndex { .. }) =>
            {
                check_index(&name).map_err(|f| f.at(place_in(&access.expr)))?;
                Ok(PlannerResult::Original(access))
            }
            _ => {
                let place = place_in(&access.expr);
                Ok(PlannerResult::Planned(field(vec![access.expr, name], schema).map_err(|f| f.at(place))?))
            }
        }
    }

    /// Refused here, because the library's refusals name its own types.
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> datafusion_common::Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator::{Divide, Minus, Modulo, Multiply, Plus};
        if let Plus | Minus | Multiply | Divide | Modulo = expr.op {
            let (left, right) = (held(&expr.left, schema)?, held(&expr.right, schema)?);
            if let Some(fault) = super::no_arithmetic(&left, &expr.op, &right) {
                return Err(fault.at(place_in(&expr.left).or(place_in(&expr.right))).into());
            }
        }
        Ok(PlannerResult::Original(expr))
    }
}

/// An expression's type, where whole numbers are INT if they fit.
fn held(expr: &Expr, schema: &DFSchema) -> datafusion_common::Result<DataType> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(n)), _) if i32::try_from(*n).is_ok() => Ok(DataType::Int32),
        expr => expr.get_type(schema),
    }
}

/// The library's `get_field`, with NULL for the fields of a NULL row.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FieldOf {
    library: GetFieldFunc,
}

/// `get_field` as planned, as it runs: refused where the row has no such field, or the map no such keys.
pub(super) fn field(args: Vec<Expr>, schema: &DFSchema) -> Result<Expr> {
    let mut data_type = args[0].get_type(schema)?;
    for name in &args[1..] {
        data_type = part_type(&data_type, name)?;
    }
    Ok(call(args))
}

fn call(args: Vec<Expr>) -> Expr {
    let udf = Arc::new(ScalarUDF::from(FieldOf { library: GetFieldFunc::new() }));
    Expr::ScalarFunction(ScalarFunction { func: udf, args })
}

fn part_type(of: &DataType, name: &Expr) -> Result<DataType> {
    let Expr::Literal(value, _) = name else {
        return Err(Fault::new("the key of a map must be a constant").hint("write map['key']"));
    };
    let text = value.try_as_str().flatten();
    match of {
        DataType::Struct(fields) => {
            let Some(text) = text else {
                return Err(Fault::new(format!("{} has no elements", sql_name(of))).hint("write row.field"));
            };
            match fields.iter().find(|f| f.name() == text) {
                Some(field) => Ok(field.data_type().clone()),
                None => {
                    let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
                    let fault = Fault::new(format!("field \"{text}\" is not known"));
                    Err(match crate::error::nearest(text, names.iter().copied()) {
                        Some(near) => fault.hint(format!("did you mean \"{near}\"?")),
                        None => fault.hint(format!("the fields here are {}", list(&names))),
                    })
                }
            }
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 && *fields[0].data_type() == value.data_type() => {
                Ok(fields[1].data_type().clone())
            }
            _ => Err(Fault::new(format!("{value} is no key of {}", sql_name(of))).hint("write map['key']")),
        },
        other => {
            let what = text.map_or_else(|| format!("element {value}"), |t| format!("field \"{t}\""));
            Err(Fault::new(format!("{} has no {what}", sql_name(other))).hint("ROW has fields, ARRAY and MAP have elements"))
        }
    }
}

/// `list[index]`: from 1, as in Flink; the library would count a negative index from the end.
pub(super) fn element(call: Expr, index: &Expr) -> Result<Expr> {
    if check_index(index)? {
        return Ok(call);
    }
    Ok(Expr::Case(Case {
        expr: None,
        when_then_expr: vec![(Box::new(index.clone().gt(lit(0_i32))), Box::new(call))],
        else_expr: None,
    }))
}

/// Whether the index is a constant; one below 1 is refused.
fn check_index(index: &Expr) -> Result<bool> {
    let index = match index {
        Expr::Negative(inner) => match &**inner {
            Expr::Literal(value, _) => value.arithmetic_negate().ok(),
            _ => None,
        },
        Expr::Literal(value, _) => Some(value.clone()),
        _ => None,
    };
    match index.and_then(|value| value.cast_to(&DataType::Int64).ok()) {
        Some(ScalarValue::Int64(Some(n))) if n < 1 => {
            Err(Fault::new(format!("elements count from 1, not from {n}")).hint("the first element is [1]"))
        }
        value => Ok(value.is_some()),
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
        let mut data_type = args.arg_fields[0].data_type().clone();
        for name in args.scalar_arguments.iter().skip(1) {
            let name = name.cloned().map(|value| Expr::Literal(value, None));
            data_type = part_type(&data_type, &name.unwrap_or_else(|| lit(ScalarValue::Null)))?;
        }
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
