//! Rows in the usual notations become one form, or are refused by name; nothing of them is lost silently.

use serde_json::{Value, json};

use super::helper::{PLAIN, Place, WITH_TOOLS};

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "rain", "description": "Rain in a town",
           "parameters": {"type": "object", "properties": {"town": {"type": "string"}}}}})
}

fn calling(arguments: Value) -> Value {
    let call = json!({"id": "a1", "type": "function", "function": {"name": "rain", "arguments": arguments}});
    json!({"tools": [tool()], "messages": [
        {"role": "user", "content": "Rain in Ulm?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "content": "3 mm"}, {"role": "assistant", "content": "It rains."},
    ]})
}

fn chat(question: &str, answer: &str) -> Value {
    json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
}

const CALL: &str = "<call>{\"name\": \"rain\", \"arguments\": {\"town\": \"Ulm\"}}</call><|im_end|>";

#[test]
fn arguments_as_text_are_decoded() {
    let place = Place::with_template(WITH_TOOLS);
    let rows = [calling(json!({"town": "Ulm"})), calling(json!("{\"town\": \"Ulm\"}"))];
    let shown = place.preview(&rows, &[]);
    assert_eq!(shown.texts[0], shown.texts[1]);
    assert_eq!(shown.supervised[1], [CALL, "It rains.<|im_end|>"]);
    assert!(shown.warnings.is_empty(), "{shown:#?}");
    place.preview_refused(&[calling(json!("{\"town\": "))], &["rows.jsonl:1", "tool_calls[0]", "arguments"]);
}

/// A template that joins the arguments to other text has them as text, from an object too.
#[test]
fn templates_that_need_arguments_as_text_get_them_so() {
    let joins = WITH_TOOLS.replace("{{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}");
    let rows = [calling(json!({"town": "Ulm"})), calling(json!("{\"town\":\"Ulm\"}"))];
    let shown = Place::with_template(&joins).preview(&rows, &[]);
    assert_eq!(shown.supervised[0][0], CALL);
    assert_eq!(shown.texts[0], shown.texts[1]);
}

#[test]
fn parts_of_text_become_what_the_template_takes() {
    let parts = json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "One, "}, {"type": "text", "text": "two?", "image": null}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    ]});
    let text = chat("One, two?", "Yes.");
    let iterates = PLAIN.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}");
    for template in [PLAIN, &iterates] {
        let shown = Place::with_template(template).preview(&[parts.clone(), text.clone()], &[]);
        assert_eq!(
            shown.texts[0],
            "<|im_start|>user\nOne, two?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
        );
        assert_eq!(shown.texts[0], shown.texts[1], "{template}");
        assert_eq!(shown.trained(), ["Yes.<|im_end|>"; 2]);
    }
    let image = json!({"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]},
                                    {"role": "assistant", "content": "A dog."}]});
    Place::with_template(PLAIN).preview_refused(&[image], &["messages[0]", "`image`"]);
}

#[test]
fn an_empty_answer_is_a_bad_row_whatever_the_template() {
    let plus = PLAIN.replace("{{ m.content }}", "{{ '' + m['content'] }}");
    for template in [PLAIN, plus.as_str(), WITH_TOOLS] {
        let place = Place::with_template(template);
        for answer in [
            json!({"role": "assistant", "content": null, "tool_calls": null}),
            json!({"role": "assistant", "content": ""}),
            json!({"role": "assistant", "content": null, "tool_calls": []}),
            json!({"role": "assistant", "tool_calls": null}),
            json!({"role": "assistant", "content": [{"type": "text", "text": " "}]}),
        ] {
            let empty = json!({"messages": [{"role": "user", "content": "Still there?"}, answer]});
            place.preview_refused(
                &[chat("Number 0?", "0."), empty],
                &["rows.jsonl:2", "messages[1]", "empty"],
            );
        }
        let nulls = json!({"messages": [
            {"role": "user", "content": "Hi", "tool_calls": null, "name": null},
            {"role": "assistant", "content": "Hello", "tool_calls": null, "function_call": null},
        ]});
        assert_eq!(place.preview(&[nulls], &[]).trained(), ["Hello<|im_end|>"]);
    }
    let place = Place::with_template(PLAIN);
    place.preview_refused(&[json!({"instruction": "Say", "output": ""})], &["rows.jsonl:1", "`output`"]);
    place.preview_refused(&[json!({"prompt": "Say", "completion": ""})], &["rows.jsonl:1", "`completion`"]);
}

#[test]
fn nulls_of_columns_are_not_trained() {
    let mut row = calling(json!({"town": "Ulm", "unit": null}));
    row["tools"][0]["function"]["parameters"]["properties"]["town"]["enum"] = Value::Null;
    let shown = Place::with_template(WITH_TOOLS).preview(&[row, calling(json!({"town": "Ulm"}))], &[]);
    assert!(!shown.texts[0].contains("null"), "{shown:#?}");
    assert_eq!(shown.texts[0], shown.texts[1]);
}

/// Two answers, of which the first is wrong; `edit` marks it.
fn corrected(edit: impl FnOnce(&mut Value)) -> Value {
    let mut row = json!({"messages": [
        {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "five"},
        {"role": "user", "content": "No."}, {"role": "assistant", "content": "four"},
    ]});
    edit(&mut row);
    row
}

#[test]
fn marks_on_messages_and_rows_are_honoured() {
    for place in [Place::with_template(PLAIN), Place::with_run("lora")] {
        for name in ["weight", "train", "training", "trainable", "loss"] {
            for no in [json!(0), json!(false), json!(0.0)] {
                let row = corrected(|row| {
                    row["messages"][1][name] = no;
                    row["messages"][3][name] = json!(1);
                });
                assert_eq!(place.preview(&[row], &[]).trained(), ["four<|im_end|>"], "{name}");
            }
        }
        let row = corrected(|row| row["loss_mask"] = json!([0, 0, 0, 1]));
        assert_eq!(place.preview(&[row], &[]).trained(), ["four<|im_end|>"]);
        let shared = json!({"system": "Count.", "conversations": [
            {"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "five", "weight": 0},
            {"from": "human", "value": "No."}, {"from": "gpt", "value": "four", "weight": 1},
        ]});
        assert_eq!(place.preview(&[shared], &[]).trained(), ["four<|im_end|>"]);
    }
    let place = Place::with_template(PLAIN);
    for (edit, words) in [
        (json!({"weight": 0.5}), &["messages[1]", "`weight` is 0.5"][..]),
        (json!({"loss": "no"}), &["messages[1]", "`loss`"]),
        (json!({"train_detail": [{"begin_offset": 0}]}), &["messages[1]", "`train_detail`"]),
    ] {
        let row = corrected(|row| {
            row["messages"][1].as_object_mut().expect("it").extend(edit.as_object().expect("it").clone())
        });
        place.preview_refused(&[row], words);
    }
    for (key, value, words) in [
        ("loss_mask", json!([0, 1]), &["`loss_mask` has 2 values for 4 messages"][..]),
        ("loss_mask", json!([0, 0, 0, 2]), &["loss_mask[3]"]),
        ("loss_mask", json!([1, 0, 0, 1]), &["message 0", "user"]),
        ("tool_choice", json!("none"), &["`tool_choice`"]),
        ("weight", json!(0.3), &["`weight`", "0.3"]),
    ] {
        place.preview_refused(&[corrected(|row| row[key] = value)], words);
    }
    let row = corrected(|row| row["loss_mask"] = json!([0, 0, 0, 1]));
    place.write("rows.jsonl", &format!("{row}\n"));
    place
        .run(&["preview", "run.yaml", "--set", "data.supervise=all"])
        .refused(&["message 0", "not to be trained"]);
    let tokens = json!({"input_ids": [5, 6, 7, 8], "loss_mask": [0, 0, 1, 1]});
    assert_eq!(place.preview(&[tokens], &[]).report["label_tokens"], 2);
    place.preview_refused(&[json!({"input_ids": [5, 6], "attention_mask": [1, 0]})], &["attention_mask[1]"]);
    let judged = json!({"prompt": "2+2?", "completion": "five", "label": false});
    place.preview_refused(&[judged], &["`label`"]);
}

#[test]
fn calls_of_sharegpt_become_calls_of_the_template() {
    let row = |call: &str| {
        json!({"tools": json!([tool()]).to_string(), "conversations": [
            {"from": "human", "value": "Rain in Ulm?"}, {"from": "function_call", "value": call},
            {"from": "observation", "value": "3 mm"}, {"from": "gpt", "value": "It rains."},
        ]})
    };
    let place = Place::with_template(WITH_TOOLS);
    let call = "{\"name\": \"rain\", \"arguments\": {\"town\": \"Ulm\"}}";
    let shown = place.preview(&[row(call), calling(json!({"town": "Ulm"}))], &[]);
    assert_eq!(shown.texts[0], shown.texts[1]);
    assert_eq!(shown.supervised[0], [CALL, "It rains.<|im_end|>"]);
    place.preview_refused(&[row("rain(Ulm)")], &["rows.jsonl:1", "conversations[1]", "call of a tool"]);
    let older = json!({"functions": [tool()["function"]], "messages": [
        {"role": "user", "content": "Rain in Ulm?"},
        {"role": "assistant", "content": null, "function_call": {"name": "rain", "arguments": "{\"town\": \"Ulm\"}"}},
        {"role": "function", "content": "3 mm"}, {"role": "assistant", "content": "It rains."},
    ]});
    let shown = place.preview(&[older, calling(json!({"town": "Ulm"}))], &[]);
    assert_eq!(shown.texts[0], shown.texts[1]);
}

#[test]
fn instructions_keep_system_text_and_earlier_turns() {
    let row = json!({"instruction": "And in French?", "input": "", "output": "chien", "system": "You translate.",
                     "history": [["Say dog in German.", "Hund"], ["In Latin?", "canis"]]});
    let shown = Place::with_template(PLAIN).preview(std::slice::from_ref(&row), &[]);
    assert_eq!(shown.trained(), ["Hund<|im_end|>", "canis<|im_end|>", "chien<|im_end|>"]);
    assert!(
        shown.texts[0].starts_with("<|im_start|>system\nYou translate.<|im_end|>\n<|im_start|>user\nSay dog"),
        "{shown:#?}"
    );
    let place = Place::with_template("");
    let shown = place.preview(&[row], &[]);
    assert!(
        shown.texts[0]
            .starts_with("You translate.\n\n### Instruction:\nSay dog in German.\n\n### Response:\nHund\n\n"),
        "{shown:#?}"
    );
    assert_eq!(shown.trained(), ["chien</s>"]);
    let row = json!({"instruction": "q", "output": "a", "history": ["q", "a"]});
    place.preview_refused(&[row], &["history[0]"]);
    let row = json!({"prompt": "q", "completion": "a", "system": "s"});
    place.preview_refused(&[row], &["`system`"]);
}

#[test]
fn json_kept_as_text_is_read() {
    let place = Place::with_template(WITH_TOOLS);
    let messages = chat("One?", "Yes.")["messages"].clone();
    let shared = json!([{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Yes."}]);
    let (prompt, completion) = (json!([messages[0]]), json!([messages[1]]));
    let rows = [
        json!({"messages": messages.to_string()}),
        json!({"conversations": shared.to_string()}),
        json!({"prompt": prompt.to_string(), "completion": completion.to_string()}),
    ];
    let shown = place.preview(&rows, &[]);
    assert_eq!(shown.trained(), ["Yes.<|im_end|>"; 3]);
    assert!(shown.texts.iter().all(|text| *text == shown.texts[0]), "{shown:#?}");
    let with_tools = json!({"messages": messages, "tools": json!([tool()]).to_string()});
    assert!(place.preview(&[with_tools], &[]).texts[0].contains("Rain in a town"));
    for (row, word) in [
        (json!({"messages": "[{\"role\": "}), "`messages`"),
        (json!({"conversations": "nothing"}), "`conversations`"),
        (json!({"prompt": "[{\"role\": \"user\", ", "completion": "[]"}), "`prompt`"),
        (json!({"messages": messages, "tools": "[not json"}), "`tools`"),
    ] {
        place.preview_refused(&[row], &["rows.jsonl:1", word, "not JSON"]);
    }
    // One tool in the place of a list of them.
    let one = json!({"messages": messages, "tools": tool()});
    place.preview_refused(&[one], &["rows.jsonl:1", "`tools` is an object, expected a list"]);
    // An answer may be JSON by itself.
    let answer = json!({"prompt": "People?", "completion": "[{\"role\": \"boss\", \"content\": \"x\"}]"});
    assert_eq!(place.preview(&[answer], &[]).trained(), ["[{\"role\": \"boss\", \"content\": \"x\"}]</s>"]);
}

#[test]
fn null_columns_do_not_decide_the_shape() {
    let place = Place::with_template(PLAIN);
    let with = |row: &Value, names: &[&str]| {
        let mut all = serde_json::Map::from_iter(names.iter().map(|name| ((*name).to_string(), Value::Null)));
        all.extend(row.as_object().expect("a row").clone());
        Value::Object(all)
    };
    let one = chat("One?", "Yes.");
    let shared =
        json!({"conversations": [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Yes."}]});
    let rows = [
        with(&one, &["text"]),
        with(&shared, &["messages"]),
        with(&one, &["instruction", "output", "conversations"]),
        with(&one, &["prompt", "completion"]),
        with(&json!({"text": "Plain words."}), &["messages"]),
    ];
    let shown = place.preview(&rows, &[]);
    assert_eq!(shown.trained()[..4], ["Yes.<|im_end|>"; 4]);
    assert_eq!(shown.trained()[4], "Plain words.</s>");
    place.preview_refused(&[json!({"messages": null, "text": null})], &["no known shape", "(null)"]);
}

#[test]
fn roles_are_known_in_any_case_or_refused() {
    let place = Place::with_template(PLAIN);
    let row = |user: &str, assistant: &str| json!({"messages": [{"role": user, "content": "a"}, {"role": assistant, "content": "b"}]});
    let rows = [row("Human", "Assistant"), row(" user ", "bing"), row("USER", "ai"), row("human", "GPT ")];
    let shown = place.preview(&rows, &[]);
    assert_eq!(shown.trained(), ["b<|im_end|>"; 4]);
    assert!(
        shown
            .texts
            .iter()
            .all(|text| *text == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n")
    );
    let out =
        place.preview_refused(&[row("user", "narrator")], &["rows.jsonl:1", "messages[1]", "`narrator`"]);
    assert!(out.stderr.lines().any(|l| l.starts_with("hint: ") && l.contains("assistant")), "{out:#?}");
    let developer = json!({"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": "a"},
                                        {"role": "assistant", "content": "b"}]});
    assert!(
        place.preview(std::slice::from_ref(&developer), &[]).texts[0].starts_with("<|im_start|>system\ns")
    );
    let knows = format!(
        "{{% if messages[0].role == 'developer' or messages[0].role == 'narrator' %}}!{{% endif %}}{PLAIN}"
    );
    let place = Place::with_template(&knows);
    assert!(place.preview(&[developer], &[]).texts[0].starts_with("!<|im_start|>developer\ns"));
    assert!(place.preview(&[json!({"messages": [{"role": "narrator", "content": "a"}, {"role": "assistant", "content": "b"}]})], &[])
        .texts[0].starts_with("!<|im_start|>narrator"));
}
