//! Vocabularies: words, pieces, ends of answers, refusals.

use super::*;

/// Each way of splitting words, on a text that tells them apart.
#[test]
fn words_are_split_as_the_file_names_it() {
    let split = |pre: Option<&str>| -> Vec<String> {
        let mut file = Builder::new();
        file.text("tokenizer.ggml.model", "gpt2");
        if let Some(pre) = pre {
            file.text("tokenizer.ggml.pre", pre);
        }
        file.texts("tokenizer.ggml.tokens", &["a", "b", "ab", "<s>"]);
        file.texts("tokenizer.ggml.merges", &["a b", "a x"]);
        let json = file.open().unwrap().tokenizer_json().unwrap();
        let tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
        let text = "I'M it's 12345 $9.x  \n";
        let mut words = tokenizers::PreTokenizedString::from(text);
        let splitter = tokenizer.get_pre_tokenizer().unwrap();
        tokenizers::PreTokenizer::pre_tokenize(splitter, &mut words).unwrap();
        let parts = words.get_splits(tokenizers::OffsetReferential::Original, tokenizers::OffsetType::Byte);
        parts.into_iter().map(|(_, (from, to), _)| text[from..to].to_string()).collect()
    };
    assert_eq!(split(Some("gpt-2")), ["I", "'", "M", " it", "'s", " 12345", " $", "9", ".", "x", "  \n"]);
    assert_eq!(
        split(Some("smollm")),
        ["I", "'", "M", " it", "'s", " ", "1", "2", "3", "4", "5", " $", "9", ".", "x", "  \n"]
    );
    assert_eq!(split(Some("llama-bpe")), ["I", "'M", " it", "'s", " ", "123", "45", " $", "9", ".x", "  \n"]);
    assert_eq!(
        split(Some("qwen2")),
        ["I", "'M", " it", "'s", " ", "1", "2", "3", "4", "5", " $", "9", ".x", "  \n"]
    );
    assert_eq!(split(Some("tekken"))[..6], ["I", "'M", " it", "'s", " ", "1"]);
    assert_eq!(
        split(Some("gpt-4o")),
        ["I'M", " it's", " ", "123", "45", " $", "9", ".x", "  \n"],
        "a contraction stays with its word"
    );
    assert_eq!(split(None), split(Some("default")));
    assert_eq!(split(None)[..7], ["I", "'", "M", " it", "'", "s", " "]);
}

/// User-defined pieces of spaces, in both spellings that converters used, and what stands behind Phi 3's markers.
#[test]
fn pieces_of_spaces_and_markers_are_found() {
    let ids = |architecture: &str, text: &str| -> Vec<u32> {
        let mut file = Builder::of(architecture);
        file.text("tokenizer.ggml.model", "llama");
        let tokens = ["<unk>", "<s>", "<|end|>", "a", "b", "ab", "▁", "▁a", "  ", "▁▁▁", "<0x0A>"];
        file.texts("tokenizer.ggml.tokens", &tokens);
        let scores = (0..tokens.len()).map(|i| (-(i as f32)).to_le_bytes().to_vec()).collect();
        file.array("tokenizer.ggml.scores", 6, scores);
        let kinds = [2, 3, 3, 1, 1, 1, 1, 1, 4, 4, 6].map(|t: i32| t.to_le_bytes().to_vec());
        file.array("tokenizer.ggml.token_type", 5, kinds.to_vec());
        file.key("tokenizer.ggml.add_space_prefix", 7, vec![(architecture == "phi3") as u8]);
        let json = file.open().unwrap().tokenizer_json().unwrap();
        tokenizers::Tokenizer::from_bytes(json).unwrap().encode(text, false).unwrap().get_ids().to_vec()
    };
    assert_eq!(ids("gemma2", " a"), [7]);
    assert_eq!(ids("gemma2", "a  b"), [3, 8, 4]);
    assert_eq!(ids("gemma2", "a   ab"), [3, 9, 5]);
    assert_eq!(ids("gemma2", "a<|end|>\nb"), [3, 2, 10, 4]);
    assert_eq!(ids("phi3", "a<|end|>\n"), [7, 2]);
    assert_eq!(ids("phi3", "<s>\n"), [1, 6, 10]);
}

/// Gemma's files name `<eos>` only, and an answer would go on behind its turn.
#[test]
fn answers_end_where_the_template_ends_a_turn() {
    let ends = |architecture: &str, template: Option<&str>| {
        let mut file = Builder::of(architecture);
        file.texts("tokenizer.ggml.tokens", &["a", "<eos>", "<end_of_turn>"]);
        file.count("tokenizer.ggml.eos_token_id", 1);
        if let Some(template) = template {
            file.text("tokenizer.chat_template", template);
        }
        file.open().unwrap().eos_ids().unwrap()
    };
    assert_eq!(ends("gemma3", Some("{{ message }}<end_of_turn>")), [1, 2]);
    assert_eq!(ends("gemma3", None), [1]);
    assert_eq!(ends("llama", Some("{{ message }}<end_of_turn>")), [1]);
}

#[test]
fn a_template_for_tools_is_read_and_written_beside_the_other() {
    let mut file = Builder::of("llama");
    file.texts("tokenizer.ggml.tokens", &["a", "<eos>"]);
    file.text("tokenizer.ggml.model", "gpt2");
    file.text("tokenizer.ggml.pre", "gpt-2");
    file.texts("tokenizer.ggml.merges", &[]);
    file.text("tokenizer.chat_template", "D");
    assert_eq!(file.open().unwrap().tool_template().unwrap(), None);
    file.text("tokenizer.chat_template.tool_use", "T");
    let opened = file.open().unwrap();
    assert_eq!(opened.tool_template().unwrap().as_deref(), Some("T"));
    let files = opened.sidecars().unwrap();
    let (_, config) = files.iter().find(|(name, _)| name == "tokenizer_config.json").unwrap();
    let config: serde_json::Value = serde_json::from_slice(config).unwrap();
    assert_eq!(config["chat_template"][1], serde_json::json!({"name": "tool_use", "template": "T"}));
}

#[test]
fn vocabularies_that_cannot_be_are_refused() {
    let refusal = |change: fn(&mut Builder)| {
        let mut file = Builder::new();
        file.text("tokenizer.ggml.model", "gpt2");
        file.text("tokenizer.ggml.pre", "gpt-2");
        file.texts("tokenizer.ggml.tokens", &["a", "b", "ab"]);
        file.texts("tokenizer.ggml.merges", &["a b"]);
        assert!(file.open().unwrap().tokenizer_json().is_ok());
        change(&mut file);
        file.open().unwrap().tokenizer_json().unwrap_err().to_string()
    };
    type Change = fn(&mut Builder);
    let cases: [(Change, &str); 8] = [
        (|f| f.text("tokenizer.ggml.model", "bert"), "`bert`"),
        (|f| f.text("tokenizer.ggml.pre", "viking"), "`viking`"),
        (|f| f.keys.retain(|k| k.0 != "tokenizer.ggml.merges"), "merges"),
        (|f| f.texts("tokenizer.ggml.merges", &["ab"]), "`ab`"),
        (|f| f.keys.retain(|k| k.0 != "tokenizer.ggml.tokens"), "tokens"),
        (|f| f.array("tokenizer.ggml.tokens", 5, vec![vec![0; 4]]), "array of strings"),
        (|f| f.array("tokenizer.ggml.token_type", 5, vec![vec![0; 4]]), "expected 3"),
        (|f| f.text("tokenizer.ggml.model", "llama"), "scores"),
    ];
    for (change, word) in cases {
        let message = refusal(change);
        assert!(message.contains(word), "{message} does not say {word}");
    }
}
