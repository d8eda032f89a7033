//! What the planner says without a place or in its own types, in our words.

use std::str::FromStr;

use arrow::datatypes::DataType;

use super::fault::Fault;
use super::types::sql_name;

/// The planner's message as one of ours; `None`: it may stand as it is. Names in it are quoted, so that their place can be found.
pub(super) fn of(said: &str) -> Option<Fault> {
    let first = said.lines().next().unwrap_or_default();
    // "Invalid function 'f'. Did you mean 'g'?"
    if let Some((name, rest)) = between(said, "Invalid function '", "'") {
        return Some(unknown_function(name, rest.split('\'').nth(1)));
    }
    // "... No function matches the given name and argument types 'upper(Int64)'. ..."
    if let Some((call, _)) = between(said, "the given name and argument types '", "'.") {
        return Some(arguments(call));
    }
    // "Function 'substr' failed to match any signature, errors: ..."
    if let Some((name, rest)) = between(first, "Function '", "'")
        && (rest.starts_with(" failed to match") || rest.starts_with(" requires") || rest.starts_with(" expect"))
    {
        return Some(Fault::new(format!("function \"{name}\" does not take these arguments")));
    }
    if let Some((left, _)) = between(first, "Cannot infer common argument type for ", " operation ") {
        let operation = first.rsplit(" operation ").next().unwrap_or_default();
        let fault = Fault::new(format!("{} is not known", shown_operation(operation)));
        return Some(match left {
            "logical boolean" => fault.hint("AND and OR take conditions: compare a number with <> 0"),
            _ => fault.hint("CAST one of them to the other's type"),
        });
    }
    if let Some((held, _)) = between(first, "' returning ", "\n").or_else(|| between(first, "' returning ", ""))
        && first.starts_with("Cannot create filter with non-boolean predicate")
    {
        return Some(Fault::new(format!("a condition is {}, not a truth value", shown_type(held))).hint("compare it: x <> 0"));
    }
    if first.starts_with("Projections require unique expression names") {
        // "... the expression \"LAST_VALUE(v.a) AS b\" at position 0 and \"v.b\" at position 2 have the same name. ..."
        let (expression, _) = between(first, "the expression \"", "\" at position").unwrap_or_default();
        let (_, name) = expression.rsplit_once(" AS ").or_else(|| expression.rsplit_once('.')).unwrap_or(("", expression));
        return Some(Fault::new(format!("two columns have the name \"{name}\"")).hint("give one of them another name with AS"));
    }
    if let Some((held, _)) = between(first, "- cannot be used with ", "") {
        return Some(Fault::new(format!("- takes a number, not {}", shown_type(held))).hint("CAST(text AS BIGINT)"));
    }
    if let Some((held, _)) = between(first, "NOT cannot be used with ", "") {
        return Some(Fault::new(format!("NOT takes a condition, not {}", shown_type(held))).hint("compare it: x <> 0"));
    }
    if let Some((types, _)) = between(first, "Unsupported CAST from ", "")
        && let Some((from, to)) = types.split_once(" to ")
    {
        let text = format!("CAST of {} to {} is not known", shown_type(from), shown_type(to));
        return Some(Fault::new(text).hint("CAST it to another type first"));
    }
    if let Some((column, _)) = between(first, "'", "' must appear in GROUP BY clause") {
        let name = column.rsplit('.').next().unwrap_or(column);
        return Some(
            Fault::new(format!("column \"{name}\" is neither in GROUP BY nor inside an aggregate"))
                .hint(format!("add it to GROUP BY, or write LAST_VALUE({name})")),
        );
    }
    if first.starts_with("UNION queries have different number of columns") {
        return Some(Fault::new("the SELECTs of a UNION ALL have different numbers of columns").hint("name the columns of each"));
    }
    if first.starts_with("aggregate function calls cannot be nested")
        || first.starts_with("Aggregate function calls cannot be nested")
    {
        return Some(Fault::new("an aggregate inside an aggregate").hint("aggregate in a window first, then its results"));
    }
    if first.starts_with("HAVING clause references") {
        return Some(
            Fault::new("HAVING names a column that is neither in GROUP BY nor inside an aggregate")
                .hint("write WHERE, or group by it"),
        );
    }
    if let Some((word, _)) = between(first, "No infix parser for token Word(Word { value: \"", "\"") {
        return Some(Fault::new(format!("unexpected {word}")));
    }
    first.starts_with("Unsupported ast node").then(|| Fault::new("an expression of this query is not in this release"))
}

/// ksqlDB's columns that every stream has there.
pub(super) fn pseudo_column(name: &str) -> Option<&'static str> {
    Some(match name.to_uppercase().as_str() {
        "ROWTIME" => "ROWTIME is ksqlDB's: declare it on the stream, rowtime TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'",
        "ROWPARTITION" => "ROWPARTITION is ksqlDB's: declare it on the stream, rowpartition INT METADATA FROM 'partition'",
        "ROWOFFSET" => "ROWOFFSET is ksqlDB's: declare it on the stream, rowoffset BIGINT METADATA FROM 'offset'",
        "ROWKEY" => "ROWKEY is ksqlDB's: name the key's columns with 'key.fields'",
        "WINDOWSTART" => "WINDOWSTART is ksqlDB's: write window_start, of TABLE(TUMBLE(...))",
        "WINDOWEND" => "WINDOWEND is ksqlDB's: write window_end, of TABLE(TUMBLE(...))",
        "PROCTIME" => "there is no processing time: use the event time",
        _ => return None,
    })
}

fn unknown_function(name: &str, near: Option<&str>) -> Fault {
    let fault = Fault::new(format!("function \"{name}\" is not known"));
    match super::function::substitute(name) {
        Some(hint) => fault.hint(hint),
        None => match near {
            Some(near) if crate::error::nearest(name, [near]).is_some() => fault.hint(format!("did you mean \"{near}\"?")),
            _ => fault,
        },
    }
}

/// `upper(Int64)`.
fn arguments(call: &str) -> Fault {
    let (name, types) = call.split_once('(').unwrap_or((call, ""));
    let types = types.strip_suffix(')').unwrap_or(types);
    let fault = Fault::new(format!("function \"{name}\" does not take ({})", shown_types(types)));
    match types {
        "" => fault.hint("give it its arguments"),
        _ => fault.hint("CAST the arguments, or look at their number"),
    }
}

/// `Utf8 AND Int64`.
fn shown_operation(operation: &str) -> String {
    let words: Vec<String> = operation.split(' ').map(shown_type).collect();
    words.join(" ")
}

fn shown_types(types: &str) -> String {
    // Commas inside of parentheses belong to one type.
    let (mut depth, mut from, mut shown) = (0, 0, Vec::new());
    for (at, letter) in types.char_indices().chain([(types.len(), ',')]) {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                shown.push(shown_type(types[from..at].trim()));
                from = (at + 1).min(types.len());
            }
            _ => {}
        }
    }
    shown.join(", ")
}

fn shown_type(text: &str) -> String {
    DataType::from_str(text).map_or_else(|_| text.to_owned(), |data_type| sql_name(&data_type))
}

/// What stands between two parts of a text, and what follows; an empty end is the end of the text.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<(&'a str, &'a str)> {
    let (_, rest) = text.split_once(start)?;
    if end.is_empty() { Some((rest, "")) } else { rest.split_once(end) }
}
