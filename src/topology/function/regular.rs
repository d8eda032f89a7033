//! Regular expressions: Java's spelling of a replacement, and patterns checked before the first record.

use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion_common::tree_node::{TransformedResult, TreeNode};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{Expr, ScalarUDF, lit};
use datafusion_optimizer::analyzer::type_coercion::TypeCoercionRewriter;
use datafusion_physical_expr::create_physical_expr;

use crate::topology::fault::{Fault, Result};

/// Runs the function once over an empty text, if its pattern is constant: a bad pattern would fail on every row.
pub(super) fn check(func: &Arc<ScalarUDF>, args: &[Expr]) -> Result<()> {
    let [_, rest @ ..] = args else { return Ok(()) };
    if !rest.iter().all(|arg| matches!(arg, Expr::Literal(..))) {
        return Ok(());
    }
    let args = std::iter::once(lit("")).chain(rest.iter().cloned()).collect();
    let call = Expr::ScalarFunction(ScalarFunction { func: Arc::clone(func), args });
    let schema = DFSchema::empty();
    // Wrong types are the planner's to refuse.
    let Ok(call) = call.rewrite(&mut TypeCoercionRewriter::new(&schema)).data() else { return Ok(()) };
    let planned = create_physical_expr(&call, &schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)
        .map_err(|e| Fault::new(e.to_string()))?;
    match planned.evaluate(&row) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.strip_backtrace();
            let why =
                text.lines().map(str::trim).rfind(|line| line.starts_with("error:")).unwrap_or("").trim_start_matches("error:");
            Err(Fault::new(format!("{}: the pattern can't be used:{why}", func.name().to_uppercase()))
                .hint("patterns are those of Rust's regex: without look-around and references to groups"))
        }
    }
}

/// `$1` of Java as `${1}`, `\$` as a dollar.
pub(super) fn replacement(given: Expr) -> Result<Expr> {
    let Expr::Literal(value, metadata) = &given else { return Ok(given) };
    let Some(Some(text)) = value.try_as_str() else { return Ok(given) };
    let mut out = String::new();
    let mut letters = text.chars();
    let wrong = |what: &str| {
        Err(Fault::new(format!("REGEXP_REPLACE: '{text}': {what}")).hint("$1 is the first group, \\$ a dollar, \\\\ a backslash"))
    };
    while let Some(letter) = letters.next() {
        match (letter, letters.clone().next()) {
            ('$', Some(digit)) if digit.is_ascii_digit() => {
                out.push_str(&format!("${{{digit}}}"));
                letters.next();
            }
            ('$', _) => return wrong("after $ stands the number of a group"),
            ('\\', Some('$')) => {
                out.push_str("$$");
                letters.next();
            }
            ('\\', Some(next)) if next.is_ascii_digit() => return wrong("a group is $1, not \\1"),
            ('\\', Some(next)) => {
                out.push(next);
                letters.next();
            }
            ('\\', None) => return wrong("nothing stands after \\"),
            _ => out.push(letter),
        }
    }
    Ok(Expr::Literal(ScalarValue::Utf8(Some(out)), metadata.clone()))
}
