//! CREATE STREAM against its contract: the columns that queries see, and, once it is known which are used, the source.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion_common::DFSchema;
use datafusion_expr::Expr;
use datafusion_sql::sqlparser::ast;

use super::ddl::{Definition, Item, Name};
use super::expression;
use super::fault::{Fault, Place, Result, list};
use super::types::{UTC, instant_millis, map_type, same, sql_name, widens};
use super::with::Options;
use super::{Metadata, NullValue, Source, SourceKey, TableSource};
use crate::codec::KeyFormat;
use crate::codec::key::json_holds;
use crate::contract::{Contract, Contracts};
use crate::operator::ingest::{Check, EventTime, IngestSpec, OnViolation};
use crate::operator::temporal_join::BeforeFirst;
use crate::record::Topic;

impl Metadata {
    pub const ALL: [Metadata; 7] = [
        Metadata::Partition,
        Metadata::Offset,
        Metadata::Topic,
        Metadata::Headers,
        Metadata::Key,
        Metadata::Timestamp,
        Metadata::TimestampType,
    ];

    /// The name after `METADATA FROM`.
    pub fn as_str(self) -> &'static str {
        match self {
            Metadata::Partition => "partition",
            Metadata::Offset => "offset",
            Metadata::Topic => "topic",
            Metadata::Headers => "headers",
            Metadata::Key => "key",
            Metadata::Timestamp => "timestamp",
            Metadata::TimestampType => "timestamp-type",
        }
    }

    /// The type of the column in `IngestSpec::decoded`.
    pub fn data_type(self) -> DataType {
        match self {
            Metadata::Partition => DataType::Int32,
            Metadata::Offset => DataType::Int64,
            Metadata::Topic | Metadata::TimestampType => DataType::Utf8,
            Metadata::Headers => map_type(DataType::Utf8, DataType::Binary, true),
            Metadata::Key => DataType::Binary,
            Metadata::Timestamp => instant_millis(),
        }
    }

    /// A record may lack a key; a timestamp of -1 is none.
    pub fn nullable(self) -> bool {
        matches!(self, Metadata::Key | Metadata::Timestamp)
    }
}

/// Where a column of a stream comes from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// A field of the value contract.
    Value(usize),
    /// A field of the key; 0 for raw formats.
    Key(usize),
    Metadata(Metadata),
    Computed(Box<ast::Expr>),
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub field: FieldRef,
    pub origin: Origin,
    pub place: Option<Place>,
}

/// A stream with all its columns.
#[derive(Debug)]
pub(super) struct Stream {
    pub name: String,
    pub place: Place,
    pub topic: Topic,
    pub value: Arc<Contract>,
    pub key_format: Option<KeyFormat>,
    key_contract: Option<Arc<Contract>>,
    pub columns: Vec<Column>,
    pub schema: SchemaRef,
    /// Columns of `columns` that hold the record's key, in the order of `key.fields`; empty: nothing is known.
    pub key_columns: Vec<usize>,
    /// The WATERMARK's column and delay.
    pub watermark: Option<(usize, i64)>,
    /// CREATE TABLE.
    pub table: bool,
    checks: Vec<CheckItem>,
    options: Options,
    max_ahead_micros: Option<i64>,
}

#[derive(Debug)]
struct CheckItem {
    name: String,
    text: String,
    expr: ast::Expr,
    on_violation: OnViolation,
    place: Option<Place>,
}

/// Plans an expression of DDL over a schema.
pub(super) type PlanExpr<'a> = dyn Fn(&ast::Expr, &DFSchema) -> Result<Expr> + 'a;

/// Resolves a stream's columns against its contracts.
pub(super) fn stream(
    definition: Definition,
    table: bool,
    place: Place,
    contracts: &dyn Contracts,
    max_ahead_micros: Option<i64>,
    plan: &PlanExpr,
) -> Result<Stream> {
    let kind = if table { super::with::Kind::Table } else { super::with::Kind::Stream };
    let options = super::with::options(&definition.options, kind)?;
    let (topic, topic_place) = topic_of(&definition.name, &options);
    let Some(value) = contracts.value(&topic, options.value_subject.as_deref())? else {
        let subject = options.value_subject.clone().unwrap_or_else(|| format!("{topic}-value"));
        return Err(Fault::new(format!("topic \"{topic}\" has no value contract: subject \"{subject}\" is not known"))
            .at(topic_place)
            .hint("register its Avro schema, or name another subject with 'value.subject'"));
    };
    let key_names = key_names(&definition.items, &options)?;
    if table && key_names.is_empty() {
        return Err(Fault::new(format!("table \"{}\" has no PRIMARY KEY", definition.name.value))
            .at(definition.name.place)
            .hint("CREATE TABLE name (PRIMARY KEY (id)) WITH (...): the columns that the topic's key holds; a topic of events is a CREATE STREAM"));
    }
    let mut resolve = Resolve {
        definition: &definition.name,
        options: &options,
        contracts,
        topic: &topic,
        value: &value,
        keys: &key_names,
        table,
        key_contract: None,
        key_format: options.key_format,
    };
    let declared = definition.items.iter().any(|i| matches!(i, Item::Column { .. }));
    let mut columns: Vec<Column> = Vec::new();
    if !declared {
        for (n, field) in value.columns.fields().iter().enumerate() {
            // A table's key is what the record's key says: a tombstone has nothing else.
            columns.push(match key_names.iter().find(|key| table && key.value == *field.name()) {
                Some(key) => resolve.table_key(key, Some(field.data_type()))?,
                None => Column { field: Arc::clone(field), origin: Origin::Value(n), place: None },
            });
        }
    }
    if !declared {
        for name in &key_names {
            if !columns.iter().any(|c| *c.field.name() == name.value) {
                columns.push(if table { resolve.table_key(name, None)? } else { resolve.key_column(name, None)? });
            }
        }
    }
    let mut watermark = None;
    let mut checks = Vec::new();
    for item in definition.items {
        match item {
            Item::Column { name, data_type, nullable, place } => {
                let key = key_names.iter().find(|key| table && key.value == name.value);
                columns.push(match key {
                    Some(_) => resolve.table_key(&name, Some(&data_type))?,
                    None => resolve.physical(&name, &data_type, nullable, place)?,
                });
            }
            Item::Metadata { name, data_type, from } => columns.push(metadata(&name, &data_type, &from)?),
            Item::Computed { name, expr } => {
                // Its type is filled in below, once all plain columns are known.
                let field = Arc::new(Field::new(&name.value, DataType::Null, true));
                columns.push(Column { field, origin: Origin::Computed(expr), place: name.place });
            }
            Item::Watermark { column, delay_micros } => {
                if watermark.replace((column.clone(), delay_micros)).is_some() {
                    return Err(Fault::new("a stream has one WATERMARK").at(column.place));
                }
            }
            Item::Check { name, expr, text, on_violation, place } => {
                let name = name.map_or_else(|| format!("check_{}", checks.len() + 1), |n| n.value);
                if checks.iter().any(|c: &CheckItem| c.name == name) {
                    return Err(Fault::new(format!("two checks have the name \"{name}\"")).at(place));
                }
                checks.push(CheckItem { name, text, expr: *expr, on_violation, place });
            }
            Item::PrimaryKey { .. } => {}
        }
    }
    resolve.whole_key()?;
    let (key_contract, key_format) = (resolve.key_contract, resolve.key_format);
    unique(&columns)?;
    type_computed(&mut columns, plan)?;
    let schema = Arc::new(Schema::new(columns.iter().map(|c| Arc::clone(&c.field)).collect::<Vec<_>>()));
    let watermark = watermark.map(|(column, delay)| resolve_watermark(&columns, &column).map(|at| (at, delay))).transpose()?;
    let mut key_columns = Vec::new();
    for name in &key_names {
        match columns.iter().position(|c| *c.field.name() == name.value && !matches!(c.origin, Origin::Computed(_))) {
            Some(at) => key_columns.push(at),
            // Declared columns may leave the key out: then it can't be grouped by.
            None if declared && !table => {}
            None => return Err(unknown_column(name, &columns)),
        }
    }
    if key_columns.len() < key_names.len() {
        key_columns.clear();
    }
    let max_ahead_micros = options.max_ahead_micros.unwrap_or(max_ahead_micros);
    let name = definition.name.value;
    let stream = Stream {
        name,
        place,
        topic,
        value,
        key_format,
        key_contract,
        columns,
        schema,
        key_columns,
        watermark,
        table,
        checks,
        options,
        max_ahead_micros,
    };
    // Checks are planned even if nothing reads the stream.
    let all: BTreeSet<usize> = (0..stream.columns.len()).collect();
    stream.checked(&all, plan)?;
    Ok(stream)
}

pub(super) fn topic_of(name: &Name, options: &Options) -> (Topic, Option<Place>) {
    let topic = options.topic.as_ref().unwrap_or(name);
    (Topic::new(&topic.value), topic.place)
}

fn key_names(items: &[Item], options: &Options) -> Result<Vec<Name>> {
    let mut primary: Option<(&Vec<Name>, Option<Place>)> = None;
    for item in items {
        if let Item::PrimaryKey { columns, place } = item
            && primary.replace((columns, *place)).is_some()
        {
            return Err(Fault::new("a stream has one PRIMARY KEY").at(*place));
        }
    }
    match primary {
        None => Ok(options.key_fields.clone()),
        Some((columns, place)) => {
            let same = |a: &[Name], b: &[Name]| a.len() == b.len() && a.iter().all(|n| b.iter().any(|m| m.value == n.value));
            if !options.key_fields.is_empty() && !same(columns, &options.key_fields) {
                return Err(Fault::new("PRIMARY KEY and 'key.fields' name different columns")
                    .at(place)
                    .hint("leave one of them out"));
            }
            Ok(if options.key_fields.is_empty() { columns.clone() } else { options.key_fields.clone() })
        }
    }
}

struct Resolve<'a> {
    definition: &'a Name,
    options: &'a Options,
    contracts: &'a dyn Contracts,
    topic: &'a Topic,
    value: &'a Arc<Contract>,
    keys: &'a [Name],
    table: bool,
    key_contract: Option<Arc<Contract>>,
    key_format: Option<KeyFormat>,
}

impl Resolve<'_> {
    /// A column that only the key holds; `declared` is its type in the file, which counts where the key has no contract of its own.
    fn key_column(&mut self, name: &Name, declared: Option<&DataType>) -> Result<Column> {
        let prefix = &self.options.key_prefix;
        let field_name = match name.value.strip_prefix(prefix.as_str()) {
            Some(rest) if !rest.is_empty() => rest,
            _ => {
                return Err(Fault::new(format!(
                    "'key.fields' names \"{}\", which does not begin with the prefix \"{prefix}\"",
                    name.value
                ))
                .at(name.place));
            }
        };
        let format = self.format(name)?;
        let raw = match format {
            KeyFormat::Avro => None,
            KeyFormat::Json => return self.json_column(name, declared),
            KeyFormat::String => Some(DataType::Utf8),
            KeyFormat::Long => Some(DataType::Int64),
            KeyFormat::Int => Some(DataType::Int32),
            KeyFormat::Bytes => Some(DataType::Binary),
        };
        if let Some(data_type) = raw {
            if let (true, [_, second, ..]) = (self.table, self.keys) {
                return Err(Fault::new(format!("a bare key is one column, and the PRIMARY KEY has {}", self.keys.len()))
                    .at(second.place)
                    .hint("give 'key.format' = 'avro' or 'json', whichever the topic's keys have"));
            }
            if self.keys.len() > 1 {
                let known: Vec<&str> = self.value.columns.fields().iter().map(|f| f.name().as_str()).collect();
                return Err(Fault::new(format!("a bare key is one column, and \"{}\" is not a field of the value", name.value))
                    .at(name.place)
                    .nearest(&name.value, known));
            }
            // A record of a stream may have no key: the column is NULL then.
            let field = Arc::new(Field::new(&name.value, data_type, true));
            return Ok(Column { field, origin: Origin::Key(0), place: name.place });
        }
        let contract = self.key_contract(name)?;
        let fields = contract.columns.fields();
        let bare = fields.len() == 1 && !matches!(contract.schema.parsed, apache_avro::Schema::Record(_));
        let at = if bare { Some(0) } else { fields.iter().position(|f| f.name() == field_name) };
        let Some(at) = at else {
            let names = self.value.columns.fields().iter().chain(fields).map(|f| f.name().as_str()).collect::<Vec<_>>();
            return Err(Fault::new(format!(
                "column \"{}\" is neither a field of the value nor of the key of topic \"{}\"",
                name.value, self.topic
            ))
            .at(name.place)
            .nearest(&name.value, names));
        };
        let field = Arc::new(Field::clone(&fields[at]).with_name(&name.value));
        Ok(Column { field, origin: Origin::Key(at), place: name.place })
    }

    /// A column of a table's PRIMARY KEY, which the record's key holds.
    fn table_key(&mut self, name: &Name, declared: Option<&DataType>) -> Result<Column> {
        let column = self.key_column(name, declared)?;
        let held = column.field.data_type().clone();
        if let Some(declared) = declared
            && !same(&held, declared)
        {
            return Err(Fault::new(format!(
                "column \"{}\" of the PRIMARY KEY is {}, but the key of topic \"{}\" holds {}",
                name.value,
                sql_name(declared),
                self.topic,
                sql_name(&held)
            ))
            .at(name.place)
            .hint("give the 'key.format' that the topic's keys have"));
        }
        Ok(Column { field: Arc::new(Field::new(&name.value, held, false)), ..column })
    }

    /// A table has one row per record key: by a part of it, rows would replace one another that the topic keeps apart.
    fn whole_key(&self) -> Result<()> {
        let Some(contract) = self.key_contract.as_ref().filter(|_| self.table) else { return Ok(()) };
        let prefix = self.options.key_prefix.as_str();
        let named = |field: &str| self.keys.iter().any(|key| key.value.strip_prefix(prefix) == Some(field));
        let fields = contract.columns.fields();
        if fields.len() <= self.keys.len() {
            return Ok(());
        }
        let left: Vec<&str> = fields.iter().map(|field| field.name().as_str()).filter(|field| !named(field)).collect();
        Err(Fault::new(format!(
            "the PRIMARY KEY of \"{}\" leaves out {} of the key of topic \"{}\"",
            self.definition.value,
            list(&left),
            self.topic
        ))
        .at(self.keys.first().and_then(|key| key.place))
        .hint("a table's PRIMARY KEY is its topic's key: name all its fields"))
    }

    /// A member of a JSON key: text unless the file declares another type.
    fn json_column(&self, name: &Name, declared: Option<&DataType>) -> Result<Column> {
        let data_type = declared.cloned().unwrap_or(DataType::Utf8);
        if !json_holds(&data_type) {
            return Err(Fault::new(format!("a JSON key has no member of type {} (\"{}\")", sql_name(&data_type), name.value))
                .at(name.place)
                .hint("declare it STRING, BOOLEAN, INT, BIGINT, DECIMAL, BYTES, DATE, TIME or TIMESTAMP(3)"));
        }
        let at = self.keys.iter().position(|key| key.value == name.value).unwrap_or_default();
        Ok(Column { field: Arc::new(Field::new(&name.value, data_type, true)), origin: Origin::Key(at), place: name.place })
    }

    fn format(&mut self, name: &Name) -> Result<KeyFormat> {
        if let Some(format) = self.key_format {
            return Ok(format);
        }
        if self.contracts.key(self.topic, self.options.key_subject.as_deref())?.is_some() {
            self.key_format = Some(KeyFormat::Avro);
            return Ok(KeyFormat::Avro);
        }
        Err(Fault::new(format!(
            "column \"{}\" is held by the key of topic \"{}\" alone, whose format is not known",
            name.value, self.topic
        ))
        .at(name.place)
        .hint("give 'key.format' = 'string' (or json, long, int, bytes, avro)"))
    }

    fn key_contract(&mut self, name: &Name) -> Result<Arc<Contract>> {
        if let Some(contract) = &self.key_contract {
            return Ok(Arc::clone(contract));
        }
        let Some(contract) = self.contracts.key(self.topic, self.options.key_subject.as_deref())? else {
            let subject = self.options.key_subject.clone().unwrap_or_else(|| format!("{}-key", self.topic));
            return Err(Fault::new(format!("topic \"{}\" has no key contract: subject \"{subject}\" is not known", self.topic))
                .at(name.place)
                .hint("give 'key.format' = 'string' (or json, long, int, bytes) if its keys are not Avro"));
        };
        self.key_contract = Some(Arc::clone(&contract));
        Ok(contract)
    }

    /// A column that the file declares with a type: one of the value's fields, or one of the key's.
    fn physical(&mut self, name: &Name, declared: &DataType, nullable: bool, place: Option<Place>) -> Result<Column> {
        let found = self.value.columns.fields().iter().position(|f| *f.name() == name.value);
        let (mut column, subject) = match found {
            Some(at) => {
                let field = Arc::clone(&self.value.columns.fields()[at]);
                (Column { field, origin: Origin::Value(at), place: name.place }, self.value.subject.clone())
            }
            None if self.keys.iter().any(|k| k.value == name.value) => {
                let column = self.key_column(&Name { value: name.value.clone(), place: name.place }, Some(declared))?;
                let subject = self.key_contract.as_ref().map_or("the key".to_owned(), |c| c.subject.clone());
                (column, subject)
            }
            None => {
                let names: Vec<&str> = self.value.columns.fields().iter().map(|f| f.name().as_str()).collect();
                let fault = Fault::new(format!(
                    "column \"{}\" of \"{}\" is not a field of \"{}\"",
                    name.value, self.definition.value, self.value.subject
                ));
                return Err(match crate::error::nearest(&name.value, names.iter().copied()) {
                    Some(near) => fault.hint(format!("did you mean \"{near}\"?")),
                    None => fault.hint(format!("its fields are {}", list(&names))),
                }
                .at(name.place));
            }
        };
        let held = column.field.data_type();
        if !widens(held, declared) {
            return Err(Fault::new(format!(
                "column \"{}\" is declared {}, but \"{subject}\" has {}",
                name.value,
                sql_name(declared),
                sql_name(held)
            ))
            .at(place)
            .hint(format!("write {}, or leave the column out: columns come from the contract", sql_name(held))));
        }
        if column.field.is_nullable() && !nullable {
            return Err(Fault::new(format!("column \"{}\" is declared NOT NULL, but \"{subject}\" allows null", name.value))
                .at(place)
                .hint(format!("CHECK ({} IS NOT NULL) refuses such records", name.value)));
        }
        if !same(held, declared) {
            column.field = Arc::new(Field::new(&name.value, declared.clone(), column.field.is_nullable()));
        }
        Ok(column)
    }
}

fn metadata(name: &Name, declared: &DataType, from: &Name) -> Result<Column> {
    let Some(metadata) = Metadata::ALL.into_iter().find(|m| m.as_str() == from.value) else {
        let known = Metadata::ALL.map(Metadata::as_str);
        let fault = Fault::new(format!("metadata \"{}\" is not known", from.value)).at(from.place);
        return Err(match crate::error::nearest(&from.value, known) {
            Some(near) => fault.hint(format!("did you mean '{near}'?")),
            None => fault.hint(format!("METADATA FROM is one of {}", list(&known))),
        });
    };
    let held = metadata.data_type();
    // Flink takes the record's timestamp as TIMESTAMP(3) too: the instant's clock in UTC.
    let local = matches!((&held, declared), (DataType::Timestamp(..), DataType::Timestamp(..)));
    if !widens(&held, declared) && !local {
        return Err(Fault::new(format!("metadata '{}' is {}, not {}", metadata.as_str(), sql_name(&held), sql_name(declared)))
            .at(name.place));
    }
    let data_type = if same(&held, declared) { held } else { declared.clone() };
    let field = Arc::new(Field::new(&name.value, data_type, metadata.nullable()));
    Ok(Column { field, origin: Origin::Metadata(metadata), place: name.place })
}

fn unique(columns: &[Column]) -> Result<()> {
    for (n, column) in columns.iter().enumerate() {
        if columns[..n].iter().any(|c| c.field.name() == column.field.name()) {
            let fault = Fault::new(format!("column \"{}\" is there already", column.field.name())).at(column.place);
            return Err(match column.origin {
                Origin::Value(_) | Origin::Key(_) => fault,
                _ => fault.hint("give the new column another name"),
            });
        }
    }
    Ok(())
}

/// Computed columns see all columns that are not computed.
fn type_computed(columns: &mut [Column], plan: &PlanExpr) -> Result<()> {
    let plain: Vec<FieldRef> =
        columns.iter().filter(|c| !matches!(c.origin, Origin::Computed(_))).map(|c| Arc::clone(&c.field)).collect();
    let schema = DFSchema::try_from(Schema::new(plain))?;
    let names: Vec<String> =
        columns.iter().filter(|c| matches!(c.origin, Origin::Computed(_))).map(|c| c.field.name().clone()).collect();
    for column in columns {
        let Origin::Computed(expr) = &column.origin else { continue };
        let planned = plan(expr, &schema).map_err(|fault| match fault {
            Fault::Sql { place, message, .. } if names.iter().any(|n| message == format!("column \"{n}\" is not known")) => {
                Fault::Sql { place, message, hint: Some("a computed column can't use another computed column".into()) }
            }
            other => other,
        });
        let planned = planned.map_err(|f| f.at(column.place))?;
        let identity: Vec<Option<usize>> = (0..schema.fields().len()).map(Some).collect();
        let physical = expression::physical(&planned, &schema, schema.as_arrow(), &identity).map_err(|f| f.at(column.place))?;
        column.field =
            Arc::new(expression::field(&physical, schema.as_arrow(), column.field.name()).map_err(|f| f.at(column.place))?);
    }
    Ok(())
}

fn unknown_column(name: &Name, columns: &[Column]) -> Fault {
    let names: Vec<&str> = columns.iter().map(|c| c.field.name().as_str()).collect();
    let fault = Fault::new(format!("column \"{}\" is not known", name.value)).at(name.place);
    match crate::error::nearest(&name.value, names.iter().copied()) {
        Some(near) => fault.hint(format!("did you mean \"{near}\"?")),
        None => fault.hint(format!("the columns here are {}", list(&names))),
    }
}

fn resolve_watermark(columns: &[Column], name: &Name) -> Result<usize> {
    let Some(at) = columns.iter().position(|c| *c.field.name() == name.value) else { return Err(unknown_column(name, columns)) };
    match columns[at].field.data_type() {
        DataType::Timestamp(_, zone) if zone.as_deref().is_none_or(|z| z == UTC || z == "UTC") => Ok(at),
        other => Err(Fault::new(format!("the watermark's column \"{}\" is {}, not a time", name.value, sql_name(other)))
            .at(name.place)
            .hint("compute one: ts AS TO_TIMESTAMP_LTZ(millis, 3)")),
    }
}

impl Stream {
    /// Whether equal keys are known to lie in one partition for a reason that holds across topics too.
    pub fn bare_or_trusted(&self) -> bool {
        // Of one JSON value there are several texts, as of one Avro value there are several schema ids.
        self.options.trusted || self.key_format.is_some_and(|f| !matches!(f, KeyFormat::Avro | KeyFormat::Json))
    }

    /// Of a table: what a row joins that is older than the first version.
    pub fn before_first(&self) -> BeforeFirst {
        self.options.before_first
    }

    /// The column's place in the contract of the value, for a sink that keeps the field as it is.
    pub fn contract_field(&self, column: usize) -> Option<(Arc<Contract>, usize)> {
        match self.columns[column].origin {
            Origin::Value(at) if self.columns[column].field.data_type() == self.value.columns.field(at).data_type() => {
                Some((Arc::clone(&self.value), at))
            }
            Origin::Key(at) => self.key_contract.as_ref().map(|c| (Arc::clone(c), at)),
            _ => None,
        }
    }

    /// The columns that a source with `used` columns has, ascending: those, the watermark's, those of checks, and at least one.
    fn kept(&self, used: &BTreeSet<usize>, plan: &PlanExpr) -> Result<Vec<usize>> {
        let mut kept = used.clone();
        kept.extend(self.watermark.map(|(column, _)| column));
        if self.table {
            kept.extend(&self.key_columns);
        }
        let whole = DFSchema::try_from(Schema::clone(&self.schema))?;
        for check in &self.checks {
            let planned = plan(&check.expr, &whole).map_err(|f| f.at(check.place))?;
            for column in planned.column_refs() {
                kept.insert(whole.index_of_column(column)?);
            }
        }
        if kept.is_empty() {
            kept.insert(0);
        }
        Ok(kept.into_iter().collect())
    }

    fn checked(&self, used: &BTreeSet<usize>, plan: &PlanExpr) -> Result<Vec<Check>> {
        let kept = self.kept(used, plan)?;
        let schema = Schema::new(kept.iter().map(|at| Arc::clone(&self.columns[*at].field)).collect::<Vec<_>>());
        let planned = DFSchema::try_from(schema.clone())?;
        let identity: Vec<Option<usize>> = (0..kept.len()).map(Some).collect();
        let checks = self.checks.iter().map(|check| {
            let expr = plan(&check.expr, &planned)?;
            let expr = expression::physical(&expr, &planned, &schema, &identity)?;
            match expr.data_type(&schema)? {
                DataType::Boolean => {}
                other => {
                    return Err(
                        Fault::new(format!("check \"{}\" is {}, not a condition", check.name, sql_name(&other))).at(check.place)
                    );
                }
            }
            Ok(Check { name: check.name.clone(), text: check.text.clone(), expr, on_violation: check.on_violation })
        });
        checks.zip(&self.checks).map(|(made, check)| made.map_err(|f: Fault| f.at(check.place))).collect()
    }

    /// The source with the columns that are used, and where each column of the stream is in it.
    pub fn source(&self, used: &BTreeSet<usize>, plan: &PlanExpr) -> Result<(Source, Vec<Option<usize>>)> {
        let kept = self.kept(used, plan)?;
        // What has to be decoded for them: plain columns, and those that computed ones read.
        let plain: Vec<usize> =
            (0..self.columns.len()).filter(|at| !matches!(self.columns[*at].origin, Origin::Computed(_))).collect();
        let whole =
            DFSchema::try_from(Schema::new(plain.iter().map(|at| Arc::clone(&self.columns[*at].field)).collect::<Vec<_>>()))?;
        let mut computed = Vec::new();
        let mut read: BTreeSet<usize> = BTreeSet::new();
        for at in &kept {
            match &self.columns[*at].origin {
                Origin::Computed(expr) => {
                    let planned = plan(expr, &whole)?;
                    for column in planned.column_refs() {
                        read.insert(plain[whole.index_of_column(column)?]);
                    }
                    computed.push(planned);
                }
                _ => {
                    read.insert(*at);
                }
            }
        }
        let decoded = Decoded::new(self, &read);
        let table = self.table.then(|| decoded.table(self));
        // Where each plain column is in what was decoded, widened if it is declared wider than it is held.
        let widened: Vec<Option<usize>> = plain.iter().map(|at| decoded.place_of(&self.columns[*at])).collect();
        let mut computed = computed.into_iter();
        let mut exprs = Vec::new();
        let mut fields = Vec::new();
        for at in &kept {
            let column = &self.columns[*at];
            let expr = match column.origin {
                Origin::Computed(_) => {
                    let Some(planned) = computed.next() else { return Err(Fault::new("a computed column was lost")) };
                    let planned = self.over_decoded(planned, &whole, &decoded.schema, &widened)?;
                    expression::physical(&planned, &whole, &decoded.schema, &widened)?
                }
                _ => {
                    let Some(place) = decoded.place_of(column) else { return Err(Fault::new("a column was lost")) };
                    expression::cast(expression::column(&decoded.schema, place), &decoded.schema, column.field.data_type())?
                }
            };
            exprs.push(expr);
            fields.push(Arc::clone(&column.field));
        }
        let schema = Arc::new(Schema::new(fields));
        let event_time = match self.watermark {
            None if self.table => EventTime::VersionTimestamp,
            None => EventTime::RecordTimestamp,
            Some((column, delay_micros)) => {
                let Some(column) = kept.iter().position(|at| *at == column) else {
                    return Err(Fault::new("the watermark's column was lost"));
                };
                EventTime::Column { column, delay_micros, max_ahead_micros: self.max_ahead_micros }
            }
        };
        let places: Vec<Option<usize>> = (0..self.columns.len()).map(|at| kept.iter().position(|k| *k == at)).collect();
        let table_key = self.key_columns.iter().filter(|_| self.table).filter_map(|key| places[*key]).collect();
        let checks = self.checked(used, plan)?;
        let ingest = IngestSpec { decoded: decoded.schema, columns: exprs, schema, checks, event_time, table_key };
        let source = Source {
            name: self.name.clone(),
            topic: self.topic.clone(),
            value: Arc::clone(&self.value),
            value_columns: decoded.value,
            key: decoded.key,
            key_format: self.key_format,
            metadata: decoded.metadata,
            ingest,
            null_value: self.options.null_value.unwrap_or(NullValue::Skip),
            table,
            on_bad: self.options.on_bad.clone(),
            line: self.place.line,
            column: self.place.column,
        };
        Ok((source, places))
    }

    /// A computed expression was planned over declared types; where those are wider than what is decoded, casts come in.
    fn over_decoded(&self, planned: Expr, whole: &DFSchema, decoded: &Schema, places: &[Option<usize>]) -> Result<Expr> {
        use datafusion_common::tree_node::{Transformed, TransformedResult, TreeNode};
        let planned = planned.transform_up(|expr| {
            let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
            let at = whole.index_of_column(column)?;
            let wanted = whole.field(at).data_type();
            match places.get(at).copied().flatten() {
                Some(place) if decoded.field(place).data_type() != wanted => Err(Fault::new(format!(
                    "column \"{}\" is declared {}, but decoded as {}",
                    column.name,
                    sql_name(wanted),
                    sql_name(decoded.field(place).data_type())
                ))
                .hint("declare it as its contract has it to use it in a computed column")
                .into()),
                _ => Ok(Transformed::no(expr)),
            }
        });
        Ok(planned.data()?)
    }
}

/// The columns that a source decodes.
struct Decoded {
    schema: SchemaRef,
    value: Vec<usize>,
    key: Option<SourceKey>,
    metadata: Vec<Metadata>,
}

impl Decoded {
    fn new(stream: &Stream, read: &BTreeSet<usize>) -> Decoded {
        let mut value: BTreeSet<usize> = BTreeSet::new();
        let mut keys: Vec<(usize, FieldRef)> = Vec::new();
        let mut metadata: Vec<Metadata> = Vec::new();
        for at in read {
            let column = &stream.columns[*at];
            match column.origin {
                Origin::Value(n) => drop(value.insert(n)),
                Origin::Key(n) if !keys.iter().any(|(k, _)| *k == n) => keys.push((n, Arc::clone(&column.field))),
                Origin::Metadata(m) if !metadata.contains(&m) => metadata.push(m),
                _ => {}
            }
        }
        if stream.table {
            // What the key says is compared with what the value says of it.
            let fields = stream.value.columns.fields();
            let names = stream.key_columns.iter().map(|key| stream.columns[*key].field.name());
            value.extend(names.filter_map(|name| fields.iter().position(|field| field.name() == name)));
        }
        // The value is always decoded, so that a bad one is a bad record whatever the query reads.
        if value.is_empty() && !stream.value.columns.fields().is_empty() {
            value.insert(0);
        }
        keys.sort_by_key(|(n, _)| *n);
        let value: Vec<usize> = value.into_iter().collect();
        let mut fields: Vec<FieldRef> = value.iter().map(|n| Arc::clone(&stream.value.columns.fields()[*n])).collect();
        let key = (!keys.is_empty()).then(|| SourceKey {
            format: stream.key_format.unwrap_or(KeyFormat::Avro),
            contract: stream.key_contract.clone(),
            columns: keys.iter().map(|(n, _)| *n).collect(),
            members: keys
                .iter()
                .map(|(_, field)| {
                    field.name().strip_prefix(stream.options.key_prefix.as_str()).unwrap_or(field.name()).to_owned()
                })
                .collect(),
            fields: keys
                .iter()
                .map(|(n, field)| match &stream.key_contract {
                    Some(contract) => Arc::new(Field::clone(contract.columns.field(*n)).with_name(field.name())),
                    None => Arc::clone(field),
                })
                // A record may lack its key: where that is bad, it is found after decoding.
                .map(|field: FieldRef| if stream.table { Arc::new(Field::clone(&field).with_nullable(true)) } else { field })
                .collect(),
        });
        fields.extend(key.iter().flat_map(|k| k.fields.iter().cloned()));
        fields.extend(metadata.iter().map(|m| Arc::new(Field::new(m.as_str(), m.data_type(), m.nullable()))));
        Decoded { schema: Arc::new(Schema::new(fields)), value, key, metadata }
    }

    /// What a table compares of key and value.
    fn table(&self, stream: &Stream) -> TableSource {
        let fields = stream.value.columns.fields();
        let mut held_twice = Vec::new();
        for key in &stream.key_columns {
            let Column { field, origin: Origin::Key(n), .. } = &stream.columns[*key] else { continue };
            let in_value = self.value.iter().position(|at| fields[*at].name() == field.name());
            let in_key = self.key.as_ref().and_then(|key| key.columns.iter().position(|at| at == n));
            held_twice.extend(in_value.zip(in_key));
        }
        TableSource { held_twice, before_first: stream.options.before_first }
    }

    fn place_of(&self, column: &Column) -> Option<usize> {
        let keys = self.key.as_ref().map_or(0, |k| k.columns.len());
        match column.origin {
            Origin::Value(n) => self.value.iter().position(|v| *v == n),
            Origin::Key(n) => self.key.as_ref()?.columns.iter().position(|k| *k == n).map(|at| self.value.len() + at),
            Origin::Metadata(m) => self.metadata.iter().position(|have| *have == m).map(|at| self.value.len() + keys + at),
            Origin::Computed(_) => None,
        }
    }
}
