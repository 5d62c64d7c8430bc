//! A folder of files that can be made again: those that were not used for longest go when they take too much.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// Half-written files of programs that were killed are removed when they are older.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Files of one ending in a folder.
#[derive(Clone, Debug)]
pub(crate) struct KeptFiles {
    /// The folder, which need not exist.
    pub(crate) folder: PathBuf,
    /// Their ending.
    pub(crate) extension: &'static str,
    /// Bytes that they take at most.
    pub(crate) limit: u64,
}

/// A file, its size and when it was last used.
pub(crate) type Found = (PathBuf, u64, SystemTime);

impl KeptFiles {
    /// The file of this key.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{}.{}", &key[..key.len().min(32)], self.extension))
    }

    /// Makes the folder.
    pub(crate) fn make_folder(&self) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(|e| Error::io(&self.folder, e))
    }

    /// Notes that a file is used now. One that this user may not change is only thrown out earlier.
    pub(crate) fn used(path: &Path) {
        let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    }

    fn entries(&self, hidden: bool, extension: &str) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let path = entry.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            if name.starts_with('.') == hidden
                && path.extension().is_some_and(|e| e == extension)
                && let Ok(about) = entry.metadata()
            {
                found.push((path, about.len(), about.modified().unwrap_or(UNIX_EPOCH)));
            }
        }
        Ok(found)
    }

    /// The whole files.
    pub(crate) fn files(&self) -> Result<Vec<Found>> {
        match self.entries(false, self.extension) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found.map_err(|e| Error::io(&self.folder, e)),
        }
    }

    fn unnamed(&self) -> Vec<Found> {
        self.entries(true, "tmp").unwrap_or_default()
    }

    /// Removes all files, half-written ones too; gives the bytes that are free now.
    pub(crate) fn clear(&self) -> Result<u64> {
        let mut freed = 0;
        for (path, bytes, _) in self.files()?.into_iter().chain(self.unnamed()) {
            fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
            freed += bytes;
        }
        Ok(freed)
    }

    /// Removes the files that were not used for longest until the rest takes at most the limit; `newest` stays.
    pub(crate) fn shrink(&self, newest: &Path) {
        let mut all = self.files().unwrap_or_default();
        all.sort_by_key(|(path, _, used)| (path != newest, std::cmp::Reverse(*used)));
        let mut total = 0u64;
        for (i, (path, bytes, _)) in all.iter().enumerate() {
            total = total.saturating_add(*bytes);
            if i > 0 && total > self.limit {
                let _ = fs::remove_file(path);
            }
        }
        for (path, _, written) in self.unnamed() {
            if written.elapsed().is_ok_and(|age| age > STALE) {
                let _ = fs::remove_file(path);
            }
        }
    }
}
