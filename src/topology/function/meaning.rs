//! Flink's meaning of what both engines have: expressions as planned by the library, rewritten or refused one by one.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRewriter};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{BinaryExpr, Case, Cast, Expr, ExprSchemable, Operator, lit};
use datafusion_optimizer::analyzer::type_coercion::TypeCoercionRewriter;

use super::kind::{
    Kind, as_doubles, as_times, comparable, condition, kind, narrowed, no_arithmetic, one_kind, ordered, other_kind,
};
use super::like::escaped;
use super::number::Rounding;
use super::{access, cast, decimal, number, pattern, regular, time};
use crate::topology::fault::Fault;
use crate::topology::lower::place_in;
use crate::topology::types::sql_name;

pub(super) type Rewritten = datafusion_common::Result<Transformed<Expr>>;

/// The whole expression with Flink's meaning and types.
pub(in crate::topology) fn typed(expr: Expr, schema: &DFSchema) -> datafusion_common::Result<Expr> {
    let place = place_in(&expr);
    // From the leaves up, so that each part sees the final types of its parts.
    let node = |expr: Expr| {
        let place = place_in(&expr);
        coerced(expr, schema).map_err(|e| Fault::from(e).at(place).into())
    };
    expr.transform_up(node).data().map_err(|e| Fault::from(e).at(place).into())
}

fn coerced(expr: Expr, schema: &DFSchema) -> Rewritten {
    let rewritten = as_flink(expr, schema)?;
    if rewritten.transformed {
        return rewritten.data.rewrite(&mut TypeCoercionRewriter::new(schema));
    }
    let before = match &rewritten.data {
        Expr::ScalarFunction(call) => call.args.iter().map(|arg| arg.get_type(schema)).collect::<Result<Vec<_>, _>>()?,
        _ => Vec::new(),
    };
    let coerced = TypeCoercionRewriter::new(schema).f_up(rewritten.data)?;
    if let Expr::ScalarFunction(call) = &coerced.data {
        kinds_stay(call, &before, schema)?;
    }
    Ok(coerced)
}

/// The library turns arguments into what a function takes: a number into a text, bytes into a text. Flink does not.
fn kinds_stay(call: &ScalarFunction, before: &[DataType], schema: &DFSchema) -> datafusion_common::Result<()> {
    for (arg, held) in call.args.iter().zip(before) {
        if other_kind(held, &arg.get_type(schema)?) {
            let types: Vec<String> = before.iter().map(sql_name).collect();
            let text = format!("function \"{}\" does not take ({})", call.func.name(), types.join(", "));
            return Err(Fault::new(text).hint("CAST the arguments, or look at their number").into());
        }
    }
    Ok(())
}

fn as_flink(expr: Expr, schema: &DFSchema) -> Rewritten {
    match expr {
        Expr::Literal(value, metadata) => literal(value).map(|value| Transformed::yes(Expr::Literal(value, metadata))),
        Expr::BinaryExpr(expr) => binary(expr, schema),
        Expr::Between(mut between) => {
            ordered(&between.expr.get_type(schema)?, false)?;
            for other in [&between.low, &between.high] {
                comparable(&between.expr.get_type(schema)?, &other.get_type(schema)?)?;
            }
            as_doubles([&mut *between.expr, &mut *between.low, &mut *between.high], schema)?;
            as_times(&mut between.low, &between.expr.get_type(schema)?, schema)?;
            as_times(&mut between.high, &between.expr.get_type(schema)?, schema)?;
            Ok(Transformed::no(Expr::Between(between)))
        }
        Expr::InList(mut list) => {
            for other in &list.list {
                comparable(&list.expr.get_type(schema)?, &other.get_type(schema)?)?;
            }
            as_doubles(std::iter::once(&mut *list.expr).chain(&mut list.list), schema)?;
            for other in &mut list.list {
                as_times(other, &list.expr.get_type(schema)?, schema)?;
            }
            Ok(Transformed::no(Expr::InList(list)))
        }
        Expr::Case(mut case) => {
            if let Some(operand) = &case.expr {
                for (when, _) in &case.when_then_expr {
                    comparable(&operand.get_type(schema)?, &when.get_type(schema)?)?;
                }
            } else {
                for (when, _) in &case.when_then_expr {
                    condition(when, schema)?;
                }
            }
            let results = case.when_then_expr.iter().map(|(_, then)| then).chain(&case.else_expr);
            one_kind("CASE", results.map(|r| r.get_type(schema)))?;
            if let Some(operand) = &mut case.expr {
                let whens = case.when_then_expr.iter_mut().map(|(when, _)| &mut **when);
                as_doubles(std::iter::once(&mut **operand).chain(whens), schema)?;
            }
            let results = case.when_then_expr.iter_mut().map(|(_, then)| &mut **then);
            as_doubles(results.chain(case.else_expr.as_deref_mut()), schema)?;
            Ok(Transformed::no(Expr::Case(case)))
        }
        Expr::Cast(c) => cast_of(*c.expr, c.field.data_type().clone(), false, schema, |expr| {
            Expr::Cast(Cast { expr: Box::new(expr), field: Arc::clone(&c.field) })
        }),
        Expr::TryCast(c) => cast_of(*c.expr, c.field.data_type().clone(), true, schema, |expr| {
            Expr::TryCast(datafusion_expr::TryCast { expr: Box::new(expr), field: Arc::clone(&c.field) })
        }),
        Expr::Like(like) => {
            for part in [&like.expr, &like.pattern] {
                let held = part.get_type(schema)?;
                if !matches!(kind(&held), Some(Kind::Text) | None) {
                    return Err(Fault::new(format!("LIKE compares texts, not {}", sql_name(&held)))
                        .hint("write CAST(x AS STRING)")
                        .into());
                }
            }
            escaped(like)
        }
        Expr::SimilarTo(_) => Err(Fault::new("SIMILAR TO is not in this release").hint("write REGEXP(text, 'pattern')").into()),
        Expr::ScalarFunction(call) => function(call, schema),
        Expr::Not(ref inner)
        | Expr::IsTrue(ref inner)
        | Expr::IsFalse(ref inner)
        | Expr::IsUnknown(ref inner)
        | Expr::IsNotTrue(ref inner)
        | Expr::IsNotFalse(ref inner)
        | Expr::IsNotUnknown(ref inner) => {
            condition(inner, schema)?;
            Ok(Transformed::no(expr))
        }
        Expr::Negative(ref inner) => match inner.get_type(schema)? {
            held if held.is_null() || held.is_numeric() || matches!(held, DataType::Interval(_)) => Ok(Transformed::no(expr)),
            held => Err(Fault::new(format!("- takes a number, not {}", sql_name(&held))).into()),
        },
        Expr::AggregateFunction(ref call) => {
            let args = call.params.args.iter().map(|arg| arg.get_type(schema)).collect::<datafusion_common::Result<Vec<_>>>()?;
            super::aggregate::check(call.func.name(), &args)?;
            if let Some(filter) = &call.params.filter {
                condition(filter, schema)?;
            }
            Ok(Transformed::no(expr))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// A whole number is INT where it fits.
fn literal(value: ScalarValue) -> datafusion_common::Result<ScalarValue> {
    Ok(match value {
        ScalarValue::Int64(Some(n)) => match i32::try_from(n) {
            Ok(small) => ScalarValue::Int32(Some(small)),
            Err(_) => value,
        },
        ScalarValue::UInt64(Some(n)) => {
            return Err(Fault::new(format!("{n} is out of range: a BIGINT ends at {}", i64::MAX)).into());
        }
        other => other,
    })
}

fn binary(mut expr: BinaryExpr, schema: &DFSchema) -> Rewritten {
    let (left, right) = (expr.left.get_type(schema)?, expr.right.get_type(schema)?);
    match expr.op {
        op if op.supports_propagation() || matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom) => {
            if op.is_numerical_operators() {
                return arithmetic(expr, &left, &right);
            }
            if !op.is_logic_operator() {
                comparable(&left, &right)?;
                let equality =
                    matches!(op, Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom);
                ordered(&left, equality)?;
                as_doubles([&mut *expr.left, &mut *expr.right], schema)?;
                as_times(&mut expr.right, &left, schema)?;
                as_times(&mut expr.left, &right, schema)?;
                narrowed(&mut expr.right, &left);
                narrowed(&mut expr.left, &right);
            }
        }
        op if op.is_numerical_operators() => return arithmetic(expr, &left, &right),
        Operator::StringConcat => {
            for held in [&left, &right] {
                if !matches!(kind(held), Some(Kind::Text) | None) {
                    let fault = Fault::new(format!("|| joins texts, not {}", sql_name(held)));
                    return Err(fault.hint("write CAST(x AS STRING)").into());
                }
            }
        }
        _ => {}
    }
    Ok(Transformed::no(Expr::BinaryExpr(expr)))
}

fn arithmetic(expr: BinaryExpr, left: &DataType, right: &DataType) -> Rewritten {
    let number = |t: &DataType| t.is_numeric() || t.is_null();
    if let Some(fault) = no_arithmetic(left, expr.op, right) {
        return Err(fault.into());
    }
    if *left == DataType::Date32 || *right == DataType::Date32 {
        whole_days(&expr)?;
    }
    let decimals = [left, right].iter().any(|t| matches!(t, DataType::Decimal128(..)));
    let exact = [left, right].iter().all(|t| t.is_null() || decimal::decimal_of(t).is_some());
    if decimals && exact && number(left) && number(right) {
        let op = expr.op;
        return match decimal::arithmetic(op, (*expr.left).clone(), (*expr.right).clone()) {
            Some(call) => Ok(Transformed::yes(call)),
            None => Ok(Transformed::no(Expr::BinaryExpr(expr))),
        };
    }
    Ok(Transformed::no(Expr::BinaryExpr(expr)))
}

/// A DATE plus hours would be cut to a DATE.
fn whole_days(expr: &BinaryExpr) -> datafusion_common::Result<()> {
    let days = |side: &Expr| match side {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(length)), _) => length.nanoseconds == 0,
        Expr::Literal(..) | Expr::Column(_) | Expr::Cast(_) | Expr::ScalarFunction(_) | Expr::Alias(_) => true,
        _ => false,
    };
    if days(&expr.left) && days(&expr.right) {
        return Ok(());
    }
    Err(Fault::new("a DATE has no hours").hint("write CAST(day AS TIMESTAMP(3)) + INTERVAL '1' HOUR").into())
}

fn cast_of(expr: Expr, to: DataType, tries: bool, schema: &DFSchema, library: impl Fn(Expr) -> Expr) -> Rewritten {
    let from = expr.get_type(schema)?;
    // `0.5` and `1e3` come as casts of their text, so that they have Flink's type.
    if let (Expr::Literal(value, metadata), DataType::Decimal128(..) | DataType::Float64) = (&expr, &to)
        && let Ok(value) = value.cast_to(&to)
    {
        return Ok(Transformed::yes(Expr::Literal(value, metadata.clone())));
    }
    match cast::flink(&expr, &from, &to, tries)? {
        Some(call) => Ok(Transformed::yes(call)),
        None => Ok(Transformed::no(library(expr))),
    }
}

/// Functions of one DOUBLE, or two, in Flink whatever number they are given.
const OF_DOUBLES: [&str; 17] = [
    "sin", "cos", "tan", "cot", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "degrees", "radians", "exp", "ln",
    "log10", "log2",
];

/// Functions whose result is one of their arguments.
const CHOOSING: [&str; 7] = ["coalesce", "nvl", "nvl2", "nullif", "greatest", "least", "make_array"];

fn function(ScalarFunction { func, mut args }: ScalarFunction, schema: &DFSchema) -> Rewritten {
    let name = func.name();
    if CHOOSING.contains(&name) {
        let results = if name == "nvl2" { &mut args[1..] } else { &mut args[..] };
        let shown = if name == "make_array" { "ARRAY".into() } else { name.to_uppercase() };
        one_kind(&shown, results.iter().map(|a| a.get_type(schema)))?;
        as_doubles(results, schema)?;
    }
    let call = |args: Vec<Expr>| Expr::ScalarFunction(ScalarFunction { func: Arc::clone(&func), args });
    let double = |arg: Expr| Expr::Cast(Cast::new(Box::new(arg), DataType::Float64));
    let is_float = |arg: &Expr| matches!(arg.get_type(schema), Ok(DataType::Float64));
    Ok(Transformed::yes(match (name, args.len()) {
        ("get_field", n) if n > 1 => access::field(args, schema)?,
        ("array_element", 2) => {
            let index = args[1].clone();
            access::element(call(args), &index)?
        }
        // NULL if any part is; the library leaves NULLs out.
        ("concat", n) if n > 0 && !is_list(&args[0], schema) => concat(args, schema)?,
        ("greatest" | "least", _) => null_if_any(&args, call(args.clone())),
        // One argument: the natural logarithm.
        ("log", 1) => {
            let ln = datafusion_functions::math::ln();
            Expr::ScalarFunction(ScalarFunction::new_udf(ln, args.into_iter().map(double).collect()))
        }
        ("log" | "power", 2) if !args.iter().all(is_float) => call(args.into_iter().map(double).collect()),
        // Of a number below zero the library makes an error.
        ("sqrt", 1) => {
            let argument = double(args[0].clone());
            Expr::Case(Case {
                expr: None,
                when_then_expr: vec![(Box::new(argument.clone().lt(lit(0.0))), Box::new(lit(f64::NAN)))],
                else_expr: Some(Box::new(call(vec![argument]))),
            })
        }
        (name, 1 | 2) if OF_DOUBLES.contains(&name) && !args.iter().all(is_float) => call(args.into_iter().map(double).collect()),
        ("round" | "floor" | "ceil", 1 | 2) => {
            let rounding = match name {
                "floor" => Rounding::Down,
                "ceil" => Rounding::Up,
                _ => Rounding::To(number::digits(&args[1..])?),
            };
            match number::round(rounding, &args[0], schema)? {
                Some(rounded) => rounded,
                None => return Ok(Transformed::no(call(args))),
            }
        }
        ("cardinality", 1) => Expr::Cast(Cast::new(Box::new(call(args)), DataType::Int32)),
        // All matches, not the first.
        ("regexp_replace", 3) => {
            let [text, expression, replacement] = <[Expr; 3]>::try_from(args).unwrap_or_default();
            let replacement = regular::replacement(replacement)?;
            let args = vec![text, expression, replacement, lit("g")];
            regular::check(&func, &args)?;
            call(args)
        }
        ("encode" | "decode", 2) => {
            encoding(name, &args[1])?;
            return Ok(Transformed::no(call(args)));
        }
        (name, _) if name.starts_with("regexp_") => {
            regular::check(&func, &args)?;
            return Ok(Transformed::no(call(args)));
        }
        ("date_format" | "to_timestamp", _) => {
            pattern::check(name, &args, schema)?;
            return Ok(Transformed::no(call(args)));
        }
        ("floor_to" | "ceil_to" | "timestampadd" | "timestampdiff", _) => {
            time::check(name, &args, schema)?;
            return Ok(Transformed::no(call(args)));
        }
        _ => return Ok(Transformed::no(call(args))),
    }))
}

/// Flink's ENCODE and DECODE take a character set, the library's a spelling of bytes.
fn encoding(name: &str, given: &Expr) -> datafusion_common::Result<()> {
    let known = ["hex", "base64", "base64pad"];
    match given {
        Expr::Literal(value, _) if value.try_as_str().flatten().is_some_and(|text| known.contains(&text)) => Ok(()),
        given => Err(Fault::new(format!("{}: {given} is neither 'hex' nor 'base64'", name.to_uppercase()))
            .hint("between texts and bytes: CAST(text AS BYTES), CAST(bytes AS STRING)")
            .into()),
    }
}

fn concat(args: Vec<Expr>, schema: &DFSchema) -> datafusion_common::Result<Expr> {
    let mut joined: Option<Expr> = None;
    for arg in args {
        let from = arg.get_type(schema)?;
        let text = match kind(&from) {
            Some(Kind::Text) | None => arg,
            _ => match cast::flink(&arg, &from, &DataType::Utf8, false)? {
                Some(call) => call,
                None => Expr::Cast(Cast::new(Box::new(arg), DataType::Utf8)),
            },
        };
        joined = Some(match joined {
            None => Expr::Cast(Cast::new(Box::new(text), DataType::Utf8)),
            Some(left) => Expr::BinaryExpr(BinaryExpr::new(Box::new(left), Operator::StringConcat, Box::new(text))),
        });
    }
    Ok(joined.unwrap_or_else(|| lit("")))
}

fn null_if_any(args: &[Expr], value: Expr) -> Expr {
    match args.iter().cloned().map(Expr::is_null).reduce(Expr::or) {
        None => value,
        Some(any) => Expr::Case(Case {
            expr: None,
            when_then_expr: vec![(Box::new(Expr::is_false(any)), Box::new(value))],
            else_expr: None,
        }),
    }
}

fn is_list(expr: &Expr, schema: &DFSchema) -> bool {
    matches!(expr.get_type(schema), Ok(DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)))
}
