//! Operators of one tag become calls, by the precedence that Jinja gives them.

use super::lexer::{Kind, Token};
use super::names::{COMPARE, CONCAT, MODULO};
use std::ops::Range;

/// Brackets deeper than this are copied unchanged; minijinja refuses them by itself.
const MAX_DEPTH: usize = 100;

/// What a token, or a bracketed group, means for the precedence of its neighbours.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Role {
    Space,
    Operand,
    /// `.`, `|`, `**` and signs: part of an operand, but not its end.
    Glue,
    /// `*`, `/`, `//`, `%`.
    Product,
    Tilde,
    /// Binary `+` and `-`.
    Sum,
    /// Comparison, `in`, `not in`.
    Compare,
    /// Weaker than any of the above: `,`, `:`, `=`, `and`, `or`, `not`, `if`, `else`, the words of a statement.
    Border,
}

struct Node {
    role: Role,
    text: String,
}

/// Rewrites the tokens of one bracket level.
pub(super) fn sequence(tokens: &[Token<'_>], is_block: bool, depth: usize) -> String {
    let nodes = nodes(tokens, is_block, depth);
    let mut out = String::new();
    for segment in split(&nodes, Role::Border) {
        comparison(&nodes[segment.clone()], &mut out);
        if let Some(border) = nodes.get(segment.end) {
            out.push_str(&border.text);
        }
    }
    out
}

fn nodes(tokens: &[Token<'_>], is_block: bool, depth: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::with_capacity(tokens.len());
    // The last significant token, and the one before it: they tell a name from a keyword and a sign from a sum.
    let (mut last, mut before) = ("", "");
    let mut i = 0;
    while i < tokens.len() {
        let token = tokens[i];
        let after_operand =
            nodes.iter().rfind(|n| n.role != Role::Space).is_some_and(|n| n.role == Role::Operand);
        let (role, text, next) = match token.kind {
            Kind::Space => (Role::Space, token.text.to_string(), i + 1),
            Kind::Open => {
                let close = matching(tokens, i);
                let inner = &tokens[i + 1..close];
                let inner = if depth < MAX_DEPTH {
                    sequence(inner, false, depth + 1)
                } else {
                    inner.iter().map(|t| t.text).collect()
                };
                let end = tokens.get(close).map_or("", |t| t.text);
                (Role::Operand, format!("{}{inner}{end}", token.text), close + 1)
            }
            Kind::Literal | Kind::Close => (Role::Operand, token.text.to_string(), i + 1),
            Kind::Word => {
                let is_name = matches!(last, "." | "|" | "is") || (last == "not" && before == "is");
                let role = match token.text {
                    _ if is_block && last.is_empty() => Role::Border,
                    _ if is_name => Role::Operand,
                    "in" => Role::Compare,
                    // `a not in b`: `not` after an operand belongs to the comparison.
                    "not" if after_operand => Role::Compare,
                    "and" | "or" | "not" | "if" | "else" | "recursive" => Role::Border,
                    _ => Role::Operand,
                };
                (role, token.text.to_string(), i + 1)
            }
            Kind::Operator => {
                let role = match token.text {
                    "." | "|" | "**" if after_operand => Role::Glue,
                    "+" | "-" if after_operand => Role::Sum,
                    "+" | "-" => Role::Glue,
                    "*" | "/" | "//" | "%" if after_operand => Role::Product,
                    "~" => Role::Tilde,
                    "==" | "!=" | "<" | "<=" | ">" | ">=" => Role::Compare,
                    _ => Role::Border,
                };
                (role, token.text.to_string(), i + 1)
            }
        };
        if role != Role::Space {
            before = last;
            last = token.text;
        }
        nodes.push(Node { role, text });
        i = next;
    }
    nodes
}

fn matching(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len()
}

/// The runs between nodes of one role; always at least one, possibly empty.
fn split(nodes: &[Node], role: Role) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    for (i, node) in nodes.iter().enumerate() {
        if node.role == role {
            ranges.push(start..i);
            start = i + 1;
        }
    }
    ranges.push(start..nodes.len());
    ranges
}

fn comparison(nodes: &[Node], out: &mut String) {
    let sides = split(nodes, Role::Compare);
    let operator = (sides.len() == 2).then(|| nodes[sides[0].end].text.as_str());
    match operator {
        Some(op @ ("<" | "<=" | ">" | ">=")) => call(out, nodes, COMPARE, Some(op), &sides, sum),
        _ => verbatim(out, nodes, &sides, sum),
    }
}

fn sum(nodes: &[Node], out: &mut String) {
    verbatim(out, nodes, &split(nodes, Role::Sum), concat);
}

fn concat(nodes: &[Node], out: &mut String) {
    let operands = split(nodes, Role::Tilde);
    if operands.len() > 1 && operands.iter().all(|o| nodes[o.clone()].iter().any(|n| n.role != Role::Space)) {
        call(out, nodes, CONCAT, None, &operands, product);
    } else {
        verbatim(out, nodes, &operands, product);
    }
}

/// A chain of products from the left, where `%` becomes a function.
fn product(nodes: &[Node], out: &mut String) {
    let factors = split(nodes, Role::Product);
    if factors[1..].iter().all(|factor| nodes[factor.start - 1].text != "%") {
        return verbatim(out, nodes, &factors, plain);
    }
    let joined = |nodes: &[Node]| nodes.iter().map(|node| node.text.as_str()).collect::<String>();
    let (head, first, mut after) = trimmed(&nodes[factors[0].clone()]);
    let mut value = joined(first);
    for factor in &factors[1..] {
        let (before, body, tail) = trimmed(&nodes[factor.clone()]);
        let (space, right) = (joined(after), joined(before) + &joined(body));
        value = match nodes[factor.start - 1].text.as_str() {
            "%" => format!("{MODULO}({value}{space},{right})"),
            operator => format!("({value}{space}{operator}{right})"),
        };
        after = tail;
    }
    plain(head, out);
    out.push_str(&value);
    plain(after, out);
}

fn plain(nodes: &[Node], out: &mut String) {
    nodes.iter().for_each(|node| out.push_str(&node.text));
}

type Emit = fn(&[Node], &mut String);

fn call(
    out: &mut String,
    nodes: &[Node],
    function: &str,
    first_argument: Option<&str>,
    parts: &[Range<usize>],
    inner: Emit,
) {
    // Spaces and tag delimiters at the ends stay outside of the call.
    let (head, _, _) = trimmed(&nodes[parts[0].clone()]);
    plain(head, out);
    out.push_str(function);
    out.push('(');
    if let Some(argument) = first_argument {
        out.push_str(&format!("'{argument}',"));
    }
    for (i, part) in parts.iter().enumerate() {
        let (head, body, tail) = trimmed(&nodes[part.clone()]);
        if i > 0 {
            out.push(',');
            plain(head, out);
        }
        inner(body, out);
        if i + 1 < parts.len() {
            plain(tail, out);
        } else {
            out.push(')');
            plain(tail, out);
        }
    }
}

/// Leading spaces, what is between, trailing spaces.
fn trimmed(nodes: &[Node]) -> (&[Node], &[Node], &[Node]) {
    let start = nodes.iter().position(|n| n.role != Role::Space).unwrap_or(nodes.len());
    let end = nodes.iter().rposition(|n| n.role != Role::Space).map_or(start, |at| at + 1);
    (&nodes[..start], &nodes[start..end], &nodes[end..])
}

fn verbatim(out: &mut String, nodes: &[Node], parts: &[Range<usize>], inner: Emit) {
    for part in parts {
        inner(&nodes[part.clone()], out);
        if let Some(separator) = nodes.get(part.end) {
            out.push_str(&separator.text);
        }
    }
}
