//! Every Avro type, in random schemas: what `apache-avro` writes, we read, write again, and it reads the same.
//!
//! A seed is a schema and its values; it is in the message of a failure.

use std::collections::BTreeSet;
use std::sync::Arc;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tidemill::codec::avro::{AvroDecoder, AvroEncoder};
use tidemill::codec::wire::{HeaderIds, frame, unframe};
use tidemill::contract::{AvroSchema, Contract, SchemaId};
use tidemill::error::Kind;
use tidemill::record::Bytes;

const WRITER: SchemaId = SchemaId(7);
const READER: SchemaId = SchemaId(8);

/// A type with enough known of it to write values.
#[derive(Clone, Debug)]
enum Type {
    Null,
    Boolean,
    Int(&'static str),
    Long(&'static str),
    Float,
    Double,
    Bytes,
    /// `""` or `uuid`.
    Text(&'static str),
    /// On bytes, or on a fixed of a name and so many bytes.
    Decimal {
        on: Option<(String, usize)>,
        precision: u32,
        scale: u32,
    },
    Fixed {
        name: String,
        size: usize,
        logical: &'static str,
    },
    Enum {
        name: String,
        symbols: Vec<String>,
        default: Option<String>,
    },
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    Record {
        name: String,
        fields: Vec<Field>,
    },
}

#[derive(Clone, Debug)]
struct Field {
    name: String,
    aliases: Vec<String>,
    of: Type,
    default: Option<Value>,
}

struct Maker {
    random: StdRng,
    names: usize,
    /// Named types that may be used again.
    known: Vec<Type>,
}

impl Maker {
    fn new(seed: u64) -> Maker {
        Maker { random: StdRng::seed_from_u64(seed), names: 0, known: Vec::new() }
    }

    fn name(&mut self, what: &str) -> String {
        self.names += 1;
        format!("{what}{}", self.names)
    }

    fn dice(&mut self, sides: usize) -> usize {
        self.random.random_range(0..sides)
    }

    fn root(&mut self) -> Type {
        match self.dice(6) {
            0 => self.of(2),
            _ => self.record(3),
        }
    }

    fn record(&mut self, depth: usize) -> Type {
        let name = self.name("Record");
        let count = self.random.random_range(1..7);
        let fields =
            (0..count).map(|_| Field { name: self.name("f"), aliases: vec![], of: self.of(depth), default: None }).collect();
        Type::Record { name, fields }
    }

    fn of(&mut self, depth: usize) -> Type {
        if depth == 0 {
            return self.leaf();
        }
        match self.dice(12) {
            0 => Type::Array(Box::new(self.of(depth - 1))),
            1 => Type::Map(Box::new(self.of(depth - 1))),
            2 => self.record(depth - 1),
            3 | 4 => {
                let of = self.branch(depth - 1);
                Type::Union(if self.dice(2) == 0 { vec![Type::Null, of] } else { vec![of, Type::Null] })
            }
            5 => self.union(depth - 1),
            6 if !self.known.is_empty() => self.known.choose(&mut self.random).expect("one is known").clone(),
            _ => self.leaf(),
        }
    }

    /// A type that may stand in a union: no union itself.
    fn branch(&mut self, depth: usize) -> Type {
        loop {
            match self.of(depth) {
                Type::Union(_) | Type::Null => {}
                of => return of,
            }
        }
    }

    fn union(&mut self, depth: usize) -> Type {
        let mut branches: Vec<Type> = Vec::new();
        for _ in 0..self.random.random_range(1..5) {
            let of = if self.dice(4) == 0 { Type::Null } else { self.branch(depth) };
            // One of each kind, as Avro wants it; named types count by their names.
            if branches.iter().all(|known| known.kind() != of.kind()) {
                branches.push(of);
            }
        }
        Type::Union(branches)
    }

    fn leaf(&mut self) -> Type {
        match self.dice(14) {
            0 => Type::Boolean,
            1 => Type::Int(""),
            2 => Type::Int(["date", "time-millis"].choose(&mut self.random).expect("there are some")),
            3 => Type::Long(""),
            4 => {
                let all = [
                    "time-micros",
                    "timestamp-millis",
                    "timestamp-micros",
                    "timestamp-nanos",
                    "local-timestamp-millis",
                    "local-timestamp-micros",
                    "local-timestamp-nanos",
                ];
                Type::Long(all.choose(&mut self.random).expect("there are some"))
            }
            5 => Type::Float,
            6 => Type::Double,
            7 => Type::Bytes,
            8 => Type::Text(""),
            9 => Type::Text("uuid"),
            10 => {
                let precision = self.random.random_range(1..39);
                Type::Decimal { on: None, precision, scale: self.random.random_range(0..=precision) }
            }
            11 => {
                let size = self.random.random_range(1..18);
                let precision = (((8 * size - 1) as f64) * std::f64::consts::LOG10_2).floor().max(1.0) as u32;
                let scale = self.random.random_range(0..=precision);
                Type::Decimal { on: Some((self.name("Money"), size)), precision, scale }
            }
            12 => {
                let (size, logical) = match self.dice(3) {
                    0 => (16, "uuid"),
                    1 => (12, "duration"),
                    _ => (self.random.random_range(1..20), ""),
                };
                self.keep(|name| Type::Fixed { name, size, logical }, "Fixed")
            }
            _ => {
                let count = self.random.random_range(1..5);
                let symbols: Vec<String> = (0..count).map(|n| format!("S{n}")).collect();
                let default = (self.dice(2) == 0).then(|| symbols[0].clone());
                self.keep(|name| Type::Enum { name, symbols, default }, "Enum")
            }
        }
    }

    fn keep(&mut self, make: impl FnOnce(String) -> Type, what: &str) -> Type {
        let of = make(self.name(what));
        self.known.push(of.clone());
        of
    }

    /// A value, written by the rules of the specification and nobody's code.
    fn write(&mut self, of: &Type, out: &mut Vec<u8>) {
        match of {
            Type::Null => {}
            Type::Boolean => out.push(self.dice(2) as u8),
            Type::Int(_) => {
                let value: i32 = self.random.random();
                long(i64::from(value >> self.dice(32)), out);
            }
            Type::Long(_) => {
                let value: i64 = self.random.random();
                long(value >> self.dice(64), out);
            }
            Type::Float => {
                let value = [0.0, -1.5, f32::MIN_POSITIVE, f32::INFINITY, self.random.random::<f32>()][self.dice(5)];
                out.extend_from_slice(&value.to_le_bytes());
            }
            Type::Double => {
                let value = [0.0, 1e300, f64::NEG_INFINITY, self.random.random::<f64>()][self.dice(4)];
                out.extend_from_slice(&value.to_le_bytes());
            }
            Type::Bytes => {
                let bytes: Vec<u8> = (0..self.dice(20)).map(|_| self.random.random()).collect();
                long(bytes.len() as i64, out);
                out.extend_from_slice(&bytes);
            }
            Type::Text("uuid") => {
                let hex: String = (0..32).map(|_| char::from_digit(self.dice(16) as u32, 16).expect("a digit")).collect();
                let text = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
                long(36, out);
                out.extend_from_slice(text.as_bytes());
            }
            Type::Text(_) => {
                let text = ["", "a", "é🌊", "long enough to be more than a few bytes", "\0\n\""][self.dice(5)];
                long(text.len() as i64, out);
                out.extend_from_slice(text.as_bytes());
            }
            Type::Decimal { on, precision, .. } => {
                let limit = 10_i128.pow(*precision);
                let value = self.random.random_range(-limit + 1..limit).to_be_bytes();
                match on {
                    Some((_, size)) if *size > 16 => {
                        out.extend(std::iter::repeat_n(if value[0] > 127 { 0xff } else { 0 }, size - 16));
                        out.extend_from_slice(&value);
                    }
                    Some((_, size)) => out.extend_from_slice(&value[16 - size..]),
                    None => {
                        // Sometimes with more bytes than it takes.
                        let needed =
                            (1..16).find(|n| value[..16 - n].iter().all(|b| *b == value[0]) && (value[16 - n] ^ value[0]) < 128);
                        let bytes = if self.dice(2) == 0 { 16 } else { needed.unwrap_or(16) };
                        long(bytes as i64, out);
                        out.extend_from_slice(&value[16 - bytes..]);
                    }
                }
            }
            Type::Fixed { logical: "duration", .. } => {
                for limit in [i32::MAX as u32, i32::MAX as u32, u32::MAX] {
                    out.extend_from_slice(&self.random.random_range(0..=limit).to_le_bytes());
                }
            }
            Type::Fixed { size, .. } => (0..*size).for_each(|_| out.push(self.random.random())),
            Type::Enum { symbols, .. } => long(self.dice(symbols.len()) as i64, out),
            Type::Array(of) => {
                self.blocks(out, |maker, _, out| maker.write(of, out));
            }
            Type::Map(of) => {
                self.blocks(out, |maker, item, out| {
                    let key = format!("k{item}");
                    long(key.len() as i64, out);
                    out.extend_from_slice(key.as_bytes());
                    maker.write(of, out);
                });
            }
            Type::Union(branches) => {
                let branch = self.dice(branches.len());
                long(branch as i64, out);
                self.write(&branches[branch], out);
            }
            Type::Record { fields, .. } => fields.iter().for_each(|field| self.write(&field.of, out)),
        }
    }

    /// Some blocks, with and without their size in bytes.
    fn blocks(&mut self, out: &mut Vec<u8>, item: impl Fn(&mut Maker, usize, &mut Vec<u8>)) {
        let mut number = 0;
        for _ in 0..self.dice(3) {
            let count = self.random.random_range(1..4);
            let mut block = Vec::new();
            for _ in 0..count {
                item(self, number, &mut block);
                number += 1;
            }
            if self.dice(2) == 0 {
                long(count, out);
            } else {
                long(-count, out);
                long(block.len() as i64, out);
            }
            out.extend_from_slice(&block);
        }
        out.push(0);
    }

    /// Another version of a type that can read what this one writes, as the specification has it.
    fn evolved(&mut self, of: &Type) -> Type {
        match of {
            Type::Int("") => match self.dice(4) {
                0 => Type::Long(""),
                1 => Type::Float,
                2 => Type::Double,
                _ => of.clone(),
            },
            Type::Long("") if self.dice(2) == 0 => Type::Double,
            Type::Float if self.dice(2) == 0 => Type::Double,
            Type::Text("") if self.dice(3) == 0 => Type::Bytes,
            Type::Array(of) => Type::Array(Box::new(self.evolved(of))),
            Type::Map(of) => Type::Map(Box::new(self.evolved(of))),
            Type::Record { name, fields } => {
                let mut evolved: Vec<Field> = Vec::new();
                for field in fields {
                    match self.dice(6) {
                        // Removed.
                        0 => {}
                        // Renamed.
                        1 => {
                            let name = self.name("renamed");
                            evolved.push(Field {
                                name,
                                aliases: vec![field.name.clone()],
                                of: self.evolved(&field.of),
                                default: None,
                            });
                        }
                        // May be null now.
                        2 if !matches!(field.of, Type::Union(_) | Type::Null) => {
                            evolved.push(Field { of: Type::Union(vec![Type::Null, field.of.clone()]), ..field.clone() });
                        }
                        _ => evolved.push(Field { of: self.evolved(&field.of), ..field.clone() }),
                    }
                }
                for _ in 0..self.dice(3) {
                    evolved.push(self.added());
                }
                // Reordered.
                if self.dice(2) == 0 {
                    evolved.reverse();
                }
                if evolved.is_empty() {
                    evolved.push(self.added());
                }
                Type::Record { name: name.clone(), fields: evolved }
            }
            other => other.clone(),
        }
    }

    fn added(&mut self) -> Field {
        let symbols = vec!["A".to_string(), "B".to_string()];
        let (of, default) = match self.dice(10) {
            0 => (Type::Int(""), json!(-5)),
            1 => (Type::Long("timestamp-millis"), json!(1_700_000_000_000_i64)),
            2 => (Type::Double, json!(1.5)),
            3 => (Type::Text(""), json!("dé")),
            4 => (Type::Boolean, json!(true)),
            5 => (Type::Union(vec![Type::Null, Type::Text("")]), json!(null)),
            6 => (Type::Enum { name: self.name("Added"), symbols, default: None }, json!("B")),
            7 => (Type::Array(Box::new(Type::Int(""))), json!([1, 2])),
            8 => (Type::Map(Box::new(Type::Text(""))), json!({ "k": "v" })),
            _ => (Type::Float, json!(0.25)),
        };
        Field { name: self.name("added"), aliases: vec![], of, default: Some(default) }
    }
}

impl Type {
    fn kind(&self) -> String {
        match self {
            Type::Null => "null".into(),
            Type::Boolean => "boolean".into(),
            Type::Int(_) => "int".into(),
            Type::Long(_) => "long".into(),
            Type::Float => "float".into(),
            Type::Double => "double".into(),
            Type::Bytes | Type::Decimal { on: None, .. } => "bytes".into(),
            Type::Text(_) => "string".into(),
            Type::Array(_) => "array".into(),
            Type::Map(_) => "map".into(),
            Type::Union(_) => "union".into(),
            Type::Decimal { on: Some((name, _)), .. }
            | Type::Fixed { name, .. }
            | Type::Enum { name, .. }
            | Type::Record { name, .. } => name.clone(),
        }
    }

    /// Named types are written out once.
    fn json(&self, written: &mut BTreeSet<String>) -> Value {
        let logical = |kind: &str, logical: &str| match logical {
            "" => json!(kind),
            logical => json!({ "type": kind, "logicalType": logical }),
        };
        let name = match self {
            Type::Decimal { on: Some((name, _)), .. }
            | Type::Fixed { name, .. }
            | Type::Enum { name, .. }
            | Type::Record { name, .. } => Some(name),
            _ => None,
        };
        if let Some(name) = name
            && !written.insert(name.clone())
        {
            return json!(format!("rand.{name}"));
        }
        match self {
            Type::Null | Type::Boolean | Type::Float | Type::Double | Type::Bytes => json!(self.kind()),
            Type::Int(of) => logical("int", of),
            Type::Long(of) => logical("long", of),
            Type::Text(of) => logical("string", of),
            Type::Decimal { on: None, precision, scale } => {
                json!({ "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale })
            }
            Type::Decimal { on: Some((name, size)), precision, scale } => json!({
                "type": "fixed", "name": name, "namespace": "rand", "size": size,
                "logicalType": "decimal", "precision": precision, "scale": scale
            }),
            Type::Fixed { name, size, logical: "" } => {
                json!({ "type": "fixed", "name": name, "namespace": "rand", "size": size })
            }
            Type::Fixed { name, size, logical } => {
                json!({ "type": "fixed", "name": name, "namespace": "rand", "size": size, "logicalType": logical })
            }
            Type::Enum { name, symbols, default } => match default {
                Some(default) => {
                    json!({ "type": "enum", "name": name, "namespace": "rand", "symbols": symbols, "default": default })
                }
                None => json!({ "type": "enum", "name": name, "namespace": "rand", "symbols": symbols }),
            },
            Type::Array(of) => json!({ "type": "array", "items": of.json(written) }),
            Type::Map(of) => json!({ "type": "map", "values": of.json(written) }),
            Type::Union(branches) => branches.iter().map(|branch| branch.json(written)).collect(),
            Type::Record { name, fields } => {
                let field = |field: &Field, written: &mut BTreeSet<String>| {
                    let mut json = json!({ "name": field.name, "type": field.of.json(written) });
                    if !field.aliases.is_empty() {
                        json["aliases"] = json!(field.aliases);
                    }
                    if let Some(default) = &field.default {
                        json["default"] = default.clone();
                    }
                    json
                };
                let fields: Vec<Value> = fields.iter().map(|one| field(one, written)).collect();
                json!({ "type": "record", "name": name, "namespace": "rand", "fields": fields })
            }
        }
    }

    fn schema(&self) -> Arc<AvroSchema> {
        let text = self.json(&mut BTreeSet::new()).to_string();
        Arc::new(AvroSchema::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
    }
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag > 127 {
        out.push(zigzag as u8 | 128);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn read(schema: &AvroSchema, body: &[u8]) -> Avro {
    let mut rest = body;
    let reader = GenericDatumReader::builder(&schema.parsed).build().expect("the schema stands alone");
    let value = reader.read_value(&mut rest).unwrap_or_else(|e| panic!("{e}: {}", schema.text));
    assert!(rest.is_empty(), "{} bytes are left over: {}", rest.len(), schema.text);
    value
}

/// What our decoder makes of bodies, written again by our encoder: kept rows, bad rows, bodies.
fn through_columns(
    writer: &Arc<AvroSchema>,
    reader: &Arc<AvroSchema>,
    bodies: &[Vec<u8>],
) -> (Vec<u32>, Vec<(u32, String)>, Vec<Vec<u8>>) {
    let contract = Contract::new("t-value", READER, 1, reader.clone()).unwrap_or_else(|e| panic!("{e}: {}", reader.text));
    let all: Vec<usize> = (0..contract.columns.fields().len()).collect();
    let mut decoder = AvroDecoder::new(&contract, &all).expect("all columns are read");
    decoder.add_writer(WRITER.into(), Some(writer.clone())).unwrap_or_else(|e| panic!("{e}\n{}\n{}", writer.text, reader.text));
    let framed: Vec<Vec<u8>> = bodies.iter().map(|body| [&frame(WRITER)[..], body].concat()).collect();
    let values: Bytes = framed.iter().map(|value| Some(value.as_slice())).collect();
    let decoded = decoder.decode(&values, &HeaderIds::default()).expect("bad values are told, not failed on");
    let mut encoder = AvroEncoder::new(reader, READER, &decoded.rows.schema()).expect("all columns are written");
    let encoded = encoder.encode(&decoded.rows).expect("bad rows are told, not failed on");
    assert!(encoded.bad.is_empty(), "what was read can be written: {:?}\n{}", encoded.bad, reader.text);
    let written = encoded.values.iter().map(|value| unframe(value.expect("none is null")).expect("it is framed").1.to_vec());
    (decoded.kept, decoded.bad.into_iter().map(|bad| (bad.row, bad.message)).collect(), written.collect())
}

/// Names of branches count in unions, so values are compared as they are. Durations have no equality of their own.
fn same(a: &Avro, b: &Avro) -> bool {
    format!("{a:?}") == format!("{b:?}") || a == b
}

/// A value as a reader of the evolved type sees it. apache-avro's own resolution is no measure: it knows no aliases of fields, and finds
/// a union's branch by what a value looks like.
fn resolved(value: Avro, from: &Type, to: &Type) -> Avro {
    match (from, to, value) {
        (Type::Record { fields: written, .. }, Type::Record { fields: read, .. }, Avro::Record(values)) => {
            let field = |field: &Field| {
                let from = written.iter().position(|known| known.name == field.name || field.aliases.contains(&known.name));
                let value = match from {
                    Some(at) => resolved(values[at].1.clone(), &written[at].of, &field.of),
                    None => default(&field.of, field.default.as_ref().expect("what is new has a default")),
                };
                (field.name.clone(), value)
            };
            Avro::Record(read.iter().map(field).collect())
        }
        (Type::Array(from), Type::Array(to), Avro::Array(items)) => {
            Avro::Array(items.into_iter().map(|item| resolved(item, from, to)).collect())
        }
        (Type::Map(from), Type::Map(to), Avro::Map(entries)) => {
            Avro::Map(entries.into_iter().map(|(key, value)| (key, resolved(value, from, to))).collect())
        }
        (Type::Int(""), Type::Long(""), Avro::Int(value)) => Avro::Long(value.into()),
        (Type::Int(""), Type::Float, Avro::Int(value)) => Avro::Float(value as f32),
        (Type::Int(""), Type::Double, Avro::Int(value)) => Avro::Double(value.into()),
        (Type::Long(""), Type::Double, Avro::Long(value)) => Avro::Double(value as f64),
        (Type::Float, Type::Double, Avro::Float(value)) => Avro::Double(value.into()),
        (Type::Text(""), Type::Bytes, Avro::String(text)) => Avro::Bytes(text.into_bytes()),
        (Type::Union(_), _, value) => value,
        // The reader allows null now.
        (_, Type::Union(_), value) => Avro::Union(1, Box::new(value)),
        (_, _, value) => value,
    }
}

fn default(of: &Type, value: &Value) -> Avro {
    let text = || value.as_str().expect("a text").to_string();
    match of {
        Type::Boolean => Avro::Boolean(value.as_bool().expect("a boolean")),
        Type::Int(_) => Avro::Int(value.as_i64().expect("a number") as i32),
        Type::Long(_) => Avro::TimestampMillis(value.as_i64().expect("a number")),
        Type::Float => Avro::Float(value.as_f64().expect("a number") as f32),
        Type::Double => Avro::Double(value.as_f64().expect("a number")),
        Type::Text(_) => Avro::String(text()),
        Type::Union(_) => Avro::Union(0, Box::new(Avro::Null)),
        Type::Enum { symbols, .. } => {
            Avro::Enum(symbols.iter().position(|symbol| *symbol == text()).expect("a symbol") as u32, text())
        }
        Type::Array(of) => Avro::Array(value.as_array().expect("a list").iter().map(|item| default(of, item)).collect()),
        Type::Map(of) => Avro::Map(
            value.as_object().expect("an object").iter().map(|(key, value)| (key.clone(), default(of, value))).collect(),
        ),
        other => panic!("no default of {other:?} is made"),
    }
}

fn bodies(maker: &mut Maker, of: &Type, count: usize) -> Vec<Vec<u8>> {
    let mut body = |_| {
        let mut out = Vec::new();
        maker.write(of, &mut out);
        out
    };
    (0..count).map(&mut body).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(600), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_apache_avro_writes_goes_through_columns_and_comes_back_equal(seed in any::<u64>()) {
        let mut maker = Maker::new(seed);
        let of = maker.root();
        let schema = of.schema();
        let raw = bodies(&mut maker, &of, 5);
        let values: Vec<Avro> = raw.iter().map(|body| read(&schema, body)).collect();
        let theirs: Vec<Vec<u8>> = values.iter().map(|value| {
            let writer = GenericDatumWriter::builder(&schema.parsed).build().expect("the schema stands alone");
            writer.write_value_to_vec(value.clone()).unwrap_or_else(|e| panic!("{e}: {}", schema.text))
        }).collect();
        // The raw bodies hold what apache-avro never writes: several blocks, sizes of blocks, long decimals.
        for bodies in [&raw, &theirs] {
            let (kept, bad, written) = through_columns(&schema, &schema, bodies);
            prop_assert!(bad.is_empty(), "{:?}: {}", bad, &schema.text);
            prop_assert_eq!(kept.len(), bodies.len());
            for (value, body) in values.iter().zip(&written) {
                let again = read(&schema, body);
                prop_assert!(same(value, &again), "{:?}\n{:?}\n{}", value, again, &schema.text);
            }
        }
    }

    #[test]
    fn an_evolved_reader_reads_as_the_specification_has_it(seed in any::<u64>()) {
        let mut maker = Maker::new(seed);
        let of = maker.record(2);
        let (writer, bodies) = (of.schema(), bodies(&mut maker, &of, 4));
        let evolved = maker.evolved(&of);
        let reader = evolved.schema();
        let (kept, bad, written) = through_columns(&writer, &reader, &bodies);
        prop_assert!(bad.is_empty(), "{:?}\n{}\n{}", bad, &writer.text, &reader.text);
        prop_assert_eq!(kept.len(), bodies.len());
        for (body, ours) in bodies.iter().zip(&written) {
            let (expected, found) = (resolved(read(&writer, body), &of, &evolved), read(&reader, ours));
            prop_assert!(same(&expected, &found), "{:?}\n{:?}\n{}\n{}", expected, found, &writer.text, &reader.text);
        }
    }

    #[test]
    fn some_of_the_columns_are_the_same_as_in_all(seed in any::<u64>()) {
        let mut maker = Maker::new(seed);
        let of = maker.record(2);
        let (schema, mut bodies) = (of.schema(), bodies(&mut maker, &of, 4));
        if let Some(last) = bodies[2].pop() {
            bodies[2].push(last ^ 0x55);
        }
        let contract = Contract::new("t-value", READER, 1, schema.clone()).unwrap();
        let framed: Vec<Vec<u8>> = bodies.iter().map(|body| [&frame(WRITER)[..], body].concat()).collect();
        let values: Bytes = framed.iter().map(|value| Some(value.as_slice())).collect();
        let decode = |columns: &[usize]| {
            let mut decoder = AvroDecoder::new(&contract, columns).unwrap();
            decoder.add_writer(WRITER.into(), Some(schema.clone())).unwrap();
            decoder.decode(&values, &HeaderIds::default()).unwrap()
        };
        let count = contract.columns.fields().len();
        let some: Vec<usize> = (0..count).filter(|_| maker.dice(2) == 0).collect();
        let (all, some_of) = (decode(&(0..count).collect::<Vec<_>>()), decode(&some));
        // What only a wanted column's type refuses (a decimal of too many digits) is not looked at in one that is skipped.
        let kept = |row: &u32| all.kept.contains(row);
        prop_assert!(all.kept.iter().all(|row| some_of.kept.contains(row)));
        let rows: Vec<usize> = some_of.kept.iter().enumerate().filter(|(_, row)| kept(row)).map(|(at, _)| at).collect();
        prop_assert_eq!(rows.len(), all.kept.len());
        for (place, column) in some.iter().enumerate() {
            for (at, row) in rows.iter().enumerate() {
                let (one, other) = (some_of.rows.column(place).slice(*row, 1), all.rows.column(*column).slice(at, 1));
                prop_assert_eq!(one.as_ref(), other.as_ref());
            }
        }
    }

    #[test]
    fn damaged_bytes_never_panic_and_never_harm_a_neighbour(seed in any::<u64>()) {
        let mut maker = Maker::new(seed);
        let of = maker.root();
        let schema = of.schema();
        let good = bodies(&mut maker, &of, 5);
        let at = maker.dice(good.len());
        let mut damaged = good.clone();
        for _ in 0..4 {
            let body = &mut damaged[at];
            let place = maker.random.random_range(0..=body.len());
            match maker.dice(4) {
                0 => body.truncate(place),
                1 => body.insert(place, maker.random.random()),
                2 if place < body.len() => body[place] ^= 1 << maker.dice(8),
                _ if place < body.len() => drop(body.remove(place)),
                _ => body.push(0xff),
            }
            let (kept, bad, written) = through_columns(&schema, &schema, &damaged);
            prop_assert!(bad.iter().all(|(row, _)| *row as usize == at), "{:?}: {}", bad, &schema.text);
            prop_assert_eq!(kept.len() + bad.len(), good.len());
            for (row, body) in kept.iter().zip(&written).filter(|(row, _)| **row as usize != at) {
                let (expected, found) = (read(&schema, &good[*row as usize]), read(&schema, body));
                prop_assert!(same(&expected, &found), "row {}: {:?}\n{:?}\n{}", row, expected, found, &schema.text);
            }
        }
    }
}

#[test]
fn an_enum_symbol_that_the_reader_does_not_know_is_its_default_or_a_bad_record() {
    let schema = |symbols: &[&str], default: Option<&str>| {
        let mut of = json!({ "type": "enum", "name": "E", "symbols": symbols });
        if let Some(default) = default {
            of["default"] = json!(default);
        }
        Arc::new(
            AvroSchema::parse(&json!({ "type": "record", "name": "R", "fields": [{ "name": "e", "type": of }] }).to_string())
                .unwrap(),
        )
    };
    let writer = schema(&["OLD", "NEW"], None);
    let bodies = [vec![0], vec![2], vec![0]];
    let (kept, bad, written) = through_columns(&writer, &schema(&["UNKNOWN", "OLD"], Some("UNKNOWN")), &bodies);
    assert_eq!((kept, bad.len(), written), (vec![0, 1, 2], 0, vec![vec![2], vec![0], vec![2]]));
    let (kept, bad, _) = through_columns(&writer, &schema(&["OLD"], None), &bodies);
    assert_eq!((kept, bad[0].0), (vec![0, 2], 1));
    assert!(bad[0].1.contains("field \"e\"") && bad[0].1.contains("unknown to the reader"), "{}", bad[0].1);
}

#[test]
fn a_union_written_as_one_of_its_types_and_the_other_way_round() {
    let record = |of: Value| {
        let text = json!({ "type": "record", "name": "R", "fields": [{ "name": "f", "type": of }] }).to_string();
        Arc::new(AvroSchema::parse(&text).unwrap())
    };
    let union = record(json!(["null", "long", "string"]));
    let (_, bad, written) = through_columns(&record(json!("int")), &union, &[vec![4]]);
    assert_eq!((bad.len(), written), (0, vec![vec![2, 4]]), "an int is the union's long");
    let (kept, bad, written) = through_columns(&union, &record(json!("double")), &[vec![2, 4], vec![4, 0], vec![0], vec![2, 2]]);
    assert_eq!(kept, [0, 3]);
    assert_eq!(written[0], 2.0_f64.to_le_bytes());
    assert_eq!(bad.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2], "strings and nulls are no doubles");
}

#[test]
fn what_no_column_can_hold_is_refused_by_name() {
    for (of, says) in [
        (
            json!({ "type": "record", "name": "Node", "fields": [{ "name": "next", "type": ["null", "Node"] }] }),
            "contains itself",
        ),
        (
            json!({ "type": "array", "items": { "type": "record", "name": "Tree", "fields": [
            { "name": "children", "type": { "type": "map", "values": "Tree" } }] } }),
            "contains itself",
        ),
        (json!({ "type": "bytes", "logicalType": "decimal", "precision": 77, "scale": 2 }), "decimal(77, 2)"),
        (json!({ "type": "bytes", "logicalType": "big-decimal" }), "big-decimal"),
    ] {
        let text =
            json!({ "type": "record", "name": "R", "fields": [{ "name": "id", "type": "int" }, { "name": "deep", "type": of }] });
        let schema = Arc::new(AvroSchema::parse(&text.to_string()).unwrap());
        let error = Contract::new("t-value", READER, 1, schema).unwrap_err();
        assert_eq!(error.kind, Kind::Contract);
        assert!(error.message.contains("field \"deep") && error.message.contains(says) && error.hint.is_some(), "{error}");
    }
}
