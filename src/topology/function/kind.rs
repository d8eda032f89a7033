//! What goes with what: comparisons, results of one column, operands.

use arrow::datatypes::DataType;
use datafusion_common::DFSchema;
use datafusion_expr::{Cast, Expr, ExprSchemable};

use crate::topology::fault::Fault;
use crate::topology::types::sql_name;

/// A decimal that meets a double becomes one, as in Flink; the library would make a decimal of the double.
pub(super) fn as_doubles<'e>(exprs: impl IntoIterator<Item = &'e mut Expr>, schema: &DFSchema) -> datafusion_common::Result<()> {
    let exprs: Vec<&mut Expr> = exprs.into_iter().collect();
    let types = exprs.iter().map(|expr| expr.get_type(schema)).collect::<datafusion_common::Result<Vec<_>>>()?;
    if !types.iter().any(DataType::is_floating) {
        return Ok(());
    }
    for (expr, held) in exprs.into_iter().zip(types) {
        if matches!(held, DataType::Decimal128(..) | DataType::Decimal256(..)) {
            *expr = Expr::Cast(Cast::new(Box::new(std::mem::take(expr)), DataType::Float64));
        }
    }
    Ok(())
}

/// A text beside a time is one of that time's type; the library would make nanoseconds of both.
pub(super) fn as_times(text: &mut Expr, time: &DataType, schema: &DFSchema) -> datafusion_common::Result<()> {
    if kind(time) == Some(Kind::Time) && kind(&text.get_type(schema)?) == Some(Kind::Text) {
        *text = Expr::Cast(Cast::new(Box::new(std::mem::take(text)), time.clone()));
    }
    Ok(())
}

/// A number beside a decimal takes the decimal's type, if it loses nothing: the decimal needs no cast then.
pub(super) fn narrowed(number: &mut Expr, decimal: &DataType) {
    if let (Expr::Literal(value, _), DataType::Decimal128(..)) = (&*number, decimal)
        && value.data_type() != *decimal
        && let Ok(cast) = value.cast_to(decimal)
        && cast.cast_to(&value.data_type()).is_ok_and(|back| back == *value)
    {
        *number = Expr::Literal(cast, None);
    }
}

pub(super) fn condition(expr: &Expr, schema: &DFSchema) -> datafusion_common::Result<()> {
    match expr.get_type(schema)? {
        DataType::Boolean | DataType::Null => Ok(()),
        held => Err(Fault::new(format!("{} is not a condition", sql_name(&held))).hint("compare it: x <> 0").into()),
    }
}

/// What may be compared or stand in one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Truth,
    Time,
    Length,
    Bytes,
    Nested,
}

/// `None`: NULL, which goes with all.
pub(super) fn kind(data_type: &DataType) -> Option<Kind> {
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
pub(super) fn comparable(left: &DataType, right: &DataType) -> datafusion_common::Result<()> {
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

/// Lengths of time have no order that holds for months and hours alike; maps are not compared, rows and arrays only for equality.
pub(super) fn ordered(held: &DataType, equality: bool) -> datafusion_common::Result<()> {
    let hint = match held {
        DataType::Interval(_) | DataType::Duration(_) => "write TIMESTAMPDIFF(SECOND, a, b) > 300",
        DataType::Map(..) => "compare values: map['key']",
        DataType::Struct(_) | DataType::List(_) if !equality => "compare their parts",
        _ => return Ok(()),
    };
    Err(Fault::new(format!("{} can't be compared so", sql_name(held))).hint(hint).into())
}

/// Types that become one column.
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

pub(super) fn other_kind(old: &DataType, new: &DataType) -> bool {
    match (old, new) {
        (DataType::List(old), DataType::List(new)) => other_kind(old.data_type(), new.data_type()),
        _ => kind(old).is_some() && kind(new).is_some() && kind(old) != kind(new),
    }
}

/// Why there is no arithmetic of these.
pub(in crate::topology) fn no_arithmetic(left: &DataType, op: impl std::fmt::Display, right: &DataType) -> Option<Fault> {
    let hint = match (kind(left), kind(right)) {
        (Some(Kind::Time), Some(Kind::Number)) | (Some(Kind::Number), Some(Kind::Time)) => Some("write ts + INTERVAL '1' DAY"),
        (Some(Kind::Length), Some(Kind::Number)) | (Some(Kind::Number), Some(Kind::Length)) => Some("write INTERVAL '2' DAY"),
        (Some(Kind::Text), _) | (_, Some(Kind::Text)) => Some("write CAST(text AS DECIMAL(10, 2)), or || to join texts"),
        (Some(Kind::Truth), _) | (_, Some(Kind::Truth)) => Some("write CASE WHEN condition THEN 1 ELSE 0 END"),
        (Some(Kind::Bytes | Kind::Nested), _) | (_, Some(Kind::Bytes | Kind::Nested)) => Some("arithmetic takes numbers"),
        _ => None,
    }?;
    Some(Fault::new(format!("{} {op} {} is not known", sql_name(left), sql_name(right))).hint(hint))
}
