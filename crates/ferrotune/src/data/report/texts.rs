//! What can be said of one row's text.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;
use serde_json::Value;
use txtfp::Canonicalizer;

use super::near::{Signature, signature};
use super::sensitive;
use crate::data::dataset::{Example, ReadOptions, read_row};
use crate::data::rows::RawRow;

/// Bytes of a text from which its language is told, and up to which it is read for that.
const LANGUAGE: std::ops::Range<usize> = 40..4000;

/// A sign that text was damaged on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Oddity {
    /// U+FFFD stands where a character could not be decoded.
    ReplacementCharacter,
    /// UTF-8 that was read as Latin-1 or Windows-1252, such as `Ã¤` for ä.
    WrongEncoding,
    /// Letters with accents as two characters (NFD), which other texts write as one: they have other tokens.
    DecomposedAccents,
    /// Characters that nobody sees: zero-width ones, marks of direction, byte-order marks, control characters.
    InvisibleCharacters,
    /// Marks of HTML.
    HtmlTags,
}

impl Oddity {
    /// The sign in the words of a report.
    pub fn words(self) -> &'static str {
        match self {
            Oddity::ReplacementCharacter => "characters that could not be decoded (U+FFFD)",
            Oddity::WrongEncoding => "text in a wrong encoding (such as Ã¤ for ä)",
            Oddity::DecomposedAccents => "accents as characters of their own (NFD)",
            Oddity::InvisibleCharacters => "invisible characters",
            Oddity::HtmlTags => "HTML tags",
        }
    }
}

/// A row that was looked at.
pub(super) struct Scan {
    pub(super) line: usize,
    /// None for rows of token ids.
    pub(super) text: Option<TextScan>,
}

/// What its text is like.
pub(super) struct TextScan {
    /// A hash of all of it.
    pub(super) whole: u64,
    /// A hash of what stands before the answer.
    pub(super) question: Option<u64>,
    pub(super) signature: Option<Signature>,
    pub(super) language: Option<&'static str>,
    pub(super) empty_answer: bool,
    pub(super) oddities: Vec<Oddity>,
    pub(super) sensitive: Vec<&'static str>,
}

impl Scan {
    /// Looks at a row; none if it cannot be read.
    pub(super) fn new(row: RawRow, read: ReadOptions<'_>) -> Option<Scan> {
        let (line, example) = read_row(row, read);
        let (example, _) = example.ok()?;
        Some(Scan { line, text: Parts::of(&example).map(TextScan::new) })
    }
}

/// The texts of a row.
#[derive(Default)]
struct Parts {
    system: String,
    question: String,
    answer: String,
    empty_answer: bool,
    /// A source file: its words are in no language, and it may hold marks and signs of any kind.
    is_code: bool,
}

impl Parts {
    fn of(example: &Example) -> Option<Parts> {
        let mut parts = Parts::default();
        match example {
            Example::Tokens { .. } => return None,
            Example::Text(text) => parts.answer.clone_from(text),
            Example::Code(file) => {
                parts.is_code = true;
                parts.answer.clone_from(&file.text);
            }
            Example::Completion { prompt, completion } => {
                parts.empty_answer = completion.trim().is_empty();
                (parts.question, parts.answer) = (prompt.clone(), completion.clone());
            }
            Example::Chat(chat) => {
                for message in &chat.messages {
                    let text = text_of(message);
                    let to = match message["role"].as_str().unwrap_or_default() {
                        "system" | "developer" => &mut parts.system,
                        "assistant" => {
                            parts.empty_answer |= text.trim().is_empty();
                            &mut parts.answer
                        }
                        _ => &mut parts.question,
                    };
                    to.push_str(&text);
                    to.push('\n');
                }
            }
        }
        Some(parts)
    }
}

/// All text of a message, with calls of functions.
fn text_of(message: &Value) -> String {
    let mut text = String::new();
    match &message["content"] {
        Value::String(content) => text.push_str(content),
        Value::Array(parts) => {
            for part in parts.iter().filter_map(|part| part["text"].as_str()) {
                text.push_str(part);
                text.push('\n');
            }
        }
        _ => {}
    }
    if let Some(calls) = message["tool_calls"].as_array().filter(|calls| !calls.is_empty()) {
        text.push_str(&Value::from(calls.clone()).to_string());
    }
    text
}

impl TextScan {
    fn new(parts: Parts) -> Self {
        let canonical = Canonicalizer::default();
        let hash = |texts: &[&str]| {
            let mut hasher = DefaultHasher::new();
            for text in texts {
                canonical.canonicalize(text).split_whitespace().for_each(|word| word.hash(&mut hasher));
                0xff_u8.hash(&mut hasher);
            }
            hasher.finish()
        };
        let both = format!("{}{}", parts.question, parts.answer);
        let all = format!("{}{both}", parts.system);
        TextScan {
            whole: hash(&[&parts.question, &parts.answer]),
            question: (!parts.question.trim().is_empty()).then(|| hash(&[&parts.question])),
            signature: signature(&both),
            language: if parts.is_code { None } else { language(&both) },
            empty_answer: parts.empty_answer,
            oddities: if parts.is_code { Vec::new() } else { oddities(&all) },
            sensitive: sensitive::found(&all),
        }
    }
}

/// The language of a text in English, if it is long enough and clear.
fn language(text: &str) -> Option<&'static str> {
    let end = text.floor_char_boundary(LANGUAGE.end.min(text.len()));
    let text = text[..end].trim();
    let told = whatlang::detect(text).filter(|_| text.len() >= LANGUAGE.start)?;
    told.is_reliable().then(|| told.lang().eng_name())
}

fn oddities(text: &str) -> Vec<Oddity> {
    let mut found = Vec::new();
    let mut note = |oddity, is: bool| {
        if is {
            found.push(oddity);
        }
    };
    note(Oddity::ReplacementCharacter, text.contains('\u{fffd}'));
    note(Oddity::WrongEncoding, in_wrong_encoding(text));
    let pairs = || text.chars().zip(text.chars().skip(1));
    let accent = |c: char| ('\u{300}'..='\u{36f}').contains(&c);
    note(Oddity::DecomposedAccents, pairs().any(|(a, b)| a.is_alphabetic() && !accent(a) && accent(b)));
    // Joiners belong to emoji and to some scripts, so they are no sign.
    let unseen = |c: char| {
        matches!(c, '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}' | '\u{feff}' | '\u{ad}')
            || c.is_control() && !matches!(c, '\n' | '\r' | '\t')
    };
    note(Oddity::InvisibleCharacters, text.chars().any(unseen));
    let tags = ["</p>", "</div>", "<br>", "<br/>", "<br />", "</span>", "&nbsp;", "&amp;", "&lt;", "</a>"];
    note(Oddity::HtmlTags, tags.iter().any(|tag| text.contains(tag)));
    found
}

/// Whether UTF-8 was read as Latin-1 or Windows-1252: then a letter of two bytes became `Ã` or `Â` with a second character
/// that stands alone nowhere else, and a quotation mark of three became `â€` with a third.
fn in_wrong_encoding(text: &str) -> bool {
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(&next) = chars.peek() else { break };
        let second = ('\u{80}'..='\u{bf}').contains(&next);
        if matches!(c, 'Ã' | 'Â') && second || c == 'â' && matches!(next, '€' | '\u{80}') {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_damage_are_told_from_text_that_is_whole() {
        for (text, expected) in [
            ("Käse, größer, señor, l’été: “naïve” 😀👩\u{200d}👩\u{200d}👧 ÂGE", vec![]),
            ("K\u{fffd}se", vec![Oddity::ReplacementCharacter]),
            ("KÃ¤se", vec![Oddity::WrongEncoding]),
            ("itâ€™s", vec![Oddity::WrongEncoding]),
            ("10\u{c2}\u{a0}km", vec![Oddity::WrongEncoding]),
            ("Ka\u{308}se", vec![Oddity::DecomposedAccents]),
            ("zero\u{200b}width", vec![Oddity::InvisibleCharacters]),
            ("bell\u{7}", vec![Oddity::InvisibleCharacters]),
            ("a &amp; b<br>", vec![Oddity::HtmlTags]),
            ("if a < b && b > c { x<T>() }", vec![]),
        ] {
            assert_eq!(oddities(text), expected, "{text}");
        }
    }

    #[test]
    fn languages_are_told_of_texts_that_are_long_enough() {
        let german = "Der Hund liegt in der Sonne und schläft, während die Katze auf dem Dach sitzt.";
        assert_eq!(language(german), Some("German"));
        let english = "The dog lies in the sun and sleeps while the cat is sitting on the roof.";
        assert_eq!(language(english), Some("English"));
        assert_eq!(language("The dog"), None);
    }

    #[test]
    fn case_and_blanks_do_not_make_another_row() {
        let scan = |prompt: &str, completion: &str| {
            let example = Example::Completion { prompt: prompt.into(), completion: completion.into() };
            TextScan::new(Parts::of(&example).unwrap())
        };
        let one = scan("What is it?", "A dog.");
        assert_eq!(one.whole, scan("what  is IT?\n", " a dog. ").whole);
        assert_ne!(one.whole, scan("What is it? A", "dog.").whole);
        assert_eq!(one.question, scan("What is it?", "A cat.").question);
        assert!(scan("x", " \n").empty_answer && !one.empty_answer);
    }
}
