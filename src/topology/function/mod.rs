//! Functions: DataFusion's where they mean what Flink means, ours where they would not, and what is refused.

/// Fields and elements.
mod access;
/// SUM and AVG.
mod aggregate;
/// CAST.
mod cast;
/// Decimal arithmetic.
mod decimal;
/// What to write instead.
mod hint;
/// What goes with what.
mod kind;
/// LIKE.
mod like;
/// Rewriting of planned expressions.
mod meaning;
/// ROUND, FLOOR, CEIL.
mod number;
/// DATE_FORMAT and TO_TIMESTAMP.
mod pattern;
/// Regular expressions.
mod regular;
/// Functions on texts.
mod text;
/// Functions on times.
mod time;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::DFSchema;
use datafusion_common::tree_node::TreeNode;
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::planner::ExprPlanner;
use datafusion_expr::{AggregateUDF, Cast, Expr, ExprSchemable, ScalarUDF, Volatility};

pub(super) use aggregate::counts_rows;
pub(super) use hint::{nondeterministic, substitute};
pub(super) use kind::{no_arithmetic, one_kind};
pub(super) use meaning::typed;
pub(super) use time::Unit;

/// What a query may call.
#[derive(Debug)]
pub(super) struct Functions {
    pub scalars: HashMap<String, Arc<ScalarUDF>>,
    pub aggregates: HashMap<String, Arc<AggregateUDF>>,
    pub planners: Vec<Arc<dyn ExprPlanner>>,
    /// Names of aggregates that a user brought: their order is theirs to answer for.
    own: Vec<String>,
}

/// Functions of the library that are not offered: what they give differs from Flink's of the same name, or depends on a file.
const WITHHELD: [&str; 17] = [
    "arrow_typeof",
    "element_at",
    "from_unixtime",
    "to_date",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "input_file_name",
    "file_row_index",
    "version",
    "to_unixtime",
    "arrow_cast",
    "arrow_try_cast",
    "arrow_metadata",
    "with_metadata",
    "grouping",
];

/// Flink's names of functions that the library has under another.
const ALIASES: [(&str, &str); 5] = [
    ("ceiling", "ceil"),
    ("regexp", "regexp_like"),
    ("startswith", "starts_with"),
    ("endswith", "ends_with"),
    ("sign", "signum"),
];

/// Aggregates whose result depends on the order of rows, or that the engine can't hold.
const ORDERED: [(&str, &str); 12] = [
    ("any_value", "use FIRST_VALUE, LAST_VALUE, MIN or MAX"),
    ("array_agg", "its result depends on the order of rows"),
    ("string_agg", "its result depends on the order of rows"),
    ("listagg", "its result depends on the order of rows"),
    ("nth_value", "use FIRST_VALUE or LAST_VALUE"),
    ("approx_median", "use median: an approximation depends on the order of rows"),
    ("approx_percentile_cont", "use percentile_cont: an approximation depends on the order of rows"),
    ("approx_percentile_cont_with_weight", "an approximation depends on the order of rows"),
    ("corr", "its result depends on the order of rows"),
    ("covar_samp", "its result depends on the order of rows"),
    ("covar_pop", "its result depends on the order of rows"),
    ("grouping", "grouping sets are not in this release"),
];

impl Functions {
    pub fn new(udfs: &[ScalarUDF], udafs: &[AggregateUDF]) -> Functions {
        let mut scalars = HashMap::new();
        let library = datafusion_functions::all_default_functions().into_iter();
        for function in library.chain(datafusion_functions_nested::all_default_nested_functions()) {
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                if !WITHHELD.contains(&name) {
                    scalars.insert(name.to_owned(), Arc::clone(&function));
                }
            }
        }
        for (alias, name) in ALIASES {
            if let Some(function) = scalars.get(name).cloned() {
                scalars.insert(alias.to_owned(), function);
            }
        }
        for function in text::functions().chain(time::functions()).chain(pattern::functions()).chain(udfs.iter().cloned()) {
            insert(&mut scalars, Arc::new(function));
        }
        let mut aggregates = HashMap::new();
        let library = datafusion_functions_aggregate::all_default_aggregate_functions();
        let ours = aggregate::functions().map(Arc::new);
        for function in library.into_iter().chain(ours) {
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                aggregates.insert(name.to_owned(), Arc::clone(&function));
            }
        }
        aggregates.remove("mean");
        for (ours, theirs) in [("variance", "var"), ("every", "bool_and"), ("some", "bool_or")] {
            if let Some(function) = aggregates.get(theirs).cloned() {
                aggregates.insert(ours.to_owned(), function);
            }
        }
        let mut own = Vec::new();
        for function in udafs {
            own.push(function.name().to_owned());
            for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
                aggregates.insert(name.to_owned(), Arc::new(function.clone()));
            }
        }
        let planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(access::Access),
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions_nested::planner::NestedFunctionPlanner),
            Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
            Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
        ];
        Functions { scalars, aggregates, planners, own }
    }

    /// Whether the aggregate's result may depend on the order of rows, and what to say then.
    pub fn depends_on_order(&self, name: &str) -> Option<&'static str> {
        if self.own.iter().any(|own| own == name) {
            return None;
        }
        match ORDERED.iter().find(|(ordered, _)| *ordered == name) {
            Some((_, why)) => Some(why),
            None if name.starts_with("regr_") => Some("its result depends on the order of rows"),
            None => None,
        }
    }
}

fn insert(map: &mut HashMap<String, Arc<ScalarUDF>>, function: Arc<ScalarUDF>) {
    for name in function.aliases().iter().map(String::as_str).chain([function.name()]) {
        map.insert(name.to_owned(), Arc::clone(&function));
    }
}

/// Texts as views and unsigned counts would meet columns that are neither: they become STRING, BYTES and BIGINT where they arise.
pub(super) fn plain_types(expr: Expr, schema: &DFSchema) -> datafusion_common::Result<Expr> {
    let to = match expr.get_type(schema) {
        Ok(DataType::Utf8View | DataType::LargeUtf8) => DataType::Utf8,
        Ok(DataType::BinaryView | DataType::LargeBinary) => DataType::Binary,
        Ok(DataType::UInt64 | DataType::UInt32) => DataType::Int64,
        _ => return Ok(expr),
    };
    match expr {
        Expr::Alias(mut alias) => {
            alias.expr = Box::new(Expr::Cast(Cast::new(alias.expr, to)));
            Ok(Expr::Alias(alias))
        }
        other => Ok(Expr::Cast(Cast::new(Box::new(other), to))),
    }
}

/// Functions of users that answer differently each time, found in a plan.
pub(super) fn volatile(expr: &Expr) -> Option<String> {
    let mut found = None;
    // The closure never fails.
    let _ = expr.apply(|e| {
        if let Expr::ScalarFunction(ScalarFunction { func, .. }) = e
            && func.signature().volatility != Volatility::Immutable
        {
            found = Some(func.name().to_owned());
        }
        Ok(datafusion_common::tree_node::TreeNodeRecursion::Continue)
    });
    found
}
