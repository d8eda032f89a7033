//! A pipeline and its input as the simulation knows them: generated (`generate`, `input`), written down (`render`), computed
//! (`model`), cut down (`shrink`).

/// A column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    Int,
    Long,
    Double,
    Text,
    /// An instant in milliseconds.
    Millis,
    /// An instant in microseconds.
    Micros,
    /// With so many digits behind the point.
    Decimal(u32),
}

/// One value; integers and instants share `Int`, a decimal is its unscaled number.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    Decimal(i128),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub sources: Vec<Source>,
    pub sinks: Vec<Sink>,
    pub statements: Vec<Statement>,
    /// Whether nothing more will come: all windows close at the end.
    pub finish: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Of the stream or table, and of its topic unless it reads another's.
    pub name: String,
    /// CREATE TABLE.
    pub table: Option<Table>,
    /// Of its topic.
    pub partitions: i32,
    /// The stream whose topic this one reads too; it has no lines of its own then.
    pub reads: Option<usize>,
    pub fields: Vec<Field>,
    /// Fields of a second writer's schema.
    pub second: Option<Vec<WriterField>>,
    pub key: Key,
    pub time: Option<Time>,
    /// Columns computed from the others; they never fail.
    pub computed: Vec<Named>,
    pub checks: Vec<Check>,
    /// NULL values are dead letters instead of skipped.
    pub tombstones: bool,
    /// Classes of bad records that are dropped instead of kept.
    pub dropped: Vec<&'static str>,
    pub lines: Vec<Line>,
}

/// What only a table has; `key` is its PRIMARY KEY, and without `time` a version's time is its record's timestamp.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// `'before_first' = 'first_known'`.
    pub first_known: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub data_type: Type,
    pub nullable: bool,
    /// What a record has whose writer did not know the field.
    pub default: Option<Value>,
}

/// A field as another writer has it: an int where the reader has a long, or one that the reader does not know.
#[derive(Clone, Debug, PartialEq)]
pub struct WriterField {
    pub name: String,
    pub data_type: Type,
    pub nullable: bool,
    /// In the reader's fields.
    pub reader: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub column: String,
    pub data_type: Type,
    /// The value has no such field.
    pub only: bool,
    /// The key is an Avro record.
    pub avro: bool,
    /// `'partitioner' = 'trusted'`.
    pub trusted: bool,
    /// The file does not say what the key holds, and the topic is distributed by something else.
    pub unnamed: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Time {
    pub column: String,
    /// Of the declared column.
    pub data_type: Type,
    pub delay_ms: i64,
    /// `None`: the default, a day.
    pub max_ahead_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub name: String,
    pub expr: Expr,
    /// Dropped without a dead letter.
    pub drop: bool,
}

/// A line of an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Record(Record),
    /// The idle decision is made here.
    Idle {
        partition: i32,
    },
    /// All streams have been quiet until the last windows close.
    Quiet,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub partition: i32,
    /// Milliseconds; `None`: a record without one.
    pub timestamp: Option<i64>,
    pub key: Value,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Null,
    /// By the reader's fields; of the second writer if so.
    Good {
        values: Vec<Value>,
        second: bool,
    },
    /// Bytes in which nothing can be read, and why.
    Bad(Bad),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Bad {
    /// These bytes, of class `wire`.
    Wire(Vec<u8>),
    /// A well-formed body under an id that the registry does not know.
    UnknownId { id: u32, values: Vec<Value> },
    /// A body without its last bytes.
    Truncated { values: Vec<Value>, cut: usize },
    /// A body with bytes behind it.
    Trailing { values: Vec<Value>, more: Vec<u8> },
}

impl Bad {
    pub fn class(&self) -> &'static str {
        match self {
            Bad::Wire(_) => "wire",
            Bad::UnknownId { .. } => "schema",
            Bad::Truncated { .. } | Bad::Trailing { .. } => "decode",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sink {
    /// Of sink and topic.
    pub name: String,
    /// PRIMARY KEY; empty: append.
    pub key: Vec<String>,
    /// A bare key of one column.
    pub bare_key: Option<Type>,
    pub except_key: bool,
}

/// `INSERT INTO sink SELECT ...`.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub sink: usize,
    pub query: Relation,
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Relation {
    /// A stream, or the current rows of a table.
    Source(usize),
    Select(Box<Select>),
    Aggregate(Box<Aggregate>),
    Union(Vec<Relation>),
    Join(Box<Join>),
}

/// `FROM left AS l JOIN table FOR SYSTEM_TIME AS OF l.time AS r ON key = r.<primary key>`: in its expressions the columns of the left
/// side are called `l.x`, those of the table `r.x`.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    pub left: Relation,
    /// The left side stands in TUMBLE or HOP: an aggregate over the join groups by these windows.
    pub window: Option<Window>,
    /// Of the left side.
    pub time: String,
    pub table: usize,
    /// LEFT JOIN.
    pub outer: bool,
    /// Over the left side.
    pub key: Expr,
    /// What ON says beside the key.
    pub on: Option<Expr>,
    pub filter: Vec<Expr>,
    pub columns: Vec<Named>,
}

/// Filter and project.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    pub input: Relation,
    /// Conjuncts, one after another.
    pub filter: Vec<Expr>,
    pub columns: Vec<Named>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub name: String,
    pub data_type: Type,
    pub expr: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub input: Relation,
    pub window: Option<Window>,
    pub filter: Vec<Expr>,
    pub groups: Vec<Group>,
    pub calls: Vec<Call>,
    /// Over the names of groups and calls.
    pub having: Option<Expr>,
    /// Over the names of groups and calls.
    pub columns: Vec<Named>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    pub time: String,
    pub size_ms: i64,
    /// `None`: TUMBLE.
    pub slide_ms: Option<i64>,
    pub offset_ms: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub data_type: Type,
    pub by: GroupBy,
}

#[derive(Clone, Debug, PartialEq)]
pub enum GroupBy {
    WindowStart,
    WindowEnd,
    WindowTime,
    Expr(Expr),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub name: String,
    pub function: Function,
    /// COUNT(*) has none.
    pub arg: Option<(Expr, Type)>,
    pub distinct: bool,
    pub filter: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    First,
    Last,
    BoolAnd,
    BoolOr,
    StddevPop,
    StddevSamp,
}

impl Call {
    pub fn result(&self) -> Type {
        match (self.function, self.arg.as_ref().map(|(_, data_type)| *data_type)) {
            (Function::Count, _) => Type::Long,
            (Function::StddevPop | Function::StddevSamp, _) => Type::Double,
            (Function::Avg, Some(Type::Decimal(scale))) => Type::Decimal(scale.max(6)),
            (_, Some(argument)) => argument,
            (_, None) => unreachable!("only COUNT has no argument"),
        }
    }
}

/// An expression. Arithmetic is over longs or doubles; that of longs may fail.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Column(String),
    Literal(Value, Type),
    Arithmetic(Arithmetic, Box<Expr>, Box<Expr>),
    Compare(Compare, Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>),
    /// `CASE WHEN condition THEN a ELSE b END`: only one of them is computed.
    Case(Box<Expr>, Box<Expr>, Box<Expr>),
    Coalesce(Box<Expr>, Box<Expr>),
    /// CAST(int AS BIGINT).
    ToLong(Box<Expr>),
    /// CAST(int AS DOUBLE).
    ToDouble(Box<Expr>),
    Upper(Box<Expr>),
    Concat(Box<Expr>, Box<Expr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Expr {
    pub fn column(name: &str) -> Expr {
        Expr::Column(name.to_owned())
    }

    pub fn long(value: i64) -> Expr {
        Expr::Literal(Value::Int(value), Type::Long)
    }

    /// The expressions directly below.
    pub fn parts(&self) -> Vec<&Expr> {
        match self {
            Expr::Column(_) | Expr::Literal(..) => Vec::new(),
            Expr::Not(a) | Expr::IsNull(a) | Expr::ToLong(a) | Expr::ToDouble(a) | Expr::Upper(a) => vec![a],
            Expr::Arithmetic(_, a, b) | Expr::Compare(_, a, b) => vec![a, b],
            Expr::And(a, b) | Expr::Or(a, b) | Expr::Coalesce(a, b) | Expr::Concat(a, b) => vec![a, b],
            Expr::Case(a, b, c) => vec![a, b, c],
        }
    }
}

impl Source {
    /// What a query sees: fields, the key if the value does not have it, computed columns.
    pub fn columns(&self) -> Vec<(String, Type)> {
        let fields = self.fields.iter().map(|field| (field.name.clone(), field.data_type));
        let key = self.key.only.then(|| (self.key.column.clone(), self.key.data_type));
        let computed = self.computed.iter().map(|column| (column.name.clone(), column.data_type));
        fields.chain(key).chain(computed).collect()
    }
}

impl Join {
    /// What its expressions may use.
    pub fn scope(&self, case: &Case) -> Vec<(String, Type)> {
        let edges = if self.window.is_some() { vec!["l.window_start", "l.window_end", "l.window_time"] } else { Vec::new() };
        // Columns of former windows are hidden by the new ones.
        let left =
            self.left.columns(case).into_iter().map(|(name, data_type)| match edges.contains(&format!("l.{name}").as_str()) {
                true => (format!("hidden.{name}"), data_type),
                false => (format!("l.{name}"), data_type),
            });
        let right = case.sources[self.table].columns().into_iter().map(|(name, data_type)| (format!("r.{name}"), data_type));
        left.chain(edges.iter().map(|name| ((*name).to_owned(), Type::Millis))).chain(right).collect()
    }
}

impl Relation {
    pub fn columns(&self, case: &Case) -> Vec<(String, Type)> {
        let named = |columns: &[Named]| columns.iter().map(|column| (column.name.clone(), column.data_type)).collect();
        match self {
            Relation::Source(source) => case.sources[*source].columns(),
            Relation::Select(select) => named(&select.columns),
            Relation::Aggregate(aggregate) => named(&aggregate.columns),
            Relation::Union(branches) => branches[0].columns(case),
            Relation::Join(join) => named(&join.columns),
        }
    }

    /// The sources below, each once.
    pub fn sources(&self) -> Vec<usize> {
        let mut found = match self {
            Relation::Source(source) => vec![*source],
            Relation::Select(select) => select.input.sources(),
            Relation::Aggregate(aggregate) => aggregate.input.sources(),
            Relation::Union(branches) => branches.iter().flat_map(Relation::sources).collect(),
            Relation::Join(join) => [join.left.sources(), vec![join.table]].concat(),
        };
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether its rows lie in windows already: those of a join's left side.
    pub fn in_windows(&self) -> bool {
        matches!(self, Relation::Join(join) if join.window.is_some())
    }

    /// What kind of relation this is, for the count of what was run.
    pub fn shape(&self, case: &Case) -> String {
        match self {
            Relation::Source(source) if case.sources[*source].table.is_some() => "table".to_owned(),
            Relation::Source(_) => "stream".to_owned(),
            Relation::Union(_) => "union".to_owned(),
            Relation::Join(join) => format!("join of {}", join.left.shape(case)),
            Relation::Select(select) => match select.input.shape(case).as_str() {
                source @ ("stream" | "union" | "table") => source.to_owned(),
                below => format!("query over {below}"),
            },
            Relation::Aggregate(aggregate) => {
                let kind = match &aggregate.window {
                    None => "updating",
                    Some(Window { slide_ms: None, .. }) => "tumble",
                    Some(Window { slide_ms: Some(slide), size_ms, .. }) if slide > size_ms => "hop with gaps",
                    Some(_) => "hop",
                };
                match aggregate.input.shape(case).as_str() {
                    "stream" => kind.to_owned(),
                    below => format!("{kind} over {below}"),
                }
            }
        }
    }
}

impl Statement {
    /// What kind of pipeline this is, for the count of what was run.
    pub fn shape(&self, case: &Case) -> String {
        let sink = if case.sinks[self.sink].key.is_empty() { "append" } else { "upsert" };
        format!("{}, {sink}", self.query.shape(case))
    }
}
