//! A folder of source code: each file is a row with its text, its path in the folder, and the folder's name.
//!
//! What a repository itself leaves out (.gitignore, .ignore, hidden files) is left out here, and what would teach
//! nothing: dependencies, lock files, generated and minified files. Every file that is not taken is counted with the
//! reason. The limits are those of The Stack and of StarCoder's data (Kocetkov et al. 2022, Li et al. 2023).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ignore::WalkBuilder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Fields, RawRow, RowSource};
use crate::data::languages::Language;
use crate::formats::hash::hex;
use crate::{Error, Result};

/// Bytes of a file at most.
const LARGEST: u64 = 1 << 20;

/// Characters of a line at most, and of all lines on average.
const LONGEST_LINE: usize = 1000;
const AVERAGE_LINE: usize = 100;

/// Bytes at the start of a file where generators say that they wrote it.
const HEAD: usize = 1024;

/// Folders of what others wrote, where no ignore file says so.
const DEPENDENCIES: &[&str] = &["node_modules", "bower_components", "site-packages", "__pycache__"];

/// Files that fix the versions of dependencies.
const LOCK_FILES: &[&str] = &[
    "package-lock.json",
    "npm-shrinkwrap.json",
    "pnpm-lock.yaml",
    "packages.lock.json",
    "go.sum",
    "gradle.lockfile",
    "bun.lockb",
    "package.resolved",
];

/// Endings of files that tools write.
const GENERATED: &[&str] = &[
    ".min.js",
    ".min.css",
    ".bundle.js",
    ".chunk.js",
    "_pb2.py",
    "_pb2.pyi",
    "_pb2_grpc.py",
    ".pb.go",
    ".pb.h",
    ".pb.cc",
    ".g.dart",
    ".freezed.dart",
    ".designer.cs",
    ".g.cs",
];

/// Why a file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Ignored,
    Dependency,
    Link,
    LockFile,
    Other,
    TooLarge,
    Binary,
    Empty,
    Generated,
    Minified,
}

impl Reason {
    /// The reason in the words of a report.
    fn words(self) -> &'static str {
        match self {
            Reason::Ignored => "named in .gitignore or .ignore",
            Reason::Dependency => "in folders of dependencies",
            Reason::Link => "symbolic links",
            Reason::LockFile => "lock files",
            Reason::Other => "no source by their names",
            Reason::TooLarge => "above 1 MiB",
            Reason::Binary => "not UTF-8 text",
            Reason::Empty => "empty",
            Reason::Generated => "generated",
            Reason::Minified => "minified",
        }
    }
}

/// The source files of a folder, in the order of their paths, which is the same on every machine.
#[derive(Debug)]
pub(in crate::data) struct SourceFolder {
    root: PathBuf,
    repository: String,
    /// Paths in the folder with `/`, the next one last.
    paths: Vec<String>,
    taken: usize,
    left_out: BTreeMap<String, usize>,
    hash: Sha256,
}

impl SourceFolder {
    /// Finds the files of a folder; a file stands for itself, in the folder that it is in.
    pub(in crate::data) fn open(path: &Path) -> Result<SourceFolder> {
        let whole = fs::canonicalize(path).map_err(|e| Error::io(path, e))?;
        let is_file = whole.is_file();
        let root = if is_file { whole.parent().unwrap_or(&whole).to_path_buf() } else { whole.clone() };
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut folder = SourceFolder {
            repository: name(&root).unwrap_or_default(),
            root,
            paths: Vec::new(),
            taken: 0,
            left_out: BTreeMap::new(),
            hash: Sha256::new(),
        };
        if is_file {
            folder.paths.extend(name(&whole));
        } else {
            folder.walk(path)?;
        }
        folder.paths.sort_unstable_by(|a, b| b.cmp(a));
        Ok(folder)
    }

    fn walk(&mut self, given: &Path) -> Result<()> {
        // Ignore files above the folder and the user's own say nothing about it: a corpus may well be ignored as a whole.
        let walker = |ignores: bool| {
            WalkBuilder::new(&self.root)
                .standard_filters(false)
                .hidden(true)
                .ignore(ignores)
                .git_ignore(ignores)
                .require_git(false)
                .build()
        };
        let mut all = 0;
        for entry in walker(false) {
            let entry = entry.map_err(|e| unreadable(given, &e))?;
            all += usize::from(entry.file_type().is_some_and(|kind| !kind.is_dir()));
        }
        let mut seen = 0;
        let (mut paths, mut reasons) = (Vec::new(), Vec::new());
        for entry in walker(true) {
            let entry = entry.map_err(|e| unreadable(given, &e))?;
            let Some(kind) = entry.file_type().filter(|kind| !kind.is_dir()) else { continue };
            seen += 1;
            let Ok(relative) = entry.path().strip_prefix(&self.root) else { continue };
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            let path = parts.join("/");
            match by_name(&path, kind.is_symlink()) {
                Some(reason) => reasons.push(reason),
                None => paths.push(path),
            }
        }
        self.paths = paths;
        (seen..all).for_each(|_| self.leave_out(Reason::Ignored));
        reasons.into_iter().for_each(|reason| self.leave_out(reason));
        Ok(())
    }

    fn leave_out(&mut self, reason: Reason) {
        *self.left_out.entry(reason.words().to_string()).or_default() += 1;
    }

    /// How many files were not taken for which reason. Complete behind the last row.
    pub(in crate::data) fn left_out(&self) -> &BTreeMap<String, usize> {
        &self.left_out
    }

    /// Refuses a folder of which no file was taken.
    pub(in crate::data) fn refuse_empty(&self, path: &Path) -> Result<()> {
        if self.taken > 0 {
            return Ok(());
        }
        let reasons: Vec<String> =
            self.left_out.iter().map(|(words, count)| format!("{count} {words}")).collect();
        let problem = match reasons.is_empty() {
            true => "no source file is in it".to_string(),
            false => format!("no source file is in it (left out: {})", reasons.join(", ")),
        };
        Err(Error::file(path, problem)
            .with_hint("data.format=code takes folders of source code; leave it out for files of rows"))
    }

    /// The digest of the paths and texts that were taken.
    pub(in crate::data) fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// The text of a file, or why it is not taken.
    fn text(&self, path: &str) -> Result<std::result::Result<String, Reason>> {
        let file = self.root.join(path);
        let refused = |e| Error::io(&file, e);
        if fs::metadata(&file).map_err(refused)?.len() > LARGEST {
            return Ok(Err(Reason::TooLarge));
        }
        let bytes = fs::read(&file).map_err(refused)?;
        Ok(match String::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => Err(Reason::Binary),
            Ok(text) => by_content(&text, Language::of(path)).map_or(Ok(text), Err),
            Err(_) => Err(Reason::Binary),
        })
    }
}

impl RowSource for SourceFolder {
    fn next_row(&mut self) -> Result<Option<RawRow>> {
        while let Some(path) = self.paths.pop() {
            let text = match self.text(&path)? {
                Ok(text) => text,
                Err(reason) => {
                    self.leave_out(reason);
                    continue;
                }
            };
            self.taken += 1;
            for part in [path.as_bytes(), text.as_bytes()] {
                self.hash.update((part.len() as u64).to_le_bytes());
                self.hash.update(part);
            }
            let fields = [("content", text), ("path", path), ("repository", self.repository.clone())];
            let fields = fields.map(|(name, value)| (name.to_string(), Value::String(value)));
            return Ok(Some(RawRow::new(self.taken, Ok(Fields::from_iter(fields)))));
        }
        Ok(None)
    }
}

fn unreadable(folder: &Path, error: &ignore::Error) -> Error {
    Error::file(folder, format!("the folder cannot be read: {error}"))
}

/// Why a file is not taken by its path alone.
fn by_name(path: &str, is_link: bool) -> Option<Reason> {
    let lower = path.to_ascii_lowercase();
    let (folders, name) = lower.rsplit_once('/').unwrap_or(("", &lower));
    if folders.split('/').any(|folder| DEPENDENCIES.contains(&folder)) {
        Some(Reason::Dependency)
    } else if is_link {
        Some(Reason::Link)
    } else if LOCK_FILES.contains(&name) || name.ends_with(".lock") {
        Some(Reason::LockFile)
    } else if GENERATED.iter().any(|ending| name.ends_with(ending)) {
        Some(Reason::Generated)
    } else if Language::of(name).is_none() {
        Some(Reason::Other)
    } else {
        None
    }
}

/// Why a file is not taken by its text.
fn by_content(text: &str, language: Option<Language>) -> Option<Reason> {
    if text.trim().is_empty() {
        return Some(Reason::Empty);
    }
    let head: String = text.chars().take(HEAD).collect::<String>().to_ascii_lowercase();
    let says = |words: &str| head.contains(words);
    if says("@generated") || (says("generated") && (says("do not edit") || says("do not modify"))) {
        return Some(Reason::Generated);
    }
    let lines = text.lines().count().max(1);
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let is_prose = language.is_none_or(|language| language.is_prose);
    let is_minified = longest > LONGEST_LINE || text.chars().count() / lines > AVERAGE_LINE;
    (!is_prose && is_minified).then_some(Reason::Minified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(path: &Path) -> (Vec<(String, String)>, SourceFolder) {
        let mut source = SourceFolder::open(path).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = source.next_row().unwrap() {
            let fields = row.parsed().1.unwrap();
            let text = |name: &str| fields[name].as_str().unwrap().to_string();
            rows.push((text("path"), text("content")));
        }
        (rows, source)
    }

    #[test]
    fn every_file_is_taken_or_counted_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("mine");
        write(&root, "b/two.py", "x = 1\r\n");
        write(&root, "b.py", "x = 2\n");
        write(&root, "a/one.rs", "fn main() {}\n");
        write(&root, ".gitignore", "build/\n");
        write(&root, ".hidden/x.py", "hidden\n");
        write(&root, "build/out.py", "built\n");
        write(&root, "a/.ignore", "*.js\n");
        write(&root, "a/x.js", "ignored\n");
        write(&root, "node_modules/y/y.js", "dependency\n");
        write(&root, "Cargo.lock", "[[package]]\n");
        write(&root, "photo.png", [0x89, b'P']);
        write(&root, "zero.c", "a\0b");
        write(&root, "latin.c", [b'/', b'/', 0xe9]);
        write(&root, "large.c", "int x;\n".repeat(200_000));
        write(&root, "empty.py", "\n");
        write(&root, "api.go", "// Code generated by protoc. DO NOT EDIT.\npackage api\n");
        write(&root, "x.min.js", "a()\n");
        write(&root, "mini.js", "a();".repeat(400));
        write(&root, "README.md", "long ".repeat(400));
        let (rows, source) = read(&root);
        let paths: Vec<&str> = rows.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["README.md", "a/one.rs", "b.py", "b/two.py"]);
        assert_eq!(rows[3].1, "x = 1\r\n", "bytes are those of the file");
        let expected = [
            ("above 1 MiB", 1),
            ("empty", 1),
            ("generated", 2),
            ("in folders of dependencies", 1),
            ("lock files", 1),
            ("minified", 1),
            ("named in .gitignore or .ignore", 2),
            ("no source by their names", 1),
            ("not UTF-8 text", 2),
        ];
        let expected = expected.map(|(words, count)| (words.to_string(), count));
        assert_eq!(source.left_out(), &BTreeMap::from(expected));
        assert_eq!(source.repository, "mine");
        let digest = source.sha256();
        assert_eq!(read(&root).1.sha256(), digest);
        write(&root, "b.py", "x = 3\n");
        assert_ne!(read(&root).1.sha256(), digest);
        let (rows, source) = read(&root.join("b/two.py"));
        assert_eq!((rows[0].0.as_str(), source.repository.as_str()), ("two.py", "b"));
    }
}
