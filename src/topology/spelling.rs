//! Flink's spelling of expressions in terms of the planner's: EXTRACT, FLOOR TO, TIMESTAMPADD, IF, MOD, numbers.
//!
//! The tree is changed before it is planned; places stay those of the file where the nodes keep them.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion_sql::sqlparser::ast::{
    self, AccessExpr, BinaryOperator, CaseWhen, CastKind, CeilFloorKind, DataType, DateTimeField, ExactNumberInfo, Expr,
    Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Spanned, Value,
};
use datafusion_sql::sqlparser::tokenizer::Span;

use super::fault::{Fault, Place, Result};
use super::function::Unit;

/// Functions that exist only here: in no list of the planner.
const SPELLED: [&str; 11] =
    ["if", "mod", "year", "quarter", "month", "week", "hour", "minute", "second", "dayofmonth", "dayofyear"];

/// Whether a name (in lower case) is one of those.
pub(super) fn is_spelled(name: &str) -> bool {
    SPELLED.contains(&name) || name == "dayofweek"
}

/// Rewrites all expressions of a query or an expression.
pub(super) fn planned(node: &mut impl ast::VisitMut) -> Result<()> {
    let flow = ast::visit_expressions_mut(node, |expr| match rewrite(expr) {
        Ok(()) => ControlFlow::Continue(()),
        Err(fault) => ControlFlow::Break(fault.at(Place::of(expr.span()))),
    });
    match flow {
        ControlFlow::Break(fault) => Err(fault),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Where a name of a column, field or function stands first.
pub(super) fn place_of(node: &impl ast::Visit, name: &str) -> Option<Place> {
    let named = |ident: &Ident| ident.value.eq_ignore_ascii_case(name).then(|| Place::of(ident.span)).flatten();
    let flow = ast::visit_expressions(node, |expr| {
        let place = match expr {
            Expr::Identifier(ident) => named(ident),
            Expr::CompoundIdentifier(parts) => parts.iter().find_map(named),
            Expr::CompoundFieldAccess { access_chain, .. } => access_chain.iter().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(ident)) => named(ident),
                _ => None,
            }),
            Expr::Function(call) => call.name.0.iter().find_map(|part| part.as_ident().and_then(named)),
            // These have names of their own in the planner.
            Expr::Substring { expr, .. } if name == "substr" => Place::of(expr.span()),
            Expr::Floor { expr, .. } if name == "floor" => Place::of(expr.span()),
            Expr::Ceil { expr, .. } if name == "ceil" => Place::of(expr.span()),
            Expr::Trim { expr, .. } if name.ends_with("trim") => Place::of(expr.span()),
            Expr::Position { expr, .. } if name == "strpos" => Place::of(expr.span()),
            Expr::Extract { expr, .. } if name == "date_part" => Place::of(expr.span()),
            _ => None,
        };
        match place {
            Some(place) => ControlFlow::Break(place),
            None => ControlFlow::Continue(()),
        }
    });
    match flow {
        ControlFlow::Break(place) => Some(place),
        ControlFlow::Continue(()) => None,
    }
}

/// Where the clause stands that a message is about.
pub(super) fn clause_of(query: &ast::Query, message: &str) -> Option<Place> {
    let ast::SetExpr::Select(select) = &*query.body else { return None };
    let clause = if message.starts_with("HAVING") {
        select.having.as_ref()
    } else if message.starts_with("a condition") {
        select.selection.as_ref()
    } else {
        None
    };
    clause.and_then(|expr| Place::of(expr.span()))
}

fn rewrite(expr: &mut Expr) -> Result<()> {
    let new = match expr {
        Expr::CompoundFieldAccess { root, access_chain } => {
            fields_of_elements(root, access_chain);
            return Ok(());
        }
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => number(text, value.span)?,
            _ => None,
        },
        Expr::Extract { field, expr, .. } => Some(extracted(&field.to_string(), (**expr).clone())?),
        Expr::Substring { expr, substring_from, substring_for, .. } => {
            let from = substring_from.as_deref().cloned().unwrap_or_else(|| integer("1"));
            let length = substring_for.as_deref().cloned();
            Some(call("substr", [(**expr).clone(), from].into_iter().chain(length).collect()))
        }
        Expr::Floor { expr, field } => to_unit("floor_to", field, expr)?,
        Expr::Ceil { expr, field } => to_unit("ceil_to", field, expr)?,
        Expr::Function(call) => function(call)?,
        _ => None,
    };
    if let Some(new) = new {
        *expr = new;
    }
    Ok(())
}

/// `items[1].sku`: the planner takes a field behind an element, or of an expression, only as a string.
fn fields_of_elements(root: &Expr, chain: &mut [AccessExpr]) {
    let named = matches!(root, Expr::Identifier(_));
    for access in chain.iter_mut().skip_while(|access| named && matches!(access, AccessExpr::Dot(_))) {
        if let AccessExpr::Dot(field) = access
            && let Expr::Identifier(name) = field
        {
            *field = text(&name.value, name.span);
        }
    }
}

/// Exact numbers have Flink's precision (`0.5` is DECIMAL(2, 1)), those with an exponent are DOUBLE.
fn number(digits: &str, span: Span) -> Result<Option<Expr>> {
    let data_type = if digits.contains(['e', 'E']) {
        DataType::Double(ExactNumberInfo::None)
    } else if let Some((whole, fraction)) = digits.split_once('.') {
        let (precision, scale) = ((whole.len() + fraction.len()) as u64, fraction.len() as u64);
        if precision > 38 {
            return Err(Fault::new(format!("{digits} has {precision} digits: a DECIMAL has at most 38")));
        }
        if precision == 0 {
            return Ok(None);
        }
        DataType::Decimal(ExactNumberInfo::PrecisionAndScale(precision, scale as i64))
    } else {
        // The sign stands apart: -9223372036854775808 is read as a whole.
        return match digits.parse::<u64>() {
            Ok(n) if n <= 1 << 63 => Ok(None),
            _ => Err(Fault::new(format!("{digits} is out of range: a BIGINT ends at {}", i64::MAX))
                .hint(format!("write CAST('{digits}' AS DECIMAL({}, 0))", digits.len().min(38)))),
        };
    };
    Ok(Some(cast(text(digits, span), data_type)))
}

/// A part of a time as BIGINT; Sunday is day 1 of a week.
fn extracted(field: &str, time: Expr) -> Result<Expr> {
    let field = field.to_uppercase();
    let part = match field.as_str() {
        "YEAR" | "QUARTER" | "MONTH" | "WEEK" | "DAY" | "DOY" | "DOW" | "HOUR" | "MINUTE" | "SECOND" | "EPOCH" => {
            field.to_lowercase()
        }
        "DAYOFMONTH" => "day".into(),
        "DAYOFYEAR" => "doy".into(),
        "DAYOFWEEK" => "dow".into(),
        _ => {
            return Err(Fault::new(format!("EXTRACT({field} FROM ...) is not in this release"))
                .hint("units are YEAR, QUARTER, MONTH, WEEK, DAY, DOY, DOW, HOUR, MINUTE, SECOND and EPOCH"));
        }
    };
    let value = call("date_part", vec![text(&part, Span::empty()), time]);
    let value = if part == "epoch" { call("floor", vec![value]) } else { value };
    let value = cast(value, DataType::BigInt(None));
    Ok(if part == "dow" { nested(value, BinaryOperator::Plus, cast(integer("1"), DataType::BigInt(None))) } else { value })
}

/// `FLOOR(time TO unit)`.
fn to_unit(name: &str, kind: &CeilFloorKind, expr: &Expr) -> Result<Option<Expr>> {
    let field = match kind {
        CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) => return Ok(None),
        CeilFloorKind::DateTimeField(field) => field.to_string(),
        CeilFloorKind::Scale(_) => return Err(Fault::new("FLOOR and CEIL take one number").hint("write ROUND(x, 2)")),
    };
    match Unit::named(&field) {
        Some(_) if !field.eq_ignore_ascii_case("WEEK") => Ok(Some(call(name, vec![text(&field, Span::empty()), expr.clone()]))),
        _ => Err(Fault::new(format!("FLOOR and CEIL to {field} are not in this release"))
            .hint("units are YEAR, QUARTER, MONTH, DAY, HOUR, MINUTE, SECOND and MILLISECOND")),
    }
}

fn function(function: &mut Function) -> Result<Option<Expr>> {
    let name = function.name.to_string().to_lowercase();
    let FunctionArguments::List(list) = &mut function.args else { return Ok(None) };
    if name == "timestampadd" || name == "timestampdiff" {
        return unit_argument(&name, list).map(|()| None);
    }
    if !is_spelled(&name) {
        return Ok(None);
    }
    let args = positional(&name, list)?;
    Ok(Some(match (name.as_str(), args.as_slice()) {
        ("if", [condition, then, otherwise]) => Expr::Case {
            case_token: AttachedToken::empty(),
            end_token: AttachedToken::empty(),
            operand: None,
            conditions: vec![CaseWhen { condition: condition.clone(), result: then.clone() }],
            else_result: Some(Box::new(otherwise.clone())),
        },
        ("mod", [left, right]) => nested(left.clone(), BinaryOperator::Modulo, right.clone()),
        (part, [time]) if part != "if" && part != "mod" => extracted(part, time.clone())?,
        (_, given) => {
            let wanted = match name.as_str() {
                "if" => 3,
                "mod" => 2,
                _ => 1,
            };
            return Err(Fault::new(format!("{} takes {wanted} arguments, not {}", name.to_uppercase(), given.len())));
        }
    }))
}

fn positional(name: &str, list: &FunctionArgumentList) -> Result<Vec<Expr>> {
    let args = list.args.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr.clone()),
        other => Err(Fault::new(format!("{other} is no argument of {}", name.to_uppercase()))),
    });
    args.collect()
}

/// The unit, which the parser takes for a column, as a text.
fn unit_argument(name: &str, list: &mut FunctionArgumentList) -> Result<()> {
    let shown = name.to_uppercase();
    let hint = "units are YEAR, QUARTER, MONTH, WEEK, DAY, HOUR, MINUTE and SECOND";
    match list.args.first_mut() {
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(unit))) => {
            let span = unit.span();
            let named = unit.to_string();
            if Unit::named(&named).is_none() {
                return Err(Fault::new(format!("{shown}: {named} is not a unit")).at(Place::of(span)).hint(hint));
            }
            *unit = text(&named, span);
            Ok(())
        }
        _ => Err(Fault::new(format!("{shown} begins with a unit")).hint(hint)),
    }
}

fn text(value: &str, span: Span) -> Expr {
    Expr::Value(Value::SingleQuotedString(value.to_owned()).with_span(span))
}

fn integer(digits: &str) -> Expr {
    Expr::Value(Value::Number(digits.to_owned(), false).with_empty_span())
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn nested(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::Nested(Box::new(Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }))
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
