//! Functions on times: TO_TIMESTAMP_LTZ, TIMESTAMPADD, TIMESTAMPDIFF, FLOOR and CEIL to a unit. Instants are taken in UTC.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, TimestampMicrosecondArray, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveDateTime};
use datafusion_common::cast::as_int64_array;
use datafusion_common::{DFSchema, DataFusionError};
use datafusion_expr::{ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::topology::fault::{Fault, Result};
use crate::topology::types::{UTC, instant_millis, sql_name};

pub(super) fn functions() -> impl Iterator<Item = ScalarUDF> {
    let calls = [Call::Floor, Call::Ceil, Call::Add, Call::Diff]
        .map(|call| ScalarUDF::from(UnitFunction { call, signature: Signature::user_defined(Volatility::Immutable) }));
    calls.into_iter().chain([ScalarUDF::from(ToTimestampLtz::new())])
}

/// A unit as SQL names it; `None`: not one of these functions'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::topology) enum Unit {
    Micros(i64),
    Months(i32),
}

impl Unit {
    pub fn named(name: &str) -> Option<Unit> {
        const SECOND: i64 = 1_000_000;
        Some(match name.to_uppercase().as_str() {
            "MICROSECOND" | "SQL_TSI_MICROSECOND" => Unit::Micros(1),
            "MILLISECOND" => Unit::Micros(1000),
            "SECOND" | "SQL_TSI_SECOND" => Unit::Micros(SECOND),
            "MINUTE" | "SQL_TSI_MINUTE" => Unit::Micros(60 * SECOND),
            "HOUR" | "SQL_TSI_HOUR" => Unit::Micros(3600 * SECOND),
            "DAY" | "SQL_TSI_DAY" => Unit::Micros(86_400 * SECOND),
            "WEEK" | "SQL_TSI_WEEK" => Unit::Micros(7 * 86_400 * SECOND),
            "MONTH" | "SQL_TSI_MONTH" => Unit::Months(1),
            "QUARTER" | "SQL_TSI_QUARTER" => Unit::Months(3),
            "YEAR" | "SQL_TSI_YEAR" => Unit::Months(12),
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    /// `FLOOR(time TO unit)`, planned as `floor_to('unit', time)`.
    Floor,
    Ceil,
    /// `TIMESTAMPADD(unit, number, time)`.
    Add,
    /// `TIMESTAMPDIFF(unit, from, to)`.
    Diff,
}

/// A function whose first argument is the unit as a constant text.
#[derive(Debug, PartialEq, Eq, Hash)]
struct UnitFunction {
    call: Call,
    signature: Signature,
}

/// Refuses arguments that are no times, or too few.
pub(super) fn check(name: &str, args: &[Expr], schema: &DFSchema) -> Result<()> {
    let (shown, count) = match name {
        "timestampadd" => ("TIMESTAMPADD", 3),
        "timestampdiff" => ("TIMESTAMPDIFF", 3),
        "floor_to" => ("FLOOR ... TO", 2),
        _ => ("CEIL ... TO", 2),
    };
    if args.len() != count {
        return Err(Fault::new(format!("{shown} takes {count} arguments, not {}", args.len())));
    }
    let types = args.iter().map(|arg| arg.get_type(schema)).collect::<datafusion_common::Result<Vec<_>>>()?;
    let time = |t: &DataType| matches!(t, DataType::Timestamp(..) | DataType::Date32 | DataType::Null);
    let (times, numbers) = if name == "timestampadd" { (&types[2..], &types[1..2]) } else { (&types[1..], &types[..0]) };
    if let Some(wrong) = times.iter().find(|t| !time(t)) {
        let fault = Fault::new(format!("{shown} of {} is not known: it takes a time", sql_name(wrong)));
        return Err(fault.hint("CAST(text AS TIMESTAMP(3))"));
    }
    if let Some(wrong) = numbers.iter().find(|t| !t.is_integer() && !t.is_null()) {
        return Err(Fault::new(format!("{shown} takes a whole number, not {}", sql_name(wrong))));
    }
    Ok(())
}

fn time_type(given: Option<&DataType>) -> DataType {
    match given {
        Some(time @ (DataType::Timestamp(..) | DataType::Date32)) => time.clone(),
        _ => DataType::Timestamp(TimeUnit::Millisecond, None),
    }
}

impl ScalarUDFImpl for UnitFunction {
    fn name(&self) -> &str {
        match self.call {
            Call::Floor => "floor_to",
            Call::Ceil => "ceil_to",
            Call::Add => "timestampadd",
            Call::Diff => "timestampdiff",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> datafusion_common::Result<Vec<DataType>> {
        // What is refused is refused by `check`, which knows the place.
        let local = DataType::Timestamp(TimeUnit::Microsecond, None);
        let wanted = match self.call {
            Call::Floor | Call::Ceil => vec![DataType::Utf8, time_type(types.last())],
            Call::Add => vec![DataType::Utf8, DataType::Int64, time_type(types.last())],
            Call::Diff => vec![DataType::Utf8, local.clone(), local],
        };
        Ok(if wanted.len() == types.len() { wanted } else { types.to_vec() })
    }

    fn return_type(&self, types: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(if self.call == Call::Diff { DataType::Int32 } else { time_type(types.last()) })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let unit = match &args.args[0] {
            ColumnarValue::Scalar(name) => name.try_as_str().flatten().and_then(Unit::named),
            ColumnarValue::Array(_) => None,
        };
        let unit = unit.ok_or_else(|| Fault::new(format!("{} takes a unit of time", self.name())))?;
        let rest = ColumnarValue::values_to_arrays(&args.args[1..])?;
        let micros = |array: &ArrayRef| cast(array, &DataType::Timestamp(TimeUnit::Microsecond, None));
        let last = micros(&rest[rest.len() - 1])?;
        let times = last.as_primitive::<TimestampMicrosecondType>();
        if self.call == Call::Diff {
            let from = micros(&rest[0])?;
            let from = from.as_primitive::<TimestampMicrosecondType>();
            let counts = (0..times.len()).map(|n| {
                if from.is_null(n) || times.is_null(n) {
                    Ok(None)
                } else {
                    between(from.value(n), times.value(n), unit).map(Some)
                }
            });
            return Ok(ColumnarValue::Array(Arc::new(counts.collect::<Result<Int32Array, DataFusionError>>()?)));
        }
        let numbers = (self.call == Call::Add).then(|| rest[0].as_primitive::<Int64Type>());
        let moved = (0..times.len()).map(|n| {
            if times.is_null(n) || numbers.is_some_and(|numbers| numbers.is_null(n)) {
                return Ok(None);
            }
            let time = times.value(n);
            let result = match (self.call, numbers) {
                (Call::Floor, _) => floor(time, unit),
                (Call::Ceil, _) => floor(time, unit).and_then(|low| if low == time { Some(low) } else { added(low, 1, unit) }),
                (_, Some(numbers)) => added(time, numbers.value(n), unit),
                (_, None) => None,
            };
            result.map(Some).ok_or_else(|| DataFusionError::Execution(format!("{}: the time is out of range", self.name())))
        });
        let moved: ArrayRef = Arc::new(moved.collect::<Result<TimestampMicrosecondArray, DataFusionError>>()?);
        Ok(ColumnarValue::Array(cast(&moved, args.return_type())?))
    }
}

fn civil(micros: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_micros(micros).map(|time| time.naive_utc())
}

fn micros(time: NaiveDateTime) -> i64 {
    time.and_utc().timestamp_micros()
}

/// The start of the unit that holds the time.
fn floor(time: i64, unit: Unit) -> Option<i64> {
    match unit {
        Unit::Micros(size) => time.checked_sub(time.rem_euclid(size)),
        Unit::Months(size) => {
            let date = civil(time)?.date();
            let month = date.month0() - date.month0() % size as u32;
            Some(micros(NaiveDate::from_ymd_opt(date.year(), month + 1, 1)?.and_hms_opt(0, 0, 0)?))
        }
    }
}

fn added(time: i64, number: i64, unit: Unit) -> Option<i64> {
    match unit {
        Unit::Micros(size) => time.checked_add(number.checked_mul(size)?),
        Unit::Months(size) => {
            let months = number.checked_mul(size.into())?;
            let by = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
            let moved = civil(time)?;
            Some(micros(if months >= 0 { moved.checked_add_months(by)? } else { moved.checked_sub_months(by)? }))
        }
    }
}

/// Whole units from one time to the other, cut towards zero.
fn between(from: i64, to: i64, unit: Unit) -> datafusion_common::Result<i32> {
    let out = || DataFusionError::Execution("TIMESTAMPDIFF: the number of units is out of range".into());
    match unit {
        // Flink counts in milliseconds.
        Unit::Micros(size) if size >= 1000 => {
            let millis = to.div_euclid(1000).checked_sub(from.div_euclid(1000)).ok_or_else(out)?;
            i32::try_from(millis / (size / 1000)).map_err(|_| out())
        }
        Unit::Micros(_) => i32::try_from(to.checked_sub(from).ok_or_else(out)?).map_err(|_| out()),
        Unit::Months(size) => Ok(months(from, to).ok_or_else(out)? / size),
    }
}

/// Whole months by date; where the dates fit exactly, the time of day counts, as Flink has it (also when it counts back).
fn months(from: i64, to: i64) -> Option<i32> {
    let (a, b) = (civil(from)?, civil(to)?);
    let count = months_of_dates(a.date(), b.date())?;
    let by = Months::new(count.unsigned_abs());
    let reached = if count >= 0 { a.date().checked_add_months(by)? } else { a.date().checked_sub_months(by)? };
    Some(if reached == b.date() && b.time() < a.time() { count - 1 } else { count })
}

fn months_of_dates(from: NaiveDate, to: NaiveDate) -> Option<i32> {
    if to < from {
        return months_of_dates(to, from).map(|n| -n);
    }
    let whole = (to.year() - from.year()) * 12 + to.month() as i32 - from.month() as i32;
    let reached = from.checked_add_months(Months::new(u32::try_from(whole).ok()?))?;
    Some(if reached > to { whole - 1 } else { whole })
}

/// `TO_TIMESTAMP_LTZ(number, 0 | 3)`: seconds or milliseconds since the epoch.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ToTimestampLtz {
    signature: Signature,
}

impl ToTimestampLtz {
    fn new() -> ToTimestampLtz {
        ToTimestampLtz { signature: Signature::exact(vec![DataType::Int64, DataType::Int64], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ToTimestampLtz {
    fn name(&self) -> &str {
        "to_timestamp_ltz"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(instant_millis())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (numbers, precisions) = (as_int64_array(&arrays[0])?, as_int64_array(&arrays[1])?);
        let instants = precisions.iter().enumerate().map(|(row, precision)| instant(numbers, row, precision));
        let instants = instants.collect::<datafusion_common::Result<TimestampMillisecondArray>>()?.with_timezone(UTC);
        Ok(ColumnarValue::Array(Arc::new(instants) as ArrayRef))
    }
}

fn instant(numbers: &Int64Array, row: usize, precision: Option<i64>) -> datafusion_common::Result<Option<i64>> {
    let Some(precision) = precision else { return Ok(None) };
    if numbers.is_null(row) {
        return Ok(None);
    }
    let number: i64 = numbers.value(row);
    let millis: Option<i64> = match precision {
        0 => number.checked_mul(1000),
        3 => Some(number),
        _ => return Err(DataFusionError::Execution(format!("to_timestamp_ltz: a precision of {precision} is neither 0 nor 3"))),
    };
    match millis {
        Some(millis) => Ok(Some(millis)),
        None => Err(DataFusionError::Execution(format!("to_timestamp_ltz: {number} seconds are out of range"))),
    }
}
