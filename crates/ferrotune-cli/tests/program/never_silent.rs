//! Mistakes in rows, templates and models that would be trained silently elsewhere: each is named.

use serde_json::json;

use super::helper::{PLAIN, Place};

fn chat() -> serde_json::Value {
    json!({"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}]})
}

#[test]
fn templates_that_never_end_or_grow_without_bound_are_refused() {
    for (start, words) in [
        ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "fuel"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion"),
        (
            "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            "too long",
        ),
        (
            "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
            "too large",
        ),
        ("{{ 'a' * 100000000000 }}", "fuel"),
        ("{{ ([1] * 100000) * 100000 }}", "too large"),
        ("{{ ''.join(['b' * 1000000] * 1000) }}", "too long"),
        ("{{ (['b' * 1000000] * 1000) | join }}", "too long"),
        ("{{ '%1000000000d' % 1 }}", "too large"),
    ] {
        let place = Place::with_template(&format!("{start}{PLAIN}"));
        place.preview_refused(&[chat()], &["rows.jsonl:1", "chat template", words]);
    }
}

#[test]
fn lists_are_joined_and_added_as_in_python() {
    let start = "{{ [1] + ['a'] }} {{ ([1] + [2]) is sequence }} {{ ([1] + ['x']) | tojson }} {{ ', '.join(['a'] + ['b']) }} \
                 {{ [1, none, 'x'] | join('-') }} {{ 'abc' | join('.') }} {{ [{'k': {'j': 1}}] | join(attribute='k.j') }} \
                 {{ [1, 2] | join(d=' ') }}|";
    let place = Place::with_template(&format!("{start}{PLAIN}"));
    let text = place.preview(&[chat()], &[]).texts.remove(0);
    // As Jinja 3.1 of Python writes it.
    let expected = "[1, 'a'] True [1, \"x\"] a, b 1-None-x a.b.c 1 1 2|<|im_start|>";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn what_does_not_fit_together_is_named() {
    let twice = format!("{{{{ bos_token }}}}{{{{ bos_token }}}}{PLAIN}");
    Place::with_template(&twice).preview_refused(&[chat()], &["rows.jsonl:1", "two BOS tokens"]);
    let place = Place::with_template(PLAIN);
    let narrator =
        json!({"messages": [{"role": "narrator", "content": "a"}, {"role": "assistant", "content": "b"}]});
    place.preview_refused(&[narrator], &["rows.jsonl:1", "messages[0]", "`narrator` is not a role"]);
    let deep = format!("{{\"text\": \"a\", \"x\": {}{}}}\n", "[".repeat(10_000), "]".repeat(10_000));
    place.write("rows.jsonl", &deep);
    place.run(&["preview", "run.yaml"]).refused(&["rows.jsonl:1", "nested deeper than 127"]);
    // A tokenizer with more tokens than the model has rows.
    let mut config = place.json("model/config.json");
    config["vocab_size"] = json!(100);
    place.write("model/config.json", &config.to_string());
    place.preview_refused(&[chat()], &["rows.jsonl:1", "outside of the model's vocabulary of 100"]);
    // No end token in the template: nothing teaches to stop.
    let endless = PLAIN.replace("<|im_end|>", "");
    assert!(Place::with_template(&endless).preview(&[chat()], &[]).warns(&["will not learn to stop"]));
}
