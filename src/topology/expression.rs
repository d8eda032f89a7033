//! From planned expressions to ones that run: checked arithmetic, columns by their place in a node's schema.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::expr::{Case, ScalarFunction};
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::utils::split_binary_owned;
use datafusion_expr::{Cast, Expr, ExprSchemable, Operator, binary_expr, lit};
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal, NegativeExpr};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};

use super::fault::{Fault, Result};
use super::types::sql_name;

/// A planned expression over `plan` as one over `node`, where column `i` of the plan is column `columns[i]` of the node.
pub(super) fn physical(expr: &Expr, plan: &DFSchema, node: &Schema, columns: &[Option<usize>]) -> Result<Arc<dyn PhysicalExpr>> {
    let expr = &guarded(simplified(expr, plan)?, plan)?;
    let planned = create_physical_expr(expr, plan, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let placed = planned.transform_up(|e| place(e, node, columns)).data()?;
    Ok(placed)
}

/// Some functions (COALESCE, NVL) exist only to be rewritten; constants stay as they are, so that their overflow is found on a row.
fn simplified(expr: &Expr, plan: &DFSchema) -> Result<Expr> {
    let context = SimplifyContext::builder().with_schema(Arc::new(plan.clone())).build();
    let rewritten = expr.clone().transform_up(|e| match e {
        Expr::ScalarFunction(ScalarFunction { func, args }) => match func.simplify(args, &context)? {
            ExprSimplifyResult::Simplified(simple) => Ok(Transformed::yes(simple)),
            ExprSimplifyResult::Original(args) => Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args }))),
        },
        Expr::Cast(cast) => constant(cast),
        other => Ok(Transformed::no(other)),
    });
    Ok(rewritten.data()?)
}

/// AND and OR decide row by row: `b <> 0 AND a / b > 1` divides only where it may. The library's own evaluate the right side over the whole
/// batch, or not at all, as the left side of the batch happens to be.
fn guarded(expr: Expr, plan: &DFSchema) -> Result<Expr> {
    let op = match &expr {
        Expr::BinaryExpr(binary) if matches!(binary.op, Operator::And | Operator::Or) => binary.op,
        _ => return Ok(expr.map_children(|child| Ok(Transformed::yes(guarded(child, plan)?))).data()?),
    };
    let parts: Vec<Expr> = split_binary_owned(expr, op).into_iter().map(|part| guarded(part, plan)).collect::<Result<_>>()?;
    let join =
        |parts: Vec<Expr>| parts.into_iter().reduce(|left, right| binary_expr(left, op, right)).unwrap_or_else(|| lit(true));
    if !parts[1..].iter().any(may_fail) {
        return Ok(join(parts));
    }
    // The first part that decides ends it; where none does, all can be computed.
    let decided = op == Operator::Or;
    let mut undecided = lit(!decided);
    for part in &parts {
        if part.nullable(plan)? {
            undecided = join(parts.clone());
            break;
        }
    }
    let whens = parts.into_iter().map(|part| {
        let when = if decided { part } else { Expr::Not(Box::new(part)) };
        (Box::new(when), Box::new(lit(decided)))
    });
    Ok(Expr::Case(Case::new(None, whens.collect(), Some(Box::new(undecided)))))
}

/// Whether an expression may fail on a row.
fn may_fail(expr: &Expr) -> bool {
    let fails = |e: &Expr| match e {
        Expr::BinaryExpr(binary) => {
            Ok(matches!(binary.op, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo))
        }
        Expr::ScalarFunction(_) | Expr::Cast(_) | Expr::Negative(_) => Ok(true),
        _ => Ok(false),
    };
    // The closure never fails.
    expr.exists(fails).unwrap_or(true)
}

/// Numbers and times that the planner brought to the other side's type; a text that is no time would fail on every row.
fn constant(cast: Cast) -> datafusion_common::Result<Transformed<Expr>> {
    let to = cast.field.data_type();
    let Expr::Literal(value, metadata) = &*cast.expr else { return Ok(Transformed::no(Expr::Cast(cast))) };
    let numbers = value.data_type().is_numeric() && to.is_numeric();
    let text = value.try_as_str().flatten();
    let times = text.is_some() && to.is_temporal();
    if !numbers && !times {
        return Ok(Transformed::no(Expr::Cast(cast)));
    }
    match (value.cast_to(to), text) {
        (Ok(value), _) => Ok(Transformed::yes(Expr::Literal(value, metadata.clone()))),
        (Err(_), None) => Ok(Transformed::no(Expr::Cast(cast))),
        (Err(_), Some(text)) => Err(Fault::new(format!("'{text}' is no {}", sql_name(to)))
            .hint("write DATE '2026-01-31', TIMESTAMP '2026-01-31 12:00:00'")
            .into()),
    }
}

fn place(
    expr: Arc<dyn PhysicalExpr>,
    node: &Schema,
    columns: &[Option<usize>],
) -> datafusion_common::Result<Transformed<Arc<dyn PhysicalExpr>>> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        let Some(Some(at)) = columns.get(column.index()) else {
            return Err(Fault::new(format!("column \"{}\" was pruned though it is used", column.name())).into());
        };
        return Ok(Transformed::yes(Arc::new(Column::new(node.field(*at).name(), *at))));
    }
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>()
        && matches!(binary.op(), Operator::Plus | Operator::Minus | Operator::Multiply)
    {
        // An overflow is an error on its row, never a wrapped number.
        let checked =
            BinaryExpr::new(Arc::clone(binary.left()), *binary.op(), Arc::clone(binary.right())).with_fail_on_overflow(true);
        return Ok(Transformed::yes(Arc::new(checked)));
    }
    if let Some(negative) = expr.downcast_ref::<NegativeExpr>() {
        let argument = negative.arg();
        if argument.data_type(node).is_ok_and(|t| t.is_signed_integer()) {
            let zero = Literal::new(ScalarValue::new_zero(&argument.data_type(node)?)?);
            let checked = BinaryExpr::new(Arc::new(zero), Operator::Minus, Arc::clone(argument)).with_fail_on_overflow(true);
            return Ok(Transformed::yes(Arc::new(checked)));
        }
    }
    Ok(Transformed::no(expr))
}

/// Gives an expression of DDL Flink's meaning and types.
pub(super) fn coerced(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let expr = super::function::typed(expr, schema)?;
    Ok(super::function::plain_types(expr, schema)?)
}

/// A column of a schema.
pub(super) fn column(schema: &Schema, at: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(schema.field(at).name(), at))
}

/// The expression in another type; the cast fails on the row that does not fit.
pub(super) fn cast(expr: Arc<dyn PhysicalExpr>, schema: &Schema, to: &DataType) -> Result<Arc<dyn PhysicalExpr>> {
    if expr.data_type(schema)? == *to {
        return Ok(expr);
    }
    Ok(datafusion_physical_expr::expressions::cast(expr, schema, to.clone())?)
}

/// What the expression yields, under a name.
pub(super) fn field(expr: &Arc<dyn PhysicalExpr>, schema: &Schema, name: &str) -> Result<Field> {
    Ok(Field::new(name, expr.data_type(schema)?, expr.nullable(schema)?))
}

/// Whether the columns are those of the schema, all and in order.
pub(super) fn is_identity(exprs: &[Arc<dyn PhysicalExpr>], input: &SchemaRef, output: &SchemaRef) -> bool {
    exprs.len() == input.fields().len()
        && exprs.iter().enumerate().all(|(n, e)| e.downcast_ref::<Column>().is_some_and(|c| c.index() == n))
        && input.fields() == output.fields()
}
