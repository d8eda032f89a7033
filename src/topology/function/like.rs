//! LIKE: escapes as Flink has them.

use datafusion_common::ScalarValue;
use datafusion_common::tree_node::Transformed;
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{Expr, Like, lit};

use super::meaning::Rewritten;
use crate::topology::fault::Fault;

/// Flink's LIKE has no escape unless one is named; the library's is always a backslash.
pub(super) fn escaped(mut like: Like) -> Rewritten {
    match &*like.pattern {
        Expr::Literal(value, metadata) => {
            if let Some(Some(text)) = value.try_as_str() {
                let pattern = like_pattern(text, like.escape_char)?;
                like.pattern = Box::new(Expr::Literal(ScalarValue::Utf8(Some(pattern)), metadata.clone()));
            }
        }
        _ if like.escape_char.is_some() => {
            return Err(Fault::new("LIKE ... ESCAPE takes a constant pattern").hint("leave ESCAPE out").into());
        }
        pattern => {
            let replace =
                ScalarFunction::new_udf(datafusion_functions::string::replace(), vec![pattern.clone(), lit("\\"), lit("\\\\")]);
            like.pattern = Box::new(Expr::ScalarFunction(replace));
        }
    }
    like.escape_char = None;
    Ok(Transformed::yes(Expr::Like(like)))
}

fn like_pattern(text: &str, escape: Option<char>) -> datafusion_common::Result<String> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            letter if Some(letter) == escape => match letters.next() {
                Some(next) if ['%', '_'].contains(&next) => out.extend(['\\', next]),
                Some(next) if Some(next) == escape && next == '\\' => out.push_str("\\\\"),
                Some(next) if Some(next) == escape => out.push(next),
                _ => {
                    return Err(Fault::new(format!("'{text}': after the escape character stands %, _ or itself"))
                        .hint("choose another character: LIKE '...' ESCAPE '!'")
                        .into());
                }
            },
            '\\' => out.push_str("\\\\"),
            letter => out.push(letter),
        }
    }
    Ok(out)
}
