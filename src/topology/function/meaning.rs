//! Flink's meaning of what both engines have: expressions as planned by the library, rewritten or refused one by one.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRewriter};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{BinaryExpr, Case, Cast, Expr, ExprSchemable, Like, Operator, lit};
use datafusion_optimizer::analyzer::type_coercion::TypeCoercionRewriter;

use super::number::Rounding;
use super::{access, cast, decimal, number, pattern, regular, time};
use crate::topology::fault::Fault;
use crate::topology::lower::place_in;
use crate::topology::types::sql_name;

type Rewritten = datafusion_common::Result<Transformed<Expr>>;

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
    TypeCoercionRewriter::new(schema).f_up(rewritten.data)
}

fn as_flink(expr: Expr, schema: &DFSchema) -> Rewritten {
    match expr {
        Expr::Literal(value, metadata) => literal(value).map(|value| Transformed::yes(Expr::Literal(value, metadata))),
        Expr::BinaryExpr(expr) => binary(expr, schema),
        Expr::Between(between) => {
            for other in [&between.low, &between.high] {
                comparable(&between.expr.get_type(schema)?, &other.get_type(schema)?)?;
            }
            Ok(Transformed::no(Expr::Between(between)))
        }
        Expr::InList(list) => {
            for other in &list.list {
                comparable(&list.expr.get_type(schema)?, &other.get_type(schema)?)?;
            }
            Ok(Transformed::no(Expr::InList(list)))
        }
        Expr::Case(case) => {
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
            Ok(Transformed::no(Expr::Case(case)))
        }
        Expr::Cast(c) => cast_of(*c.expr, c.field.data_type().clone(), false, schema, |expr| {
            Expr::Cast(Cast { expr: Box::new(expr), field: Arc::clone(&c.field) })
        }),
        Expr::TryCast(c) => cast_of(*c.expr, c.field.data_type().clone(), true, schema, |expr| {
            Expr::TryCast(datafusion_expr::TryCast { expr: Box::new(expr), field: Arc::clone(&c.field) })
        }),
        Expr::Like(like) => escaped(like),
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

fn binary(expr: BinaryExpr, schema: &DFSchema) -> Rewritten {
    let (left, right) = (expr.left.get_type(schema)?, expr.right.get_type(schema)?);
    match expr.op {
        op if op.supports_propagation() || matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom) => {
            if op.is_numerical_operators() {
                return arithmetic(expr, &left, &right);
            }
            if !op.is_logic_operator() {
                comparable(&left, &right)?;
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

/// Why there is no arithmetic of these.
pub(in crate::topology) fn no_arithmetic(left: &DataType, op: impl std::fmt::Display, right: &DataType) -> Option<Fault> {
    let hint = match (kind(left), kind(right)) {
        (Some(Kind::Time), Some(Kind::Number)) | (Some(Kind::Number), Some(Kind::Time)) => Some("write ts + INTERVAL '1' DAY"),
        (Some(Kind::Text), _) | (_, Some(Kind::Text)) => Some("write CAST(text AS DECIMAL(10, 2)), or || to join texts"),
        (Some(Kind::Truth), _) | (_, Some(Kind::Truth)) => Some("write CASE WHEN condition THEN 1 ELSE 0 END"),
        (Some(Kind::Bytes | Kind::Nested), _) | (_, Some(Kind::Bytes | Kind::Nested)) => Some("arithmetic takes numbers"),
        _ => None,
    }?;
    Some(Fault::new(format!("{} {op} {} is not known", sql_name(left), sql_name(right))).hint(hint))
}

fn condition(expr: &Expr, schema: &DFSchema) -> datafusion_common::Result<()> {
    match expr.get_type(schema)? {
        DataType::Boolean | DataType::Null => Ok(()),
        held => Err(Fault::new(format!("{} is not a condition", sql_name(&held))).hint("compare it: x <> 0").into()),
    }
}

/// What may be compared or stand in one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Truth,
    Time,
    Length,
    Bytes,
    Nested,
}

/// `None`: NULL, which goes with all.
fn kind(data_type: &DataType) -> Option<Kind> {
    use DataType::*;
    Some(match data_type {
        Null => return None,
        Utf8 | LargeUtf8 | Utf8View => Kind::Text,
        Boolean => Kind::Truth,
        Date32 | Date64 | Timestamp(..) | Time32(_) | Time64(_) => Kind::Time,
        Interval(_) | Duration(_) => Kind::Length,
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Kind::Bytes,
        t if t.is_numeric() => Kind::Number,
        Dictionary(_, value) => return kind(value),
        _ => Kind::Nested,
    })
}

/// Flink compares what is alike, and a text with a time; the library would turn one into the other.
fn comparable(left: &DataType, right: &DataType) -> datafusion_common::Result<()> {
    let hint = match (kind(left), kind(right)) {
        (Some(a), Some(b)) if a == b => return Ok(()),
        (None, _) | (_, None) => return Ok(()),
        (Some(Kind::Text), Some(Kind::Time)) | (Some(Kind::Time), Some(Kind::Text)) => return Ok(()),
        (Some(Kind::Text), Some(Kind::Number)) => "CAST one of them: CAST(text AS BIGINT), or quote the number",
        (Some(Kind::Number), Some(Kind::Text)) => "CAST one of them: CAST(number AS STRING), or leave the quotes out",
        _ => "CAST one of them to the other's type",
    };
    Err(Fault::new(format!("{} can't be compared with {}", sql_name(left), sql_name(right))).hint(hint).into())
}

/// Results that become one column.
pub(in crate::topology) fn one_kind(
    what: &str,
    types: impl Iterator<Item = datafusion_common::Result<DataType>>,
) -> datafusion_common::Result<()> {
    let mut first: Option<DataType> = None;
    for data_type in types {
        let data_type = data_type?;
        match (&first, kind(&data_type)) {
            (_, None) => {}
            (None, Some(_)) => first = Some(data_type),
            (Some(held), other) if kind(held) == other => {}
            (Some(held), _) => {
                let text = format!("{what} gives {} and {}", sql_name(held), sql_name(&data_type));
                return Err(Fault::new(text).hint("CAST one of them to the other's type").into());
            }
        }
    }
    Ok(())
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

/// Flink's LIKE has no escape unless one is named; the library's is always a backslash.
fn escaped(mut like: Like) -> Rewritten {
    match &*like.pattern {
        Expr::Literal(value, metadata) => {
            if let Some(Some(text)) = value.try_as_str() {
                let pattern = like_pattern(text, like.escape_char)?;
                like.pattern = Box::new(Expr::Literal(ScalarValue::Utf8(Some(pattern)), metadata.clone()));
            }
        }
        _ if like.escape_char.is_some() => {
            return Err(Fault::new("LIKE ... ESCAPE takes a constant pattern").hint("leave ESCAPE out").into());
        }
        pattern => {
            let replace =
                ScalarFunction::new_udf(datafusion_functions::string::replace(), vec![pattern.clone(), lit("\\"), lit("\\\\")]);
            like.pattern = Box::new(Expr::ScalarFunction(replace));
        }
    }
    like.escape_char = None;
    Ok(Transformed::yes(Expr::Like(like)))
}

fn like_pattern(text: &str, escape: Option<char>) -> datafusion_common::Result<String> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            letter if Some(letter) == escape => match letters.next() {
                Some(next) if ['%', '_'].contains(&next) => out.extend(['\\', next]),
                Some(next) if Some(next) == escape && next == '\\' => out.push_str("\\\\"),
                Some(next) if Some(next) == escape => out.push(next),
                _ => {
                    return Err(Fault::new(format!("'{text}': after the escape character stands %, _ or itself"))
                        .hint("choose another character: LIKE '...' ESCAPE '!'")
                        .into());
                }
            },
            '\\' => out.push_str("\\\\"),
            letter => out.push(letter),
        }
    }
    Ok(out)
}

/// Functions of one DOUBLE, or two, in Flink whatever number they are given.
const OF_DOUBLES: [&str; 17] = [
    "sin", "cos", "tan", "cot", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "degrees", "radians", "exp", "ln",
    "log10", "log2",
];

fn function(ScalarFunction { func, args }: ScalarFunction, schema: &DFSchema) -> Rewritten {
    let name = func.name();
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
        ("greatest" | "least", _) => {
            one_kind(&name.to_uppercase(), args.iter().map(|a| a.get_type(schema)))?;
            null_if_any(&args, call(args.clone()))
        }
        ("coalesce" | "nvl" | "nullif", _) => {
            one_kind(&name.to_uppercase(), args.iter().map(|a| a.get_type(schema)))?;
            return Ok(Transformed::no(call(args)));
        }
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
