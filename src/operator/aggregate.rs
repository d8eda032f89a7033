//! Windowed and updating aggregates: hash aggregation by key, state as columns.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

/// `GROUP BY` as planned.
///
/// With a window: rows are refused by their row watermark (a row all of whose windows refuse it is late), results are emitted
/// once, when the edge watermark reaches the window's end, ordered by (window end, key). Without: results are updates, one
/// retraction and one insertion (weights) per touched key and commit, emitted at `flush`.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    pub input: SchemaRef,
    pub window: Option<WindowColumn>,
    /// In GROUP BY order: the first columns of the output.
    pub groups: Vec<Group>,
    /// The columns of the output after the groups.
    pub calls: Vec<AggregateCall>,
    pub schema: SchemaRef,
    /// Rows of one group may come from several source partitions (a union, a shuffle) or be retracted: sums of doubles then use
    /// an exact accumulator.
    pub order_free: bool,
}

/// Where the window of a row stands in the aggregate's input.
#[derive(Clone, Debug)]
pub struct WindowColumn {
    /// A `window_start` (`is_start`) or `window_end` column, `Timestamp(Millisecond, _)`.
    pub column: usize,
    pub is_start: bool,
    pub size_micros: i64,
}

/// One column of GROUP BY.
#[derive(Clone, Debug)]
pub enum Group {
    WindowStart,
    WindowEnd,
    /// `window_end` - 1 ms.
    WindowTime,
    Expression(Arc<dyn PhysicalExpr>),
}

#[derive(Clone, Debug)]
pub struct AggregateCall {
    pub function: Function,
    /// COUNT(*) has none.
    pub args: Vec<Arc<dyn PhysicalExpr>>,
    pub distinct: bool,
    /// FILTER (WHERE ...).
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Name and type of the result, as SQL states it: SUM of integers is Int64 (checked), AVG of integers and doubles Float64.
    pub output: FieldRef,
}

#[derive(Clone, Debug)]
pub enum Function {
    Count,
    /// Integers add in i128 and are range-checked when read; decimals in their own (widened) precision; floats in Float64.
    Sum,
    Min,
    Max,
    Avg,
    StddevPop,
    StddevSamp,
    VarPop,
    VarSamp,
    /// By event time, then source's place, partition, offset.
    FirstValue,
    LastValue,
    BoolAnd,
    BoolOr,
    /// Any other aggregate of the library: one accumulator per group (slower).
    Other(Arc<AggregateFunctionExpr>),
}
