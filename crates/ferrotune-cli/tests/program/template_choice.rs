//! `data.template`: another chat template for a run, in its results, and for what is asked of them.

use serde_json::{Value, json};

use super::helper::{PLAIN, Place, WITH_TOOLS, model, run_file};

/// Another form of turns, with the tokens that the tiny model has.
const OTHER: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}\
    {% if add_generation_prompt %}[assistant] {% endif %}";

fn chat() -> Value {
    json!({"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}]})
}

const AS_OTHER: &str = "[user] a?</s>[assistant] b.</s>";

#[test]
fn a_template_is_named_in_three_ways() {
    let place = Place::with_template(PLAIN);
    place.write("other.jinja", OTHER);
    let by_file = place.preview(&[chat()], &["data.template=other.jinja"]);
    assert_eq!(by_file.texts, [AS_OTHER]);
    assert_eq!(by_file.trained(), ["b.</s>"]);
    // The text itself stands in the run file.
    let run = place.read("run.yaml");
    let text = serde_json::to_string(OTHER).unwrap();
    place
        .write("inline.yaml", &run.replace("max_length: 512", &format!("max_length: 512, template: {text}")));
    let out = place.run(&["preview", "inline.yaml"]).ok();
    assert!(out.stdout.contains("[user] a?</s>[assistant] ⟦b.</s>⟧"), "{}", out.stdout);
    // Names of templates that the model has beside its default.
    place.write("model/additional_chat_templates/tool_use.jinja", WITH_TOOLS);
    place.write("model/additional_chat_templates/short.jinja", OTHER);
    assert_eq!(place.preview(&[chat()], &["data.template=short"]).texts, [AS_OTHER]);
    let mut tools = chat();
    tools["tools"] = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let written = |set: &[&str]| place.preview(std::slice::from_ref(&tools), set).texts[0].contains("Tools:");
    assert!(written(&[]), "chats with tools have the template for tools");
    assert!(!written(&["data.template=default"]));
    assert!(written(&["data.template=tool_use"]));
    let refused = |value: &str, words: &[&str]| {
        place.run(&["preview", "run.yaml", "--set", &format!("data.template={value}")]).refused(words);
    };
    refused("tools", &["data.template", "`tools`", "default, tool_use, short", "a .jinja file"]);
    refused("'{% for %}'", &["data.template", "not valid Jinja"]);
    place.write("bytes.jinja", "x");
    std::fs::write(place.path("bytes.jinja"), [0xff, 0xfe, b'{']).unwrap();
    refused("bytes.jinja", &["bytes.jinja", "not UTF-8"]);
    // A model without a template has one then.
    let plain = Place::with_template("");
    plain.write("other.jinja", OTHER);
    assert_eq!(plain.preview(&[chat()], &["data.template=other.jinja"]).texts, [AS_OTHER]);
}

#[test]
fn a_list_of_templates_in_the_tokenizers_configuration_has_names_too() {
    let place = Place::with_run("lora");
    let copy = place.copy_of(&model("llama3_rope"), "model");
    let mut config = place.json("model/tokenizer_config.json");
    config["chat_template"] =
        json!([{"name": "default", "template": PLAIN}, {"name": "rag", "template": OTHER}]);
    place.write("model/tokenizer_config.json", &config.to_string());
    place.write("run.yaml", &run_file(&copy, "lora"));
    assert_eq!(place.preview(&[chat()], &["data.template=rag"]).texts, [AS_OTHER]);
    assert_ne!(place.preview(&[chat()], &["data.template=default"]).texts, [AS_OTHER]);
}

#[test]
fn results_have_the_template_that_they_were_trained_with() {
    let place = Place::with_template(PLAIN);
    place.write("model/additional_chat_templates/tool_use.jinja", WITH_TOOLS);
    place.write("other.jinja", OTHER);
    place.preview(&vec![chat(); 8], &[]);
    for (kind, folder) in [("lora", "out"), ("full", "full")] {
        let set = [format!("method.kind={kind}"), format!("output.dir={folder}")];
        let args =
            ["train", "run.yaml", "--set", "data.template=other.jinja", "--set", &set[0], "--set", &set[1]];
        place.run(&args).ok();
    }
    place.run(&["merge", "out", "--output", "merged"]).ok();
    // The file of the template is not needed any more.
    std::fs::remove_file(place.path("other.jinja")).unwrap();
    let ask = |model: &str, more: &[&str]| {
        let args = [&["eval", model, "--data", "rows.jsonl", "--json"][..], more].concat();
        place.run(&args).eval_loss()
    };
    let losses: Vec<f64> = ["out", "full", "merged"].iter().map(|model| ask(model, &[])).collect();
    for folder in ["out", "full", "merged"] {
        assert_eq!(place.read(&format!("{folder}/chat_template.jinja")), OTHER, "{folder}");
        assert!(!place.path(&format!("{folder}/additional_chat_templates")).exists(), "{folder}");
        let config = place.json(&format!("{folder}/tokenizer_config.json"));
        assert_eq!(config.get("chat_template"), None, "{folder}");
    }
    assert!((losses[0] - losses[2]).abs() < 1e-3, "{losses:?}");
    assert!(losses.iter().all(|loss| *loss < 2.0), "{losses:?}");
    // A combination has the template that its adapters share.
    place.run(&["combine", "out", "out", "--weights", "0.5,0.5", "--output", "both"]).ok();
    assert_eq!(place.read("both/chat_template.jinja"), OTHER);
    assert!((ask("both", &[]) - losses[0]).abs() < 1e-3);
    place.run(&["combine", "both", "--output", "again"]).ok();
    assert_eq!(place.read("again/chat_template.jinja"), OTHER);
    place.run(&["train", "run.yaml", "--set", "output.dir=own"]).ok();
    let mixed = place.run(&["combine", "out", "own", "--output", "mixed"]).ok();
    assert!(mixed.stderr.contains("different chat templates"), "{mixed:#?}");
    assert!(!place.path("mixed/chat_template.jinja").exists());
    // What is asked for on the command line counts more.
    let base = place.path("model/chat_template.jinja").display().to_string();
    assert!(ask("out", &["--template", &base]) > 2.0 * losses[0]);
    assert!((ask("out", &["--template", OTHER]) - losses[0]).abs() < 1e-6);
    let answer = |more: &[&str]| {
        let args =
            [&["generate", "out", "--prompt", "a?", "--temperature", "0", "--json"][..], more].concat();
        place.run(&args).json()
    };
    assert_eq!(answer(&[])["text"], "b.", "{}", answer(&[]));
    assert_ne!(answer(&["--template", &base])["text"], Value::Null);
    place.run(&["generate", "out", "--prompt", "a?", "--template", "none"]).refused(&["`none`", "neither"]);
    // An adapter folder without its template says so.
    std::fs::remove_file(place.path("out/chat_template.jinja")).unwrap();
    place.run(&["eval", "out", "--data", "rows.jsonl"]).refused(&["chat_template.jinja", "trained with"]);
}
