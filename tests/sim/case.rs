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
    pub partitions: i32,
    /// Whether nothing more will come: all windows close at the end.
    pub finish: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Of the stream, and of its topic unless it reads another's.
    pub name: String,
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

/// Where rows come from. Joins and tables will be variants of their own.
#[derive(Clone, Debug, PartialEq)]
pub enum Relation {
    Source(usize),
    Select(Box<Select>),
    Aggregate(Box<Aggregate>),
    Union(Vec<Relation>),
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
}

impl Call {
    pub fn result(&self) -> Type {
        match (self.function, self.arg.as_ref().map(|(_, data_type)| *data_type)) {
            (Function::Count, _) => Type::Long,
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
            Expr::Not(a) | Expr::IsNull(a) | Expr::ToLong(a) | Expr::Upper(a) => vec![a],
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

impl Relation {
    pub fn columns(&self, case: &Case) -> Vec<(String, Type)> {
        let named = |columns: &[Named]| columns.iter().map(|column| (column.name.clone(), column.data_type)).collect();
        match self {
            Relation::Source(source) => case.sources[*source].columns(),
            Relation::Select(select) => named(&select.columns),
            Relation::Aggregate(aggregate) => named(&aggregate.columns),
            Relation::Union(branches) => branches[0].columns(case),
        }
    }

    /// The sources below, each once.
    pub fn sources(&self) -> Vec<usize> {
        let mut found = match self {
            Relation::Source(source) => vec![*source],
            Relation::Select(select) => select.input.sources(),
            Relation::Aggregate(aggregate) => aggregate.input.sources(),
            Relation::Union(branches) => branches.iter().flat_map(Relation::sources).collect(),
        };
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether rows of several sources meet here, in no certain order.
    pub fn mixed(&self) -> bool {
        match self {
            Relation::Source(_) | Relation::Aggregate(_) => false,
            Relation::Select(select) => select.input.mixed(),
            Relation::Union(_) => true,
        }
    }
}

impl Statement {
    /// What kind of pipeline this is, for the count of what was run.
    pub fn shape(&self, case: &Case) -> String {
        let sink = if case.sinks[self.sink].key.is_empty() { "append" } else { "upsert" };
        format!("{}, {sink}", self.query.shape())
    }
}

impl Relation {
    fn shape(&self) -> String {
        match self {
            Relation::Source(_) => "stream".to_owned(),
            Relation::Union(_) => "union".to_owned(),
            Relation::Select(select) => match select.input.shape().as_str() {
                stream @ ("stream" | "union") => stream.to_owned(),
                below => format!("query over {below}"),
            },
            Relation::Aggregate(aggregate) => {
                let kind = match &aggregate.window {
                    None => "updating",
                    Some(Window { slide_ms: None, .. }) => "tumble",
                    Some(Window { slide_ms: Some(slide), size_ms, .. }) if slide > size_ms => "hop with gaps",
                    Some(_) => "hop",
                };
                match aggregate.input.shape().as_str() {
                    "stream" => kind.to_owned(),
                    below => format!("{kind} over {below}"),
                }
            }
        }
    }
}
