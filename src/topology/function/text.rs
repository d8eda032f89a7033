//! Functions on texts where the library means something else than Flink: positions and lengths below 1, padding, splitting.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility};

/// The arguments of one row; those that were left out are missing.
struct Row<'a> {
    text: &'a str,
    other: Option<&'a str>,
    first: Option<i64>,
    second: Option<i64>,
}

type Function = fn(&Row) -> Option<String>;

/// Name, signatures (`t` a text, `n` a number), function.
const FUNCTIONS: [(&str, &[&str], Function); 8] = [
    ("substr", &["tn", "tnn"], substring),
    ("substring", &["tn", "tnn"], substring),
    ("left", &["tn"], left),
    ("right", &["tn"], right),
    ("lpad", &["tnt"], left_padded),
    ("rpad", &["tnt"], right_padded),
    ("split_index", &["ttn"], split_index),
    ("chr", &["n"], character),
];

pub(super) fn functions() -> impl Iterator<Item = ScalarUDF> {
    FUNCTIONS.iter().map(|(name, signatures, function)| {
        let one_of = signatures.iter().map(|letters| {
            TypeSignature::Exact(letters.chars().map(|l| if l == 't' { DataType::Utf8 } else { DataType::Int64 }).collect())
        });
        let signature = Signature::one_of(one_of.collect(), Volatility::Immutable);
        ScalarUDF::from(TextFunction { name, signature, function: *function })
    })
}

#[derive(Debug)]
struct TextFunction {
    name: &'static str,
    signature: Signature,
    function: Function,
}

impl PartialEq for TextFunction {
    fn eq(&self, other: &TextFunction) -> bool {
        self.name == other.name
    }
}

impl Eq for TextFunction {}

impl std::hash::Hash for TextFunction {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for TextFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let texts: Vec<&StringArray> = arrays.iter().filter_map(|a| a.as_string_opt::<i32>()).collect();
        let numbers: Vec<_> = arrays.iter().filter_map(|a| a.as_primitive_opt::<Int64Type>()).collect();
        let rows = arrays.first().map_or(0, |a| a.len());
        let row = |n: usize| {
            if arrays.iter().any(|a| a.is_null(n)) {
                return None;
            }
            (self.function)(&Row {
                text: texts.first().map_or("", |t| t.value(n)),
                other: texts.get(1).map(|t| t.value(n)),
                first: numbers.first().map(|i| i.value(n)),
                second: numbers.get(1).map(|i| i.value(n)),
            })
        };
        Ok(ColumnarValue::Array(Arc::new((0..rows).map(row).collect::<StringArray>())))
    }
}

fn count(text: &str) -> i64 {
    text.chars().count() as i64
}

fn part(text: &str, from: i64, length: i64) -> String {
    text.chars().skip(from.max(0) as usize).take(length.max(0) as usize).collect()
}

/// 0 is the first character as 1 is; below 0 it counts from the end, and before the start there is nothing. A length below 0: NULL.
fn substring(row: &Row) -> Option<String> {
    let length = row.second.unwrap_or(i64::MAX);
    if length < 0 {
        return None;
    }
    let start = match row.first? {
        position if position > 0 => position - 1,
        0 => 0,
        position => count(row.text).saturating_add(position),
    };
    Some(if start < 0 { String::new() } else { part(row.text, start, length) })
}

fn left(row: &Row) -> Option<String> {
    Some(part(row.text, 0, row.first?))
}

fn right(row: &Row) -> Option<String> {
    let length = row.first?.clamp(0, count(row.text));
    Some(part(row.text, count(row.text) - length, length))
}

/// The padding of a text to so many characters; a length below 0 or nothing to pad with: NULL.
fn padding(row: &Row) -> Option<String> {
    let (length, pad) = (row.first?, row.other?);
    if length < 0 || pad.is_empty() {
        return None;
    }
    let missing = (length - count(row.text)).max(0);
    Some(pad.chars().cycle().take(missing as usize).collect())
}

fn left_padded(row: &Row) -> Option<String> {
    let padding = padding(row)?;
    let length = row.first? - count(&padding);
    Some(padding + &part(row.text, 0, length))
}

fn right_padded(row: &Row) -> Option<String> {
    let padding = padding(row)?;
    let length = row.first? - count(&padding);
    Some(part(row.text, 0, length) + &padding)
}

/// Counts from 0; a part that is not there is NULL. Without a separator, white space separates.
fn split_index(row: &Row) -> Option<String> {
    let (separator, at) = (row.other?, usize::try_from(row.first?).ok()?);
    if row.text.is_empty() {
        return None;
    }
    let found = if separator.is_empty() { row.text.split_whitespace().nth(at) } else { row.text.split(separator).nth(at) };
    found.map(str::to_owned)
}

/// The character of the lowest byte; of a number below 0 nothing.
fn character(row: &Row) -> Option<String> {
    let code = row.first?;
    Some(if code < 0 { String::new() } else { char::from((code & 0xFF) as u8).to_string() })
}
