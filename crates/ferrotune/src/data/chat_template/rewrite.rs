//! Source-level adaptation of a Jinja template before minijinja compiles it.
//!
//! Three things differ between Python's Jinja and minijinja in ways that real templates meet: `{% generation %}` blocks
//! do not exist, `~` and `%` write values in Rust's form instead of Python's, and `<` compares values of different types
//! instead of failing. Tags are lexed, and these operators become calls of functions that the environment defines.
//! Everything else, above all whitespace and its control marks, is copied byte for byte. What cannot be lexed is copied
//! as it is, so that minijinja reports the error.

use super::lexer::{Kind, Token, end_of_raw, find_tag, first_word, lex_tag};
use super::names::*;
use super::operators::sequence;
use std::collections::BTreeSet;

/// A template with the operators of Python and with marks around generation blocks.
pub(super) struct Rewritten {
    pub(super) source: String,
    /// Whether the template marks what the assistant wrote.
    pub(super) has_generation: bool,
    /// Names after `|`.
    pub(super) filters: Vec<String>,
    /// Names after `is` and `is not`.
    pub(super) tests: Vec<String>,
    /// Every name in a tag.
    pub(super) words: BTreeSet<String>,
    /// Every text in quotes in a tag.
    pub(super) literals: BTreeSet<String>,
}

/// Rewrites a whole template.
pub(super) fn rewrite(source: &str) -> Rewritten {
    // Text, comments and tags in order; joined at the end.
    let mut pieces: Vec<String> = Vec::new();
    let mut blocks = Blocks::default();
    let mut done = Rewritten {
        source: String::new(),
        has_generation: false,
        filters: Vec::new(),
        tests: Vec::new(),
        words: BTreeSet::new(),
        literals: BTreeSet::new(),
    };
    // As Python's Jinja does, whatever the line ends of the file were.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut rest = source.as_str();
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
                // A scope of its own, as Jinja's block has; the first and the last tag keep the whitespace control.
                let (open, rest) = delimiter(text);
                let rest = rest.replacen("generation", "if true", 1);
                format!("{open} with %}}{{{{ {GENERATION_START} }}}}{{%{rest}")
            }
            Some("endgeneration") if alone => {
                let (open, rest) = delimiter(text);
                let rest = rest.replacen("endgeneration", "endwith", 1);
                format!("{open} endif %}}{{{{ {GENERATION_END} }}}}{{%{rest}")
            }
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

/// Collects the filters, tests, names and texts of a tag.
fn names(tokens: &[Token<'_>], done: &mut Rewritten) {
    for token in tokens {
        match token.kind {
            Kind::Word => drop(done.words.insert(token.text.to_string())),
            Kind::Literal if token.text.starts_with(['\'', '"']) && token.text.len() > 1 => {
                done.literals.insert(token.text[1..token.text.len() - 1].to_string());
            }
            _ => {}
        }
    }
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
            ("{{ a % b not in c }}", "{{ __modulo(a , b) not in c }}"),
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
    fn generation_blocks_become_marks_in_a_scope() {
        let done = rewrite("{%- generation -%}x{%endgeneration%}{{ generation }}");
        assert_eq!(
            done.source,
            "{%- with %}{{ __generation_start }}{% if true -%}x{% endif %}{{ __generation_end }}{%endwith%}{{ generation }}"
        );
        assert!(done.has_generation);
        assert!(!rewrite("{% if generation %}{% endif %}").has_generation);
    }
}
