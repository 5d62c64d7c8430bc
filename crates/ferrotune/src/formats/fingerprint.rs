//! What a model's weight files hold, told by SHA-256 of their whole content, and whether they changed since.
//!
//! Hashing a file takes as long as reading it, so hashes are kept between starts beside what the system says of the
//! file. A program can set a file's modification time back, but not the time of its last change of any kind (`ctime`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferrotune_kernels::Threads;
use serde::{Deserialize, Serialize};

use super::atomic::write_atomic;
use super::hash::Digest;
use crate::{Error, Result};

/// File of the folder with the hashes that are kept.
const KEPT: &str = "hashes.json";

/// Shorter files are hashed each time.
const SHORT: u64 = 1 << 20;

/// A file that changed so recently may change again within one tick of the file system's clock.
const SETTLED: Duration = Duration::from_secs(2);

/// What the system says of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Device and number of the file, where the system has them.
    file: (u64, u64),
    len: u64,
    /// Nanoseconds since 1970 of the last write, and of the last change of any kind.
    times: (u128, u128),
}

impl Identity {
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        let about = fs::metadata(path)?;
        let modified = about.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let modified = modified.map_or(0, |d| d.as_nanos());
        #[cfg(unix)]
        let (file, changed) = {
            use std::os::unix::fs::MetadataExt;
            let nanos = i128::from(about.ctime()) * 1_000_000_000 + i128::from(about.ctime_nsec());
            ((about.dev(), about.ino()), nanos.unsigned_abs())
        };
        #[cfg(not(unix))]
        let (file, changed) = ((0, 0), modified);
        Ok(Identity { file, len: about.len(), times: (modified, changed) })
    }

    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        now > self.times.0.max(self.times.1) + SETTLED.as_nanos()
    }
}

/// How a file differs from what it was when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its content was written over: who has mapped it reads the new content.
    Rewritten(PathBuf),
    /// It is shorter: who reads a mapped part that is gone gets a bus error.
    CutShort(PathBuf),
    /// Another file, or none, has its name: who has mapped it still reads the old content.
    Replaced(PathBuf),
}

/// Weight files as they were when they were opened.
pub(crate) struct Files {
    files: Mutex<Vec<Opened>>,
    /// Folder of the hashes that are kept.
    kept: Option<PathBuf>,
}

#[derive(Clone)]
struct Opened {
    path: PathBuf,
    identity: Identity,
    sha256: Option<String>,
}

impl Files {
    /// Notes what the system says of these files now.
    pub(crate) fn open(paths: &[&Path]) -> Result<Self> {
        let opened = |path: &&Path| {
            let identity = Identity::of(path).map_err(|e| Error::io(path, e))?;
            Ok(Opened { path: path.to_path_buf(), identity, sha256: None })
        };
        let files = paths.iter().map(opened).collect::<Result<_>>()?;
        Ok(Files { files: Mutex::new(files), kept: None })
    }

    pub(crate) fn keep_in(&mut self, folder: &Path) {
        self.kept = Some(folder.to_path_buf());
    }

    /// SHA-256 of each file, in their order, computed on these threads.
    pub(crate) fn hashes(&self, threads: &Threads) -> Result<Vec<String>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.kept.as_deref().map(read_kept).unwrap_or_default();
        let found = |file: &Opened| known.get(&file.path).filter(|k| k.identity == file.identity);
        for file in files.iter_mut().filter(|file| file.sha256.is_none()) {
            file.sha256 = found(file).map(|known| known.sha256.clone());
        }
        let mut fresh: Vec<&mut Opened> = files.iter_mut().filter(|file| file.sha256.is_none()).collect();
        let made = threads.map(&fresh, |file| Digest::of_file(&file.path));
        for (file, digest) in fresh.iter_mut().zip(made) {
            file.sha256 = Some(digest?.sha256);
        }
        self.keep(known, &fresh);
        Ok(files.iter().filter_map(|file| file.sha256.clone()).collect())
    }

    /// Keeps the hashes of files that are long and have not changed just now. Where that cannot be done, they are
    /// computed again at the next start.
    fn keep(&self, mut known: BTreeMap<PathBuf, Known>, fresh: &[&mut Opened]) {
        let worth = |file: &&&mut Opened| file.identity.len >= SHORT && file.identity.is_settled();
        let new: Vec<_> = fresh.iter().filter(worth).collect();
        let Some(folder) = self.kept.as_deref().filter(|_| !new.is_empty()) else { return };
        known.retain(|path, _| path.exists());
        for file in new {
            let sha256 = file.sha256.clone().unwrap_or_default();
            known.insert(file.path.clone(), Known { identity: file.identity.clone(), sha256 });
        }
        if let (Ok(()), Ok(text)) = (fs::create_dir_all(folder), serde_json::to_vec_pretty(&known)) {
            let _ = write_atomic(&folder.join(KEPT), &text);
        }
    }

    /// The first file that has another content now than when it was opened, if there is one.
    pub(crate) fn changed(&self) -> Option<Change> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        for file in files.iter_mut() {
            let Ok(now) = Identity::of(&file.path) else {
                return Some(Change::Replaced(file.path.clone()));
            };
            if now == file.identity {
                continue;
            }
            // Other rights or another name are no other content.
            if Digest::of_file(&file.path).ok().map(|d| d.sha256) == file.sha256 {
                file.identity = now;
                continue;
            }
            let same_file = cfg!(unix) && now.file == file.identity.file;
            let path = file.path.clone();
            return Some(match same_file {
                true if now.len < file.identity.len => Change::CutShort(path),
                true => Change::Rewritten(path),
                false => Change::Replaced(path),
            });
        }
        None
    }
}

/// A hash that is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    identity: Identity,
    sha256: String,
}

fn read_kept(folder: &Path) -> BTreeMap<PathBuf, Known> {
    let text = fs::read(folder.join(KEPT)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(files: &Files) -> Vec<String> {
        files.hashes(&Threads::one()).unwrap()
    }

    #[test]
    fn a_byte_changed_under_the_same_modification_time_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        fs::write(&path, vec![7; 2 << 20]).unwrap();
        let open = || {
            let mut files = Files::open(&[&path]).unwrap();
            files.keep_in(&dir.path().join("cache"));
            files
        };
        let first = open();
        let before = hashes(&first);
        assert_eq!(before, [Digest::of(&vec![7; 2 << 20]).sha256]);
        assert!(!dir.path().join("cache").exists(), "the file may still change within a tick");
        std::thread::sleep(SETTLED + Duration::from_millis(50));
        assert_eq!(hashes(&open()), before);
        let kept = read_kept(&dir.path().join("cache"));
        assert_eq!(kept[&path].sha256, before[0]);
        assert_eq!(hashes(&open()), before);
        assert_eq!(first.changed(), None);

        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let mut content = vec![7; 2 << 20];
        content[1_234_567] = 8;
        fs::write(&path, content).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_ne!(hashes(&open()), before);
        assert_eq!(first.changed(), Some(Change::Rewritten(path.clone())));
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(first.changed(), Some(Change::CutShort(path.clone())));
        fs::remove_file(&path).unwrap();
        assert_eq!(first.changed(), Some(Change::Replaced(path)));
    }

    #[test]
    fn other_times_are_no_other_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        fs::write(&path, b"abc").unwrap();
        let files = Files::open(&[&path]).unwrap();
        hashes(&files);
        fs::File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        assert_eq!(files.changed(), None);
    }
}
