//! Parses operators, filters and tests, by their precedence.

use super::ast::{Arguments, Binary, Comparison, Expr};
use super::lexer::Token;
use super::parser::{Parsed, Parser};
use std::sync::Arc;

impl Parser {
    pub(super) fn expression(&mut self) -> Parsed<Expr> {
        self.nested(Parser::condition)
    }

    fn condition(&mut self) -> Parsed<Expr> {
        let known = self.unknown.len();
        let mut value = self.or()?;
        while self.skip_name("if") {
            self.link()?;
            let test = self.or()?;
            let otherwise = match self.skip_name("else") {
                true => Some(Box::new(self.expression()?)),
                false => None,
            };
            value = Expr::If(Box::new(test), Box::new(value), otherwise);
            self.unknown.truncate(known);
        }
        Ok(value)
    }

    pub(super) fn or(&mut self) -> Parsed<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            self.link()?;
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            self.link()?;
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed<Expr> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.nested(Parser::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Parsed<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let operator = match self.current() {
                Some(Token::Operator("==")) => Comparison::Eq,
                Some(Token::Operator("!=")) => Comparison::Ne,
                Some(Token::Operator("<")) => Comparison::Lt,
                Some(Token::Operator("<=")) => Comparison::Le,
                Some(Token::Operator(">")) => Comparison::Gt,
                Some(Token::Operator(">=")) => Comparison::Ge,
                Some(Token::Name(name)) if **name == *"in" => Comparison::In,
                Some(Token::Name(name)) if **name == *"not" => {
                    match self.tokens.get(self.at + 1) {
                        Some((Token::Name(next), _)) if **next == *"in" => self.at += 1,
                        _ => break,
                    }
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((operator, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn binary(
        &mut self,
        operators: &[(&str, Binary)],
        operand: fn(&mut Self) -> Parsed<Expr>,
    ) -> Parsed<Expr> {
        let mut left = operand(self)?;
        while let Some((_, operator)) = operators.iter().find(|(text, _)| self.is_operator(text)) {
            self.at += 1;
            self.link()?;
            left = Expr::Binary(*operator, Box::new(left), Box::new(operand(self)?));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Parsed<Expr> {
        self.binary(&[("+", Binary::Add), ("-", Binary::Sub)], Parser::concat)
    }

    fn concat(&mut self) -> Parsed<Expr> {
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Parsed<Expr> {
        let operators =
            [("*", Binary::Mul), ("/", Binary::Div), ("//", Binary::FloorDiv), ("%", Binary::Mod)];
        self.binary(&operators, Parser::power)
    }

    fn power(&mut self) -> Parsed<Expr> {
        self.binary(&[("**", Binary::Pow)], |parser| parser.unary(true))
    }

    /// A filter with the `|` before it; a filter block has its first one without.
    pub(super) fn filter(&mut self, node: Option<Expr>, mut bare: bool) -> Parsed<Expr> {
        let mut node = node.map(Box::new);
        while bare || self.is_operator("|") {
            self.link()?;
            if !bare {
                self.at += 1;
            }
            bare = false;
            let name = self.dotted()?;
            if !super::filters::is_known(&name) {
                self.unknown.push((self.line(), format!("no filter named '{name}'")));
            }
            let arguments = match self.is_operator("(") {
                true => self.arguments()?,
                false => Arguments::default(),
            };
            node = Some(Box::new(Expr::Filter(node, name, Box::new(arguments))));
        }
        match node {
            Some(node) => Ok(*node),
            None => self.unexpected("a filter"),
        }
    }

    fn dotted(&mut self) -> Parsed<Arc<str>> {
        let mut name = self.name()?.to_string();
        while self.skip_operator(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name.into())
    }

    pub(super) fn test(&mut self, node: Expr) -> Parsed<Expr> {
        self.at += 1;
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        if !super::tests::is_known(&name) {
            self.unknown.push((self.line(), format!("no test named '{name}'")));
        }
        let starts_argument = match self.current() {
            Some(Token::Name(word)) => !matches!(&**word, "else" | "or" | "and"),
            Some(Token::Str(_) | Token::Int(_) | Token::Float(_)) => true,
            Some(Token::Operator(text)) => matches!(*text, "[" | "{"),
            _ => false,
        };
        let mut arguments = Arguments::default();
        if self.is_operator("(") {
            arguments = self.arguments()?;
        } else if starts_argument {
            if self.is_name("is") {
                return self.fail("tests cannot be chained with 'is'");
            }
            let argument = self.primary()?;
            arguments.positional.push(self.postfix(argument)?);
        }
        let test = Expr::Test(Box::new(node), name, Box::new(arguments));
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }
}
