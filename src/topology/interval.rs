//! Lengths of time: `INTERVAL '5' SECOND` and the durations of options.

use datafusion_sql::sqlparser::ast::{DateTimeField, Expr, Interval, Spanned, UnaryOperator, Value};

use super::fault::{Fault, Place, Result};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// Microseconds of an interval literal.
pub(super) fn micros(expr: &Expr) -> Result<i64> {
    let place = Place::of(expr.span());
    let negative =
        |expr: &Expr| micros(expr).and_then(|m| m.checked_neg().ok_or_else(|| Fault::new("this interval is too long")));
    let Expr::Interval(Interval { value, leading_field, last_field: None, .. }) = expr else {
        return match expr {
            Expr::Nested(inner) => micros(inner),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => negative(expr).map_err(|f| f.at(place)),
            _ => Err(Fault::new("expected an interval").at(place).hint("write INTERVAL '1' MINUTE")),
        };
    };
    let unit = match leading_field {
        Some(DateTimeField::Microsecond | DateTimeField::Microseconds) => 1,
        Some(DateTimeField::Millisecond | DateTimeField::Milliseconds) => 1000,
        Some(DateTimeField::Second | DateTimeField::Seconds) => SECOND,
        Some(DateTimeField::Minute | DateTimeField::Minutes) => MINUTE,
        Some(DateTimeField::Hour | DateTimeField::Hours) => HOUR,
        Some(DateTimeField::Day | DateTimeField::Days) => DAY,
        Some(DateTimeField::Week(None) | DateTimeField::Weeks) => 7 * DAY,
        Some(field @ (DateTimeField::Month | DateTimeField::Months | DateTimeField::Year | DateTimeField::Years)) => {
            return Err(Fault::new(format!("an interval of {field} has no fixed length")).at(place).hint("write it in days"));
        }
        Some(other) => return Err(Fault::new(format!("an interval in {other} is not known")).at(place)),
        None => return Err(Fault::new("an interval needs a unit").at(place).hint("write INTERVAL '1' MINUTE")),
    };
    let text = match &**value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.clone(),
            Value::Number(number, _) => number.to_string(),
            _ => String::new(),
        },
        _ => String::new(),
    };
    scaled(text.trim(), unit)
        .ok_or_else(|| Fault::new(format!("\"{text}\" is not an amount of time")).at(place).hint("write INTERVAL '1' MINUTE"))
}

/// `number * unit`, exact: at most so many decimals as microseconds have.
fn scaled(text: &str, unit: i64) -> Option<i64> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) || fraction.len() > 9 {
        return None;
    }
    let mut total = whole.parse::<i128>().ok()?.checked_mul(i128::from(unit))?;
    if !fraction.is_empty() {
        let part = fraction.parse::<i128>().ok()? * i128::from(unit);
        let scale = 10_i128.pow(fraction.len() as u32);
        if part % scale != 0 {
            return None;
        }
        total += part / scale;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration in an option, as Flink writes them: `30 s`, `10 min`, `1 d`, `500 ms`. Microseconds.
pub(super) fn duration(text: &str) -> Option<i64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim().to_lowercase().as_str() {
        "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1,
        "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1000,
        "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => MINUTE,
        "h" | "hour" | "hours" => HOUR,
        "d" | "day" | "days" => DAY,
        _ => return None,
    };
    scaled(number, unit)
}

/// The shortest exact form: `5 s`, `1 min`, `1500 ms`.
pub(super) fn shown(micros: i64) -> String {
    let units = [(DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (SECOND, "s"), (1000, "ms")];
    match units.iter().find(|(unit, _)| micros != 0 && micros % unit == 0) {
        Some((unit, name)) => format!("{} {name}", micros / unit),
        None if micros == 0 => "0 s".into(),
        None => format!("{micros} µs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact_or_refused() {
        assert_eq!(duration("30 s"), Some(30 * SECOND));
        assert_eq!(duration("1.5min"), Some(90 * SECOND));
        assert_eq!(duration("1 d"), Some(DAY));
        assert_eq!(duration("10"), None);
        assert_eq!(duration("ten s"), None);
        assert_eq!(duration("0.0000001 s"), None);
        assert_eq!(duration("99999999999999999999 d"), None);
        assert_eq!(shown(90 * SECOND), "90 s");
        assert_eq!(shown(1), "1 µs");
    }
}
