//! A case as the files of a golden case: pipeline, contracts, inputs, expected rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine;
use serde_json::{Map, Value as Json, json};

use crate::case::{
    Aggregate, Arithmetic, Bad, Body, Call, Case, Compare, Expr, Function, GroupBy, Join, Line, Named, Relation, Select, Sink,
    Source, Type, Value, Window,
};
use crate::model::Expected;

/// Files by their path in the case's folder.
pub fn files(case: &Case, expected: &Expected) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    files.insert("pipeline.sql".to_owned(), pipeline(case));
    let contracts = contracts(case);
    for source in case.sources.iter().filter(|source| source.reads.is_none()) {
        files.insert(format!("input/{}.jsonl", source.name), lines(source, &contracts));
    }
    files.extend(contracts.into_iter().map(|(subject, text)| (format!("contracts/{subject}.avsc"), text)));
    let finish = if case.finish { String::new() } else { "final = false\n".to_owned() };
    files.insert("case.toml".to_owned(), finish + &partitions(case));
    for (sink, rows) in case.sinks.iter().zip(&expected.sinks) {
        let object = |row: &Vec<(String, Type, Value)>| {
            Json::Object(row.iter().map(|(name, data_type, value)| (name.clone(), to_json(value, *data_type))).collect())
        };
        files.insert(format!("expected/{}.jsonl", sink.name), text(rows.iter().map(object)));
    }
    let topic = |source: usize| case.sources[source].name.as_str();
    let dead = expected.dead.iter().map(|(source, partition, offset, class)| {
        json!({"topic": topic(*source), "partition": partition, "offset": offset, "class": class})
    });
    files.insert("expected/dead_letter.jsonl".to_owned(), text(dead));
    let late = (expected.late.iter())
        .map(|(source, partition, offset)| json!({"topic": topic(*source), "partition": partition, "offset": offset}));
    files.insert("expected/late.jsonl".to_owned(), text(late));
    files
}

fn partitions(case: &Case) -> String {
    let topics: Vec<&Source> = case.sources.iter().filter(|source| source.reads.is_none()).collect();
    let first = topics[0].partitions;
    if topics.iter().all(|topic| topic.partitions == first) {
        return format!("partitions = {first}\n");
    }
    topics.iter().fold("[partitions]\n".to_owned(), |text, topic| format!("{text}{} = {}\n", topic.name, topic.partitions))
}

fn text(rows: impl Iterator<Item = Json>) -> String {
    rows.fold(String::new(), |text, row| text + &row.to_string() + "\n")
}

pub fn to_json(value: &Value, data_type: Type) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Double(value) if value.is_nan() => json!("NaN"),
        Value::Double(value) if value.is_infinite() => json!(if *value > 0.0 { "Infinity" } else { "-Infinity" }),
        Value::Double(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Decimal(value) => {
            let Type::Decimal(scale) = data_type else { unreachable!("{data_type:?} is no decimal") };
            let one = 10u128.pow(scale);
            let (whole, part) = (value.unsigned_abs() / one, value.unsigned_abs() % one);
            let sign = if *value < 0 { "-" } else { "" };
            json!(format!("{sign}{whole}.{part:0width$}", width = scale as usize))
        }
    }
}

// Contracts

/// Text by subject; ids count from 1 in the order of the subjects.
fn contracts(case: &Case) -> BTreeMap<String, String> {
    let mut contracts = BTreeMap::new();
    for source in case.sources.iter().filter(|source| source.reads.is_none()) {
        let record = |name: &str, fields: Vec<Json>| json!({"type": "record", "name": name, "fields": fields}).to_string();
        let fields = source.fields.iter().map(|field| avro_field(&field.name, field.data_type, field.nullable, &field.default));
        contracts.insert(format!("{}-value", source.name), record("Value", fields.collect()));
        if let Some(fields) = &source.second {
            let fields = fields.iter().map(|field| avro_field(&field.name, field.data_type, field.nullable, &None));
            contracts.insert(second_subject(source), record("Value", fields.collect()));
        }
        if source.key.avro {
            let field = avro_field(&source.key.column, source.key.data_type, false, &None);
            contracts.insert(format!("{}-key", source.name), record("Key", vec![field]));
        }
    }
    contracts
}

fn second_subject(source: &Source) -> String {
    format!("{}-value.second", source.name)
}

fn avro_field(name: &str, data_type: Type, nullable: bool, default: &Option<Value>) -> Json {
    let plain = match data_type {
        Type::Bool => json!("boolean"),
        Type::Int => json!("int"),
        Type::Long => json!("long"),
        Type::Double => json!("double"),
        Type::Text => json!("string"),
        Type::Millis => json!({"type": "long", "logicalType": "timestamp-millis"}),
        Type::Micros => json!({"type": "long", "logicalType": "timestamp-micros"}),
        Type::Decimal(scale) => json!({"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": scale}),
    };
    let mut field = Map::new();
    field.insert("name".to_owned(), json!(name));
    field.insert("type".to_owned(), if nullable { json!(["null", plain]) } else { plain });
    if nullable {
        field.insert("default".to_owned(), Json::Null);
    } else if let Some(default) = default {
        field.insert("default".to_owned(), to_json(default, data_type));
    }
    Json::Object(field)
}

// Inputs

fn lines(source: &Source, contracts: &BTreeMap<String, String>) -> String {
    let id = |subject: &str| contracts.keys().position(|s| s == subject).expect("is there") as u32 + 1;
    text(source.lines.iter().map(|line| match line {
        Line::Idle { partition } => json!({"partition": partition, "idle": true}),
        Line::Quiet => json!({"quiet": true}),
        Line::Record(record) => {
            let mut object = Map::new();
            object.insert("partition".to_owned(), json!(record.partition));
            if let Some(timestamp) = record.timestamp {
                object.insert("timestamp".to_owned(), json!(timestamp));
            }
            object.insert("key".to_owned(), key(source, &record.key));
            let own = id(&format!("{}-value", source.name));
            let (name, body) = match &record.body {
                Body::Null => ("value", Json::Null),
                Body::Good { values, second: false } => {
                    let fields = source.fields.iter().zip(values);
                    ("value", Json::Object(fields.map(|(f, value)| (f.name.clone(), to_json(value, f.data_type))).collect()))
                }
                Body::Good { values, second: true } => {
                    object.insert("schema".to_owned(), json!(second_subject(source)));
                    ("value", second(source, values))
                }
                Body::Bad(bad) => {
                    let bytes = match bad {
                        Bad::Wire(bytes) => bytes.clone(),
                        Bad::UnknownId { id, values } => framed(*id, &body(source, values)),
                        Bad::Truncated { values, cut } => {
                            let body = body(source, values);
                            framed(own, &body[..body.len() - 1 - cut % body.len()])
                        }
                        Bad::Trailing { values, more } => framed(own, &[body(source, values), more.clone()].concat()),
                    };
                    ("raw", json!(base64::engine::general_purpose::STANDARD.encode(bytes)))
                }
            };
            object.insert(name.to_owned(), body);
            Json::Object(object)
        }
    }))
}

fn key(source: &Source, key: &Value) -> Json {
    match key {
        Value::Null => Json::Null,
        value if source.key.avro => json!({ source.key.column.as_str(): to_json(value, source.key.data_type) }),
        value => to_json(value, source.key.data_type),
    }
}

fn second(source: &Source, values: &[Value]) -> Json {
    let fields = source.second.as_ref().expect("only where there is a second writer");
    let value = |field: &crate::case::WriterField| match field.reader {
        Some(reader) => to_json(&values[reader], field.data_type),
        None => to_json(&Value::Text("unknown to the reader".into()), Type::Text),
    };
    Json::Object(fields.iter().map(|field| (field.name.clone(), value(field))).collect())
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0], id.to_be_bytes().as_slice(), body].concat()
}

/// Avro's bytes of a value.
fn body(source: &Source, values: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (field, value) in source.fields.iter().zip(values) {
        match (field.nullable, value) {
            (true, Value::Null) => {
                long(0, &mut bytes);
                continue;
            }
            (true, _) => long(1, &mut bytes),
            (false, _) => {}
        }
        match value {
            Value::Null => unreachable!("only where the field allows it"),
            Value::Bool(value) => bytes.push(u8::from(*value)),
            Value::Int(value) => long(*value, &mut bytes),
            Value::Double(value) => bytes.extend(value.to_le_bytes()),
            Value::Text(value) => {
                long(value.len() as i64, &mut bytes);
                bytes.extend(value.as_bytes());
            }
            Value::Decimal(value) => {
                long(16, &mut bytes);
                bytes.extend(value.to_be_bytes());
            }
        }
    }
    bytes
}

fn long(value: i64, bytes: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
}

// SQL

fn pipeline(case: &Case) -> String {
    let mut sql = String::new();
    for (at, source) in case.sources.iter().enumerate() {
        stream(source, &case.sources[source.reads.unwrap_or(at)].name, &mut sql);
    }
    for declared in &case.sinks {
        sink(declared, &mut sql);
    }
    let mut queries = Queries { case, views: Vec::new() };
    for statement in &case.statements {
        let before = queries.views.len();
        let query = queries.query(&statement.query);
        for (at, (_, view)) in queries.views.iter().enumerate().skip(before) {
            let _ = writeln!(sql, "\nCREATE VIEW v{at} AS\n{view};");
        }
        let _ = writeln!(sql, "\nINSERT INTO {}\n{query};", case.sinks[statement.sink].name);
    }
    sql
}

fn stream(source: &Source, topic: &str, sql: &mut String) {
    let mut items = Vec::new();
    for column in &source.computed {
        items.push(format!("  {} AS {}", column.name, plain(&column.expr)));
    }
    if source.table.is_some() {
        items.push(format!("  PRIMARY KEY ({})", source.key.column));
    }
    if let Some(time) = &source.time {
        let column = &time.column;
        items.push(match time.delay_ms {
            0 => format!("  WATERMARK FOR {column} AS {column}"),
            delay => format!("  WATERMARK FOR {column} AS {column} - {}", interval(delay)),
        });
    }
    for check in &source.checks {
        let violation = if check.drop { "DROP" } else { "DEAD LETTER" };
        items.push(format!("  CONSTRAINT {} CHECK ({}) ON VIOLATION {violation}", check.name, plain(&check.expr)));
    }
    let items = if items.is_empty() { String::new() } else { format!(" (\n{}\n)", items.join(",\n")) };
    let format = match (source.key.avro, source.key.data_type) {
        (true, _) => "avro",
        (_, Type::Text) => "string",
        (_, Type::Long) => "long",
        (_, Type::Int) => "int",
        (_, other) => unreachable!("{other:?} is no key"),
    };
    let mut options = vec![("topic".to_owned(), topic.to_owned()), ("format".to_owned(), "avro".to_owned())];
    options.push(("key.format".to_owned(), format.to_owned()));
    match &source.table {
        None if source.key.unnamed => {}
        None => options.push(("key.fields".to_owned(), source.key.column.clone())),
        Some(table) if table.first_known => options.push(("before_first".to_owned(), "first_known".to_owned())),
        Some(_) => {}
    }
    if source.key.trusted {
        options.push(("partitioner".to_owned(), "trusted".to_owned()));
    }
    if source.tombstones && source.table.is_none() {
        options.push(("tombstones".to_owned(), "dead_letter".to_owned()));
    }
    if let Some(ahead) = source.time.as_ref().and_then(|time| time.max_ahead_ms) {
        options.push(("max_ahead".to_owned(), format!("{} s", ahead / 1000)));
    }
    options.extend(source.dropped.iter().map(|class| (format!("on.{class}"), "drop".to_owned())));
    let options: Vec<String> = options.iter().map(|(name, value)| format!("'{name}' = '{value}'")).collect();
    let kind = if source.table.is_some() { "TABLE" } else { "STREAM" };
    let _ = writeln!(sql, "CREATE {kind} {}{items} WITH ({});", source.name, options.join(", "));
}

fn sink(sink: &Sink, sql: &mut String) {
    let key = if sink.key.is_empty() { String::new() } else { format!(" (PRIMARY KEY ({}))", sink.key.join(", ")) };
    let mut options = vec![format!("'topic' = '{}', 'format' = 'avro'", sink.name)];
    options.extend(sink.bare_key.map(|data_type| match data_type {
        Type::Text => "'key.format' = 'string'".to_owned(),
        Type::Long => "'key.format' = 'long'".to_owned(),
        _ => "'key.format' = 'int'".to_owned(),
    }));
    if sink.except_key {
        options.push("'value.fields-include' = 'EXCEPT_KEY'".to_owned());
    }
    let _ = writeln!(sql, "CREATE SINK {}{key} WITH ({});", sink.name, options.join(", "));
}

struct Queries<'a> {
    case: &'a Case,
    /// Relations that have a name, in the order in which they are created.
    views: Vec<(Relation, String)>,
}

impl Queries<'_> {
    fn query(&mut self, relation: &Relation) -> String {
        match relation {
            Relation::Source(source) => format!("SELECT * FROM {}", self.case.sources[*source].name),
            Relation::Union(branches) => {
                let branches: Vec<String> = branches.iter().map(|branch| self.query(branch)).collect();
                branches.join("\nUNION ALL\n")
            }
            Relation::Select(select) => self.select(select),
            Relation::Aggregate(aggregate) => self.aggregate(aggregate),
            Relation::Join(join) => self.join(join),
        }
    }

    fn join(&mut self, join: &Join) -> String {
        let left = self.name(&join.left);
        let left = join.window.as_ref().map_or(left.clone(), |window| in_windows(&left, window));
        let table = &self.case.sources[join.table];
        let kind = if join.outer { "LEFT JOIN" } else { "JOIN" };
        let on = join.on.as_ref().map_or(String::new(), |on| format!(" AND ({})", plain(on)));
        format!(
            "SELECT {}\nFROM {left} AS l\n{kind} {} FOR SYSTEM_TIME AS OF l.{} AS r ON {} = r.{}{on}{}",
            columns(&join.columns, &quoted),
            table.name,
            join.time,
            plain(&join.key),
            table.key.column,
            filter(&join.filter)
        )
    }

    /// What stands in FROM: a stream, or a view.
    fn name(&mut self, relation: &Relation) -> String {
        if let Relation::Source(source) = relation {
            return self.case.sources[*source].name.clone();
        }
        if let Some(known) = self.views.iter().position(|(view, _)| view == relation) {
            return format!("v{known}");
        }
        let query = self.query(relation);
        self.views.push((relation.clone(), query));
        format!("v{}", self.views.len() - 1)
    }

    fn select(&mut self, select: &Select) -> String {
        let from = self.name(&select.input);
        format!("SELECT {}\nFROM {from}{}", columns(&select.columns, &quoted), filter(&select.filter))
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> String {
        let from = self.name(&aggregate.input);
        let from = match &aggregate.window {
            Some(window) if !aggregate.input.in_windows() => in_windows(&from, window),
            _ => from,
        };
        let group = |by: &GroupBy| match by {
            GroupBy::WindowStart => "window_start".to_owned(),
            GroupBy::WindowEnd => "window_end".to_owned(),
            GroupBy::WindowTime => "window_time".to_owned(),
            GroupBy::Expr(expr) => plain(expr),
        };
        let inner = |name: &str| {
            let by = aggregate.groups.iter().find(|group| group.name == name).map(|found| group(&found.by));
            by.unwrap_or_else(|| call(aggregate.calls.iter().find(|call| call.name == name).expect("group or call")))
        };
        let groups: Vec<String> = aggregate.groups.iter().map(|found| group(&found.by)).collect();
        // An aggregate over all rows has no GROUP BY.
        let groups = if groups.is_empty() { groups.concat() } else { format!("\nGROUP BY {}", groups.join(", ")) };
        let having = aggregate.having.as_ref().map_or(String::new(), |having| format!("\nHAVING {}", expr(having, &inner)));
        format!("SELECT {}\nFROM {from}{}{groups}{having}", columns(&aggregate.columns, &inner), filter(&aggregate.filter))
    }
}

fn in_windows(from: &str, window: &Window) -> String {
    let (size, time) = (interval(window.size_ms), &window.time);
    let offset = if window.offset_ms == 0 { String::new() } else { format!(", {}", interval(window.offset_ms)) };
    match window.slide_ms {
        None => format!("TABLE(TUMBLE(TABLE {from}, DESCRIPTOR({time}), {size}{offset}))"),
        Some(slide) => format!("TABLE(HOP(TABLE {from}, DESCRIPTOR({time}), {}, {size}{offset}))", interval(slide)),
    }
}

fn columns(columns: &[Named], of: &dyn Fn(&str) -> String) -> String {
    let column = |column: &Named| match expr(&column.expr, of) {
        text if text == column.name => text,
        text => format!("{text} AS {}", column.name),
    };
    columns.iter().map(column).collect::<Vec<_>>().join(", ")
}

fn filter(conjuncts: &[Expr]) -> String {
    let conjuncts: Vec<String> = conjuncts.iter().map(plain).collect();
    if conjuncts.is_empty() { String::new() } else { format!("\nWHERE {}", conjuncts.join(" AND ")) }
}

fn call(call: &Call) -> String {
    let function = match call.function {
        Function::Count => "COUNT",
        Function::Sum => "SUM",
        Function::Avg => "AVG",
        Function::Min => "MIN",
        Function::Max => "MAX",
        Function::First => "FIRST_VALUE",
        Function::Last => "LAST_VALUE",
        Function::BoolAnd => "BOOL_AND",
        Function::BoolOr => "BOOL_OR",
        Function::StddevPop => "STDDEV_POP",
        Function::StddevSamp => "STDDEV_SAMP",
    };
    let arg = call.arg.as_ref().map_or("*".to_owned(), |(expr, _)| plain(expr));
    let distinct = if call.distinct { "DISTINCT " } else { "" };
    let filter = call.filter.as_ref().map_or(String::new(), |filter| format!(" FILTER (WHERE {})", plain(filter)));
    format!("{function}({distinct}{arg}){filter}")
}

fn quoted(name: &str) -> String {
    name.to_owned()
}

fn plain(of: &Expr) -> String {
    expr(of, &quoted)
}

fn expr(of: &Expr, name: &dyn Fn(&str) -> String) -> String {
    let below = |part: &Expr| match part {
        Expr::Column(_) | Expr::Literal(..) | Expr::Case(..) | Expr::Coalesce(..) => expr(part, name),
        Expr::ToLong(_) | Expr::ToDouble(_) | Expr::Upper(_) => expr(part, name),
        other => format!("({})", expr(other, name)),
    };
    match of {
        Expr::Column(column) => name(column),
        Expr::Literal(value, data_type) => literal(value, *data_type),
        Expr::Arithmetic(op, a, b) => {
            let op = match op {
                Arithmetic::Add => "+",
                Arithmetic::Subtract => "-",
                Arithmetic::Multiply => "*",
                Arithmetic::Divide => "/",
                Arithmetic::Remainder => "%",
            };
            format!("{} {op} {}", below(a), below(b))
        }
        Expr::Compare(op, a, b) => {
            let op = match op {
                Compare::Equal => "=",
                Compare::NotEqual => "<>",
                Compare::Less => "<",
                Compare::LessOrEqual => "<=",
                Compare::Greater => ">",
                Compare::GreaterOrEqual => ">=",
            };
            format!("{} {op} {}", below(a), below(b))
        }
        Expr::And(a, b) => format!("({}) AND ({})", expr(a, name), expr(b, name)),
        Expr::Or(a, b) => format!("(({}) OR ({}))", expr(a, name), expr(b, name)),
        Expr::Not(a) => format!("NOT ({})", expr(a, name)),
        Expr::IsNull(a) => format!("{} IS NULL", below(a)),
        Expr::Case(condition, a, b) => {
            format!("CASE WHEN {} THEN {} ELSE {} END", expr(condition, name), expr(a, name), expr(b, name))
        }
        Expr::Coalesce(a, b) => format!("COALESCE({}, {})", expr(a, name), expr(b, name)),
        Expr::ToLong(a) => format!("CAST({} AS BIGINT)", expr(a, name)),
        Expr::ToDouble(a) => format!("CAST({} AS DOUBLE)", expr(a, name)),
        Expr::Upper(a) => format!("UPPER({})", expr(a, name)),
        Expr::Concat(a, b) => format!("{} || {}", below(a), below(b)),
    }
}

fn literal(value: &Value, data_type: Type) -> String {
    match (value, data_type) {
        (Value::Int(value), Type::Int) => format!("CAST({value} AS INT)"),
        (Value::Int(value), _) if *value < 0 => format!("({value})"),
        (Value::Int(value), _) => value.to_string(),
        (Value::Double(value), _) => format!("CAST({value:?} AS DOUBLE)"),
        (Value::Text(value), _) => format!("'{}'", value.replace('\'', "''")),
        (Value::Bool(value), _) => value.to_string().to_uppercase(),
        (value, data_type) => unreachable!("no literal of {data_type:?} {value:?}"),
    }
}

fn interval(ms: i64) -> String {
    match ms {
        _ if ms % 86_400_000 == 0 => format!("INTERVAL '{}' DAY", ms / 86_400_000),
        _ if ms % 3_600_000 == 0 => format!("INTERVAL '{}' HOUR", ms / 3_600_000),
        _ if ms % 60_000 == 0 => format!("INTERVAL '{}' MINUTE", ms / 60_000),
        _ if ms % 1000 == 0 => format!("INTERVAL '{}' SECOND", ms / 1000),
        _ => format!("INTERVAL '{}.{:03}' SECOND", ms / 1000, ms % 1000),
    }
}
