//! Text that is data: the words of control tokens in it are text.

use super::{DAMAGED, Encoded, Tokenizer};
use crate::error::{Error, Result};
use std::sync::{Arc, OnceLock};

/// A tokenizer that takes nothing in a text for a control token.
#[derive(Debug)]
pub(crate) struct PlainText {
    guarded: Arc<Guarded>,
    tokenizer: Arc<tokenizers::Tokenizer>,
    /// For texts with [`BEFORE`] in them, which is a token of the guarded one. There are hardly any.
    without: OnceLock<tokenizers::Tokenizer>,
    /// Control words that the tokenizer's file does not call special: those of Qwen for files and fill-in-the-middle, for
    /// one.
    words: Vec<String>,
}

/// Stands before a text that goes on after something else, so that it is tokenized as what goes on. Unicode keeps it out of
/// texts.
const BEFORE: char = '\u{fdef}';

/// A tokenizer without its control tokens that knows [`BEFORE`].
#[derive(Debug)]
pub(super) struct Guarded {
    inner: tokenizers::Tokenizer,
}

/// A copy of a tokenizer to which its control tokens are text.
fn literal(tokenizer: &tokenizers::Tokenizer) -> tokenizers::Tokenizer {
    let mut literal = tokenizer.clone();
    literal.set_encode_special_tokens(true);
    literal
}

impl Guarded {
    fn new(tokenizer: &Tokenizer) -> Self {
        let mut inner = literal(&tokenizer.inner);
        let before = tokenizers::AddedToken::from(BEFORE.to_string(), false).normalized(false);
        // A token that cannot be added would be text, and its tokens are passed over like its own.
        let _ = inner.add_tokens(&[before]);
        Guarded { inner }
    }
}

impl Tokenizer {
    /// The words of control tokens.
    pub(crate) fn control_words(&self) -> Vec<String> {
        self.special.iter().filter_map(|id| self.token(*id)).filter(|word| !word.is_empty()).collect()
    }

    /// Ids and byte offsets of a text in which words of control tokens that are text have a mark behind their first
    /// character, if there are any. The marks are in the offsets, and not in the ids.
    pub(crate) fn encode_shielded(&self, text: &str, mark: Option<char>) -> Result<Encoded> {
        let encoded = self.encode(text)?;
        let Some(mark) = mark else { return Ok(encoded) };
        let Encoded { ids, offsets } = encoded;
        let mut all = Encoded::default();
        // Up to where the text was taken, and the tokens since the last control token.
        let (mut done, mut run) = (0, 0);
        for at in 0..=ids.len() {
            if at < ids.len() && !self.is_special(ids[at]) {
                continue;
            }
            let end = offsets.get(at).map_or(text.len(), |offset| offset.0);
            if text.get(done..end).is_some_and(|piece| piece.contains(mark)) {
                self.encode_guarded(text, done..end, mark, &mut all)?;
            } else {
                all.ids.extend_from_slice(&ids[run..at]);
                all.offsets.extend_from_slice(&offsets[run..at]);
            }
            if at < ids.len() {
                all.ids.push(ids[at]);
                all.offsets.push(offsets[at]);
                done = offsets[at].1;
            }
            run = at + 1;
        }
        Ok(all)
    }

    /// Adds the tokens of a part of a text without its marks; nothing in it is a control token.
    fn encode_guarded(
        &self,
        text: &str,
        part: std::ops::Range<usize>,
        mark: char,
        all: &mut Encoded,
    ) -> Result<()> {
        let before = if part.start > 0 { BEFORE.to_string() } else { String::new() };
        let plain: String = text[part.clone()].chars().filter(|c| *c != mark).collect();
        if plain.contains(BEFORE) {
            let problem = "a text with words of control tokens holds the noncharacter U+FDEF".to_string();
            return Err(Error::train(problem).with_hint("take the character out"));
        }
        let encoding = self
            .guarded()
            .inner
            .encode(format!("{before}{plain}"), false)
            .map_err(|e| Error::train(format!("cannot tokenize: {e}")).with_hint(DAMAGED))?;
        // Where each byte of the plain text stands in the marked one.
        let mut places: Vec<usize> = Vec::with_capacity(plain.len() + 1);
        for (at, c) in text[part.clone()].char_indices().filter(|(_, c)| *c != mark) {
            places.extend((0..c.len_utf8()).map(|byte| part.start + at + byte));
        }
        places.push(part.end);
        for (&id, &(from, to)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            let (Some(from), Some(to)) = (from.checked_sub(before.len()), to.checked_sub(before.len()))
            else {
                continue;
            };
            // What stands before the text is no part of it.
            if to == 0 && !before.is_empty() {
                continue;
            }
            let place = |at: usize| places.get(at).copied().unwrap_or(part.end);
            // The end is behind the last byte, with no mark that follows it.
            let end = if to > from { place(to - 1) + 1 } else { place(from) };
            all.ids.push(id);
            all.offsets.push((place(from), end));
        }
        Ok(())
    }

    /// This tokenizer for text that is data. `control` are words of control tokens beside those that look like one.
    pub(crate) fn plain(&self, control: &[&str]) -> PlainText {
        let added = self.inner.get_added_tokens_decoder();
        let words = added.into_values().filter(|token| !token.special).map(|token| token.content);
        let steers = |word: &String| is_control(word) || control.contains(&word.as_str());
        PlainText {
            guarded: self.guarded().clone(),
            tokenizer: self.inner.clone(),
            without: OnceLock::new(),
            words: words.filter(steers).collect(),
        }
    }

    fn guarded(&self) -> &Arc<Guarded> {
        self.guarded.get_or_init(|| Arc::new(Guarded::new(self)))
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
        let inner = match text.contains(BEFORE) {
            true => self.without.get_or_init(|| literal(&self.tokenizer)),
            false => &self.guarded.inner,
        };
        let mut all = Encoded::default();
        let mut start = 0;
        while start < text.len() {
            // A word that is cut behind its first character is none.
            let first = self.words.iter().filter_map(|word| text[start..].find(word.as_str())).min();
            let step = |at: usize| at + text[start + at..].chars().next().map_or(0, char::len_utf8);
            let end = first.map_or(text.len(), |at| start + step(at));
            let encoding = inner
                .encode(&text[start..end], false)
                .map_err(|e| Error::train(format!("cannot tokenize: {e}")).with_hint(DAMAGED))?;
            all.ids.extend_from_slice(encoding.get_ids());
            all.offsets.extend(encoding.get_offsets().iter().map(|(from, to)| (from + start, to + start)));
            start = end;
        }
        Ok(all)
    }
}
