//! GROUP BY to an aggregate: windows by lineage, the key's distribution, the calls.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use datafusion_common::{DFSchema, FunctionalDependence};
use datafusion_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion_expr::{Expr, logical_plan};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;

use super::Operation;
use super::expression;
use super::fault::{Fault, Place, Result};
use super::lower::{Distribution, Edge, Lineage, Lowered, Lowering, Order, columns_of, place_in, unaliased};
use super::types::{sql_name, storable};
use crate::operator::aggregate::{AggregateCall, AggregateSpec, Function, Group, Phase, WindowColumn};
use crate::operator::exchange::ExchangeSpec;

impl Lowering<'_> {
    /// Without the parts of the group that the others determine and nobody reads: DataFusion adds to a GROUP BY all columns that it
    /// determines (`GROUP BY k` over rows that are grouped by `k`), and a column that the query does not name must neither fail
    /// a row nor make it move.
    pub(super) fn aggregate(&mut self, aggregate: &logical_plan::Aggregate, needed: &BTreeSet<usize>) -> Result<Lowered> {
        let implied = implied_groups(aggregate, needed)?;
        if implied.is_empty() {
            return self.whole_aggregate(aggregate, needed);
        }
        let groups = aggregate.group_expr.iter().enumerate().filter(|(n, _)| !implied.contains(n)).map(|(_, expr)| expr.clone());
        let (input, calls) = (Arc::clone(&aggregate.input), aggregate.aggr_expr.clone());
        let smaller = logical_plan::Aggregate::try_new(input, groups.collect(), calls)?;
        let kept: Vec<usize> = (0..aggregate.schema.fields().len()).filter(|n| !implied.contains(n)).collect();
        let needed = (0..kept.len()).filter(|n| needed.contains(&kept[*n])).collect();
        let lowered = self.whole_aggregate(&smaller, &needed)?;
        let mut columns = vec![None; aggregate.schema.fields().len()];
        let mut lineage = vec![Lineage::default(); columns.len()];
        for (n, (column, from)) in kept.into_iter().zip(lowered.columns.into_iter().zip(lowered.lineage)) {
            (columns[n], lineage[n]) = (column, from);
        }
        Ok(Lowered { columns, lineage, ..lowered })
    }

    fn whole_aggregate(&mut self, aggregate: &logical_plan::Aggregate, needed: &BTreeSet<usize>) -> Result<Lowered> {
        let plan = aggregate.input.schema();
        let width = aggregate.group_expr.len();
        let calls: Vec<(usize, &Expr)> =
            aggregate.aggr_expr.iter().enumerate().map(|(n, e)| (width + n, e)).filter(|(n, _)| needed.contains(n)).collect();
        let below = columns_of(aggregate.group_expr.iter().chain(calls.iter().map(|(_, e)| *e)), plan)?;
        let input = self.lower(&aggregate.input, &below)?;
        let place = aggregate.group_expr.first().and_then(place_in);
        let window = self.window_of(aggregate, &input, place)?;
        let moved = why_moved(aggregate, &input)?;

        let schema = self.schema(input.node);
        let mut groups = Vec::new();
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut lineage = vec![Lineage::default(); width + aggregate.aggr_expr.len()];
        let mut columns = vec![None; lineage.len()];
        for (n, expr) in aggregate.group_expr.iter().enumerate() {
            let name = aggregate.schema.field(n).name();
            let from = lineage_of(expr, plan, &input)?;
            let edge = from.as_ref().and_then(|l| l.window).filter(|_| window.is_some()).map(|w| w.edge);
            let (group, field) = group(expr, edge, plan, &input, &schema, name)?;
            let from = from.unwrap_or_default();
            let keys = groups.iter().filter(|group| matches!(group, Group::Expression(_))).count();
            // Behind a shuffle the group's expressions are what rows are distributed by.
            let key_part = match (&moved, &group) {
                (None, _) => from.key_part,
                (Some(_), Group::Expression(_)) => Some(keys),
                (Some(_), _) => None,
            };
            lineage[n] = Lineage { time: edge == Some(Edge::Time), window: None, group: Some(n), key_part, ..from };
            columns[n] = Some(n);
            groups.push(group);
            fields.push(Arc::new(field));
        }
        let mut specs = Vec::new();
        for (n, expr) in calls {
            let name = aggregate.schema.field(n).name();
            let output = aggregate.schema.field(n).data_type();
            let call = call(unaliased(expr), plan, &input, &schema, name, output).map_err(|f| f.at(place_in(expr)))?;
            columns[n] = Some(fields.len());
            fields.push(Arc::clone(&call.output));
            specs.push(call);
        }
        let output = Arc::new(Schema::new(fields));
        let updating = window.is_none();
        let spec = AggregateSpec {
            input: schema,
            window,
            groups,
            calls: specs,
            schema: Arc::clone(&output),
            order_free: input.order != Order::Offset || moved.is_some(),
            retracts: input.updating.is_some(),
            phase: Phase::Complete,
        };
        if let Some(call) = spec.calls.iter().find(|call| spec.retracts && matches!(call.function, Function::Other(_))) {
            return Err(Fault::new(format!("{} over rows that change is not in this release", call.function.name()))
                .at(place)
                .hint("use COUNT, SUM, AVG, MIN, MAX, or aggregate in windows first: a window's result does not change"));
        }
        let distribution = match &moved {
            None => input.distribution.clone(),
            Some(_) => Distribution::by_shuffle(&spec),
        };
        let node = match moved {
            None => self.add(Operation::Aggregate(spec), vec![input.node], output),
            Some(reason) => self.shuffled(spec, input.node, reason)?,
        };
        let updating = updating.then(|| self.nodes[node].id.clone());
        Ok(Lowered { node, columns, lineage, distribution, order: Order::Offset, updating, groups: width, windowed: None })
    }

    /// An aggregate whose groups have rows in several tasks. In windows it is split: the shuffle then carries one row per group and task.
    fn shuffled(&mut self, spec: AggregateSpec, input: usize, reason: String) -> Result<usize> {
        let output = Arc::clone(&spec.schema);
        let splits = spec.window.is_some() && !spec.calls.iter().any(|call| matches!(call.function, Function::Other(_)));
        if !splits {
            let keys = spec.groups.iter().filter_map(Group::expression).cloned().collect();
            let schema = self.schema(input);
            let exchange = self.exchange(input, ExchangeSpec { keys, refuse_late: false, bare_key: None, reason }, schema);
            return Ok(self.add(Operation::Aggregate(spec), vec![exchange], output));
        }
        let global = AggregateSpec { phase: Phase::Global, ..spec.clone() };
        let local = AggregateSpec { phase: Phase::Local, ..spec };
        let partial = local.partial_schema().map_err(|e| Fault::new(e.message))?;
        let node = self.add(Operation::Aggregate(local), vec![input], Arc::clone(&partial));
        // The keys are the first columns of a partial state.
        let keys = global.groups.iter().filter_map(Group::expression).count();
        let keys = (0..keys).map(|key| expression::column(&partial, key)).collect();
        let exchange = self.exchange(node, ExchangeSpec { keys, refuse_late: false, bare_key: None, reason }, partial);
        Ok(self.add(Operation::Aggregate(global), vec![exchange], output))
    }

    /// The window by which the rows are grouped; `None`: an updating aggregate.
    fn window_of(
        &self,
        aggregate: &logical_plan::Aggregate,
        input: &Lowered,
        place: Option<Place>,
    ) -> Result<Option<WindowColumn>> {
        let Some(node) = input.windowed else { return Ok(None) };
        let plan = aggregate.input.schema();
        for expr in &aggregate.group_expr {
            let Some(window) = lineage_of(expr, plan, input)?.and_then(|l| l.window) else { continue };
            let Expr::Column(column) = unaliased(expr) else { continue };
            let column = super::lower::at(input, plan.index_of_column(column)?)?;
            if window.node == node && window.edge != Edge::Time {
                return Ok(Some(WindowColumn { column, is_start: window.edge == Edge::Start, size_micros: window.size_micros }));
            }
        }
        Err(Fault::new("these rows lie in windows, and GROUP BY names no window")
            .at(place)
            .hint("GROUP BY window_start, window_end and the key's columns"))
    }
}

/// Why the group's rows must move to meet in one task; `None`: they lie in one partition.
fn why_moved(aggregate: &logical_plan::Aggregate, input: &Lowered) -> Result<Option<String>> {
    let plan = aggregate.input.schema();
    let mut held = BTreeSet::new();
    let mut shown = Vec::new();
    for expr in &aggregate.group_expr {
        held.extend(lineage_of(expr, plan, input)?.and_then(|l| l.key_part));
        shown.push(unaliased(expr).schema_name().to_string());
    }
    let what = if shown.is_empty() { "an aggregate over all rows".to_owned() } else { format!("GROUP BY {}", shown.join(", ")) };
    Ok(input.distribution.lacks(&held).map(|why| format!("{what}: {why}")))
}

/// Which parts of the group are columns that the others determine and that nobody reads.
fn implied_groups(aggregate: &logical_plan::Aggregate, needed: &BTreeSet<usize>) -> Result<BTreeSet<usize>> {
    let plan = aggregate.input.schema();
    let mut columns = Vec::new();
    for expr in &aggregate.group_expr {
        columns.push(match unaliased(expr) {
            Expr::Column(column) => Some(plan.index_of_column(column)?),
            _ => None,
        });
    }
    let mut implied = BTreeSet::new();
    for n in (0..columns.len()).rev().filter(|n| !needed.contains(n)) {
        let Some(column) = columns[n] else { continue };
        let others: BTreeSet<usize> = (0..columns.len())
            .filter(|other| *other != n && !implied.contains(other))
            .filter_map(|other| columns[other])
            .collect();
        let determines = |by: &FunctionalDependence| {
            by.target_indices.contains(&column) && by.source_indices.iter().all(|source| others.contains(source))
        };
        if plan.functional_dependencies().iter().any(determines) {
            implied.insert(n);
        }
    }
    Ok(implied)
}

/// What a plain column is; `None` for anything computed.
fn lineage_of(expr: &Expr, plan: &DFSchema, input: &Lowered) -> Result<Option<Lineage>> {
    match unaliased(expr) {
        Expr::Column(column) => Ok(Some(input.lineage[plan.index_of_column(column)?].clone())),
        _ => Ok(None),
    }
}

fn group(
    expr: &Expr,
    edge: Option<Edge>,
    plan: &DFSchema,
    input: &Lowered,
    schema: &Schema,
    name: &str,
) -> Result<(Group, Field)> {
    let physical = expression::physical(unaliased(expr), plan, schema, &input.columns).map_err(|f| f.at(place_in(expr)))?;
    let field = expression::field(&physical, schema, name)?;
    match edge {
        Some(Edge::Start) => return Ok((Group::WindowStart, field)),
        Some(Edge::End) => return Ok((Group::WindowEnd, field)),
        Some(Edge::Time) => return Ok((Group::WindowTime, field)),
        None => {}
    }
    if let DataType::Map(..) | DataType::Null | DataType::Union(..) | DataType::Interval(_) | DataType::Duration(_) =
        field.data_type()
    {
        return Err(
            Fault::new(format!("GROUP BY {}: a group can't be a {}", name, sql_name(field.data_type()))).at(place_in(expr))
        );
    }
    let plain = storable_text(field.data_type());
    let physical = expression::cast(physical, schema, &plain)?;
    let field = field.with_data_type(plain);
    Ok((Group::Expression(physical), field))
}

/// Views of texts become texts; integers keep their width.
fn storable_text(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::BinaryView | DataType::LargeBinary => storable(data_type),
        DataType::Timestamp(TimeUnit::Second, _) => storable(data_type),
        other => other.clone(),
    }
}

fn call(
    expr: &Expr,
    plan: &DFSchema,
    input: &Lowered,
    schema: &Arc<Schema>,
    name: &str,
    output: &DataType,
) -> Result<AggregateCall> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else {
        return Err(Fault::new(format!("{} is not an aggregate", expr.schema_name())));
    };
    let AggregateFunctionParams { args, distinct, filter, order_by, null_treatment } = params;
    let called = func.name().to_uppercase();
    if !order_by.is_empty() && func.name() != "percentile_cont" {
        return Err(Fault::new(format!("{called} with ORDER BY: not in this release"))
            .hint("FIRST_VALUE and LAST_VALUE go by event time"));
    }
    if null_treatment.is_some() {
        return Err(Fault::new("IGNORE NULLS and RESPECT NULLS: not in this release"));
    }
    let rows = func.name() == "count" && !distinct && super::function::counts_rows(args);
    let physical = |expr: &Expr| expression::physical(expr, plan, schema, &input.columns);
    let mut planned: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
    if !rows {
        for arg in args {
            let arg = physical(arg)?;
            let plain = storable_text(&arg.data_type(schema)?);
            planned.push(expression::cast(arg, schema, &plain)?);
        }
    }
    let filter = filter.as_ref().map(|f| physical(f)).transpose()?;
    let function = match func.name() {
        "count" => Function::Count,
        "sum" => Function::Sum,
        "min" => Function::Min,
        "max" => Function::Max,
        "avg" => Function::Avg,
        "stddev" => Function::StddevSamp,
        "stddev_pop" => Function::StddevPop,
        "var" => Function::VarSamp,
        "var_pop" => Function::VarPop,
        "first_value" => Function::FirstValue,
        "last_value" => Function::LastValue,
        "bool_and" => Function::BoolAnd,
        "bool_or" => Function::BoolOr,
        _ => {
            let mut builder = AggregateExprBuilder::new(Arc::clone(func), planned.clone()).schema(Arc::clone(schema)).alias(name);
            if *distinct {
                builder = builder.distinct();
            }
            if !order_by.is_empty() {
                return Err(Fault::new(format!("{called} WITHIN GROUP: not in this release")));
            }
            Function::Other(Arc::new(builder.build()?))
        }
    };
    let own = !matches!(function, Function::Other(_));
    if own && !rows && planned.len() != 1 {
        return Err(Fault::new(format!("{called} takes one argument, not {}", planned.len())));
    }
    // MIN and MAX of distinct values are those of all values; so are the first and the last, and truth.
    let distinct = *distinct
        && !matches!(
            function,
            Function::Min | Function::Max | Function::FirstValue | Function::LastValue | Function::BoolAnd | Function::BoolOr
        );
    if distinct && !matches!(function, Function::Count | Function::Other(_)) {
        return Err(Fault::new(format!("{called}(DISTINCT ...): not in this release"))
            .hint("COUNT(DISTINCT ...) is; else aggregate the results of a window grouped by the value too"));
    }
    let nullable = match function {
        Function::Count => false,
        // A group has at least one row; a deviation of one row is NULL.
        Function::Sum | Function::Min | Function::Max | Function::Avg | Function::FirstValue | Function::LastValue => {
            filter.is_some() || planned[0].nullable(schema)?
        }
        Function::BoolAnd | Function::BoolOr | Function::StddevPop | Function::VarPop => {
            filter.is_some() || planned[0].nullable(schema)?
        }
        _ => true,
    };
    // DISTINCT of a call that ignores it, and views of texts, are gone here.
    let output = storable_text(output);
    Ok(AggregateCall { function, args: planned, distinct, filter, output: Arc::new(Field::new(name, output, nullable)) })
}
