//! Expressions mean what Flink means: one row in, one value out.
//!
//! The third column is what Flink 1.20 gives: type and value. Where Flink wraps an overflow around, or makes a decimal that does not
//! fit NULL, this engine rejects the row: such cases say so. What can't be made equal is in `refusals.rs`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    ListArray, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Float64Type, Int32Type};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill::operator::filter::FilterSpec;
use tidemill::operator::project::ProjectSpec;
use tidemill::topology::{Operation, Topology};

use super::shop::{Subjects, compiled};

const STREAM: &str = "CREATE STREAM t (WATERMARK FOR ts AS ts) WITH ('topic' = 't', 'format' = 'avro', 'key.format' = 'string', 'key.fields' = 'text');\n";

fn contract() -> Subjects {
    Subjects::default().add(
        "t-value",
        r#"{"type":"record","name":"T","fields":[
            {"name":"seven","type":"int"},
            {"name":"minus","type":"int"},
            {"name":"zero","type":"int"},
            {"name":"least","type":"int"},
            {"name":"most","type":"long"},
            {"name":"big","type":"long"},
            {"name":"half","type":"double"},
            {"name":"huge","type":"double"},
            {"name":"single","type":"float"},
            {"name":"nan","type":"double"},
            {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
            {"name":"rate","type":{"type":"bytes","logicalType":"decimal","precision":5,"scale":3}},
            {"name":"long","type":{"type":"bytes","logicalType":"decimal","precision":38,"scale":10}},
            {"name":"text","type":"string"},
            {"name":"empty","type":"string"},
            {"name":"digits","type":"string"},
            {"name":"nothing","type":["null","string"],"default":null},
            {"name":"none","type":["null","int"],"default":null},
            {"name":"yes","type":"boolean"},
            {"name":"bytes","type":"bytes"},
            {"name":"ts","type":{"type":"long","logicalType":"timestamp-millis"}},
            {"name":"local","type":{"type":"long","logicalType":"local-timestamp-millis"}},
            {"name":"day","type":{"type":"int","logicalType":"date"}},
            {"name":"list","type":{"type":"array","items":["null","int"]}}]}"#,
    )
}

/// 2026-03-31T13:45:30.250Z, a Tuesday.
const TIME: i64 = 1_774_964_730_250;

fn value(name: &str) -> ArrayRef {
    let decimal = |unscaled: i128, p: u8, s: i8| -> ArrayRef {
        Arc::new(Decimal128Array::from(vec![unscaled]).with_precision_and_scale(p, s).expect("it fits"))
    };
    match name {
        "seven" => Arc::new(Int32Array::from(vec![7])),
        "minus" => Arc::new(Int32Array::from(vec![-7])),
        "zero" => Arc::new(Int32Array::from(vec![0])),
        "least" => Arc::new(Int32Array::from(vec![i32::MIN])),
        "most" => Arc::new(Int64Array::from(vec![i64::MAX])),
        "big" => Arc::new(Int64Array::from(vec![5_000_000_000])),
        "half" => Arc::new(Float64Array::from(vec![-2.5])),
        "huge" => Arc::new(Float64Array::from(vec![1e300])),
        "single" => Arc::new(Float32Array::from(vec![0.1])),
        "nan" => Arc::new(Float64Array::from(vec![f64::NAN])),
        "price" => decimal(1234, 10, 2),
        "rate" => decimal(-2500, 5, 3),
        "long" => decimal(99_999_999_999_999_999_999_999_999_990_000_000_000, 38, 10),
        "text" => Arc::new(StringArray::from(vec!["Grüße, Welt"])),
        "empty" => Arc::new(StringArray::from(vec![""])),
        "digits" => Arc::new(StringArray::from(vec![" 12.9 "])),
        "nothing" => Arc::new(StringArray::from(vec![None::<&str>])),
        "none" => Arc::new(Int32Array::from(vec![None])),
        "yes" => Arc::new(BooleanArray::from(vec![true])),
        "bytes" => Arc::new(BinaryArray::from(vec!["hé".as_bytes()])),
        "ts" => Arc::new(TimestampMillisecondArray::from(vec![TIME]).with_timezone("+00:00")),
        "local" => Arc::new(TimestampMillisecondArray::from(vec![-1])),
        "day" => Arc::new(Date32Array::from(vec![20_514])),
        "list" => Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(3), None])])),
        other => panic!("no value of {other}"),
    }
}

/// Expression, Flink's type, Flink's value. `ERROR ...`: the row is a bad record, and why.
const CASES: &[(&str, &str, &str)] = &[
    // Whole numbers: division cuts towards zero, the remainder has the sign of the dividend.
    ("seven / 2", "INT", "3"),
    ("minus / 2", "INT", "-3"),
    ("seven / -2", "INT", "-3"),
    ("seven % 4", "INT", "3"),
    ("minus % 4", "INT", "-3"),
    ("seven % -4", "INT", "3"),
    ("MOD(minus, 4)", "INT", "-3"),
    ("seven / zero", "INT", "ERROR divide by zero"),
    ("seven % zero", "INT", "ERROR divide by zero"),
    ("none / zero", "INT", "NULL"),
    ("seven + 1", "INT", "8"),
    ("seven + 3000000000", "BIGINT", "3000000007"),
    ("big / seven", "BIGINT", "714285714"),
    ("1", "INT", "1"),
    ("-1", "INT", "-1"),
    ("3000000000", "BIGINT", "3000000000"),
    ("-9223372036854775808", "BIGINT", "-9223372036854775808"),
    // Flink wraps around.
    ("least - 1", "INT", "ERROR overflow"),
    ("-least", "INT", "ERROR overflow"),
    ("ABS(least)", "INT", "ERROR overflow"),
    ("most + 1", "BIGINT", "ERROR overflow"),
    ("big * big", "BIGINT", "ERROR overflow"),
    // Doubles.
    ("half / zero", "DOUBLE", "-Infinity"),
    ("half / 2", "DOUBLE", "-1.25"),
    ("seven / 2e0", "DOUBLE", "3.5"),
    ("1e3", "DOUBLE", "1000.0"),
    ("single * 2", "FLOAT", "0.2"),
    ("single * half", "DOUBLE", "-0.2500000037252903"),
    ("POWER(seven, 2)", "DOUBLE", "49.0"),
    ("SQRT(seven + 2)", "DOUBLE", "3.0"),
    ("SQRT(minus)", "DOUBLE", "NaN"),
    ("LN(1)", "DOUBLE", "0.0"),
    ("LN(minus)", "DOUBLE", "NaN"),
    ("ASIN(seven)", "DOUBLE", "NaN"),
    ("LN(zero)", "DOUBLE", "-Infinity"),
    ("LOG(2, 8)", "DOUBLE", "3.0"),
    ("EXP(0)", "DOUBLE", "1.0"),
    // Decimals: precision and scale of LogicalTypeMerging.
    ("price + rate", "DECIMAL(12, 3)", "9.840"),
    ("price - rate", "DECIMAL(12, 3)", "14.840"),
    ("price * rate", "DECIMAL(16, 5)", "-30.85000"),
    ("price / rate", "DECIMAL(19, 8)", "-4.93600000"),
    ("price % rate", "DECIMAL(5, 3)", "2.340"),
    ("-price % rate", "DECIMAL(5, 3)", "-2.340"),
    ("price / 3", "DECIMAL(21, 13)", "4.1133333333333"),
    ("price / -3", "DECIMAL(21, 13)", "-4.1133333333333"),
    ("2 / rate", "DECIMAL(19, 6)", "-0.800000"),
    ("price * 2", "DECIMAL(21, 2)", "24.68"),
    ("price * big", "DECIMAL(30, 2)", "61700000000.00"),
    ("price + 1", "DECIMAL(13, 2)", "13.34"),
    ("price * 0.5", "DECIMAL(13, 3)", "6.170"),
    ("price + half", "DOUBLE", "9.84"),
    ("price / zero", "DECIMAL(21, 13)", "ERROR divide by zero"),
    ("price / none", "DECIMAL(21, 13)", "NULL"),
    ("long * long", "DECIMAL(38, 6)", "ERROR overflow"),
    ("long * 0.5", "DECIMAL(38, 8)", "4999999999999999999999999999.50000000"),
    ("long / 3", "DECIMAL(38, 10)", "3333333333333333333333333333.0000000000"),
    ("long + long", "DECIMAL(38, 9)", "19999999999999999999999999998.000000000"),
    ("0.5", "DECIMAL(2, 1)", "0.5"),
    ("12.50", "DECIMAL(4, 2)", "12.50"),
    ("1 / 3.0", "DECIMAL(17, 6)", "0.333333"),
    ("-price", "DECIMAL(10, 2)", "-12.34"),
    ("ABS(rate)", "DECIMAL(5, 3)", "2.500"),
    // Rounding.
    ("ROUND(2.345e0, 2)", "DOUBLE", "2.35"),
    ("ROUND(half)", "DOUBLE", "-3.0"),
    ("ROUND(1234.5e0, -2)", "DOUBLE", "1200.0"),
    ("ROUND(price, 1)", "DECIMAL(10, 1)", "12.3"),
    ("ROUND(rate)", "DECIMAL(3, 0)", "-3"),
    ("ROUND(price, -1)", "DECIMAL(9, 0)", "10"),
    ("ROUND(price, 5)", "DECIMAL(10, 2)", "12.34"),
    ("ROUND(seven, 1)", "INT", "7"),
    ("ROUND(seven, -1)", "INT", "10"),
    ("FLOOR(rate)", "DECIMAL(5, 0)", "-3"),
    ("CEIL(rate)", "DECIMAL(5, 0)", "-2"),
    ("CEILING(price)", "DECIMAL(10, 0)", "13"),
    ("FLOOR(half)", "DOUBLE", "-3.0"),
    ("CEIL(half)", "DOUBLE", "-2.0"),
    ("FLOOR(seven)", "INT", "7"),
    // Texts: characters, not bytes; positions from 1, 0 is 1, below 0 from the end.
    ("SUBSTRING(text, 1, 3)", "STRING", "Grü"),
    ("SUBSTRING(text FROM 3 FOR 2)", "STRING", "üß"),
    ("SUBSTRING(text, 0, 2)", "STRING", "Gr"),
    ("SUBSTRING(text, -4)", "STRING", "Welt"),
    ("SUBSTRING(text, -4, 2)", "STRING", "We"),
    ("SUBSTRING(text, -20, 2)", "STRING", ""),
    ("SUBSTRING(text, 20)", "STRING", ""),
    ("SUBSTRING(text, 2, 0)", "STRING", ""),
    ("SUBSTRING(text, 2, -1)", "STRING", "NULL"),
    ("SUBSTRING(nothing, 1)", "STRING", "NULL"),
    ("SUBSTR(text, 8)", "STRING", "Welt"),
    ("LEFT(text, 2)", "STRING", "Gr"),
    ("LEFT(text, -1)", "STRING", ""),
    ("RIGHT(text, 2)", "STRING", "lt"),
    ("RIGHT(text, -1)", "STRING", ""),
    ("POSITION('e' IN text)", "INT", "5"),
    ("POSITION('x' IN text)", "INT", "0"),
    ("POSITION('' IN text)", "INT", "1"),
    ("INSTR(text, 'W')", "INT", "8"),
    ("CHAR_LENGTH(text)", "INT", "11"),
    ("CHARACTER_LENGTH(empty)", "INT", "0"),
    ("TRIM(digits)", "STRING", "12.9"),
    ("TRIM(LEADING ' ' FROM digits)", "STRING", "12.9 "),
    ("TRIM(TRAILING ' ' FROM digits)", "STRING", " 12.9"),
    ("TRIM(BOTH 'tG' FROM text)", "STRING", "rüße, Wel"),
    ("LTRIM(digits)", "STRING", "12.9 "),
    ("RTRIM(digits)", "STRING", " 12.9"),
    ("BTRIM(digits)", "STRING", "12.9"),
    ("LPAD('hi', 4, '??')", "STRING", "??hi"),
    ("LPAD('hi', 1, '??')", "STRING", "h"),
    ("LPAD('hi', 5, 'ab')", "STRING", "abahi"),
    ("LPAD('hi', -1, 'ab')", "STRING", "NULL"),
    ("LPAD('hi', 5, '')", "STRING", "NULL"),
    ("RPAD('hi', 5, 'ab')", "STRING", "hiaba"),
    ("RPAD('hi', 0, 'ab')", "STRING", ""),
    ("SPLIT_INDEX('a,b,,d', ',', 1)", "STRING", "b"),
    ("SPLIT_INDEX('a,b,,d', ',', 2)", "STRING", ""),
    ("SPLIT_INDEX('a,b,,d', ',', 4)", "STRING", "NULL"),
    ("SPLIT_INDEX('a,b', ',', -1)", "STRING", "NULL"),
    ("SPLIT_INDEX(empty, ',', 0)", "STRING", "NULL"),
    ("UPPER(text)", "STRING", "GRÜSSE, WELT"),
    ("LOWER(text)", "STRING", "grüße, welt"),
    ("INITCAP('the quick-fox')", "STRING", "The Quick-Fox"),
    ("REPLACE(text, 'e', '_')", "STRING", "Grüß_, W_lt"),
    ("REVERSE('abc')", "STRING", "cba"),
    ("REPEAT('ab', 2)", "STRING", "abab"),
    ("REPEAT('ab', -1)", "STRING", ""),
    ("OVERLAY('abcdef' PLACING 'X' FROM 2 FOR 3)", "STRING", "aXef"),
    ("ASCII('abc')", "INT", "97"),
    ("CHR(97)", "STRING", "a"),
    ("CHR(353)", "STRING", "a"),
    ("MD5('')", "STRING", "d41d8cd98f00b204e9800998ecf8427e"),
    // NULL.
    ("CONCAT('a', nothing, 'b')", "STRING", "NULL"),
    ("CONCAT('a', 'b', 'c')", "STRING", "abc"),
    ("CONCAT(seven, half)", "STRING", "7-2.5"),
    ("CONCAT_WS('-', 'a', nothing, 'b')", "STRING", "a-b"),
    ("CONCAT_WS(nothing, 'a', 'b')", "STRING", "NULL"),
    ("'a' || nothing", "STRING", "NULL"),
    ("'a' || empty", "STRING", "a"),
    ("GREATEST(seven, none)", "INT", "NULL"),
    ("GREATEST(seven, minus, 2)", "INT", "7"),
    ("LEAST(seven, price)", "DECIMAL(12, 2)", "7.00"),
    ("LEAST('b', 'a')", "STRING", "a"),
    ("COALESCE(none, seven)", "INT", "7"),
    ("COALESCE(none, big)", "BIGINT", "5000000000"),
    ("COALESCE(none, price)", "DECIMAL(12, 2)", "12.34"),
    ("COALESCE(none, half)", "DOUBLE", "-2.5"),
    ("COALESCE(nothing, 'x')", "STRING", "x"),
    ("IFNULL(none, 3)", "INT", "3"),
    ("NULLIF(seven, 7)", "INT", "NULL"),
    ("CASE WHEN none > 1 THEN 'a' ELSE 'b' END", "STRING", "b"),
    ("CASE seven WHEN 7 THEN 1 ELSE 2.5 END", "DECIMAL(11, 1)", "1.0"),
    ("IF(seven > 5, 'many', 'few')", "STRING", "many"),
    ("none IS NULL", "BOOLEAN", "true"),
    ("none = none", "BOOLEAN", "NULL"),
    ("none IS DISTINCT FROM none", "BOOLEAN", "false"),
    ("none IN (1, 2)", "BOOLEAN", "NULL"),
    ("seven NOT IN (1, none)", "BOOLEAN", "NULL"),
    ("seven BETWEEN 9 AND 1", "BOOLEAN", "false"),
    ("(none > 1) IS UNKNOWN", "BOOLEAN", "true"),
    ("yes OR none > 1", "BOOLEAN", "true"),
    // A decimal that meets a double becomes one.
    ("huge > 0.5", "BOOLEAN", "true"),
    ("huge BETWEEN 0.5 AND 2.5", "BOOLEAN", "false"),
    ("huge IN (0.5, price)", "BOOLEAN", "false"),
    ("single = 0.1", "BOOLEAN", "false"),
    ("COALESCE(nan, 0.5)", "DOUBLE", "NaN"),
    ("GREATEST(huge, 0.5)", "DOUBLE", "1e300"),
    ("CASE WHEN yes THEN huge ELSE 0.5 END", "DOUBLE", "1e300"),
    ("price = 12.34", "BOOLEAN", "true"),
    ("price = 12.340", "BOOLEAN", "true"),
    ("price < 12.3401", "BOOLEAN", "true"),
    ("price > 12", "BOOLEAN", "true"),
    // Texts compare by their bytes.
    ("'Z' < 'a'", "BOOLEAN", "true"),
    ("'z' < 'ä'", "BOOLEAN", "true"),
    ("'a' = 'a '", "BOOLEAN", "false"),
    // LIKE has no escape unless one is named.
    ("'a_b' LIKE 'a_b'", "BOOLEAN", "true"),
    ("'axb' LIKE 'a\\_b'", "BOOLEAN", "false"),
    ("'a\\xb' LIKE 'a\\_b'", "BOOLEAN", "true"),
    ("'a_b' LIKE 'a!_b' ESCAPE '!'", "BOOLEAN", "true"),
    ("'axb' LIKE 'a!_b' ESCAPE '!'", "BOOLEAN", "false"),
    ("'a!b' LIKE 'a!!b' ESCAPE '!'", "BOOLEAN", "true"),
    ("'50%' LIKE '50\\%' ESCAPE '\\'", "BOOLEAN", "true"),
    ("text LIKE 'gr%'", "BOOLEAN", "false"),
    ("text LIKE '%ß_, %'", "BOOLEAN", "true"),
    ("'a\\' LIKE text || '\\'", "BOOLEAN", "false"),
    ("REGEXP('foobar', 'o+')", "BOOLEAN", "true"),
    ("REGEXP_REPLACE('foobar', 'o|a', '_')", "STRING", "f__b_r"),
    ("REGEXP_REPLACE('foobar', '(o+)(b)', '$2$1x')", "STRING", "fbooxar"),
    ("REGEXP_REPLACE('ab', 'b', '\\$')", "STRING", "a$"),
    ("STARTSWITH(text, 'Grü')", "BOOLEAN", "true"),
    // CAST.
    ("CAST(half AS INT)", "INT", "-2"),
    ("CAST(2.9e0 AS INT)", "INT", "2"),
    ("CAST(rate AS INT)", "INT", "-2"),
    ("CAST(price AS BIGINT)", "BIGINT", "12"),
    // Flink takes the nearest, or wraps around.
    ("CAST(huge AS INT)", "INT", "ERROR 1e300"),
    ("CAST(nan AS INT)", "INT", "ERROR NaN"),
    ("CAST(big AS INT)", "INT", "ERROR 5000000000"),
    ("TRY_CAST(big AS INT)", "INT", "NULL"),
    ("CAST(rate AS DECIMAL(3, 1))", "DECIMAL(3, 1)", "-2.5"),
    ("CAST(12.345 AS DECIMAL(4, 2))", "DECIMAL(4, 2)", "12.35"),
    // Flink gives NULL.
    ("CAST(price AS DECIMAL(3, 2))", "DECIMAL(3, 2)", "ERROR 12.34"),
    ("CAST(2.345e0 AS DECIMAL(4, 2))", "DECIMAL(4, 2)", "2.35"),
    ("CAST('12.345' AS DECIMAL(4, 2))", "DECIMAL(4, 2)", "12.35"),
    ("CAST(digits AS INT)", "INT", "12"),
    ("CAST('-7' AS BIGINT)", "BIGINT", "-7"),
    ("CAST('abc' AS INT)", "INT", "ERROR \"abc\""),
    ("CAST('' AS INT)", "INT", "ERROR \"\""),
    ("CAST('3000000000' AS INT)", "INT", "ERROR \"3000000000\""),
    ("TRY_CAST('abc' AS INT)", "INT", "NULL"),
    ("CAST(digits AS DOUBLE)", "DOUBLE", "12.9"),
    ("CAST('TRUE' AS BOOLEAN)", "BOOLEAN", "true"),
    ("CAST('no' AS BOOLEAN)", "BOOLEAN", "false"),
    ("CAST('on' AS BOOLEAN)", "BOOLEAN", "ERROR \"on\""),
    ("CAST(seven AS BOOLEAN)", "BOOLEAN", "true"),
    ("CAST(zero AS BOOLEAN)", "BOOLEAN", "false"),
    ("CAST(yes AS INT)", "INT", "1"),
    ("CAST(yes AS STRING)", "STRING", "TRUE"),
    ("CAST(half AS STRING)", "STRING", "-2.5"),
    ("CAST(seven / 2e0 AS STRING)", "STRING", "3.5"),
    ("CAST(1e0 AS STRING)", "STRING", "1.0"),
    ("CAST(1e7 AS STRING)", "STRING", "1.0E7"),
    ("CAST(123456.789e0 AS STRING)", "STRING", "123456.789"),
    ("CAST(0.001e0 AS STRING)", "STRING", "0.001"),
    ("CAST(0.00012e0 AS STRING)", "STRING", "1.2E-4"),
    ("CAST(huge AS STRING)", "STRING", "1.0E300"),
    ("CAST(nan AS STRING)", "STRING", "NaN"),
    ("CAST(single AS STRING)", "STRING", "0.1"),
    ("CAST(price AS STRING)", "STRING", "12.34"),
    ("CAST(bytes AS STRING)", "STRING", "hé"),
    ("CAST(ts AS STRING)", "STRING", "2026-03-31 13:45:30.250"),
    ("CAST(local AS STRING)", "STRING", "1969-12-31 23:59:59.999"),
    ("CAST(CAST(ts AS TIMESTAMP(6)) AS STRING)", "STRING", "2026-03-31 13:45:30.250000"),
    ("CAST(day AS STRING)", "STRING", "2026-03-02"),
    ("CAST('2026-03-31 13:45:30.25' AS TIMESTAMP(3))", "TIMESTAMP(3)", "2026-03-31T13:45:30.250"),
    ("CAST('2026-03-31T13:45:30' AS TIMESTAMP(3))", "TIMESTAMP(3)", "2026-03-31T13:45:30"),
    ("CAST('2026-03-31' AS TIMESTAMP(3))", "TIMESTAMP(3)", "2026-03-31T00:00:00"),
    ("CAST(text AS TIMESTAMP(3))", "TIMESTAMP(3)", "ERROR Grüße"),
    ("TRY_CAST(text AS TIMESTAMP(3))", "TIMESTAMP(3)", "NULL"),
    ("CAST(text AS DATE)", "DATE", "ERROR Grüße"),
    ("CAST(ts AS DATE)", "DATE", "2026-03-31"),
    ("CAST(local AS DATE)", "DATE", "1969-12-31"),
    ("CAST(day AS TIMESTAMP(3))", "TIMESTAMP(3)", "2026-03-02T00:00:00"),
    ("CAST(ts AS TIMESTAMP(3))", "TIMESTAMP(3)", "2026-03-31T13:45:30.250"),
    ("DATE '2026-03-31'", "DATE", "2026-03-31"),
    ("TIMESTAMP '2026-03-31 13:45:30.25' = CAST(ts AS TIMESTAMP(3))", "BOOLEAN", "true"),
    ("ts > TIMESTAMP '2026-03-31 13:45:30'", "BOOLEAN", "true"),
    ("ts > '2026-03-31 13:45:30'", "BOOLEAN", "true"),
    // Parts of times.
    ("EXTRACT(YEAR FROM ts)", "BIGINT", "2026"),
    ("EXTRACT(QUARTER FROM ts)", "BIGINT", "1"),
    ("EXTRACT(WEEK FROM ts)", "BIGINT", "14"),
    ("EXTRACT(DOW FROM ts)", "BIGINT", "3"),
    ("EXTRACT(DOY FROM ts)", "BIGINT", "90"),
    ("EXTRACT(SECOND FROM ts)", "BIGINT", "30"),
    ("EXTRACT(EPOCH FROM ts)", "BIGINT", "1774964730"),
    ("EXTRACT(EPOCH FROM local)", "BIGINT", "-1"),
    ("EXTRACT(DAY FROM day)", "BIGINT", "2"),
    ("YEAR(ts)", "BIGINT", "2026"),
    ("DAYOFMONTH(ts)", "BIGINT", "31"),
    ("DAYOFWEEK(ts)", "BIGINT", "3"),
    ("HOUR(ts)", "BIGINT", "13"),
    // FLOOR and CEIL.
    ("FLOOR(ts TO MINUTE)", "TIMESTAMP_LTZ(3)", "2026-03-31T13:45:00Z"),
    ("CEIL(ts TO MINUTE)", "TIMESTAMP_LTZ(3)", "2026-03-31T13:46:00Z"),
    ("FLOOR(ts TO DAY)", "TIMESTAMP_LTZ(3)", "2026-03-31T00:00:00Z"),
    ("FLOOR(ts TO QUARTER)", "TIMESTAMP_LTZ(3)", "2026-01-01T00:00:00Z"),
    ("CEIL(ts TO MONTH)", "TIMESTAMP_LTZ(3)", "2026-04-01T00:00:00Z"),
    ("FLOOR(local TO HOUR)", "TIMESTAMP(3)", "1969-12-31T23:00:00"),
    ("FLOOR(day TO MONTH)", "DATE", "2026-03-01"),
    ("CEIL(FLOOR(ts TO YEAR) TO YEAR)", "TIMESTAMP_LTZ(3)", "2026-01-01T00:00:00Z"),
    // Sums and differences of times.
    ("TIMESTAMPADD(MONTH, -1, ts)", "TIMESTAMP_LTZ(3)", "2026-02-28T13:45:30.250Z"),
    ("TIMESTAMPADD(DAY, 1, ts)", "TIMESTAMP_LTZ(3)", "2026-04-01T13:45:30.250Z"),
    ("TIMESTAMPADD(WEEK, 1, day)", "DATE", "2026-03-09"),
    ("ts + INTERVAL '1' MONTH", "TIMESTAMP_LTZ(3)", "2026-04-30T13:45:30.250Z"),
    ("ts - INTERVAL '90' SECOND", "TIMESTAMP_LTZ(3)", "2026-03-31T13:44:00.250Z"),
    ("TIMESTAMPDIFF(MINUTE, TIMESTAMP '2026-03-31 13:00:00', ts)", "INT", "45"),
    ("TIMESTAMPDIFF(MINUTE, ts, TIMESTAMP '2026-03-31 13:00:00')", "INT", "-45"),
    ("TIMESTAMPDIFF(DAY, DATE '2026-02-28', DATE '2026-03-01')", "INT", "1"),
    ("TIMESTAMPDIFF(MONTH, TIMESTAMP '2026-01-31 00:00:00', TIMESTAMP '2026-02-28 00:00:00')", "INT", "1"),
    ("TIMESTAMPDIFF(MONTH, TIMESTAMP '2026-01-15 12:00:00', TIMESTAMP '2026-02-15 00:00:00')", "INT", "0"),
    ("TIMESTAMPDIFF(YEAR, DATE '2024-02-29', DATE '2026-02-27')", "INT", "1"),
    ("TIMESTAMPDIFF(SECOND, CAST(NULL AS TIMESTAMP(3)), ts)", "INT", "NULL"),
    // Patterns are Java's.
    ("DATE_FORMAT(ts, 'yyyy-MM-dd HH:mm:ss.SSS')", "STRING", "2026-03-31 13:45:30.250"),
    ("DATE_FORMAT(ts, 'dd.MM.yy')", "STRING", "31.03.26"),
    ("DATE_FORMAT(ts, 'yyyy''''MM')", "STRING", "2026'03"),
    ("DATE_FORMAT(ts, 'yyyyMMdd''T''HHmm')", "STRING", "20260331T1345"),
    ("DATE_FORMAT(ts, 'hh:mm a 100%')", "STRING", "01:45 PM 100%"),
    ("DATE_FORMAT(local, 'EEE, d MMM yyyy')", "STRING", "Wed, 31 Dec 1969"),
    ("TO_TIMESTAMP('2026-03-31 13:45:30')", "TIMESTAMP(3)", "2026-03-31T13:45:30"),
    ("TO_TIMESTAMP('31/03/2026', 'dd/MM/yyyy')", "TIMESTAMP(3)", "2026-03-31T00:00:00"),
    ("TO_TIMESTAMP('20260331 1345', 'yyyyMMdd HHmm')", "TIMESTAMP(3)", "2026-03-31T13:45:00"),
    ("TO_TIMESTAMP('nonsense')", "TIMESTAMP(3)", "NULL"),
    ("TO_TIMESTAMP_LTZ(big, 3)", "TIMESTAMP_LTZ(3)", "1970-02-27T20:53:20Z"),
    ("TO_TIMESTAMP_LTZ(seven, 0)", "TIMESTAMP_LTZ(3)", "1970-01-01T00:00:07Z"),
    // Lists.
    ("list[1]", "INT", "3"),
    ("list[2]", "INT", "NULL"),
    ("list[3]", "INT", "NULL"),
    ("list[minus]", "INT", "NULL"),
    ("list[zero + 1]", "INT", "3"),
    ("CARDINALITY(list)", "INT", "2"),
];

fn topology(query: &str) -> Result<Topology, String> {
    let sql = format!("{STREAM}CREATE SINK s WITH ('format' = 'avro');\nINSERT INTO s SELECT {query} FROM t;");
    compiled(&sql, &contract()).map_err(|e| e.to_string())
}

/// Type and value of the expression over the one row.
fn evaluated(expr: &str) -> (String, String) {
    let topology = match topology(&format!("{expr} AS x")) {
        Ok(topology) => topology,
        Err(refusal) => return ("refused".into(), refusal),
    };
    let source = &topology.sources[0];
    let columns = source.ingest.schema.fields().iter().map(|f| value(f.name())).collect();
    let rows = RecordBatch::try_new(Arc::clone(&source.ingest.schema), columns).unwrap_or_else(|e| panic!("{expr}: {e}"));
    let project: Vec<&ProjectSpec> = topology
        .nodes
        .iter()
        .filter_map(|n| match &n.operation {
            Operation::Project(spec) => Some(spec),
            _ => None,
        })
        .collect();
    let [project] = project.as_slice() else { panic!("{expr}: {} projections", project.len()) };
    let data_type = shown(project.schema.field(0).data_type());
    let result = project.exprs[0].evaluate(&rows).and_then(|v| v.into_array(1));
    match result {
        Err(error) => (data_type, format!("ERROR {}", error.strip_backtrace())),
        Ok(array) => {
            assert_eq!(array.data_type(), project.schema.field(0).data_type(), "{expr}");
            assert!(project.schema.field(0).is_nullable() || array.null_count() == 0, "{expr}: NULL in a column that has none");
            (data_type, text(&array))
        }
    }
}

fn text(array: &ArrayRef) -> String {
    if array.is_null(0) {
        return "NULL".into();
    }
    if let DataType::Float64 = array.data_type() {
        let number = arrow::array::AsArray::as_primitive::<Float64Type>(array).value(0);
        return match number {
            n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.into(),
            n => format!("{n:?}"),
        };
    }
    ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default()).expect("a type that can be shown").value(0).to_string()
}

fn shown(data_type: &DataType) -> String {
    use arrow::datatypes::TimeUnit::{Microsecond, Millisecond};
    match data_type {
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Utf8 => "STRING".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Date32 => "DATE".into(),
        DataType::Decimal128(p, s) => format!("DECIMAL({p}, {s})"),
        DataType::Timestamp(Millisecond, None) => "TIMESTAMP(3)".into(),
        DataType::Timestamp(Microsecond, None) => "TIMESTAMP(6)".into(),
        DataType::Timestamp(Millisecond, Some(_)) => "TIMESTAMP_LTZ(3)".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn expressions_mean_what_flink_means() {
    let mut failures = Vec::new();
    for (expr, data_type, expected) in CASES {
        let (given_type, given) = evaluated(expr);
        let same = match expected.strip_prefix("ERROR ") {
            Some(why) => given.starts_with("ERROR ") && given.to_lowercase().contains(&why.to_lowercase()),
            None => given == *expected,
        };
        if !same || given_type != *data_type {
            failures.push(format!("{expr}: {given_type} {given}, Flink gives {data_type} {expected}"));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), CASES.len(), failures.join("\n"));
}

/// Aggregate, Flink's type.
const AGGREGATES: &[(&str, &str)] = &[
    ("SUM(seven)", "INT"),
    ("SUM(big)", "BIGINT"),
    ("SUM(seven + 1)", "INT"),
    ("SUM(CASE WHEN yes THEN 1 ELSE 0 END)", "INT"),
    ("SUM(half)", "DOUBLE"),
    ("SUM(single)", "FLOAT"),
    ("SUM(price)", "DECIMAL(38, 2)"),
    ("SUM(price * 2)", "DECIMAL(38, 2)"),
    ("AVG(seven)", "INT"),
    ("AVG(big)", "BIGINT"),
    ("AVG(half)", "DOUBLE"),
    ("AVG(single)", "FLOAT"),
    ("AVG(price)", "DECIMAL(38, 6)"),
    ("AVG(long)", "DECIMAL(38, 10)"),
    ("COUNT(none)", "BIGINT"),
    ("COUNT(DISTINCT seven)", "BIGINT"),
    ("MIN(seven)", "INT"),
    ("MAX(price)", "DECIMAL(10, 2)"),
    ("MAX(ts)", "TIMESTAMP_LTZ(3)"),
    ("FIRST_VALUE(text)", "STRING"),
    ("LAST_VALUE(seven)", "INT"),
    ("STDDEV_POP(half)", "DOUBLE"),
    ("SUM(price) / COUNT(*)", "DECIMAL(38, 6)"),
    ("SUM(seven) / COUNT(*)", "BIGINT"),
];

#[test]
fn aggregates_have_flinks_types() {
    let mut failures = Vec::new();
    for (call, data_type) in AGGREGATES {
        let sql = format!(
            "{STREAM}CREATE SINK s (PRIMARY KEY (text)) WITH ('format' = 'avro');\nINSERT INTO s SELECT text, {call} AS x FROM t GROUP BY text;"
        );
        let topology = compiled(&sql, &contract()).unwrap_or_else(|e| panic!("{call}: {e}"));
        let given = shown(topology.sinks[0].schema.field(1).data_type());
        if given != *data_type {
            failures.push(format!("{call}: {given}, Flink gives {data_type}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Conditions, and whether the row passes: NULL does not.
const CONDITIONS: &[(&str, bool)] = &[
    ("seven > 5", true),
    ("none > 1", false),
    ("NOT (none > 1)", false),
    ("none > 1 OR seven = 7", true),
    ("price = 12.34", true),
    ("price = 12.340", true),
    ("price > 12.339999", true),
    ("seven = 7.0", true),
    ("half = -2.5", true),
    ("yes", true),
    ("day = '2026-03-02'", true),
    ("ts BETWEEN '2026-03-31 00:00:00' AND '2026-04-01 00:00:00'", true),
];

#[test]
fn conditions_pass_rows_as_in_flink() {
    for (condition, passes) in CONDITIONS {
        let topology =
            topology(&format!("text FROM (SELECT * FROM t WHERE {condition}) AS i UNION ALL SELECT text")).expect("it compiles");
        let source = &topology.sources[0];
        let columns = source.ingest.schema.fields().iter().map(|f| value(f.name())).collect();
        let rows = RecordBatch::try_new(Arc::clone(&source.ingest.schema), columns).expect("the source's columns");
        let filters: Vec<&FilterSpec> = topology
            .nodes
            .iter()
            .filter_map(|n| match &n.operation {
                Operation::Filter(spec) => Some(spec),
                _ => None,
            })
            .collect();
        assert_eq!(filters.len(), 1, "{condition}");
        let given = filters[0].conjuncts.iter().all(|conjunct| {
            let truth = conjunct.evaluate(&rows).and_then(|v| v.into_array(1)).expect("no error");
            let truth = arrow::array::AsArray::as_boolean(&truth);
            arrow::array::Array::is_valid(truth, 0) && truth.value(0)
        });
        assert_eq!(given, *passes, "{condition}");
    }
}
