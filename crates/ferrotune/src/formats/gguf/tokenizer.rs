//! A `tokenizer.json` from the vocabulary of a GGUF file.
//!
//! Two kinds exist: `gpt2`, byte-level BPE whose way of splitting words is named by `tokenizer.ggml.pre`, and
//! `llama`, SentencePiece BPE whose merges follow from the scores of the pieces.

use std::collections::{BTreeMap, HashMap};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::arch::Arch;
use super::file::GgufFile;
use crate::Result;

/// Kinds of tokens, in the file's numbers.
mod kind {
    pub(super) const UNKNOWN: i32 = 2;
    pub(super) const CONTROL: i32 = 3;
    pub(super) const USER_DEFINED: i32 = 4;
}

/// How the metadata calls a role, and what Hugging Face calls it.
const ROLES: [(&str, &str); 5] = [
    ("bos", "bos_token"),
    ("eos", "eos_token"),
    ("unknown", "unk_token"),
    ("padding", "pad_token"),
    ("seperator", "sep_token"),
];

const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN_WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O_WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The id of a token by role (`bos`, `eos`, `eot`, ...), if it is in the vocabulary.
pub(super) fn token_id(file: &GgufFile, role: &str) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{role}_token_id");
    // 2^32 - 1 and the like stand for none.
    Ok(file.unsigned(&key)?.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX))
}

/// The id of a token by its text.
pub(super) fn id_of(file: &GgufFile, text: &str) -> Result<Option<u32>> {
    let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    Ok(tokens.iter().position(|token| *token == text).and_then(|id| u32::try_from(id).ok()))
}

/// The special tokens by role.
pub(super) fn special_tokens(file: &GgufFile) -> Result<BTreeMap<String, String>> {
    let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let mut found = BTreeMap::new();
    for (role, name) in ROLES {
        if let Some(text) = token_id(file, role)?.and_then(|id| tokens.get(id as usize)) {
            found.insert(name.to_string(), text.to_string());
        }
    }
    Ok(found)
}

/// The name of the way to split words, if the file has one.
fn splitting(file: &GgufFile) -> Result<Option<&str>> {
    Ok(file.text("tokenizer.ggml.pre")?.filter(|name| !name.is_empty()))
}

/// What a user should know of the vocabulary: without its way to split words, a default one is taken, as llama.cpp does,
/// and texts become other tokens than those that the model was trained with.
pub(super) fn warning(file: &GgufFile) -> Result<Option<String>> {
    let needed = file.text("tokenizer.ggml.model")? == Some("gpt2");
    if !needed || splitting(file)?.is_some() {
        return Ok(None);
    }
    Ok(Some(format!(
        "{}: `tokenizer.ggml.pre` is missing, so words are split by the rules named `default`, as llama.cpp does; they are \
         hardly those of the model, and its losses and answers are worse for it. A file of a newer converter names them, \
         and the model's Hugging Face folder has its own tokenizer.json",
        file.path().display()
    )))
}

/// Whether a beginning-of-sequence token is put in front of a text.
pub(super) fn add_bos(file: &GgufFile) -> Result<bool> {
    let spm = file.text("tokenizer.ggml.model")? == Some("llama");
    let llama3 = matches!(splitting(file)?, Some("llama-bpe" | "llama3" | "llama-v3"));
    Ok(file.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(spm || llama3))
}

/// A `tokenizer.json`. Large vocabularies have half a million merges; they are written from here and never become
/// values of JSON, which would take some hundred megabytes.
#[derive(Serialize)]
struct Document<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Bpe<'a>,
}

#[derive(Serialize)]
struct Bpe<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'a str>,
    end_of_word_suffix: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocabulary<'a>,
    merges: Vec<(&'a str, &'a str)>,
}

/// Tokens with their ids. Of two entries with one text only the first can be reached by encoding.
struct Vocabulary<'a> {
    ids: HashMap<&'a str, usize>,
    tokens: &'a [&'a str],
}

impl<'a> Vocabulary<'a> {
    fn new(tokens: &'a [&'a str]) -> Self {
        let ids = tokens.iter().enumerate().rev().map(|(id, token)| (*token, id)).collect();
        Vocabulary { ids, tokens }
    }
}

impl Serialize for Vocabulary<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let entries = self.tokens.iter().enumerate().map(|(id, token)| (token, id));
        to.collect_map(entries.filter(|(token, id)| self.ids.get(**token) == Some(id)))
    }
}

/// The `tokenizer.json`.
pub(super) fn build(file: &GgufFile, arch: &Arch) -> Result<Vec<u8>> {
    let key = "tokenizer.ggml.tokens";
    let tokens = file.texts(key)?.ok_or_else(|| file.bad(key, "missing, the file has no vocabulary"))?;
    let key = "tokenizer.ggml.token_type";
    let kinds = file.integers(key)?.unwrap_or_else(|| vec![1; tokens.len()]);
    if kinds.len() != tokens.len() {
        return Err(file.bad(key, format!("{} entries found, expected {}", kinds.len(), tokens.len())));
    }
    let model = file.text("tokenizer.ggml.model")?;
    let pieces = model == Some("llama");
    let mut document = match model {
        Some("gpt2") => byte_level(file, &tokens)?,
        Some("llama") => sentence_piece(file, &tokens)?,
        Some(other) => {
            return Err(file.bad("tokenizer.ggml.model", format!("`{other}` is not supported (gpt2, llama)")));
        }
        None => return Err(file.bad("tokenizer.ggml.model", "missing")),
    };
    // SentencePiece looks for its user-defined pieces (runs of spaces, in Gemma's) where spaces are `▁` already. A
    // normalizer that puts one in front would change them too; such vocabularies have none that could be missed.
    let normalized = pieces && !space_prefix(file)?;
    let keeps = arch.rstrip_but.filter(|_| pieces);
    let added = |(id, (token, kind)): (usize, (&&str, &i32))| {
        let special = matches!(*kind, kind::CONTROL | kind::UNKNOWN);
        (special || *kind == kind::USER_DEFINED).then(|| {
            let rstrip = keeps.is_some_and(|keeps| !keeps.contains(token));
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": rstrip,
                   "normalized": normalized && !special, "special": special})
        })
    };
    document.added_tokens = tokens.iter().zip(&kinds).enumerate().filter_map(added).collect();
    document.post_processor = post_processor(file, &tokens)?;
    serde_json::to_vec(&document).map_err(|e| file.bad("tokenizer.ggml.tokens", e))
}

/// The parts that both kinds of vocabularies share.
fn document<'a>(parts: [Value; 3], vocab: Vocabulary<'a>, merges: Vec<(&'a str, &'a str)>) -> Document<'a> {
    let [normalizer, pre_tokenizer, decoder] = parts;
    Document {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: Vec::new(),
        normalizer,
        pre_tokenizer,
        post_processor: Value::Null,
        decoder,
        model: Bpe {
            kind: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab,
            merges,
        },
    }
}

/// Puts the beginning and end tokens around a text, where the file asks for it.
fn post_processor(file: &GgufFile, tokens: &[&str]) -> Result<Value> {
    let named = |role: &str, on: bool| -> Result<Option<(u32, String)>> {
        let id = if on { token_id(file, role)? } else { None };
        Ok(id.and_then(|id| Some((id, tokens.get(id as usize)?.to_string()))))
    };
    let bos = named("bos", add_bos(file)?)?;
    let eos = named("eos", file.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false))?;
    if bos.is_none() && eos.is_none() {
        return Ok(Value::Null);
    }
    let mut special = Map::new();
    for (id, text) in bos.iter().chain(&eos) {
        special.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
    }
    let sequence = |ids: &[(&str, u8)]| {
        let mut parts = Vec::new();
        for (id, kind) in ids {
            let token = |t: &Option<(u32, String)>| {
                t.as_ref().map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": kind}}))
            };
            parts.extend(token(&bos));
            parts.push(json!({"Sequence": {"id": id, "type_id": kind}}));
            parts.extend(token(&eos));
        }
        Value::from(parts)
    };
    Ok(json!({"type": "TemplateProcessing", "single": sequence(&[("A", 0)]),
              "pair": sequence(&[("A", 0), ("B", 1)]), "special_tokens": special}))
}

fn byte_level<'a>(file: &'a GgufFile, tokens: &'a [&'a str]) -> Result<Document<'a>> {
    let vocab = Vocabulary::new(tokens);
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes = |words: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": words});
    let chain = |parts: Vec<Value>| json!({"type": "Sequence", "pretokenizers": parts});
    let pre = splitting(file)?.unwrap_or("default");
    let (mut normalizer, mut whole_words) = (Value::Null, false);
    let pre_tokenizer = match pre {
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" => bytes(true),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" => {
            chain(vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)])
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "dbrx" | "smaug-bpe" => {
            whole_words = !matches!(pre, "dbrx" | "smaug-bpe");
            chain(vec![split(LLAMA3_WORDS), bytes(false)])
        }
        "qwen2" | "deepseek-r1-qwen" | "megrez" => {
            normalizer = json!({"type": "NFC"});
            chain(vec![split(QWEN2_WORDS), bytes(false)])
        }
        "stablelm2" => chain(vec![split(QWEN2_WORDS), bytes(false)]),
        "tekken" => {
            whole_words = true;
            chain(vec![split(TEKKEN_WORDS), bytes(false)])
        }
        "gpt-4o" => chain(vec![split(GPT4O_WORDS), bytes(false)]),
        // What readers of such files do when the converter did not know the tokenizer.
        "default" => chain(vec![
            split(r"[\p{P}\$\+<=>\^~\|]+"),
            split(GPT2_WORDS),
            split(r"\p{N}+"),
            split("[0-9][0-9][0-9]"),
            bytes(false),
        ]),
        other => {
            let known =
                "gpt-2, smollm, starcoder, command-r, llama-bpe, qwen2, stablelm2, tekken, gpt-4o, default";
            let problem = format!("splitting `{other}` is not supported ({known} and their like are)");
            return Err(file
                .bad("tokenizer.ggml.pre", problem)
                .with_hint("use the model's Hugging Face folder, which has its own tokenizer.json"));
        }
    };
    let key = "tokenizer.ggml.merges";
    let merges = file.texts(key)?.ok_or_else(|| file.bad(key, "missing, byte-level BPE needs merges"))?;
    let mut pairs = Vec::new();
    for merge in merges {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(file.bad(key, format!("`{merge}` is not two tokens")));
        };
        // A merge of or into something that is no token can never be used.
        let known = |token: &str| vocab.ids.contains_key(token);
        if known(left) && known(right) && known(&format!("{left}{right}")) {
            pairs.push((left, right));
        }
    }
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let mut found = document([normalizer, pre_tokenizer, decoder], vocab, pairs);
    found.model.ignore_merges = whole_words;
    Ok(found)
}

/// Whether a text gets a space in front.
fn space_prefix(file: &GgufFile) -> Result<bool> {
    Ok(file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true))
}

fn sentence_piece<'a>(file: &GgufFile, tokens: &'a [&'a str]) -> Result<Document<'a>> {
    let key = "tokenizer.ggml.scores";
    let scores =
        file.floats(key)?.ok_or_else(|| file.bad(key, "missing, a SentencePiece vocabulary needs scores"))?;
    if scores.len() != tokens.len() {
        return Err(file.bad(key, format!("{} entries found, expected {}", scores.len(), tokens.len())));
    }
    let vocab = Vocabulary::new(tokens);
    let ids = &vocab.ids;
    // The better a piece's score, the earlier it is merged. Among ways to the same piece, as the reference sorts.
    let mut merges = Vec::new();
    for (token, score) in tokens.iter().zip(&scores) {
        let mut ways: Vec<_> = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at))
            .filter_map(|(l, r)| Some((*ids.get(l)?, *ids.get(r)?, l, r)))
            .collect();
        ways.sort_by_key(|way| (way.0, way.1));
        merges.extend(
            ways.into_iter().map(|(_, _, l, r)| (*score, l.chars().count(), r.chars().count(), l, r)),
        );
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    let merges = merges.into_iter().map(|(_, _, _, l, r)| (l, r)).collect();

    let prefix = space_prefix(file)?;
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut normalizers = vec![spaces];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = token_id(file, "unknown")?.and_then(|id| tokens.get(id as usize)).copied();
    let unknown = unknown.or(ids.contains_key("<unk>").then_some("<unk>"));
    let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
    let decoder = json!({"type": "Sequence", "decoders": decoders});
    let mut found = document([normalizer, Value::Null, decoder], vocab, merges);
    found.model.unk_token = unknown;
    (found.model.fuse_unk, found.model.byte_fallback) = (true, true);
    Ok(found)
}
