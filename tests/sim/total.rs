//! What an aggregate call gives over the rows of a group.

use crate::case::{Call, Function, Type, Value};
use crate::expression::{Failed, order};
use crate::model::Place;

/// `mixed`: rows of several partitions meet, so that sums of doubles are exact.
pub fn result(call: &Call, rows: &[(Place, Value)], mixed: bool) -> Result<Value, Failed> {
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
        Function::First => rows.iter().min_by_key(|(place, _)| *place).expect("not empty").1.clone(),
        Function::Last => rows.iter().max_by_key(|(place, _)| *place).expect("not empty").1.clone(),
        Function::BoolAnd => Value::Bool(!any(false)),
        Function::BoolOr => Value::Bool(any(true)),
        Function::Sum => match data_type {
            Type::Double => Value::Double(double_sum(values(), mixed)),
            Type::Decimal(_) => Value::Decimal(values().map(whole).sum()),
            // Of its argument's type, as in Flink.
            Type::Int => Value::Int(i32::try_from(values().map(whole).sum::<i128>()).map_err(|_| Failed)?.into()),
            _ => Value::Int(i64::try_from(values().map(whole).sum::<i128>()).map_err(|_| Failed)?),
        },
        Function::Avg => match data_type {
            Type::Double => Value::Double(double_sum(values(), mixed) / rows.len() as f64),
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

fn double_sum<'a>(values: impl Iterator<Item = &'a Value>, exact: bool) -> f64 {
    let doubles = values.map(|value| if let Value::Double(double) = value { *double } else { unreachable!("{value:?}") });
    if !exact {
        return doubles.fold(0.0, |sum, value| sum + value);
    }
    let (mut fixed, mut special) = (0i128, 0.0);
    for value in doubles {
        if value.is_finite() { fixed += to_fixed(value) } else { special += value }
    }
    if special == 0.0 { fixed as f64 / 2f64.powi(FRACTION) } else { special }
}

/// Bits behind the point: the generator's doubles that are summed need no more, and stay below 2^52.
const FRACTION: i32 = 64;

fn to_fixed(value: f64) -> i128 {
    let bits = value.abs().to_bits();
    let (exponent, fraction) = ((bits >> 52) as i32, i128::from(bits & ((1 << 52) - 1)));
    if exponent == 0 {
        assert_eq!(fraction, 0, "{value} is too small for the model");
        return 0;
    }
    let mantissa = fraction | (1 << 52);
    let shift = exponent - 1075 + FRACTION;
    assert!(
        (0..66).contains(&shift) || (shift < 0 && mantissa % (1 << -shift) == 0),
        "{value} is outside of what the model sums"
    );
    let magnitude = if shift >= 0 { mantissa << shift } else { mantissa >> -shift };
    if value < 0.0 { -magnitude } else { magnitude }
}
