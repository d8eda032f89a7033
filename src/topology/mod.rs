//! From a SQL file to a checked graph of operators.
//!
//! [`compile`] parses the file, asks for the contracts of the topics it names, plans with DataFusion's component crates, and turns the
//! plan into nodes that a task can run. Types of DataFusion stop here and in `operator`.
//!
//! Invariant: what is not supported is refused by name with its place in the file, never planned wrongly.

/// GROUP BY.
mod aggregate;
/// A file of statements to a topology.
mod compile;
/// Statements as written.
mod ddl;
/// Flink's spelling for the parser.
mod dialect;
/// A topology as text and as JSON.
mod explain;
/// Planned expressions to ones that run.
mod expression;
/// Where in a file something is wrong.
mod fault;
/// What makes two versions of a pipeline the same.
mod fingerprint;
/// Functions and their meaning.
mod function;
/// Lengths of time.
mod interval;
/// Joins of a stream with a table.
mod join;
/// Logical plans to nodes.
mod lower;
/// Queries to logical plans.
mod plan;
/// What is not run yet.
mod refuse;
/// CREATE SINK and INSERT INTO.
mod sink;
/// CREATE STREAM.
mod source;
/// Flink's spelling of expressions for the planner.
mod spelling;
/// The parts between shuffles.
mod sub;
/// SQL types.
mod types;
/// TUMBLE and HOP.
mod window;
/// WITH options.
mod with;
/// The planner's messages in our words.
mod wording;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};

use datafusion_expr::{AggregateUDF, ScalarUDF};

use crate::codec::KeyFormat;
use crate::contract::{AvroSchema, Contract, Contracts};
use crate::error::{BadClass, Result};
use crate::operator::aggregate::AggregateSpec;
use crate::operator::assign::AssignSpec;
use crate::operator::consolidate::ConsolidateSpec;
use crate::operator::exchange::ExchangeSpec;
use crate::operator::filter::FilterSpec;
use crate::operator::ingest::{IngestSpec, OnViolation};
use crate::operator::materialize::MaterializeSpec;
use crate::operator::project::ProjectSpec;
use crate::operator::table::TableSpec;
use crate::operator::temporal_join::{BeforeFirst, TemporalJoinSpec};
use crate::record::Topic;

pub use explain::{explain, explain_json};
pub use fingerprint::{fingerprint, statement_diff};
pub use sub::SubTopology;

/// A pipeline as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlFile {
    /// For messages: `name:line:column: ...`.
    pub name: String,
    pub text: String,
}

/// What the caller adds to a file.
#[derive(Clone, Debug)]
pub struct Options {
    /// The pipeline's name where the file gives none: the file's stem, for demo, test, check and explain. `None`: refused.
    pub default_name: Option<String>,
    /// `max_ahead` of streams that do not say: how far event time may be ahead of the record's timestamp. `None`: not checked.
    pub max_ahead_micros: Option<i64>,
    /// Partition counts of topics, where they are known: inputs of unequal counts are shuffled. Unknown ones count as equal.
    pub partitions: BTreeMap<Topic, i32>,
    pub udfs: Vec<ScalarUDF>,
    pub udafs: Vec<AggregateUDF>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            default_name: None,
            max_ahead_micros: Some(interval::DAY),
            partitions: BTreeMap::new(),
            udfs: Vec::new(),
            udafs: Vec::new(),
        }
    }
}

/// Compiles a file against the contracts of the topics that it names.
///
/// # Errors
/// `Config` for anything wrong with the SQL: `name:line:column: message`, the line, the place underlined, a hint. Errors of
/// `contracts` pass through.
pub fn compile(file: &SqlFile, contracts: &dyn Contracts, options: &Options) -> Result<Topology> {
    compile::compile(file, contracts, options).map_err(|fault| fault.into_error(file))
}

/// The topics that the file names, each with the kind of its statement (`CREATE STREAM`, `CREATE SINK`): DDL only, no contracts.
///
/// # Errors
/// `Config` when the file does not parse or an option is unknown.
pub fn topics(file: &SqlFile) -> Result<Vec<(String, Topic)>> {
    compile::topics(file).map_err(|fault| fault.into_error(file))
}

/// A pipeline, checked and ready to run.
#[derive(Clone, Debug)]
pub struct Topology {
    /// `SET 'pipeline.name'`, or the file's stem where that is allowed.
    pub pipeline: String,
    /// Whether the file itself names the pipeline.
    pub named: bool,
    /// All `SET`s, keys as written.
    pub settings: BTreeMap<String, String>,
    /// In the order of the SQL: a source's index is its place.
    pub sources: Vec<Source>,
    /// Inputs before their users.
    pub nodes: Vec<Node>,
    pub sinks: Vec<Sink>,
    /// For the fingerprint and for the diff by statement.
    pub statements: Vec<Statement>,
    /// Anything that a run can't repeat (`SET 'nondeterministic'`): marks the generation.
    pub nondeterministic: bool,
    /// Partition counts of topics, as far as they were known when it was planned.
    pub partitions: BTreeMap<Topic, i32>,
    /// Topics whose rows are shuffled because they are known to have unequal numbers of partitions.
    pub uneven: BTreeSet<Vec<String>>,
}

impl Topology {
    /// The parts between shuffles, each of which runs in tasks of its own.
    pub fn sub_topologies(&self) -> Vec<SubTopology> {
        sub::sub_topologies(&self.nodes, &self.sources)
    }

    /// What a node's rows come from without a shuffle in between: sources, and shuffles.
    pub fn origins(&self, node: usize) -> BTreeSet<usize> {
        sub::origins(&self.nodes, node)
    }

    /// The nodes that are shuffles.
    pub fn exchanges(&self) -> impl Iterator<Item = usize> {
        sub::exchanges(&self.nodes)
    }
}

/// One statement of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// `SET`, `CREATE STREAM`, `CREATE SINK`, `CREATE VIEW`, `INSERT INTO`.
    pub kind: String,
    /// What it creates, sets or writes to.
    pub name: String,
    /// Canonical text: tokens joined by one space, comments and the final semicolon left out.
    pub text: String,
    pub line: u64,
    pub column: u64,
}

/// A stream that the pipeline reads. Several statements share it: each record is decoded once.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub topic: Topic,
    pub value: Arc<Contract>,
    /// Columns of `value.columns` that are used, ascending: the first columns of `ingest.decoded`.
    pub value_columns: Vec<usize>,
    pub key: Option<SourceKey>,
    /// As declared, or Avro where a key contract was used; `None`: nothing says.
    pub key_format: Option<KeyFormat>,
    /// The last columns of `ingest.decoded`.
    pub metadata: Vec<Metadata>,
    pub ingest: IngestSpec,
    pub null_value: NullValue,
    /// A table: its records are versions of rows, null values tombstones.
    pub table: Option<TableSource>,
    /// What to do with a bad record, by class; `DeadLetter` where absent.
    pub on_bad: BTreeMap<BadClass, OnViolation>,
    pub line: u64,
    pub column: u64,
}

/// What makes a source a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSource {
    /// Columns that value and key both hold: place in `Source::value_columns`, place in `SourceKey::columns`. Where they differ the
    /// record is bad.
    pub held_twice: Vec<(usize, usize)>,
    /// `before_first`: what a row joins that is older than the first version.
    pub before_first: BeforeFirst,
}

/// The key of a source, when the plan uses columns that only the key holds.
#[derive(Clone, Debug)]
pub struct SourceKey {
    pub format: KeyFormat,
    pub contract: Option<Arc<Contract>>,
    /// Fields of the key that are used: the columns of `ingest.decoded` after the value's. For Avro records the field's index in the
    /// contract; for JSON its place in `key.fields`; for raw formats one entry, 0.
    pub columns: Vec<usize>,
    /// What they are called in the key: the names without `key.fields-prefix`.
    pub members: Vec<String>,
    /// Their names and types.
    pub fields: Vec<FieldRef>,
}

/// A `METADATA` column of a source, types as in Arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metadata {
    /// Int32.
    Partition,
    /// Int64.
    Offset,
    /// Utf8.
    Topic,
    /// Map of Utf8 to Binary.
    Headers,
    /// Binary, null when absent.
    Key,
    /// Timestamp(Millisecond, UTC).
    Timestamp,
    /// Utf8: `CreateTime`, `LogAppendTime`, `NoTimestampType`.
    TimestampType,
}

/// `tombstones`: what a null value in a stream means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NullValue {
    /// Skipped and counted.
    Skip,
    /// A bad record of class `null`.
    DeadLetter,
}

/// A place in the topology.
#[derive(Clone, Debug)]
pub struct Node {
    /// Stable over replanning, from the statement's place and the operator's kind, e.g. `revenue_by_minute.aggregate`; unique.
    /// Names the changelog of a stateful node.
    pub id: String,
    pub operation: Operation,
    /// Indexes of nodes; a union has several.
    pub inputs: Vec<usize>,
    pub schema: SchemaRef,
}

#[derive(Clone, Debug)]
pub enum Operation {
    /// Index into `sources`.
    Source(usize),
    Filter(FilterSpec),
    Project(ProjectSpec),
    Assign(AssignSpec),
    /// UNION ALL: rows pass as they are.
    Union,
    Aggregate(AggregateSpec),
    Consolidate(ConsolidateSpec),
    /// The records of a table to changes of its rows.
    Table(TableSpec),
    /// Port 0 is the stream, port 1 the records of a table.
    TemporalJoin(TemporalJoinSpec),
    /// The last stage before an upsert sink whose key does not follow from how its rows are distributed.
    Materialize(MaterializeSpec),
    /// A shuffle: rows go through a repartition topic, which is named after the node. The nodes that it feeds run in another task.
    Exchange(ExchangeSpec),
    /// Index into `sinks`. Its input has the sink's schema.
    Sink(usize),
}

impl Operation {
    /// Lower case, for ids, `explain` and labels.
    pub fn kind(&self) -> &'static str {
        match self {
            Operation::Source(_) => "source",
            Operation::Filter(_) => "filter",
            Operation::Project(_) => "project",
            Operation::Assign(_) => "assign",
            Operation::Union => "union",
            Operation::Aggregate(_) => "aggregate",
            Operation::Consolidate(_) => "consolidate",
            Operation::Table(_) => "table",
            Operation::TemporalJoin(_) => "join",
            Operation::Materialize(_) => "materialize",
            Operation::Exchange(_) => "exchange",
            Operation::Sink(_) => "sink",
        }
    }

    /// Whether it keeps state.
    pub fn stateful(&self) -> bool {
        matches!(self, Operation::Aggregate(_) | Operation::Table(_) | Operation::TemporalJoin(_) | Operation::Materialize(_))
    }
}

/// A topic that the pipeline writes.
#[derive(Clone, Debug)]
pub struct Sink {
    pub name: String,
    pub topic: Topic,
    /// Columns of the rows that arrive.
    pub schema: SchemaRef,
    /// With PRIMARY KEY: an upsert sink (last value per key; tombstones for keys that left). Without: append.
    pub key: Option<SinkKey>,
    /// Columns of `schema` that the value holds, in order.
    pub value_columns: Vec<usize>,
    pub value_subject: String,
    pub value_schema: Arc<AvroSchema>,
    /// The column that sets the record's timestamp (`METADATA FROM 'timestamp'`); else the row's event time does.
    pub timestamp_column: Option<usize>,
    /// `'partitions'`: of a topic that has to be created; `None`: as many as the sources have.
    pub partitions: Option<i32>,
    pub line: u64,
    pub column: u64,
}

#[derive(Clone, Debug)]
pub struct SinkKey {
    /// Columns of `Sink::schema`.
    pub columns: Vec<usize>,
    pub format: KeyFormat,
    /// Subject and schema for `KeyFormat::Avro`.
    pub avro: Option<(String, Arc<AvroSchema>)>,
}
