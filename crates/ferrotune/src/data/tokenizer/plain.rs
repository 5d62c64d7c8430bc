//! Text that is data: the words of control tokens in it are text.

use super::{DAMAGED, Encoded, Tokenizer};
use crate::error::{Error, Result};

/// A tokenizer that takes nothing in a text for a control token.
#[derive(Debug)]
pub(crate) struct PlainText {
    inner: tokenizers::Tokenizer,
    /// Control words that the tokenizer's file does not call special: those of Qwen for files and fill-in-the-middle, for
    /// one.
    words: Vec<String>,
}

impl Tokenizer {
    /// This tokenizer for text that is data. `control` are words of control tokens beside those that look like one.
    pub(crate) fn plain(&self, control: &[&str]) -> PlainText {
        let mut inner = self.inner.clone();
        inner.set_encode_special_tokens(true);
        let added = inner.get_added_tokens_decoder();
        let words = added.into_values().filter(|token| !token.special).map(|token| token.content);
        let steers = |word: &String| is_control(word) || control.contains(&word.as_str());
        PlainText { words: words.filter(steers).collect(), inner }
    }
}

/// Whether a token steers the model by its look. Others of a vocabulary (runs of spaces, HTML tags) are text.
fn is_control(word: &str) -> bool {
    let bars = ['|', '｜'];
    let inside = word.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    inside.is_some_and(|name| {
        let name = name.strip_prefix('/').unwrap_or(name);
        (name.starts_with(bars) && name.ends_with(bars))
            || ["think", "tool_call", "tool_response", "tools"].contains(&name)
    })
}

impl PlainText {
    /// Ids and byte offsets of a text. A control word becomes the tokens of its letters.
    pub(crate) fn encode(&self, text: &str) -> Result<Encoded> {
        let mut all = Encoded::default();
        let mut start = 0;
        while start < text.len() {
            // A word that is cut behind its first character is none.
            let first = self.words.iter().filter_map(|word| text[start..].find(word.as_str())).min();
            let step = |at: usize| at + text[start + at..].chars().next().map_or(0, char::len_utf8);
            let end = first.map_or(text.len(), |at| start + step(at));
            let encoding = self
                .inner
                .encode(&text[start..end], false)
                .map_err(|e| Error::train(format!("cannot tokenize: {e}")).with_hint(DAMAGED))?;
            all.ids.extend_from_slice(encoding.get_ids());
            all.offsets.extend(encoding.get_offsets().iter().map(|(from, to)| (from + start, to + start)));
            start = end;
        }
        Ok(all)
    }
}
