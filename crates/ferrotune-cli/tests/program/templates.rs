//! What a chat template leaves out is counted, and what it rewrites is trained as it is served.

use serde_json::{Value, json};

use super::helper::{PLAIN, Place, Shown, WITH_TOOLS};

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "rain", "description": "Rain in a town",
           "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}})
}

fn chat(messages: Value) -> Value {
    json!({"messages": messages})
}

/// Writes neither tools nor calls, and a system text only at the start.
const LEAD: &str = "{% if messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}\
    {% for m in messages %}{% if m.role in ['user','assistant'] %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Writes no system text either.
const NO_SYSTEM: &str = "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n\
    {% elif m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn calls(text: Value) -> Value {
    let call =
        json!({"id": "a1", "type": "function", "function": {"name": "rain", "arguments": {"town": "Ulm"}}});
    json!({"tools": [tool()], "messages": [
        {"role": "user", "content": "Rain?"}, {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "content": "3 mm"}, {"role": "assistant", "content": "3 mm."},
    ]})
}

#[test]
fn what_the_template_leaves_out_is_counted() {
    let fine = chat(json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]));
    let system =
        chat(json!([{"role": "system", "content": "Answer in rhymes."}, {"role": "user", "content": "Hi"},
                             {"role": "assistant", "content": "Oh my."}]));
    let middle = chat(json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."}, {"role": "system", "content": "Now be rude."},
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away."}]));
    let mut tools =
        chat(json!([{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "Ask the sky."}]));
    tools["tools"] = json!([tool()]);
    let thought = chat(json!([{"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "Two and two make four."}]));
    let rows = [fine.clone(), system.clone(), system, middle, tools, calls(json!("Looking.")), thought];
    let words = |shown: &Shown, words: &str| {
        assert!(shown.warns(&[words, "the chat template leaves out"]), "{words}: {:#?}", shown.warnings);
    };
    let shown = Place::with_template(NO_SYSTEM).preview(&rows, &[]);
    words(&shown, "3 of 7 rows: the chat template leaves out the system text");
    words(&shown, "1 of 7 rows: the chat template leaves out a system text after the start");
    words(&shown, "2 of 7 rows: the chat template leaves out the tools");
    words(&shown, "1 of 7 rows: the chat template leaves out a tool call");
    words(&shown, "1 of 7 rows: the chat template leaves out the result of a tool");
    words(&shown, "1 of 7 rows: the chat template leaves out the thought");
    assert_eq!(shown.report["left_out"]["system_text"], 3);
    let place = Place::with_template(LEAD);
    let shown = place.preview(&rows, &[]);
    assert!(!shown.warns(&["leaves out the system text"]), "{shown:#?}");
    words(&shown, "1 of 7 rows: the chat template leaves out a system text after the start");
    // Training says the same, to a person and to a program.
    let set = ["--set", "train.max_steps=1"];
    let out = place.run(&[&["train", "run.yaml"][..], &set].concat()).ok();
    assert!(out.stderr.contains("warning: 2 of 7 rows: the chat template leaves out the tools"), "{out:#?}");
    let shown = Place::with_template(WITH_TOOLS).preview(&[fine, calls(Value::Null)], &[]);
    assert!(shown.warnings.is_empty(), "{shown:#?}");
    // Of a call that is left out only the end of the turn remains, which is not trained.
    let shown = Place::with_template(LEAD).preview(&[calls(Value::Null)], &[]);
    assert_eq!(shown.trained(), ["3 mm.<|im_end|>"]);
    // A template that decides by the text.
    let short = PLAIN.replace("{{ m.content }}", "{{ m.content[:10] }}");
    let rows = [chat(
        json!([{"role": "user", "content": "A question"}, {"role": "assistant", "content": "Much longer than that."}]),
    )];
    words(
        &Place::with_template(&short).preview(&rows, &[]),
        "1 of 1 rows: the chat template leaves out an answer",
    );
}

#[test]
fn a_thought_that_is_cut_is_told_and_its_blank_lines_are_not_trained() {
    let cuts = "{% for m in messages %}{% set t = m.content %}{% if m.role == 'assistant' and '</think>' in t %}\
        {% set t = t.split('</think>')[-1] %}{% endif %}<|im_start|>{{ m.role }}\n{{ t }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";
    let row = chat(json!([{"role": "user", "content": "3*4?"},
        {"role": "assistant", "content": "<think>\nThree fours are twelve.\n</think>\n\n12"}]));
    let shown = Place::with_template(cuts).preview(std::slice::from_ref(&row), &[]);
    assert_eq!(shown.trained(), ["12<|im_end|>"]);
    assert!(shown.warns(&["1 of 1 rows", "the thought"]), "{shown:#?}");
    let shown = Place::with_template(PLAIN).preview(&[row], &[]);
    assert_eq!(shown.trained(), ["<think>\nThree fours are twelve.\n</think>\n\n12<|im_end|>"]);
    assert!(shown.warnings.is_empty(), "{shown:#?}");
}

/// Thoughts before the last question are removed, and the last answer has one, if only an empty one.
const REWRITES: &str = "{%- set ns = namespace(last=0) %}{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\n\
{%- for m in messages %}{%- set text = m.content if m.content is string else '' %}{%- set why = m.reasoning_content if m.reasoning_content is string else '' %}\n\
{%- if not why and '</think>' in text %}{%- set why = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}{%- set text = text.split('</think>')[-1].lstrip('\\n') %}{%- endif %}\n\
{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}{%- if loop.index0 > ns.last and (loop.last or why) %}{{- '<think>\\n' + why.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}{{- text }}{%- for c in m.tool_calls or [] %}{{- '\\n<call>' }}{{- c.function.name }}({{ c.function.arguments | tojson }}){{- '</call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}\n\
{%- elif m.role == 'tool' %}{{- '<|im_start|>user\\n<result>\\n' + m.content + '\\n</result><|im_end|>\\n' }}\n\
{%- else %}{{- '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}\n\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

/// The same with marks around what the assistant writes.
fn marked() -> String {
    REWRITES
        .replace(
            "{{- '<|im_start|>assistant\\n' }}{%- if loop",
            "{{- '<|im_start|>assistant\\n' }}{%- generation %}{%- if loop",
        )
        .replace(
            "{%- endfor %}{{- '<|im_end|>\\n' }}",
            "{%- endfor %}{{- '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}",
        )
}

#[test]
fn each_answer_is_trained_as_it_is_served() {
    let turns = chat(json!([
        {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "<think>\nAdd.\n</think>\n\n2"},
        {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "<think>\nAdd again.\n</think>\n\n4"},
        {"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "<think>\nOnce more.\n</think>\n\n6"},
    ]));
    let plain = chat(json!([{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"},
                            {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]));
    let call =
        json!({"id": "a1", "type": "function", "function": {"name": "rain", "arguments": {"town": "Ulm"}}});
    let tools = chat(json!([
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": null, "tool_calls": [call], "reasoning_content": "I must look."},
        {"role": "tool", "content": "3 mm"},
        {"role": "assistant", "content": "3 mm.", "reasoning_content": "Say it."},
        {"role": "user", "content": "Thanks"}, {"role": "assistant", "content": "Welcome."},
    ]));
    let last = chat(json!(tools["messages"].as_array().expect("messages")[..4]));
    for template in [REWRITES.to_string(), marked()] {
        let place = Place::with_template(&template);
        let shown = place.preview(std::slice::from_ref(&turns), &[]);
        assert_eq!(
            shown.supervised,
            [
                ["<think>\nAdd.\n</think>\n\n2<|im_end|>"],
                ["<think>\nAdd again.\n</think>\n\n4<|im_end|>"],
                ["<think>\nOnce more.\n</think>\n\n6<|im_end|>"],
            ],
            "{template}"
        );
        assert!(shown.texts[2].contains("assistant\n2<|im_end|>"), "{shown:#?}");
        assert!(!shown.texts[0].contains("2+2?"), "{shown:#?}");
        let counts = ["rows", "kept", "split_rows", "added_rows"].map(|name| shown.report[name].as_u64());
        assert_eq!(counts, [Some(1), Some(3), Some(1), Some(2)]);
        assert!(shown.warnings.is_empty(), "{shown:#?}");
        let shown = place.preview(std::slice::from_ref(&plain), &[]);
        // The template's own empty thought is trained only where the template marks it as generated.
        let empty = if template.contains("endgeneration") { "<think>\n\n</think>\n\n" } else { "" };
        assert_eq!(shown.supervised, [[format!("{empty}2<|im_end|>")], [format!("{empty}4<|im_end|>")]]);
        // Two answers of one turn share their row; the turn after it rewrites both.
        let shown = place.preview(&[tools.clone(), last.clone()], &[]);
        let turn = vec![
            "<think>\nI must look.\n</think>\n\n\n<call>rain({\"town\": \"Ulm\"})</call><|im_end|>"
                .to_string(),
            "<think>\nSay it.\n</think>\n\n3 mm.<|im_end|>".to_string(),
        ];
        let thanks = vec![format!("{empty}Welcome.<|im_end|>")];
        assert_eq!(shown.supervised, [turn.clone(), thanks, turn], "{template}");
        assert!(shown.warnings.is_empty(), "{shown:#?}");
        // What is not trained needs no row.
        let mut marked = turns.clone();
        marked["messages"][1]["weight"] = json!(0);
        assert_eq!(place.preview(&[marked], &[]).supervised.len(), 2);
    }
    let place = Place::with_template(REWRITES);
    place.write("rows.jsonl", &format!("{turns}\n"));
    let out = place.run(&["train", "run.yaml", "--set", "train.max_steps=2"]).ok();
    // The beginnings that they have in common are computed once.
    assert!(out.stderr.contains("shared beginnings"), "{out:#?}");
    assert!(
        out.stderr.contains("3 rows (1 chat whose earlier turns the template rewrites became 3"),
        "{out:#?}"
    );
}

/// As Mistral's: the system text goes before the last message, if that is a question.
#[test]
fn a_system_text_that_moves_is_trained_where_it_is_served() {
    let moving = "{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == 'system' %}\
        {{ messages[0].content + '\n\n' }}{% endif %}{{ m.content }}[/INST]{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}";
    let row = chat(
        json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."},
                          {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Farewell."}]),
    );
    let shown = Place::with_template(moving).preview(&[row], &[]);
    assert_eq!(
        shown.texts,
        [
            "[INST] Be kind.\n\nHi[/INST] Hello.</s>",
            "[INST] Hi[/INST] Hello.</s>[INST] Be kind.\n\nBye[/INST] Farewell.</s>",
        ]
    );
    assert_eq!(shown.trained(), [" Hello.</s>", " Farewell.</s>"]);
    assert!(shown.warnings.is_empty(), "{shown:#?}");
}

#[test]
fn the_template_for_tools_is_used_for_rows_with_tools() {
    let with = calls(Value::Null);
    let without =
        chat(json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]));
    let in_files = Place::with_template(PLAIN);
    in_files.write("model/additional_chat_templates/tool_use.jinja", WITH_TOOLS);
    let in_list = Place::with_template("");
    let mut config = in_list.json("model/tokenizer_config.json");
    let named = |name: &str, template: &str| json!({"name": name, "template": template});
    config["chat_template"] = json!([named("default", PLAIN), named("tool_use", WITH_TOOLS)]);
    in_list.write("model/tokenizer_config.json", &config.to_string());
    for place in [in_files, in_list] {
        let shown = place.preview(&[with.clone(), without.clone()], &[]);
        assert!(shown.texts[0].starts_with("<|im_start|>system\nTools:"), "{shown:#?}");
        assert_eq!(
            shown.supervised[0][0],
            "<call>{\"name\": \"rain\", \"arguments\": {\"town\": \"Ulm\"}}</call><|im_end|>"
        );
        assert_eq!(shown.supervised[1], ["Hello.<|im_end|>"]);
        assert!(shown.warnings.is_empty(), "{shown:#?}");
        // A merged model still has both.
        place.run(&["train", "run.yaml", "--set", "train.max_steps=1"]).ok();
        place.run(&["merge", "out", "--output", "merged"]).ok();
        assert_eq!(place.preview_again(&["model.base=merged"]).texts, shown.texts);
        place.run(&["generate", "merged", "--prompt", "Hi", "--max-new-tokens", "2"]).ok();
    }
}

#[test]
fn headers_are_not_trained_and_a_missing_end_is_told() {
    let row = chat(json!([{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"},
                          {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]));
    let no_header =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    let shown = Place::with_template(no_header).preview(std::slice::from_ref(&row), &[]);
    assert_eq!(shown.trained(), ["2<|im_end|>", "4<|im_end|>"]);
    assert!(shown.warnings.is_empty(), "{shown:#?}");
    let no_end = "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }}\n{% else %}ASSISTANT: {{ m.content }}\n{% endif %}\
        {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}";
    let shown = Place::with_template(no_end).preview(&[row], &[]);
    assert!(shown.warns(&["will not learn to stop"]), "{shown:#?}");
    assert!(shown.trained().iter().all(|text| !text.contains("ASSISTANT")), "{shown:#?}");
}
