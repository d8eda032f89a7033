//! SUM and AVG with Flink's types; the operator computes them.

use arrow::datatypes::DataType;
use datafusion_common::DataFusionError;
use datafusion_expr::function::AccumulatorArgs;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility};

use crate::topology::fault::{Fault, Result};
use crate::topology::types::sql_name;

pub(super) fn functions() -> [AggregateUDF; 2] {
    ["sum", "avg"]
        .map(|name| AggregateUDF::from(FlinkAggregate { name, signature: Signature::user_defined(Volatility::Immutable) }))
}

/// SUM and AVG of a number have its type; of a decimal 38 digits, and AVG of one at least 6 after the point.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FlinkAggregate {
    name: &'static str,
    signature: Signature,
}

impl AggregateUDFImpl for FlinkAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> datafusion_common::Result<Vec<DataType>> {
        // What is refused is refused by `check`, which knows the place: here it only must have a type.
        let [argument] = types else { return Ok(types.to_vec()) };
        Ok(vec![match argument {
            DataType::UInt8 | DataType::UInt16 => DataType::Int32,
            DataType::Null | DataType::UInt32 | DataType::UInt64 => DataType::Int64,
            DataType::Float16 => DataType::Float32,
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
            other => other.clone(),
        }])
    }

    fn return_type(&self, types: &[DataType]) -> datafusion_common::Result<DataType> {
        let scale_of = |scale: i8| if self.name == "avg" { scale.max(6) } else { scale };
        Ok(match self.coerce_types(types)?.first() {
            Some(DataType::Decimal128(_, s)) => DataType::Decimal128(38, scale_of(*s)),
            Some(DataType::Decimal256(_, s)) => DataType::Decimal256(76, scale_of(*s)),
            Some(other) => other.clone(),
            None => DataType::Int64,
        })
    }

    fn accumulator(&self, _: AccumulatorArgs) -> datafusion_common::Result<Box<dyn Accumulator>> {
        Err(DataFusionError::NotImplemented("the operator computes it".into()))
    }
}

/// Refuses arguments that Flink does not take, or of which it makes something of its own.
pub(super) fn check(name: &str, types: &[DataType]) -> Result<()> {
    let shown = name.to_uppercase();
    if let ("min" | "max", [DataType::Struct(_) | DataType::List(_) | DataType::Map(..)]) = (name, types) {
        return Err(Fault::new(format!("{shown} of {} is not in this release", sql_name(&types[0]))).hint("take it of a part"));
    }
    let deviation = matches!(name, "stddev" | "stddev_pop" | "var" | "var_pop");
    if !deviation && !["sum", "avg"].contains(&name) {
        return Ok(());
    }
    let [argument] = types else { return Err(Fault::new(format!("{shown} takes one argument, not {}", types.len()))) };
    if !argument.is_numeric() && !argument.is_null() {
        return Err(Fault::new(format!("{shown} of {} is not known: it takes numbers", sql_name(argument))));
    }
    if deviation && !argument.is_floating() && !argument.is_null() {
        // Flink computes it in whole numbers, which no one wants.
        return Err(Fault::new(format!("{shown} of {} is not in this release", sql_name(argument)))
            .hint(format!("write {shown}(CAST(x AS DOUBLE))")));
    }
    Ok(())
}

/// Whether the argument of COUNT is a literal that is never NULL: `COUNT(*)`, `COUNT(1)`.
pub(in crate::topology) fn counts_rows(args: &[Expr]) -> bool {
    match args {
        [] => true,
        [Expr::Literal(value, _)] => !value.is_null(),
        _ => false,
    }
}
