//! SQL types to Arrow and back to words.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use datafusion_common::datatype::DataTypeExt;
use datafusion_expr::planner::TypePlanner;
use datafusion_sql::sqlparser::ast::{DataType as SqlType, ExactNumberInfo, Ident, ObjectName, ObjectNamePart, TimezoneInfo};
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use super::dialect::word;
use super::fault::{Fault, Place, Result};

/// The zone of every instant: Avro's `timestamp-*`, `TIMESTAMP_LTZ`.
pub(super) const UTC: &str = "+00:00";

/// `TIMESTAMP_LTZ(3)`.
pub(super) fn instant_millis() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some(UTC.into()))
}

/// Types inside expressions: CAST and typed literals.
#[derive(Debug)]
pub(super) struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> datafusion_common::Result<Option<FieldRef>> {
        Ok(Some(data_type(sql_type)?.into_nullable_field_ref()))
    }
}

/// The Arrow type that a SQL type stands for; refuses by name what is not known.
pub(super) fn data_type(sql: &SqlType) -> Result<DataType> {
    let not_known = || Fault::new(format!("type {sql} is not known"));
    let no_such_time = || not_known().hint("a time has 3, 6 or 9 digits of a second: TIMESTAMP(3), TIMESTAMP_LTZ(3)");
    Ok(match sql {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(_) => DataType::Int8,
        SqlType::SmallInt(_) => DataType::Int16,
        SqlType::Int(_) | SqlType::Integer(_) => DataType::Int32,
        SqlType::BigInt(_) => DataType::Int64,
        SqlType::Float(_) | SqlType::Real => DataType::Float32,
        SqlType::Double(ExactNumberInfo::None) | SqlType::DoublePrecision => DataType::Float64,
        SqlType::String(_) | SqlType::Text => DataType::Utf8,
        // Flink's STRING is VARCHAR(2147483647).
        SqlType::Varchar(None) => DataType::Utf8,
        SqlType::Varchar(Some(length)) if length.to_string() == "2147483647" => DataType::Utf8,
        SqlType::Varchar(Some(_)) | SqlType::Char(_) | SqlType::Character(_) | SqlType::CharacterVarying(_) => {
            return Err(Fault::new(format!("type {sql} is not known: texts have no length here")).hint("write STRING"));
        }
        SqlType::Bytes(_) | SqlType::Binary(None) | SqlType::Varbinary(None) => DataType::Binary,
        SqlType::Date => DataType::Date32,
        SqlType::Time(None | Some(0..=3), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            DataType::Time32(TimeUnit::Millisecond)
        }
        SqlType::Time(Some(4..=6), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => DataType::Time64(TimeUnit::Microsecond),
        SqlType::Timestamp(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            DataType::Timestamp(unit(*precision).ok_or_else(no_such_time)?, None)
        }
        SqlType::Timestamp(..) => {
            return Err(Fault::new(format!("type {sql} is not known")).hint("an instant is TIMESTAMP_LTZ(3)"));
        }
        SqlType::Decimal(info) | SqlType::Numeric(info) | SqlType::Dec(info) => {
            let (precision, scale) = match *info {
                ExactNumberInfo::None => (10, 0),
                ExactNumberInfo::Precision(p) => (p, 0),
                ExactNumberInfo::PrecisionAndScale(p, s) => (p, s),
            };
            match (u8::try_from(precision), i8::try_from(scale)) {
                (Ok(p @ 1..=38), Ok(s)) if s >= 0 && s as u8 <= p => DataType::Decimal128(p, s),
                _ => return Err(Fault::new(format!("type {sql}: a DECIMAL has 1 to 38 digits and no more behind the point"))),
            }
        }
        SqlType::Array(elem) => {
            use datafusion_sql::sqlparser::ast::ArrayElemTypeDef;
            match elem {
                ArrayElemTypeDef::AngleBracket(inner) | ArrayElemTypeDef::SquareBracket(inner, None) => {
                    DataType::List(Arc::new(Field::new("item", data_type(inner)?, true)))
                }
                _ => return Err(not_known()),
            }
        }
        SqlType::Custom(name, modifiers) if is_named(name, "TIMESTAMP_LTZ") => {
            let precision = match modifiers.as_slice() {
                [] => None,
                [one] => Some(one.parse::<u64>().map_err(|_| not_known())?),
                _ => return Err(not_known()),
            };
            DataType::Timestamp(unit(precision).ok_or_else(no_such_time)?, Some(UTC.into()))
        }
        other => {
            let text = other.to_string();
            let known = [
                "BOOLEAN",
                "TINYINT",
                "SMALLINT",
                "INT",
                "BIGINT",
                "FLOAT",
                "DOUBLE",
                "DECIMAL",
                "STRING",
                "BYTES",
                "DATE",
                "TIME",
                "TIMESTAMP",
                "TIMESTAMP_LTZ",
                "ARRAY",
                "MAP",
                "ROW",
            ];
            return Err(Fault::new(format!("type {text} is not known")).nearest(&text, known));
        }
    })
}

fn is_named(name: &ObjectName, expected: &str) -> bool {
    matches!(name.0.as_slice(), [ObjectNamePart::Identifier(Ident { value, .. })] if value.eq_ignore_ascii_case(expected))
}

/// The unit with so many digits of a second; Flink's default is 6. Others are refused: nothing here would cut the digits.
fn unit(precision: Option<u64>) -> Option<TimeUnit> {
    match precision.unwrap_or(6) {
        3 => Some(TimeUnit::Millisecond),
        6 => Some(TimeUnit::Microsecond),
        9 => Some(TimeUnit::Nanosecond),
        _ => None,
    }
}

/// A column's type in DDL, with `NOT NULL` and the composed types that the parser does not have. Returns the type and whether
/// it may be NULL.
pub(super) fn parse_type(parser: &mut Parser) -> Result<(DataType, bool)> {
    let token = parser.peek_token();
    let place = Place::of(token.span);
    let composed = match word(&token.token).as_deref() {
        Some(name @ ("ROW" | "ARRAY" | "MAP")) if parser.peek_nth_token(1).token == Token::Lt => name.to_owned(),
        Some("ROW") if parser.peek_nth_token(1).token == Token::LParen => "ROW(".to_owned(),
        _ => {
            let parsed = parser.parse_data_type().map_err(super::ddl::parse_fault)?;
            let data_type = data_type(&parsed).map_err(|fault| fault.at(place))?;
            return Ok((data_type, !parse_not_null(parser)?));
        }
    };
    parser.next_token();
    parser.next_token();
    let data_type = match composed.as_str() {
        "ARRAY" => {
            let (item, nullable) = parse_type(parser)?;
            DataType::List(Arc::new(Field::new("item", item, nullable)))
        }
        "MAP" => {
            let (key, _) = parse_type(parser)?;
            parser.expect_token(&Token::Comma).map_err(super::ddl::parse_fault)?;
            let (value, nullable) = parse_type(parser)?;
            map_type(key, value, nullable)
        }
        _ => {
            let mut fields = Vec::new();
            loop {
                let (name, _) = super::ddl::identifier(parser)?;
                let (item, nullable) = parse_type(parser)?;
                fields.push(Field::new(name, item, nullable));
                // Flink allows a comment on a field.
                if let Token::SingleQuotedString(_) = parser.peek_token().token {
                    parser.next_token();
                }
                if !parser.consume_token(&Token::Comma) {
                    break;
                }
            }
            DataType::Struct(Fields::from(fields))
        }
    };
    if composed == "ROW(" {
        parser.expect_token(&Token::RParen).map_err(super::ddl::parse_fault)?;
    } else {
        parser.expect_token(&Token::Gt).map_err(super::ddl::parse_fault)?;
    }
    Ok((data_type, !parse_not_null(parser)?))
}

fn parse_not_null(parser: &mut Parser) -> Result<bool> {
    let first = word(&parser.peek_token().token);
    let second = word(&parser.peek_nth_token(1).token);
    match (first.as_deref(), second.as_deref()) {
        (Some("NOT"), Some("NULL")) => {
            parser.next_token();
            parser.next_token();
            Ok(true)
        }
        (Some("NULL"), _) => {
            parser.next_token();
            Ok(false)
        }
        _ => Ok(false),
    }
}

pub(super) fn map_type(key: DataType, value: DataType, nullable: bool) -> DataType {
    let entry = Fields::from(vec![Field::new("key", key, false), Field::new("value", value, nullable)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry), false)), false)
}

/// The type as SQL writes it, for messages and `explain`.
pub(super) fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => "unsigned BIGINT".into(),
        DataType::Float16 | DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "BYTES".into(),
        DataType::Date32 | DataType::Date64 => "DATE".into(),
        DataType::Time32(unit) | DataType::Time64(unit) => format!("TIME({})", digits(unit)),
        DataType::Timestamp(unit, None) => format!("TIMESTAMP({})", digits(unit)),
        DataType::Timestamp(unit, Some(_)) => format!("TIMESTAMP_LTZ({})", digits(unit)),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".into(),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => {
            format!("DECIMAL({p}, {s})")
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::FixedSizeList(item, _) => {
            format!("ARRAY<{}>", sql_name(item.data_type()))
        }
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|f| format!("{} {}", f.name(), sql_name(f.data_type()))).collect();
            format!("ROW<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("MAP<{}, {}>", sql_name(fields[0].data_type()), sql_name(fields[1].data_type()))
            }
            _ => "MAP".into(),
        },
        DataType::Dictionary(_, value) => sql_name(value),
        other => other.to_string(),
    }
}

fn digits(unit: &TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// Equal but for names of list and map parts and for what may be NULL inside.
pub(super) fn same(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => same(a.data_type(), b.data_type()),
        (DataType::Map(a, _), DataType::Map(b, _)) => match (a.data_type(), b.data_type()) {
            (DataType::Struct(a), DataType::Struct(b)) if a.len() == b.len() => {
                a.iter().zip(b).all(|(a, b)| same(a.data_type(), b.data_type()))
            }
            _ => false,
        },
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && same(a.data_type(), b.data_type()))
        }
        _ => a == b,
    }
}

/// Whether every value of `from` is a value of `to`: what a column may be declared wider than its contract, and what an INSERT
/// converts without being asked.
pub(super) fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    let digits_of = |int: &DataType| match int {
        Int8 => 3,
        Int16 => 5,
        Int32 => 10,
        _ => 19,
    };
    match (from, to) {
        _ if same(from, to) => true,
        (Null, _) => true,
        (Int8, Int16 | Int32 | Int64) | (Int16, Int32 | Int64) | (Int32, Int64) => true,
        (Int8 | Int16 | Int32, Float64) | (Int8 | Int16, Float32) | (Float32, Float64) => true,
        (UInt8, Int16 | Int32 | Int64) | (UInt16, Int32 | Int64) | (UInt32, Int64) => true,
        // Counts and lengths come unsigned from some functions; one that does not fit fails on its row.
        (UInt64, Int64) => true,
        (Int8 | Int16 | Int32 | Int64, Decimal128(p, s)) => i32::from(*p) - i32::from(*s) >= digits_of(from),
        (Decimal128(p, s), Decimal128(q, t)) => t >= s && i32::from(*q) - i32::from(*t) >= i32::from(*p) - i32::from(*s),
        (Timestamp(a, za), Timestamp(b, zb)) => za.is_some() == zb.is_some() && digits(a) <= digits(b),
        (Time32(a) | Time64(a), Time32(b) | Time64(b)) => digits(a) <= digits(b),
        (Utf8 | Utf8View | LargeUtf8, Utf8) | (Binary | BinaryView | LargeBinary | FixedSizeBinary(_), Binary) => true,
        (Dictionary(_, value), to) => widens(value, to),
        _ => false,
    }
}

/// What a sink's column of this type becomes, so that Avro can hold it.
pub(super) fn storable(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Int8 | DataType::Int16 => DataType::Int32,
        DataType::Timestamp(TimeUnit::Second, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        other => other.clone(),
    }
}
