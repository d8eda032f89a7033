//! A file of statements to a topology: settings, definitions in their order, then the INSERTs.

use std::collections::{BTreeMap, BTreeSet};

use datafusion_common::DFSchema;
use datafusion_sql::sqlparser::ast::{self, Query};

use super::ddl::{Body, Name, Parsed, parse};
use super::fault::{Fault, Place, Result, list};
use super::function::Functions;
use super::lower::{Input, Lowering};
use super::plan::Catalog;
use super::sink::{Insert, Target};
use super::source::Stream;
use super::with::Kind;
use super::{Operation, Options, SqlFile, Topology};
use crate::contract::Contracts;
use crate::record::Topic;

/// Keys of SET that are known.
const SETTINGS: [&str; 5] = ["pipeline.name", "tidemill.semantics", "nondeterministic", "table.local-time-zone", "state_ttl"];

/// One INSERT.
struct Writing {
    sink: Name,
    columns: Vec<Name>,
    query: Box<Query>,
    place: Place,
}

pub(super) fn compile(file: &SqlFile, contracts: &dyn Contracts, options: &Options) -> Result<Topology> {
    let parsed = parse(file)?;
    let statements = parsed.iter().map(|p| p.statement.clone()).collect();
    let settings = settings(&parsed)?;
    let (pipeline, named) = pipeline_name(&settings, options)?;
    let nondeterministic = settings.get("nondeterministic").is_some_and(|v| v == "true");
    let mut catalog = Catalog::new(Functions::new(&options.udfs, &options.udafs), nondeterministic);
    let mut defined: BTreeMap<String, (&'static str, Place)> = BTreeMap::new();
    let mut streams: Vec<Stream> = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    let mut writings: Vec<Writing> = Vec::new();
    for Parsed { body, place, .. } in parsed {
        match body {
            Body::Set { .. } => {}
            Body::Stream(_) | Body::Table(_) => {
                let (definition, table) = match body {
                    Body::Table(definition) => (definition, true),
                    Body::Stream(definition) => (definition, false),
                    _ => continue,
                };
                let kind = if table { "table" } else { "stream" };
                if is_new(&mut defined, &definition.name, kind, place, definition.if_not_exists)? {
                    if table {
                        topic_name(&definition.name, kind)?;
                    }
                    let plan = |expr: &ast::Expr, schema: &DFSchema| catalog.expression(expr, schema);
                    let stream = super::source::stream(definition, table, place, contracts, options.max_ahead_micros, &plan)
                        .map_err(|f| f.at(place))?;
                    catalog.add_stream(&stream.name, std::sync::Arc::clone(&stream.schema));
                    streams.push(stream);
                }
            }
            Body::Sink(definition) => {
                if is_new(&mut defined, &definition.name, "sink", place, definition.if_not_exists)? {
                    topic_name(&definition.name, "sink")?;
                    let target = super::sink::target(definition, place).map_err(|f| f.at(place))?;
                    if let Some(other) = targets.iter().find(|t| t.topic == target.topic) {
                        return Err(Fault::new(format!(
                            "sinks \"{}\" and \"{}\" write one topic, \"{}\"",
                            other.name.value, target.name.value, target.topic
                        ))
                        .at(place)
                        .hint("write both queries into one sink"));
                    }
                    catalog.add_sink(&target.name.value);
                    targets.push(target);
                }
            }
            Body::View { name, columns, query, if_not_exists } => {
                if is_new(&mut defined, &name, "view", place, if_not_exists)? {
                    catalog.add_view(&name, &columns, &query).map_err(|f| f.at(place))?;
                }
            }
            Body::Insert { sink, columns, query } => writings.push(Writing { sink, columns, query, place }),
        }
    }
    if writings.is_empty() {
        return Err(Fault::new("this file has no INSERT INTO: it computes nothing")
            .hint("write INSERT INTO <sink> SELECT ... FROM <stream>"));
    }
    for target in &targets {
        if let Some(stream) = streams.iter().find(|s| s.topic == target.topic) {
            return Err(Fault::new(format!(
                "sink \"{}\" writes topic \"{}\", which stream \"{}\" reads",
                target.name.value, target.topic, stream.name
            ))
            .at(target.place)
            .hint("a pipeline does not feed itself: write another topic"));
        }
    }
    let plan = |expr: &ast::Expr, schema: &DFSchema| catalog.expression(expr, schema);
    // Once to learn which columns are read, with all of them there; then with those alone.
    let all = |stream: &Stream| -> BTreeSet<usize> { (0..stream.columns.len()).collect() };
    let first = inputs(&streams, &plan, all)?;
    let (lowering, _) = write_all(&catalog, first, &writings, &targets, options)?;
    let used: BTreeMap<String, BTreeSet<usize>> =
        lowering.inputs.iter().filter(|(_, i)| i.node.is_some()).map(|(name, i)| (name.clone(), i.used.clone())).collect();
    let read: Vec<&Stream> = streams.iter().filter(|s| used.contains_key(&s.name)).collect();
    not_both(&read)?;
    let pruned = inputs(&streams, &plan, |stream| used.get(&stream.name).cloned().unwrap_or_default())?;
    let (mut lowering, sinks) = write_all(&catalog, pruned, &writings, &targets, options)?;
    let mut sources = Vec::new();
    for stream in &read {
        sources.push(stream.source(&used[&stream.name], &plan).map_err(|f| f.at(stream.place))?.0);
    }
    // A source's index is its place in the SQL.
    for node in &mut lowering.nodes {
        if let Operation::Source(index) = &mut node.operation {
            let name = node.id.strip_suffix(".source").unwrap_or(&node.id);
            if let Some(place) = read.iter().position(|s| s.name == name) {
                *index = place;
            }
        }
    }
    let Lowering { nodes, mut uneven, .. } = lowering;
    if !nodes.iter().any(|node| node.operation.stateful()) {
        // Rows that meet in no state lie where they may.
        uneven.clear();
    }
    ids_differ(&nodes)?;
    let partitions = options.partitions.clone();
    Ok(Topology { pipeline, named, settings, sources, nodes, sinks, statements, nondeterministic, partitions, uneven })
}

/// A table is read from the start of its log, and raised at its end; a stream is neither. A partition has one position and one raise.
fn not_both(read: &[&Stream]) -> Result<()> {
    for (n, stream) in read.iter().enumerate() {
        let other = read[..n].iter().find(|other| other.topic == stream.topic && other.table != stream.table);
        if let Some(other) = other {
            let kind = |stream: &Stream| if stream.table { "a table" } else { "a stream" };
            return Err(Fault::new(format!(
                "\"{}\" reads topic \"{}\" as {}, \"{}\" (line {}) as {}",
                stream.name,
                stream.topic,
                kind(stream),
                other.name,
                other.place.line,
                kind(other)
            ))
            .at(stream.place)
            .hint("read it as one of them; of a table as a relation every change is a row of the query"));
        }
    }
    Ok(())
}

/// Ids name changelogs and repartition topics.
fn ids_differ(nodes: &[super::Node]) -> Result<()> {
    let mut known = BTreeSet::new();
    match nodes.iter().find(|node| !known.insert(node.id.as_str())) {
        None => Ok(()),
        Some(node) => Err(Fault::new(format!("two operators would have the name \"{}\", which names their topics", node.id))
            .hint("give the table or the sink that begins so another name")),
    }
}

/// The topics that the file names, with the kind of the statement that names each.
pub(super) fn topics(file: &SqlFile) -> Result<Vec<(String, Topic)>> {
    let mut topics = Vec::new();
    for Parsed { body, statement, place } in parse(file)? {
        let (definition, kind) = match body {
            Body::Stream(definition) => (definition, Kind::Stream),
            Body::Table(definition) => (definition, Kind::Table),
            Body::Sink(definition) => (definition, Kind::Sink),
            _ => continue,
        };
        let options = super::with::options(&definition.options, kind).map_err(|f| f.at(place))?;
        topics.push((statement.kind, super::source::topic_of(&definition.name, &options).0));
    }
    Ok(topics)
}

fn settings(parsed: &[Parsed]) -> Result<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    for Parsed { body, .. } in parsed {
        let Body::Set { key, value } = body else { continue };
        let (name, text) = (key.value.as_str(), value.value.as_str());
        check_setting(key, value)?;
        if settings.insert(name.to_owned(), text.to_owned()).is_some_and(|old| old != text) {
            return Err(Fault::new(format!("'{name}' is set twice")).at(key.place).hint("leave one of them out"));
        }
    }
    Ok(settings)
}

fn check_setting(key: &Name, value: &Name) -> Result<()> {
    let text = value.value.as_str();
    let name = key.value.as_str();
    match name {
        "pipeline.name" => {
            let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if text.is_empty() || text.len() > 100 || !text.chars().all(legal) {
                return Err(Fault::new(format!("\"{text}\" is not a name of a pipeline"))
                    .at(value.place)
                    .hint("use letters, digits, '.', '_' and '-', at most 100"));
            }
            Ok(())
        }
        "tidemill.semantics" if text == "1" => Ok(()),
        "tidemill.semantics" => Err(Fault::new(format!("semantics level '{text}' is not known: this release has '1'"))
            .at(value.place)
            .hint("write '1', or leave it out")),
        "nondeterministic" if ["true", "false"].contains(&text) => Ok(()),
        "nondeterministic" => Err(Fault::new(format!("'nondeterministic' is 'true' or 'false', not '{text}'"))
            .at(value.place)
            .hint("leave it out for a pipeline that can be replayed")),
        "table.local-time-zone" => match text.parse::<chrono_tz::Tz>() {
            Ok(chrono_tz::UTC) => Ok(()),
            Ok(_) => Err(Fault::new(format!("'table.local-time-zone' = '{text}' is not in this release: times are in UTC"))
                .at(value.place)
                .hint("use 'UTC', and give a window of days an offset")),
            Err(_) => Err(Fault::new(format!("time zone '{text}' is not known"))
                .at(value.place)
                .hint("write 'UTC' or a name as 'Europe/Berlin'")),
        },
        "state_ttl" => Err(Fault::new("'state_ttl' is not in this release").at(key.place).hint("bound the state with windows")),
        _ => {
            let fault = Fault::new(format!("setting '{name}' is not known")).at(key.place);
            let process = [
                "execution.",
                "parallelism.",
                "state.",
                "restart-",
                "table.exec",
                "taskmanager.",
                "jobmanager.",
                "auto.offset.reset",
                "processing.guarantee",
            ];
            if name == "auto.offset.reset" {
                return Err(fault.hint("where to start is given to the command: --from earliest"));
            }
            Err(match crate::error::nearest(name, SETTINGS) {
                Some(near) => fault.hint(format!("did you mean '{near}'?")),
                None if process.iter().any(|p| name.starts_with(p)) => {
                    fault.hint("how the process runs is set in the config file")
                }
                None => fault.hint(format!("known are {}", list(&SETTINGS[..4]))),
            })
        }
    }
}

fn pipeline_name(settings: &BTreeMap<String, String>, options: &Options) -> Result<(String, bool)> {
    match (settings.get("pipeline.name"), &options.default_name) {
        (Some(name), _) => Ok((name.clone(), true)),
        (None, Some(name)) => Ok((name.clone(), false)),
        (None, None) => Err(Fault::new("the pipeline has no name")
            .hint("write SET 'pipeline.name' = '...' at the top of the file: its group, state and topics are named after it")),
    }
}

/// The name of a sink or a table is part of node ids, and so of topics.
fn topic_name(name: &Name, kind: &str) -> Result<()> {
    if name.value.len() <= 100 && name.value.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        return Ok(());
    }
    Err(Fault::new(format!("\"{}\" is not a name of a {kind}", name.value))
        .at(name.place)
        .hint("use letters, digits, '.', '_' and '-', at most 100: topics are named after it; 'topic' may differ"))
}

/// Whether the name is free; `IF NOT EXISTS` leaves the first definition in force.
fn is_new(
    defined: &mut BTreeMap<String, (&'static str, Place)>,
    name: &Name,
    kind: &'static str,
    place: Place,
    if_not_exists: bool,
) -> Result<bool> {
    match defined.get(&name.value) {
        None => {
            defined.insert(name.value.clone(), (kind, place));
            Ok(true)
        }
        Some(_) if if_not_exists => Ok(false),
        Some((kind, first)) => {
            Err(Fault::new(format!("\"{}\" is defined already: a {kind}, in line {}", name.value, first.line))
                .at(name.place.or(Some(place)))
                .hint("give one of them another name"))
        }
    }
}

fn inputs<'a>(
    streams: &'a [Stream],
    plan: &super::source::PlanExpr,
    used: impl Fn(&Stream) -> BTreeSet<usize>,
) -> Result<BTreeMap<String, Input<'a>>> {
    let mut inputs = BTreeMap::new();
    for stream in streams {
        let (source, places) = stream.source(&used(stream), plan).map_err(|f| f.at(stream.place))?;
        let input = Input { stream, used: BTreeSet::new(), node: None, changes: None, schema: source.ingest.schema, places };
        inputs.insert(stream.name.clone(), input);
    }
    Ok(inputs)
}

fn write_all<'a>(
    catalog: &Catalog,
    inputs: BTreeMap<String, Input<'a>>,
    writings: &[Writing],
    targets: &[Target],
    options: &'a Options,
) -> Result<(Lowering<'a>, Vec<super::Sink>)> {
    let mut lowering = Lowering::new(inputs, &options.partitions);
    let mut sinks: Vec<super::Sink> = Vec::new();
    for writing in writings {
        write(catalog, &mut lowering, &mut sinks, writing, targets).map_err(|f| f.at(writing.place))?;
    }
    Ok((lowering, sinks))
}

fn write(
    catalog: &Catalog,
    lowering: &mut Lowering,
    sinks: &mut Vec<super::Sink>,
    writing: &Writing,
    targets: &[Target],
) -> Result<()> {
    let name = &writing.sink;
    let Some(target) = targets.iter().find(|t| t.name.value == name.value) else {
        let known: Vec<&str> = targets.iter().map(|t| t.name.value.as_str()).collect();
        if let Some(input) = lowering.inputs.get(&name.value) {
            let kind = if input.stream.table { "table" } else { "stream" };
            return Err(Fault::new(format!("\"{}\" is a {kind}: it is read, not written", name.value))
                .at(name.place)
                .hint("define a sink for what the query gives: CREATE SINK name WITH ('topic' = '...')"));
        }
        let fault = Fault::new(format!("sink \"{}\" is not known", name.value)).at(name.place);
        return Err(match crate::error::nearest(&name.value, known) {
            Some(near) => fault.hint(format!("did you mean \"{near}\"?")),
            None => fault.hint(format!("define it: CREATE SINK {} WITH ('format' = 'avro')", name.value)),
        });
    };
    let former = sinks.iter().position(|s| s.name == name.value);
    if former.is_some() && target.upsert() {
        return Err(Fault::new(format!("two statements write sink \"{}\", which has a PRIMARY KEY", name.value))
            .at(name.place)
            .hint("their order would not be certain: write two sinks, or one query with UNION ALL and GROUP BY"));
    }
    let before = lowering.nodes.iter().filter(|n| matches!(&n.operation, Operation::Sink(s) if Some(*s) == former)).count();
    lowering.begin(if before == 0 { name.value.clone() } else { format!("{}.{}", name.value, before + 1) });
    let plan = catalog.plan(&writing.query)?;
    let needed = (0..plan.schema().fields().len()).collect();
    let lowered = lowering.lower(&plan, &needed)?;
    let insert = Insert {
        names: plan.schema().fields().iter().map(|f| f.name().clone()).collect(),
        lowered: &lowered,
        list: &writing.columns,
        former: former.map(|at| &sinks[at]),
        sink_index: former.unwrap_or(sinks.len()),
    };
    if let Some(sink) = target.insert(&insert, lowering)? {
        sinks.push(sink);
    }
    Ok(())
}
