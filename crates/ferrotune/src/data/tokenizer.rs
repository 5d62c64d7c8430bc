//! A checkpoint's tokenizer: text to ids with offsets and back, and its special tokens.
//!
//! `tokenizers` does the work. What it adds around a text by itself (its post-processor) is found out once and taken
//! off, so that each caller decides if a text gets it: plain text does, a rendered chat does not.

mod plain;

pub(crate) use plain::PlainText;

use crate::data::chat_template::{ChatTemplate, Clock};
use crate::error::{Error, Result};
use crate::formats::folder::named_templates;
use crate::formats::hash::hex;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// What stands beside the vocabulary: special tokens, the chat template, whether texts get a BOS.
#[derive(Clone, Debug, Default)]
pub struct TokenizerSettings {
    /// `bos_token`, `eos_token`, `pad_token`, ... with their text; the chat template sees these names.
    pub special_tokens: Map<String, Value>,
    /// The chat template's source.
    pub chat_template: Option<String>,
    /// The source of the template for chats with tools, where it is another one.
    pub tool_template: Option<String>,
    /// Names and sources of further templates.
    pub other_templates: Vec<(String, String)>,
    /// Whether a text starts with BOS; the tokenizer's own habit if absent.
    pub add_bos: Option<bool>,
}

impl TokenizerSettings {
    /// From `tokenizer_config.json`. A template in a file of its own goes into `chat_template` afterwards.
    pub fn from_config(config: &Value) -> Self {
        let text = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_string);
        let mut special_tokens = Map::new();
        for (name, value) in config.as_object().into_iter().flatten() {
            if name.ends_with("_token")
                && !value.is_boolean()
                && let Some(text) = text(value)
            {
                special_tokens.insert(name.clone(), Value::String(text));
            }
        }
        let (template, tool_template) = named_templates(&config["chat_template"]);
        TokenizerSettings {
            special_tokens,
            chat_template: template,
            tool_template,
            other_templates: Vec::new(),
            add_bos: config["add_bos_token"].as_bool(),
        }
    }

    /// Adds what `special_tokens_map.json` knows and the configuration did not.
    pub fn add_special_tokens(&mut self, map: &Value) {
        for (name, value) in TokenizerSettings::from_config(map).special_tokens {
            self.special_tokens.entry(name).or_insert(value);
        }
    }
}

/// Ids of a text, with the bytes that each covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// Start and end of each in the bytes of the text. Tokens that share a character share its bytes.
    pub offsets: Vec<(usize, usize)>,
}

/// A tokenizer with its special tokens.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    settings: TokenizerSettings,
    /// What a plain text starts with.
    prefix: Vec<u32>,
    special: HashSet<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    sha256: String,
    /// For text in which words of control tokens are text; made when it is first needed.
    guarded: OnceLock<Arc<plain::Guarded>>,
}

/// Why a tokenizer that could be read fails on a text.
const DAMAGED: &str = "the model's tokenizer.json refuses what its own rules should allow; fetch it again";

impl Tokenizer {
    /// From the bytes of `tokenizer.json`; `name` is for messages.
    pub fn new(tokenizer_json: &[u8], settings: TokenizerSettings, name: &str) -> Result<Self> {
        let refuse = |e: &dyn std::fmt::Display| Error::file(name, format!("not a usable tokenizer: {e}"));
        let mut inner = tokenizers::Tokenizer::from_bytes(crate::json::without_mark(tokenizer_json))
            .map_err(|e| refuse(&e))?;
        // A file may carry the length that some earlier user cut or padded texts to.
        inner.with_truncation(None).map_err(|e| refuse(&e))?;
        inner.with_padding(None);
        let empty = inner.encode("", true).map_err(|e| refuse(&e))?;
        let mut prefix = empty.get_ids().to_vec();
        inner.with_post_processor(None::<tokenizers::PostProcessorWrapper>);

        let id = |kind: &str| {
            let token = settings.special_tokens.get(kind).and_then(Value::as_str)?;
            inner.token_to_id(token)
        };
        let (bos, eos, pad) = (id("bos_token"), id("eos_token"), id("pad_token"));
        // On an empty text prefix and suffix are one; a suffix is EOS, which rows get anyway.
        while prefix.last().is_some_and(|last| Some(*last) == eos && eos != bos) {
            prefix.pop();
        }
        match (settings.add_bos, bos) {
            (Some(true), Some(bos)) if !prefix.contains(&bos) => prefix.insert(0, bos),
            (Some(false), Some(bos)) => prefix.retain(|id| *id != bos),
            _ => {}
        }
        let special =
            inner.get_added_tokens_decoder().into_iter().filter(|(_, t)| t.special).map(|(id, _)| id);
        let special = special.chain(bos).chain(eos).chain(pad).collect();
        let mut hash = Sha256::new();
        hash.update(tokenizer_json);
        hash.update(format!("{settings:?}"));
        Ok(Tokenizer {
            inner: Arc::new(inner),
            settings,
            prefix,
            special,
            bos,
            eos,
            pad,
            sha256: hex(&hash.finalize()),
            guarded: OnceLock::new(),
        })
    }

    /// Ids and byte offsets of a text as it stands: special tokens in it are found, none is added.
    pub fn encode(&self, text: &str) -> Result<Encoded> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|e| Error::train(format!("cannot tokenize: {e}")).with_hint(DAMAGED))?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }

    /// A hash of the file and the settings that it was made of.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What a plain text starts with: BOS, or nothing.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// Text of some ids.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|e| Error::train(format!("cannot decode tokens: {e}")).with_hint(DAMAGED))
    }

    /// Id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a token steers the model instead of being text.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Number of tokens, added ones included. A model may have more rows than that.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Refuses a tokenizer that is larger than the embedding of its model, which has `rows` rows. A few tokens that were added
    /// behind the vocabulary (that of images in a model of text) do not count: rows that use them are refused by themselves.
    pub(crate) fn check_rows(&self, rows: usize, model: &Path) -> Result<()> {
        let added =
            self.inner.get_added_tokens_decoder().into_keys().filter(|id| *id as usize >= rows).count();
        let tokens = self.inner.get_vocab_size(false);
        if tokens <= rows.saturating_add(added) {
            return Ok(());
        }
        let problem = format!("the tokenizer has {tokens} tokens, and the model's embedding {rows} rows");
        Err(Error::file(model, problem).with_hint(
            "the tokenizer is that of another model, or of this one after tokens were added: take both from one place",
        ))
    }

    /// Beginning of a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End of a text.
    pub(crate) fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Padding; never used by this program.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// What stands beside the vocabulary.
    pub fn settings(&self) -> &TokenizerSettings {
        &self.settings
    }

    /// The chat template, if there is one, with its clock standing still.
    pub fn chat_template(&self, clock: Clock) -> Result<Option<ChatTemplate>> {
        let parse = |source: &String| -> Result<ChatTemplate> {
            Ok(ChatTemplate::parse(source, self.settings.special_tokens.clone())?.with_clock(clock))
        };
        let Some(default) = &self.settings.chat_template else { return Ok(None) };
        let default = parse(default)?;
        Ok(Some(match &self.settings.tool_template {
            Some(source) => default.with_tool_use(parse(source)?),
            None => default,
        }))
    }

    /// Decodes tokens as they come. `prompt` is what stands before them: some tokenizers write a space between tokens
    /// but not at the start of a text.
    pub fn stream(&self, prompt: &[u32], skip_special: bool) -> TokenStream<'_> {
        let context = &prompt[prompt.len().saturating_sub(STREAM_CONTEXT)..];
        TokenStream { tokenizer: self, skip_special, ids: context.to_vec(), shown: context.len() }
    }
}

/// Tokens before the new one that decide how it is written.
const STREAM_CONTEXT: usize = 6;

/// Tokens that may wait for the rest of a character, which has four bytes at most.
const STREAM_PENDING: usize = 8;

/// Text of tokens that come one by one, in whole characters.
#[derive(Debug)]
pub struct TokenStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Some tokens of context, and those that are not given out yet.
    ids: Vec<u32>,
    /// How many are context.
    shown: usize,
}

impl TokenStream<'_> {
    /// Takes a token and gives the text that is now complete; empty while a character is.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        self.next(false)
    }

    /// What is left when no token comes any more.
    pub fn finish(mut self) -> Result<String> {
        self.next(true)
    }

    fn next(&mut self, last: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.shown], self.skip_special)?;
        let all = self.tokenizer.decode(&self.ids, self.skip_special)?;
        // The decoder writes this character for bytes that are not a character yet. Bytes that never become one are
        // given out as they are.
        if all.ends_with('\u{fffd}') && !last && self.ids.len() - self.shown < STREAM_PENDING {
            return Ok(String::new());
        }
        let common = before.char_indices().zip(all.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
        let new = all.get(common.unwrap_or(before.len())..).unwrap_or_default().to_string();
        if !new.is_empty() {
            // What was shown last is the context of what comes; anything before it has no more influence.
            self.ids.drain(..self.shown);
            self.shown = self.ids.len();
        }
        Ok(new)
    }
}
