//! WHERE and HAVING: keeps the rows for which every conjunct is true.

use std::sync::Arc;

use datafusion_physical_expr::PhysicalExpr;

#[derive(Clone, Debug)]
pub struct FilterSpec {
    /// Evaluated one after another, each on what the former left: `b <> 0 AND a / b > 1` never divides by zero.
    pub conjuncts: Vec<Arc<dyn PhysicalExpr>>,
}
