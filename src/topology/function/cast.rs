//! CAST with Flink's meaning where the library's differs: texts of numbers, times and truth values, and texts as numbers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit};
use arrow::error::ArrowError;
use chrono::DateTime;
use datafusion_common::DataFusionError;
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::topology::fault::{Fault, Result};
use crate::topology::types::{same, sql_name};

/// The cast as a call, where the library would do something else; `Ok(None)`: the library's cast is Flink's.
pub(super) fn flink(expr: &Expr, from: &DataType, to: &DataType, tries: bool) -> Result<Option<Expr>> {
    refuse(from, to)?;
    let to_text = *to == DataType::Utf8;
    let ours = match from {
        DataType::Boolean | DataType::Float32 | DataType::Float64 | DataType::Timestamp(..) => to_text,
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => {
            matches!(to, DataType::Boolean | DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64)
        }
        _ => false,
    };
    if !ours {
        return Ok(None);
    }
    let call = TextCast { to: to.clone(), tries, signature: Signature::any(1, Volatility::Immutable) };
    Ok(Some(Expr::ScalarFunction(ScalarFunction { func: Arc::new(ScalarUDF::from(call)), args: vec![expr.clone()] })))
}

fn refuse(from: &DataType, to: &DataType) -> Result<()> {
    let number = |t: &DataType| t.is_numeric();
    let time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32 | DataType::Time32(_) | DataType::Time64(_));
    let nested = |t: &DataType| matches!(t, DataType::List(_) | DataType::Struct(_) | DataType::Map(..));
    let hint = match (from, to) {
        (DataType::Timestamp(..), to) if number(to) => "write EXTRACT(EPOCH FROM ts), or TIMESTAMPDIFF(SECOND, a, b)",
        (from, to) if time(from) && number(to) => "write EXTRACT(EPOCH FROM ts)",
        (from, DataType::Timestamp(..)) if number(from) => "write TO_TIMESTAMP_LTZ(number, 3): milliseconds, or 0: seconds",
        (from, to) if number(from) && time(to) => "compute a TIMESTAMP first: TO_TIMESTAMP_LTZ(number, 3)",
        (from, DataType::Boolean) if time(from) => "compare it",
        (DataType::Time32(_) | DataType::Time64(_), DataType::Utf8) => "write to_char(t, '%H:%M:%S')",
        (from, DataType::Utf8) if nested(from) => "write its parts one by one",
        (from, to) if (nested(from) || nested(to)) && !from.is_null() && !same(from, to) => "CAST its parts one by one",
        (DataType::Interval(_) | DataType::Duration(_), _) => "write TIMESTAMPDIFF(SECOND, a, b)",
        (DataType::Binary, to) if number(to) || *to == DataType::Boolean => "CAST it to STRING first",
        (from, DataType::Binary) if number(from) || *from == DataType::Boolean => "CAST it to STRING first",
        _ => return Ok(()),
    };
    Err(Fault::new(format!("CAST of {} to {} is not known", sql_name(from), sql_name(to))).hint(hint))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TextCast {
    to: DataType,
    /// NULL instead of an error.
    tries: bool,
    signature: Signature,
}

impl ScalarUDFImpl for TextCast {
    fn name(&self) -> &str {
        "cast"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(self.to.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let values = args.args[0].to_array(args.number_rows)?;
        let result = match values.data_type() {
            DataType::Boolean => texts(&values, |n| Ok(if values.as_boolean().value(n) { "TRUE" } else { "FALSE" }.to_owned()))?,
            DataType::Float64 => {
                let numbers = values.as_primitive::<Float64Type>();
                texts(&values, |n| Ok(java(numbers.value(n), &format!("{:e}", numbers.value(n)))))?
            }
            DataType::Float32 => {
                let numbers = values.as_primitive::<Float32Type>();
                texts(&values, |n| Ok(java(numbers.value(n).into(), &format!("{:e}", numbers.value(n)))))?
            }
            DataType::Timestamp(unit, _) => times(&values, *unit)?,
            _ => self.parsed(&cast(&values, &DataType::Utf8)?)?,
        };
        Ok(ColumnarValue::Array(result))
    }
}

impl TextCast {
    fn parsed(&self, texts: &ArrayRef) -> datafusion_common::Result<ArrayRef> {
        let texts = texts.as_string::<i32>();
        let wrong = |text: &str| DataFusionError::Execution(format!("\"{text}\" is no {}", sql_name(&self.to)));
        fn all<T>(
            texts: &StringArray,
            tries: bool,
            read: impl Fn(&str) -> Option<T>,
            wrong: impl Fn(&str) -> DataFusionError,
        ) -> datafusion_common::Result<Vec<Option<T>>> {
            let read = |text: Option<&str>| match text {
                None => Ok(None),
                Some(text) => match read(text) {
                    None if !tries => Err(wrong(text)),
                    read => Ok(read),
                },
            };
            texts.iter().map(read).collect()
        }
        if self.to == DataType::Boolean {
            return Ok(Arc::new(BooleanArray::from(all(texts, self.tries, truth, wrong)?)));
        }
        let (low, high) = match self.to {
            DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
            DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
            DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
            _ => (i64::MIN, i64::MAX),
        };
        let fits = |text: &str| whole(text).filter(|n| (low..=high).contains(n));
        let numbers: ArrayRef = Arc::new(Int64Array::from(all(texts, self.tries, fits, wrong)?));
        Ok(cast(&numbers, &self.to)?)
    }
}

fn texts(values: &ArrayRef, text: impl Fn(usize) -> Result<String, ArrowError>) -> Result<ArrayRef, ArrowError> {
    let rows = (0..values.len()).map(|n| if values.is_null(n) { Ok(None) } else { text(n).map(Some) });
    Ok(Arc::new(rows.collect::<Result<StringArray, ArrowError>>()?))
}

/// As Java prints a double: plain from 0.001 up to 10,000,000, else as `1.5E10`. `shortest` is the number as `1.5e10`.
fn java(number: f64, shortest: &str) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number == 0.0 || (-3..7).contains(&exponent) {
        let (sign, digits) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
        let digits = digits.replace('.', "");
        let point = exponent + 1;
        let (whole, rest) = if point <= 0 {
            ("0".to_owned(), "0".repeat(point.unsigned_abs() as usize) + &digits)
        } else if digits.len() > point as usize {
            (digits[..point as usize].to_owned(), digits[point as usize..].to_owned())
        } else {
            (digits.clone() + &"0".repeat(point as usize - digits.len()), "0".to_owned())
        };
        return format!("{sign}{whole}.{rest}");
    }
    let mantissa = if mantissa.contains('.') { mantissa.to_owned() } else { format!("{mantissa}.0") };
    format!("{mantissa}E{exponent}")
}

/// `2026-01-05 00:00:00.000`, with as many digits as the type has.
fn times(values: &ArrayRef, unit: TimeUnit) -> Result<ArrayRef, DataFusionError> {
    let pattern = match unit {
        TimeUnit::Second => "%Y-%m-%d %H:%M:%S",
        TimeUnit::Millisecond => "%Y-%m-%d %H:%M:%S%.3f",
        TimeUnit::Microsecond => "%Y-%m-%d %H:%M:%S%.6f",
        TimeUnit::Nanosecond => "%Y-%m-%d %H:%M:%S%.9f",
    };
    let out = || ArrowError::ComputeError("the time is out of range".into());
    let ticks = cast(values, &DataType::Int64)?;
    let ticks = ticks.as_primitive::<arrow::datatypes::Int64Type>();
    let text = |n: usize| {
        let time = match unit {
            TimeUnit::Second => DateTime::from_timestamp(ticks.value(n), 0),
            TimeUnit::Millisecond => DateTime::from_timestamp_millis(ticks.value(n)),
            TimeUnit::Microsecond => DateTime::from_timestamp_micros(ticks.value(n)),
            TimeUnit::Nanosecond => Some(DateTime::from_timestamp_nanos(ticks.value(n))),
        };
        time.map(|time| time.naive_utc().format(pattern).to_string()).ok_or_else(out)
    };
    Ok(texts(values, text)?)
}

fn truth(text: &str) -> Option<bool> {
    match text.trim().to_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A whole number; digits after a point are cut, as Flink does.
fn whole(text: &str) -> Option<i64> {
    let text = text.trim();
    let (number, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = number.strip_prefix(['-', '+']).unwrap_or(number);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    number.parse().ok()
}

/// A double rounded half up in its decimal form, as Flink's ROUND does: 2.345 to two digits is 2.35.
pub(super) fn rounded(number: f64, digits: i32) -> Option<f64> {
    if !number.is_finite() {
        return None;
    }
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e')?;
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let exponent: i32 = exponent.parse().ok()?;
    let all = mantissa.replace('.', "");
    // So many of the digits stay.
    let kept = exponent.checked_add(1)?.checked_add(digits)?;
    if kept >= all.len() as i32 {
        return Some(number);
    }
    if kept < 0 {
        return Some(0.0);
    }
    let (head, tail) = all.split_at(kept as usize);
    let head: u128 = if head.is_empty() { 0 } else { head.parse().ok()? };
    let up = tail.as_bytes().first().is_some_and(|b| *b >= b'5');
    format!("{sign}{}e{}", head + u128::from(up), -digits).parse().ok()
}
