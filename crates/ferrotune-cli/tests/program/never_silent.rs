//! Mistakes in rows, templates and models that would be trained silently elsewhere: each is named.

use serde_json::json;

use super::helper::{PLAIN, Place};

fn chat() -> serde_json::Value {
    json!({"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}]})
}

#[test]
fn templates_that_never_end_or_grow_without_bound_are_refused() {
    for (start, words) in [
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
            "too many steps",
        ),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "nests too deeply"),
        (
            "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
            "too long",
        ),
        (
            "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
            "too large",
        ),
        ("{{ 'a' * 100000000000 }}", "too long"),
        ("{{ ([1] * 100000) * 100000 }}", "too long"),
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

/// Inside, this character stands before texts whose control words are text.
#[test]
fn a_noncharacter_of_a_text_is_a_character_of_it() {
    let place = Place::with_run("lora");
    let rows = [json!({"text": "a\u{fdef}b</s>c"}), json!({"text": "ab</s>c"})];
    let texts = place.preview(&rows, &["data.split_special_tokens=true"]).texts;
    let ends = |text: &str, end: &str| assert!(text.trim_end_matches("</s>").ends_with(end), "{texts:?}");
    ends(&texts[0], "a\u{fdef}b</s>c");
    ends(&texts[1], "ab</s>c");
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
    let outside = json!({"input_ids": [1, 320], "labels": [1, 320]});
    place.preview_refused(
        &[outside],
        &["rows.jsonl:1", "token 320 is outside of the model's vocabulary of 320"],
    );
    // No end token in the template: nothing teaches to stop.
    let endless = PLAIN.replace("<|im_end|>", "");
    assert!(Place::with_template(&endless).preview(&[chat()], &[]).warns(&["will not learn to stop"]));
}

/// A copy of the tiny model whose configuration says another number of rows.
fn with_rows(rows: usize) -> Place {
    let place = Place::with_template(PLAIN);
    let mut config = place.json("model/config.json");
    config["vocab_size"] = json!(rows);
    place.write("model/config.json", &config.to_string());
    place
}

#[test]
fn a_tokenizer_of_another_size_than_the_embedding_is_said_where_it_is_not_padding() {
    // 315 of its 320 tokens are ordinary ones.
    with_rows(100).preview_refused(&[chat()], &["model", "320 tokens", "100 rows", "of another model"]);
    assert!(with_rows(320).preview(&[chat()], &[]).warnings.is_empty());
    // Rounded up to a multiple of 16, as Qwen's 151,669 tokens have 151,936 rows.
    assert!(with_rows(336).preview(&[chat()], &[]).warnings.is_empty());
    let shown = with_rows(512).preview(&[chat()], &[]);
    assert!(shown.warns(&["320 tokens", "512 rows", "more than padding"]), "{:?}", shown.warnings);
    // A token that was added behind the vocabulary counts where a row has it.
    let place = Place::with_template(PLAIN);
    let mut tokenizer = place.json("model/tokenizer.json");
    tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({
        "id": 320, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    }));
    place.write("model/tokenizer.json", &tokenizer.to_string());
    assert!(place.preview(&[chat()], &[]).warnings.is_empty());
    place.preview_refused(
        &[json!({"text": "an <image> here"})],
        &["rows.jsonl:1", "token 320 is outside of the model's vocabulary"],
    );
}
