//! Columns under other names: common ones are recognized and said, `data.columns` maps any.

use serde_json::json;

use super::helper::{PLAIN, Place};

const CHAT: &str = "<|im_start|>user\nWhat is 2?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n";

#[test]
fn tables_by_common_names_are_the_chat_that_they_mean() {
    let place = Place::with_template(PLAIN);
    for row in [
        json!({"instruction": "What is 2?", "output": "Two."}),
        json!({"question": "What is 2?", "answer": "Two.", "id": 7, "tags": ["a"]}),
        json!({"Question": "What is 2?", "Answer": "Two."}),
        json!({"prompt": "What is 2?", "response": "Two."}),
        json!({"input": "What is 2?", "output": "Two."}),
        json!({"query": "What is 2?", "context": null, "reply": "Two."}),
        json!({"dialogue": [{"role": "user", "content": "What is 2?"}, {"role": "assistant", "content": "Two."}]}),
        json!({"chat": "[{\"role\": \"user\", \"content\": \"What is 2?\"}, {\"role\": \"assistant\", \"content\": \"Two.\"}]"}),
    ] {
        let shown = place.preview(std::slice::from_ref(&row), &[]);
        assert_eq!(shown.texts, [CHAT], "{row}");
        assert_eq!(shown.trained(), ["Two.<|im_end|>"], "{row}");
    }
    let rows = [json!({"question": "A?", "answer": "B."}), json!({"text": "c"}), json!({"content": "d"})];
    let shown = place.preview(&rows, &[]);
    let expected = json!({
        "instructions (`question` as `instruction`, `answer` as `output`)": 1,
        "texts": 1, "texts (`content` as `text`)": 1,
    });
    assert_eq!(shown.report["shapes"], expected);
    let said = place.run(&["train", "run.yaml", "--set", "train.max_steps=1"]).ok().stderr;
    assert!(
        said.contains("shapes: 1 instructions (`question` as `instruction`, `answer` as `output`)"),
        "{said}"
    );
    // A context comes before its question's answer, as Alpaca has it.
    let shown =
        place.preview(&[json!({"instruction": "Who?", "context": "Ada lived.", "response": "Ada."})], &[]);
    assert!(shown.texts[0].contains("Who?\n\nAda lived."), "{shown:#?}");
}

#[test]
fn what_may_mean_two_things_is_refused_and_can_be_mapped() {
    let place = Place::with_template(PLAIN);
    let row = json!({"question": "What is 2?", "answer": "2", "response": "Two."});
    place.preview_refused(
        std::slice::from_ref(&row),
        &["rows.jsonl:1", "`answer` or `response`", "data.columns"],
    );
    let shown = place.preview(&[row], &["data.columns={instruction: question, output: response}"]);
    assert_eq!(shown.texts, [CHAT]);
    let pair = json!({"prompt": "What is 2?", "chosen": "Two.", "rejected": "Three."});
    place.preview_refused(std::slice::from_ref(&pair), &["rows.jsonl:1", "preferences", "data.columns"]);
    let shown = place.preview(&[pair], &["data.columns={instruction: prompt, output: chosen}"]);
    assert_eq!(shown.texts, [CHAT]);
    // Mapped columns decide alone: `messages` is another thing here.
    let row = json!({"messages": 3, "Frage": "What is 2?", "Antwort": "Two."});
    let shown = place.preview(&[row], &["data.columns={instruction: Frage, output: Antwort}"]);
    assert_eq!(shown.texts, [CHAT]);
    for (set, words) in [
        (
            "data.columns={output: Antwort, instruction: Farge}",
            &["rows.jsonl:1", "no `Farge`", "`Frage`"][..],
        ),
        ("data.columns={Frage: instruction}", &["data.columns", "`Frage`", "one of messages"]),
    ] {
        place.run(&["preview", "run.yaml", "--set", set]).refused(words);
    }
}
