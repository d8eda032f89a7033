//! Queries to logical plans: names resolved, types brought together, functions with Flink's meaning.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, TableReference};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion_expr::utils::merge_schema;
use datafusion_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableSource, WindowUDF};
use datafusion_optimizer::analyzer::AnalyzerRule;
use datafusion_optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{self, Query};

use super::ddl::Name;
use super::fault::{Fault, Result};
use super::function::Functions;
use super::types::Types;
use super::window::Windows;

/// What names mean: streams, views, functions.
pub(super) struct Catalog {
    pub functions: Functions,
    streams: HashMap<String, SchemaRef>,
    views: HashMap<String, LogicalPlan>,
    sinks: Vec<String>,
    relations: Vec<Arc<dyn RelationPlanner>>,
    types: Arc<dyn TypePlanner>,
    config: ConfigOptions,
    pub allow_nondeterministic: bool,
}

impl Catalog {
    pub fn new(functions: Functions, allow_nondeterministic: bool) -> Catalog {
        Catalog {
            functions,
            streams: HashMap::new(),
            views: HashMap::new(),
            sinks: Vec::new(),
            relations: vec![Arc::new(Windows)],
            types: Arc::new(Types),
            config: ConfigOptions::default(),
            allow_nondeterministic,
        }
    }

    pub fn add_stream(&mut self, name: &str, schema: SchemaRef) {
        self.streams.insert(name.to_owned(), schema);
    }

    pub fn add_sink(&mut self, name: &str) {
        self.sinks.push(name.to_owned());
    }

    pub fn add_view(&mut self, name: &Name, columns: &[Name], query: &Query) -> Result<()> {
        // Checked here, so that its errors stand at the view; typed where it is used.
        let mut plan = self.named(query)?;
        self.typed(plan.clone())?;
        if !columns.is_empty() {
            let given = plan.schema().fields().len();
            if columns.len() != given {
                let text = format!("view \"{}\" names {} columns, its query has {given}", name.value, columns.len());
                return Err(Fault::new(text).at(columns[0].place.or(name.place)));
            }
            let renamed = plan.schema().columns().into_iter().zip(columns).map(|(c, name)| Expr::Column(c).alias(&name.value));
            plan = LogicalPlanBuilder::from(plan).project(renamed.collect::<Vec<_>>())?.build()?;
        }
        for (n, field) in plan.schema().fields().iter().enumerate() {
            if plan.schema().fields()[..n].iter().any(|f| f.name() == field.name()) {
                return Err(Fault::new(format!("view \"{}\" has two columns \"{}\"", name.value, field.name()))
                    .at(name.place)
                    .hint("give one of them another name with AS"));
            }
        }
        self.views.insert(name.value.clone(), plan);
        Ok(())
    }

    /// The plan of a query, typed.
    pub fn plan(&self, query: &Query) -> Result<LogicalPlan> {
        self.typed(self.named(query)?)
    }

    /// Names resolved.
    fn named(&self, query: &Query) -> Result<LogicalPlan> {
        super::refuse::query(query, &self.functions, self.allow_nondeterministic)?;
        let planner = SqlToRel::new_with_options(self, parser_options());
        let mut statement = ast::Statement::Query(Box::new(query.clone()));
        super::join::mark(&mut statement);
        super::spelling::planned(&mut statement)?;
        let plan = planner.sql_statement_to_plan_with_context(statement, &mut PlannerContext::new()).map_err(|e| {
            let fault = Fault::from(e).found(|name| super::spelling::place_of(query, name));
            let clause = super::spelling::clause_of(query, &fault.to_string());
            fault.at(clause)
        })?;
        self.check_volatile(&plan)?;
        Ok(plan)
    }

    fn typed(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let plan = plan.transform_up(rewrite).data()?;
        Ok(TypeCoercion::new().analyze(plan, &self.config)?)
    }

    /// An expression of DDL over a stream's columns.
    pub fn expression(&self, written: &ast::Expr, schema: &DFSchema) -> Result<Expr> {
        super::refuse::expression(written, &self.functions, self.allow_nondeterministic)?;
        let planner = SqlToRel::new_with_options(self, parser_options());
        let mut expr = written.clone();
        super::spelling::planned(&mut expr)?;
        let planned = planner
            .sql_to_expr(expr, schema, &mut PlannerContext::new())
            .map_err(|e| Fault::from(e).found(|name| super::spelling::place_of(written, name)))?;
        if let Some(name) = aggregate_in(&planned) {
            let fault = Fault::new(format!("{name} is an aggregate: it needs a query"));
            return Err(fault.at(super::spelling::place_of(written, &name)));
        }
        self.check_expr(&planned)?;
        super::expression::coerced(planned, schema)
    }

    fn check_volatile(&self, plan: &LogicalPlan) -> Result<()> {
        if self.allow_nondeterministic {
            return Ok(());
        }
        let mut found = Ok(());
        plan.apply(|node| {
            node.apply_expressions(|expr| {
                if found.is_ok() {
                    found = self.check_expr(expr);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        found
    }

    fn check_expr(&self, expr: &Expr) -> Result<()> {
        match super::function::volatile(expr) {
            Some(name) if !self.allow_nondeterministic => {
                Err(Fault::new(format!("function \"{name}\" gives another result in a replay"))
                    .hint("declare it immutable, or SET 'nondeterministic' = 'true'"))
            }
            _ => Ok(()),
        }
    }
}

fn aggregate_in(expr: &Expr) -> Option<String> {
    let mut found = None;
    let _ = expr.apply(|e| {
        if let Expr::AggregateFunction(call) = e {
            found = Some(call.func.name().to_uppercase());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn parser_options() -> ParserOptions {
    ParserOptions::new()
        .with_collect_spans(true)
        .with_map_string_types_to_utf8view(false)
        .with_parse_float_as_decimal(true)
        .with_enable_ident_normalization(false)
        .with_support_varchar_with_length(false)
}

/// Functions and types of one node; its output keeps its names.
fn rewrite(plan: LogicalPlan) -> datafusion_common::Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&plan.inputs());
    if let LogicalPlan::Union(union) = &plan {
        for (n, field) in union.schema.fields().iter().enumerate() {
            let types = union.inputs.iter().map(|input| Ok(input.schema().field(n).data_type().clone()));
            super::function::one_kind(&format!("column \"{}\" of the UNION ALL", field.name()), types.clone())?;
            let types: Vec<DataType> = types.collect::<datafusion_common::Result<_>>()?;
            if types.iter().any(DataType::is_floating) && types.iter().any(|t| matches!(t, DataType::Decimal128(..))) {
                let text = format!("column \"{}\" of the UNION ALL is a DOUBLE and a DECIMAL", field.name());
                return Err(Fault::new(text).hint("CAST one of them to the other's type").into());
            }
        }
    }
    let preserver = NamePreserver::new(&plan);
    let values = matches!(plan, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_));
    plan.map_expressions(|expr| {
        let name = preserver.save(&expr);
        let expr = super::function::typed(expr, &schema)?;
        let aggregate = matches!(expr.clone().unalias(), Expr::AggregateFunction(_));
        let expr = if values && !aggregate { super::function::plain_types(expr, &schema)? } else { expr };
        Ok(Transformed::yes(name.restore(expr)))
    })?
    .map_data(LogicalPlan::recompute_schema)
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> datafusion_common::Result<Arc<dyn TableSource>> {
        let TableReference::Bare { table } = &name else {
            let fault = Fault::new(format!("\"{name}\" has several parts: there are no catalogs or databases"));
            return Err(fault.hint("quote the name with backticks if it holds a dot").into());
        };
        if let Some(plan) = self.views.get(&**table) {
            let schema = Arc::clone(plan.schema().inner());
            return Ok(Arc::new(Relation { schema, plan: Some(plan.clone()) }));
        }
        if let Some(schema) = self.streams.get(&**table) {
            return Ok(Arc::new(Relation { schema: Arc::clone(schema), plan: None }));
        }
        if self.sinks.iter().any(|s| **s == **table) {
            let fault = Fault::new(format!("\"{table}\" is a sink: it is written, not read"));
            return Err(fault.hint("read its topic through a CREATE STREAM of its own, or share the query in a view").into());
        }
        let mut known: Vec<&str> = self.streams.keys().chain(self.views.keys()).map(String::as_str).collect();
        known.sort_unstable();
        let fault = Fault::new(format!("stream \"{table}\" is not known"));
        Err(match crate::error::nearest(table, known.iter().copied()) {
            Some(near) => fault.hint(format!("did you mean \"{near}\"?")),
            None => fault.hint("define it with CREATE STREAM before this statement"),
        }
        .into())
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.functions.planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relations
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::clone(&self.types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        if let Some(marker) = super::join::marker(name) {
            return Some(Arc::new(marker));
        }
        self.functions.scalars.get(&name.to_lowercase()).cloned()
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.functions.aggregates.get(&name.to_lowercase()).cloned()
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.config
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.scalars.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.functions.aggregates.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A stream, or a view with its plan.
struct Relation {
    schema: SchemaRef,
    plan: Option<LogicalPlan>,
}

impl fmt::Debug for Relation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Relation").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl TableSource for Relation {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        self.plan.as_ref().map(Cow::Borrowed)
    }
}
