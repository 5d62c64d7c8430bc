//! Jinja as Python has it: the language of chat templates.
//!
//! Templates of real models use whatever the Jinja of Python accepts, so this follows its lexer, its grammar, and the
//! values and methods of Python, inside the sandbox that `transformers` renders in. A template is data from the
//! internet: it runs with a budget of steps, text and nesting, and cannot reach anything but its input.

mod access;
mod arguments;
mod arithmetic;
mod ast;
mod compare;
mod eval;
mod filters;
mod filters_list;
mod filters_text;
mod format_number;
mod json;
mod lexer;
mod literals;
mod methods;
mod methods_text;
mod object;
mod operators;
mod parser;
mod percent;
mod render;
mod repr;
mod runtime;
mod scope;
mod statements;
mod tests;
mod text_search;
mod value;

pub(crate) use json::dumped;
pub(super) use runtime::Failure;

use lexer::Token;
use render::Renderer;
use runtime::Budget;
use scope::Scope;
use serde_json::Value as Json;
use statements::Tree;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use value::Value;

/// A value that a template gets.
#[derive(Clone, Debug)]
pub(super) struct Variable(Value);

impl Variable {
    /// A value of JSON; objects keep their order.
    pub(super) fn from_json(json: &Json) -> Self {
        Variable(Value::from_json(json))
    }

    /// A list of values.
    pub(super) fn list(items: impl IntoIterator<Item = Variable>) -> Self {
        Variable(Value::list(items.into_iter().map(|item| item.0).collect()))
    }
}

/// A parsed template.
#[derive(Clone, Debug)]
pub(super) struct Template {
    tree: Arc<Tree>,
    /// Every name in a tag.
    pub(super) words: BTreeSet<String>,
    /// Every text in quotes in a tag.
    pub(super) literals: BTreeSet<String>,
}

impl Template {
    /// Parses a template; an error has its line and what is wrong.
    pub(super) fn parse(source: &str) -> Result<Self, (u32, String)> {
        let tokens = lexer::tokens(source)?;
        let (mut words, mut literals) = (BTreeSet::new(), BTreeSet::new());
        for (token, _) in &tokens {
            match token {
                Token::Name(name) => drop(words.insert(name.to_string())),
                Token::Str(text) => drop(literals.insert(text.to_string())),
                _ => {}
            }
        }
        Ok(Template { tree: Arc::new(statements::parse(tokens)?), words, literals })
    }

    /// Whether the template marks what the assistant wrote.
    pub(super) fn has_generation(&self) -> bool {
        self.tree.has_generation
    }

    /// Renders the template: the text, and the byte ranges of it inside generation blocks.
    pub(super) fn render<'v>(
        &self,
        variables: impl IntoIterator<Item = (&'v str, Variable)>,
        strftime: &dyn Fn(&str) -> String,
    ) -> Result<(String, Vec<Range<usize>>), Box<Failure>> {
        let context = Scope::root();
        for (name, value) in variables {
            context.set(&name.into(), value.0);
        }
        let root = context.inner();
        let renderer = Renderer { budget: Budget::new(), root: root.clone(), strftime };
        let done = renderer.body(&self.tree.body, &root);
        // Macros among the variables keep the scope alive that they are in.
        root.clear();
        done.map(|out| (out.text, out.spans))
    }
}
