//! SELECT: computes columns.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion_physical_expr::PhysicalExpr;

#[derive(Clone, Debug)]
pub struct ProjectSpec {
    /// One per column of `schema`, in order.
    pub exprs: Vec<Arc<dyn PhysicalExpr>>,
    pub schema: SchemaRef,
}
