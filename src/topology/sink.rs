//! CREATE SINK and INSERT INTO: the columns that arrive, the key, and the Avro schemas derived from them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;

use super::ddl::{Definition, Item, Name};
use super::expression;
use super::fault::{Fault, Place, Result, list};
use super::lower::{Lineage, Lowered, Lowering, Order, at};
use super::types::{instant_millis, sql_name, storable, widens};
use super::with::Options;
use super::{Metadata, Operation, Sink, SinkKey};
use crate::codec::KeyFormat;
use crate::codec::key::json_holds;
use crate::contract::derive::{DerivedField, derive_key, derive_value};
use crate::operator::consolidate::ConsolidateSpec;
use crate::operator::exchange::ExchangeSpec;
use crate::operator::materialize::MaterializeSpec;
use crate::record::Topic;

/// CREATE SINK, checked as far as it can be without a query.
#[derive(Debug)]
pub(super) struct Target {
    pub name: Name,
    pub place: Place,
    pub topic: Topic,
    /// Declared columns; empty: those of the SELECT.
    columns: Vec<Declared>,
    /// The column that is written as the record's timestamp.
    timestamp: Option<Name>,
    primary_key: Option<(Vec<Name>, Option<Place>)>,
    options: Options,
}

#[derive(Debug)]
struct Declared {
    name: Name,
    data_type: DataType,
    nullable: bool,
}

pub(super) fn target(definition: Definition, place: Place) -> Result<Target> {
    let options = super::with::options(&definition.options, super::with::Kind::Sink)?;
    let (topic, _) = super::source::topic_of(&definition.name, &options);
    let mut target =
        Target { name: definition.name, place, topic, columns: Vec::new(), timestamp: None, primary_key: None, options };
    for item in definition.items {
        match item {
            Item::Column { name, data_type, nullable, .. } => {
                if target.columns.iter().any(|c| c.name.value == name.value) {
                    return Err(Fault::new(format!("column \"{}\" is there already", name.value)).at(name.place));
                }
                target.columns.push(Declared { name, data_type, nullable });
            }
            Item::Metadata { name, data_type, from } => {
                if from.value != Metadata::Timestamp.as_str() {
                    return Err(Fault::new(format!("metadata '{}' of a sink is not in this release", from.value))
                        .at(from.place)
                        .hint("a sink's writable metadata is 'timestamp'"));
                }
                if !matches!(data_type, DataType::Timestamp(..)) {
                    return Err(Fault::new(format!("metadata 'timestamp' is TIMESTAMP_LTZ(3), not {}", sql_name(&data_type)))
                        .at(name.place));
                }
                if target.timestamp.replace(name).is_some() {
                    return Err(Fault::new("a record has one timestamp").at(from.place));
                }
            }
            Item::PrimaryKey { columns, place } => {
                if target.primary_key.replace((columns, place)).is_some() {
                    return Err(Fault::new("a sink has one PRIMARY KEY").at(place));
                }
            }
            Item::Watermark { column, .. } => {
                return Err(Fault::new("a sink has no WATERMARK: it is a stream's").at(column.place));
            }
            Item::Check { name, place, .. } => {
                let place = name.and_then(|n| n.place).or(place);
                return Err(Fault::new("a sink has no CHECK: it is a stream's")
                    .at(place)
                    .hint("filter in the query with WHERE or HAVING"));
            }
            Item::Computed { name, .. } => {
                return Err(Fault::new("a sink has no computed columns").at(name.place).hint("compute it in the SELECT"));
            }
        }
    }
    if let Some((names, _)) = &target.primary_key {
        for (n, name) in names.iter().enumerate() {
            if names[..n].iter().any(|other| other.value == name.value) {
                return Err(Fault::new(format!("PRIMARY KEY names \"{}\" twice", name.value)).at(name.place));
            }
            let declared = target.columns.iter().any(|c| c.name.value == name.value);
            if !target.columns.is_empty() && !declared {
                let known: Vec<&str> = target.columns.iter().map(|c| c.name.value.as_str()).collect();
                return Err(Fault::new(format!("column \"{}\" of the PRIMARY KEY is not known", name.value))
                    .at(name.place)
                    .nearest(&name.value, known));
            }
        }
    } else if target.options.key_format.is_some() || target.options.key_subject.is_some() || target.options.except_key {
        return Err(Fault::new("a sink without PRIMARY KEY writes no keys")
            .at(place)
            .hint("declare PRIMARY KEY (...), or leave the options of the key out"));
    }
    Ok(target)
}

/// A column on its way into a sink.
struct Arriving {
    field: Field,
    expr: Arc<dyn PhysicalExpr>,
    lineage: Lineage,
}

/// What one INSERT writes.
pub(super) struct Insert<'a> {
    /// Names of the SELECT's columns.
    pub names: Vec<String>,
    pub lowered: &'a Lowered,
    /// `INSERT INTO s (a, b)`.
    pub list: &'a [Name],
    /// Another INSERT has set the sink's columns already.
    pub former: Option<&'a Sink>,
    pub sink_index: usize,
}

impl Target {
    pub fn upsert(&self) -> bool {
        self.primary_key.is_some()
    }

    /// Adds the last nodes of an INSERT; returns the sink if this is its first INSERT.
    pub fn insert(&self, insert: &Insert, lowering: &mut Lowering) -> Result<Option<Sink>> {
        let lowered = insert.lowered;
        if let (Some(by), false) = (&lowered.updating, self.upsert()) {
            return Err(Fault::new(format!(
                "\"{by}\" changes its results as rows arrive, and sink \"{}\" is append-only",
                self.name.value
            ))
            .hint(
                "give the sink a PRIMARY KEY, or aggregate in windows: TABLE(TUMBLE(...)) with GROUP BY window_start, window_end",
            ));
        }
        let input = lowering.schema(lowered.node);
        let arriving = self.arriving(insert, &input)?;
        let fields: Vec<FieldRef> = arriving.iter().map(|a| Arc::new(a.field.clone())).collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let schema = match insert.former {
            None => schema,
            Some(former) => self.agree(&schema, former)?,
        };
        let lineage: Vec<&Lineage> = arriving.iter().map(|a| &a.lineage).collect();
        let key = self.key(&schema)?;
        let exprs = arriving
            .iter()
            .zip(schema.fields())
            .map(|(a, field)| expression::cast(Arc::clone(&a.expr), &input, field.data_type()));
        let mut node = lowering.project_to(lowered.node, exprs.collect::<Result<_>>()?, Arc::clone(&schema));
        if let Some(key) = &key {
            node = match self.why_materialized(&key.columns, &lineage, lowered) {
                None => {
                    let spec = ConsolidateSpec { key_columns: key.columns.clone(), bare: is_bare(key.format) };
                    lowering.add(Operation::Consolidate(spec), vec![node], Arc::clone(&schema))
                }
                Some(reason) => {
                    let keys = key.columns.iter().map(|column| expression::column(&schema, *column)).collect();
                    let bare_key = is_bare(key.format).then(|| key.columns[0]);
                    let exchange = ExchangeSpec { keys, refuse_late: false, bare_key, reason };
                    let node = lowering.exchange(node, exchange, Arc::clone(&schema));
                    let spec = MaterializeSpec {
                        key_columns: key.columns.clone(),
                        schema: Arc::clone(&schema),
                        retracts: lowered.updating.is_some(),
                    };
                    lowering.add(Operation::Materialize(spec), vec![node], Arc::clone(&schema))
                }
            };
        }
        lowering.add(Operation::Sink(insert.sink_index), vec![node], Arc::clone(&schema));
        if insert.former.is_some() {
            return Ok(None);
        }
        self.sink(schema, key, &lineage).map(Some)
    }

    /// The SELECT's columns by position, or by the INSERT's list, with the sink's names and types.
    fn arriving(&self, insert: &Insert, input: &SchemaRef) -> Result<Vec<Arriving>> {
        let count = insert.names.len();
        let list = insert.list;
        if !list.is_empty() && list.len() != count {
            return Err(Fault::new(format!("INSERT INTO names {} columns, the SELECT has {count}", list.len())).at(list[0].place));
        }
        let selected = |n: usize, name: &str| -> Result<Arriving> {
            let column = at(insert.lowered, n)?;
            let field = input.field(column).clone().with_name(name);
            Ok(Arriving { field, expr: expression::column(input, column), lineage: insert.lowered.lineage[n].clone() })
        };
        let mut arriving = Vec::new();
        if self.columns.is_empty() {
            for n in 0..count {
                let name = list.get(n).map_or(insert.names[n].as_str(), |l| l.value.as_str());
                let mut column = selected(n, name)?;
                self.name_of(n, name)?;
                if arriving.iter().any(|a: &Arriving| a.field.name() == name) {
                    return Err(Fault::new(format!("sink \"{}\" would have two columns \"{name}\"", self.name.value))
                        .hint("give one of them another name with AS"));
                }
                let data_type = storable(column.field.data_type());
                if let DataType::Null | DataType::Interval(_) | DataType::Duration(_) = data_type {
                    return Err(Fault::new(format!(
                        "column \"{name}\" of sink \"{}\" is {}, which no topic holds",
                        self.name.value,
                        sql_name(&data_type)
                    ))
                    .hint(format!("CAST it: CAST(... AS STRING) AS {name}")));
                }
                column.field = column.field.with_data_type(data_type);
                arriving.push(column);
            }
        } else {
            arriving = self.declared(insert, &selected)?;
        }
        if arriving.is_empty() {
            return Err(Fault::new("the SELECT has no columns"));
        }
        Ok(arriving)
    }

    /// Avro's names are letters, digits and `_`.
    fn name_of(&self, n: usize, name: &str) -> Result<()> {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Ok(());
        }
        Err(Fault::new(format!("column {} of sink \"{}\" has no name that a topic can hold: {name}", n + 1, self.name.value))
            .hint("give it one with AS: letters, digits and _"))
    }

    fn declared(&self, insert: &Insert, selected: &dyn Fn(usize, &str) -> Result<Arriving>) -> Result<Vec<Arriving>> {
        let mut targets: Vec<Declared> = Vec::new();
        for column in &self.columns {
            targets.push(Declared { name: column.name.clone(), data_type: column.data_type.clone(), nullable: column.nullable });
        }
        if let Some(timestamp) = &self.timestamp
            && !targets.iter().any(|c| c.name.value == timestamp.value)
        {
            targets.push(Declared { name: timestamp.clone(), data_type: instant_millis(), nullable: true });
        }
        let names: Vec<&str> = targets.iter().map(|c| c.name.value.as_str()).collect();
        for name in insert.list {
            if !names.contains(&name.value.as_str()) {
                let fault = Fault::new(format!("sink \"{}\" has no column \"{}\"", self.name.value, name.value)).at(name.place);
                return Err(match crate::error::nearest(&name.value, names.iter().copied()) {
                    Some(near) => fault.hint(format!("did you mean \"{near}\"?")),
                    None => fault.hint(format!("its columns are {}", list(&names))),
                });
            }
        }
        if insert.list.is_empty() && insert.names.len() != targets.len() {
            return Err(Fault::new(format!(
                "sink \"{}\" has {} columns ({}), the SELECT has {} ({})",
                self.name.value,
                targets.len(),
                names.join(", "),
                insert.names.len(),
                insert.names.join(", ")
            )));
        }
        let mut arriving = Vec::new();
        for (n, column) in targets.into_iter().enumerate() {
            let from =
                if insert.list.is_empty() { Some(n) } else { insert.list.iter().position(|l| l.value == column.name.value) };
            let name = column.name.value.as_str();
            let Some(from) = from else {
                if !column.nullable {
                    return Err(Fault::new(format!(
                        "column \"{name}\" of sink \"{}\" is NOT NULL and gets no value",
                        self.name.value
                    )));
                }
                let null = datafusion_common::ScalarValue::try_from(&column.data_type)?;
                let expr: Arc<dyn PhysicalExpr> = Arc::new(datafusion_physical_expr::expressions::Literal::new(null));
                arriving.push(Arriving { field: Field::new(name, column.data_type, true), expr, lineage: Lineage::default() });
                continue;
            };
            let mut given = selected(from, name)?;
            let held = given.field.data_type().clone();
            if !widens(&held, &column.data_type) && !widens(&storable(&held), &column.data_type) {
                return Err(Fault::new(format!(
                    "column \"{name}\" of sink \"{}\" is {}, the SELECT gives {}",
                    self.name.value,
                    sql_name(&column.data_type),
                    sql_name(&held)
                ))
                .hint(format!("CAST({} AS {})", insert.names[from], sql_name(&column.data_type))));
            }
            if given.field.is_nullable() && !column.nullable {
                return Err(Fault::new(format!(
                    "column \"{name}\" of sink \"{}\" is NOT NULL, the SELECT may give NULL",
                    self.name.value
                ))
                .hint(format!("COALESCE({}, ...) or leave NOT NULL out", insert.names[from])));
            }
            let changed = held != column.data_type;
            given.field = Field::new(name, column.data_type, column.nullable);
            if changed {
                given.lineage.origin = None;
            }
            arriving.push(given);
        }
        Ok(arriving)
    }

    /// A later INSERT into the same sink takes the first one's columns.
    fn agree(&self, schema: &SchemaRef, former: &Sink) -> Result<SchemaRef> {
        let shown = |schema: &SchemaRef| {
            let columns: Vec<String> =
                schema.fields().iter().map(|f| format!("{} {}", f.name(), sql_name(f.data_type()))).collect();
            columns.join(", ")
        };
        let fits = schema.fields().len() == former.schema.fields().len()
            && schema.fields().iter().zip(former.schema.fields()).all(|(new, old)| {
                new.name() == old.name() && widens(new.data_type(), old.data_type()) && (old.is_nullable() || !new.is_nullable())
            });
        if fits {
            return Ok(Arc::clone(&former.schema));
        }
        Err(Fault::new(format!(
            "this INSERT gives sink \"{}\" ({}), an earlier one ({})",
            self.name.value,
            shown(schema),
            shown(&former.schema)
        ))
        .hint("declare the sink's columns in CREATE SINK"))
    }

    fn key(&self, schema: &SchemaRef) -> Result<Option<SinkKey>> {
        let Some((names, place)) = &self.primary_key else { return Ok(None) };
        let mut columns = Vec::new();
        for name in names {
            match schema.index_of(&name.value) {
                Ok(column) => columns.push(column),
                Err(_) => {
                    let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                    let fault =
                        Fault::new(format!("column \"{}\" of the PRIMARY KEY is not in the SELECT", name.value)).at(name.place);
                    return Err(match crate::error::nearest(&name.value, known.iter().copied()) {
                        Some(near) => fault.hint(format!("did you mean \"{near}\"?")),
                        None => fault.hint(format!("its columns are {}", list(&known))),
                    });
                }
            }
        }
        let format = self.options.key_format.unwrap_or(KeyFormat::Avro);
        if format == KeyFormat::Json
            && let Some(at) = columns.iter().position(|column| !json_holds(schema.field(*column).data_type()))
        {
            let held = sql_name(schema.field(columns[at]).data_type());
            return Err(Fault::new(format!("a JSON key has no member of type {held} (\"{}\")", names[at].value))
                .at(*place)
                .hint(format!("CAST({} AS STRING), or another 'key.format'", names[at].value)));
        }
        let wanted: Option<(&[DataType], &str)> = match format {
            KeyFormat::Avro | KeyFormat::Json => None,
            KeyFormat::String => Some((&[DataType::Utf8], "STRING")),
            KeyFormat::Long => Some((&[DataType::Int64], "BIGINT")),
            KeyFormat::Int => Some((&[DataType::Int32], "INT")),
            KeyFormat::Bytes => Some((&[DataType::Binary], "BYTES")),
        };
        if let Some((types, shown)) = wanted {
            let [only] = columns.as_slice() else {
                return Err(Fault::new(format!("a bare key is one column, and the PRIMARY KEY has {}", columns.len()))
                    .at(*place)
                    .hint("leave 'key.format' out: several columns make an Avro record; or take 'key.format' = 'json'"));
            };
            let held = schema.field(*only).data_type();
            if !types.contains(held) {
                return Err(Fault::new(format!(
                    "'key.format' wants a key of type {shown}, \"{}\" is {}",
                    names[0].value,
                    sql_name(held)
                ))
                .at(*place)
                .hint(format!("CAST({} AS {shown}), or another 'key.format'", names[0].value)));
            }
        }
        Ok(Some(SinkKey { columns, format, avro: None }))
    }

    /// Why rows of one key of the sink do not come from one task in one order (of an updating aggregate's: from one group); `None`: they
    /// do.
    fn why_materialized(&self, columns: &[usize], lineage: &[&Lineage], lowered: &Lowered) -> Option<String> {
        let of_key = |part: &str| format!("PRIMARY KEY of \"{}\": {part}", self.name.value);
        if let Some(by) = &lowered.updating {
            let held: Vec<usize> = columns.iter().filter_map(|c| lineage[*c].group).collect();
            let all = lowered.groups != usize::MAX && (0..lowered.groups).all(|group| held.contains(&group));
            return (!all).then(|| of_key(&format!("several groups of \"{by}\" may write one key")));
        }
        let held = columns.iter().filter_map(|c| lineage[*c].key_part).collect();
        if let Some(why) = lowered.distribution.lacks(&held) {
            return Some(of_key(&why));
        }
        (lowered.order == Order::Unknown).then(|| of_key("rows of one key come from several inputs, in no certain order"))
    }

    fn sink(&self, schema: SchemaRef, key: Option<SinkKey>, lineage: &[&Lineage]) -> Result<Sink> {
        let timestamp_column = match &self.timestamp {
            None => None,
            Some(name) => match schema.index_of(&name.value) {
                Ok(column) if matches!(schema.field(column).data_type(), DataType::Timestamp(..)) => Some(column),
                Ok(column) => {
                    let held = sql_name(schema.field(column).data_type());
                    return Err(
                        Fault::new(format!("the record's timestamp \"{}\" is {held}, not a time", name.value)).at(name.place)
                    );
                }
                Err(_) => return Err(Fault::new(format!("column \"{}\" is not in the SELECT", name.value)).at(name.place)),
            },
        };
        let keys: &[usize] = key.as_ref().map_or(&[], |k| &k.columns);
        let value_columns: Vec<usize> = (0..schema.fields().len())
            .filter(|n| timestamp_column != Some(*n))
            .filter(|n| !(self.options.except_key && keys.contains(n)))
            .collect();
        if value_columns.is_empty() {
            return Err(Fault::new(format!("sink \"{}\" would write values without columns", self.name.value)));
        }
        let derived = |columns: &[usize]| -> Vec<DerivedField> {
            columns
                .iter()
                .map(|n| DerivedField { field: Arc::clone(&schema.fields()[*n]), origin: lineage[*n].origin.clone() })
                .collect()
        };
        let record = record_name(&self.name.value);
        let value_schema = Arc::new(derive_value(&record, None, &derived(&value_columns))?);
        let mut key = key;
        if let Some(key) = &mut key
            && key.format == KeyFormat::Avro
        {
            let subject = self.options.key_subject.clone().unwrap_or_else(|| format!("{}-key", self.topic));
            key.avro = Some((subject, Arc::new(derive_key(&record, None, &derived(&key.columns))?)));
        }
        Ok(Sink {
            name: self.name.value.clone(),
            topic: self.topic.clone(),
            key,
            value_columns,
            value_subject: self.options.value_subject.clone().unwrap_or_else(|| format!("{}-value", self.topic)),
            value_schema,
            timestamp_column,
            partitions: self.options.partitions,
            line: self.place.line,
            column: self.place.column,
            schema,
        })
    }
}

/// Whether the key is the value of one column alone, which is not NULL then.
fn is_bare(format: KeyFormat) -> bool {
    matches!(format, KeyFormat::String | KeyFormat::Long | KeyFormat::Int | KeyFormat::Bytes)
}

/// An Avro name from a sink's: `.` and `-` become `_`.
fn record_name(sink: &str) -> String {
    let mut name: String = sink.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        name.insert(0, '_');
    }
    name
}
