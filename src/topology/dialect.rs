//! Flink's spelling for the parser, and the file cut into statements.

use std::any::TypeId;

use datafusion_sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName,
};
use datafusion_sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, Whitespace};

use super::SqlFile;
use super::fault::{Fault, Place, Result, lower_first};

/// The call that `TABLE name` becomes where an expression may stand.
pub(super) const TABLE_ARGUMENT: &str = "__table";

/// More tokens than this in one statement are refused, and so are deeper expressions: parsers and planners recurse.
const TOKENS_MAX: usize = 20_000;
const OPERATORS_MAX: usize = 120;

/// Flink SQL as far as the parser has to know it.
#[derive(Debug)]
pub(super) struct StreamDialect;

impl Dialect for StreamDialect {
    /// The parser asks some questions by type.
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"' || ch == '`'
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn supports_named_fn_args_with_rarrow_operator(&self) -> bool {
        true
    }

    fn require_interval_qualifier(&self) -> bool {
        true
    }

    fn allow_extract_custom(&self) -> bool {
        true
    }

    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }

    fn supports_parens_around_table_factor(&self) -> bool {
        true
    }

    fn supports_match_recognize(&self) -> bool {
        true
    }

    fn supports_subquery_as_function_arg(&self) -> bool {
        true
    }

    /// `TABLE orders` and `TABLE (SELECT ...)`, the first argument of a window function.
    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let token = parser.peek_token();
        match &token.token {
            Token::Word(word) if word.keyword == Keyword::TABLE && word.quote_style.is_none() => {}
            _ => return None,
        }
        match parser.peek_nth_token(1).token {
            Token::Word(_) | Token::LParen => {}
            _ => return None,
        }
        parser.next_token();
        Some(table_argument(parser, token.span))
    }
}

fn table_argument(parser: &mut Parser, span: Span) -> Result<Expr, ParserError> {
    if parser.consume_token(&Token::LParen) {
        let query = parser.parse_query()?;
        parser.expect_token(&Token::RParen)?;
        return Ok(Expr::Subquery(query));
    }
    let name = parser.parse_object_name(false)?;
    let argument = FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::CompoundIdentifier(
        name.0.into_iter().filter_map(|part| part.as_ident().cloned()).collect(),
    )));
    Ok(Expr::Function(Function {
        name: ObjectName::from(vec![Ident::with_span(span, TABLE_ARGUMENT)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![argument],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    }))
}

/// One statement: its tokens without white space and without the semicolon.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub tokens: Vec<TokenWithSpan>,
}

impl Piece {
    pub fn place(&self) -> Place {
        // Spans of tokens are never empty, and a piece is never empty.
        self.tokens.first().and_then(|t| Place::of(t.span)).unwrap_or(Place { line: 1, column: 1, width: 1 })
    }

    /// Tokens joined by one space: comments and layout do not count.
    pub fn canonical(&self) -> String {
        let words: Vec<String> = self.tokens.iter().map(|t| t.token.to_string()).collect();
        words.join(" ")
    }

    /// The `n`th token in upper case if it is a word without quotes.
    pub fn word(&self, n: usize) -> Option<String> {
        self.tokens.get(n).and_then(|t| word(&t.token))
    }

    fn starts_with(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(n, w)| self.word(n).as_deref() == Some(w))
    }
}

/// The word in upper case; `None` for anything else, quoted words included.
pub(super) fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
        _ => None,
    }
}

/// Cuts the file at its semicolons and unwraps statement sets.
pub(super) fn split(file: &SqlFile) -> Result<Vec<Piece>> {
    let tokens = Tokenizer::new(&StreamDialect, &file.text).tokenize_with_location().map_err(|e| {
        let place = Place { line: e.location.line.max(1), column: e.location.column.max(1), width: 1 };
        let fault =
            Fault::new(lower_first(&e.message.replace("Unexpected EOF", "the file ends").replace("EOF.", "the end"))).at(place);
        fault.hint("close what is open here: a quote, or a comment")
    })?;
    let mut pieces = Vec::new();
    let mut current = Vec::new();
    let mut set: Option<Place> = None;
    for token in tokens {
        match token.token {
            Token::Whitespace(Whitespace::MultiLineComment(text)) if text.starts_with('+') => {
                return Err(Fault::new(format!("the hint /*{text}*/ is not known: hints are not in this release"))
                    .at(Place::of(token.span))
                    .hint("options of a topic stand in WITH, those of the process in the config file"));
            }
            Token::Whitespace(Whitespace::MultiLineComment(_) | Whitespace::SingleLineComment { .. }) => {}
            Token::Whitespace(_) | Token::EOF => {}
            Token::SemiColon => finish(&mut current, &mut set, &mut pieces)?,
            // `ARRAY<ROW<a INT>>`; there is no shift operator here.
            Token::ShiftRight => {
                let middle = Location::new(token.span.start.line, token.span.start.column + 1);
                current.push(TokenWithSpan { token: Token::Gt, span: Span::new(token.span.start, middle) });
                current.push(TokenWithSpan { token: Token::Gt, span: Span::new(middle, token.span.end) });
            }
            _ => {
                current.push(token);
                let piece = Piece { tokens: std::mem::take(&mut current) };
                // `EXECUTE STATEMENT SET BEGIN` has no semicolon of its own.
                if piece.tokens.len() == 4 && piece.starts_with(&["EXECUTE", "STATEMENT", "SET", "BEGIN"]) {
                    if set.is_some() {
                        return Err(Fault::new("a statement set inside a statement set").at(piece.place()));
                    }
                    set = Some(piece.place());
                } else {
                    current = piece.tokens;
                }
            }
        }
    }
    finish(&mut current, &mut set, &mut pieces)?;
    if let Some(place) = set {
        return Err(Fault::new("this statement set has no END").at(place).hint("close it with END;"));
    }
    Ok(pieces)
}

fn finish(current: &mut Vec<TokenWithSpan>, set: &mut Option<Place>, pieces: &mut Vec<Piece>) -> Result<()> {
    if current.is_empty() {
        return Ok(());
    }
    let piece = Piece { tokens: std::mem::take(current) };
    if piece.tokens.len() == 3 && piece.starts_with(&["BEGIN", "STATEMENT", "SET"]) {
        if set.is_some() {
            return Err(Fault::new("a statement set inside a statement set").at(piece.place()));
        }
        *set = Some(piece.place());
        return Ok(());
    }
    if piece.tokens.len() == 1 && piece.starts_with(&["END"]) {
        return match set.take() {
            Some(_) => Ok(()),
            None => Err(Fault::new("END without a statement set").at(piece.place()).hint("begin it with BEGIN STATEMENT SET;")),
        };
    }
    if set.is_some() && !piece.starts_with(&["INSERT"]) {
        return Err(Fault::new("a statement set holds INSERT statements only").at(piece.place()));
    }
    check_size(&piece)?;
    pieces.push(piece);
    Ok(())
}

/// Bounds the depth of what the parser builds.
fn check_size(piece: &Piece) -> Result<()> {
    if piece.tokens.len() > TOKENS_MAX {
        return Err(Fault::new(format!("a statement of {} tokens is too long: at most {TOKENS_MAX}", piece.tokens.len()))
            .at(piece.place())
            .hint("move parts of it into views"));
    }
    // Parentheses and CASE nest; what follows a comma or the next clause starts again where they opened.
    let mut opened: Vec<(usize, usize)> = Vec::new();
    let (mut from, mut depth) = (0, 0);
    for token in &piece.tokens {
        let keyword = match &token.token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.keyword),
            _ => None,
        };
        match (&token.token, keyword) {
            (Token::LParen | Token::LBracket, _) | (_, Some(Keyword::CASE)) => {
                opened.push((from, depth));
                from = depth + 1;
                depth = from;
            }
            (Token::RParen | Token::RBracket, _) | (_, Some(Keyword::END)) => (from, depth) = opened.pop().unwrap_or((0, 0)),
            (Token::Comma, _) => depth = from,
            (_, Some(Keyword::WHEN | Keyword::THEN | Keyword::ELSE)) => depth = from,
            (_, Some(Keyword::SELECT | Keyword::FROM | Keyword::WHERE | Keyword::GROUP | Keyword::HAVING)) => depth = from,
            (_, Some(Keyword::UNION)) => {
                from += 1;
                depth = from;
            }
            (_, Some(Keyword::AND | Keyword::OR | Keyword::NOT | Keyword::IS | Keyword::IN | Keyword::LIKE)) => depth += 1,
            (Token::Word(_) | Token::Number(..) | Token::SingleQuotedString(_) | Token::Period, _) => {}
            _ => depth += 1,
        }
        if depth > OPERATORS_MAX {
            return Err(Fault::new(format!("this expression is more than {OPERATORS_MAX} operators deep"))
                .at(Place::of(token.span))
                .hint("compute a part of it in a view or a subquery"));
        }
    }
    Ok(())
}
