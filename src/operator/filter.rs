//! WHERE and HAVING: keeps the rows for which every conjunct is true.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion_physical_expr::PhysicalExpr;

use super::evaluate::{broken, evaluate_predicate, isolate, reject};
use super::{Operator, Output};
use crate::error::{BadClass, Result};
use crate::record::Batch;

#[derive(Clone, Debug)]
pub struct FilterSpec {
    /// Evaluated one after another, each on what the former left: `b <> 0 AND a / b > 1` never divides by zero.
    pub conjuncts: Vec<Arc<dyn PhysicalExpr>>,
}

/// Runs a [`FilterSpec`]. A conjunct that is NULL drops the row; one that fails rejects it.
pub struct Filter {
    spec: FilterSpec,
}

impl Filter {
    pub fn new(spec: FilterSpec) -> Filter {
        Filter { spec }
    }
}

impl Operator for Filter {
    fn push(&mut self, _port: usize, mut batch: Batch, out: &mut Output) -> Result<()> {
        for conjunct in &self.spec.conjuncts {
            if batch.num_rows() == 0 {
                return Ok(());
            }
            let found = isolate(&batch.rows, |rows: &RecordBatch| evaluate_predicate(conjunct, rows))?;
            if let Some(keep) = found.keep {
                reject(&batch, &found.failures, BadClass::Expression, out);
                batch = batch.filter(&keep).map_err(|e| broken("filter", e))?;
            }
            if found.value.true_count() < batch.num_rows() {
                batch = batch.filter(&found.value).map_err(|e| broken("filter", e))?;
            }
        }
        if batch.num_rows() > 0 {
            out.batches.push(batch);
        }
        Ok(())
    }
}
