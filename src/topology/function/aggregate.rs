//! SUM and AVG with Flink's types; the operator computes them.

use arrow::datatypes::DataType;
use datafusion_common::DataFusionError;
use datafusion_expr::function::AccumulatorArgs;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility};

use crate::topology::fault::Fault;
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
        let shown = self.name.to_uppercase();
        let [argument] = types else { return Err(Fault::new(format!("{shown} takes one argument, not {}", types.len())).into()) };
        Ok(vec![match argument {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => argument.clone(),
            DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) | DataType::Decimal256(..) => argument.clone(),
            DataType::UInt8 | DataType::UInt16 => DataType::Int32,
            DataType::Null | DataType::UInt32 | DataType::UInt64 => DataType::Int64,
            DataType::Float16 => DataType::Float32,
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
            other => return Err(Fault::new(format!("{shown} of {} is not known: it takes numbers", sql_name(other))).into()),
        }])
    }

    fn return_type(&self, types: &[DataType]) -> datafusion_common::Result<DataType> {
        let scale_of = |scale: i8| if self.name == "avg" { scale.max(6) } else { scale };
        Ok(match self.coerce_types(types)?.swap_remove(0) {
            DataType::Decimal128(_, s) => DataType::Decimal128(38, scale_of(s)),
            DataType::Decimal256(_, s) => DataType::Decimal256(76, scale_of(s)),
            other => other,
        })
    }

    fn accumulator(&self, _: AccumulatorArgs) -> datafusion_common::Result<Box<dyn Accumulator>> {
        Err(DataFusionError::NotImplemented("the operator computes it".into()))
    }
}

/// Whether the argument of COUNT is a literal that is never NULL: `COUNT(*)`, `COUNT(1)`.
pub(in crate::topology) fn counts_rows(args: &[Expr]) -> bool {
    match args {
        [] => true,
        [Expr::Literal(value, _)] => !value.is_null(),
        _ => false,
    }
}
