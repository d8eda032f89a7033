//! Arithmetic of decimals with Flink's precision and scale, rounded half up. What does not fit is an error on its row, never NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Decimal128Type, i256};
use arrow::error::ArrowError;
use datafusion_common::DataFusionError;
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::topology::fault::Fault;

/// Flink keeps this many digits after the point when a result would have more than 38 digits.
const SCALE_KEPT: i32 = 6;
const DIGITS_MAX: i32 = 38;

/// `left op right`, both exact numbers, at least one of them a decimal.
pub(super) fn arithmetic(op: Operator, left: Expr, right: Expr) -> Option<Expr> {
    let op = match op {
        Operator::Plus => Op::Add,
        Operator::Minus => Op::Subtract,
        Operator::Multiply => Op::Multiply,
        Operator::Divide => Op::Divide,
        Operator::Modulo => Op::Modulo,
        _ => return None,
    };
    let udf = Arc::new(ScalarUDF::from(Arithmetic { op, signature: Signature::user_defined(Volatility::Immutable) }));
    Some(Expr::ScalarFunction(ScalarFunction { func: udf, args: vec![left, right] }))
}

/// The decimal that holds every number of an exact type; `None` for other types, and for decimals that Flink does not have.
pub(super) fn decimal_of(data_type: &DataType) -> Option<(u8, i8)> {
    Some(match data_type {
        DataType::Int8 | DataType::UInt8 => (3, 0),
        DataType::Int16 | DataType::UInt16 => (5, 0),
        DataType::Int32 | DataType::UInt32 => (10, 0),
        DataType::Int64 | DataType::UInt64 => (19, 0),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) => (*p, *s),
        _ => return None,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Arithmetic {
    op: Op,
    signature: Signature,
}

impl Op {
    /// Precision and scale of the result, as `LogicalTypeMerging` of Flink has them.
    fn result(self, (p1, s1): (u8, i8), (p2, s2): (u8, i8)) -> (u8, i8) {
        let (p1, s1, p2, s2) = (i32::from(p1), i32::from(s1), i32::from(p2), i32::from(s2));
        let (precision, scale) = match self {
            Op::Add | Op::Subtract => ((p1 - s1).max(p2 - s2) + s1.max(s2) + 1, s1.max(s2)),
            Op::Multiply => (p1 + p2 + 1, s1 + s2),
            Op::Divide => {
                let scale = SCALE_KEPT.max(s1 + p2 + 1);
                (p1 - s1 + s2 + scale, scale)
            }
            Op::Modulo => ((p1 - s1).min(p2 - s2) + s1.max(s2), s1.max(s2)),
        };
        let (precision, scale) = if precision <= DIGITS_MAX {
            (precision.max(1), scale)
        } else {
            (DIGITS_MAX, (DIGITS_MAX - (precision - scale)).max(scale.min(SCALE_KEPT)))
        };
        (precision as u8, scale as i8)
    }

    /// The exact result and its scale; of a division, rounded to `scale`.
    fn exact(self, (a, s1): (i256, i8), (b, s2): (i256, i8), scale: i8) -> Result<(i256, i8), ArrowError> {
        let common = s1.max(s2);
        Ok(match self {
            Op::Add => (times(a, common - s1)?.checked_add(times(b, common - s2)?).ok_or_else(overflow)?, common),
            Op::Subtract => (times(a, common - s1)?.checked_sub(times(b, common - s2)?).ok_or_else(overflow)?, common),
            Op::Multiply => (a.checked_mul(b).ok_or_else(overflow)?, s1 + s2),
            Op::Divide | Op::Modulo if b == i256::ZERO => return Err(ArrowError::DivideByZero),
            Op::Divide => {
                let shift = i16::from(scale) + i16::from(s2) - i16::from(s1);
                let (a, b) = match i8::try_from(shift.abs()) {
                    Ok(by) if shift >= 0 => (times(a, by)?, b),
                    Ok(by) => (a, times(b, by)?),
                    Err(_) => return Err(overflow()),
                };
                (divided(a, b), scale)
            }
            Op::Modulo => (times(a, common - s1)?.checked_rem(times(b, common - s2)?).ok_or_else(overflow)?, common),
        })
    }
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        match self.op {
            Op::Add => "decimal_add",
            Op::Subtract => "decimal_subtract",
            Op::Multiply => "decimal_multiply",
            Op::Divide => "decimal_divide",
            Op::Modulo => "decimal_modulo",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> datafusion_common::Result<Vec<DataType>> {
        let known = types.iter().find_map(decimal_of).unwrap_or((10, 0));
        let decimals = types.iter().map(|t| decimal_of(t).unwrap_or(known));
        Ok(decimals.map(|(p, s)| DataType::Decimal128(p, s)).collect())
    }

    fn return_type(&self, types: &[DataType]) -> datafusion_common::Result<DataType> {
        let [left, right] = types else { return Err(Fault::new("arithmetic has two operands").into()) };
        let known = decimal_of(left).or(decimal_of(right)).unwrap_or((10, 0));
        let (p, s) = self.op.result(decimal_of(left).unwrap_or(known), decimal_of(right).unwrap_or(known));
        Ok(DataType::Decimal128(p, s))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let DataType::Decimal128(precision, scale) = *args.return_type() else {
            return Err(Fault::new("a decimal was expected").into());
        };
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let result = compute(self.op, &arrays[0], &arrays[1], precision, scale)?;
        Ok(ColumnarValue::Array(result))
    }
}

fn compute(op: Op, left: &ArrayRef, right: &ArrayRef, precision: u8, scale: i8) -> Result<ArrayRef, DataFusionError> {
    // Where nothing is cut and nothing can be too long, the library's kernels give the same.
    if i32::from(precision) < DIGITS_MAX {
        match op {
            Op::Add => return Ok(numeric::add(left, right)?),
            Op::Subtract => return Ok(numeric::sub(left, right)?),
            Op::Multiply => return Ok(numeric::mul(left, right)?),
            Op::Divide | Op::Modulo => {}
        }
    }
    let (a, b) = (left.as_primitive::<Decimal128Type>(), right.as_primitive::<Decimal128Type>());
    let row = |n: usize| {
        if a.is_null(n) || b.is_null(n) {
            return Ok(None);
        }
        let exact = op.exact((a.value(n).into(), a.scale()), (b.value(n).into(), b.scale()), scale)?;
        fitted(exact, precision, scale).map(Some)
    };
    let values = (0..a.len()).map(row).collect::<Result<Decimal128Array, ArrowError>>()?;
    Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
}

/// The number with another scale, rounded half up.
pub(super) fn fitted((value, from): (i256, i8), precision: u8, scale: i8) -> Result<i128, ArrowError> {
    let value = if scale >= from { times(value, scale - from)? } else { divided(value, times(i256::ONE, from - scale)?) };
    let limit = times(i256::ONE, precision as i8)?;
    match value.to_i128() {
        Some(small) if value.wrapping_abs() < limit => Ok(small),
        _ => Err(overflow()),
    }
}

fn times(value: i256, power: i8) -> Result<i256, ArrowError> {
    let factor = i256::from_i128(10).checked_pow(power.max(0) as u32).ok_or_else(overflow)?;
    value.checked_mul(factor).ok_or_else(overflow)
}

/// Half up: away from zero.
fn divided(a: i256, b: i256) -> i256 {
    let (quotient, rest) = (a.wrapping_div(b), a.wrapping_rem(b).wrapping_abs());
    let size = b.wrapping_abs();
    if rest < size.wrapping_sub(rest) {
        return quotient;
    }
    let step = if a.is_negative() == b.is_negative() { i256::ONE } else { i256::MINUS_ONE };
    quotient.wrapping_add(step)
}

fn overflow() -> ArrowError {
    ArrowError::ArithmeticOverflow("overflow of a decimal".into())
}
