//! What an aggregate call gives over the rows of a group.

use crate::case::{Call, Function, Type, Value};
use crate::expression::{Failed, order};
use crate::model::Place;

/// `order_free`: rows of several partitions meet, or are taken back: sums of doubles are exact then, and rows of one place go by value.
pub fn result(call: &Call, rows: &[(Place, Value)], order_free: bool) -> Result<Value, Failed> {
    let Some((_, data_type)) = &call.arg else { return Ok(Value::Int(rows.len() as i64)) };
    let mut rows: Vec<&(Place, Value)> = rows.iter().filter(|(_, value)| *value != Value::Null).collect();
    if call.distinct {
        let mut seen = std::collections::BTreeSet::new();
        rows.retain(|(_, value)| seen.insert(format!("{value:?}")));
    }
    if call.function == Function::Count {
        return Ok(Value::Int(rows.len() as i64));
    }
    if rows.is_empty() {
        return Ok(Value::Null);
    }
    let values = || rows.iter().map(|(_, value)| value);
    let extreme = |ordering: std::cmp::Ordering| {
        values().fold(rows[0].1.clone(), |best, value| if order(value, &best) == Some(ordering) { value.clone() } else { best })
    };
    let any = |wanted: bool| values().any(|value| *value == Value::Bool(wanted));
    Ok(match call.function {
        Function::Count => unreachable!("answered above"),
        Function::Min => extreme(std::cmp::Ordering::Less),
        Function::Max => extreme(std::cmp::Ordering::Greater),
        Function::First | Function::Last => {
            let by_value = |a: &Value, b: &Value| order(a, b).filter(|_| order_free).unwrap_or(std::cmp::Ordering::Equal);
            rows.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| by_value(&a.1, &b.1)));
            let at = if call.function == Function::First { 0 } else { rows.len() - 1 };
            rows[at].1.clone()
        }
        Function::StddevPop | Function::StddevSamp => {
            deviation(&rows.iter().map(|(_, v)| double(v)).collect::<Vec<_>>(), call.function, order_free)
        }
        Function::BoolAnd => Value::Bool(!any(false)),
        Function::BoolOr => Value::Bool(any(true)),
        Function::Sum => match data_type {
            Type::Double => Value::Double(double_sum(values(), order_free)),
            Type::Decimal(_) => Value::Decimal(values().map(whole).sum()),
            // Of its argument's type, as in Flink.
            Type::Int => Value::Int(i32::try_from(values().map(whole).sum::<i128>()).map_err(|_| Failed)?.into()),
            _ => Value::Int(i64::try_from(values().map(whole).sum::<i128>()).map_err(|_| Failed)?),
        },
        Function::Avg => match data_type {
            Type::Double => Value::Double(double_sum(values(), order_free) / rows.len() as f64),
            Type::Decimal(scale) => {
                let more = 10i128.pow(6u32.saturating_sub(*scale));
                Value::Decimal(half_away(values().map(whole).sum::<i128>() * more, rows.len() as i128))
            }
            // Cut towards zero, as Flink has it.
            _ => Value::Int((values().map(whole).sum::<i128>() / rows.len() as i128) as i64),
        },
    })
}

fn whole(value: &Value) -> i128 {
    match value {
        Value::Int(value) => i128::from(*value),
        Value::Decimal(value) => *value,
        other => unreachable!("{other:?} is no number"),
    }
}

fn half_away(sum: i128, count: i128) -> i128 {
    let (quotient, rest) = (sum / count, sum % count);
    if rest.abs() * 2 >= count { quotient + sum.signum() } else { quotient }
}

fn double(value: &Value) -> f64 {
    if let Value::Double(double) = value { *double } else { unreachable!("{value:?}") }
}

fn double_sum<'a>(values: impl Iterator<Item = &'a Value>, exact: bool) -> f64 {
    let doubles: Vec<f64> = values.map(double).collect();
    let special = doubles.iter().filter(|value| !value.is_finite()).fold(0.0, |sum, value| sum + value);
    match exact {
        false => doubles.into_iter().fold(0.0, |sum, value| sum + value),
        true if special != 0.0 => special,
        true => exact_sum(&doubles),
    }
}

/// The sum rounded once (Shewchuk 1997, rounded as CPython's `fsum` does).
fn exact_sum(doubles: &[f64]) -> f64 {
    // Parts that do not overlap, ascending, whose sum is exact.
    let mut parts: Vec<f64> = Vec::new();
    for value in doubles {
        let (mut x, mut kept) = (*value, Vec::new());
        for part in &parts {
            let (large, small) = if x.abs() < part.abs() { (*part, x) } else { (x, *part) };
            let high = large + small;
            let low = small - (high - large);
            if low != 0.0 {
                kept.push(low);
            }
            x = high;
        }
        kept.push(x);
        parts = kept;
    }
    let Some(mut high) = parts.pop() else { return 0.0 };
    while let Some(part) = parts.pop() {
        let sum = high + part;
        let low = part - (sum - high);
        high = sum;
        if low != 0.0 {
            // Halfway cases: what is left decides to which side.
            if parts.last().is_some_and(|left| (low < 0.0) == (*left < 0.0) && *left != 0.0) {
                let twice = low * 2.0;
                let rounded = high + twice;
                if twice == rounded - high {
                    high = rounded;
                }
            }
            break;
        }
    }
    high
}

/// Of whole numbers, as doubles: in their order (Welford), or rounded from what it is exactly.
fn deviation(values: &[f64], function: Function, exact: bool) -> Value {
    let fewer = usize::from(function == Function::StddevSamp);
    if values.len() <= fewer {
        return Value::Null;
    }
    let squares = match exact {
        true => {
            let whole = values.iter().map(|value| *value as i128);
            let (sum, squares) = whole.fold((0, 0), |(sum, squares), value| (sum + value, squares + value * value));
            let count = values.len() as i128;
            ratio(count * squares - sum * sum, count)
        }
        false => {
            let (mut mean, mut squares) = (0.0, 0.0);
            for (at, value) in values.iter().enumerate() {
                let before = value - mean;
                mean += before / (at + 1) as f64;
                squares += before * (value - mean);
            }
            squares
        }
    };
    Value::Double((squares / (values.len() - fewer) as f64).sqrt())
}

/// A quotient of whole numbers that are not negative, rounded once.
fn ratio(numerator: i128, denominator: i128) -> f64 {
    let shift = numerator.leading_zeros().saturating_sub(2).min(64);
    let (quotient, rest) = ((numerator << shift) / denominator, (numerator << shift) % denominator);
    // What is left counts as one more bit behind all others.
    ((quotient << 1 | i128::from(rest != 0)) as f64) / 2f64.powi(shift as i32 + 1)
}
