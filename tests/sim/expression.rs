//! What an expression means, one row at a time.

use std::cmp::Ordering;

use crate::case::{Arithmetic, Compare, Expr, Type, Value};

/// Overflow or division by zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// The value under the columns that `of` gives.
pub fn evaluate(expr: &Expr, of: &dyn Fn(&str) -> Value) -> Result<Value, Failed> {
    Ok(match expr {
        Expr::Column(name) => of(name),
        Expr::Literal(value, _) => value.clone(),
        Expr::Arithmetic(op, a, b) => match (evaluate(a, of)?, evaluate(b, of)?) {
            (Value::Int(a), Value::Int(b)) => Value::Int(of_longs(*op, a, b).ok_or(Failed)?),
            (Value::Double(a), Value::Double(b)) => Value::Double(of_doubles(*op, a, b)),
            _ => Value::Null,
        },
        Expr::Compare(op, a, b) => match order(&evaluate(a, of)?, &evaluate(b, of)?) {
            Some(order) => Value::Bool(holds(*op, order)),
            None => Value::Null,
        },
        Expr::And(a, b) => match (truth(a, of)?, truth(b, of)?) {
            (Some(false), _) | (_, Some(false)) => Value::Bool(false),
            (Some(true), Some(true)) => Value::Bool(true),
            _ => Value::Null,
        },
        Expr::Or(a, b) => match (truth(a, of)?, truth(b, of)?) {
            (Some(true), _) | (_, Some(true)) => Value::Bool(true),
            (Some(false), Some(false)) => Value::Bool(false),
            _ => Value::Null,
        },
        Expr::Not(a) => truth(a, of)?.map_or(Value::Null, |truth| Value::Bool(!truth)),
        Expr::IsNull(a) => Value::Bool(evaluate(a, of)? == Value::Null),
        Expr::Case(condition, a, b) => match truth(condition, of)? {
            Some(true) => evaluate(a, of)?,
            _ => evaluate(b, of)?,
        },
        Expr::Coalesce(a, b) => match evaluate(a, of)? {
            Value::Null => evaluate(b, of)?,
            value => value,
        },
        Expr::ToLong(a) => evaluate(a, of)?,
        Expr::ToDouble(a) => match evaluate(a, of)? {
            Value::Int(int) => Value::Double(int as f64),
            other => other,
        },
        Expr::Upper(a) => match evaluate(a, of)? {
            Value::Text(text) => Value::Text(text.to_uppercase()),
            _ => Value::Null,
        },
        Expr::Concat(a, b) => match (evaluate(a, of)?, evaluate(b, of)?) {
            (Value::Text(a), Value::Text(b)) => Value::Text(a + &b),
            _ => Value::Null,
        },
    })
}

/// True, false or unknown.
pub fn truth(expr: &Expr, of: &dyn Fn(&str) -> Value) -> Result<Option<bool>, Failed> {
    Ok(match evaluate(expr, of)? {
        Value::Bool(truth) => Some(truth),
        _ => None,
    })
}

/// Whether a row passes conjuncts, looked at one after another.
pub fn passes(conjuncts: &[Expr], of: &dyn Fn(&str) -> Value) -> Result<bool, Failed> {
    for conjunct in conjuncts {
        if truth(conjunct, of)? != Some(true) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `None` where one of them is NULL. NaN is above every other number.
pub fn order(a: &Value, b: &Value) -> Option<Ordering> {
    Some(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Decimal(a), Value::Decimal(b)) => a.cmp(b),
        (Value::Null, _) | (_, Value::Null) => return None,
        (a, b) => unreachable!("{a:?} and {b:?} are not of one type"),
    })
}

/// The order of rows that nothing else tells apart: NULL comes first.
pub fn order_of_rows(a: &[Value], b: &[Value]) -> Ordering {
    let one = |(a, b): (&Value, &Value)| match (a, b) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        (a, b) => order(a, b).expect("neither is NULL"),
    };
    a.iter().zip(b).map(one).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn holds(op: Compare, order: Ordering) -> bool {
    match op {
        Compare::Equal => order.is_eq(),
        Compare::NotEqual => order.is_ne(),
        Compare::Less => order.is_lt(),
        Compare::LessOrEqual => order.is_le(),
        Compare::Greater => order.is_gt(),
        Compare::GreaterOrEqual => order.is_ge(),
    }
}

fn of_longs(op: Arithmetic, a: i64, b: i64) -> Option<i64> {
    match op {
        Arithmetic::Add => a.checked_add(b),
        Arithmetic::Subtract => a.checked_sub(b),
        Arithmetic::Multiply => a.checked_mul(b),
        Arithmetic::Divide => a.checked_div(b),
        Arithmetic::Remainder => a.checked_rem(b),
    }
}

fn of_doubles(op: Arithmetic, a: f64, b: f64) -> f64 {
    match op {
        Arithmetic::Add => a + b,
        Arithmetic::Subtract => a - b,
        Arithmetic::Multiply => a * b,
        Arithmetic::Divide => a / b,
        Arithmetic::Remainder => a % b,
    }
}

/// Microseconds of an instant; `None` where they do not fit.
pub fn micros(value: &Value, data_type: Type) -> Option<i64> {
    match (value, data_type) {
        (Value::Int(millis), Type::Millis) => millis.checked_mul(1000),
        (Value::Int(micros), Type::Micros) => Some(*micros),
        (value, data_type) => unreachable!("{value:?} of {data_type:?} is no instant"),
    }
}
