//! DATE_FORMAT and TO_TIMESTAMP: Java's patterns, as Flink has them, in terms of `chrono`'s.

use std::sync::Arc;

use arrow::array::{AsArray, StringArray, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use datafusion_common::{DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::{ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::topology::fault::{Fault, Result};
use crate::topology::types::sql_name;

pub(super) fn functions() -> [ScalarUDF; 2] {
    [false, true]
        .map(|parses| ScalarUDF::from(PatternFunction { parses, signature: Signature::user_defined(Volatility::Immutable) }))
}

/// What TO_TIMESTAMP reads without a pattern; a fraction may follow.
const USUAL: &str = "yyyy-MM-dd HH:mm:ss";

/// Checks the arguments of a call before it runs.
pub(super) fn check(name: &str, args: &[Expr], schema: &DFSchema) -> Result<()> {
    let shown = name.to_uppercase();
    let parses = name == "to_timestamp";
    let fewest = if parses { 1 } else { 2 };
    if args.len() < fewest || args.len() > 2 {
        let wanted = if parses { "a text and a pattern" } else { "a time and a pattern" };
        return Err(Fault::new(format!("{shown} takes {wanted}, not {} arguments", args.len())));
    }
    let known = match args[0].get_type(schema)? {
        DataType::Null => true,
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => parses,
        DataType::Timestamp(..) | DataType::Date32 => !parses,
        _ => false,
    };
    if !known {
        let fault = Fault::new(format!("{shown} of {} is not known", sql_name(&args[0].get_type(schema)?)));
        return Err(if parses {
            fault.hint("it takes a text; of a number: TO_TIMESTAMP_LTZ(millis, 3)")
        } else {
            fault.hint("it takes a time: CAST(text AS TIMESTAMP(3))")
        });
    }
    let Some(pattern) = args.get(1) else { return Ok(()) };
    match pattern {
        Expr::Literal(value, _) => match value.try_as_str() {
            Some(Some(text)) => translated(text).map(drop).map_err(|unknown| {
                Fault::new(format!("{shown}: \"{text}\" is not a pattern here: {unknown}"))
                    .hint("patterns are Java's: 'yyyy-MM-dd HH:mm:ss.SSS'; other characters stand in single quotes")
            }),
            _ => Err(Fault::new(format!("{shown}: the pattern is a text"))),
        },
        _ => Err(Fault::new(format!("{shown}: the pattern must be a constant")).hint("write CASE WHEN ... for several patterns")),
    }
}

/// Java's pattern as one of `chrono`; what is not known is said.
fn translated(pattern: &str) -> Result<String, String> {
    let letters: Vec<char> = pattern.chars().collect();
    let mut out = String::new();
    let mut at = 0;
    while at < letters.len() {
        let letter = letters[at];
        let count = letters[at..].iter().take_while(|l| **l == letter).count();
        if letter == '\'' {
            at = quoted(&letters, at, &mut out)?;
            continue;
        }
        if !letter.is_ascii_alphabetic() {
            literal(letter, &mut out);
            at += 1;
            continue;
        }
        out.push_str(match (letter, count) {
            ('y' | 'u', 4) => "%Y",
            ('y' | 'u', 2) => "%y",
            ('M' | 'L', 2) => "%m",
            ('M', 3) => "%b",
            ('M', 4) => "%B",
            ('d', 2) => "%d",
            ('M', 1) => "%-m",
            ('d', 1) => "%-d",
            ('D', 3) => "%j",
            ('H', 2) => "%H",
            ('H', 1) => "%-H",
            ('h', 2) => "%I",
            ('h', 1) => "%-I",
            ('m', 2) => "%M",
            ('s', 2) => "%S",
            ('S', 3) => "%3f",
            ('S', 6) => "%6f",
            ('S', 9) => "%9f",
            ('a', 1) => "%p",
            ('E', 1..=3) => "%a",
            ('E', 4) => "%A",
            _ => return Err(format!("{} is not known", letter.to_string().repeat(count))),
        });
        at += count;
    }
    Ok(out)
}

fn literal(letter: char, out: &mut String) {
    out.push(letter);
    if letter == '%' {
        out.push('%');
    }
}

/// `'T'` stands for itself, `''` for one quote.
fn quoted(letters: &[char], from: usize, out: &mut String) -> Result<usize, String> {
    if letters.get(from + 1) == Some(&'\'') {
        out.push('\'');
        return Ok(from + 2);
    }
    let mut at = from + 1;
    loop {
        match (letters.get(at), letters.get(at + 1)) {
            (Some('\''), Some('\'')) => {
                out.push('\'');
                at += 2;
            }
            (Some('\''), _) => return Ok(at + 1),
            (Some(letter), _) => {
                literal(*letter, out);
                at += 1;
            }
            (None, _) => return Err("a quote is not closed".into()),
        }
    }
}

/// `DATE_FORMAT(time, pattern)`, and `TO_TIMESTAMP(text [, pattern])`, which is NULL where the text does not fit.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PatternFunction {
    parses: bool,
    signature: Signature,
}

impl ScalarUDFImpl for PatternFunction {
    fn name(&self) -> &str {
        if self.parses { "to_timestamp" } else { "date_format" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> datafusion_common::Result<Vec<DataType>> {
        // What is refused is refused by `check`, which knows the place.
        let first = if self.parses { DataType::Utf8 } else { DataType::Timestamp(TimeUnit::Microsecond, None) };
        Ok(std::iter::once(first).chain(types.iter().skip(1).map(|_| DataType::Utf8)).take(types.len()).collect())
    }

    fn return_type(&self, _: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(if self.parses { DataType::Timestamp(TimeUnit::Millisecond, None) } else { DataType::Utf8 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let pattern = match args.args.get(1) {
            None => translated(USUAL),
            Some(ColumnarValue::Scalar(ScalarValue::Utf8(Some(text)))) => translated(text),
            Some(_) => Err("it is not constant".into()),
        };
        let pattern = pattern.map_err(|why| DataFusionError::Execution(format!("{}: the pattern: {why}", self.name())))?;
        let values = args.args[0].to_array(args.number_rows)?;
        if self.parses {
            let texts = values.as_string::<i32>();
            let fraction = args.args.len() == 1;
            let times = texts.iter().map(|text| text.and_then(|text| parsed(text, &pattern, fraction)));
            return Ok(ColumnarValue::Array(Arc::new(times.collect::<TimestampMillisecondArray>())));
        }
        let times = cast(&values, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let texts = times.iter().map(|time| match time.map(DateTime::from_timestamp_micros) {
            None => Ok(None),
            Some(None) => Err(DataFusionError::Execution("date_format: the time is out of range".into())),
            Some(Some(time)) => Ok(Some(time.naive_utc().format(&pattern).to_string())),
        });
        Ok(ColumnarValue::Array(Arc::new(texts.collect::<Result<StringArray, DataFusionError>>()?)))
    }
}

/// Milliseconds of a text; a pattern without a time of day means midnight.
fn parsed(text: &str, pattern: &str, fraction: bool) -> Option<i64> {
    let whole = |pattern: &str| NaiveDateTime::parse_from_str(text, pattern).ok();
    let day = |pattern: &str| NaiveDate::parse_from_str(text, pattern).ok().and_then(|date| date.and_hms_opt(0, 0, 0));
    let time = match fraction {
        true => whole(&format!("{pattern}%.f")).or_else(|| day("%Y-%m-%d")),
        false => whole(pattern).or_else(|| day(pattern)),
    };
    time.map(|time| time.and_utc().timestamp_millis())
}
