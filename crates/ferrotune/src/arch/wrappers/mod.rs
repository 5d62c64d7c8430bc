//! Models for pictures and text, of which the text part is trained.
//!
//! A wrapper says where its text part stands: in `config.json` and in the tree of modules. Adding one takes a file, its
//! `mod` line and its row in [`WRAPPERS`]; the text part is a family like any other.

mod gemma3;
mod gemma4;
mod mistral3;
mod qwen2_5_vl;
mod qwen3_5;
mod qwen3_vl;

use serde_json::{Map, Value};

use super::config::{Keys, TEXT_CONFIG};
use super::tree::Tree;
use crate::Result;

/// A model around a text model.
#[derive(Debug)]
pub struct Wrapper {
    /// Its name in `config.json`.
    pub model_type: &'static str,
    /// The text models that it can have, first the one that is meant if none is named.
    pub(crate) texts: &'static [Text],
    /// Whether the head is the embedding, if the file does not say.
    pub(crate) tied: bool,
    /// Whether old files have the keys of the text model at their top.
    pub(crate) flat: bool,
    /// Where the text model stands.
    pub(crate) tree: Tree,
}

/// A text model inside of a wrapper.
#[derive(Debug)]
pub(crate) struct Text {
    /// Its family.
    pub(crate) family: &'static str,
    /// What its class takes for keys that are not there; the files have only what differs.
    pub(crate) usual: &'static [(&'static str, usize)],
}

/// All wrappers whose text part can be trained.
pub const WRAPPERS: &[Wrapper] = &[
    gemma3::WRAPPER,
    gemma4::WRAPPER,
    mistral3::WRAPPER,
    qwen2_5_vl::WRAPPER,
    qwen3_5::WRAPPER,
    qwen3_vl::WRAPPER,
];

/// The wrapper of this `model_type`, if there is one.
pub fn find(model_type: &str) -> Option<&'static Wrapper> {
    WRAPPERS.iter().find(|wrapper| wrapper.model_type == model_type)
}

/// Keys of the whole model that its text part has too; those of the whole count.
const SHARED: [&str; 4] = ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"];

impl Wrapper {
    /// The configuration of the text part as a file of its own would have it.
    pub(crate) fn text(&self, file: &Keys<'_>) -> Result<Map<String, Value>> {
        let mut text = match file.get(TEXT_CONFIG) {
            Some(Value::Object(inside)) => inside.clone(),
            Some(_) => return Err(file.bad(TEXT_CONFIG, "not an object")),
            None if self.flat => file.object.clone(),
            None => return Err(file.missing(TEXT_CONFIG)),
        };
        let chosen = match (text.get("model_type").and_then(Value::as_str), self.texts) {
            // transformers looks at the name only where there is a choice: old files have others.
            (_, [only]) | (None, [only, ..]) => Some(only),
            (Some(name), all) => all.iter().find(|text| text.family == name),
            (None, []) => None,
        };
        let Some(chosen) = chosen else {
            let known: Vec<&str> = self.texts.iter().map(|text| text.family).collect();
            let found = text.get("model_type").unwrap_or(&Value::Null);
            let problem = format!(
                "the text part {found} is not supported in a {} model ({})",
                self.model_type,
                known.join(", ")
            );
            return Err(file.bad(TEXT_CONFIG, problem));
        };
        text.insert("model_type".into(), chosen.family.into());
        let stated = SHARED.into_iter().filter_map(|key| Some((key.to_string(), file.get(key)?.clone())));
        text.extend(stated);
        let tied = ("tie_word_embeddings", Value::Bool(self.tied));
        let usual = chosen.usual.iter().map(|(key, size)| (*key, Value::from(*size)));
        for (key, value) in usual.chain([tied]) {
            text.entry(key).or_insert(value);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
