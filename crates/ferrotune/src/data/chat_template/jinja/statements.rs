//! Parses the statements of a template.

use super::ast::{Expr, For, Literal, Macro, Statement, StatementKind, Target};
use super::lexer::{self, Token};
use super::parser::{Parsed, Parser};
use std::sync::Arc;

/// A parsed template.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) body: Vec<Statement>,
    pub(super) has_generation: bool,
}

/// Parses a whole template.
pub(super) fn parse(tokens: Vec<lexer::Located>) -> Parsed<Tree> {
    let mut parser = Parser::new(tokens);
    let body = parser.body(&[])?;
    match parser.reached.iter().chain(&parser.unknown).next() {
        Some(unknown) => Err(unknown.clone()),
        None => Ok(Tree { body, has_generation: parser.has_generation }),
    }
}

impl Parser {
    /// Statements up to one of the tags in `ends`, or to the end of the template. The name of the tag is next.
    fn body(&mut self, ends: &[&str]) -> Parsed<Vec<Statement>> {
        self.nested(|parser| parser.statements(ends))
    }

    fn statements(&mut self, ends: &[&str]) -> Parsed<Vec<Statement>> {
        let mut out = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.current().cloned() {
                None if ends.is_empty() => return Ok(out),
                None => return self.unexpected(&format!("'{}'", ends.join("' or '"))),
                Some(Token::Text(text)) => {
                    self.at += 1;
                    StatementKind::Text(text)
                }
                Some(Token::VariableBegin) => {
                    self.at += 1;
                    let value = self.tuple(true, None, false)?;
                    self.token(&Token::VariableEnd, "'}}'")?;
                    StatementKind::Print(vec![value])
                }
                Some(Token::BlockBegin) => {
                    self.at += 1;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(out);
                    }
                    let kind = self.statement()?;
                    self.token(&Token::BlockEnd, "'%}'")?;
                    kind
                }
                Some(_) => return self.unexpected("text or a tag"),
            };
            out.push(Statement { line, kind });
        }
    }

    fn token(&mut self, token: &Token, expected: &str) -> Parsed<()> {
        if self.current() == Some(token) {
            self.at += 1;
            return Ok(());
        }
        self.unexpected(expected)
    }

    /// The body of a tag: what stands up to its end tag, whose name is dropped.
    fn inside(&mut self, end: &str) -> Parsed<Vec<Statement>> {
        self.token(&Token::BlockEnd, "'%}'")?;
        let body = self.body(&[end])?;
        self.at += 1;
        Ok(body)
    }

    fn statement(&mut self) -> Parsed<StatementKind> {
        let known = self.unknown.len();
        let kind = self.tag()?;
        // A condition reaches as far as its scope.
        if !matches!(kind, StatementKind::If(..) | StatementKind::Set(..) | StatementKind::Print(_)) {
            let unknown = self.unknown.split_off(known);
            self.reached.extend(unknown);
        }
        Ok(kind)
    }

    fn tag(&mut self) -> Parsed<StatementKind> {
        let name = match self.current() {
            Some(Token::Name(_)) => self.name()?,
            _ => return self.unexpected("the name of a tag"),
        };
        match &*name {
            "for" => self.for_loop(),
            "if" => self.if_chain(),
            "set" => self.set(),
            "macro" => self.macro_definition(),
            "call" => self.call_block(),
            "filter" => self.filter_block(),
            "with" => self.with(),
            "block" => self.block(),
            "print" => self.print(),
            "generation" => {
                self.has_generation = true;
                let loops = std::mem::take(&mut self.loops);
                let body = self.inside("endgeneration")?;
                self.loops = loops;
                Ok(StatementKind::Generation(body))
            }
            "break" | "continue" if self.loops == 0 => self.fail(format!("'{name}' outside of a loop")),
            "break" => Ok(StatementKind::Break),
            "continue" => Ok(StatementKind::Continue),
            "autoescape" => {
                if !matches!(self.expression()?, Expr::Const(Literal::Bool(false))) {
                    return self.fail("escaping of HTML has no meaning in a chat");
                }
                Ok(StatementKind::With(Vec::new(), self.inside("endautoescape")?))
            }
            "extends" | "include" | "import" | "from" => {
                while !self.is_end() {
                    self.at += 1;
                }
                Ok(StatementKind::Load)
            }
            _ => self.fail(format!("unknown tag '{name}'")),
        }
    }

    fn for_loop(&mut self) -> Parsed<StatementKind> {
        let stores = self.loop_stores;
        let target = self.target(false, Some("in"))?;
        if !self.skip_name("in") {
            return self.unexpected("'in'");
        }
        let iterable = self.tuple(false, Some("recursive"), false)?;
        let filter = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.token(&Token::BlockEnd, "'%}'")?;
        self.loops += 1;
        let body = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let mut otherwise = Vec::new();
        if self.skip_name("else") {
            otherwise = self.inside("endfor")?;
        } else {
            self.at += 1;
        }
        if self.loop_stores > stores {
            return self.fail("cannot assign to the variable 'loop' inside of a loop");
        }
        Ok(StatementKind::For(Arc::new(For { target, iterable, filter, recursive, body, otherwise })))
    }

    fn if_chain(&mut self) -> Parsed<StatementKind> {
        let known = self.unknown.len();
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, None, false)?;
            self.token(&Token::BlockEnd, "'%}'")?;
            branches.push((test, self.body(&["elif", "else", "endif"])?));
            if self.skip_name("elif") {
                continue;
            }
            let mut otherwise = Vec::new();
            if self.skip_name("else") {
                otherwise = self.inside("endif")?;
            } else {
                self.at += 1;
            }
            self.unknown.truncate(known);
            return Ok(StatementKind::If(branches, otherwise));
        }
    }

    fn set(&mut self) -> Parsed<StatementKind> {
        let target = self.target(true, None)?;
        if self.skip_operator("=") {
            return Ok(StatementKind::Set(target, self.tuple(true, None, false)?));
        }
        let filter = if self.is_operator("|") { Some(self.filter(None, false)?) } else { None };
        Ok(StatementKind::SetBlock(target, filter, self.inside("endset")?))
    }

    /// What a value is assigned to; `end` is a name that ends it.
    fn target(&mut self, with_namespace: bool, end: Option<&str>) -> Parsed<Target> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if self.is_end() || end.is_some_and(|end| self.is_name(end)) {
                break;
            }
            items.push(self.single_target(with_namespace)?);
            if !self.skip_operator(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            None => self.unexpected("a name to assign to"),
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                items.push(last);
                Ok(Target::Tuple(items))
            }
        }
    }

    fn single_target(&mut self, with_namespace: bool) -> Parsed<Target> {
        if self.skip_operator("(") {
            let inner = self.nested(Parser::bracketed_target)?;
            self.operator(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if with_namespace && self.skip_operator(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("cannot assign to '{name}'"));
        }
        self.loop_stores += u32::from(*name == *"loop");
        Ok(Target::Name(name))
    }

    fn bracketed_target(&mut self) -> Parsed<Target> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        while !self.is_operator(")") {
            items.push(self.single_target(false)?);
            if !self.skip_operator(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            last => {
                items.extend(last);
                Ok(Target::Tuple(items))
            }
        }
    }

    /// Names and defaults of parameters in brackets.
    fn parameters(&mut self) -> Parsed<(Vec<Arc<str>>, Vec<Expr>)> {
        self.operator("(")?;
        let (mut names, mut defaults) = (Vec::new(), Vec::new());
        while !self.is_operator(")") {
            if !names.is_empty() {
                self.operator(",")?;
                // Jinja takes no comma behind the last one.
            }
            let name = self.name()?;
            if names.contains(&name) {
                return self.fail(format!("the parameter '{name}' stands twice"));
            }
            names.push(name);
            if self.skip_operator("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return self.fail("a parameter without a default behind one with a default");
            }
        }
        self.operator(")")?;
        Ok((names, defaults))
    }

    /// The rest of a macro or of a call block, behind its parameters.
    fn macro_body(
        &mut self,
        name: Arc<str>,
        (parameters, defaults): (Vec<Arc<str>>, Vec<Expr>),
        end: &str,
    ) -> Parsed<Arc<Macro>> {
        let outer = std::mem::take(&mut self.read);
        let loops = std::mem::take(&mut self.loops);
        let body = self.inside(end)?;
        self.loops = loops;
        let read = std::mem::replace(&mut self.read, outer);
        let uses = |name: &str| {
            let is_read = read.iter().any(|other| **other == *name);
            is_read && !parameters.iter().any(|other| **other == *name)
        };
        let (uses_caller, uses_kwargs, uses_varargs) =
            (read.iter().any(|other| **other == *"caller"), uses("kwargs"), uses("varargs"));
        // A macro inside sees what the macro around it has.
        self.read.extend(read);
        Ok(Arc::new(Macro { name, parameters, defaults, body, uses_caller, uses_kwargs, uses_varargs }))
    }

    fn macro_definition(&mut self) -> Parsed<StatementKind> {
        let name = self.name()?;
        let parameters = self.parameters()?;
        Ok(StatementKind::Macro(self.macro_body(name, parameters, "endmacro")?))
    }

    fn call_block(&mut self) -> Parsed<StatementKind> {
        let parameters = match self.is_operator("(") {
            true => self.parameters()?,
            false => (Vec::new(), Vec::new()),
        };
        let call = self.expression()?;
        if !matches!(call, Expr::Call(..)) {
            return self.fail("expected a call");
        }
        Ok(StatementKind::CallBlock(call, self.macro_body("caller".into(), parameters, "endcall")?))
    }

    fn filter_block(&mut self) -> Parsed<StatementKind> {
        let filter = self.filter(None, true)?;
        Ok(StatementKind::FilterBlock(filter, self.inside("endfilter")?))
    }

    fn with(&mut self) -> Parsed<StatementKind> {
        let mut pairs = Vec::new();
        while !self.is_end() {
            if !pairs.is_empty() {
                self.operator(",")?;
            }
            let target = self.single_target(false)?;
            self.operator("=")?;
            pairs.push((target, self.expression()?));
        }
        Ok(StatementKind::With(pairs, self.inside("endwith")?))
    }

    fn block(&mut self) -> Parsed<StatementKind> {
        let name = self.name()?;
        let _ = self.skip_name("scoped");
        let _ = self.skip_name("required");
        if !self.blocks.insert(name.clone()) {
            return self.fail(format!("the block '{name}' is defined twice"));
        }
        let loops = std::mem::take(&mut self.loops);
        self.token(&Token::BlockEnd, "'%}'")?;
        let body = self.body(&["endblock"])?;
        self.at += 1;
        self.loops = loops;
        let _ = self.skip_name(&name);
        Ok(StatementKind::Block(name, Arc::new(body)))
    }

    fn print(&mut self) -> Parsed<StatementKind> {
        let mut values = Vec::new();
        while !self.is_end() {
            if !values.is_empty() {
                self.operator(",")?;
            }
            values.push(self.expression()?);
        }
        Ok(StatementKind::Print(values))
    }
}
