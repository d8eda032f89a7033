//! Random contracts and inputs: disorder, skewed clocks, idle and empty partitions, late, null and bad records.

use crate::case::{Bad, Body, Case, Expr, Field, Key, Line, Named, Record, Source, Table, Time, Type, Value, WriterField};
use crate::dice::Dice;
use crate::generate::Style;

/// 2026, for records whose event time is before 1970.
const NOW_MS: i64 = 1_767_571_200_000;

/// A stream, or a table that rows of the others may join.
pub fn source(at: usize, table: bool, several: bool, style: &Style, dice: &mut Dice) -> Source {
    let only = dice.chance(15);
    let key_name = dice.pick(&["k", "customer_id", "accountId"]).to_owned();
    let mut fields = Vec::new();
    let field = |name: &str, data_type, nullable| Field { name: name.to_owned(), data_type, nullable, default: None };
    if !only {
        fields.push(field(&key_name, style.key, !table && dice.chance(15)));
    }
    let mut types = vec![Type::Long, Type::Text];
    let more = [
        Type::Bool,
        Type::Int,
        Type::Long,
        Type::Double,
        Type::Double,
        Type::Double,
        Type::Text,
        Type::Decimal(2),
        Type::Decimal(0),
    ];
    // So that a union has doubles to add.
    types.extend(several.then_some(Type::Double));
    types.extend((0..dice.between(0, 4)).map(|_| dice.pick(&more)));
    for (n, data_type) in types.into_iter().enumerate() {
        let name = match data_type {
            Type::Bool => format!("flag{n}"),
            Type::Int => format!("int{n}"),
            Type::Long => format!("number{n}"),
            Type::Double => format!("double{n}"),
            Type::Text => format!("someText{n}"),
            _ => format!("money{n}"),
        };
        let mut made = field(&name, data_type, dice.chance(35));
        if !made.nullable && !matches!(data_type, Type::Decimal(_)) && dice.chance(25) {
            made.default = Some(value(data_type, style, dice));
            // A default of NaN can't be written down.
            if matches!(made.default, Some(Value::Double(double)) if !double.is_finite()) {
                made.default = Some(Value::Double(1.5));
            }
        }
        fields.push(made);
    }
    let mut time = None;
    if dice.chance(if table { 35 } else { 92 }) {
        let name = dice.pick(&["ts", "ordered_at", "eventTime"]).to_owned();
        fields.push(field(&name, style.time, dice.chance(30)));
        time = Some(Time {
            column: name,
            data_type: style.time,
            delay_ms: dice.pick(&[0, 250, 5_000, 5_000, 30_000, 120_000]),
            max_ahead_ms: if dice.chance(20) { Some(dice.pick(&[60_000, 3_600_000])) } else { None },
        });
    }
    dice.shuffle(&mut fields);
    let second = if dice.chance(30) { Some(second_writer(&fields, &key_name, dice)) } else { None };
    let mut computed = Vec::new();
    if dice.chance(20) {
        let texts: Vec<_> = fields.iter().filter(|field| field.data_type == Type::Text).map(|field| field.name.clone()).collect();
        let text = Expr::Upper(Box::new(Expr::column(&dice.pick(&texts))));
        computed.push(Named { name: "loud".to_owned(), data_type: Type::Text, expr: text });
    }
    let mut dropped = Vec::new();
    for class in ["wire", "decode", "schema", "check", "time", "future", "expression", "null", "key"] {
        if dice.chance(4) && !(table && class == "null") {
            dropped.push(class);
        }
    }
    // Two topics with Avro keys are shuffled to meet, unless it is asserted that they are distributed alike.
    let trusted = style.avro && dice.chance(50);
    let unnamed = !table && !only && !trusted && dice.chance(8);
    let key = Key { column: key_name, data_type: style.key, only, avro: style.avro, trusted, unnamed };
    Source {
        name: format!("{}{at}", if table { "table" } else { "stream" }),
        table: table.then(|| Table { first_known: dice.chance(30) }),
        partitions: if dice.chance(80) { style.partitions } else { dice.between(1, 4) as i32 },
        reads: None,
        fields,
        second,
        key,
        time,
        computed,
        checks: Vec::new(),
        tombstones: dice.chance(40),
        dropped,
        lines: Vec::new(),
    }
}

/// Another stream over the topic of a source, which comes to its watermark in its own way.
pub fn twin(of: usize, source: &Source, dice: &mut Dice) -> Source {
    let time = source.time.clone().map(|time| Time { delay_ms: dice.pick(&[0, 1_000, 60_000]), ..time });
    Source { name: format!("{}_again", source.name), reads: Some(of), time, computed: Vec::new(), ..source.clone() }
}

fn second_writer(fields: &[Field], key: &str, dice: &mut Dice) -> Vec<WriterField> {
    let mut written = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        // Partitions follow the key, so both writers have it alike.
        let shared = field.name == key;
        if !shared && (field.nullable || field.default.is_some()) && dice.chance(40) {
            continue;
        }
        let narrow = !shared && field.data_type == Type::Long && dice.chance(50);
        written.push(WriterField {
            name: field.name.clone(),
            data_type: if narrow { Type::Int } else { field.data_type },
            nullable: field.nullable && (shared || dice.chance(60)),
            reader: Some(at),
        });
    }
    if dice.chance(50) {
        written.push(WriterField { name: "extra".to_owned(), data_type: Type::Text, nullable: false, reader: None });
    }
    dice.shuffle(&mut written);
    written
}

fn value(data_type: Type, style: &Style, dice: &mut Dice) -> Value {
    match data_type {
        Type::Bool => Value::Bool(dice.chance(50)),
        Type::Int => Value::Int(match dice.below(20) {
            0 => i64::from(i32::MAX),
            1 => i64::from(i32::MIN),
            _ => dice.between(-5, 9),
        }),
        Type::Long => Value::Int(match dice.below(40) {
            0 => i64::MAX,
            1 => i64::MIN,
            2 => i64::MAX / 2 + 1,
            3 => -(1 << 62),
            4 => (1 << 53) + 1,
            _ => dice.between(-5, 20),
        }),
        Type::Double => Value::Double(match dice.below(12) {
            0 if style.wild => dice.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
            0..=4 => dice.pick(&[0.1, 0.2, 0.3, 0.7]),
            5 | 6 => dice.pick(&[1e15, -1e15]),
            _ => dice.between(-40, 80) as f64 / 8.0,
        }),
        // Now and then one of the keys, for joins by other columns than the key.
        Type::Text if dice.chance(35) => key(dice.between(0, 4), Type::Text),
        Type::Text => Value::Text(
            dice.pick(&["", "a", "b", "c", "A", "it's", "é", "ßtraße", "long text, with a comma", "a\u{1F600}", "b"]).to_owned(),
        ),
        Type::Decimal(_) => Value::Decimal(match dice.below(10) {
            0 => 999_999_999_999,
            1 => -999_999_999_999,
            _ => i128::from(dice.between(-500, 2_000)),
        }),
        Type::Millis | Type::Micros => unreachable!("times come from the clocks"),
    }
}

/// Gives every source its lines.
pub fn fill(case: &mut Case, style: &Style, dice: &mut Dice) {
    let keys: Vec<Value> = (0..dice.between(1, 7)).map(|n| key(n, style.key)).collect();
    let form = Form {
        // A decision is about a partition, whatever reads it: with two streams of one topic it is left out.
        idle: dice.chance(25) && case.sources.iter().all(|source| source.reads.is_none()),
        crowded: dice.chance(10),
        whole: dice.chance(40),
    };
    for at in 0..case.sources.len() {
        // Topics that are not known to be distributed alike are not.
        let salt = if case.sources[at].key.avro && !case.sources[at].key.trusted { at as u32 } else { 0 };
        if case.sources[at].reads.is_none() {
            lines(&mut case.sources[at], &keys, salt, &form, style, dice);
        }
    }
}

/// What all inputs of a case have in common.
struct Form {
    idle: bool,
    crowded: bool,
    /// Whole seconds meet the edges of windows, and versions, exactly.
    whole: bool,
}

fn lines(source: &mut Source, keys: &[Value], salt: u32, form: &Form, style: &Style, dice: &mut Dice) {
    let partitions = source.partitions;
    let mut clocks: Vec<i64> = (0..partitions)
        .map(|_| style.start_ms + if dice.chance(60) { 0 } else { dice.pick(&[20_000, 300_000, 3_600_000, 200_000_000]) })
        .collect();
    let quiet: Vec<bool> = (0..partitions).map(|_| dice.chance(12)).collect();
    let pace = dice.pick(&[500, 5_000, 20_000, 120_000]);
    let wanted = if form.crowded { dice.between(100, 250) } else { dice.between(0, 60) };
    for at in 0..wanted {
        if form.idle && dice.chance(6) {
            let partition = dice.below(partitions as usize) as i32;
            source.lines.push(if dice.chance(25) { Line::Quiet } else { Line::Idle { partition } });
        }
        let nullable = source.table.is_none()
            && (source.key.only || source.fields.iter().any(|field| field.name == source.key.column && field.nullable));
        let key = if nullable && dice.chance(15) { Value::Null } else { dice.pick(keys) };
        let partition = match source.key.unnamed {
            true => dice.below(partitions as usize) as i32,
            false => partition_of(&key, salt, partitions),
        };
        if quiet[partition as usize] && at > 3 {
            continue;
        }
        let in_partition = |line: &Line| matches!(line, Line::Record(record) if record.partition == partition);
        // If all of them are bad, they are still within the budget.
        if source.lines.iter().filter(|line| in_partition(line)).count() == 100 {
            continue;
        }
        let clock = &mut clocks[partition as usize];
        *clock += dice.between(0, pace);
        if form.whole {
            *clock = clock.div_euclid(1_000) * 1_000;
        }
        let line = record(source, key, partition, *clock, at, style, dice);
        source.lines.push(Line::Record(line));
    }
}

fn key(n: i64, data_type: Type) -> Value {
    match data_type {
        Type::Text => Value::Text(["c1", "c2", "", "Ключ", "c5", "c 6", "c7"][n as usize].to_owned()),
        Type::Long => Value::Int([1, 2, -1, i64::MAX, i64::MIN, 0, 77][n as usize]),
        _ => Value::Int([1, 2, -1, 2_147_483_647, -2_147_483_648, 0, 77][n as usize]),
    }
}

/// Any function of the key will do: the topic is trusted to be distributed by it.
fn partition_of(key: &Value, salt: u32, partitions: i32) -> i32 {
    let text = format!("{key:?}");
    ((text.bytes().map(u32::from).sum::<u32>() + salt) % partitions as u32) as i32
}

fn record(source: &Source, key: Value, partition: i32, clock: i64, at: i64, style: &Style, dice: &mut Dice) -> Record {
    let timestamp = match dice.below(20) {
        0 => None,
        // The time of a version.
        1..=4 if source.table.is_some() => Some(clock - dice.between(0, 600_000)).filter(|stamp| *stamp >= 0),
        _ if style.start_ms < 0 => Some(NOW_MS + at * 1_000),
        _ if source.table.is_some() => Some(clock),
        1 => Some(clock - 30_000),
        _ => Some(clock + dice.between(0, 50)),
    };
    let second = source.second.is_some() && dice.chance(40);
    let mut values: Vec<Value> =
        (0..source.fields.len()).map(|field| field_value(source, field, &key, clock, timestamp, second, style, dice)).collect();
    if second {
        // What the second writer does not write has its default.
        let written: Vec<_> = source.second.iter().flatten().filter_map(|field| field.reader).collect();
        for (at, field) in source.fields.iter().enumerate().filter(|(at, _)| !written.contains(at)) {
            values[at] = field.default.clone().unwrap_or(Value::Null);
        }
    }
    let body = match dice.below(60) {
        0 => Body::Null,
        2..=10 if source.table.is_some() => Body::Null,
        1 => Body::Bad(bad(values, dice)),
        _ => Body::Good { values, second },
    };
    // A key that the value of a stream has too is not looked at; a table's record needs one that agrees.
    let key = if (!source.key.only || source.table.is_some()) && dice.chance(3) { Value::Null } else { key };
    Record { partition, timestamp, key, body }
}

fn field_value(
    source: &Source,
    at: usize,
    key: &Value,
    clock: i64,
    timestamp: Option<i64>,
    second: bool,
    style: &Style,
    dice: &mut Dice,
) -> Value {
    let field = &source.fields[at];
    let writer = source.second.iter().flatten().find(|writer| second && writer.reader == Some(at));
    let nullable = field.nullable && writer.is_none_or(|writer| writer.nullable);
    if field.name == source.key.column {
        let other = source.table.is_some() && dice.chance(2);
        return if other { self::key(dice.between(0, 6), source.key.data_type) } else { key.clone() };
    }
    match &source.time {
        Some(time) if time.column == field.name => {
            if nullable && dice.chance(3) {
                return Value::Null;
            }
            let millis = event_time(time, clock, timestamp, dice);
            return Value::Int(match time.data_type {
                Type::Millis => millis,
                _ => millis.saturating_mul(1000).saturating_add(dice.between(0, 999)),
            });
        }
        _ => {}
    }
    if nullable && dice.chance(20) {
        return Value::Null;
    }
    let narrow = writer.is_some_and(|writer| writer.data_type == Type::Int);
    value(if narrow && field.data_type == Type::Long { Type::Int } else { field.data_type }, style, dice)
}

fn event_time(time: &Time, clock: i64, timestamp: Option<i64>, dice: &mut Dice) -> i64 {
    let ahead = time.max_ahead_ms.unwrap_or(86_400_000);
    match (dice.below(100), timestamp) {
        // As late as it may be.
        (0..=9, _) => clock - time.delay_ms,
        (10..=39, _) => clock,
        (40..=69, _) => clock - dice.between(0, time.delay_ms),
        (70..=84, _) => clock - dice.between(0, 2 * time.delay_ms + 2_000),
        (85..=94, _) => clock - dice.between(0, 600_000),
        // The edge of a window, exactly.
        (95 | 96, _) => clock.div_euclid(60_000) * 60_000,
        (97, Some(timestamp)) => timestamp + ahead + dice.pick(&[0, 1, 1, 5_000]),
        (98, _) => dice.pick(&[clock - 86_400_000, i64::MIN, i64::MAX]),
        _ => clock,
    }
}

fn bad(values: Vec<Value>, dice: &mut Dice) -> Bad {
    match dice.below(5) {
        0 => Bad::Wire(dice.pick(&[vec![], vec![0], vec![0, 0, 0, 1], vec![1, 0, 0, 0, 1, 2, 3], b"{\"a\": 1}".to_vec()])),
        1 => Bad::UnknownId { id: 4_000, values },
        2 | 3 => Bad::Truncated { values, cut: dice.below(1_000) },
        _ => Bad::Trailing { values, more: vec![dice.below(256) as u8] },
    }
}
