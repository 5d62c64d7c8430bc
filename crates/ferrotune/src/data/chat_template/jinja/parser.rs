//! Goes through the tokens of a template and parses values, indexes and arguments.

use super::ast::{Arguments, Expr, Literal};
use super::lexer::{Located, Token};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Brackets, operators and blocks inside one another.
const MAX_NESTING: u32 = 80;

/// The height of the tree that a template becomes; operators one behind the other stand in one another too.
const MAX_HEIGHT: u32 = 300;

pub(super) type Parsed<T> = Result<T, (u32, String)>;

pub(super) struct Parser {
    pub(super) tokens: Vec<Located>,
    pub(super) at: usize,
    pub(super) nesting: u32,
    /// How far the current node is below the root of the tree.
    height: u32,
    /// Tags whose inside is being parsed; jumps ask for a loop among them.
    pub(super) loops: u32,
    /// How often `loop` was assigned to.
    pub(super) loop_stores: u32,
    pub(super) has_generation: bool,
    /// Names of the blocks.
    pub(super) blocks: BTreeSet<Arc<str>>,
    /// Filters and tests that do not exist. Under a condition they are an error only when they are reached.
    pub(super) unknown: Vec<(u32, String)>,
    /// Those of them that no condition excuses.
    pub(super) reached: Vec<(u32, String)>,
    /// Names that are read, for macros that ask for `caller`, `kwargs` or `varargs`.
    pub(super) read: Vec<Arc<str>>,
}

impl Parser {
    pub(super) fn new(tokens: Vec<Located>) -> Self {
        Parser {
            tokens,
            at: 0,
            nesting: 0,
            height: 0,
            loops: 0,
            loop_stores: 0,
            has_generation: false,
            blocks: BTreeSet::new(),
            unknown: Vec::new(),
            reached: Vec::new(),
            read: Vec::new(),
        }
    }

    pub(super) fn current(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    pub(super) fn fail<T>(&self, problem: impl Into<String>) -> Parsed<T> {
        Err((self.line(), problem.into()))
    }

    pub(super) fn unexpected<T>(&self, expected: &str) -> Parsed<T> {
        match self.current() {
            None => self.fail(format!("unexpected end of template, expected {expected}")),
            Some(token) => self.fail(format!("unexpected {}, expected {expected}", described(token))),
        }
    }

    pub(super) fn is_operator(&self, text: &str) -> bool {
        matches!(self.current(), Some(Token::Operator(found)) if *found == text)
    }

    pub(super) fn is_name(&self, text: &str) -> bool {
        matches!(self.current(), Some(Token::Name(found)) if **found == *text)
    }

    pub(super) fn is_end(&self) -> bool {
        matches!(self.current(), None | Some(Token::VariableEnd | Token::BlockEnd))
    }

    pub(super) fn skip_operator(&mut self, text: &str) -> bool {
        let found = self.is_operator(text);
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_name(&mut self, text: &str) -> bool {
        let found = self.is_name(text);
        self.at += usize::from(found);
        found
    }

    pub(super) fn operator(&mut self, text: &str) -> Parsed<()> {
        if self.skip_operator(text) { Ok(()) } else { self.unexpected(&format!("'{text}'")) }
    }

    pub(super) fn name(&mut self) -> Parsed<Arc<str>> {
        match self.current() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    /// Parses something inside something else.
    pub(super) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.nesting >= MAX_NESTING {
            return self.fail("it nests too deeply");
        }
        self.nesting += 1;
        let done = self.chained(|parser| {
            parser.link()?;
            parse(parser)
        });
        self.nesting -= 1;
        done
    }

    /// Parses operators one behind the other, each of which asks for a [`Self::link`].
    pub(super) fn chained<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let height = self.height;
        let done = parse(self);
        self.height = height;
        done
    }

    /// Makes the tree one node higher.
    pub(super) fn link(&mut self) -> Parsed<()> {
        self.height += 1;
        if self.height > MAX_HEIGHT { self.fail("it nests too deeply") } else { Ok(()) }
    }

    pub(super) fn unary(&mut self, with_filter: bool) -> Parsed<Expr> {
        self.chained(|parser| parser.signed(with_filter))
    }

    fn signed(&mut self, with_filter: bool) -> Parsed<Expr> {
        let node = if self.skip_operator("-") {
            Expr::Negative(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.skip_operator("+") {
            Expr::Positive(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let node = self.postfix(node)?;
        if with_filter { self.filters(node) } else { Ok(node) }
    }

    pub(super) fn primary(&mut self) -> Parsed<Expr> {
        let Some(token) = self.current().cloned() else { return self.unexpected("an expression") };
        self.at += 1;
        Ok(match token {
            Token::Name(name) => match &*name {
                "true" | "True" => Expr::Const(Literal::Bool(true)),
                "false" | "False" => Expr::Const(Literal::Bool(false)),
                "none" | "None" => Expr::Const(Literal::None),
                _ => {
                    self.read.push(name.clone());
                    Expr::Name(name)
                }
            },
            Token::Str(first) => {
                let mut text = first.to_string();
                while let Some(Token::Str(more)) = self.current() {
                    text.push_str(more);
                    self.at += 1;
                }
                Expr::Const(Literal::Str(text.into()))
            }
            Token::Int(number) => Expr::Const(Literal::Int(number)),
            Token::Float(number) => Expr::Const(Literal::Float(number)),
            Token::Operator("(") => {
                let inner = self.nested(|parser| parser.tuple(true, None, true))?;
                self.operator(")")?;
                inner
            }
            Token::Operator("[") => {
                let items = self.comma_list("]", Parser::expression)?;
                Expr::List(items)
            }
            Token::Operator("{") => {
                let entries = self.comma_list("}", |parser| {
                    let key = parser.expression()?;
                    parser.operator(":")?;
                    Ok((key, parser.expression()?))
                })?;
                Expr::Dict(entries)
            }
            _ => {
                self.at -= 1;
                return self.unexpected("an expression");
            }
        })
    }

    /// Items up to the closing bracket; a comma may stand behind the last.
    fn comma_list<T>(&mut self, close: &str, item: impl Fn(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        while !self.is_operator(close) {
            if !items.is_empty() {
                self.operator(",")?;
                if self.is_operator(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        self.operator(close)?;
        Ok(items)
    }

    /// One expression, or a tuple of them; `end` is a name that ends it.
    pub(super) fn tuple(&mut self, with_condition: bool, end: Option<&str>, bracketed: bool) -> Parsed<Expr> {
        let ends = |parser: &Self| {
            parser.is_end() || parser.is_operator(")") || end.is_some_and(|name| parser.is_name(name))
        };
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.operator(",")?;
            }
            if ends(self) {
                break;
            }
            items.push(if with_condition { self.expression()? } else { self.nested(Parser::or)? });
            if !self.is_operator(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            None if bracketed => Ok(Expr::Tuple(items)),
            None => self.unexpected("an expression"),
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                items.push(last);
                Ok(Expr::Tuple(items))
            }
        }
    }

    pub(super) fn postfix(&mut self, mut node: Expr) -> Parsed<Expr> {
        loop {
            self.link()?;
            node = match self.current() {
                Some(Token::Operator("." | "[")) => self.subscript(node)?,
                Some(Token::Operator("(")) => Expr::Call(Box::new(node), Box::new(self.arguments()?)),
                _ => return Ok(node),
            };
        }
    }

    fn filters(&mut self, mut node: Expr) -> Parsed<Expr> {
        loop {
            self.link()?;
            node = match self.current() {
                Some(Token::Operator("|")) => self.filter(Some(node), false)?,
                Some(Token::Name(name)) if **name == *"is" => self.test(node)?,
                Some(Token::Operator("(")) => Expr::Call(Box::new(node), Box::new(self.arguments()?)),
                _ => return Ok(node),
            };
        }
    }

    fn subscript(&mut self, node: Expr) -> Parsed<Expr> {
        if self.skip_operator(".") {
            return match self.current().cloned() {
                Some(Token::Name(name)) => {
                    self.at += 1;
                    Ok(Expr::Attribute(Box::new(node), name))
                }
                Some(Token::Int(index)) => {
                    self.at += 1;
                    Ok(Expr::Item(Box::new(node), Box::new(Expr::Const(Literal::Int(index)))))
                }
                _ => self.unexpected("a name or a number"),
            };
        }
        self.operator("[")?;
        let mut parts = Vec::new();
        while !self.is_operator("]") {
            if !parts.is_empty() {
                self.operator(",")?;
            }
            parts.push(self.nested(Parser::subscribed)?);
        }
        self.operator("]")?;
        let only = match parts.pop() {
            Some(last) if parts.is_empty() => last,
            Some(last) => {
                parts.push(last);
                let items: Option<Vec<Expr>> = parts.into_iter().map(Result::ok).collect();
                match items {
                    Some(items) => Ok(Expr::Tuple(items)),
                    None => return self.fail("a slice among several indexes"),
                }
            }
            None => return self.fail("an index is missing"),
        };
        Ok(match only {
            Ok(index) => Expr::Item(Box::new(node), Box::new(index)),
            Err(slice) => Expr::Slice(Box::new(node), slice),
        })
    }

    /// An index, or as the error the three parts of a slice.
    fn subscribed(&mut self) -> Parsed<Result<Expr, Box<[Option<Expr>; 3]>>> {
        let mut parts = [None, None, None];
        if !self.is_operator(":") {
            let index = self.expression()?;
            if !self.is_operator(":") {
                return Ok(Ok(index));
            }
            parts[0] = Some(index);
        }
        for part in &mut parts[1..] {
            if !self.skip_operator(":") {
                break;
            }
            let is_given = !["]", ",", ":"].iter().any(|end| self.is_operator(end));
            *part = if is_given { Some(self.expression()?) } else { None };
        }
        Ok(Err(Box::new(parts)))
    }

    pub(super) fn arguments(&mut self) -> Parsed<Arguments> {
        self.operator("(")?;
        let mut found = Arguments::default();
        let mut first = true;
        while !self.is_operator(")") {
            if !first {
                self.operator(",")?;
                if self.is_operator(")") {
                    break;
                }
            }
            first = false;
            let next = self.tokens.get(self.at + 1).map(|(token, _)| token);
            let named = match (self.current(), next) {
                (Some(Token::Name(name)), Some(Token::Operator("="))) => Some(name.clone()),
                _ => None,
            };
            let bare = found.named.is_empty() && found.star.is_none();
            if self.skip_operator("*") {
                if found.star.is_some() || found.double_star.is_some() {
                    return self.fail("invalid order of arguments");
                }
                found.star = Some(self.expression()?);
            } else if self.skip_operator("**") {
                if found.double_star.is_some() {
                    return self.fail("invalid order of arguments");
                }
                found.double_star = Some(self.expression()?);
            } else if let Some(name) = named {
                if found.double_star.is_some() {
                    return self.fail("invalid order of arguments");
                }
                self.at += 2;
                if found.named.iter().any(|(other, _)| *other == name) {
                    return self.fail(format!("the argument '{name}' is given twice"));
                }
                found.named.push((name, self.expression()?));
            } else if bare && found.double_star.is_none() {
                found.positional.push(self.expression()?);
            } else {
                return self.fail("invalid order of arguments");
            }
        }
        self.operator(")")?;
        Ok(found)
    }
}

fn described(token: &Token) -> String {
    match token {
        Token::Text(_) => "text".to_string(),
        Token::BlockBegin => "'{%'".to_string(),
        Token::BlockEnd => "'%}'".to_string(),
        Token::VariableBegin => "'{{'".to_string(),
        Token::VariableEnd => "'}}'".to_string(),
        Token::Name(name) => format!("'{name}'"),
        Token::Str(text) => format!("{text:?}"),
        Token::Int(number) => number.to_string(),
        Token::Float(number) => number.to_string(),
        Token::Operator(text) => format!("'{text}'"),
    }
}
