//! The list of a checkpoint's files with their lengths and hashes, `checkpoint.json`: what it does not cover, or what does
//! not fit it, is no checkpoint.
//!
//! It is the last file that is written, and it covers all others, so any damage to a file or to the list itself shows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ferrotune_kernels::Threads;
use serde::{Deserialize, Serialize};

use crate::formats::atomic::write_atomic;
use crate::formats::hash::Digest;
use crate::{Error, Result};

/// Name of the list.
const NAME: &str = "checkpoint.json";

/// Version of a checkpoint's layout: 2 has this list and the run's settings.
pub(crate) const FORMAT: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    files: BTreeMap<String, Digest>,
}

/// Digests of files that were hashed when they were written, by name.
pub type Digests = BTreeMap<String, Digest>;

/// Writes the list of all files in `folder`; those that `known` does not have are read again.
pub(crate) fn seal(folder: &Path, mut known: Digests) -> Result<()> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|_| path.is_file()) else {
            continue;
        };
        let digest = match known.remove(name) {
            Some(digest) => digest,
            None => Digest::of_file(&path)?,
        };
        // What the system did not take in full is not whole, whatever it said.
        let found = fs::metadata(&path).map_err(|e| Error::io(&path, e))?.len();
        if found != digest.bytes {
            return Err(Error::file(&path, format!("{found} bytes were kept of {}", digest.bytes)));
        }
        files.insert(name.to_string(), digest);
    }
    if let Some(name) = known.keys().next() {
        return Err(Error::file(folder.join(name), "it is gone just after it was written"));
    }
    let path = folder.join(NAME);
    let text = serde_json::to_vec_pretty(&Manifest { format: FORMAT, files })
        .map_err(|e| Error::file(&path, e.to_string()))?;
    write_atomic(&path, &text)
}

/// What a checkpoint's files are.
#[derive(Debug)]
pub enum Verdict {
    /// They are as they were written.
    Whole,
    /// They are not; the reason names the file.
    Damaged(String),
}

/// Reads all files of a checkpoint and compares them with their list.
///
/// An error is what says nothing about the checkpoint's content: the system refused, or it is of another version of this
/// program. Then no other checkpoint may be taken in its place without the user knowing.
pub fn verify(threads: &Threads, folder: &Path) -> Result<Verdict> {
    let path = folder.join(NAME);
    let damaged = |name: &str, problem: &str| Ok(Verdict::Damaged(format!("{name} {problem}")));
    let text = match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return older(folder),
        found => found.map_err(|e| Error::io(&path, e))?,
    };
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(&text) else {
        return damaged(NAME, "is not valid JSON");
    };
    match value["format"].as_u64() {
        Some(format) if format > u64::from(FORMAT) => return Err(other_version(folder, format)),
        Some(format) if format == u64::from(FORMAT) => {}
        // No older version wrote this file, so another number is a damaged one.
        _ => return damaged(NAME, "has no known format"),
    }
    let Ok(manifest) = serde_json::from_value::<Manifest>(value) else {
        return damaged(NAME, "is no list of files");
    };
    let files: Vec<(&String, &Digest)> = manifest.files.iter().collect();
    let bad = threads.map(&files, |(name, expected)| {
        match Digest::of_file(&folder.join(name)).map_err(Error::from) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Some(format!("{name} is missing")))
            }
            Err(e) => Err(e),
            Ok(found) if found.bytes != expected.bytes => {
                Ok(Some(format!("{name} has {} bytes, {} were written", found.bytes, expected.bytes)))
            }
            Ok(found) => {
                Ok((found != **expected).then(|| format!("{name} has another content than was written")))
            }
        }
    });
    let bad: Vec<Option<String>> = bad.into_iter().collect::<Result<_>>()?;
    Ok(bad.into_iter().flatten().next().map_or(Verdict::Whole, Verdict::Damaged))
}

/// A folder without the list: of the first version, or what is left of a checkpoint.
fn older(folder: &Path) -> Result<Verdict> {
    let state = fs::read(folder.join("state.json")).unwrap_or_default();
    match serde_json::from_slice::<serde_json::Value>(&state).ok().and_then(|s| s["format"].as_u64()) {
        Some(format) if format != u64::from(FORMAT) => Err(other_version(folder, format)),
        _ => Ok(Verdict::Damaged(format!("{NAME} is missing"))),
    }
}

fn other_version(folder: &Path, format: u64) -> Error {
    Error::file(folder, format!("the checkpoint has format {format}, this version reads {FORMAT}")).with_hint(
        "go on with the version of ferrotune that wrote it, or begin anew with --restart, which keeps it aside",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"some weights").unwrap();
        fs::write(dir.path().join("b"), vec![9; 3000]).unwrap();
        let known = Digests::from([("a".to_string(), Digest::of(b"some weights"))]);
        seal(dir.path(), known).unwrap();
        dir
    }

    fn damage(folder: &Path) -> String {
        match verify(&Threads::one(), folder) {
            Ok(Verdict::Damaged(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn missing_cut_and_foreign_files_are_damage() {
        let dir = sealed();
        assert!(matches!(verify(&Threads::one(), dir.path()), Ok(Verdict::Whole)));
        fs::write(dir.path().join("b"), vec![9; 2999]).unwrap();
        assert_eq!(damage(dir.path()), "b has 2999 bytes, 3000 were written");
        fs::remove_file(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("b"), vec![9; 3000]).unwrap();
        assert_eq!(damage(dir.path()), "a is missing");
        fs::remove_file(dir.path().join(NAME)).unwrap();
        assert_eq!(damage(dir.path()), "checkpoint.json is missing");
    }

    #[test]
    fn a_newer_format_is_no_damage() {
        let dir = sealed();
        fs::write(dir.path().join(NAME), r#"{"format": 3, "parts": []}"#).unwrap();
        assert!(verify(&Threads::one(), dir.path()).unwrap_err().to_string().contains("format 3"));
        fs::remove_file(dir.path().join(NAME)).unwrap();
        fs::write(dir.path().join("state.json"), r#"{"format": 1, "step": 4}"#).unwrap();
        assert!(verify(&Threads::one(), dir.path()).unwrap_err().to_string().contains("format 1"));
    }

    #[test]
    fn a_file_that_was_not_taken_in_full_is_not_sealed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"some").unwrap();
        let known = Digests::from([("a".to_string(), Digest::of(b"some weights"))]);
        assert!(seal(dir.path(), known).unwrap_err().to_string().contains("4 bytes were kept of 12"));
    }

    /// Every flipped bit of every file is noticed, the list included.
    #[test]
    fn flipped_bits_are_noticed() {
        let dir = sealed();
        let list = fs::read(dir.path().join(NAME)).unwrap();
        let parsed = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).ok();
        for (name, stride) in [("a", 1), ("b", 257), (NAME, 1)] {
            let path = dir.path().join(name);
            let whole = fs::read(&path).unwrap();
            for bit in (0..whole.len() * 8).step_by(stride) {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &flipped).unwrap();
                // A flip in the white space of the list may leave the same list.
                let same = name == NAME && parsed(&flipped) == parsed(&list);
                let found = verify(&Threads::one(), dir.path());
                assert!(same || !matches!(found, Ok(Verdict::Whole)), "{name}, bit {bit}");
            }
            fs::write(&path, &whole).unwrap();
        }
    }
}
