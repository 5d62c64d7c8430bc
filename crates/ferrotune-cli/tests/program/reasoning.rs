//! `data.reasoning`: thoughts of the assistant are trained, masked or dropped.

use serde_json::{Value, json};

use super::helper::{Place, golden_json};

/// As Qwen 3 has it: thoughts of earlier turns are left out, and an answer without one has an empty thought.
fn qwen3() -> String {
    let text = golden_json("chat_templates/qwen3.json");
    text["template"].as_str().or_else(|| text["chat_template"].as_str()).expect("a template").to_string()
}

/// As DeepSeek's: a thought stands as it is in the text, and only before the last answer.
const DEEPSEEK: &str = "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}\
    {% set text = m.content or '' %}{% if not loop.last and '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}\
    <s>{{ text }}<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<s><think>\n{% endif %}";

/// Marks what is generated, thoughts too.
const MARKED: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}\
    {% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>{% endgeneration %}\
    {% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn chat(question: &str, thought: &str, answer: &str) -> Value {
    json!({"messages": [{"role": "user", "content": question},
                        {"role": "assistant", "content": answer, "reasoning_content": thought}]})
}

fn in_text(question: &str, thought: &str, answer: &str) -> Value {
    let answer = format!("<think>\n{thought}\n</think>\n\n{answer}");
    json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
}

const MASK: &[&str] = &["data.reasoning=mask"];
const DROP: &[&str] = &["data.reasoning=drop"];

#[test]
fn a_masked_thought_stays_in_the_text() {
    for template in [qwen3(), MARKED.to_string()] {
        let place = Place::with_template(&template);
        let rows = [chat("2+2?", "Two and two.", "Four."), chat("</think> 1?", "aa", "aa</think>aa")];
        let kept = place.preview(&rows, &[]);
        assert_eq!(
            kept.trained(),
            [
                "<think>\nTwo and two.\n</think>\n\nFour.<|im_end|>",
                "<think>\naa\n</think>\n\naa</think>aa<|im_end|>"
            ]
        );
        let masked = place.preview(&rows, MASK);
        assert_eq!(masked.texts, kept.texts);
        assert_eq!(masked.trained(), ["Four.<|im_end|>", "aa</think>aa<|im_end|>"]);
        assert_eq!(masked.report["thoughts"], 2);
        let out = place.run(&["preview", "run.yaml", "--set", MASK[0]]).ok();
        assert!(out.stderr.contains("reasoning: 2 thoughts masked or dropped"), "{}", out.stderr);
    }
}

#[test]
fn a_thought_is_found_whatever_else_a_chat_says() {
    // The same words stand in the question, in the answer, and as tags in the thought itself.
    let rows = [
        in_text("<think>\nx y\n</think>\n\nx y", "x y", "x y <think>x y</think>"),
        in_text("ü", "ü\n\nü <think> ü", "ü"),
        in_text("n", "a", "a"),
    ];
    let place = Place::with_template(DEEPSEEK);
    let masked = place.preview(&rows, MASK);
    assert_eq!(masked.trained(), ["x y <think>x y</think><|im_end|>", "ü<|im_end|>", "a<|im_end|>"]);
    assert_eq!(masked.texts, place.preview(&rows, &[]).texts);
    // A thought before nothing but a call.
    let call = json!({"type": "function", "function": {"name": "rain", "arguments": {"town": "Ulm"}}});
    let with_call = json!({"messages": [{"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "reasoning_content": "Ask.", "tool_calls": [call]}]});
    let shown = Place::with_template(&qwen3()).preview(&[with_call], MASK);
    let trained = shown.trained().concat();
    assert!(trained.starts_with("<tool_call>") && trained.contains("Ulm"), "{trained}");
    assert!(shown.texts[0].contains("<think>\nAsk.\n</think>"), "{}", shown.texts[0]);
}

#[test]
fn thoughts_of_each_turn_are_masked_in_the_row_that_has_them() {
    let turns = json!({"messages": [
        {"role": "user", "content": "1?"}, {"role": "assistant", "content": "One.", "reasoning_content": "first"},
        {"role": "user", "content": "2?"}, {"role": "assistant", "content": "Two.", "reasoning_content": "second"},
    ]});
    let shown = Place::with_template(&qwen3()).preview(std::slice::from_ref(&turns), MASK);
    assert_eq!(shown.trained(), ["One.<|im_end|>", "Two.<|im_end|>"]);
    assert!(shown.texts.concat().contains("first") && shown.texts.concat().contains("second"));
    let marked = Place::with_template(MARKED).preview(&[turns], MASK);
    assert_eq!(marked.supervised, [["One.<|im_end|>", "Two.<|im_end|>"]]);
}

#[test]
fn a_dropped_thought_is_nowhere() {
    let mut rows = vec![
        chat("2+2?", "Two and two.", "Four."),
        in_text("3?", "Two and two.", "Six."),
        json!({"messages": [{"role": "user", "content": "4?"},
            {"role": "assistant", "content": "Eight.", "thinking": "Two and two."}]}),
    ];
    for template in [qwen3(), DEEPSEEK.to_string(), MARKED.to_string()] {
        let place = Place::with_template(&template);
        let shown = place.preview(&rows, DROP);
        assert!(!shown.texts.concat().contains("Two and two."), "{:?}", shown.texts);
        assert_eq!(shown.trained(), ["Four.<|im_end|>", "Six.<|im_end|>", "Eight.<|im_end|>"]);
        assert_eq!(shown.report["thoughts"], 3);
        assert!(shown.warnings.is_empty(), "{:?}", shown.warnings);
    }
    rows.push(in_text("5?", "only", ""));
    let place = Place::with_template(DEEPSEEK);
    place.preview(&rows, &[]);
    place.run(&["preview", "run.yaml", "--set", DROP[0]]).refused(&[
        "rows.jsonl:4",
        "nothing but a thought",
        "mask",
    ]);
    let all = ["preview", "run.yaml", "--set", MASK[0], "--set", "data.supervise=all"];
    place.run(&all).refused(&["data.reasoning", "data.supervise: all"]);
    place.run(&["preview", "run.yaml", "--set", "data.reasoning=hide"]).refused(&[
        "data.reasoning",
        "keep",
        "mask",
        "drop",
    ]);
}
