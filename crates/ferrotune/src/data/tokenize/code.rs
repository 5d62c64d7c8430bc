//! A source file becomes tokens: its place in the repository as the model family knows it, and perhaps its middle at its
//! end (fill-in-the-middle, Bavarian et al. 2022).
//!
//! Sources of the forms:
//!
//! * StarCoder 2 (Lozhkov et al. 2024, section 5): `<repo_name>R<file_sep>PATH\nCODE`, and with fill-in-the-middle
//!   `<repo_name>R<file_sep><fim_prefix>PATH\nPREFIX<fim_suffix>SUFFIX<fim_middle>MIDDLE`.
//! * StarCoder (Li et al. 2023): `<reponame>R<filename>PATH\nCODE`; its training code permutes whole documents, so all of
//!   that is in the prefix.
//! * Qwen2.5-Coder (Hui et al. 2024, section 3.2): `<|repo_name|>R\n<|file_sep|>PATH\nCODE`, with `<|fim_prefix|>` behind the
//!   path.
//! * A model without such tokens: a comment with the path in the file's own language, as DeepSeek-Coder has it.
//!
//! Cuts are between characters, both from one even distribution over all places. The order is PSM, or SPM in its second
//! variant (`PRE SUF suffix MID prefix middle`), and the parts are tokenized one by one, all as in `fim.permute` of
//! bigcode's Megatron-LM. All tokens are trained there, and here.

use crate::data::dataset::CodeFile;
use crate::data::languages::Language;
use crate::data::random;
use crate::data::tokenizer::{PlainText, Tokenizer};
use crate::data::train_row::TrainRow;
use crate::error::{Error, Result};
use crate::run_config::{DataOptions, Overlong};

use super::problem::Problem;

/// How source files are permuted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FimOptions {
    /// Share of the files.
    pub rate: f64,
    /// Share of those in the order SPM; the family's if absent.
    pub spm_rate: Option<f64>,
    /// Decides with the path of a file where it is cut.
    pub seed: u64,
}

impl From<&DataOptions> for FimOptions {
    fn from(options: &DataOptions) -> Self {
        FimOptions { rate: options.fim_rate, spm_rate: options.fim_spm_rate, seed: 0 }
    }
}

/// The words of a family for a file's place.
#[derive(Debug)]
struct PlaceWords {
    repository: &'static str,
    behind_repository: &'static str,
    file: &'static str,
    /// Where the prefix of a permuted file begins.
    prefix: PrefixStart,
}

/// Where the prefix of a permuted file begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PrefixStart {
    Document,
    Path,
    Text,
}

/// The first whose tokens a tokenizer has.
const PLACES: &[PlaceWords] = &[
    PlaceWords {
        repository: "<|repo_name|>",
        behind_repository: "\n",
        file: "<|file_sep|>",
        prefix: PrefixStart::Text,
    },
    PlaceWords {
        repository: "<repo_name>",
        behind_repository: "",
        file: "<file_sep>",
        prefix: PrefixStart::Path,
    },
    PlaceWords {
        repository: "<reponame>",
        behind_repository: "",
        file: "<filename>",
        prefix: PrefixStart::Document,
    },
];

/// The words of a family for fill-in-the-middle.
#[derive(Debug)]
struct FimWords {
    words: [&'static str; 3],
    spm_rate: f64,
}

/// Prefix, suffix, middle of StarCoder, SantaCoder, Qwen and CodeGemma, DeepSeek-Coder.
const FIM: &[FimWords] = &[
    FimWords { words: ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"], spm_rate: 0.5 },
    FimWords { words: ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"], spm_rate: 0.5 },
    FimWords { words: ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"], spm_rate: 0.0 },
    FimWords { words: ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"], spm_rate: 0.0 },
];

/// Keeps the numbers of the choice apart from those of the order of rows.
const PERMUTED: u64 = 0x0066_696d;

/// Turns source files into rows for one tokenizer.
#[derive(Debug)]
pub(super) struct CodeStyle {
    text: PlainText,
    start: Vec<u32>,
    end: Option<u32>,
    /// Tokens of repository and file.
    place: Option<(&'static PlaceWords, u32, u32)>,
    /// Tokens of prefix, suffix and middle, and how often SPM is usual.
    fim: Option<([u32; 3], f64)>,
}

/// A part of a row.
enum Part<'a> {
    Control(u32),
    Text(std::borrow::Cow<'a, str>),
}

/// The parts of a text that is cut in two places.
struct Cut<'a> {
    prefix: &'a str,
    middle: &'a str,
    suffix: &'a str,
    suffix_first: bool,
}

/// What a source file became.
#[derive(Debug, Default)]
pub(super) struct CodeRows {
    pub(super) rows: Vec<TrainRow>,
    /// How many of them are permuted.
    pub(super) permuted: usize,
}

impl CodeRows {
    fn push(&mut self, (row, permuted): (TrainRow, bool)) {
        self.rows.push(row);
        self.permuted += usize::from(permuted);
    }
}

impl CodeStyle {
    pub(super) fn probe(tokenizer: &Tokenizer) -> CodeStyle {
        let place = PLACES
            .iter()
            .find_map(|words| Some((words, tokenizer.id(words.repository)?, tokenizer.id(words.file)?)));
        let fim = FIM.iter().find_map(|fim| {
            let [prefix, suffix, middle] = fim.words.map(|word| tokenizer.id(word));
            Some(([prefix?, suffix?, middle?], fim.spm_rate))
        });
        let control: Vec<&str> = PLACES
            .iter()
            .flat_map(|words| [words.repository, words.file])
            .chain(FIM.iter().flat_map(|fim| fim.words))
            .collect();
        let start = tokenizer.prefix().to_vec();
        CodeStyle { text: tokenizer.plain(&control), start, end: tokenizer.eos(), place, fim }
    }

    /// Whether the tokenizer has what the options ask for.
    pub(super) fn check(&self, options: FimOptions) -> Result<()> {
        if options.rate > 0.0 && self.fim.is_none() {
            let looked: Vec<String> = FIM.iter().map(|fim| fim.words.join(" ")).collect();
            let problem =
                format!("the tokenizer has no tokens for fill-in-the-middle, none of {}", looked.join(", "));
            return Err(Error::config("fim_rate", problem).under("data").with_hint(
                "leave the key out, or take a base model that was trained for it, such as Qwen2.5-Coder or StarCoder 2",
            ));
        }
        Ok(())
    }

    /// The rows of a file: one, or with [`Overlong::Split`] as many as it takes to stay within `limit` tokens, each with
    /// the place of the file and cut at the end of a line if there is one.
    pub(super) fn rows(
        &self,
        file: &CodeFile,
        options: FimOptions,
        limit: usize,
        overlong: Overlong,
    ) -> std::result::Result<CodeRows, Problem> {
        let mut made = CodeRows::default();
        let whole = self.row(self.plain_parts(file, &file.text), true)?;
        if whole.len() <= limit || overlong != Overlong::Split {
            made.push(self.lot(file, &file.text, whole, 0, options, limit)?);
            return Ok(made);
        }
        let around = self.row(self.plain_parts(file, ""), true)?.len();
        let no_room = || {
            Problem::new(
                format!("the place of the file alone takes {around} tokens of {limit}"),
                "raise data.max_length",
            )
        };
        let room = limit.checked_sub(around).filter(|room| *room > 0).ok_or_else(no_room)?;
        let mut rest = file.text.as_str();
        while !rest.is_empty() {
            let (text, row) = self.piece(file, rest, room, limit)?.ok_or_else(no_room)?;
            rest = &rest[text.len()..];
            made.push(self.lot(file, text, row, made.rows.len(), options, limit)?);
        }
        Ok(made)
    }

    /// The longest beginning of a text that fits a row beside the place of its file; none if not even a character does.
    fn piece<'t>(
        &self,
        file: &CodeFile,
        rest: &'t str,
        room: usize,
        limit: usize,
    ) -> std::result::Result<Option<(&'t str, TrainRow)>, Problem> {
        // No token has less than a byte, and few texts need more than this window to fill the room.
        let mut window = room.saturating_mul(16).min(rest.len());
        window = (window..=rest.len()).find(|&at| rest.is_char_boundary(at)).unwrap_or(rest.len());
        let offsets = self.text.encode(&rest[..window])?.offsets;
        let mut take = room.min(offsets.len());
        while take > 0 {
            let last = offsets[take - 1].1;
            let whole = last == rest.len();
            let end = match rest[..last].rfind('\n') {
                // A line that fills more than half of the room is cut where it must be.
                Some(at) if !whole && at + 1 > last / 2 => at + 1,
                _ => last,
            };
            let text = &rest[..end];
            let row = self.row(self.plain_parts(file, text), whole)?;
            // Tokens differ a little where a text begins or ends at another place.
            match row.len().checked_sub(limit) {
                None | Some(0) if !text.is_empty() => return Ok(Some((text, row))),
                None | Some(0) => return Ok(None),
                Some(over) => take = take.saturating_sub(over),
            }
        }
        Ok(None)
    }

    /// The row of a text, permuted if that is its lot and if it fits; and whether it is.
    fn lot(
        &self,
        file: &CodeFile,
        text: &str,
        plain: TrainRow,
        piece: usize,
        options: FimOptions,
        limit: usize,
    ) -> std::result::Result<(TrainRow, bool), Problem> {
        let names = [&file.repository, &file.path].map(|name| random::hash_text(name));
        let key = random::hash(&[options.seed, PERMUTED, names[0], names[1], piece as u64]);
        let Some((_, usual)) = self.fim.filter(|_| random::happens(&[key, 0], options.rate)) else {
            return Ok((plain, false));
        };
        let suffix_first = random::happens(&[key, 1], options.spm_rate.unwrap_or(usual));
        let characters = text.chars().count();
        let [a, b] = [2, 3].map(|draw| random::below(&[key, draw], characters + 1));
        let cut = Cut::new(text, a.min(b), a.max(b), suffix_first);
        // The end of the middle is the end of the answer, also where the file goes on.
        let row = self.row(self.permuted_parts(file, &cut), true)?;
        Ok(if row.len() <= limit { (row, true) } else { (plain, false) })
    }

    /// What stands before a text: the repository, and the file.
    fn place<'a>(&self, file: &CodeFile) -> (Vec<Part<'a>>, Vec<Part<'a>>, String) {
        match self.place {
            Some((words, repository, path)) => (
                vec![
                    Part::Control(repository),
                    Part::Text(format!("{}{}", file.repository, words.behind_repository).into()),
                ],
                vec![Part::Control(path)],
                format!("{}\n", file.path),
            ),
            None => {
                let comment = Language::of(&file.path).map(|language| language.comment(&file.path));
                (Vec::new(), Vec::new(), comment.map_or_else(String::new, |line| format!("{line}\n")))
            }
        }
    }

    fn plain_parts<'a>(&self, file: &CodeFile, text: &'a str) -> Vec<Part<'a>> {
        let (repository, mark, path) = self.place(file);
        let text = Part::Text(format!("{path}{text}").into());
        repository.into_iter().chain(mark).chain([text]).collect()
    }

    fn permuted_parts<'a>(&self, file: &CodeFile, cut: &Cut<'a>) -> Vec<Part<'a>> {
        let Some(([prefix, suffix, middle], _)) = self.fim else { return Vec::new() };
        let (repository, mark, path) = self.place(file);
        let start = self.place.map_or(PrefixStart::Path, |(words, ..)| words.prefix);
        let path = Part::Text(path.into());
        // Before the prefix, and at its beginning.
        let (mut before, mut own) = (Vec::new(), Vec::new());
        match start {
            PrefixStart::Document => own.extend(repository.into_iter().chain(mark).chain([path])),
            PrefixStart::Path => {
                before.extend(repository.into_iter().chain(mark));
                own.push(path);
            }
            PrefixStart::Text => before.extend(repository.into_iter().chain(mark).chain([path])),
        }
        own.push(Part::Text(cut.prefix.into()));
        let mut parts = before;
        parts.push(Part::Control(prefix));
        let last = [Part::Text(cut.middle.into())];
        if cut.suffix_first {
            parts.extend([Part::Control(suffix), Part::Text(cut.suffix.into()), Part::Control(middle)]);
            parts.extend(own);
        } else {
            parts.extend(own);
            parts.extend([Part::Control(suffix), Part::Text(cut.suffix.into()), Part::Control(middle)]);
        }
        parts.into_iter().chain(last).collect()
    }

    /// Parts as a row whose tokens are all trained. Texts that follow each other are tokenized as one, but for the middle,
    /// which is the last of a permuted file.
    fn row(&self, parts: Vec<Part<'_>>, ends: bool) -> std::result::Result<TrainRow, Problem> {
        let mut ids = self.start.clone();
        let mut text = String::new();
        let last = parts.len().saturating_sub(1);
        for (i, part) in parts.into_iter().enumerate() {
            match part {
                Part::Text(more) if i < last => text += &more,
                Part::Text(more) => {
                    ids.extend(self.text.encode(&std::mem::take(&mut text))?.ids);
                    ids.extend(self.text.encode(&more)?.ids);
                }
                Part::Control(id) => {
                    ids.extend(self.text.encode(&std::mem::take(&mut text))?.ids);
                    ids.push(id);
                }
            }
        }
        ids.extend(self.end.filter(|_| ends));
        Ok(TrainRow::new(ids, |_| true))
    }
}

impl<'a> Cut<'a> {
    /// Cuts a text before two of its characters.
    fn new(text: &'a str, first: usize, second: usize, suffix_first: bool) -> Cut<'a> {
        let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
        let (first, second) = (at(first), at(second));
        Cut { prefix: &text[..first], middle: &text[first..second], suffix: &text[second..], suffix_first }
    }
}

#[cfg(test)]
mod tests;
