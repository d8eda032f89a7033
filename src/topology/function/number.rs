//! ROUND, FLOOR and CEIL with Flink's types.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, i256};
use arrow::error::ArrowError;
use datafusion_common::{DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::decimal::fitted;
use crate::topology::fault::{Fault, Result};
use crate::topology::types::sql_name;

/// How a number loses digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rounding {
    /// Half up, to so many digits after the point (before it, below zero).
    To(i32),
    Down,
    Up,
}

/// The call that rounds; `None`: the library's is Flink's (FLOOR and CEIL of doubles).
pub(super) fn round(rounding: Rounding, value: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
    let held = value.get_type(schema)?;
    let wants = match held {
        DataType::Decimal128(..) => true,
        DataType::Float32 | DataType::Float64 => matches!(rounding, Rounding::To(_)),
        _ if held.is_integer() => match rounding {
            Rounding::To(digits) if digits < 0 => true,
            _ => return Ok(Some(value.clone())),
        },
        DataType::Null => return Ok(Some(value.clone())),
        _ => return Err(Fault::new(format!("ROUND, FLOOR and CEIL take numbers, not {}", sql_name(&held)))),
    };
    if !wants {
        return Ok(None);
    }
    let call = Round { rounding, signature: Signature::any(1, Volatility::Immutable) };
    Ok(Some(Expr::ScalarFunction(ScalarFunction { func: Arc::new(ScalarUDF::from(call)), args: vec![value.clone()] })))
}

/// The second argument of ROUND.
pub(super) fn digits(args: &[Expr]) -> Result<i32> {
    match args {
        [] => Ok(0),
        [Expr::Literal(value, _)] => match value.cast_to(&DataType::Int32) {
            Ok(ScalarValue::Int32(Some(digits))) if digits.abs() <= 400 => Ok(digits),
            _ => Err(Fault::new(format!("ROUND to {value} digits is not known"))),
        },
        _ => Err(Fault::new("ROUND: the number of digits must be a constant").hint("write ROUND(x, 2)")),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Round {
    rounding: Rounding,
    signature: Signature,
}

impl ScalarUDFImpl for Round {
    fn name(&self) -> &str {
        match self.rounding {
            Rounding::To(_) => "round",
            Rounding::Down => "floor",
            Rounding::Up => "ceil",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(match (&types[0], self.rounding) {
            (DataType::Decimal128(p, s), Rounding::To(digits)) if digits >= i32::from(*s) => DataType::Decimal128(*p, *s),
            (DataType::Decimal128(p, s), Rounding::To(digits)) => {
                let whole = (i32::from(*p) - i32::from(*s) + 1 + digits.max(0)).min(38);
                DataType::Decimal128(whole as u8, digits.max(0) as i8)
            }
            (DataType::Decimal128(p, _), _) => DataType::Decimal128(*p, 0),
            (other, _) => other.clone(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let values = args.args[0].to_array(args.number_rows)?;
        let result: ArrayRef = match (values.data_type(), args.return_type()) {
            (DataType::Decimal128(_, from), DataType::Decimal128(precision, scale)) => {
                let decimals = values.as_primitive::<Decimal128Type>();
                let round = |value: Option<i128>| value.map(|v| self.decimal(v, *from, *precision, *scale)).transpose();
                let rounded = decimals.iter().map(round).collect::<Result<Decimal128Array, ArrowError>>()?;
                Arc::new(rounded.with_precision_and_scale(*precision, *scale)?)
            }
            (held, _) if held.is_integer() => {
                let decimals = cast(&values, &DataType::Decimal128(19, 0))?;
                let decimals = decimals.as_primitive::<Decimal128Type>();
                let round = |value: Option<i128>| value.map(|v| self.decimal(v, 0, 38, 0)).transpose();
                let rounded: ArrayRef = Arc::new(
                    decimals
                        .iter()
                        .map(round)
                        .collect::<Result<Decimal128Array, ArrowError>>()?
                        .with_precision_and_scale(38, 0)?,
                );
                cast(&rounded, held)?
            }
            (held, _) => {
                let numbers = cast(&values, &DataType::Float64)?;
                let Rounding::To(digits) = self.rounding else { return Err(Fault::new("the library rounds doubles").into()) };
                let round = |number: Option<f64>| match number {
                    None => Ok(None),
                    Some(number) => super::cast::rounded(number, digits)
                        .map(Some)
                        .ok_or_else(|| DataFusionError::Execution(format!("ROUND of {number}"))),
                };
                let numbers = numbers.as_primitive::<Float64Type>();
                let rounded: ArrayRef = Arc::new(numbers.iter().map(round).collect::<Result<Float64Array, DataFusionError>>()?);
                cast(&rounded, held)?
            }
        };
        Ok(ColumnarValue::Array(result))
    }
}

impl Round {
    fn decimal(&self, value: i128, from: i8, precision: u8, scale: i8) -> Result<i128, ArrowError> {
        let unit = 10_i128.pow(from.max(0) as u32);
        match self.rounding {
            Rounding::Down => Ok(value.div_euclid(unit)),
            Rounding::Up => Ok(-(-value).div_euclid(unit)),
            Rounding::To(digits) if digits >= 0 => fitted((i256::from_i128(value), from), precision, scale),
            Rounding::To(digits) if digits < -38 => Ok(0),
            Rounding::To(digits) => {
                // First cut to tens, hundreds ..., then back.
                let tens = fitted((i256::from_i128(value), (i32::from(from) - digits) as i8), 38, 0)?;
                fitted((i256::from_i128(tens), digits as i8), precision, 0)
            }
        }
    }
}
