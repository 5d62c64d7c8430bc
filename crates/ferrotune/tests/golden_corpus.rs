//! Token ids of texts that tokenizers get wrong, against the Python package (`testdata/make/corpus.py`): scripts without
//! blanks, emoji, code, odd white space, and words of control tokens.

use std::path::Path;

use ferrotune::data::chat_template::ChatTemplate;
use ferrotune::data::dataset::{Chat, Example};
use ferrotune::data::tokenize::{PrepareOptions, Preparer};
use ferrotune::data::tokenizer::{Tokenizer, TokenizerSettings};
use ferrotune::run_config::DataOptions;
use serde_json::{Map, Value, json};

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// Each tokenizer with its case and the texts.
fn each(run: impl Fn(&Tokenizer, &Value, &[String])) {
    let corpus: Value = serde_json::from_str(&golden("sft/corpus.json")).unwrap();
    let texts: Vec<String> =
        corpus["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_string()).collect();
    for case in corpus["cases"].as_array().unwrap() {
        let json = match case.get("tokenizer") {
            Some(tokenizer) => tokenizer.to_string(),
            None => golden(case["name"].as_str().unwrap()),
        };
        let tokenizer = Tokenizer::new(json.as_bytes(), TokenizerSettings::default(), "t").unwrap();
        run(&tokenizer, case, &texts);
    }
}

fn preparer(tokenizer: &Tokenizer, split: Option<bool>) -> Preparer<'_> {
    let data = DataOptions { split_special_tokens: split, ..DataOptions::default() };
    Preparer::new(tokenizer, None, PrepareOptions::from(&data))
}

#[test]
fn texts_have_the_ids_of_the_python_tokenizer() {
    each(|tokenizer, case, texts| {
        for (i, text) in texts.iter().enumerate() {
            for (split, name) in [(None, "ids"), (Some(false), "ids"), (Some(true), "split")] {
                let made = preparer(tokenizer, split).rows(&Example::Text(text.clone())).unwrap();
                assert_eq!(json!(made.rows[0].input_ids), case[name][i], "{} {name} {text:?}", case["name"]);
            }
        }
    });
}

#[test]
fn a_message_has_the_ids_of_its_text_whatever_it_says() {
    each(|tokenizer, case, texts| {
        let template = ChatTemplate::parse(CHATML, Map::new()).unwrap();
        let ids = |split, text: &str| {
            let data = DataOptions { split_special_tokens: split, ..DataOptions::default() };
            let preparer = Preparer::new(tokenizer, Some(&template), PrepareOptions::from(&data));
            let message = |role: &str, content: &str| json!({"role": role, "content": content});
            let messages = vec![message("user", text), message("assistant", text)];
            let made = preparer.rows(&Example::Chat(Chat { messages, ..Chat::default() })).unwrap();
            let row = made.rows[0].clone();
            let trained: Vec<u32> = row.labels.iter().filter_map(|l| u32::try_from(*l).ok()).collect();
            (row.input_ids, trained, made.control_words)
        };
        let control: Vec<u32> = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<pad>"]
            .iter()
            .filter_map(|w| tokenizer.id(w))
            .collect();
        for text in texts {
            let (all, trained, found) = ids(None, text);
            // Two turns have two control tokens each, and an answer ends with the last of them.
            let count = |ids: &[u32]| ids.iter().filter(|id| control.contains(id)).count();
            assert_eq!(count(&all), 4, "{} {text:?}", case["name"]);
            assert_eq!(count(&trained), 1, "{} {text:?}", case["name"]);
            let decoded = tokenizer.decode(&all, false).unwrap();
            let (as_tokens, ..) = ids(Some(false), text);
            assert_eq!(decoded, tokenizer.decode(&as_tokens, false).unwrap(), "the text is the same");
            assert_eq!(found, all != as_tokens, "{text:?}");
            assert_eq!(found, ["<|im_end|>", "<s>"].iter().any(|word| text.contains(word)), "{text:?}");
        }
    });
}
