//! `JOIN table FOR SYSTEM_TIME AS OF stream.time`: as written, and as a node.
//!
//! The library's planner drops FOR SYSTEM_TIME, which would leave a plain join. So it is moved into the condition first, as a call that
//! nothing else can write ([`mark`]); a join that has none is refused when it is lowered.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion_common::{DFSchema, JoinType};
use datafusion_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, logical_plan,
};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_sql::sqlparser::ast::{
    self, BinaryOperator, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, JoinConstraint,
    JoinOperator, ObjectName, Spanned, TableFactor, TableVersion,
};

use super::Operation;
use super::expression;
use super::fault::{Fault, Place, Result, list};
use super::lower::{Distribution, Lineage, Lowered, Lowering, Order, at, columns_of, place_in, unaliased};
use super::source::Stream;
use super::types::{same, sql_name};
use crate::operator::exchange::ExchangeSpec;
use crate::operator::temporal_join::{JoinKind, Meets, TemporalJoinSpec};

/// The call that marks a condition: `__as_of(o.ordered_at)`. No identifier of a file can be it, since `refuse` knows it.
pub(super) const AS_OF: &str = "__as_of";

pub(super) const SHAPE: &str = "write JOIN table FOR SYSTEM_TIME AS OF s.time AS t ON s.id = t.id";

/// The call that marks a join with the latest version.
pub(super) const AS_OF_NOW: &str = "__as_of_proctime";

/// Whether FOR SYSTEM_TIME AS OF names the clock: the table's latest version.
pub(super) fn is_now(time: &ast::Expr) -> bool {
    matches!(time, ast::Expr::Function(call) if call.name.to_string().eq_ignore_ascii_case("proctime"))
}

/// What joins may look like, as written.
pub(super) fn check(join: &ast::Join) -> Result<()> {
    let relation = &join.relation;
    let place = Place::of(relation.span());
    let fault = |what: &str| Fault::new(format!("{what}: not in this release")).at(place).hint(SHAPE);
    // Refused for what they are.
    if let TableFactor::UNNEST { .. } | TableFactor::NestedJoin { .. } = relation {
        return Ok(());
    }
    let on = match &join.join_operator {
        JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => on,
        other => return Err(fault(named(other))),
    };
    if !matches!(relation, TableFactor::Table { version: Some(TableVersion::ForSystemTimeAsOf(_)), .. }) {
        return Err(fault("a join without FOR SYSTEM_TIME AS OF"));
    }
    if join.global {
        return Err(fault("GLOBAL JOIN"));
    }
    match on {
        JoinConstraint::On(_) => Ok(()),
        JoinConstraint::Using(_) => Err(fault("a join with USING")),
        JoinConstraint::Natural => Err(fault("NATURAL JOIN")),
        JoinConstraint::None => Err(Fault::new("a join needs ON").at(place).hint(SHAPE)),
    }
}

/// Joins that do not run, as SQL calls them.
fn named(operator: &JoinOperator) -> &'static str {
    match operator {
        JoinOperator::Right(_) | JoinOperator::RightOuter(_) => "RIGHT JOIN",
        JoinOperator::FullOuter(_) => "FULL JOIN",
        JoinOperator::CrossJoin(_) => "CROSS JOIN",
        JoinOperator::Semi(_) | JoinOperator::LeftSemi(_) | JoinOperator::RightSemi(_) => "SEMI JOIN",
        JoinOperator::Anti(_) | JoinOperator::LeftAnti(_) | JoinOperator::RightAnti(_) => "ANTI JOIN",
        _ => "a join that is neither inner nor left",
    }
}

/// Moves FOR SYSTEM_TIME AS OF into the condition.
pub(super) fn mark(statement: &mut impl ast::VisitMut) {
    struct Marker;
    impl ast::VisitorMut for Marker {
        type Break = ();

        fn pre_visit_select(&mut self, select: &mut ast::Select) -> std::ops::ControlFlow<()> {
            select.from.iter_mut().flat_map(|from| &mut from.joins).for_each(mark_join);
            std::ops::ControlFlow::Continue(())
        }
    }
    let _ = ast::VisitMut::visit(statement, &mut Marker);
}

fn mark_join(join: &mut ast::Join) {
    let TableFactor::Table { version, .. } = &mut join.relation else { return };
    let Some(TableVersion::ForSystemTimeAsOf(time)) = version.take() else { return };
    let (JoinOperator::Join(JoinConstraint::On(on))
    | JoinOperator::Inner(JoinConstraint::On(on))
    | JoinOperator::Left(JoinConstraint::On(on))
    | JoinOperator::LeftOuter(JoinConstraint::On(on))) = &mut join.join_operator
    else {
        return;
    };
    let (name, args) = match is_now(&time) {
        true => (AS_OF_NOW, Vec::new()),
        false => (AS_OF, vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(time))]),
    };
    let marker = ast::Expr::Function(ast::Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    });
    let condition = std::mem::replace(on, ast::Expr::value(ast::Value::Null));
    *on = ast::Expr::BinaryOp {
        left: Box::new(ast::Expr::Nested(Box::new(condition))),
        op: BinaryOperator::And,
        right: Box::new(marker),
    };
}

/// The function that a mark calls; it is never evaluated.
pub(super) fn marker(name: &str) -> Option<ScalarUDF> {
    let (name, signature) = match name {
        AS_OF => (AS_OF, Signature::any(1, Volatility::Immutable)),
        // Nothing may fold a call without arguments to what it gives.
        AS_OF_NOW => (AS_OF_NOW, Signature::nullary(Volatility::Volatile)),
        _ => return None,
    };
    Some(ScalarUDF::from(AsOf { name, signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AsOf {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for AsOf {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        Err(Fault::new("FOR SYSTEM_TIME AS OF belongs to a join").into())
    }
}

/// What ON says.
struct Condition<'p> {
    /// The column of the left side that FOR SYSTEM_TIME AS OF names; `None`: the clock.
    time: Option<usize>,
    /// For each column of the table's key what it equals, over the join's columns.
    keys: Vec<&'p Expr>,
    residual: Vec<&'p Expr>,
}

/// The sides of a join on their way to a node.
struct Sides<'p, 's> {
    condition: Condition<'p>,
    left: Lowered,
    right: Lowered,
    /// Over the left node, in the order of the table's key.
    left_keys: Vec<Arc<dyn PhysicalExpr>>,
    stream: &'s Stream,
    shuffled: bool,
    /// Columns of the plan that are the left side's.
    width: usize,
}

impl<'a> Lowering<'a> {
    pub(super) fn join(&mut self, join: &logical_plan::Join, needed: &BTreeSet<usize>) -> Result<Lowered> {
        let width = join.left.schema().fields().len();
        let plan = join.schema.as_ref();
        let equal = |(l, r): &(Expr, Expr)| l.clone().eq(r.clone());
        let equalities: Vec<Expr> = join.on.iter().map(equal).collect();
        let mut conjuncts: Vec<&Expr> = equalities.iter().collect();
        conjuncts.extend(join.filter.iter().flat_map(datafusion_expr::utils::split_conjunction));
        // Where the join stands: its table has no place in the plan.
        let as_of = conjuncts.iter().copied().find_map(marked).and_then(place_in);
        let stream = self.table_of(&join.right).map_err(|fault| fault.at(as_of))?;
        let condition = condition(&conjuncts, plan, width, stream).map_err(|fault| fault.at(as_of))?;

        let mut read = columns_of(condition.keys.iter().copied().chain(condition.residual.iter().copied()), plan)?;
        read.extend(needed);
        read.extend(condition.time);
        let left_needed = read.iter().copied().filter(|n| *n < width).collect();
        let mut right_needed: BTreeSet<usize> = read.iter().filter(|n| **n >= width).map(|n| n - width).collect();
        right_needed.extend(&stream.key_columns);
        let left = self.lower(&join.left, &left_needed)?;
        let right = self.source(&stream.name, &right_needed)?;
        check_left(&left, &condition, plan).map_err(|fault| fault.at(as_of))?;

        let left_keys = self.left_keys(&condition, plan, &left, stream)?;
        let mut sides = Sides { condition, left, right, left_keys, stream, shuffled: false, width };
        if let Some(reason) = self.why_apart(&sides, plan)? {
            self.shuffle(&mut sides, reason)?;
        }
        self.join_node(join, &sides, &read)
    }

    /// The table that stands on the right side.
    fn table_of(&self, plan: &LogicalPlan) -> Result<&'a Stream> {
        let fault = |what: String| {
            Fault::new(what).hint("FOR SYSTEM_TIME AS OF takes a CREATE TABLE: a compacted topic with its PRIMARY KEY")
        };
        match plan {
            LogicalPlan::SubqueryAlias(alias) => {
                // An alias stands around the table; a view's name stands around its query.
                let table = self.table_of(&alias.input);
                let view = !matches!(&*alias.input, LogicalPlan::TableScan(_) | LogicalPlan::SubqueryAlias(_));
                if view { Err(fault(format!("\"{}\" is a view, not a table", alias.alias.table()))) } else { table }
            }
            LogicalPlan::TableScan(scan) => {
                let name = scan.table_name.table();
                let known = self.inputs.get(name).map(|input| input.stream).filter(|stream| stream.table);
                known.ok_or_else(|| fault(format!("\"{name}\" is a stream, not a table")))
            }
            _ => Err(fault("the right side of the join is no table".into())),
        }
    }

    /// What equals the table's key, over the left node, in the key's types.
    fn left_keys(
        &self,
        condition: &Condition,
        plan: &DFSchema,
        left: &Lowered,
        stream: &Stream,
    ) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        let schema = self.schema(left.node);
        let key = |(expr, column): (&&Expr, &usize)| {
            let physical = expression::physical(expr, plan, &schema, &left.columns).map_err(|f| f.at(place_in(expr)))?;
            let field = &stream.columns[*column].field;
            let held = physical.data_type(&schema)?;
            if same(&held, field.data_type()) {
                return expression::cast(physical, &schema, field.data_type());
            }
            Err(Fault::new(format!(
                "\"{}\" is {}, what it is compared with is {}",
                field.name(),
                sql_name(field.data_type()),
                sql_name(&held)
            ))
            .at(place_in(expr))
            .hint(format!("CAST(... AS {})", sql_name(field.data_type()))))
        };
        condition.keys.iter().zip(&stream.key_columns).map(key).collect()
    }

    /// Why rows and the versions that they join may lie in different tasks; `None`: they meet.
    fn why_apart(&mut self, sides: &Sides, plan: &DFSchema) -> Result<Option<String>> {
        let Distribution::Parts { names, topics: of_table, bare_or_trusted: right_trusted, format: right_format } =
            &sides.right.distribution
        else {
            return Ok(Some("nothing is known of how the table is distributed".into()));
        };
        let why = |text: String| Ok(Some(format!("join with \"{}\": {text}", sides.stream.name)));
        let (parts, topics, trusted, format) = match &sides.left.distribution {
            Distribution::Unknown(text) => return why(text.clone()),
            Distribution::Parts { names, topics, bare_or_trusted, format } => (names, topics, *bare_or_trusted, *format),
        };
        if topics.is_empty() {
            return why(format!("rows are distributed by {} behind a shuffle", list(parts)));
        }
        let mut in_order = parts.len() == names.len();
        for (place, key) in sides.condition.keys.iter().enumerate() {
            let part = match unaliased(key) {
                Expr::Column(column) => sides.left.lineage[plan.index_of_column(column)?].key_part,
                _ => None,
            };
            in_order &= part == Some(place);
        }
        if !in_order {
            return why(format!("topic {} is distributed by {}", list(topics), list(parts)));
        }
        if !(trusted && *right_trusted) || format != *right_format {
            return why(format!(
                "topics {} and {} have Avro or JSON keys, or keys of different formats, so equal keys may lie in different partitions",
                list(topics),
                list(of_table)
            ));
        }
        let met: Vec<String> = topics.iter().chain(of_table).cloned().collect();
        if !self.even(&met) {
            return why(format!("topics {} have unequal numbers of partitions", list(&met)));
        }
        Ok(None)
    }

    /// Both sides by the table's key. A late row is found before it moves, where its record is at hand.
    fn shuffle(&mut self, sides: &mut Sides, reason: String) -> Result<()> {
        let schema = self.schema(sides.left.node);
        let refuse_late = sides.condition.time.is_some();
        let exchange = ExchangeSpec { keys: sides.left_keys.clone(), refuse_late, bare_key: None, reason: reason.clone() };
        sides.left.node = self.exchange(sides.left.node, exchange, schema);
        let schema = self.schema(sides.right.node);
        let key = |key: &usize| at(&sides.right, *key).map(|column| expression::column(&schema, column));
        let keys = sides.stream.key_columns.iter().map(key).collect::<Result<_>>()?;
        let exchange = ExchangeSpec { keys, refuse_late: false, bare_key: None, reason };
        sides.right.node = self.exchange(sides.right.node, exchange, schema);
        sides.shuffled = true;
        Ok(())
    }

    fn join_node(&mut self, join: &logical_plan::Join, sides: &Sides, read: &BTreeSet<usize>) -> Result<Lowered> {
        let Sides { condition, left, right, width, stream, .. } = sides;
        let (left_schema, right_schema) = (self.schema(left.node), self.schema(right.node));
        let kind = if join.join_type == JoinType::Left { JoinKind::Left } else { JoinKind::Inner };
        let mut fields: Vec<FieldRef> = left_schema.fields().iter().cloned().collect();
        let (mut columns, mut lineage) = (left.columns.clone(), self.left_lineage(sides, join.schema.as_ref())?);
        let mut right_columns = Vec::new();
        for n in 0..right.columns.len() {
            // In an inner join the table's key is what the left side's is.
            let place = stream.key_columns.iter().position(|key| *key == n).filter(|_| kind == JoinKind::Inner);
            let left_key = place.and_then(|place| match unaliased(condition.keys[place]) {
                Expr::Column(column) => join.schema.index_of_column(column).ok(),
                _ => None,
            });
            let key_part = if sides.shuffled { place } else { left_key.and_then(|n| lineage[n].key_part) };
            let origin = right.lineage[n].origin.clone().filter(|_| kind == JoinKind::Inner);
            lineage.push(Lineage { key_part, origin, ..Lineage::default() });
            if !read.contains(&(width + n)) {
                columns.push(None);
                continue;
            }
            let column = at(right, n)?;
            let field = right_schema.field(column);
            columns.push(Some(fields.len()));
            fields.push(Arc::new(field.clone().with_nullable(field.is_nullable() || kind == JoinKind::Left)));
            right_columns.push(column);
        }
        let schema: SchemaRef = Arc::new(Schema::new(unique(fields)));
        let filter = self.residual(condition, join.schema.as_ref(), &schema, &columns)?;
        let spec = TemporalJoinSpec {
            left: left_schema,
            right: right_schema,
            left_keys: sides.left_keys.clone(),
            right_keys: stream.key_columns.iter().map(|key| at(right, *key)).collect::<Result<_>>()?,
            right_columns,
            kind,
            meets: condition.time.map_or(Meets::Latest, |_| Meets::AsOf(stream.before_first())),
            filter,
            // What follows and needs one order has it by position, or by origin (see `Order::Time`).
            ordered: false,
            schema: Arc::clone(&schema),
        };
        let node = self.add(Operation::TemporalJoin(spec), vec![left.node, right.node], schema);
        let distribution = match sides.shuffled {
            false => left.distribution.clone(),
            true => Distribution::shuffled(stream.key_columns.iter().map(|k| stream.columns[*k].field.name().clone()).collect()),
        };
        let order = if sides.shuffled || left.order == Order::Unknown { Order::Unknown } else { Order::Time };
        Ok(Lowered { node, columns, lineage, distribution, order, updating: None, groups: 0, windowed: left.windowed })
    }

    /// The left side's columns; behind a shuffle they hold the parts of the table's key.
    fn left_lineage(&self, sides: &Sides, plan: &DFSchema) -> Result<Vec<Lineage>> {
        let mut lineage = sides.left.lineage.clone();
        if !sides.shuffled {
            return Ok(lineage);
        }
        lineage.iter_mut().for_each(|column| column.key_part = None);
        for (place, key) in sides.condition.keys.iter().enumerate() {
            if let Expr::Column(column) = unaliased(key) {
                lineage[plan.index_of_column(column)?].key_part = Some(place);
            }
        }
        Ok(lineage)
    }

    fn residual(
        &self,
        condition: &Condition,
        plan: &DFSchema,
        schema: &Schema,
        columns: &[Option<usize>],
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let all = condition.residual.iter().map(|expr| (*expr).clone()).reduce(Expr::and);
        let Some(all) = all else { return Ok(None) };
        expression::physical(&all, plan, schema, columns).map(Some).map_err(|f| f.at(place_in(&all)))
    }
}

/// The stream's side must have event time, and rows that stay.
fn check_left(left: &Lowered, condition: &Condition, plan: &DFSchema) -> Result<()> {
    if let Some(by) = &left.updating {
        return Err(Fault::new(format!("a join of the results of \"{by}\", which change, is not in this release"))
            .hint("join the stream first, then aggregate"));
    }
    let Some(time) = condition.time else { return Ok(()) };
    let name = plan.field(time).name();
    // Of a row in windows that are not grouped yet, `window_time` is not the time that it is joined by.
    let is_time = |lineage: &Lineage| lineage.time && lineage.window.is_none();
    if is_time(&left.lineage[time]) {
        return Ok(());
    }
    let times: Vec<&str> =
        left.lineage.iter().enumerate().filter(|(_, l)| is_time(l)).map(|(n, _)| plan.field(n).name().as_str()).collect();
    let fault = Fault::new(format!("FOR SYSTEM_TIME AS OF \"{name}\", which is not the event time of these rows"));
    Err(match times.first() {
        Some(time) => fault.hint(format!("write FOR SYSTEM_TIME AS OF {time}")),
        None => fault.hint(format!(
            "declare WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND on the stream, and pass the column on unchanged"
        )),
    })
}

/// What the mark holds, if it is the mark.
fn marked(conjunct: &Expr) -> Option<&Expr> {
    match unaliased(conjunct) {
        Expr::ScalarFunction(call) if call.func.name() == AS_OF => call.args.first(),
        _ => None,
    }
}

fn marks_now(conjunct: &Expr) -> bool {
    matches!(unaliased(conjunct), Expr::ScalarFunction(call) if call.func.name() == AS_OF_NOW)
}

/// Takes ON apart: the mark, what equals the table's key, and what is left.
fn condition<'p>(conjuncts: &[&'p Expr], plan: &DFSchema, width: usize, stream: &Stream) -> Result<Condition<'p>> {
    let mut time = None;
    let mut keys: Vec<Option<&'p Expr>> = vec![None; stream.key_columns.len()];
    let mut residual = Vec::new();
    let mut now = false;
    for conjunct in conjuncts {
        if marks_now(conjunct) {
            now = true;
            continue;
        }
        if let Some(argument) = marked(conjunct) {
            let Expr::Column(column) = unaliased(argument) else {
                return Err(Fault::new("FOR SYSTEM_TIME AS OF takes the event time of the stream, a column").hint(SHAPE));
            };
            time = Some(plan.index_of_column(column)?);
            continue;
        }
        match equality(conjunct, plan, width, stream)? {
            Some((key, left)) if keys[key].is_none() => keys[key] = Some(left),
            _ => residual.push(*conjunct),
        }
    }
    if time.is_none() && !now {
        return Err(Fault::new("a join without FOR SYSTEM_TIME AS OF").hint(SHAPE));
    }
    if let Some(time) = time.filter(|time| *time >= width) {
        return Err(Fault::new(format!(
            "FOR SYSTEM_TIME AS OF \"{}\", a column of table \"{}\": it is the time of the stream's row that counts",
            plan.field(time).name(),
            stream.name
        ))
        .hint(SHAPE));
    }
    let names: Vec<&str> = stream.key_columns.iter().map(|key| stream.columns[*key].field.name().as_str()).collect();
    let missing: Vec<&str> = names.iter().zip(&keys).filter(|(_, key)| key.is_none()).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        let place: Option<Place> =
            conjuncts.iter().filter(|c| marked(c).is_none() && !marks_now(c)).find_map(|conjunct| place_in(conjunct));
        return Err(Fault::new(format!(
            "ON does not say what {} of table \"{}\" equals: a row joins one version of one key",
            list(&missing),
            stream.name
        ))
        .at(place)
        .hint(format!("its PRIMARY KEY is ({}): ON s.x = t.{}", names.join(", "), missing[0])));
    }
    Ok(Condition { time, keys: keys.into_iter().flatten().collect(), residual })
}

/// `left = table.key`: the key's place and the left side.
fn equality<'p>(expr: &'p Expr, plan: &DFSchema, width: usize, stream: &Stream) -> Result<Option<(usize, &'p Expr)>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = unaliased(expr) else { return Ok(None) };
    for (one, other) in [(left, right), (right, left)] {
        let (column, widened) = match unaliased(other) {
            Expr::Column(column) => (column, false),
            Expr::Cast(cast) => match unaliased(&cast.expr) {
                Expr::Column(column) => (column, true),
                _ => continue,
            },
            _ => continue,
        };
        let Some(of_table) = plan.index_of_column(column)?.checked_sub(width) else { continue };
        let Some(key) = stream.key_columns.iter().position(|key| *key == of_table) else { continue };
        if !columns_of([&**one], plan)?.iter().all(|n| *n < width) {
            continue;
        }
        if widened {
            // The planner widens the narrower side. A table is looked up by its key as it is.
            let field = &stream.columns[of_table].field;
            let held = sql_name(&one.get_type(plan)?);
            return Err(Fault::new(format!(
                "\"{}\" is {}, what it is compared with is {held}",
                field.name(),
                sql_name(field.data_type())
            ))
            .at(place_in(one))
            .hint(format!("CAST(... AS {})", sql_name(field.data_type()))));
        }
        return Ok(Some((key, one)));
    }
    Ok(None)
}

/// Names told apart: both sides may have columns of one name, and columns are known by their place.
fn unique(fields: Vec<FieldRef>) -> Vec<FieldRef> {
    let mut named: Vec<FieldRef> = Vec::with_capacity(fields.len());
    for field in fields {
        let mut name = field.name().clone();
        while named.iter().any(|other| *other.name() == name) {
            name.push_str("_2");
        }
        named.push(if name == *field.name() { field } else { Arc::new(Field::clone(&field).with_name(name)) });
    }
    named
}
