//! What a run says of all its rows holds for whatever is asked of its result: variables of the chat template, the system
//! message, names of columns.

use serde_json::json;

use super::helper::Place;

/// Says in the header whether thoughts are on.
const THINKING: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if false %}{{ enable_thinking }}{% endif %}";

fn with_header() -> String {
    THINKING.replacen(
        "<|im_start|>",
        "{% if m.role == 'user' and enable_thinking is defined and not enable_thinking %}off {% endif %}<|im_start|>",
        1,
    )
}

fn chat(extra: serde_json::Value) -> serde_json::Value {
    json!({"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}],
           "chat_template_kwargs": extra})
}

const OFF: &str = "data.template_variables={enable_thinking: false}";

#[test]
fn variables_hold_for_all_rows_and_a_row_has_the_last_word() {
    let place = Place::with_template(&with_header());
    let rows = [chat(json!({})), chat(json!({"enable_thinking": true}))];
    let on = "<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\nb.<|im_end|>\n".to_string();
    assert_eq!(place.preview(&rows, &[]).texts, [on.clone(), on.clone()]);
    assert_eq!(place.preview(&rows, &[OFF]).texts, [format!("off {on}"), on]);
    let wrong = "data.template_variables={enable_thinkin: false}";
    place.run(&["preview", "run.yaml", "--set", wrong]).refused(&[
        "data.template_variables",
        "`enable_thinkin`",
        "does not know it",
    ]);
    let plain = Place::with_template("");
    plain.write("rows.jsonl", "{\"text\": \"a\"}\n");
    plain
        .run(&["preview", "run.yaml", "--set", OFF])
        .refused(&["data.template_variables", "no chat template"]);
}

#[test]
fn what_was_trained_is_asked_with_the_same_variables() {
    let place = Place::with_template(&with_header());
    place.preview(&vec![chat(json!({})); 8], &[]);
    for (kind, folder) in [("lora", "out"), ("full", "full")] {
        let dir = format!("output.dir={folder}");
        let kind = format!("method.kind={kind}");
        place
            .run(&[
                "train",
                "run.yaml",
                "--set",
                OFF,
                "--set",
                &dir,
                "--set",
                &kind,
                "--set",
                "train.max_steps=3",
            ])
            .ok();
        let loss = |variable: &[&str]| {
            let args = ["--json", "eval", folder, "--data", "rows.jsonl"];
            place.run(&[&args[..], variable].concat()).eval_loss()
        };
        let own = loss(&[]);
        assert_eq!(own, loss(&["--template-variable", "enable_thinking=false"]), "{folder}");
        assert_ne!(own, loss(&["--template-variable", "enable_thinking=true"]), "{folder}");
    }
    let model = place.path("model").display().to_string();
    for command in [
        &["generate", &model, "-p", "a?", "--max-new-tokens", "1"][..],
        &["eval", &model, "--data", "rows.jsonl"],
    ] {
        place.run(&[command, &["--template-variable", "enable_thinking=false"]].concat()).ok();
        place.run(&[command, &["--template-variable", "x=1"]].concat()).refused(&["`x`", "does not know it"]);
        place.run(&[command, &["--template-variable", "x"]].concat()).misused(&["NAME=VALUE"]);
    }
}

#[test]
fn a_result_is_evaluated_on_rows_as_it_was_trained_on_them() {
    let place = Place::with_template(&with_header());
    let row = json!({"Frage": "a?", "Antwort": "b.", "text": "another column"});
    place.preview_refused(&[json!({"Frage": "a?", "Antwort": "b."})], &["no known shape"]);
    let columns = "data.columns={instruction: Frage, output: Antwort}";
    place.preview(&vec![row; 8], &[columns]);
    let system = "data.system=Be short.";
    place.run(&["train", "run.yaml", "--set", columns, "--set", system, "--set", "train.max_steps=3"]).ok();
    let own = place.run(&["--json", "eval", "out", "--data", "rows.jsonl"]).eval_loss();
    let messages = |system: bool| {
        let mut messages = vec![json!({"role": "system", "content": "Be short."})];
        messages.retain(|_| system);
        messages.extend([
            json!({"role": "user", "content": "a?"}),
            json!({"role": "assistant", "content": "b."}),
        ]);
        json!({"messages": messages})
    };
    place.write("with.jsonl", &format!("{}\n", messages(true)));
    assert_eq!(
        own,
        place.run(&["--json", "eval", "model", "--adapter", "out", "--data", "with.jsonl"]).eval_loss()
    );
    // What is answered begins with it too, unless another one is asked for.
    let tokens = |system: &[&str]| {
        let args = ["--json", "generate", "out", "-p", "a?", "--max-new-tokens", "1"];
        let out = place.run(&[&args[..], system].concat()).json();
        out["prompt_tokens"].as_u64().expect("a count")
    };
    assert_eq!(tokens(&[]), tokens(&["--system", "Be short."]));
    assert!(tokens(&[]) > tokens(&["--system", ""]));
}
