//! Logical plans to nodes: columns pruned, and for each relation what is known of its rows: key, time, order, windows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion_common::DFSchema;
use datafusion_expr::{Expr, LogicalPlan, logical_plan};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;

use super::expression;
use super::fault::{Fault, Place, Result, list};
use super::source::Stream;
use super::types::sql_name;
use super::window::Window;
use super::{Node, Operation};
use crate::codec::KeyFormat;
use crate::contract::Contract;
use crate::operator::aggregate::{AggregateSpec, Group};
use crate::operator::assign::AssignSpec;
use crate::operator::exchange::ExchangeSpec;
use crate::operator::filter::FilterSpec;
use crate::operator::project::ProjectSpec;
use crate::operator::table::TableSpec;
use crate::record::Topic;

/// Which edge of which window a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowColumn {
    pub edge: Edge,
    /// The node that assigned it.
    pub node: usize,
    pub size_micros: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Start,
    End,
    Time,
}

/// Where a column comes from, as long as it passes unchanged.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage {
    /// The part of the record's key that it holds.
    pub key_part: Option<usize>,
    /// It is the event time of its row.
    pub time: bool,
    pub window: Option<WindowColumn>,
    /// Its field in a contract.
    pub origin: Option<(Arc<Contract>, usize)>,
    /// The place in the GROUP BY of the last aggregate.
    pub group: Option<usize>,
}

/// How rows of equal keys lie.
#[derive(Clone, Debug)]
pub(super) enum Distribution {
    /// By so many columns: those with `key_part` 0, 1, ...
    Parts { names: Vec<String>, topics: Vec<String>, bare_or_trusted: bool, format: Option<KeyFormat> },
    /// Why nothing is known, as a hint.
    Unknown(String),
}

impl Distribution {
    /// As rows lie behind the shuffle of an aggregate.
    pub fn by_shuffle(spec: &AggregateSpec) -> Distribution {
        let groups = spec.groups.iter().zip(spec.schema.fields());
        let keys = groups.filter(|(group, _)| matches!(group, Group::Expression(_)));
        let names: Vec<String> = keys.map(|(_, field)| field.name().clone()).collect();
        Distribution::shuffled(names)
    }

    /// As rows lie behind a shuffle by columns of these names: no topic of the user's has them there.
    pub fn shuffled(names: Vec<String>) -> Distribution {
        Distribution::Parts { names, topics: Vec::new(), bare_or_trusted: false, format: None }
    }

    /// Why rows that are equal in the given parts of the key may lie in different partitions; `None`: they do not.
    pub fn lacks(&self, held: &BTreeSet<usize>) -> Option<String> {
        match self {
            Distribution::Unknown(why) => Some(why.clone()),
            Distribution::Parts { names, topics, .. } => {
                let missing = (0..names.len()).any(|part| !held.contains(&part));
                missing.then(|| match topics.as_slice() {
                    [] => format!("rows are distributed by {}", list(names)),
                    [_] => format!("topic {} is distributed by {}", list(topics), list(names)),
                    _ => format!("topics {} are distributed by {}", list(topics), list(names)),
                })
            }
        }
    }
}

/// In which order rows of one key come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// From one source partition, by offset; or from one operator, in its order.
    Offset,
    /// From one source partition, by event time: behind a join.
    Time,
    /// From several inputs, as these interleave.
    Unknown,
}

/// A relation as nodes.
#[derive(Clone, Debug)]
pub(super) struct Lowered {
    pub node: usize,
    /// For each column of the plan its place in the node's schema; `None`: pruned.
    pub columns: Vec<Option<usize>>,
    pub lineage: Vec<Lineage>,
    pub distribution: Distribution,
    pub order: Order,
    /// The aggregate whose results change.
    pub updating: Option<String>,
    /// Columns of the GROUP BY of that aggregate.
    pub groups: usize,
    /// Rows lie in windows of this node and are not grouped yet.
    pub windowed: Option<usize>,
}

/// One stream and, once it is known what is used, its node.
pub(super) struct Input<'a> {
    pub stream: &'a Stream,
    /// Columns read by any statement.
    pub used: BTreeSet<usize>,
    pub node: Option<usize>,
    /// Of a table that is read as a relation: the node that tells the changes of its rows.
    pub changes: Option<usize>,
    pub schema: SchemaRef,
    /// For each column of the stream its place in `schema`.
    pub places: Vec<Option<usize>>,
}

/// Collects nodes over all statements.
pub(super) struct Lowering<'a> {
    pub inputs: BTreeMap<String, Input<'a>>,
    pub nodes: Vec<Node>,
    /// The statement's part of node ids.
    pub prefix: String,
    counts: BTreeMap<&'static str, usize>,
    /// Of topics, where they are known.
    partitions: &'a BTreeMap<Topic, i32>,
    /// Topics that would have met, had they as many partitions as one another.
    pub uneven: BTreeSet<Vec<String>>,
}

impl<'a> Lowering<'a> {
    pub fn new(inputs: BTreeMap<String, Input<'a>>, partitions: &'a BTreeMap<Topic, i32>) -> Lowering<'a> {
        Lowering {
            inputs,
            nodes: Vec::new(),
            prefix: String::new(),
            counts: BTreeMap::new(),
            partitions,
            uneven: BTreeSet::new(),
        }
    }

    /// Whether topics are not known to have unequal numbers of partitions.
    pub fn even(&mut self, topics: &[String]) -> bool {
        let mut counts = topics.iter().filter_map(|topic| self.partitions.get(topic.as_str()));
        let first = counts.next();
        let even = counts.all(|count| Some(count) == first);
        if !even {
            self.uneven.insert(topics.to_vec());
        }
        even
    }

    /// A new INSERT begins.
    pub fn begin(&mut self, prefix: String) {
        self.prefix = prefix;
        self.counts.clear();
    }

    pub fn add(&mut self, operation: Operation, inputs: Vec<usize>, schema: SchemaRef) -> usize {
        let kind = operation.kind();
        let count = self.counts.entry(kind).or_insert(0);
        *count += 1;
        // The number comes from the order in the SQL alone.
        let id = if *count == 1 { format!("{}.{kind}", self.prefix) } else { format!("{}.{kind}{count}", self.prefix) };
        self.nodes.push(Node { id, operation, inputs, schema });
        self.nodes.len() - 1
    }

    /// A shuffle of a node's rows.
    pub fn exchange(&mut self, input: usize, spec: ExchangeSpec, schema: SchemaRef) -> usize {
        self.add(Operation::Exchange(spec), vec![input], schema)
    }

    pub fn schema(&self, node: usize) -> SchemaRef {
        Arc::clone(&self.nodes[node].schema)
    }

    /// The nodes of a plan of which the columns `needed` are used.
    pub fn lower(&mut self, plan: &LogicalPlan, needed: &BTreeSet<usize>) -> Result<Lowered> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan, needed),
            LogicalPlan::SubqueryAlias(alias) => self.lower(&alias.input, needed),
            LogicalPlan::Projection(projection) => self.project(projection, needed),
            LogicalPlan::Filter(filter) => self.filter(filter, needed),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate, needed),
            LogicalPlan::Union(union) => self.union(union, needed),
            LogicalPlan::Join(join) => self.join(join, needed),
            LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<Window>() {
                Some(window) => self.assign(window, needed),
                None => Err(Fault::new(format!("{} is not in this release", extension.node.name()))),
            },
            other => {
                let name = other.display().to_string();
                let name = name.split([':', ' ']).next().unwrap_or_default().to_owned();
                Err(Fault::new(format!("{name} is not in this release")))
            }
        }
    }

    fn scan(&mut self, scan: &logical_plan::TableScan, needed: &BTreeSet<usize>) -> Result<Lowered> {
        let name = scan.table_name.table().to_owned();
        let lowered = self.source(&name, needed)?;
        if !self.inputs[&name].stream.table {
            return Ok(lowered);
        }
        // As a relation a table is its current rows: what its records change of them.
        let schema = self.schema(lowered.node);
        let input = &self.inputs[&name];
        let keys: Vec<usize> = input.stream.key_columns.clone();
        let node = match input.changes {
            Some(node) => node,
            None => {
                let key_columns = keys.iter().map(|key| at(&lowered, *key)).collect::<Result<_>>()?;
                let spec = TableSpec { key_columns, schema: Arc::clone(&schema) };
                let id = format!("{name}.table");
                self.nodes.push(Node { id, operation: Operation::Table(spec), inputs: vec![lowered.node], schema });
                self.nodes.len() - 1
            }
        };
        if let Some(input) = self.inputs.get_mut(&name) {
            input.changes = Some(node);
        }
        let mut lineage = lowered.lineage;
        for (place, key) in keys.iter().enumerate() {
            lineage[*key].group = Some(place);
        }
        // A table has no event time by which windows could close: its rows change at any time.
        lineage.iter_mut().for_each(|column| column.time = false);
        let updating = Some(self.nodes[node].id.clone());
        Ok(Lowered { node, lineage, updating, groups: keys.len(), ..lowered })
    }

    /// The records of a stream or table, of which the columns `needed` are used.
    pub fn source(&mut self, name: &str, needed: &BTreeSet<usize>) -> Result<Lowered> {
        let Some(input) = self.inputs.get_mut(name) else { return Err(Fault::new(format!("stream \"{name}\" is not known"))) };
        input.used.extend(needed.iter().copied());
        let stream = input.stream;
        let node = match input.node {
            Some(node) => node,
            None => {
                let index = self.nodes.iter().filter(|n| matches!(n.operation, Operation::Source(_))).count();
                let node = Node {
                    id: format!("{name}.source"),
                    operation: Operation::Source(index),
                    inputs: Vec::new(),
                    schema: Arc::clone(&input.schema),
                };
                self.nodes.push(node);
                input.node = Some(self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        let lineage = (0..stream.columns.len()).map(|column| Lineage {
            key_part: stream.key_columns.iter().position(|k| *k == column),
            time: stream.watermark.is_some_and(|(at, _)| at == column),
            window: None,
            origin: stream.contract_field(column),
            group: None,
        });
        let lineage = lineage.collect();
        let distribution = if stream.key_columns.is_empty() {
            Distribution::Unknown(format!("'key.fields' does not say which columns the key of topic \"{}\" holds", stream.topic))
        } else {
            Distribution::Parts {
                names: stream.key_columns.iter().map(|k| stream.columns[*k].field.name().clone()).collect(),
                topics: vec![stream.topic.to_string()],
                bare_or_trusted: stream.bare_or_trusted(),
                format: stream.key_format,
            }
        };
        let columns = self.inputs[name].places.clone();
        Ok(Lowered { node, columns, lineage, distribution, order: Order::Offset, updating: None, groups: 0, windowed: None })
    }

    fn project(&mut self, projection: &logical_plan::Projection, needed: &BTreeSet<usize>) -> Result<Lowered> {
        let plan = projection.input.schema();
        let used: Vec<(usize, &Expr)> = projection.expr.iter().enumerate().filter(|(n, _)| needed.contains(n)).collect();
        let below = columns_of(used.iter().map(|(_, e)| *e), plan)?;
        let input = self.lower(&projection.input, &below)?;
        let width = projection.expr.len();
        let mut lineage = vec![Lineage::default(); width];
        let mut plain = vec![None; width];
        for (n, expr) in &used {
            if let Expr::Column(column) = unaliased(expr) {
                let at = plan.index_of_column(column)?;
                lineage[*n] = input.lineage[at].clone();
                plain[*n] = input.columns[at];
            }
        }
        if used.iter().all(|(n, _)| plain[*n].is_some()) {
            return Ok(Lowered { columns: plain, lineage, ..input });
        }
        let schema = self.schema(input.node);
        let mut exprs = Vec::new();
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut columns = vec![None; width];
        for (n, expr) in used {
            let physical =
                expression::physical(unaliased(expr), plan, &schema, &input.columns).map_err(|f| f.at(place_in(expr)))?;
            columns[n] = Some(exprs.len());
            fields.push(Arc::new(expression::field(&physical, &schema, projection.schema.field(n).name())?));
            exprs.push(physical);
        }
        let output = Arc::new(Schema::new(fields));
        let spec = ProjectSpec { exprs, schema: Arc::clone(&output) };
        let node = self.add(Operation::Project(spec), vec![input.node], output);
        Ok(Lowered { node, columns, lineage, ..input })
    }

    fn filter(&mut self, filter: &logical_plan::Filter, needed: &BTreeSet<usize>) -> Result<Lowered> {
        let plan = filter.input.schema();
        let mut below = columns_of([&filter.predicate], plan)?;
        below.extend(needed.iter().copied());
        let input = self.lower(&filter.input, &below)?;
        let schema = self.schema(input.node);
        let parts = datafusion_expr::utils::split_conjunction(&filter.predicate);
        let conjuncts = parts.into_iter().map(|part| {
            let condition = expression::physical(part, plan, &schema, &input.columns)?;
            match condition.data_type(&schema)? {
                DataType::Boolean | DataType::Null => Ok(condition),
                other => Err(Fault::new(format!("a condition is {}, not a truth value", sql_name(&other))).at(place_in(part))),
            }
        });
        let spec = FilterSpec { conjuncts: conjuncts.collect::<Result<_>>()? };
        let node = self.add(Operation::Filter(spec), vec![input.node], schema);
        Ok(Lowered { node, ..input })
    }

    fn union(&mut self, union: &logical_plan::Union, needed: &BTreeSet<usize>) -> Result<Lowered> {
        let needed: Vec<usize> = needed.iter().copied().collect();
        let mut branches = Vec::new();
        for input in &union.inputs {
            branches.push(self.lower(input, &needed.iter().copied().collect())?);
        }
        if branches.iter().any(|b| b.windowed.is_some()) {
            return Err(Fault::new("UNION ALL of rows in windows that are not grouped is not in this release")
                .hint("put the window around the UNION ALL: a view of it, then TABLE(TUMBLE(TABLE view, ...))"));
        }
        // One schema for all: a column may be NULL if it may in any branch.
        let mut fields: Vec<Field> = Vec::new();
        for n in &needed {
            let mut nullable = false;
            let mut data_type = None;
            for branch in &branches {
                let schema = self.schema(branch.node);
                let field = schema.field(at(branch, *n)?).clone();
                nullable |= field.is_nullable();
                data_type = Some(field.data_type().clone());
            }
            fields.push(Field::new(union.schema.field(*n).name(), data_type.unwrap_or(DataType::Null), nullable));
        }
        let output: SchemaRef = Arc::new(Schema::new(fields));
        let mut inputs = Vec::new();
        for branch in &branches {
            let schema = self.schema(branch.node);
            let places = needed.iter().map(|n| at(branch, *n)).collect::<Result<Vec<_>>>()?;
            let exprs: Vec<Arc<dyn PhysicalExpr>> =
                places.iter().map(|at| Arc::new(Column::new(schema.field(*at).name(), *at)) as _).collect();
            inputs.push(self.project_to(branch.node, exprs, Arc::clone(&output)));
        }
        let mut columns = vec![None; union.schema.fields().len()];
        let mut lineage = vec![Lineage::default(); columns.len()];
        for (place, n) in needed.iter().enumerate() {
            columns[*n] = Some(place);
            lineage[*n] = met(branches.iter().map(|b| &b.lineage[*n]));
        }
        let distribution = match meet(&branches, &lineage) {
            Distribution::Parts { topics, .. } if !self.even(&topics) => {
                Distribution::Unknown(format!("topics {} have unequal numbers of partitions", list(&topics)))
            }
            distribution => distribution,
        };
        let updating = branches.iter().find_map(|b| b.updating.clone());
        let node = self.add(Operation::Union, inputs, output);
        Ok(Lowered { node, columns, lineage, distribution, order: Order::Unknown, updating, groups: usize::MAX, windowed: None })
    }

    /// A projection, unless it would change nothing.
    pub fn project_to(&mut self, node: usize, exprs: Vec<Arc<dyn PhysicalExpr>>, output: SchemaRef) -> usize {
        if expression::is_identity(&exprs, &self.nodes[node].schema, &output) {
            return node;
        }
        let spec = ProjectSpec { exprs, schema: Arc::clone(&output) };
        self.add(Operation::Project(spec), vec![node], output)
    }

    fn assign(&mut self, window: &Window, needed: &BTreeSet<usize>) -> Result<Lowered> {
        let plan = window.input.schema();
        let time = plan.index_of_column(&window.time)?;
        let kept = window.kept.len();
        let mut below: BTreeSet<usize> = needed.iter().filter(|n| **n < kept).map(|n| window.kept[*n]).collect();
        below.insert(time);
        let input = self.lower(&window.input, &below)?;
        let place = window.place();
        if let Some(by) = &input.updating {
            return Err(Fault::new(format!(
                "{} over the results of \"{by}\", which change, is not in this release",
                window.function()
            ))
            .at(place)
            .hint("aggregate in windows first: a window's result does not change"));
        }
        if !input.lineage[time].time {
            return Err(self.no_time(window, &input, plan).at(place));
        }
        let schema = self.schema(input.node);
        let time_column = at(&input, time)?;
        let zone = match schema.field(time_column).data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            other => {
                return Err(Fault::new(format!("column \"{}\" is {}, not a time", window.time.name, sql_name(other))).at(place));
            }
        };
        let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        let first = fields.len();
        for name in super::window::WINDOW_COLUMNS {
            fields.push(Arc::new(Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, zone.clone()), false)));
        }
        let output = Arc::new(Schema::new(fields));
        let spec = AssignSpec {
            time_column,
            size_micros: window.size_micros,
            slide_micros: window.slide_micros,
            offset_micros: window.offset_micros,
            schema: Arc::clone(&output),
        };
        let node = self.add(Operation::Assign(spec), vec![input.node], output);
        let mut columns: Vec<Option<usize>> = window.kept.iter().map(|n| input.columns[*n]).collect();
        let mut lineage: Vec<Lineage> =
            window.kept.iter().map(|n| Lineage { window: None, ..input.lineage[*n].clone() }).collect();
        for (n, edge) in [Edge::Start, Edge::End, Edge::Time].into_iter().enumerate() {
            columns.push(Some(first + n));
            let window = Some(WindowColumn { edge, node, size_micros: window.size_micros });
            lineage.push(Lineage { window, time: edge == Edge::Time, ..Lineage::default() });
        }
        Ok(Lowered { node, columns, lineage, windowed: Some(node), ..input })
    }

    fn no_time(&self, window: &Window, input: &Lowered, plan: &DFSchema) -> Fault {
        let name = &window.time.name;
        let times: Vec<&str> =
            input.lineage.iter().enumerate().filter(|(_, l)| l.time).map(|(n, _)| plan.field(n).name().as_str()).collect();
        let fault = Fault::new(format!("\"{name}\" is not the event time of these rows"));
        if !times.is_empty() {
            return fault.hint(format!("use DESCRIPTOR({})", times[0]));
        }
        if name == "window_start" || name == "window_end" {
            return fault.hint("the event time of a window's result is window_time: SELECT it and GROUP BY it too");
        }
        let topics: Vec<&str> = self.inputs.values().filter(|i| i.node.is_some()).map(|i| i.stream.name.as_str()).collect();
        fault.hint(format!(
            "declare WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND on the stream ({}), and pass the column on unchanged",
            topics.join(", ")
        ))
    }
}

/// The node's column that holds column `n` of the plan.
pub(super) fn at(lowered: &Lowered, n: usize) -> Result<usize> {
    lowered
        .columns
        .get(n)
        .copied()
        .flatten()
        .ok_or_else(|| Fault::new(format!("column {n} of the plan was pruned though it is used")))
}

pub(super) fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// The columns that expressions read, as indexes into their input.
pub(super) fn columns_of<'e>(exprs: impl IntoIterator<Item = &'e Expr>, input: &DFSchema) -> Result<BTreeSet<usize>> {
    let mut found = BTreeSet::new();
    for expr in exprs {
        for column in expr.column_refs() {
            found.insert(input.index_of_column(column)?);
        }
    }
    Ok(found)
}

/// Where the first column of an expression stands.
pub(super) fn place_in(expr: &Expr) -> Option<Place> {
    let mut columns: Vec<_> = expr.column_refs().into_iter().filter_map(|c| c.spans().first()).collect();
    columns.sort_by_key(|span| (span.start.line, span.start.column));
    let span = columns.first()?;
    let width = if span.end.line == span.start.line { span.end.column.saturating_sub(span.start.column).max(1) } else { 1 };
    (span.start.line > 0 && span.start.column > 0).then_some(Place { line: span.start.line, column: span.start.column, width })
}

/// What the same column of all branches is.
fn met<'l>(mut branches: impl Iterator<Item = &'l Lineage>) -> Lineage {
    let Some(first) = branches.next() else { return Lineage::default() };
    let mut lineage = Lineage { window: None, group: None, ..first.clone() };
    for other in branches {
        if other.key_part != lineage.key_part {
            lineage.key_part = None;
        }
        lineage.time &= other.time;
        let same = match (&lineage.origin, &other.origin) {
            (Some((a, m)), Some((b, n))) => a.subject == b.subject && a.id == b.id && m == n,
            _ => false,
        };
        if !same {
            lineage.origin = None;
        }
    }
    lineage
}

/// Whether equal keys of all branches lie in one partition.
fn meet(branches: &[Lowered], lineage: &[Lineage]) -> Distribution {
    let shuffled = |branch: &Lowered| matches!(&branch.distribution, Distribution::Parts { topics, .. } if topics.is_empty());
    if branches.len() > 1 && branches.iter().any(shuffled) {
        return Distribution::Unknown("rows of the UNION ALL come from a shuffle and from elsewhere".into());
    }
    let mut all_topics: Vec<String> = Vec::new();
    let mut result: Option<(Vec<String>, bool, Option<KeyFormat>)> = None;
    for branch in branches {
        let Distribution::Parts { names, topics, bare_or_trusted, format } = &branch.distribution else {
            return branch.distribution.clone();
        };
        for topic in topics {
            if !all_topics.contains(topic) {
                all_topics.push(topic.clone());
            }
        }
        match &mut result {
            None => result = Some((names.clone(), *bare_or_trusted, *format)),
            Some((first, trusted, first_format)) => {
                if first.len() != names.len() {
                    return Distribution::Unknown("the streams of the UNION ALL are keyed by different columns".into());
                }
                *trusted &= *bare_or_trusted;
                if first_format != format {
                    // Equal values give other bytes, and so other partitions, in another format.
                    *trusted = false;
                }
            }
        }
    }
    let Some((names, trusted, format)) = result else { return Distribution::Unknown("nothing is known of the key".into()) };
    if all_topics.len() > 1 && !trusted {
        return Distribution::Unknown(format!(
            "topics {} have Avro keys, keys of unknown format or of different formats, so equal keys may lie in different partitions: give both \
             the same bare 'key.format', or assert it with 'partitioner' = 'trusted'",
            list(&all_topics)
        ));
    }
    let missing = (0..names.len()).find(|part| !lineage.iter().any(|l| l.key_part == Some(*part)));
    if let Some(part) = missing {
        return Distribution::Unknown(format!(
            "the key column \"{}\" must stand in the same place of each SELECT of the UNION ALL",
            names[part]
        ));
    }
    Distribution::Parts { names, topics: all_topics, bare_or_trusted: trusted, format }
}
