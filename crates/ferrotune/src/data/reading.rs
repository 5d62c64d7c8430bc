//! Rows on their way from files to tokens: a part of them is in memory at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ferrotune_kernels::Threads;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::dataset::{BadRow, BadRows, DataFile, Dataset, ReadOptions, no_rows, read_row};
use super::files;
use super::outcomes::Outcomes;
use super::rows::{self, RawRow, RowSource, SourceFolder};
use super::token_rows::{Parts, RowStore, RowWriter, TokenCache, TokenRows, key};
use super::tokenize::{Names, Outcome, PrepReport, Preparer, Problem};
use super::train_row::TrainRow;
use crate::formats::hash::{Digest, hex};
use crate::run_config::DataFormat;
use crate::{Error, Result};

/// Rows that are tokenized together at most.
const ROWS: usize = 4096;

/// Bytes of text that are tokenized together at most, unless one row has more.
const BYTES: usize = 8 << 20;

/// Some files that are read in one way.
pub(crate) struct Input<'a> {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) read: ReadOptions<'a>,
}

impl<'a> Input<'a> {
    /// The files that paths stand for, or the folders of source code where that is the format.
    ///
    /// # Errors
    /// A path is not there, or a pattern matches nothing.
    pub(crate) fn new(paths: &[impl AsRef<Path>], read: ReadOptions<'a>) -> Result<Self> {
        let paths = match read.format {
            DataFormat::Code => files::repositories(paths)?,
            _ => files::expand(paths)?,
        };
        Ok(Input { paths, read })
    }
}

/// What was read beside the rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct About {
    /// The files, in order.
    pub(crate) files: Vec<DataFile>,
    /// How many rows have which shape, in words.
    pub(crate) shapes: BTreeMap<String, usize>,
    /// How many files of folders of source code were left out for which reason, in words.
    pub(crate) left_out: BTreeMap<String, usize>,
    /// Rows that cannot be used.
    pub(crate) bad: BadRows,
    /// Those of them that could not be read, so that there is no example.
    pub(crate) unreadable: usize,
}

/// Everything that was read together.
pub(crate) struct Tokenized {
    pub(crate) store: Arc<RowStore>,
    pub(crate) outcomes: Outcomes,
    pub(crate) about: About,
}

impl Tokenized {
    /// The rows of some examples in this order, and what happened to them.
    pub(crate) fn some(&self, examples: impl Iterator<Item = usize>) -> (TokenRows, PrepReport) {
        let mut report = PrepReport::default();
        let mut rows = Vec::new();
        for example in examples {
            let found = self.outcomes.get(example);
            let metas = &self.store.rows()[found.rows.start as usize..found.rows.end as usize];
            report.add(&found.outcome, metas);
            rows.extend(found.rows);
        }
        let all = rows.len() == self.store.rows().len()
            && rows.iter().enumerate().all(|(i, &row)| i == row as usize);
        let rows = if all {
            TokenRows::all(Arc::clone(&self.store))
        } else {
            TokenRows::some(Arc::clone(&self.store), rows)
        };
        (rows, report)
    }

    /// All rows; `names` says what messages call them.
    pub(crate) fn whole(self, preparer: &Preparer<'_>, names: Names) -> Result<(TokenRows, PrepReport)> {
        let (rows, mut report) = self.some(0..self.outcomes.len());
        self.complete(preparer, names, &mut report)?;
        Ok((rows, report))
    }

    /// Adds to a report what concerns all that was read, and refuses what cannot be trained.
    pub(crate) fn complete(
        &self,
        preparer: &Preparer<'_>,
        names: Names,
        report: &mut PrepReport,
    ) -> Result<()> {
        report.rows += self.about.unreadable;
        report.shapes = self.about.shapes.clone();
        report.left_out_files = self.about.left_out.clone();
        let all = self.outcomes.len() + self.about.unreadable;
        preparer.told(&self.about.bad, &self.about.files, all, report)?;
        Preparer::check(report, names)
    }
}

/// Reads and tokenizes files, or takes what was kept of them.
pub(crate) fn tokenized(
    threads: &Threads,
    preparer: &Preparer<'_>,
    inputs: &[Input<'_>],
    cache: Option<&TokenCache>,
) -> Result<Tokenized> {
    // Folders of source code are looked through at every start.
    let is_code = inputs.iter().any(|input| input.read.format == DataFormat::Code);
    let cache = cache.map(|cache| if is_code { cache.unnamed() } else { cache.clone() });
    let cache = cache.as_ref();
    let mut reading = Reading::new(threads, preparer, cache)?;
    if let Some(cache) = cache
        && let Some(files) = hashed(threads, inputs, cache.kept_from)?
    {
        if let Some(found) = kept(cache, preparer, inputs, files) {
            return Ok(found);
        }
        reading.in_memory = 0;
    }
    reading.add_files(inputs)?;
    let mut all = reading.finish()?;
    if let (Some(cache), Some(store)) = (cache, Arc::get_mut(&mut all.store)) {
        let examples = all.outcomes.to_bytes();
        let about =
            serde_json::to_vec(&all.about).map_err(|e| Error::train(format!("cannot be written: {e}")))?;
        cache.keep(&key_of(preparer, inputs, &all.about.files), store, &Parts { examples, about });
    }
    Ok(all)
}

/// The files with their hashes, if they are so large that what was made of them may have been kept.
fn hashed(threads: &Threads, inputs: &[Input<'_>], kept_from: u64) -> Result<Option<Vec<DataFile>>> {
    let paths: Vec<&PathBuf> = inputs.iter().flat_map(|input| &input.paths).collect();
    if rows::bytes_of(&paths) < kept_from {
        return Ok(None);
    }
    let hash = |path: &&PathBuf| {
        Digest::of_file(path).map(|digest| DataFile { path: path.to_path_buf(), sha256: digest.sha256 })
    };
    Ok(Some(threads.map(&paths, hash).into_iter().collect::<std::result::Result<_, _>>()?))
}

/// What was kept of these files.
fn kept(
    cache: &TokenCache,
    preparer: &Preparer<'_>,
    inputs: &[Input<'_>],
    files: Vec<DataFile>,
) -> Option<Tokenized> {
    let (store, parts) = cache.open(&key_of(preparer, inputs, &files))?;
    let outcomes = Outcomes::from_bytes(&parts.examples)?;
    let about: About = serde_json::from_slice(&parts.about).ok()?;
    Some(Tokenized { store: Arc::new(store), outcomes, about: About { files, ..about } })
}

/// Everything that decides what these files become.
fn key_of(preparer: &Preparer<'_>, inputs: &[Input<'_>], files: &[DataFile]) -> String {
    let mut deciding = preparer.deciding();
    deciding.extend(inputs.iter().map(|input| format!("{} {}", input.paths.len(), input.read.deciding())));
    // The kind of a file may follow from its name.
    deciding.extend(files.iter().map(|file| format!("{} {:?}", file.sha256, file.path.file_name())));
    key(&deciding)
}

/// Where a row stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Its input.
    pub(crate) input: usize,
    /// Its file, counted over all inputs.
    pub(crate) file: usize,
}

/// Works on the rows of all inputs on all threads and takes what comes out in their order, until `take` wants no more; gives
/// the files. A part of the rows is in memory at a time.
pub(crate) fn each_row<T: Send>(
    threads: &Threads,
    inputs: &[Input<'_>],
    work: impl Fn(RawRow, ReadOptions<'_>) -> T + Sync,
    take: &mut Take<'_, T>,
) -> Result<Seen> {
    let (mut seen, mut more) = (Seen::default(), true);
    for (number, input) in inputs.iter().enumerate() {
        let mut waiting = Waiting::new(threads, input.read, &work);
        let mut left = input.read.limit.unwrap_or(usize::MAX);
        for path in &input.paths {
            if !more {
                break;
            }
            let place = Place { input: number, file: seen.files.len() };
            let sha256 = if input.read.format == DataFormat::Code {
                let mut folder = SourceFolder::open(path)?;
                while left > 0
                    && more
                    && let Some(row) = folder.next_row()?
                {
                    left -= 1;
                    more = waiting.push(place, row, take)?;
                }
                if left > 0 && more {
                    folder.refuse_empty(path)?;
                }
                for (words, count) in folder.left_out() {
                    *seen.left_out.entry(words.clone()).or_default() += count;
                }
                folder.sha256()
            } else {
                let mut found = false;
                let digest = rows::read_file(path, &mut |row| {
                    found = true;
                    if left == 0 {
                        return Ok(false);
                    }
                    left -= 1;
                    more = waiting.push(place, row, take)?;
                    Ok(more)
                })?;
                if !found {
                    return Err(no_rows(path));
                }
                digest.sha256
            };
            seen.files.push(DataFile { path: path.clone(), sha256 });
        }
        more = more && waiting.work(take)?;
    }
    Ok(seen)
}

/// What was gone through.
#[derive(Default)]
pub(crate) struct Seen {
    files: Vec<DataFile>,
    /// How many files of folders of source code were left out for which reason, in words.
    left_out: BTreeMap<String, usize>,
}

/// Takes what was made of a row, and says whether more is wanted.
type Take<'a, T> = dyn FnMut(Place, T) -> Result<bool> + 'a;

/// Rows that are worked on together.
struct Waiting<'a, W> {
    threads: &'a Threads,
    read: ReadOptions<'a>,
    work: W,
    rows: Vec<(Place, Mutex<Option<RawRow>>)>,
    /// About how many bytes they are.
    bytes: usize,
}

impl<'a, T: Send, W: Fn(RawRow, ReadOptions<'_>) -> T + Sync> Waiting<'a, W> {
    fn new(threads: &'a Threads, read: ReadOptions<'a>, work: W) -> Self {
        Waiting { threads, read, work, rows: Vec::new(), bytes: 0 }
    }

    fn push(&mut self, place: Place, row: RawRow, take: &mut Take<'_, T>) -> Result<bool> {
        self.bytes += row.bytes();
        self.rows.push((place, Mutex::new(Some(row))));
        if self.rows.len() < ROWS && self.bytes < BYTES {
            return Ok(true);
        }
        self.work(take)
    }

    fn work(&mut self, take: &mut Take<'_, T>) -> Result<bool> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let made = self.threads.map(&rows, |(place, row)| {
            let row = row.lock().unwrap_or_else(PoisonError::into_inner).take()?;
            Some((*place, (self.work)(row, self.read)))
        });
        let mut more = true;
        for (place, made) in made.into_iter().flatten() {
            more = take(place, made)?;
        }
        Ok(more)
    }
}

/// Makes rows of examples, and keeps what is known of them.
pub(crate) struct Reading<'a> {
    threads: &'a Threads,
    preparer: &'a Preparer<'a>,
    cache: Option<&'a TokenCache>,
    writer: RowWriter,
    /// Tokens of more bytes go into a file.
    in_memory: usize,
    has_file: bool,
    /// What need not be exceeded.
    pub(crate) enough: Option<Enough>,
    outcomes: Outcomes,
    about: About,
}

/// How much is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enough {
    Rows(usize),
    Tokens(usize),
}

impl<'a> Reading<'a> {
    /// # Errors
    /// The model lacks what the options ask for.
    pub(crate) fn new(
        threads: &'a Threads,
        preparer: &'a Preparer<'a>,
        cache: Option<&'a TokenCache>,
    ) -> Result<Self> {
        preparer.check_options()?;
        Ok(Reading {
            threads,
            preparer,
            cache,
            writer: RowWriter::noting(preparer.stop_ids()),
            in_memory: cache.map_or(usize::MAX, |cache| cache.in_memory),
            has_file: false,
            enough: None,
            outcomes: Outcomes::default(),
            about: About::default(),
        })
    }

    /// Takes the rows of files.
    pub(crate) fn add_files(&mut self, inputs: &[Input<'_>]) -> Result<()> {
        let (threads, preparer) = (self.threads, self.preparer);
        let work = |row: RawRow, read: ReadOptions<'_>| Read::new(preparer, row, read);
        let seen = each_row(threads, inputs, work, &mut |place, read| self.take(place, read))?;
        (self.about.files, self.about.left_out) = (seen.files, seen.left_out);
        Ok(())
    }

    /// Takes the rows of a program's own source; `name` stands for its file in messages.
    pub(crate) fn add_source(
        &mut self,
        name: &str,
        source: &mut dyn RowSource,
        read: ReadOptions<'_>,
    ) -> Result<()> {
        let mut hash = Sha256::new();
        let preparer = self.preparer;
        let work = |row: RawRow, read: ReadOptions<'_>| Read::new(preparer, row, read);
        let mut waiting = Waiting::new(self.threads, read, work);
        let place = Place { input: 0, file: 0 };
        while let Some(row) = source.next_row()? {
            row.hash(&mut hash);
            waiting.push(place, row, &mut |place, read| self.take(place, read))?;
        }
        waiting.work(&mut |place, read| self.take(place, read))?;
        self.about.files.push(DataFile { path: name.into(), sha256: hex(&hash.finalize()) });
        Ok(())
    }

    /// Takes the rows of a data set that is in memory.
    pub(crate) fn take_all(&mut self, dataset: &Dataset) -> Result<()> {
        self.about.files.clone_from(&dataset.files);
        self.about.shapes.clone_from(&dataset.shapes);
        self.about.unreadable = dataset.bad.len();
        let preparer = self.preparer;
        let made = self.threads.map(&dataset.rows, |row| preparer.fitted(&row.example));
        for (row, made) in dataset.rows.iter().zip(made) {
            self.add(made, Place { input: 0, file: row.file }, row.line)?;
        }
        self.about.bad = std::mem::take(&mut self.about.bad).and(dataset.bad.clone());
        Ok(())
    }

    fn take(&mut self, place: Place, read: Read) -> Result<bool> {
        let line = read.line;
        match read.made {
            Ok((shape, made)) => {
                match self.about.shapes.get_mut(&shape) {
                    Some(count) => *count += 1,
                    None => drop(self.about.shapes.insert(shape, 1)),
                }
                self.add(made, place, line)?;
            }
            Err((problem, hint)) => {
                self.about.unreadable += 1;
                self.about.bad.push(BadRow { file: place.file, line, problem, hint });
            }
        }
        Ok(match self.enough {
            None => true,
            Some(Enough::Rows(rows)) => self.writer.len() < rows,
            Some(Enough::Tokens(tokens)) => self.writer.tokens() < tokens,
        })
    }

    fn add(&mut self, made: Made, place: Place, line: usize) -> Result<()> {
        let (rows, outcome) = made.unwrap_or_else(|Problem { text, hint }| {
            self.about.bad.push(BadRow { file: place.file, line, problem: text, hint });
            (Vec::new(), Outcome::bad())
        });
        let count = u32::try_from(rows.len()).ok();
        count
            .and_then(|count| self.outcomes.push(place.input as u32, count, outcome))
            .ok_or_else(|| Error::config("data.train", "there are more than 2^32 rows"))?;
        for row in &rows {
            self.writer.push(row)?;
        }
        if let Some(cache) = self.cache
            && !self.has_file
            && self.writer.bytes_in_memory() > self.in_memory
        {
            match cache.begin() {
                Ok((file, path)) => {
                    self.writer.move_to(file, &path)?;
                    self.has_file = true;
                }
                // Where no file can be made all stays in memory.
                Err(_) => self.in_memory = usize::MAX,
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Tokenized> {
        let store = Arc::new(self.writer.finish()?);
        Ok(Tokenized { store, outcomes: self.outcomes, about: self.about })
    }
}

/// A row that was read and tokenized: its shape and what it became, or why it cannot be read.
struct Read {
    line: usize,
    made: std::result::Result<(String, Made), super::rows::Problem>,
}

impl Read {
    fn new(preparer: &Preparer<'_>, row: RawRow, read: ReadOptions<'_>) -> Read {
        let (line, read) = read_row(row, read);
        Read { line, made: read.map(|(example, shape)| (shape, preparer.fitted(&example))) }
    }
}

/// What an example becomes, or why it cannot be used.
type Made = std::result::Result<(Vec<TrainRow>, Outcome), Problem>;

#[cfg(test)]
mod tests;
