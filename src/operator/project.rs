//! SELECT: computes columns.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion_physical_expr::PhysicalExpr;

use super::evaluate::{broken, columns_only, evaluate_columns, isolate, record_batch, reject};
use super::{Operator, Output};
use crate::error::{BadClass, Result};
use crate::record::Batch;

#[derive(Clone, Debug)]
pub struct ProjectSpec {
    /// One per column of `schema`, in order.
    pub exprs: Vec<Arc<dyn PhysicalExpr>>,
    pub schema: SchemaRef,
}

/// Runs a [`ProjectSpec`]. A row on which an expression fails is rejected alone.
pub struct Project {
    spec: ProjectSpec,
    /// Set when every expression is a plain column: nothing is evaluated then.
    columns: Option<Vec<usize>>,
}

impl Project {
    pub fn new(spec: ProjectSpec) -> Project {
        let columns = columns_only(&spec.exprs);
        Project { spec, columns }
    }
}

impl Operator for Project {
    fn push(&mut self, _port: usize, mut batch: Batch, out: &mut Output) -> Result<()> {
        let rows = match self.selected(&batch.rows) {
            Some(rows) => rows,
            None => {
                let work = |rows: &RecordBatch| evaluate_columns(&self.spec.exprs, &self.spec.schema, rows);
                let found = isolate(&batch.rows, work)?;
                if let Some(keep) = found.keep {
                    reject(&batch, &found.failures, BadClass::Expression, out);
                    batch = batch.filter(&keep).map_err(|e| broken("filter", e))?;
                }
                found.value
            }
        };
        if rows.num_rows() > 0 {
            out.batches.push(Batch { rows, ..batch });
        }
        Ok(())
    }
}

impl Project {
    /// `None` too where a NULL stands in a column that may not be null: the general way then finds the rows.
    fn selected(&self, rows: &RecordBatch) -> Option<RecordBatch> {
        let columns = self.columns.as_ref()?.iter().map(|c| rows.column(*c).clone()).collect();
        record_batch(&self.spec.schema, columns, rows.num_rows()).ok()
    }
}
