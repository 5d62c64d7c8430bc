//! What a data set is like: lengths, labels, duplicates, what of the evaluation is in the training, and what should not be
//! trained on. The texts are read once more for it; tokens are those of the run.

mod near;
mod problems;
mod sensitive;
mod texts;

use std::collections::{BTreeMap, HashMap};

use ferrotune_kernels::Threads;
use serde::Serialize;

use super::reading::{Input, Place, each_row};
use super::rows::RawRow;
use super::token_rows::TokenRows;
use super::tokenize::PrepReport;
use super::tokenizer::Tokenizer;
use super::train_row::IGNORE;
use crate::Result;
use near::Near;
pub use problems::{Finding, Level};
pub use texts::Oddity;
use texts::Scan;

/// Places that are named of each kind.
const SHOWN: usize = 10;

/// Bars of a histogram of lengths.
const BARS: usize = 24;

/// What a data set is like.
#[derive(Clone, Debug, Serialize)]
pub struct DataReport {
    /// The rows to train on.
    pub train: PartReport,
    /// The rows to evaluate on, if there are any.
    pub eval: Option<PartReport>,
    /// Rows that say what another one says.
    pub duplicates: Duplicates,
    /// Rows to evaluate on that are in training too.
    pub leakage: Leakage,
    /// Languages of the rows that are long enough to tell, with how many are in each.
    pub languages: BTreeMap<String, usize>,
    /// Rows in another language than most, where that has nine tenths or more.
    pub other_language: Places,
    /// Rows with an answer without text.
    pub empty_answers: Places,
    /// Signs that text was damaged on its way, with the rows that have them.
    pub oddities: BTreeMap<Oddity, Places>,
    /// What looks like a secret or like personal data: the rule and the rows, never the text.
    pub sensitive: BTreeMap<&'static str, Places>,
    /// Rows of token ids, which have no text to look at.
    pub without_text: usize,
}

/// Rows of one purpose.
#[derive(Clone, Debug, Serialize)]
pub struct PartReport {
    /// What happened to them.
    pub report: PrepReport,
    /// How long they are.
    pub lengths: Lengths,
    /// The last tokens that are trained, the most frequent first.
    pub endings: Vec<Ending>,
}

/// Lengths in tokens.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Lengths {
    /// The median.
    pub median: usize,
    /// Nine of ten rows are not longer.
    pub p90: usize,
    /// 99 of 100 rows are not longer.
    pub p99: usize,
    /// The longest.
    pub longest: usize,
    /// Rows by length: each bar reaches from the end of the one before it to its own.
    pub histogram: Vec<Bar>,
}

/// Rows of some lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// The longest of them, in tokens.
    pub up_to: usize,
    /// How many they are.
    pub rows: usize,
}

/// A token that rows end with, of those that are trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// The token's text.
    pub text: String,
    /// Rows that end with it.
    pub rows: usize,
    /// Whether a model stops there.
    pub stops: bool,
}

/// Rows that say what another one says. Case, width and blanks do not count, nor do system messages.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Duplicates {
    /// Rows that are the same as an earlier one.
    pub exact: Pairs,
    /// Rows that are nearly the same as an earlier one: runs of three words have a Jaccard similarity of 0.8 or more,
    /// estimated by MinHash.
    pub near: Pairs,
    /// Rows among which near duplicates were looked for.
    pub near_among: usize,
}

/// Rows to evaluate on that are in training too, in the sense of [`Duplicates`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct Leakage {
    /// The whole row is.
    pub exact: Pairs,
    /// The question is, maybe with another answer.
    pub questions: Pairs,
    /// A row that is nearly the same is.
    pub near: Pairs,
}

/// Rows, how many and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Places {
    /// How many.
    pub rows: usize,
    /// The first as `file:line`.
    pub first: Vec<String>,
}

/// Rows that have a fellow, how many and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pairs {
    /// How many.
    pub rows: usize,
    /// The first with their fellows, each as `file:line`.
    pub first: Vec<[String; 2]>,
}

impl PartReport {
    /// A report about tokenized rows; `stops` are the tokens at which a model stops.
    ///
    /// # Errors
    /// A row cannot be read, or a token has no text.
    pub(crate) fn new(
        rows: &TokenRows,
        report: PrepReport,
        tokenizer: &Tokenizer,
        stops: &[u32],
    ) -> Result<PartReport> {
        let mut last: HashMap<u32, usize> = HashMap::new();
        for part in rows.parts() {
            for row in part? {
                if let Some(label) = row.labels.iter().rev().find(|label| **label != IGNORE) {
                    *last.entry(*label as u32).or_default() += 1;
                }
            }
        }
        let mut last: Vec<(u32, usize)> = last.into_iter().collect();
        last.sort_by_key(|(id, rows)| (std::cmp::Reverse(*rows), *id));
        let ending = |(id, rows): (u32, usize)| {
            Ok(Ending { text: tokenizer.decode(&[id], false)?, rows, stops: stops.contains(&id) })
        };
        let endings = last.into_iter().take(SHOWN).map(ending).collect::<Result<_>>()?;
        Ok(PartReport { report, lengths: Lengths::of(rows.lengths().collect()), endings })
    }
}

impl Lengths {
    fn of(mut lengths: Vec<usize>) -> Lengths {
        lengths.sort_unstable();
        let Some(&longest) = lengths.last() else { return Lengths::default() };
        let at = |share: f64| {
            lengths[((lengths.len() as f64 * share).ceil() as usize).clamp(1, lengths.len()) - 1]
        };
        let width = longest.div_ceil(BARS).max(1);
        let up_to = |bar: usize| lengths.partition_point(|length| *length <= bar * width);
        let histogram = (1..=longest.div_ceil(width))
            .map(|bar| Bar { up_to: bar * width, rows: up_to(bar) - up_to(bar - 1) })
            .collect();
        Lengths { median: at(0.5), p90: at(0.9), p99: at(0.99), longest, histogram }
    }
}

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Train,
    Eval,
}

/// Looks at the texts of all rows.
pub(crate) struct TextReport {
    files: Vec<String>,
    duplicates: Duplicates,
    leakage: Leakage,
    /// Rows of training by their whole text, by their question, and those that are nearly the same.
    whole: HashMap<u64, Spot>,
    questions: HashMap<u64, Spot>,
    near: Near,
    languages: BTreeMap<&'static str, (usize, Vec<Spot>)>,
    empty_answers: Spots,
    oddities: BTreeMap<Oddity, Spots>,
    sensitive: BTreeMap<&'static str, Spots>,
    without_text: usize,
}

/// Where a row stands: its file and line.
type Spot = (u32, u32);

/// A place as `file:line`.
fn name(files: &[String], (file, line): Spot) -> String {
    format!("{}:{line}", files.get(file as usize).map_or("", String::as_str))
}

#[derive(Default)]
struct Spots {
    rows: usize,
    first: Vec<Spot>,
}

impl Spots {
    fn push(&mut self, spot: Spot) {
        self.rows += 1;
        if self.first.len() < SHOWN {
            self.first.push(spot);
        }
    }
}

impl TextReport {
    pub(crate) fn new() -> Self {
        TextReport {
            files: Vec::new(),
            duplicates: Duplicates::default(),
            leakage: Leakage::default(),
            whole: HashMap::new(),
            questions: HashMap::new(),
            near: Near::new(),
            languages: BTreeMap::new(),
            empty_answers: Spots::default(),
            oddities: BTreeMap::new(),
            sensitive: BTreeMap::new(),
            without_text: 0,
        }
    }

    /// Reads inputs once more. `purpose` says what the numbered examples are for. Rows to evaluate on are looked for among
    /// all rows to train on, so they wait for the end of these inputs.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn read(
        &mut self,
        threads: &Threads,
        inputs: &[Input<'_>],
        purpose: impl Fn(usize) -> Purpose,
    ) -> Result<()> {
        let before = self.files.len();
        self.files
            .extend(inputs.iter().flat_map(|input| &input.paths).map(|path| path.display().to_string()));
        let mut example = 0;
        let mut waiting = Vec::new();
        let work = |row: RawRow, read: super::dataset::ReadOptions<'_>| Scan::new(row, read);
        each_row(threads, inputs, work, &mut |place: Place, scan| {
            let Some(scan) = scan else { return Ok(true) };
            let spot = ((before + place.file) as u32, scan.line as u32);
            match purpose(example) {
                Purpose::Train => self.add(spot, Purpose::Train, scan),
                Purpose::Eval => waiting.push((spot, scan)),
            }
            example += 1;
            Ok(true)
        })?;
        waiting.into_iter().for_each(|(spot, scan)| self.add(spot, Purpose::Eval, scan));
        Ok(())
    }

    fn add(&mut self, spot: Spot, purpose: Purpose, scan: Scan) {
        let Some(text) = scan.text else {
            self.without_text += 1;
            return;
        };
        if text.empty_answer {
            self.empty_answers.push(spot);
        }
        for oddity in text.oddities {
            self.oddities.entry(oddity).or_default().push(spot);
        }
        for rule in text.sensitive {
            self.sensitive.entry(rule).or_default().push(spot);
        }
        if let Some(language) = text.language {
            let (rows, first) = self.languages.entry(language).or_default();
            *rows += 1;
            if first.len() < SHOWN {
                first.push(spot);
            }
        }
        let signature = text.signature.as_ref();
        let near = signature.and_then(|signature| self.near.like(signature));
        let near = near.and_then(|number| self.near.spot(number));
        let whole = self.whole.get(&text.whole).copied();
        let question = text.question.and_then(|question| self.questions.get(&question).copied());
        let fellow = match (purpose, whole, near, question) {
            (Purpose::Train, Some(other), ..) => Some((&mut self.duplicates.exact, other)),
            (Purpose::Train, None, Some(other), _) => Some((&mut self.duplicates.near, other)),
            (Purpose::Eval, Some(other), ..) => Some((&mut self.leakage.exact, other)),
            (Purpose::Eval, None, Some(other), _) => Some((&mut self.leakage.near, other)),
            (Purpose::Eval, None, None, Some(other)) => Some((&mut self.leakage.questions, other)),
            _ => None,
        };
        if let Some((pairs, other)) = fellow {
            pairs.rows += 1;
            if pairs.first.len() < SHOWN {
                pairs.first.push([name(&self.files, spot), name(&self.files, other)]);
            }
        }
        if purpose == Purpose::Train {
            self.whole.entry(text.whole).or_insert(spot);
            if let Some(question) = text.question {
                self.questions.entry(question).or_insert(spot);
            }
            if let (Some(signature), None) = (text.signature, whole) {
                self.near.insert(signature, spot);
            }
        }
    }

    /// The whole report.
    pub(crate) fn finish(mut self, train: PartReport, eval: Option<PartReport>) -> DataReport {
        let named = |spots: &Spots| Places {
            rows: spots.rows,
            first: spots.first.iter().map(|spot| name(&self.files, *spot)).collect(),
        };
        let told: usize = self.languages.values().map(|(rows, _)| rows).sum();
        let most = self.languages.values().map(|(rows, _)| *rows).max().unwrap_or(0);
        let mut others = Spots::default();
        if 10 * most >= 9 * told {
            for (rows, first) in self.languages.values().filter(|(rows, _)| *rows < most) {
                others.rows += rows;
                others.first.extend(first);
            }
            others.first.sort_unstable();
            others.first.truncate(SHOWN);
        }
        let other_language = named(&others);
        let empty_answers = named(&self.empty_answers);
        let oddities = self.oddities.iter().map(|(oddity, spots)| (*oddity, named(spots))).collect();
        let sensitive = self.sensitive.iter().map(|(rule, spots)| (*rule, named(spots))).collect();
        self.duplicates.near_among = self.near.len();
        DataReport {
            train,
            eval,
            duplicates: self.duplicates,
            leakage: self.leakage,
            languages: self.languages.into_iter().map(|(name, (rows, _))| (name.to_string(), rows)).collect(),
            other_language,
            empty_answers,
            oddities,
            sensitive,
            without_text: self.without_text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_once_each() {
        let lengths = Lengths::of((1..=1000).collect());
        assert_eq!((lengths.median, lengths.p90, lengths.p99, lengths.longest), (500, 900, 990, 1000));
        assert_eq!(lengths.histogram.iter().map(|bar| bar.rows).sum::<usize>(), 1000);
        assert_eq!(lengths.histogram[0], Bar { up_to: 42, rows: 42 });
        assert!(lengths.histogram.len() <= BARS);
        let one = Lengths::of(vec![3]);
        assert_eq!((one.median, one.p99), (3, 3));
        assert_eq!(one.histogram.iter().map(|bar| bar.rows).collect::<Vec<_>>(), [0, 0, 1]);
        assert!(Lengths::of(Vec::new()).histogram.is_empty());
    }
}
