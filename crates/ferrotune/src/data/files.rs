//! Which files a run file's paths of rows stand for: a file, the files of a folder, or those that a pattern matches.

use std::path::{Path, PathBuf};

use super::languages::Language;
use super::rows::{holds_rows, is_document};
use crate::error::{Error, Result};
use crate::run_config::matches;

/// The files that `paths` stand for, each path's in the order of their names. A file that two paths name is there twice.
///
/// # Errors
/// A path that is not there, a folder without rows, a pattern that matches no file.
pub(crate) fn expand<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let path = path.as_ref();
        if path.is_dir() {
            files.extend(of_folder(path)?);
        } else if path.exists() || !is_pattern(path) {
            files.push(path.to_path_buf());
        } else {
            files.extend(matched(path)?);
        }
    }
    Ok(files)
}

/// The folders and files of source code that `paths` stand for. A pattern such as `repositories/*` stands for the folders
/// that it matches, or, if there are none, for the files.
///
/// # Errors
/// A path that is not there, a file that is no source by its name, a pattern that matches nothing.
pub(crate) fn repositories<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let path = path.as_ref();
        if path.exists() || !is_pattern(path) {
            found.push(path.to_path_buf());
            continue;
        }
        let (folders, files): (Vec<_>, Vec<_>) =
            all_matched(path)?.into_iter().partition(|path| path.is_dir());
        let matched = if folders.is_empty() { files } else { folders };
        if matched.is_empty() {
            return Err(nothing_matches(path));
        }
        found.extend(matched);
    }
    match found.iter().find(|path| path.is_file() && Language::of(&path.to_string_lossy()).is_none()) {
        None => Ok(found),
        Some(file) => Err(Error::file(file, "it is no source file by its name").with_hint(
            "data.format=code takes folders of source code and files with the ending of a language",
        )),
    }
}

/// The text of a chat template's file; none if there is no such file.
pub(crate) fn template_file(path: &Path) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    match std::str::from_utf8(crate::json::without_mark(&bytes)) {
        Ok(text) => Ok(Some(text.to_string())),
        Err(_) => Err(Error::file(path, "the template is not UTF-8").with_hint("save the file as UTF-8")),
    }
}

/// Whether a path has wildcards.
fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

fn matched(pattern: &Path) -> Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> = all_matched(pattern)?.into_iter().filter(|path| path.is_file()).collect();
    if files.is_empty() { Err(nothing_matches(pattern)) } else { Ok(files) }
}

/// The files and folders that a pattern matches.
fn all_matched(pattern: &Path) -> Result<Vec<PathBuf>> {
    let wrong = |problem: String| Error::file(pattern, problem);
    let found = matches(pattern)
        .map_err(|e| wrong(format!("not a pattern: {e}")).with_hint("*, ?, [a-z] and ** are read"))?;
    found.map(|path| path.map_err(|e| wrong(format!("{}: {}", e.path().display(), e.error())))).collect()
}

fn nothing_matches(pattern: &Path) -> Error {
    Error::file(pattern, "no file matches").with_hint("patterns start at the current folder, as other paths")
}

/// The files of a folder and of those in it that hold rows, or else its texts. Hidden ones are passed over.
fn of_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let walk = ignore::WalkBuilder::new(folder)
        .standard_filters(false)
        .hidden(true)
        .follow_links(true)
        .sort_by_file_name(Ord::cmp)
        .build();
    let (mut rows, mut documents, mut sources, mut others) = (Vec::new(), Vec::new(), 0, 0);
    for entry in walk {
        let entry = entry.map_err(|e| Error::file(folder, format!("the folder cannot be read: {e}")))?;
        let path = entry.into_path();
        if !path.is_file() {
            continue;
        }
        match () {
            () if holds_rows(&path) => rows.push(path),
            () if is_document(&path) => documents.push(path),
            () if Language::of(&path.to_string_lossy()).is_some() => sources += 1,
            () => others += 1,
        }
    }
    // A repository has settings in JSON and a text or two, which are not what a user means by naming it.
    let all_json = rows.iter().all(|path| path.extension().is_some_and(|ending| ending == "json"));
    if all_json && sources > rows.len() + documents.len() {
        return Err(Error::file(
            folder,
            format!("this is a folder of source code: {sources} source files, and no file of rows"),
        )
        .with_hint("data.format=code trains the source files; name files or a pattern to train others"));
    }
    let others = others + sources;
    let files = if rows.is_empty() { documents } else { rows };
    match files.is_empty() {
        false => Ok(files),
        true => Err(Error::file(folder, format!("no file of rows and no text is in this folder ({others} other files)"))
            .with_hint("rows are in .jsonl, .json, .csv, .tsv and .parquet files, also .gz and .zst; texts in .txt and .md")),
    }
}
