//! How values of one writer become columns of the reader: schema resolution, done once per writer.
//!
//! The plan follows the writer's bytes; a value of the writer's is appended to the reader's column as it is read. What the reader
//! does not want is walked over, and checked all the same.

use arrow::datatypes::i256;

use super::column::{Column, Values, end};
use super::cursor::{Cursor, Fault};
use super::number::{fits, interval, sign_extended, too_precise, uuid_text};
use crate::codec::json;
use crate::contract::compat::{branch_for, field_for};
use crate::contract::tree::{Kind, Logical, NodeId, Tree};

/// How one value is read.
#[derive(Debug)]
enum Op {
    /// No bytes: NULL.
    Null,
    Boolean,
    Int,
    Long,
    IntToLong,
    IntToFloat,
    IntToDouble,
    LongToFloat,
    LongToDouble,
    Float,
    FloatToDouble,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    /// Sixteen bytes as text.
    UuidBytes,
    /// `size`: of a fixed.
    Decimal {
        size: Option<usize>,
        precision: u8,
    },
    Duration,
    /// The reader's symbol of each of the writer's.
    Enum(Box<[Option<String>]>),
    Array(Box<Op>),
    Map(Box<Op>),
    Record(Fields),
    /// A writer's union.
    Branches(Box<[Op]>),
    /// One type of a reader's union that is a struct.
    Member(usize, Box<Op>),
    /// A branch that the reader can't take.
    Unreadable(String),
}

/// How a record is read.
#[derive(Debug)]
struct Fields {
    steps: Box<[Step]>,
    /// Columns that the writer does not have: the default's bytes as the reader itself would write them.
    defaults: Box<[(usize, Op, Box<[u8]>)]>,
}

#[derive(Debug)]
enum Step {
    Read { column: usize, name: String, op: Op },
    Skip { name: String, of: NodeId },
}

#[derive(Debug)]
enum Root {
    Record(Fields),
    Value(Option<Op>),
    Branches(Box<[Root]>),
    Unreadable(String),
}

/// How values of one writer are read.
#[derive(Debug)]
pub(crate) struct Plan {
    root: Root,
    writer: Tree,
}

impl Plan {
    /// `columns` are the reader's columns that are wanted, ascending. An error says why nothing of this writer can be read.
    pub fn new(reader: &Tree, columns: &[usize], writer: Tree) -> Result<Plan, String> {
        let root = Planner { reader, writer: &writer }.root(columns, writer.root)?;
        Ok(Plan { root, writer })
    }

    /// Appends one value to each of the wanted columns. After an error they must be truncated.
    #[inline]
    pub fn read(&self, body: &[u8], columns: &mut [Column]) -> Result<(), Fault> {
        let mut cursor = Cursor::new(body);
        self.root(&self.root, &mut cursor, columns)?;
        match cursor.rest.len() {
            0 => Ok(()),
            left => Err(Fault::new(format!("{left} bytes are left over after the value"))),
        }
    }

    fn root(&self, root: &Root, cursor: &mut Cursor<'_>, columns: &mut [Column]) -> Result<(), Fault> {
        match root {
            Root::Record(fields) => self.fields(fields, cursor, columns),
            Root::Value(Some(op)) => self.value(op, cursor, &mut columns[0]),
            Root::Value(None) => cursor.skip(&self.writer, self.writer.root, 0),
            Root::Branches(branches) => {
                let branch = cursor.index(branches.len())?;
                self.root(&branches[branch], cursor, columns)
            }
            Root::Unreadable(why) => Err(Fault::new(why)),
        }
    }

    fn fields(&self, fields: &Fields, cursor: &mut Cursor<'_>, columns: &mut [Column]) -> Result<(), Fault> {
        for step in &fields.steps {
            match step {
                Step::Read { column, name, op } => {
                    self.value(op, cursor, &mut columns[*column]).map_err(|e| e.within(name))?;
                }
                Step::Skip { name, of } => cursor.skip(&self.writer, *of, 0).map_err(|e| e.within(name))?,
            }
        }
        for (column, op, default) in &fields.defaults {
            self.value(op, &mut Cursor::new(default), &mut columns[*column])?;
        }
        Ok(())
    }

    fn value(&self, op: &Op, cursor: &mut Cursor<'_>, column: &mut Column) -> Result<(), Fault> {
        match (op, &mut column.values) {
            (Op::Null, _) => {
                column.push_null();
                return Ok(());
            }
            (Op::Branches(branches), _) => {
                let branch = cursor.index(branches.len())?;
                return self.value(&branches[branch], cursor, column);
            }
            (Op::Unreadable(why), _) => return Err(Fault::new(why)),
            (Op::Boolean, Values::Boolean(values)) => values.push(cursor.boolean()?),
            (Op::Int, Values::I32(values)) => values.push(cursor.int()?),
            (Op::Long, Values::I64(values)) => values.push(cursor.long()?),
            (Op::IntToLong, Values::I64(values)) => values.push(i64::from(cursor.int()?)),
            (Op::IntToFloat, Values::F32(values)) => values.push(cursor.int()? as f32),
            (Op::IntToDouble, Values::F64(values)) => values.push(f64::from(cursor.int()?)),
            (Op::LongToFloat, Values::F32(values)) => values.push(cursor.long()? as f32),
            (Op::LongToDouble, Values::F64(values)) => values.push(cursor.long()? as f64),
            (Op::Float, Values::F32(values)) => values.push(f32::from_le_bytes(cursor.array()?)),
            (Op::FloatToDouble, Values::F64(values)) => values.push(f64::from(f32::from_le_bytes(cursor.array()?))),
            (Op::Double, Values::F64(values)) => values.push(f64::from_le_bytes(cursor.array()?)),
            (Op::Bytes, values) => values.push_bytes(cursor.bytes()?)?,
            (Op::Text, values) => values.push_bytes(cursor.text()?.as_bytes())?,
            (Op::Fixed(size), Values::Fixed { len, bytes, .. }) => {
                bytes.extend_from_slice(cursor.take(*size)?);
                *len += 1;
            }
            (Op::UuidBytes, values) => values.push_bytes(&uuid_text(cursor.array()?))?,
            (Op::Decimal { size, precision }, values) => {
                let unscaled = match size {
                    Some(size) => cursor.take(*size)?,
                    None => cursor.bytes()?,
                };
                decimal(unscaled, *precision, values)?;
            }
            (Op::Duration, Values::Interval(values)) => values.push(interval(cursor.array()?)?),
            (Op::Enum(symbols), values) => {
                let index = cursor.index(symbols.len())?;
                match &symbols[index] {
                    Some(symbol) => values.push_bytes(symbol.as_bytes())?,
                    None => return Err(Fault::new(format!("symbol {index} of the writer's enum is unknown to the reader"))),
                }
            }
            (Op::Array(op), Values::List { ends, item }) => {
                let mut items = *ends.last().expect("starts with 0") as usize;
                cursor
                    .blocks(|cursor| {
                        items += 1;
                        self.value(op, cursor, item)
                    })
                    .map_err(|e| e.within("[]"))?;
                ends.push(end(items)?);
            }
            (Op::Map(op), Values::List { ends, item }) => {
                let mut items = *ends.last().expect("starts with 0") as usize;
                let Values::Struct { len, members } = &mut item.values else { unreachable!("a map's item is a struct") };
                let [keys, values] = members.as_mut_slice() else { unreachable!("of key and value") };
                cursor
                    .blocks(|cursor| {
                        items += 1;
                        *len += 1;
                        keys.values.push_bytes(cursor.text()?.as_bytes())?;
                        keys.set();
                        self.value(op, cursor, values)
                    })
                    .map_err(|e| e.within("{}"))?;
                ends.push(end(items)?);
            }
            (Op::Record(fields), Values::Struct { len, members }) => {
                self.fields(fields, cursor, members)?;
                *len += 1;
            }
            (Op::Member(member, op), Values::Struct { len, members }) => {
                for (i, other) in members.iter_mut().enumerate() {
                    if i != *member {
                        other.push_null();
                    }
                }
                self.value(op, cursor, &mut members[*member])?;
                *len += 1;
            }
            (op, _) => unreachable!("the plan fits its columns: {op:?}"),
        }
        column.set();
        Ok(())
    }
}

struct Planner<'a> {
    reader: &'a Tree,
    writer: &'a Tree,
}

impl Planner<'_> {
    fn root(&self, columns: &[usize], w: NodeId) -> Result<Root, String> {
        if let Kind::Union(branches) = &self.writer.node(w).kind
            && self.reader.fields().is_some()
        {
            let roots: Vec<_> = branches.iter().map(|branch| self.root(columns, *branch)).collect();
            if roots.iter().all(Result::is_err) {
                return Err(self.mismatch(self.reader.root, w));
            }
            return Ok(Root::Branches(roots.into_iter().map(|root| root.unwrap_or_else(Root::Unreadable)).collect()));
        }
        match (self.reader.fields(), &self.writer.node(w).kind) {
            (Some(_), Kind::Record { .. }) => {
                self.fields(self.reader.root, w, |field| columns.binary_search(&field).ok()).map(Root::Record)
            }
            (Some(_), _) => Err(self.mismatch(self.reader.root, w)),
            (None, _) => {
                let op = self.op(self.reader.root, w)?;
                Ok(Root::Value((!columns.is_empty()).then_some(op)))
            }
        }
    }

    /// `wanted`: the column of a reader's field.
    fn fields(&self, r: NodeId, w: NodeId, wanted: impl Fn(usize) -> Option<usize>) -> Result<Fields, String> {
        let (Kind::Record { fields: read, .. }, Kind::Record { fields: written, .. }) =
            (&self.reader.node(r).kind, &self.writer.node(w).kind)
        else {
            return Err(self.mismatch(r, w));
        };
        let sources: Vec<Option<usize>> = read.iter().map(|field| field_for(field, written)).collect();
        let mut steps = Vec::new();
        for (at, field) in written.iter().enumerate() {
            // Two reader's fields (one by an alias) can come from one writer's: the bytes are read once, so the first takes them.
            let taker = sources.iter().position(|source| *source == Some(at));
            steps.push(match taker.and_then(|taker| wanted(taker).map(|column| (taker, column))) {
                Some((taker, column)) => {
                    let op = self.op(read[taker].of, field.of).map_err(|e| format!("field \"{}\": {e}", read[taker].name))?;
                    Step::Read { column, name: read[taker].name.clone(), op }
                }
                None => Step::Skip { name: field.name.clone(), of: field.of },
            });
        }
        let mut defaults = Vec::new();
        for (at, field) in read.iter().enumerate() {
            let first = sources[..at].iter().all(|source| *source != sources[at]);
            if sources[at].is_some() && first {
                continue;
            }
            let Some(default) = &field.default else {
                return Err(format!("field \"{}\": writer does not have it, and reader has no default", field.name));
            };
            if let Some(column) = wanted(at) {
                let mut bytes = Vec::new();
                json::write_default(self.reader, field.of, default, &mut bytes)
                    .map_err(|e| format!("field \"{}\": default: {e}", field.name))?;
                let itself = Planner { reader: self.reader, writer: self.reader };
                defaults.push((column, itself.op(field.of, field.of)?, bytes.into_boxed_slice()));
            }
        }
        Ok(Fields { steps: steps.into_boxed_slice(), defaults: defaults.into_boxed_slice() })
    }

    fn op(&self, r: NodeId, w: NodeId) -> Result<Op, String> {
        if let Kind::Union(branches) = &self.writer.node(w).kind {
            let ops: Vec<_> = branches.iter().map(|branch| self.op(r, *branch)).collect();
            if !ops.is_empty() && ops.iter().all(Result::is_err) {
                return Err(self.mismatch(r, w));
            }
            return Ok(Op::Branches(ops.into_iter().map(|op| op.unwrap_or_else(Op::Unreadable)).collect()));
        }
        if let Kind::Union(branches) = &self.reader.node(r).kind {
            let branch = branch_for(self.reader, branches, self.writer, w).ok_or_else(|| self.mismatch(r, w))?;
            let target = branches[branch];
            if self.reader.is_null(target) {
                return Ok(Op::Null);
            }
            let op = self.op(target, w)?;
            if self.reader.without_null(r).0 != r {
                return Ok(op);
            }
            let member = branches[..branch].iter().filter(|b| !self.reader.is_null(**b)).count();
            return Ok(Op::Member(member, Box::new(op)));
        }
        self.plain(r, w)
    }

    /// Neither is a union.
    fn plain(&self, r: NodeId, w: NodeId) -> Result<Op, String> {
        let (read, written) = (self.reader.node(r), self.writer.node(w));
        if let (Some(wants), Some(wrote)) = (read.logical, written.logical)
            && !wants.takes(wrote)
        {
            return Err(self.mismatch(r, w));
        }
        Ok(match (&read.kind, &written.kind) {
            (Kind::Bytes, Kind::Bytes | Kind::String) => match read.logical {
                Some(Logical::Decimal { precision, .. }) => Op::Decimal { size: None, precision },
                _ => Op::Bytes,
            },
            (Kind::Fixed { size, name }, Kind::Fixed { size: wrote, name: other })
                if size == wrote && (name.short() == other.short() || aliased(name, other)) =>
            {
                match read.logical {
                    Some(Logical::Decimal { precision, .. }) => Op::Decimal { size: Some(*size), precision },
                    Some(Logical::Uuid) => Op::UuidBytes,
                    Some(Logical::Duration) => Op::Duration,
                    _ => Op::Fixed(*size),
                }
            }
            (Kind::Null, Kind::Null) => Op::Null,
            (Kind::Boolean, Kind::Boolean) => Op::Boolean,
            (Kind::Int, Kind::Int) => Op::Int,
            (Kind::Long, Kind::Long) => Op::Long,
            (Kind::Long, Kind::Int) => Op::IntToLong,
            (Kind::Float, Kind::Int) => Op::IntToFloat,
            (Kind::Double, Kind::Int) => Op::IntToDouble,
            (Kind::Float, Kind::Long) => Op::LongToFloat,
            (Kind::Double, Kind::Long) => Op::LongToDouble,
            (Kind::Float, Kind::Float) => Op::Float,
            (Kind::Double, Kind::Float) => Op::FloatToDouble,
            (Kind::Double, Kind::Double) => Op::Double,
            (Kind::String, Kind::String | Kind::Bytes) => Op::Text,
            (Kind::Enum { symbols, default, name }, Kind::Enum { symbols: wrote, name: other, .. })
                if name.short() == other.short() || aliased(name, other) =>
            {
                let known = |symbol: &String| symbols.contains(symbol).then(|| symbol.clone());
                let default = default.map(|default| symbols[default].clone());
                Op::Enum(wrote.iter().map(|symbol| known(symbol).or_else(|| default.clone())).collect())
            }
            (Kind::Array(read), Kind::Array(written)) => Op::Array(Box::new(self.op(*read, *written)?)),
            (Kind::Map(read), Kind::Map(written)) => Op::Map(Box::new(self.op(*read, *written)?)),
            (Kind::Record { .. }, Kind::Record { .. }) => Op::Record(self.fields(r, w, Some)?),
            _ => return Err(self.mismatch(r, w)),
        })
    }

    fn mismatch(&self, r: NodeId, w: NodeId) -> String {
        format!("writer has {}, reader wants {}", self.writer.describe(w), self.reader.describe(r))
    }
}

fn aliased(reader: &crate::contract::tree::Names, writer: &crate::contract::tree::Names) -> bool {
    reader.aliases.iter().any(|alias| *alias == writer.full || alias.rsplit('.').next() == Some(writer.short()))
}

/// A big-endian two's complement of any length, which must have no more than `precision` digits.
fn decimal(unscaled: &[u8], precision: u8, values: &mut Values) -> Result<(), Fault> {
    match values {
        Values::I128(values) => match sign_extended(unscaled).map(i128::from_be_bytes) {
            Some(value) if value.unsigned_abs() < 10_u128.pow(u32::from(precision)) => values.push(value),
            _ => return Err(too_precise(precision)),
        },
        Values::I256(values) => match sign_extended(unscaled).map(i256::from_be_bytes) {
            Some(value) if fits(value, precision) => values.push(value),
            _ => return Err(too_precise(precision)),
        },
        other => unreachable!("a decimal column holds decimals: {other:?}"),
    }
    Ok(())
}
