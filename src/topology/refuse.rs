//! What this release does not run, found in the query as written and refused by name at its place.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Distinct, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Interval,
    LimitClause, Query, Select, SelectFlavor, SetExpr, SetOperator, SetQuantifier, Spanned, TableFactor, TableVersion,
    TableWithJoins, TypedString, UnaryOperator, Value, Visit, Visitor, visit_expressions,
};

use super::dialect::TABLE_ARGUMENT;
use super::fault::{Fault, Place, Result};
use super::function::{Functions, nondeterministic};

/// Checks a whole query.
pub(super) fn query(query: &Query, functions: &Functions, allow_nondeterministic: bool) -> Result<()> {
    visit(query, functions, allow_nondeterministic)
}

/// Checks an expression of DDL: a computed column, a check.
pub(super) fn expression(expr: &Expr, functions: &Functions, allow_nondeterministic: bool) -> Result<()> {
    visit(expr, functions, allow_nondeterministic)
}

fn visit(node: &impl Visit, functions: &Functions, allow_nondeterministic: bool) -> Result<()> {
    let mut walk = Walk { functions, allow_nondeterministic, inputs: Vec::new(), windows: Vec::new() };
    match node.visit(&mut walk) {
        ControlFlow::Break(fault) => Err(fault),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Walk<'a> {
    functions: &'a Functions,
    allow_nondeterministic: bool,
    /// Addresses of subqueries that are the input of a window.
    inputs: Vec<*const Expr>,
    /// Addresses of what stands in TABLE( ), whose names the planner of windows knows, and of the clock of a join.
    windows: Vec<*const Expr>,
}

const NOT_YET: &str = "not in this release";
const TOP_N: &str = "top-N and dedup are not in this release; FIRST_VALUE or LAST_VALUE with GROUP BY may do";
const NO_END: &str = "a stream has no first rows and no end: filter with WHERE";
const ONE_STREAM: &str = "a query reads one stream, table, view or UNION ALL of them, and joins tables FOR SYSTEM_TIME AS OF";

fn not_yet(what: &str, place: Option<Place>) -> Fault {
    Fault::new(format!("{what}: {NOT_YET}")).at(place)
}

fn latest(time: &Expr) -> Fault {
    Fault::new("PROCTIME() gives another result in a replay").at(Place::of(time.span())).hint(
        "join the version that held at the row's event time: FOR SYSTEM_TIME AS OF s.time; the latest version needs \
         SET 'nondeterministic' = 'true'",
    )
}

impl Visitor for Walk<'_> {
    type Break = Fault;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Fault> {
        flow(check_query(query))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Fault> {
        flow(check_select(select).and_then(|()| self.check_aggregates(select)))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Fault> {
        let args = match factor {
            TableFactor::TableFunction { expr, .. } => {
                self.windows.push(std::ptr::from_ref(expr));
                match expr {
                    Expr::Function(Function { args: FunctionArguments::List(list), .. }) => &list.args,
                    _ => return flow(check_factor(factor)),
                }
            }
            TableFactor::Table { args: Some(args), .. } => &args.args,
            TableFactor::Table { version: Some(TableVersion::ForSystemTimeAsOf(time)), .. } if super::join::is_now(time) => {
                if !self.allow_nondeterministic {
                    return ControlFlow::Break(latest(time));
                }
                self.windows.push(std::ptr::from_ref(time));
                return flow(check_factor(factor));
            }
            _ => return flow(check_factor(factor)),
        };
        for arg in args {
            if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
            | FunctionArg::Named { arg: FunctionArgExpr::Expr(expr), .. } = arg
            {
                self.inputs.push(std::ptr::from_ref(expr));
            }
        }
        flow(check_factor(factor))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Fault> {
        let address = std::ptr::from_ref(expr);
        if self.windows.contains(&address) || (matches!(expr, Expr::Subquery(_)) && self.inputs.contains(&address)) {
            return ControlFlow::Continue(());
        }
        flow(self.check_expr(expr))
    }
}

fn flow(result: Result<()>) -> ControlFlow<Fault> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(fault) => ControlFlow::Break(fault),
    }
}

fn check_query(query: &Query) -> Result<()> {
    let place = Place::of(query.span());
    if let Some(with) = &query.with
        && with.recursive
    {
        return Err(not_yet("WITH RECURSIVE", Place::of(with.with_token.0.span)).hint("a query can't read its own result"));
    }
    if let Some(order) = &query.order_by {
        return Err(not_yet("ORDER BY", Place::of(order.span()).or(place))
            .hint("a stream has no end to sort; a sink's rows come in event-time order of their windows"));
    }
    if let Some(limit) = &query.limit_clause {
        let LimitClause::LimitOffset { limit: Some(expr), .. } = limit else {
            return Err(not_yet("OFFSET", Place::of(limit.span()).or(place)).hint(NO_END));
        };
        return Err(not_yet("LIMIT", Place::of(expr.span()).or(place)).hint(NO_END));
    }
    if query.fetch.is_some() {
        return Err(not_yet("FETCH", place).hint(NO_END));
    }
    if !query.locks.is_empty() || query.for_clause.is_some() {
        return Err(not_yet("FOR", place).hint("leave it out"));
    }
    if query.settings.is_some() || query.format_clause.is_some() || !query.pipe_operators.is_empty() {
        return Err(not_yet("this form of a query", place));
    }
    check_body(&query.body)
}

fn check_body(body: &SetExpr) -> Result<()> {
    let place = Place::of(body.span());
    match body {
        SetExpr::Select(_) | SetExpr::Query(_) => Ok(()),
        SetExpr::SetOperation { left, op, set_quantifier, right } => {
            match (op, set_quantifier) {
                (SetOperator::Union, SetQuantifier::All) => {}
                (SetOperator::Union, SetQuantifier::None | SetQuantifier::Distinct) => {
                    return Err(not_yet("UNION", Place::of(right.span()).or(place))
                        .hint("write UNION ALL; to drop duplicates, GROUP BY all columns after it"));
                }
                (SetOperator::Union, _) => {
                    return Err(not_yet("UNION BY NAME", place).hint("write UNION ALL with the columns in one order"));
                }
                (op, _) => {
                    return Err(not_yet(&op.to_string(), Place::of(right.span()).or(place))
                        .hint("UNION ALL is what there is: mark the sides with a column, then GROUP BY"));
                }
            }
            check_body(left)?;
            check_body(right)
        }
        SetExpr::Values(_) => Err(not_yet("VALUES", place).hint("a pipeline computes from its streams")),
        _ => Err(Fault::new("expected a SELECT").at(place)),
    }
}

fn check_select(select: &Select) -> Result<()> {
    let place = Place::of(select.select_token.0.span).or(Place::of(select.span()));
    let refuse = |found: bool, what: &str, hint: &str| if found { Err(not_yet(what, place).hint(hint)) } else { Ok(()) };
    match &select.distinct {
        Some(Distinct::Distinct) => {
            return Err(not_yet("SELECT DISTINCT", place).hint("GROUP BY the columns, into a sink whose PRIMARY KEY they are"));
        }
        Some(Distinct::On(_)) => return Err(not_yet("SELECT DISTINCT ON", place).hint("use FIRST_VALUE with GROUP BY")),
        _ => {}
    }
    refuse(select.top.is_some(), "TOP", NO_END)?;
    refuse(select.exclude.is_some(), "EXCLUDE", "name the columns")?;
    refuse(select.select_modifiers.is_some(), "this form of SELECT", "write SELECT columns FROM name")?;
    refuse(!select.optimizer_hints.is_empty(), "a hint", "leave it out")?;
    refuse(select.into.is_some(), "SELECT INTO", "write INSERT INTO name SELECT ...")?;
    refuse(!select.lateral_views.is_empty(), "LATERAL VIEW", "elements are read by their number: tags[1]")?;
    refuse(select.prewhere.is_some(), "PREWHERE", "write WHERE")?;
    refuse(!select.connect_by.is_empty(), "CONNECT BY", "a query can't read its own result")?;
    refuse(
        !select.cluster_by.is_empty() || !select.distribute_by.is_empty() || !select.sort_by.is_empty(),
        "SORT BY",
        "a stream has no end to sort",
    )?;
    refuse(!select.named_window.is_empty(), "WINDOW", "aggregate over TUMBLE or HOP with GROUP BY window_start, window_end")?;
    refuse(select.value_table_mode.is_some(), "SELECT AS", "name the columns")?;
    if let Some(qualify) = &select.qualify {
        return Err(not_yet("QUALIFY", Place::of(qualify.span()).or(place)).hint(TOP_N));
    }
    if select.flavor != SelectFlavor::Standard {
        return Err(Fault::new("FROM stands before SELECT").at(place).hint("write SELECT ... FROM ..."));
    }
    match &select.group_by {
        GroupByExpr::All(_) => return Err(not_yet("GROUP BY ALL", place).hint("name the columns")),
        GroupByExpr::Expressions(_, modifiers) if !modifiers.is_empty() => {
            return Err(not_yet("GROUP BY ... WITH ROLLUP | CUBE", place).hint("write one INSERT for each grouping"));
        }
        GroupByExpr::Expressions(..) => {}
    }
    match select.from.as_slice() {
        [] => Err(Fault::new("a query needs a FROM").at(place).hint("name the stream that it reads")),
        [TableWithJoins { relation: relation @ TableFactor::Table { version: Some(_), .. }, .. }] => {
            Err(Fault::new("FOR SYSTEM_TIME AS OF belongs to the table of a join")
                .at(Place::of(relation.span()).or(place))
                .hint("FROM stream AS s JOIN table FOR SYSTEM_TIME AS OF s.time AS t ON s.id = t.id"))
        }
        [only] => only.joins.iter().try_for_each(|join| super::join::check(join).map_err(|fault| fault.at(place))),
        [_, second, ..] => Err(not_yet("a join by comma", Place::of(second.span()).or(place)).hint(super::join::SHAPE)),
    }
}

fn check_factor(factor: &TableFactor) -> Result<()> {
    let place = Place::of(factor.span());
    if let TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } = factor
        && alias.at.is_some()
    {
        return Err(not_yet("AT", Place::of(alias.name.span).or(place)).hint("write FROM name AS alias"));
    }
    match factor {
        TableFactor::Table { sample: Some(_), .. } => {
            Err(not_yet("TABLESAMPLE", place).hint("filter by a hash of the key: md5(key) < '1'"))
        }
        TableFactor::Table { with_hints, partitions, json_path, index_hints, with_ordinality, .. }
            if !with_hints.is_empty()
                || !partitions.is_empty()
                || json_path.is_some()
                || !index_hints.is_empty()
                || *with_ordinality =>
        {
            Err(not_yet("this form of a table", place).hint("write FROM name AS alias"))
        }
        TableFactor::Derived { lateral: true, .. } | TableFactor::Function { .. } => {
            Err(not_yet("LATERAL", place).hint(ONE_STREAM))
        }
        TableFactor::Derived { sample: Some(_), .. } => {
            Err(not_yet("TABLESAMPLE", place).hint("filter by a hash of the key: md5(key) < '1'"))
        }
        TableFactor::Table { .. } | TableFactor::Derived { .. } | TableFactor::TableFunction { .. } => Ok(()),
        TableFactor::NestedJoin { .. } => Err(not_yet("a join in parentheses", place).hint("leave the parentheses out")),
        TableFactor::UNNEST { .. } => Err(not_yet("UNNEST", place).hint("elements are read by their number: tags[1]")),
        TableFactor::MatchRecognize { .. } => Err(not_yet("MATCH_RECOGNIZE", place).hint("aggregate in windows")),
        TableFactor::Pivot { .. } | TableFactor::Unpivot { .. } => {
            Err(not_yet("PIVOT", place).hint("write SUM(x) FILTER (WHERE kind = 'a') AS a, ..."))
        }
        _ => Err(not_yet("this form of a table", place).hint("write FROM name AS alias")),
    }
}

/// Expressions without refusals of their own.
fn is_plain(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Identifier(_)
            | Expr::CompoundIdentifier(_)
            | Expr::CompoundFieldAccess { .. }
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::InList { .. }
            | Expr::Between { .. }
            | Expr::Like { .. }
            | Expr::ILike { .. }
            | Expr::SimilarTo { .. }
            | Expr::Extract { .. }
            | Expr::Ceil { .. }
            | Expr::Floor { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Trim { .. }
            | Expr::Overlay { .. }
            | Expr::Nested(_)
            | Expr::Value(_)
            | Expr::Case { .. }
            | Expr::Map(_)
            | Expr::Array(_)
    )
}

fn is_plain_value(value: &Value) -> bool {
    matches!(
        value,
        Value::Number(..) | Value::SingleQuotedString(_) | Value::HexStringLiteral(_) | Value::Boolean(_) | Value::Null
    )
}

/// One unit, and an amount of it.
fn check_interval(interval: &Interval) -> Result<()> {
    if interval.last_field.is_some() || interval.leading_field.is_none() {
        return Err(not_yet(&interval.to_string(), None).hint("write one unit: INTERVAL '14' MONTH, INTERVAL '620' SECOND"));
    }
    let amount = match &*interval.value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.trim().to_owned(),
            Value::Number(number, _) => number.to_string(),
            _ => String::new(),
        },
        _ => String::new(),
    };
    match amount.parse::<f64>() {
        Ok(number) if number.is_finite() && !amount.contains(['e', 'E']) => Ok(()),
        _ => Err(Fault::new(format!("\"{amount}\" is not an amount of time")).hint("write INTERVAL '1' MINUTE")),
    }
}

fn check_operator(op: &BinaryOperator) -> Result<()> {
    use BinaryOperator::*;
    match op {
        Plus | Minus | Multiply | Divide | Modulo | StringConcat => Ok(()),
        Gt | Lt | GtEq | LtEq | Eq | NotEq | And | Or => Ok(()),
        Arrow => Err(not_yet("a lambda, or the operator ->", None).hint("fields are read with a point: row.field")),
        DuckIntegerDivide | MyIntegerDivide => {
            Err(not_yet(&format!("the operator {op}"), None).hint("/ of whole numbers is whole"))
        }
        PGRegexMatch | PGRegexIMatch | Regexp => {
            Err(not_yet(&format!("the operator {op}"), None).hint("write REGEXP(text, 'pattern')"))
        }
        _ => Err(not_yet(&format!("the operator {op}"), None).hint("there are + - * / %, comparisons, AND, OR, NOT and ||")),
    }
}

impl Walk<'_> {
    fn check_expr(&self, expr: &Expr) -> Result<()> {
        let place = Place::of(expr.span());
        match expr {
            Expr::Subquery(query) => {
                Err(not_yet("a subquery as a value", place.or(Place::of(query.span()))).hint("subqueries may stand in FROM"))
            }
            Expr::InSubquery { .. } => Err(not_yet("IN (SELECT ...)", place).hint("subqueries may stand in FROM")),
            Expr::Exists { subquery, .. } => {
                Err(not_yet("EXISTS", place.or(Place::of(subquery.span()))).hint("subqueries may stand in FROM"))
            }
            Expr::AnyOp { .. } | Expr::AllOp { .. } => {
                Err(not_yet("ANY and ALL", place).hint("write x IN (a, b), or array_has(list, x)"))
            }
            Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => {
                Err(not_yet("GROUPING SETS, CUBE and ROLLUP", place).hint("write one INSERT for each grouping"))
            }
            Expr::Function(function) => self.check_function(function),
            Expr::BinaryOp { op, .. } => check_operator(op).map_err(|f| f.at(place)),
            Expr::UnaryOp { op: UnaryOperator::Plus | UnaryOperator::Minus | UnaryOperator::Not, .. } => Ok(()),
            Expr::UnaryOp { op, .. } => Err(not_yet(&format!("the operator {op}"), place)),
            Expr::Like { any: true, .. } | Expr::ILike { any: true, .. } => {
                Err(not_yet("LIKE ANY", place).hint("write a LIKE 'x%' OR a LIKE 'y%'"))
            }
            Expr::RLike { expr, .. } => Err(not_yet("RLIKE", Place::of(expr.span())).hint("write REGEXP(text, 'pattern')")),
            Expr::AtTimeZone { .. } => Err(not_yet("AT TIME ZONE", place).hint("times are in UTC")),
            Expr::Tuple(_) => Err(not_yet("a row of values", place).hint("compare or group the columns one by one")),
            Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
                Err(Fault::new(format!("the parameter {} has no value", value.value)).at(place).hint("write the value itself"))
            }
            Expr::Value(value) if !is_plain_value(&value.value) => {
                Err(not_yet(&format!("the literal {}", value.value), place).hint("write 'text'"))
            }
            Expr::Interval(interval) => check_interval(interval).map_err(|f| f.at(place)),
            Expr::Cast { array: false, format: None, data_type, .. } | Expr::TypedString(TypedString { data_type, .. }) => {
                super::types::data_type(data_type).map(drop).map_err(|f| f.at(place))
            }
            expr if is_plain(expr) => Ok(()),
            other => Err(not_yet(&other.to_string(), place).hint("write it with the functions that there are")),
        }
    }

    /// Aggregates stand in SELECT and HAVING.
    fn check_aggregates(&self, select: &Select) -> Result<()> {
        let grouped = match &select.group_by {
            GroupByExpr::Expressions(exprs, _) => exprs.iter().map(|expr| ("GROUP BY", expr)).collect(),
            GroupByExpr::All(_) => Vec::new(),
        };
        for (clause, expr) in select.selection.iter().map(|expr| ("WHERE", expr)).chain(grouped) {
            let found = visit_expressions(expr, |expr| match expr {
                Expr::Function(call) if self.functions.aggregates.contains_key(&call.name.to_string().to_lowercase()) => {
                    ControlFlow::Break(call.name.clone())
                }
                _ => ControlFlow::Continue(()),
            });
            if let ControlFlow::Break(name) = found {
                let text = format!("{} is an aggregate: it can't stand in {clause}", name.to_string().to_uppercase());
                return Err(Fault::new(text).at(Place::of(name.span())).hint("write HAVING for a condition on groups"));
            }
        }
        Ok(())
    }

    fn check_function(&self, function: &Function) -> Result<()> {
        let place = Place::of(function.name.span());
        let name = function.name.to_string();
        let lower = name.to_lowercase();
        if function.over.is_some() {
            let hint = match lower.as_str() {
                "row_number" | "rank" | "dense_rank" => TOP_N,
                _ => "aggregate over TUMBLE or HOP with GROUP BY window_start, window_end",
            };
            return Err(not_yet(&format!("{} OVER (...)", name.to_uppercase()), place).hint(hint));
        }
        if !matches!(function.parameters, FunctionArguments::None) {
            return Err(not_yet(&format!("{} with two lists of arguments", name.to_uppercase()), place));
        }
        if !function.within_group.is_empty() && lower != "percentile_cont" {
            return Err(not_yet("WITHIN GROUP", place).hint("the result would depend on the order of rows"));
        }
        if function.null_treatment.is_some() {
            return Err(not_yet("IGNORE NULLS and RESPECT NULLS", place).hint("write FILTER (WHERE x IS NOT NULL)"));
        }
        if let FunctionArguments::List(list) = &function.args
            && !list.clauses.is_empty()
        {
            return Err(not_yet(&format!("{} with ORDER BY, LIMIT or the like inside", name.to_uppercase()), place)
                .hint("FIRST_VALUE and LAST_VALUE go by event time"));
        }
        if let Some(instead) = nondeterministic(&lower) {
            let clock = lower == "proctime" || !self.functions.scalars.contains_key(&lower);
            if clock || !self.allow_nondeterministic {
                return Err(Fault::new(format!("{}() gives another result in a replay", name.to_uppercase()))
                    .at(place)
                    .hint(instead));
            }
        }
        if let Some(why) = self.functions.depends_on_order(&lower) {
            return Err(not_yet(&name.to_uppercase(), place).hint(why));
        }
        let window = ["tumble", "hop", "cumulate", "session", "descriptor", TABLE_ARGUMENT];
        let known = self.functions.scalars.contains_key(&lower) || self.functions.aggregates.contains_key(&lower);
        let aggregate = self.functions.aggregates.contains_key(&lower);
        if known && !aggregate {
            // The planner would leave these out without a word.
            let distinct = matches!(&function.args, FunctionArguments::List(list) if list.duplicate_treatment.is_some());
            let what = if function.filter.is_some() { Some("FILTER") } else { distinct.then_some("DISTINCT") };
            if let Some(what) = what {
                let text = format!("{what} belongs to an aggregate, and {} is none", name.to_uppercase());
                return Err(Fault::new(text).at(place).hint("write CASE WHEN ... END for a condition"));
            }
        }
        let spelled = super::spelling::is_spelled(&lower);
        // `map` and `make_map` are the planner's.
        if !known && !spelled && !window.contains(&lower.as_str()) && !["map", "make_map"].contains(&lower.as_str()) {
            let fault = Fault::new(format!("function \"{name}\" is not known")).at(place);
            let names = self.functions.scalars.keys().chain(self.functions.aggregates.keys());
            let mut names: Vec<&str> = names.map(String::as_str).collect();
            names.sort_unstable();
            return Err(match super::function::substitute(&lower) {
                Some(hint) => fault.hint(hint),
                None => fault.nearest(&lower, names),
            });
        }
        Ok(())
    }
}
