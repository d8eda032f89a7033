//! Statements as written: SET, CREATE STREAM | TABLE | SINK | VIEW, INSERT INTO.

use arrow::datatypes::DataType;
use datafusion_sql::sqlparser::ast::{BinaryOperator, Expr, Ident, Query};
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::dialect::{Piece, StreamDialect, word};
use super::fault::{Fault, Place, Result, lower_first};
use super::types::parse_type;
use super::{SqlFile, Statement};
use crate::error::nearest;
use crate::operator::ingest::OnViolation;

/// A name and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub value: String,
    pub place: Option<Place>,
}

/// One statement with its canonical text.
#[derive(Debug)]
pub(super) struct Parsed {
    pub statement: Statement,
    pub place: Place,
    pub body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Set { key: Name, value: Name },
    Stream(Definition),
    Table(Definition),
    Sink(Definition),
    View { name: Name, columns: Vec<Name>, query: Box<Query>, if_not_exists: bool },
    Insert { sink: Name, columns: Vec<Name>, query: Box<Query> },
}

/// CREATE STREAM or CREATE SINK.
#[derive(Debug)]
pub(super) struct Definition {
    pub name: Name,
    pub if_not_exists: bool,
    pub items: Vec<Item>,
    pub options: Vec<WithOption>,
}

#[derive(Debug)]
pub(super) enum Item {
    Column { name: Name, data_type: DataType, nullable: bool, place: Option<Place> },
    Metadata { name: Name, data_type: DataType, from: Name },
    Computed { name: Name, expr: Box<Expr> },
    Watermark { column: Name, delay_micros: i64 },
    Check { name: Option<Name>, expr: Box<Expr>, text: String, on_violation: OnViolation, place: Option<Place> },
    PrimaryKey { columns: Vec<Name>, place: Option<Place> },
}

/// `'key' = 'value'`.
#[derive(Debug)]
pub(super) struct WithOption {
    pub key: Name,
    pub value: Name,
}

/// Reads all statements of the file.
pub(super) fn parse(file: &SqlFile) -> Result<Vec<Parsed>> {
    super::dialect::split(file)?.iter().map(|piece| parse_piece(file, piece)).collect()
}

/// The parser's error, with the place that its text names.
pub(super) fn parse_fault(error: ParserError) -> Fault {
    let text = match error {
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return Fault::new("this is nested too deeply").hint("move parts of it into views");
        }
    };
    let (message, place) = match text.rsplit_once(" at Line: ") {
        None => (text.as_str(), None),
        Some((message, at)) => {
            let mut numbers = at.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).map(|n| n.parse::<u64>());
            match (numbers.next(), numbers.next()) {
                (Some(Ok(line)), Some(Ok(column))) if line > 0 && column > 0 => (message, Some(Place { line, column, width: 1 })),
                _ => (message, None),
            }
        }
    };
    let message =
        message.replacen("Expected: ", "expected ", 1).replace(", found: ", ", found ").replace("found EOF", "found the end");
    super::wording::of(&message).unwrap_or_else(|| Fault::new(lower_first(&message))).at(place)
}

/// A plain or quoted identifier.
pub(super) fn identifier(parser: &mut Parser) -> Result<(String, Option<Place>)> {
    let token = parser.next_token();
    match token.token {
        Token::Word(word) => Ok((word.value, Place::of(token.span))),
        other => Err(expected("a name", &other, Place::of(token.span))),
    }
}

fn expected(what: &str, found: &Token, place: Option<Place>) -> Fault {
    match found {
        Token::EOF => Fault::new(format!("expected {what}, found the end of the statement")),
        other => Fault::new(format!("expected {what}, found {other}")).at(place),
    }
}

/// The parser over one statement.
struct Reader<'a> {
    file: &'a SqlFile,
    parser: Parser<'a>,
    /// Where an error stands that the parser finds at the end of the statement.
    end: Option<Place>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a SqlFile, tokens: &[TokenWithSpan]) -> Reader<'a> {
        let end = tokens.last().and_then(|t| Place::of(t.span)).map(|p| Place { column: p.column + p.width, width: 1, ..p });
        Reader { file, parser: Parser::new(&StreamDialect).with_tokens_with_locations(tokens.to_vec()), end }
    }

    fn peek(&self) -> Option<String> {
        word(&self.parser.peek_token().token)
    }

    fn peek_nth(&self, n: usize) -> Option<String> {
        word(&self.parser.peek_nth_token(n).token)
    }

    fn place(&self) -> Option<Place> {
        Place::of(self.parser.peek_token().span).or(self.end)
    }

    /// Takes the words if they come next.
    fn accept(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(n, w)| self.peek_nth(n).as_deref() == Some(w));
        if found {
            words.iter().for_each(|_| drop(self.parser.next_token()));
        }
        found
    }

    fn expect(&mut self, words: &[&str]) -> Result<()> {
        if self.accept(words) {
            return Ok(());
        }
        let token = self.parser.peek_token();
        Err(expected(&words.join(" "), &token.token, self.place()).at(self.end))
    }

    fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.parser.consume_token(token) {
            return Ok(());
        }
        let found = self.parser.peek_token();
        Err(expected(&token.to_string(), &found.token, self.place()).at(self.end))
    }

    fn name(&mut self) -> Result<Name> {
        let (value, place) = identifier(&mut self.parser).map_err(|f| f.at(self.end))?;
        Ok(Name { value, place })
    }

    /// The name of a stream, sink or view: one identifier.
    fn object_name(&mut self) -> Result<Name> {
        let name = self.name()?;
        if self.parser.peek_token().token == Token::Period {
            return Err(Fault::new("names of streams, sinks and views have one part: there are no catalogs or databases")
                .at(name.place)
                .hint("quote the name with backticks if it holds a dot"));
        }
        if name.value.is_empty() {
            return Err(Fault::new("a name can't be empty").at(name.place));
        }
        Ok(name)
    }

    fn names(&mut self) -> Result<Vec<Name>> {
        self.expect_token(&Token::LParen)?;
        let mut names = vec![self.name()?];
        while self.parser.consume_token(&Token::Comma) {
            names.push(self.name()?);
        }
        self.expect_token(&Token::RParen)?;
        Ok(names)
    }

    fn text(&mut self, what: &str) -> Result<Name> {
        let token = self.parser.next_token();
        match token.token {
            Token::SingleQuotedString(value) => Ok(Name { value, place: Place::of(token.span) }),
            other => Err(expected(what, &other, Place::of(token.span)).at(self.end)),
        }
    }

    fn expr(&mut self) -> Result<Box<Expr>> {
        let place = self.place();
        self.parser.parse_expr().map(Box::new).map_err(|e| parse_fault(e).at(self.end).at(place))
    }

    fn query(&mut self) -> Result<Box<Query>> {
        let place = self.place();
        self.check_clauses()?;
        self.parser.parse_query().map_err(|e| parse_fault(e).at(self.end).at(place))
    }

    /// Clauses of other engines that the parser stumbles over.
    fn check_clauses(&self) -> Result<()> {
        let mut depth = 0;
        for n in 0.. {
            let token = self.parser.peek_nth_token(n);
            let fault = match (&token.token, self.peek_nth(n).as_deref(), self.peek_nth(n + 1).as_deref()) {
                (Token::EOF, ..) => return Ok(()),
                (Token::LParen, ..) => {
                    depth += 1;
                    continue;
                }
                (Token::RParen, ..) => {
                    depth -= 1;
                    continue;
                }
                (_, Some("WINDOW"), Some("TUMBLING" | "HOPPING" | "SESSION")) => {
                    Fault::new("WINDOW is ksqlDB's").hint(KSQL_WINDOW)
                }
                (_, Some(word @ ("EXCEPT" | "EXCLUDE" | "REPLACE" | "ILIKE" | "RENAME")), _)
                    if n > 0 && self.parser.peek_nth_token(n - 1).token == Token::Mul =>
                {
                    Fault::new(format!("SELECT * {word} is not known")).hint("name the columns")
                }
                (_, Some("PARTITION"), Some("BY")) if depth == 0 => Fault::new("PARTITION BY is ksqlDB's").hint(
                    "a sink is partitioned by its PRIMARY KEY: CREATE SINK s (PRIMARY KEY (...)), with a query distributed by it",
                ),
                _ => continue,
            };
            return Err(fault.at(Place::of(token.span)));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let token = self.parser.peek_token();
        match token.token {
            Token::EOF => Ok(()),
            other => {
                let fault = Fault::new(format!("unexpected {other}")).at(Place::of(token.span));
                Err(match word(&other).as_deref() {
                    Some("WINDOW") => fault.hint(KSQL_WINDOW),
                    Some("EMIT") => fault.hint("EMIT FINAL is the default and the only form"),
                    Some("CREATE" | "INSERT" | "SET" | "EXECUTE" | "BEGIN") => fault.hint("a semicolon is missing before it"),
                    _ => fault,
                })
            }
        }
    }

    /// The text of the tokens `from..to` as it stands in the file.
    fn source(&self, from: usize, to: usize) -> String {
        let span = |n: usize| self.parser.token_at(n).span;
        if from >= to {
            return String::new();
        }
        slice(&self.file.text, span(from).start, span(to - 1).end)
    }
}

/// The text from `from` up to `to`, with line breaks as spaces.
fn slice(text: &str, from: Location, to: Location) -> String {
    let (first, last) = (from.line.max(1), to.line.max(1));
    let lines = text.lines().enumerate().map(|(n, line)| (n as u64 + 1, line)).filter(|(n, _)| (first..=last).contains(n));
    let parts = lines.map(|(n, line)| {
        let start = if n == first { from.column.max(1) as usize - 1 } else { 0 };
        let end = if n == last { to.column.max(1) as usize - 1 } else { usize::MAX };
        line.chars().skip(start).take(end.saturating_sub(start)).collect::<String>().trim().to_owned()
    });
    parts.collect::<Vec<_>>().join(" ")
}

const KSQL_WINDOW: &str = "ksqlDB's WINDOW is a table function here: FROM TABLE(TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end";

fn parse_piece(file: &SqlFile, piece: &Piece) -> Result<Parsed> {
    let place = piece.place();
    read_piece(file, piece).map_err(|fault| fault.at(place)).map(|(kind, name, body)| Parsed {
        statement: Statement { kind: kind.to_owned(), name, text: piece.canonical(), line: place.line, column: place.column },
        place,
        body,
    })
}

fn read_piece(file: &SqlFile, piece: &Piece) -> Result<(&'static str, String, Body)> {
    let tokens = without_emit(piece)?;
    let mut reader = Reader::new(file, tokens);
    let words: Vec<Option<String>> = (0..4).map(|n| piece.word(n)).collect();
    let words: Vec<&str> = words.iter().map(|w| w.as_deref().unwrap_or("")).collect();
    match words.as_slice() {
        ["SET", ..] => {
            let body = read_set(&mut reader)?;
            let Body::Set { key, .. } = &body else { return Err(Fault::new("SET is not complete")) };
            Ok(("SET", key.value.clone(), body))
        }
        ["CREATE", "STREAM", ..] => {
            reader.accept(&["CREATE", "STREAM"]);
            let definition = read_definition(&mut reader, "STREAM")?;
            Ok(("CREATE STREAM", definition.name.value.clone(), Body::Stream(definition)))
        }
        ["CREATE", "SINK", ..] => {
            reader.accept(&["CREATE", "SINK"]);
            let definition = read_definition(&mut reader, "SINK")?;
            Ok(("CREATE SINK", definition.name.value.clone(), Body::Sink(definition)))
        }
        ["CREATE", "TABLE", ..] => {
            reader.accept(&["CREATE", "TABLE"]);
            let definition = read_definition(&mut reader, "TABLE")?;
            Ok(("CREATE TABLE", definition.name.value.clone(), Body::Table(definition)))
        }
        ["CREATE", "TEMPORARY", "TABLE", _] => {
            Err(Fault::new("CREATE TEMPORARY TABLE: what a pipeline defines lives as long as it").hint("leave TEMPORARY out"))
        }
        ["CREATE", "VIEW", ..] | ["CREATE", "TEMPORARY", "VIEW", _] => read_view(&mut reader),
        ["CREATE", "OR", "REPLACE", _] => {
            Err(Fault::new("CREATE OR REPLACE is not known: a file defines everything once").hint("leave OR REPLACE out"))
        }
        ["INSERT", ..] => read_insert(&mut reader),
        ["SELECT" | "WITH", ..] => Err(Fault::new("a query alone writes nothing").hint("write INSERT INTO <sink> before it")),
        ["EMIT", ..] => Err(Fault::new("EMIT without a query")),
        _ => {
            let first = piece.tokens.first().map(|t| t.token.to_string()).unwrap_or_default();
            let shown = if words[0] == "CREATE" { format!("CREATE {}", words[1]) } else { first };
            let known =
                ["SET", "CREATE STREAM", "CREATE TABLE", "CREATE SINK", "CREATE VIEW", "INSERT INTO", "EXECUTE STATEMENT SET"];
            let fault = Fault::new(format!("{} is not a statement of a pipeline", shown.trim()));
            let first = |statement: &&str| statement.split(' ').next().is_some_and(|word| nearest(words[0], [word]).is_some());
            Err(match nearest(shown.trim(), known).or(known.into_iter().find(first)) {
                Some(near) => fault.hint(format!("did you mean {near}?")),
                None => fault.hint("a pipeline has SET, CREATE STREAM, CREATE TABLE, CREATE SINK, CREATE VIEW and INSERT INTO"),
            })
        }
    }
}

/// The statement's tokens without a trailing `EMIT FINAL`; other EMITs are refused.
fn without_emit(piece: &Piece) -> Result<&[TokenWithSpan]> {
    let count = piece.tokens.len();
    let at = (1..count).rev().take(8).find(|n| piece.word(*n).as_deref() == Some("EMIT"));
    let Some(at) = at else { return Ok(&piece.tokens) };
    let place = Place::of(piece.tokens[at].span);
    match piece.word(at + 1).as_deref() {
        Some("FINAL") if at + 2 == count => Ok(&piece.tokens[..at]),
        Some("CHANGES") => Err(Fault::new("EMIT CHANGES is ksqlDB's")
            .at(place)
            .hint("leave it out: a windowed result is emitted once, an updating GROUP BY goes into a sink with PRIMARY KEY")),
        Some("EVERY") => {
            Err(Fault::new("EMIT EVERY is reserved and not in this release").at(place).hint("leave it out: EMIT FINAL"))
        }
        _ => Ok(&piece.tokens),
    }
}

fn read_set(reader: &mut Reader) -> Result<Body> {
    reader.accept(&["SET"]);
    let token = reader.parser.peek_token();
    if !matches!(token.token, Token::SingleQuotedString(_)) {
        return Err(expected("a quoted key", &token.token, Place::of(token.span)).hint("write SET 'key' = 'value'"));
    }
    let key = reader.text("a quoted key")?;
    reader.expect_token(&Token::Eq)?;
    let token = reader.parser.peek_token();
    if !matches!(token.token, Token::SingleQuotedString(_)) {
        return Err(expected("a quoted value", &token.token, Place::of(token.span)).hint("write SET 'key' = 'value'"));
    }
    let value = reader.text("a quoted value")?;
    reader.finish()?;
    Ok(Body::Set { key, value })
}

fn read_view(reader: &mut Reader) -> Result<(&'static str, String, Body)> {
    reader.accept(&["CREATE"]);
    reader.accept(&["TEMPORARY"]);
    reader.expect(&["VIEW"])?;
    let if_not_exists = reader.accept(&["IF", "NOT", "EXISTS"]);
    let name = reader.object_name()?;
    let columns = if reader.parser.peek_token().token == Token::LParen { reader.names()? } else { Vec::new() };
    if reader.accept(&["COMMENT"]) {
        reader.text("a comment")?;
    }
    reader.expect(&["AS"])?;
    let query = reader.query()?;
    reader.finish()?;
    Ok(("CREATE VIEW", name.value.clone(), Body::View { name, columns, query, if_not_exists }))
}

fn read_insert(reader: &mut Reader) -> Result<(&'static str, String, Body)> {
    reader.expect(&["INSERT"])?;
    if reader.peek().as_deref() == Some("OVERWRITE") {
        return Err(Fault::new("INSERT OVERWRITE is not known: a topic is appended to")
            .at(reader.place())
            .hint("write INSERT INTO"));
    }
    reader.expect(&["INTO"])?;
    let sink = reader.object_name()?;
    // `INSERT INTO s (a, b) SELECT`, but also `INSERT INTO s (SELECT ...)`.
    let list = reader.parser.peek_token().token == Token::LParen
        && !matches!(reader.peek_nth(1).as_deref(), Some("SELECT" | "WITH"))
        && reader.parser.peek_nth_token(1).token != Token::LParen;
    let columns = if list { reader.names()? } else { Vec::new() };
    if reader.peek().as_deref() == Some("VALUES") {
        return Err(Fault::new("INSERT ... VALUES is not known: a pipeline computes from its sources")
            .at(reader.place())
            .hint("write INSERT INTO <sink> SELECT ..."));
    }
    let query = reader.query()?;
    reader.finish()?;
    Ok(("INSERT INTO", sink.value.clone(), Body::Insert { sink, columns, query }))
}

fn read_definition(reader: &mut Reader, kind: &str) -> Result<Definition> {
    let if_not_exists = reader.accept(&["IF", "NOT", "EXISTS"]);
    let name = reader.object_name()?;
    let mut items = Vec::new();
    if reader.parser.consume_token(&Token::LParen) && !reader.parser.consume_token(&Token::RParen) {
        loop {
            items.push(read_item(reader)?);
            if !reader.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        reader.expect_token(&Token::RParen)?;
    }
    if reader.accept(&["COMMENT"]) {
        reader.text("a comment")?;
    }
    let as_select = |reader: &Reader| {
        Fault::new(format!("CREATE {kind} ... AS SELECT is ksqlDB's"))
            .at(reader.place())
            .hint(format!("write CREATE SINK {0} WITH (...); INSERT INTO {0} SELECT ...", name.value))
    };
    if reader.peek().as_deref() == Some("AS") {
        return Err(as_select(reader));
    }
    if reader.peek().as_deref() == Some("PARTITIONED") {
        return Err(Fault::new("PARTITIONED BY is not known")
            .at(reader.place())
            .hint("'key.fields' or PRIMARY KEY say how a topic is keyed"));
    }
    let mut options = Vec::new();
    if reader.accept(&["WITH"]) {
        reader.expect_token(&Token::LParen)?;
        if !reader.parser.consume_token(&Token::RParen) {
            loop {
                options.push(read_option(reader)?);
                if !reader.parser.consume_token(&Token::Comma) {
                    break;
                }
            }
            reader.expect_token(&Token::RParen)?;
        }
    }
    if reader.peek().as_deref() == Some("AS") {
        return Err(as_select(reader));
    }
    reader.finish()?;
    Ok(Definition { name, if_not_exists, items, options })
}

fn read_option(reader: &mut Reader) -> Result<WithOption> {
    let token = reader.parser.peek_token();
    if let Token::Word(word) = &token.token {
        let fault = Fault::new(format!("expected a quoted option, found {}", word.value)).at(Place::of(token.span));
        return Err(match super::with::ksql(&word.value) {
            Some(ours) => fault.hint(format!("{} is ksqlDB's: {ours}", word.value.to_uppercase())),
            None => fault.hint("options are quoted: 'topic' = 'orders'"),
        });
    }
    let key = reader.text("a quoted option")?;
    reader.expect_token(&Token::Eq)?;
    let value = reader.text("a quoted value")?;
    Ok(WithOption { key, value })
}

fn read_item(reader: &mut Reader) -> Result<Item> {
    let first = reader.peek();
    let second = reader.peek_nth(1);
    match (first.as_deref(), second.as_deref()) {
        (Some("WATERMARK"), Some("FOR")) => read_watermark(reader),
        (Some("CONSTRAINT"), _) => read_constraint(reader),
        (Some("CHECK"), _) if reader.parser.peek_nth_token(1).token == Token::LParen => read_check(reader, None),
        (Some("PRIMARY"), Some("KEY")) => read_primary_key(reader),
        (Some("PERIOD"), Some("FOR")) => Err(Fault::new("PERIOD FOR SYSTEM_TIME is not in this release").at(reader.place())),
        _ => read_column(reader),
    }
}

fn read_watermark(reader: &mut Reader) -> Result<Item> {
    reader.accept(&["WATERMARK", "FOR"]);
    let column = reader.name()?;
    reader.expect(&["AS"])?;
    let place = reader.place();
    let expr = reader.expr()?;
    let hint = format!("write WATERMARK FOR {0} AS {0} - INTERVAL '5' SECOND", column.value);
    let wrong = || Fault::new("a watermark is its column, or its column minus an interval").at(place).hint(hint.clone());
    let is_column = |expr: &Expr| matches!(expr, Expr::Identifier(Ident { value, .. }) if *value == column.value);
    let delay_micros = match &*expr {
        expr if is_column(expr) => 0,
        Expr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_column(left) => {
            super::interval::micros(right).map_err(|f| f.at(place))?
        }
        _ => return Err(wrong()),
    };
    if delay_micros < 0 {
        return Err(wrong());
    }
    Ok(Item::Watermark { column, delay_micros })
}

fn read_constraint(reader: &mut Reader) -> Result<Item> {
    reader.accept(&["CONSTRAINT"]);
    let name = reader.name()?;
    match reader.peek().as_deref() {
        Some("CHECK") => read_check(reader, Some(name)),
        Some("PRIMARY") => read_primary_key(reader),
        _ => Err(Fault::new(format!("constraint \"{}\" is neither CHECK nor PRIMARY KEY", name.value)).at(reader.place())),
    }
}

fn read_check(reader: &mut Reader, name: Option<Name>) -> Result<Item> {
    let place = name.as_ref().map_or(reader.place(), |n| n.place);
    reader.expect(&["CHECK"])?;
    reader.expect_token(&Token::LParen)?;
    let from = reader.parser.index();
    let expr = reader.expr()?;
    let text = reader.source(from, reader.parser.index());
    reader.expect_token(&Token::RParen)?;
    if reader.peek().as_deref() == Some("NOT") {
        return Err(Fault::new("NOT ENFORCED: a check is always enforced")
            .at(reader.place())
            .hint("leave the check out, or say ON VIOLATION DROP"));
    }
    reader.accept(&["ENFORCED"]);
    let mut on_violation = OnViolation::DeadLetter;
    if reader.accept(&["ON", "VIOLATION"]) {
        on_violation = if reader.accept(&["DEAD", "LETTER"]) {
            OnViolation::DeadLetter
        } else if reader.accept(&["DROP"]) {
            OnViolation::Drop
        } else if reader.accept(&["FAIL"]) {
            OnViolation::Fail
        } else {
            return Err(Fault::new("ON VIOLATION is DEAD LETTER, DROP or FAIL").at(reader.place()));
        };
    }
    Ok(Item::Check { name, expr, text, on_violation, place })
}

fn read_primary_key(reader: &mut Reader) -> Result<Item> {
    let place = reader.place();
    reader.expect(&["PRIMARY", "KEY"])?;
    let columns = reader.names()?;
    if !reader.accept(&["NOT", "ENFORCED"]) {
        reader.accept(&["ENFORCED"]);
    }
    Ok(Item::PrimaryKey { columns, place })
}

fn read_column(reader: &mut Reader) -> Result<Item> {
    let name = reader.name()?;
    if reader.accept(&["AS"]) {
        let expr = reader.expr()?;
        read_comment(reader)?;
        return Ok(Item::Computed { name, expr });
    }
    let place = reader.place();
    let (data_type, nullable) = parse_type(&mut reader.parser).map_err(|f| f.at(reader.end))?;
    if reader.accept(&["METADATA"]) {
        let from = if reader.accept(&["FROM"]) { reader.text("a quoted name")? } else { name.clone() };
        reader.accept(&["VIRTUAL"]);
        read_comment(reader)?;
        return Ok(Item::Metadata { name, data_type, from });
    }
    if reader.peek().as_deref() == Some("PRIMARY") {
        return Err(Fault::new("PRIMARY KEY stands as an item of its own")
            .at(reader.place())
            .hint(format!("write PRIMARY KEY ({}) NOT ENFORCED after the columns", name.value)));
    }
    if reader.peek().as_deref() == Some("KEY") {
        return Err(Fault::new("a KEY column is ksqlDB's").at(reader.place()).hint(format!("'key.fields' = '{}'", name.value)));
    }
    read_comment(reader)?;
    Ok(Item::Column { name, data_type, nullable, place })
}

fn read_comment(reader: &mut Reader) -> Result<()> {
    if reader.accept(&["COMMENT"]) {
        reader.text("a comment")?;
    }
    Ok(())
}
