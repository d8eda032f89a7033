//! Window table functions: TUMBLE and HOP as relations of the plan.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion_common::{Column, DFSchema, DFSchemaRef, TableReference};
use datafusion_expr::logical_plan::{Extension, UserDefinedLogicalNodeCore};
use datafusion_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion_sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, Spanned, TableFactor};

use super::dialect::TABLE_ARGUMENT;
use super::fault::{Fault, Place, Result};

pub(super) const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

/// Rows of the input, once per window that they lie in, with the window's columns behind their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub input: LogicalPlan,
    /// The DESCRIPTOR.
    pub time: Column,
    pub place: Option<(u64, u64, u64)>,
    pub size_micros: i64,
    pub slide_micros: i64,
    pub offset_micros: i64,
    /// Columns of the input that stay: former window columns are hidden by the new ones.
    pub kept: Vec<usize>,
    pub schema: DFSchemaRef,
}

impl Window {
    pub fn place(&self) -> Option<Place> {
        self.place.map(|(line, column, width)| Place { line, column, width })
    }

    pub fn function(&self) -> &'static str {
        if self.size_micros == self.slide_micros { "TUMBLE" } else { "HOP" }
    }

    fn new(input: LogicalPlan, time: Column, shape: Shape, place: Option<Place>) -> Result<Window> {
        let index = input.schema().index_of_column(&time)?;
        let zone = match input.schema().field(index).data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            other => {
                return Err(
                    Fault::new(format!("column \"{}\" is {}, not a time", time.name, super::types::sql_name(other))).at(place)
                );
            }
        };
        let mut kept = Vec::new();
        let mut fields: Vec<(Option<TableReference>, Arc<Field>)> = Vec::new();
        for (n, (qualifier, field)) in input.schema().iter().enumerate() {
            if !WINDOW_COLUMNS.contains(&field.name().as_str()) {
                kept.push(n);
                fields.push((qualifier.cloned(), Arc::clone(field)));
            }
        }
        // The new columns belong to the same relation, so that `w.window_start` finds them.
        let qualifier = fields.first().and_then(|(q, _)| q.clone());
        for name in WINDOW_COLUMNS {
            let field = Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, zone.clone()), false);
            fields.push((qualifier.clone(), Arc::new(field)));
        }
        let schema = Arc::new(DFSchema::new_with_metadata(fields, Default::default())?);
        let Shape { size_micros, slide_micros, offset_micros } = shape;
        let place = place.map(|p| (p.line, p.column, p.width));
        Ok(Window { input, time, place, size_micros, slide_micros, offset_micros, kept, schema })
    }
}

impl Hash for Window {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.time.hash(state);
        (self.size_micros, self.slide_micros, self.offset_micros).hash(state);
    }
}

impl PartialOrd for Window {
    fn partial_cmp(&self, other: &Window) -> Option<Ordering> {
        let key = |w: &Window| (w.size_micros, w.slide_micros, w.offset_micros);
        Some(key(self).cmp(&key(other))).filter(|o| *o != Ordering::Equal || self == other)
    }
}

impl UserDefinedLogicalNodeCore for Window {
    fn name(&self) -> &str {
        "Window"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.time.clone())]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} by {}", self.function(), self.time)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> datafusion_common::Result<Window> {
        let Some(input) = inputs.pop() else { return Err(Fault::new("a window needs an input").into()) };
        let shape = Shape { size_micros: self.size_micros, slide_micros: self.slide_micros, offset_micros: self.offset_micros };
        let mut window = Window::new(input, self.time.clone(), shape, self.place())?;
        // Types of the input may have changed, names and qualifiers have not.
        if window.schema.fields() == self.schema.fields() {
            window.schema = Arc::clone(&self.schema);
        }
        Ok(window)
    }
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    size_micros: i64,
    slide_micros: i64,
    offset_micros: i64,
}

/// Finds window functions among the relations of a query.
#[derive(Debug)]
pub(super) struct Windows;

impl RelationPlanner for Windows {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> datafusion_common::Result<RelationPlanning> {
        let (name, args, alias) = match relation {
            TableFactor::TableFunction { expr: ast::Expr::Function(call), alias } => {
                let ast::Function { name, args: FunctionArguments::List(list), .. } = call else {
                    return Err(not_a_window(&call.name).into());
                };
                (name, list.args, alias)
            }
            TableFactor::TableFunction { expr, .. } => {
                return Err(Fault::new("TABLE( ) holds a window function").at(Place::of(expr.span())).hint(SHAPE).into());
            }
            TableFactor::Table { name, args: Some(args), alias, .. } => (name, args.args, alias),
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        let plan = plan_window(&name, args, context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

const SHAPE: &str = "write TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE))";

fn not_a_window(name: &ObjectName) -> Fault {
    let shown = name.to_string();
    let place = Place::of(name.span());
    match shown.to_uppercase().as_str() {
        "CUMULATE" | "SESSION" => {
            Fault::new(format!("{} windows are not in this release", shown.to_uppercase())).at(place).hint("use TUMBLE or HOP")
        }
        _ => Fault::new(format!("table function \"{shown}\" is not known")).at(place).nearest(&shown, ["TUMBLE", "HOP"]),
    }
}

/// The arguments of a window function by name.
#[derive(Default)]
struct Arguments {
    data: Option<ast::Expr>,
    time: Option<ast::Expr>,
    /// `SIZE` and `SLIDE`, or the intervals in their order.
    size: Option<ast::Expr>,
    slide: Option<ast::Expr>,
    offset: Option<ast::Expr>,
}

fn plan_window(
    name: &ObjectName,
    args: Vec<FunctionArg>,
    context: &mut dyn RelationPlannerContext,
) -> datafusion_common::Result<LogicalPlan> {
    let place = Place::of(name.span());
    let hop = match name.to_string().to_uppercase().as_str() {
        "TUMBLE" => false,
        "HOP" => true,
        _ => return Err(not_a_window(name).into()),
    };
    let arguments = arguments(hop, args, place)?;
    let missing = |what: &str| {
        let hint =
            if hop { "write HOP(TABLE s, DESCRIPTOR(ts), INTERVAL '<slide>' MINUTE, INTERVAL '<size>' MINUTE)" } else { SHAPE };
        Fault::new(format!("{} needs {what}", name.to_string().to_uppercase())).at(place).hint(hint)
    };
    let data = arguments.data.ok_or_else(|| missing("its input, TABLE <name>"))?;
    let time = arguments.time.ok_or_else(|| missing("DESCRIPTOR(<time column>)"))?;
    let size = arguments.size.ok_or_else(|| missing("its size"))?;
    let length = |expr: &ast::Expr, what: &str| -> Result<i64> {
        let place = Place::of(expr.span()).or(place);
        let micros = super::interval::micros(expr).map_err(|f| f.at(place))?;
        if micros <= 0 {
            return Err(Fault::new(format!("the {what} of a window must be above zero")).at(place));
        }
        if micros % 1000 != 0 {
            return Err(Fault::new(format!("the {what} of a window is a whole number of milliseconds")).at(place));
        }
        Ok(micros)
    };
    let size_micros = length(&size, "size")?;
    let slide_micros = match (&arguments.slide, hop) {
        (Some(slide), _) => length(slide, "slide")?,
        (None, false) => size_micros,
        (None, true) => return Err(missing("a slide and a size").into()),
    };
    let offset_micros = match &arguments.offset {
        None => 0,
        Some(expr) => super::interval::micros(expr).map_err(|f| f.at(Place::of(expr.span()).or(place)))?,
    };
    if offset_micros % 1000 != 0 {
        return Err(Fault::new("the offset of a window is a whole number of milliseconds").at(place).into());
    }
    if size_micros / slide_micros > 100_000 {
        return Err(Fault::new("each row would lie in more than 100000 windows")
            .at(place)
            .hint("HOP takes the slide before the size")
            .into());
    }
    let input = plan_input(data, context)?;
    let column = descriptor(&time, place)?;
    let time_place = Place::of(column.span).or(place);
    let time = match context.sql_to_expr(ast::Expr::Identifier(column), input.schema())? {
        Expr::Column(column) => column,
        _ => return Err(Fault::new("DESCRIPTOR takes a column").at(time_place).into()),
    };
    // Resolves, or names what is near.
    Expr::Column(time.clone()).get_type(input.schema())?;
    let shape = Shape { size_micros, slide_micros, offset_micros };
    let window = Window::new(input, time, shape, time_place)?;
    let plan = LogicalPlan::Extension(Extension { node: Arc::new(window) });
    LogicalPlanBuilder::from(plan).build()
}

fn arguments(hop: bool, args: Vec<FunctionArg>, place: Option<Place>) -> Result<Arguments> {
    let mut found = Arguments::default();
    for (positional, arg) in args.into_iter().enumerate() {
        let arg_place = Place::of(arg.span()).or(place);
        let (name, value) = match arg {
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => (Some(name.value.to_uppercase()), expr),
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => (None, expr),
            _ => return Err(Fault::new("this is not an argument of a window").at(arg_place).hint(SHAPE)),
        };
        let slot = match (&name, positional, hop) {
            (Some(name), ..) => name.as_str(),
            (None, 0, _) => "DATA",
            (None, 1, _) => "TIMECOL",
            (None, 2, true) => "SLIDE",
            (None, 3, true) | (None, 2, false) => "SIZE",
            (None, 4, true) | (None, 3, false) => "OFFSET",
            _ => return Err(Fault::new("one argument too many").at(arg_place).hint(SHAPE)),
        };
        let place_of_slot = match slot {
            "DATA" => &mut found.data,
            "TIMECOL" => &mut found.time,
            "SIZE" => &mut found.size,
            "SLIDE" if hop => &mut found.slide,
            "OFFSET" => &mut found.offset,
            other => {
                let known = if hop {
                    vec!["DATA", "TIMECOL", "SLIDE", "SIZE", "OFFSET"]
                } else {
                    vec!["DATA", "TIMECOL", "SIZE", "OFFSET"]
                };
                return Err(Fault::new(format!("argument \"{other}\" is not known")).at(arg_place).nearest(other, known));
            }
        };
        if place_of_slot.replace(value).is_some() {
            return Err(Fault::new(format!("argument {slot} is given twice")).at(arg_place));
        }
    }
    Ok(found)
}

/// `TABLE name`, a name alone, or a query in parentheses.
fn plan_input(data: ast::Expr, context: &mut dyn RelationPlannerContext) -> datafusion_common::Result<LogicalPlan> {
    let place = Place::of(data.span());
    let name = match data {
        ast::Expr::Subquery(subquery) => {
            return context.plan(TableFactor::Derived { lateral: false, subquery, alias: None, sample: None });
        }
        ast::Expr::Nested(inner) => return plan_input(*inner, context),
        ast::Expr::Identifier(ident) => ObjectName::from(vec![ident]),
        ast::Expr::CompoundIdentifier(parts) => ObjectName::from(parts),
        ast::Expr::Function(call) if call.name.to_string() == TABLE_ARGUMENT => match call.args {
            FunctionArguments::List(mut list) => match list.args.pop() {
                Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::CompoundIdentifier(parts)))) => {
                    ObjectName::from(parts)
                }
                _ => return Err(Fault::new("TABLE needs a name").at(place).into()),
            },
            _ => return Err(Fault::new("TABLE needs a name").at(place).into()),
        },
        _ => return Err(Fault::new("the input of a window is TABLE <name>").at(place).hint(SHAPE).into()),
    };
    context.plan(TableFactor::Table {
        name,
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    })
}

fn descriptor(time: &ast::Expr, place: Option<Place>) -> Result<ast::Ident> {
    let wrong = || Fault::new("the time of a window is DESCRIPTOR(<column>)").at(Place::of(time.span()).or(place)).hint(SHAPE);
    let ast::Expr::Function(call) = time else { return Err(wrong()) };
    if !call.name.to_string().eq_ignore_ascii_case("DESCRIPTOR") {
        return Err(wrong());
    }
    let FunctionArguments::List(list) = &call.args else { return Err(wrong()) };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::Identifier(column)))] => Ok(column.clone()),
        _ => Err(wrong()),
    }
}
