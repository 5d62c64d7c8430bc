//! Which files a run file's paths of rows stand for: a file, the files of a folder, or those that a pattern matches.

use std::path::{Path, PathBuf};

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

/// Whether a path has wildcards.
fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

fn matched(pattern: &Path) -> Result<Vec<PathBuf>> {
    let wrong = |problem: String| Error::file(pattern, problem);
    let found = matches(pattern)
        .map_err(|e| wrong(format!("not a pattern: {e}")).with_hint("*, ?, [a-z] and ** are read"))?;
    let mut files = Vec::new();
    for path in found {
        let path =
            path.map_err(|e| Error::file(pattern, format!("{}: {}", e.path().display(), e.error())))?;
        if path.is_file() {
            files.push(path);
        }
    }
    match files.is_empty() {
        false => Ok(files),
        true => {
            Err(wrong("no file matches".into())
                .with_hint("patterns start at the current folder, as other paths"))
        }
    }
}

/// The files of a folder and of those in it that hold rows, or else its texts. Hidden ones are passed over.
fn of_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let walk = ignore::WalkBuilder::new(folder)
        .standard_filters(false)
        .hidden(true)
        .follow_links(true)
        .sort_by_file_name(Ord::cmp)
        .build();
    let (mut rows, mut documents, mut others) = (Vec::new(), Vec::new(), 0);
    for entry in walk {
        let entry = entry.map_err(|e| Error::file(folder, format!("the folder cannot be read: {e}")))?;
        let path = entry.into_path();
        if !path.is_file() {
            continue;
        }
        match () {
            () if holds_rows(&path) => rows.push(path),
            () if is_document(&path) => documents.push(path),
            () => others += 1,
        }
    }
    let files = if rows.is_empty() { documents } else { rows };
    match files.is_empty() {
        false => Ok(files),
        true => Err(Error::file(folder, format!("no file of rows and no text is in this folder ({others} other files)"))
            .with_hint("rows are in .jsonl, .json, .csv, .tsv and .parquet files, also .gz and .zst; texts in .txt and .md")),
    }
}
