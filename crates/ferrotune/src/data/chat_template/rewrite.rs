//! Source-level adaptation of a Jinja template before minijinja compiles it.
//!
//! Three things differ between Python's Jinja and minijinja in ways that real templates meet: `{% generation %}` blocks
//! do not exist, `~` and `%` write values in Rust's form instead of Python's, and `<` compares values of different types
//! instead of failing. Tags are lexed, and these operators become calls of functions that the environment defines.
//! Everything else, above all whitespace and its control marks, is copied byte for byte. What cannot be lexed is copied
//! as it is, so that minijinja reports the error.

use std::ops::Range;

/// Function that joins its arguments as Python's `str()` would write them.
pub(super) const CONCAT: &str = "__concat";
/// Function for `%` on numbers and strings.
pub(super) const MODULO: &str = "__modulo";
/// Function for `<`, `<=`, `>`, `>=`; its first argument is the operator.
pub(super) const COMPARE: &str = "__compare";
/// Function that makes the namespace behind the `else` of a loop with jumps.
pub(super) const FLAG: &str = "__flag";
/// Function around what is stored in a namespace, the only way to carry a value from one turn of a loop to the next
/// and so the only way to nest values without end.
pub(super) const STORED: &str = "__stored";
/// Function behind a generation block; its `caller` renders the block.
pub(super) const GENERATION: &str = "__generation";

/// Brackets deeper than this are copied unchanged; minijinja refuses them by itself.
const MAX_DEPTH: usize = 100;

/// A template with the operators of Python and with generation blocks as call blocks.
pub(super) struct Rewritten {
    pub(super) source: String,
    /// Whether the template marks what the assistant wrote.
    pub(super) has_generation: bool,
    /// Names after `|`.
    pub(super) filters: Vec<String>,
    /// Names after `is` and `is not`.
    pub(super) tests: Vec<String>,
}

/// Rewrites a whole template.
pub(super) fn rewrite(source: &str) -> Rewritten {
    // Text, comments and tags in order; joined at the end.
    let mut pieces: Vec<String> = Vec::new();
    let mut blocks = Blocks::default();
    let mut done =
        Rewritten { source: String::new(), has_generation: false, filters: Vec::new(), tests: Vec::new() };
    let mut rest = source;
    while let Some(start) = find_tag(rest) {
        pieces.push(rest[..start].to_string());
        rest = &rest[start..];
        let is_block = rest.starts_with("{%");
        let tag = if rest.starts_with("{#") {
            rest.find("#}").map(|at| (Vec::new(), at + 2))
        } else {
            lex_tag(rest, is_block)
        };
        let Some((tokens, mut end)) = tag else { break };
        let word = first_word(&tokens).filter(|_| is_block);
        let alone = tokens.iter().filter(|t| t.kind != Kind::Space).count() == 1;
        if word == Some("raw") {
            end = end_of_raw(rest, end);
        }
        let text = &rest[..end];
        names(&tokens, &mut done);
        let piece = match word {
            Some("raw") => text.to_string(),
            Some("generation") if alone => {
                done.has_generation = true;
                text.replacen("generation", &format!("call {GENERATION}()"), 1)
            }
            Some("endgeneration") if alone => text.replacen("endgeneration", "endcall", 1),
            Some("set") => set(&tokens),
            _ if tokens.is_empty() => text.to_string(),
            _ => sequence(&tokens, is_block, 0),
        };
        pieces.push(piece);
        if let Some(word) = word {
            blocks.tag(word, &mut pieces);
        }
        rest = &rest[end..];
    }
    pieces.push(rest.to_string());
    done.source = pieces.concat();
    done
}

/// Loops and conditions that are open. Python's Jinja runs the `else` of a loop unless some turn reached the end of the
/// body, minijinja unless some turn began; with `continue` or `break` in the body that differs.
#[derive(Default)]
struct Blocks {
    open: Vec<Block>,
    loops: usize,
}

struct Block {
    is_loop: bool,
    start: usize,
    otherwise: Option<usize>,
    jumps: bool,
}

impl Blocks {
    /// Takes note of the tag in the last piece; ends of loops may change earlier pieces.
    fn tag(&mut self, word: &str, pieces: &mut [String]) {
        let at = pieces.len() - 1;
        match word {
            "for" | "if" => {
                self.open.push(Block { is_loop: word == "for", start: at, otherwise: None, jumps: false });
            }
            "else" => {
                if let Some(block) = self.open.last_mut() {
                    block.otherwise = Some(at);
                }
            }
            "break" | "continue" => {
                if let Some(block) = self.open.iter_mut().rev().find(|b| b.is_loop) {
                    block.jumps = true;
                }
            }
            "endif" => drop(self.open.pop()),
            "endfor" => {
                let block = self.open.pop().filter(|b| b.is_loop && b.jumps);
                if let Some(Block { start, otherwise: Some(otherwise), .. }) = block {
                    let flag = format!("__loop{}", self.loops);
                    self.loops += 1;
                    let (open, rest) = delimiter(&pieces[start]);
                    pieces[start] = format!("{open} set {flag} = {FLAG}(done=false) %}}{{%{rest}");
                    let whole = &pieces[otherwise];
                    let (open, rest) = delimiter(whole);
                    pieces[otherwise] = format!(
                        "{open} set {flag}.done = true %}}{{% endfor %}}{{%{}",
                        rest.replacen("else", &format!("if not {flag}.done"), 1)
                    );
                    pieces[at] = pieces[at].replacen("endfor", "endif", 1);
                }
            }
            _ => {}
        }
    }
}

/// The opening delimiter of a tag with its whitespace control, and the rest of the tag.
fn delimiter(tag: &str) -> (&str, &str) {
    tag.split_at(if tag[2..].starts_with(['-', '+']) { 3 } else { 2 })
}

/// A `set` tag; what goes into a namespace is checked.
fn set(tokens: &[Token<'_>]) -> String {
    let equals = tokens.iter().position(|t| t.kind == Kind::Operator && t.text == "=");
    match equals {
        Some(at) if tokens[..at].iter().any(|t| t.text == ".") => {
            let target: String = tokens[..=at].iter().map(|t| t.text).collect();
            let close = tokens[tokens.len() - 1].text;
            format!("{target}{STORED}({}){close}", sequence(&tokens[at + 1..tokens.len() - 1], false, 0))
        }
        _ => sequence(tokens, true, 0),
    }
}

fn find_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len().saturating_sub(1))
        .find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'{' | b'%' | b'#'))
}

/// End of `{% endraw %}`, or of the text.
fn end_of_raw(text: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(found) = text[at..].find("{%") {
        let start = at + found;
        let inner = text[start + 2..].trim_start_matches(['-', '+']).trim_start();
        if inner.starts_with("endraw") {
            return text[start..].find("%}").map_or(text.len(), |end| start + end + 2);
        }
        at = start + 2;
    }
    text.len()
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    /// Whitespace, and the delimiters of the tag.
    Space,
    Word,
    /// A string or a number.
    Literal,
    Open,
    Close,
    Operator,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
}

/// The significant tokens between the delimiters are few; this is the first, if it is a word.
fn first_word<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    tokens.iter().find(|t| t.kind != Kind::Space).filter(|t| t.kind == Kind::Word).map(|t| t.text)
}

/// Collects the filters and tests that a tag names.
fn names(tokens: &[Token<'_>], done: &mut Rewritten) {
    let significant: Vec<&Token<'_>> = tokens.iter().filter(|t| t.kind != Kind::Space).collect();
    for i in 1..significant.len() {
        let word = significant[i];
        let before = significant[i - 1];
        let is_not = before.text == "not" && i > 1 && significant[i - 2].text == "is";
        if word.kind != Kind::Word {
            continue;
        }
        if before.kind == Kind::Operator && before.text == "|" {
            done.filters.push(word.text.to_string());
        } else if before.kind == Kind::Word && (is_not || (before.text == "is" && word.text != "not")) {
            done.tests.push(word.text.to_string());
        }
    }
}

/// Splits the tag at the start of `text` into tokens; the delimiters come back as spaces. `None` if it does not end.
fn lex_tag(text: &str, is_block: bool) -> Option<(Vec<Token<'_>>, usize)> {
    let close = if is_block { "%}" } else { "}}" };
    let mut tokens = Vec::new();
    let mut at = 2;
    if text[at..].starts_with(['-', '+']) {
        at += 1;
    }
    tokens.push(Token { kind: Kind::Space, text: &text[..at] });
    let mut depth = 0_usize;
    loop {
        let rest = &text[at..];
        let first = rest.chars().next()?;
        if depth == 0 {
            let marked = rest.strip_prefix(['-', '+']).is_some_and(|r| r.starts_with(close));
            if marked || rest.starts_with(close) {
                let end = at + close.len() + usize::from(marked);
                tokens.push(Token { kind: Kind::Space, text: &text[at..end] });
                return Some((tokens, end));
            }
        }
        let (kind, length) = match first {
            c if c.is_whitespace() => (Kind::Space, run(rest, char::is_whitespace)),
            '\'' | '"' => (Kind::Literal, string_length(rest, first)?),
            c if c.is_ascii_digit() => (Kind::Literal, number_length(rest)),
            c if c.is_alphanumeric() || c == '_' => {
                (Kind::Word, run(rest, |c| c.is_alphanumeric() || c == '_'))
            }
            '(' | '[' | '{' => {
                depth += 1;
                (Kind::Open, 1)
            }
            ')' | ']' | '}' => {
                depth = depth.checked_sub(1)?;
                (Kind::Close, 1)
            }
            c => {
                let two = rest.get(..2).unwrap_or_default();
                let is_two = matches!(two, "**" | "//" | "==" | "!=" | "<=" | ">=");
                (Kind::Operator, if is_two { 2 } else { c.len_utf8() })
            }
        };
        tokens.push(Token { kind, text: &rest[..length] });
        at += length;
    }
}

fn run(text: &str, accept: impl Fn(char) -> bool) -> usize {
    text.find(|c| !accept(c)).unwrap_or(text.len())
}

fn string_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Digits, with a fraction and an exponent; `1.real` leaves the dot alone.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| from + run(&text[from..], |c| c.is_ascii_alphanumeric() || c == '_');
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = digits(end + 1);
    }
    let has_exponent = matches!(bytes[end - 1], b'e' | b'E') && !text.starts_with("0x");
    if has_exponent && matches!(bytes.get(end), Some(b'+' | b'-')) {
        end = digits(end + 1);
    }
    end
}

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
fn sequence(tokens: &[Token<'_>], is_block: bool, depth: usize) -> String {
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
                    "not" if after_operand => Role::Glue,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn one(source: &str) -> String {
        rewrite(source).source
    }

    #[test]
    fn operators_become_calls_with_python_precedence() {
        for (source, expected) in [
            ("{{ a ~ b }}", "{{ __concat(a , b) }}"),
            ("{{- a ~ b.c | d ~ 'x~y' -}}", "{{- __concat(a , b.c | d , 'x~y') -}}"),
            ("{{ -1 ~ 2 * 3 }}", "{{ __concat(-1 , 2 * 3) }}"),
            ("{{ a - b ~ c }}", "{{ a - __concat(b , c) }}"),
            ("{{ a + b ~ -c }}", "{{ a + __concat(b , -c) }}"),
            ("{{ a not in b ~ c }}", "{{ a not in __concat(b , c) }}"),
            ("{{ a * b % c }}", "{{ __modulo((a * b) , c) }}"),
            ("{{ a is not none ~ b }}", "{{ __concat(a is not none , b) }}"),
            ("{{ a if b ~ c else d }}", "{{ a if __concat(b , c) else d }}"),
            ("{{ [a ~ b, {'k': c ~ d}] }}", "{{ [__concat(a , b), {'k': __concat(c , d)}] }}"),
            ("{{ f(a=b ~ c, *d) }}", "{{ f(a=__concat(b , c), *d) }}"),
            ("{{ a[1:-1] ~ b }}", "{{ __concat(a[1:-1] , b) }}"),
            ("{%- set ns.x = a ~ b -%}", "{%- set ns.x =__stored( __concat(a , b) )-%}"),
            ("{% set x = y % 2 %}", "{% set x = __modulo(y , 2) %}"),
            ("{% if not a < b and c %}", "{% if not __compare('<',a , b) and c %}"),
            ("{% if a < b < c %}", "{% if a < b < c %}"),
            ("{% for k, v in x.items() if k != 's' %}", "{% for k, v in x.items() if k != 's' %}"),
            ("{% raw %}{{ a ~ b }}{% endraw %}", "{% raw %}{{ a ~ b }}{% endraw %}"),
            ("{# a ~ b #}{{ a }}", "{# a ~ b #}{{ a }}"),
            ("{{ 'unclosed ~ }}", "{{ 'unclosed ~ }}"),
            ("{{ a ~ }}", "{{ a ~ }}"),
        ] {
            assert_eq!(one(source), expected, "{source}");
        }
    }

    #[test]
    fn the_else_of_a_loop_with_jumps_asks_whether_a_turn_was_finished() {
        assert_eq!(
            one("{%- for x in y +%}{% if x %}{% break %}{% else %}{% endif %}{%- else -%}z{%- endfor %}"),
            "{%- set __loop0 = __flag(done=false) %}{% for x in y +%}{% if x %}{% break %}{% else %}{% endif %}\
             {%- set __loop0.done = true %}{% endfor %}{% if not __loop0.done -%}z{%- endif %}"
        );
        let plain = "{% for x in y %}{% for z in x %}{% continue %}{% endfor %}{% else %}{% endfor %}";
        assert_eq!(one(plain), plain);
    }

    #[test]
    fn generation_blocks_become_call_blocks() {
        let done = rewrite("{%- generation -%}x{%endgeneration%}{{ generation }}");
        assert_eq!(done.source, "{%- call __generation() -%}x{%endcall%}{{ generation }}");
        assert!(done.has_generation);
        assert!(!rewrite("{% if generation %}{% endif %}").has_generation);
    }
}
