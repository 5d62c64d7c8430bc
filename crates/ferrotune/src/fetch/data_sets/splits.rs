//! Which files of a repository are a split: by patterns, or by the names of files and folders as `datasets` 5.2 has it
//! (its `data_files.py`).

use glob::{MatchOptions, Pattern};

/// Splits and the patterns of their files.
pub(super) type Patterns = Vec<(String, Vec<String>)>;

/// Splits and their files.
pub(super) type Splits = Vec<(String, Vec<String>)>;

/// The words of a split in the names of files and folders.
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Endings of files of rows, with the one that wins first where a folder has as many of another.
const ENDINGS: [&str; 8] = ["parquet", "jsonl", "json", "csv", "txt", "tsv", "tab", "ndjson"];

/// Files of these names describe a data set.
const DESCRIPTIONS: [&str; 6] = [
    "README.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dummy_data.zip",
    "dataset_dict.json",
];

/// The ending of a file of rows, without that of its compression.
fn ending(file: &str) -> Option<&'static str> {
    let name = base(file).to_ascii_lowercase();
    let name = [".gz", ".gzip", ".zst", ".zstd"].iter().find_map(|e| name.strip_suffix(e)).unwrap_or(&name);
    let (_, last) = name.rsplit_once('.')?;
    ENDINGS.into_iter().find(|ending| *ending == last)
}

/// Files that are read alike have one number.
fn format(ending: &str) -> u8 {
    match ending {
        "parquet" => 0,
        "json" | "jsonl" | "ndjson" => 1,
        "csv" | "tsv" | "tab" => 2,
        _ => 3,
    }
}

/// Whether a name is that of a file of rows or a text.
pub(super) fn looks_like_rows(name: &str) -> bool {
    ending(name).is_some() || name.ends_with(".md")
}

fn base(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

/// Splits by the names of files and folders. The first rule that finds any decides: shards in `data/`, words in the names
/// of folders, words in the names of files; else all files are the split `train`.
pub(super) fn by_names(files: &[String], folder: &str) -> Splits {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let visible = |file: &&String| {
        let inside = &file[prefix.len()..];
        ending(inside).is_some() && !DESCRIPTIONS.contains(&base(inside)) && counted(inside) == (0, 0)
    };
    let files: Vec<&String> = files.iter().filter(|file| file.starts_with(&prefix)).filter(visible).collect();
    let inside = |file: &String| file[prefix.len()..].to_string();
    let sharded = shards_in_data(&files, inside);
    if !sharded.is_empty() {
        return sharded;
    }
    let in_folders = |file: &str, word: &str| {
        let (folders, _) = file.rsplit_once('/')?;
        folders.split('/').filter_map(|folder| place(folder, word, true)).min()
    };
    let in_name = |file: &str, word: &str| place(base(file), word, false);
    for rule in [&in_folders as &dyn Fn(&str, &str) -> Option<u8>, &in_name] {
        let of = |words: &[&str]| {
            let rank = |file: &String| {
                let file = inside(file);
                (0..).zip(words).find_map(|(at, word)| rule(&file, word).map(|place| (at, place)))
            };
            let mut found: Vec<((i32, u8), String)> =
                files.iter().filter_map(|file| Some((rank(file)?, file.to_string()))).collect();
            found.sort();
            found.into_iter().map(|(_, file)| file).collect::<Vec<_>>()
        };
        let found: Splits = KEYWORDS.iter().map(|(split, words)| (split.to_string(), of(words))).collect();
        let found: Splits = found.into_iter().filter(|(_, files)| !files.is_empty()).collect();
        if !found.is_empty() {
            return found.into_iter().map(|(split, files)| (split, of_one_format(files))).collect();
        }
    }
    match files.is_empty() {
        true => Vec::new(),
        false => vec![("train".into(), of_one_format(files.into_iter().cloned().collect()))],
    }
}

/// `data/SPLIT-00000-of-00003.parquet`, whatever the split is called.
fn shards_in_data(files: &[&String], inside: impl Fn(&String) -> String) -> Splits {
    let mut found = Splits::new();
    for file in files {
        let path = inside(file);
        let Some(name) = path.strip_prefix("data/").filter(|name| !name.contains('/')) else { continue };
        let Some((split, ..)) = shard(name).filter(|(split, ..)| !split.is_empty()) else { continue };
        match found.iter_mut().find(|(other, _)| other == split) {
            Some((_, files)) => files.push(file.to_string()),
            None => found.push((split.to_string(), vec![file.to_string()])),
        }
    }
    let known = |split: &str| KEYWORDS.iter().position(|(word, _)| *word == split).unwrap_or(KEYWORDS.len());
    found.sort_by(|(a, _), (b, _)| known(a).cmp(&known(b)).then_with(|| a.cmp(b)));
    found.into_iter().map(|(split, files)| (split, of_one_format(files))).collect()
}

/// What stands before `-00001-of-00003`, and the two numbers.
fn shard(name: &str) -> Option<(&str, usize, usize)> {
    let number =
        |text: &str| text.get(..5)?.bytes().all(|b| b.is_ascii_digit()).then(|| text[..5].parse().ok())?;
    name.rmatch_indices("-of-").find_map(|(at, _)| {
        let dash = at.checked_sub(6).filter(|dash| name.as_bytes()[*dash] == b'-')?;
        Some((&name[..dash], number(name.get(dash + 1..)?)?, number(&name[at + 4..])?))
    })
}

/// A shard that the files lack, by its name's numbers. For files of which nobody lists all.
pub(super) fn missing_shard(files: &[String]) -> Option<String> {
    for file in files {
        let Some((stem, _, count)) = shard(file) else { continue };
        let mut there = vec![false; count];
        for (other, at, _) in files.iter().filter_map(|f| shard(f)) {
            if other == stem && at < count {
                there[at] = true;
            }
        }
        if let Some(at) = there.iter().position(|there| !there) {
            return Some(format!("{stem}-{at:05}-of-{count:05}"));
        }
    }
    None
}

/// Where a word stands between separators in a name: it is the name (0), begins it (1), ends it (2), or is inside (3). Nothing
/// but a separator may stand behind it unless `end`. `datasets` looks for these in this order.
fn place(name: &str, word: &str, end: bool) -> Option<u8> {
    let separates = |c: Option<char>| c.is_some_and(|c| matches!(c, '-' | '.' | '_' | ' ' | '0'..='9'));
    let at = |(at, _): (usize, &str)| {
        let behind = &name[at + word.len()..];
        let last = end && behind.is_empty();
        match (at == 0, last, separates(behind.chars().next()), separates(name[..at].chars().next_back())) {
            (true, true, ..) => Some(0),
            (true, _, true, _) => Some(1),
            (_, true, _, true) => Some(2),
            (_, _, true, true) => Some(3),
            _ => None,
        }
    };
    name.match_indices(word).filter_map(at).min()
}

/// The files with the ending that most have, and those that are read like them.
fn of_one_format(files: Vec<String>) -> Vec<String> {
    let count = |own: &str| files.iter().filter(|file| ending(file) == Some(own)).count();
    // Of equal counts the first ending is kept.
    let most = ENDINGS.into_iter().rev().max_by_key(|own| count(own)).map(format);
    files.into_iter().filter(|file| ending(file).map(format) == most).collect()
}

/// The files that patterns of a card or of a user stand for, each pattern's in the order of their names.
///
/// # Errors
/// A pattern that is none, or a file that is not there or that nothing here reads.
pub(super) fn matched(
    files: &[String],
    folder: Option<&str>,
    patterns: &[String],
) -> Result<Vec<String>, String> {
    let mut found: Vec<String> = Vec::new();
    for pattern in patterns {
        if pattern.contains("://") {
            return Err(format!("`{pattern}` lies elsewhere, and is not brought"));
        }
        let path = folder.map_or_else(|| pattern.clone(), |folder| format!("{folder}/{pattern}"));
        if !is_pattern(&path) {
            match files.contains(&path) {
                true if ending(&path).is_none() => {
                    return Err(format!("`{path}` holds no rows that can be read"));
                }
                true => found.push(path),
                false => return Err(format!("there is no file `{path}`")),
            }
            continue;
        }
        let compiled = Pattern::new(&path).map_err(|e| format!("`{path}` is not a pattern: {e}"))?;
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        let fits = |file: &&String| {
            compiled.matches_with(file, options)
                && counted(file) == counted(&path)
                && (!DESCRIPTIONS.contains(&base(file)) || base(file) == base(&path))
                && ending(file).is_some()
        };
        found.extend(of_one_format(files.iter().filter(fits).cloned().collect()));
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|file| seen.insert(file.clone()));
    Ok(found)
}

/// Whether a path has wildcards.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Hidden parts of a path and folders such as `__pycache__`: a pattern finds them only if it says so.
fn counted(path: &str) -> (usize, usize) {
    let parts: Vec<&str> = path.split('/').collect();
    let hidden = parts.iter().filter(|part| part.starts_with('.') && part.chars().any(|c| c != '.')).count();
    (hidden, parts[..parts.len() - 1].iter().filter(|part| part.starts_with("__")).count())
}
