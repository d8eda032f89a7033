//! Functions: DataFusion's where they mean what Flink means, ours where they would not, and what is refused.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Int64Type, TimestampMillisecondType};
use datafusion_common::cast::as_int64_array;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::function::AccumulatorArgs;
use datafusion_expr::planner::ExprPlanner;
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, BinaryExpr, Case, Cast, ColumnarValue, Expr, ExprSchemable, Operator,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use super::fault::Fault;
use super::types::{UTC, instant_millis};

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
const WITHHELD: [&str; 16] = [
    "date_format",
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
        for function in [ScalarUDF::from(ToTimestampLtz::new())].into_iter().chain(udfs.iter().cloned()) {
            insert(&mut scalars, Arc::new(function));
        }
        let mut aggregates = HashMap::new();
        let library = datafusion_functions_aggregate::all_default_aggregate_functions();
        let ours = [Arc::new(AggregateUDF::from(FlinkSum::new())), Arc::new(AggregateUDF::from(FlinkAvg::new()))];
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

/// What to write instead of a clock or a random number; `None` for all other functions.
pub(super) fn nondeterministic(name: &str) -> Option<&'static str> {
    Some(match name {
        "now"
        | "current_timestamp"
        | "localtimestamp"
        | "current_row_timestamp"
        | "unix_timestamp"
        | "current_time"
        | "localtime" => "use the event time: the watermark's column, or a column ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'",
        "proctime" => "there is no processing time: use the event time, a column ts TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'",
        "current_date" | "today" => "use the date of the event time: CAST(ts AS DATE)",
        "random" | "rand" | "rand_integer" => "hash a column of the record: md5(key)",
        "uuid" | "gen_random_uuid" => "build an id from the record: its topic, partition and offset are METADATA columns",
        _ => return None,
    })
}

/// Functions that other engines have: what to write here.
pub(super) fn substitute(name: &str) -> Option<&'static str> {
    Some(match name.to_lowercase().as_str() {
        "date_format" => "Flink's patterns are Java's: write to_char(ts, '%Y-%m-%d %H:%M:%S')",
        "from_unixtime" => "write to_char(to_timestamp_seconds(n), '%Y-%m-%d %H:%M:%S')",
        "to_date" => "write CAST(text AS DATE)",
        "to_unixtime" => "write date_part('epoch', ts)",
        "sha224" | "sha256" | "sha384" | "sha512" => "write encode(digest(text, 'sha256'), 'hex')",
        "if" => "write CASE WHEN condition THEN a ELSE b END",
        "mod" => "write a % b",
        "truncate" => "write trunc(n, digits)",
        "locate" => "write strpos(text, part)",
        "regexp_extract" => "write (regexp_match(text, pattern))[1]",
        "split_index" => "write split_part(text, separator, n): it counts from 1",
        "timestampdiff" => "subtract the times: date_part('epoch', b) - date_part('epoch', a)",
        "timestampadd" => "write ts + INTERVAL '1' DAY",
        "dayofweek" => "write date_part('dow', ts)",
        "dayofmonth" => "write date_part('day', ts)",
        "year" | "quarter" | "month" | "week" | "hour" | "minute" | "second" => "write EXTRACT(unit FROM ts)",
        "json_value" | "json_query" | "json_exists" => "JSON functions are not in this release",
        "to_base64" => "write encode(bytes, 'base64')",
        "from_base64" => "write decode(text, 'base64')",
        "latest_by_offset" => "write LAST_VALUE(x)",
        "earliest_by_offset" => "write FIRST_VALUE(x)",
        "collect_list" | "collect_set" | "collect" => {
            "collecting aggregates are not in this release: their result depends on the order of rows"
        }
        "ucase" => "write upper(text)",
        "lcase" => "write lower(text)",
        "len" => "write char_length(text)",
        "stringtotimestamp" => "write to_timestamp(text)",
        "session_start" | "hop_start" | "tumble_start" | "windowstart" => "write window_start, of TABLE(TUMBLE(...))",
        "session_end" | "hop_end" | "tumble_end" | "windowend" => "write window_end, of TABLE(TUMBLE(...))",
        "tumble" | "hop" | "cumulate" | "session" => {
            "windows are table functions: FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE))"
        }
        _ => return None,
    })
}

/// Gives functions that Flink also has Flink's meaning.
pub(super) fn as_flink(expr: Expr, schema: &DFSchema) -> datafusion_common::Result<Transformed<Expr>> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return Ok(Transformed::no(expr)) };
    let null_if_any = |args: &[Expr], value: Expr| {
        let any = args.iter().cloned().map(Expr::is_null).reduce(Expr::or);
        match any {
            Some(any) => Expr::Case(Case {
                expr: None,
                when_then_expr: vec![(Box::new(Expr::is_false(any)), Box::new(value))],
                else_expr: None,
            }),
            None => value,
        }
    };
    let call = |args: Vec<Expr>| Expr::ScalarFunction(ScalarFunction { func: Arc::clone(&func), args });
    Ok(match (func.name(), args.len()) {
        // NULL if any part is; the library leaves NULLs out.
        ("concat", n) if n > 0 && !is_list(&args[0], schema) => {
            let texts = args.into_iter().map(|arg| match arg.get_type(schema) {
                Ok(DataType::Utf8) => arg,
                _ => Expr::Cast(Cast::new(Box::new(arg), DataType::Utf8)),
            });
            let joined = texts.reduce(|a, b| Expr::BinaryExpr(BinaryExpr::new(Box::new(a), Operator::StringConcat, Box::new(b))));
            Transformed::yes(joined.unwrap_or_else(|| lit("")))
        }
        ("greatest" | "least", _) => Transformed::yes(null_if_any(&args, call(args.clone()))),
        // One argument: the natural logarithm.
        ("log", 1) => {
            let argument = Expr::Cast(Cast::new(Box::new(args[0].clone()), DataType::Float64));
            Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(datafusion_functions::math::ln(), vec![argument])))
        }
        // All matches, not the first.
        ("regexp_replace", 3) => {
            let mut args = args;
            args.push(lit("g"));
            Transformed::yes(call(args))
        }
        ("to_timestamp", 1) => Transformed::yes(Expr::Cast(Cast::new(
            Box::new(call(args)),
            DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None),
        ))),
        ("to_timestamp", _) => {
            if let Some(Expr::Literal(ScalarValue::Utf8(Some(pattern)), _)) = args.get(1)
                && !pattern.contains('%')
            {
                let fault = Fault::new(format!("to_timestamp: \"{pattern}\" is not a pattern here"));
                return Err(fault.hint("Flink's patterns are Java's: write '%Y-%m-%d %H:%M:%S'").into());
            }
            Transformed::yes(Expr::Cast(Cast::new(
                Box::new(call(args)),
                DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None),
            )))
        }
        _ => Transformed::no(call(args)),
    })
}

fn is_list(expr: &Expr, schema: &DFSchema) -> bool {
    matches!(expr.get_type(schema), Ok(DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)))
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

/// `TO_TIMESTAMP_LTZ(number, 0 | 3)`: seconds or milliseconds since the epoch.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ToTimestampLtz {
    signature: Signature,
}

impl ToTimestampLtz {
    fn new() -> ToTimestampLtz {
        ToTimestampLtz { signature: Signature::exact(vec![DataType::Int64, DataType::Int64], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ToTimestampLtz {
    fn name(&self) -> &str {
        "to_timestamp_ltz"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(instant_millis())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> datafusion_common::Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (numbers, precisions) = (as_int64_array(&arrays[0])?, as_int64_array(&arrays[1])?);
        let instants = precisions.iter().enumerate().map(|(row, precision)| instant(numbers, row, precision));
        let instants = instants.collect::<datafusion_common::Result<TimestampMillisecondArray>>()?.with_timezone(UTC);
        Ok(ColumnarValue::Array(Arc::new(instants) as ArrayRef))
    }
}

fn instant(numbers: &Int64Array, row: usize, precision: Option<i64>) -> datafusion_common::Result<Option<i64>> {
    let Some(precision) = precision else { return Ok(None) };
    if numbers.is_null(row) {
        return Ok(None);
    }
    let number: <Int64Type as arrow::datatypes::ArrowPrimitiveType>::Native = numbers.value(row);
    let millis: Option<<TimestampMillisecondType as arrow::datatypes::ArrowPrimitiveType>::Native> = match precision {
        0 => number.checked_mul(1000),
        3 => Some(number),
        _ => return Err(DataFusionError::Execution(format!("to_timestamp_ltz: a precision of {precision} is neither 0 nor 3"))),
    };
    match millis {
        Some(millis) => Ok(Some(millis)),
        None => Err(DataFusionError::Execution(format!("to_timestamp_ltz: {number} seconds are out of range"))),
    }
}

/// SUM with the types of this planner; the operator computes it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FlinkSum {
    signature: Signature,
}

impl FlinkSum {
    fn new() -> FlinkSum {
        FlinkSum { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for FlinkSum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> datafusion_common::Result<Vec<DataType>> {
        let [argument] = types else { return Err(Fault::new("SUM takes one argument").into()) };
        Ok(vec![match argument {
            DataType::Null | DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => DataType::Int64,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
            DataType::Decimal128(..) | DataType::Decimal256(..) => argument.clone(),
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
            other => return Err(no_numbers("SUM", other)),
        }])
    }

    fn return_type(&self, types: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(match self.coerce_types(types)?.swap_remove(0) {
            DataType::Decimal128(_, s) => DataType::Decimal128(38, s),
            DataType::Decimal256(_, s) => DataType::Decimal256(76, s),
            other => other,
        })
    }

    fn accumulator(&self, _: AccumulatorArgs) -> datafusion_common::Result<Box<dyn Accumulator>> {
        Err(DataFusionError::NotImplemented("the operator sums".into()))
    }
}

/// AVG with Flink's types: of integers an integer (toward zero), of decimals DECIMAL(38, max(6, s)); the operator computes it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FlinkAvg {
    signature: Signature,
}

impl FlinkAvg {
    fn new() -> FlinkAvg {
        FlinkAvg { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for FlinkAvg {
    fn name(&self) -> &str {
        "avg"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> datafusion_common::Result<Vec<DataType>> {
        let [argument] = types else { return Err(Fault::new("AVG takes one argument").into()) };
        Ok(vec![match argument {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => argument.clone(),
            DataType::UInt8 | DataType::UInt16 => DataType::Int32,
            DataType::Null | DataType::UInt32 | DataType::UInt64 => DataType::Int64,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
            DataType::Decimal128(..) | DataType::Decimal256(..) => argument.clone(),
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
            other => return Err(no_numbers("AVG", other)),
        }])
    }

    fn return_type(&self, types: &[DataType]) -> datafusion_common::Result<DataType> {
        Ok(match self.coerce_types(types)?.swap_remove(0) {
            DataType::Decimal128(_, s) => DataType::Decimal128(38, s.max(6)),
            DataType::Decimal256(_, s) => DataType::Decimal256(76, s.max(6)),
            other => other,
        })
    }

    fn accumulator(&self, _: AccumulatorArgs) -> datafusion_common::Result<Box<dyn Accumulator>> {
        Err(DataFusionError::NotImplemented("the operator averages".into()))
    }
}

fn no_numbers(function: &str, data_type: &DataType) -> DataFusionError {
    Fault::new(format!("{function} of {} is not known: it takes numbers", super::types::sql_name(data_type))).into()
}

/// Whether the argument of COUNT is a literal that is never NULL: `COUNT(*)`, `COUNT(1)`.
pub(super) fn counts_rows(args: &[Expr]) -> bool {
    match args {
        [] => true,
        [Expr::Literal(value, _)] => !value.is_null(),
        _ => false,
    }
}
