//! Schemas as a graph of types: names resolved, logical types recognised, and the Arrow type of each.
//!
//! How Avro types look as columns: strings, enums and uuids are Utf8; `timestamp-*` is `Timestamp(unit, "+00:00")`, an instant;
//! `local-timestamp-*` is `Timestamp(unit, None)`; decimals are Decimal128 up to 38 digits, else Decimal256; `duration` is
//! `Interval(MonthDayNano)`; a union of null and one type is a nullable column of that type; any other union is a struct with one
//! nullable member per type (named after the type, at most one of them set), NULL where the value is null. A logical type that is
//! unknown, or does not fit its type, is ignored, as the Avro specification has it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit};
use serde_json::{Map, Value};

use super::text::{defined_name, full_name, is_primitive, namespace_of};
use crate::error::{Error, Result};

/// The place of a type in its [`Tree`].
pub type NodeId = usize;

/// The time zone of columns that hold instants.
pub const INSTANT: &str = "+00:00";

/// A schema's types. A named type occurs once; recursion is a cycle.
#[derive(Clone, Debug)]
pub struct Tree {
    pub nodes: Vec<Node>,
    pub root: NodeId,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    pub logical: Option<Logical>,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed { name: Names, size: usize },
    Enum { name: Names, symbols: Arc<[String]>, default: Option<usize> },
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    Record { name: Names, fields: Vec<RecordField> },
}

/// The full name of a type and its aliases.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub full: String,
    pub aliases: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct RecordField {
    pub name: String,
    pub aliases: Vec<String>,
    pub of: NodeId,
    pub default: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logical {
    Decimal { precision: u8, scale: i8 },
    BigDecimal,
    Uuid,
    Date,
    TimeMillis,
    TimeMicros,
    TimestampMillis,
    TimestampMicros,
    TimestampNanos,
    LocalTimestampMillis,
    LocalTimestampMicros,
    LocalTimestampNanos,
    Duration,
}

impl Names {
    /// Without the namespace.
    pub fn short(&self) -> &str {
        self.full.rsplit('.').next().unwrap_or(&self.full)
    }
}

impl Tree {
    pub(super) fn new(schema: &Value) -> Result<Tree> {
        let mut reader = Reader { nodes: Vec::new(), names: HashMap::new() };
        let root = reader.read(schema, "")?;
        Ok(Tree { nodes: reader.nodes, root })
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// The fields where the schema is a record.
    pub fn fields(&self) -> Option<&[RecordField]> {
        match &self.node(self.root).kind {
            Kind::Record { fields, .. } => Some(fields),
            _ => None,
        }
    }

    /// The types that are columns: a record's fields, or the schema itself.
    pub fn column_nodes(&self) -> Vec<NodeId> {
        match self.fields() {
            Some(fields) => fields.iter().map(|field| field.of).collect(),
            None => vec![self.root],
        }
    }

    /// The columns of this schema; one named `name` where it is not a record.
    pub fn columns(&self, name: &str) -> Result<SchemaRef> {
        let fields: Result<Vec<FieldRef>> = match self.fields() {
            Some(fields) => fields.iter().map(|f| self.column(&f.name, f.of, &f.name, &mut vec![self.root])).collect(),
            None => Ok(vec![self.column(name, self.root, name, &mut Vec::new())?]),
        };
        Ok(Arc::new(Schema::new(fields?)))
    }

    /// The type without null, and whether null is a branch, of a union of null and one type; any other type is itself.
    pub fn without_null(&self, id: NodeId) -> (NodeId, bool) {
        match &self.node(id).kind {
            Kind::Union(branches) => match branches.as_slice() {
                [a, b] if self.is_null(*a) && !self.is_null(*b) => (*b, true),
                [a, b] if self.is_null(*b) && !self.is_null(*a) => (*a, true),
                [only] => (*only, self.is_null(*only)),
                _ => (id, branches.iter().any(|branch| self.is_null(*branch))),
            },
            Kind::Null => (id, true),
            _ => (id, false),
        }
    }

    pub fn is_null(&self, id: NodeId) -> bool {
        matches!(self.node(id).kind, Kind::Null)
    }

    fn column(&self, name: &str, id: NodeId, path: &str, above: &mut Vec<NodeId>) -> Result<FieldRef> {
        let (inner, nullable) = self.without_null(id);
        Ok(Arc::new(Field::new(name, self.data_type(inner, path, above)?, nullable)))
    }

    /// The Arrow type of a type that is not nullable.
    fn data_type(&self, id: NodeId, path: &str, above: &mut Vec<NodeId>) -> Result<DataType> {
        if above.contains(&id) {
            return Err(Error::contract(format!("field \"{path}\": its type contains itself, and no column can hold that"))
                .hint("leave the field out of the reader's schema; values of other fields can still be read"));
        }
        above.push(id);
        let node = self.node(id);
        let of = match (&node.kind, node.logical) {
            (_, Some(logical)) => logical.data_type().ok_or_else(|| {
                Error::contract(format!("field \"{path}\": logical type {logical} has no column type"))
                    .hint("use a decimal of at most 76 digits")
            })?,
            (Kind::Null, _) => DataType::Null,
            (Kind::Boolean, _) => DataType::Boolean,
            (Kind::Int, _) => DataType::Int32,
            (Kind::Long, _) => DataType::Int64,
            (Kind::Float, _) => DataType::Float32,
            (Kind::Double, _) => DataType::Float64,
            (Kind::Bytes, _) => DataType::Binary,
            (Kind::String | Kind::Enum { .. }, _) => DataType::Utf8,
            (Kind::Fixed { size, .. }, _) => DataType::FixedSizeBinary(
                i32::try_from(*size)
                    .map_err(|_| Error::contract(format!("field \"{path}\": fixed of {size} bytes is too large")))?,
            ),
            (Kind::Array(items), _) => DataType::List(self.column("item", *items, &format!("{path}[]"), above)?),
            (Kind::Map(values), _) => {
                let key = Arc::new(Field::new("key", DataType::Utf8, false));
                let value = self.column("value", *values, &format!("{path}{{}}"), above)?;
                let entries = Field::new("entries", DataType::Struct(Fields::from(vec![key, value])), false);
                DataType::Map(Arc::new(entries), false)
            }
            (Kind::Record { fields, .. }, _) => {
                let fields = fields.iter().map(|f| self.column(&f.name, f.of, &format!("{path}.{}", f.name), above));
                DataType::Struct(fields.collect::<Result<Fields>>()?)
            }
            (Kind::Union(_), _) => {
                let members = self.members(id).into_iter().map(|(name, branch)| {
                    let of = self.data_type(branch, &format!("{path}.{name}"), above)?;
                    Ok(Arc::new(Field::new(name, of, true)))
                });
                DataType::Struct(members.collect::<Result<Fields>>()?)
            }
        };
        above.pop();
        Ok(of)
    }

    /// A union's branches other than null, in order, by the names that they have as members of a struct: `int`, `string`, ...,
    /// and a named type's short name, or its full name where two have the same short one.
    pub fn members(&self, union: NodeId) -> Vec<(String, NodeId)> {
        let Kind::Union(branches) = &self.node(union).kind else { return Vec::new() };
        let branches: Vec<NodeId> = branches.iter().copied().filter(|branch| !self.is_null(*branch)).collect();
        let short: Vec<&str> = branches.iter().map(|branch| self.short_name(*branch)).collect();
        let names = short.iter().enumerate().map(|(i, name)| match short.iter().filter(|other| *other == name).count() {
            1 => name.to_string(),
            _ => self.type_name(branches[i]),
        });
        names.zip(branches.iter().copied()).collect()
    }

    fn short_name(&self, id: NodeId) -> &str {
        match &self.node(id).kind {
            Kind::Fixed { name, .. } | Kind::Enum { name, .. } | Kind::Record { name, .. } => name.short(),
            kind => kind.word(),
        }
    }

    /// As messages and tagged JSON name the type: `long`, `com.shop.Order`, `timestamp-millis` is `long`.
    pub fn type_name(&self, id: NodeId) -> String {
        match &self.node(id).kind {
            Kind::Fixed { name, .. } | Kind::Enum { name, .. } | Kind::Record { name, .. } => name.full.clone(),
            kind => kind.word().to_string(),
        }
    }

    /// As messages describe the type: with its logical type, and what a union holds.
    pub fn describe(&self, id: NodeId) -> String {
        let node = self.node(id);
        match (&node.kind, node.logical) {
            (_, Some(logical)) => logical.to_string(),
            (Kind::Union(branches), _) => {
                let branches: Vec<String> = branches.iter().map(|b| self.describe_branch(*b)).collect();
                format!("[{}]", branches.join(", "))
            }
            _ => self.describe_branch(id),
        }
    }

    fn describe_branch(&self, id: NodeId) -> String {
        let node = self.node(id);
        match (&node.kind, node.logical) {
            (_, Some(logical)) => logical.to_string(),
            (Kind::Fixed { name, size }, _) => format!("fixed {} of {size} bytes", name.full),
            (Kind::Enum { name, .. }, _) => format!("enum {}", name.full),
            (Kind::Record { name, .. }, _) => format!("record {}", name.full),
            (kind, _) => kind.word().to_string(),
        }
    }
}

impl Kind {
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Boolean => "boolean",
            Kind::Int => "int",
            Kind::Long => "long",
            Kind::Float => "float",
            Kind::Double => "double",
            Kind::Bytes => "bytes",
            Kind::String => "string",
            Kind::Fixed { .. } => "fixed",
            Kind::Enum { .. } => "enum",
            Kind::Array(_) => "array",
            Kind::Map(_) => "map",
            Kind::Union(_) => "union",
            Kind::Record { .. } => "record",
        }
    }
}

impl Logical {
    /// The column's type; `None` where there is none.
    pub fn data_type(self) -> Option<DataType> {
        let instant = |unit| DataType::Timestamp(unit, Some(INSTANT.into()));
        Some(match self {
            Logical::Decimal { precision, scale } if precision <= 38 => DataType::Decimal128(precision, scale),
            Logical::Decimal { precision, scale } if precision <= 76 => DataType::Decimal256(precision, scale),
            Logical::Decimal { .. } | Logical::BigDecimal => return None,
            Logical::Uuid => DataType::Utf8,
            Logical::Date => DataType::Date32,
            Logical::TimeMillis => DataType::Time32(TimeUnit::Millisecond),
            Logical::TimeMicros => DataType::Time64(TimeUnit::Microsecond),
            Logical::TimestampMillis => instant(TimeUnit::Millisecond),
            Logical::TimestampMicros => instant(TimeUnit::Microsecond),
            Logical::TimestampNanos => instant(TimeUnit::Nanosecond),
            Logical::LocalTimestampMillis => DataType::Timestamp(TimeUnit::Millisecond, None),
            Logical::LocalTimestampMicros => DataType::Timestamp(TimeUnit::Microsecond, None),
            Logical::LocalTimestampNanos => DataType::Timestamp(TimeUnit::Nanosecond, None),
            Logical::Duration => DataType::Interval(IntervalUnit::MonthDayNano),
        })
    }

    /// Whether a reader of this logical type takes values of a writer's: another precision of a decimal does not change what
    /// the bytes mean (a value that does not fit is bad on its own), anything else does.
    pub fn takes(self, writer: Logical) -> bool {
        match (self, writer) {
            (Logical::Decimal { scale, .. }, Logical::Decimal { scale: wrote, .. }) => scale == wrote,
            _ => self == writer,
        }
    }

    /// Units per second of the time types.
    pub fn units_per_second(self) -> Option<i64> {
        match self {
            Logical::TimeMillis | Logical::TimestampMillis | Logical::LocalTimestampMillis => Some(1_000),
            Logical::TimeMicros | Logical::TimestampMicros | Logical::LocalTimestampMicros => Some(1_000_000),
            Logical::TimestampNanos | Logical::LocalTimestampNanos => Some(1_000_000_000),
            _ => None,
        }
    }

    /// The logical type of a definition, where it fits the type that carries it.
    fn read(definition: &Map<String, Value>, kind: &Kind) -> Option<Logical> {
        let fixed = |bytes: usize| matches!(kind, Kind::Fixed { size, .. } if *size == bytes);
        Some(match (definition.get("logicalType")?.as_str()?, kind) {
            ("decimal", Kind::Bytes | Kind::Fixed { .. }) => {
                let precision = definition.get("precision")?.as_u64()?;
                let scale = definition.get("scale").map_or(Some(0), Value::as_u64)?;
                let room = match kind {
                    Kind::Fixed { size, .. } => ((8 * size).saturating_sub(1)) as f64 * std::f64::consts::LOG10_2,
                    _ => f64::INFINITY,
                };
                if precision == 0 || scale > precision || precision as f64 > room.floor() {
                    return None;
                }
                Logical::Decimal { precision: u8::try_from(precision).unwrap_or(u8::MAX), scale: i8::try_from(scale).ok()? }
            }
            ("big-decimal", Kind::Bytes) => Logical::BigDecimal,
            ("uuid", Kind::String) => Logical::Uuid,
            ("uuid", Kind::Fixed { .. }) if fixed(16) => Logical::Uuid,
            ("date", Kind::Int) => Logical::Date,
            ("time-millis", Kind::Int) => Logical::TimeMillis,
            ("time-micros", Kind::Long) => Logical::TimeMicros,
            ("timestamp-millis", Kind::Long) => Logical::TimestampMillis,
            ("timestamp-micros", Kind::Long) => Logical::TimestampMicros,
            ("timestamp-nanos", Kind::Long) => Logical::TimestampNanos,
            ("local-timestamp-millis", Kind::Long) => Logical::LocalTimestampMillis,
            ("local-timestamp-micros", Kind::Long) => Logical::LocalTimestampMicros,
            ("local-timestamp-nanos", Kind::Long) => Logical::LocalTimestampNanos,
            ("duration", Kind::Fixed { .. }) if fixed(12) => Logical::Duration,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Logical {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Logical::Decimal { precision, scale } => return write!(f, "decimal({precision}, {scale})"),
            Logical::BigDecimal => "big-decimal",
            Logical::Uuid => "uuid",
            Logical::Date => "date",
            Logical::TimeMillis => "time-millis",
            Logical::TimeMicros => "time-micros",
            Logical::TimestampMillis => "timestamp-millis",
            Logical::TimestampMicros => "timestamp-micros",
            Logical::TimestampNanos => "timestamp-nanos",
            Logical::LocalTimestampMillis => "local-timestamp-millis",
            Logical::LocalTimestampMicros => "local-timestamp-micros",
            Logical::LocalTimestampNanos => "local-timestamp-nanos",
            Logical::Duration => "duration",
        })
    }
}

/// Reads a schema's JSON. `names` are the types defined so far, by full name.
struct Reader {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
}

impl Reader {
    fn read(&mut self, schema: &Value, namespace: &str) -> Result<NodeId> {
        match schema {
            Value::String(name) if is_primitive(name) => Ok(self.push(primitive(name), None)),
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.read(branch, namespace)).collect::<Result<_>>()?;
                Ok(self.push(Kind::Union(branches), None))
            }
            Value::Object(definition) => self.object(definition, namespace),
            other => Err(Error::contract(format!("not an Avro type: {other}"))),
        }
    }

    fn push(&mut self, kind: Kind, logical: Option<Logical>) -> NodeId {
        self.nodes.push(Node { kind, logical });
        self.nodes.len() - 1
    }

    fn named(&self, name: &str, namespace: &str) -> Result<NodeId> {
        let full = full_name(name, namespace);
        self.names.get(&full).copied().ok_or_else(|| Error::contract(format!("type \"{full}\" is used but not defined")))
    }

    fn object(&mut self, definition: &Map<String, Value>, namespace: &str) -> Result<NodeId> {
        let of = definition.get("type").ok_or_else(|| Error::contract("a type without \"type\""))?;
        let Some(kind) = of.as_str() else {
            let inner = self.read(of, namespace)?;
            return Ok(self.with_logical(inner, definition));
        };
        if let Some(full) = defined_name(definition, namespace) {
            return self.definition(kind, full, definition);
        }
        let part = |name: &str| definition.get(name).ok_or_else(|| Error::contract(format!("{kind} without \"{name}\"")));
        let kind = match kind {
            "array" => Kind::Array(self.read(part("items")?, namespace)?),
            "map" => Kind::Map(self.read(part("values")?, namespace)?),
            name if is_primitive(name) => primitive(name),
            name => return self.named(name, namespace),
        };
        let logical = Logical::read(definition, &kind);
        Ok(self.push(kind, logical))
    }

    /// `{"type": {"type": "long"}, "logicalType": ...}`: the outer logical type counts, as in Java.
    fn with_logical(&mut self, inner: NodeId, definition: &Map<String, Value>) -> NodeId {
        let kind = self.nodes[inner].kind.clone();
        match Logical::read(definition, &kind) {
            Some(logical) if !matches!(kind, Kind::Fixed { .. }) => self.push(kind, Some(logical)),
            _ => inner,
        }
    }

    fn definition(&mut self, kind: &str, full: String, definition: &Map<String, Value>) -> Result<NodeId> {
        let namespace = namespace_of(&full).to_string();
        let aliases = strings(definition.get("aliases")).map(|alias| full_name(alias, &namespace)).collect();
        let name = Names { full: full.clone(), aliases };
        // A record is known by name before its fields are read: they may refer to it.
        let id = self.push(Kind::Null, None);
        if self.names.insert(full.clone(), id).is_some() {
            return Err(Error::contract(format!("type \"{full}\" is defined twice")));
        }
        let kind = match kind {
            "fixed" => {
                let size = definition.get("size").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
                Kind::Fixed { name, size: size.ok_or_else(|| Error::contract(format!("fixed \"{full}\" without \"size\"")))? }
            }
            "enum" => {
                let symbols: Arc<[String]> = strings(definition.get("symbols")).map(str::to_string).collect();
                let default = definition.get("default").and_then(Value::as_str);
                let default = default.and_then(|default| symbols.iter().position(|symbol| symbol == default));
                Kind::Enum { name, symbols, default }
            }
            _ => {
                let mut fields = Vec::new();
                for field in definition.get("fields").and_then(Value::as_array).into_iter().flatten() {
                    fields.push(self.field(field, &namespace).map_err(|e| e.context(format!("record \"{full}\"")))?);
                }
                Kind::Record { name, fields }
            }
        };
        let logical = Logical::read(definition, &kind);
        self.nodes[id] = Node { kind, logical };
        Ok(id)
    }

    fn field(&mut self, field: &Value, namespace: &str) -> Result<RecordField> {
        let name = field.get("name").and_then(Value::as_str).ok_or_else(|| Error::contract("a field without a name"))?;
        let of = field.get("type").ok_or_else(|| Error::contract(format!("field \"{name}\" without \"type\"")))?;
        Ok(RecordField {
            name: name.to_string(),
            aliases: strings(field.get("aliases")).map(str::to_string).collect(),
            of: self.read(of, namespace)?,
            default: field.get("default").cloned(),
        })
    }
}

fn primitive(name: &str) -> Kind {
    match name {
        "null" => Kind::Null,
        "boolean" => Kind::Boolean,
        "int" => Kind::Int,
        "long" => Kind::Long,
        "float" => Kind::Float,
        "double" => Kind::Double,
        "bytes" => Kind::Bytes,
        _ => Kind::String,
    }
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = &str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}
