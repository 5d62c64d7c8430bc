//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Distinguishes temporary files of one process; carries no state that anything depends on.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Writes the file at `path` through a temporary file in the same folder: content, fsync, rename.
///
/// A reader sees the old file or the new one, never a part; on any error the old file stays as it was.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    with_temporary(path, |temporary| {
        let mut out = BufWriter::new(File::create(temporary).map_err(|e| Error::io(temporary, e))?);
        out.write_all(content).and_then(|()| out.flush()).map_err(|e| Error::io(temporary, e))
    })
}

/// Lets `write` fill a temporary file beside `path`, then syncs it and renames it to `path`.
pub fn with_temporary<E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = temporary_name(path)?;
    let done = write(&temporary).and_then(|()| {
        // Windows syncs only handles that may write.
        let file = OpenOptions::new().write(true).open(&temporary).map_err(|e| Error::io(&temporary, e))?;
        file.sync_all().map_err(|e| Error::io(&temporary, e))?;
        fs::rename(&temporary, path).map_err(|e| Error::io(path, e))?;
        Ok(())
    });
    if done.is_err() {
        // The first error is what the user needs to see, not a failed clean-up.
        let _ = fs::remove_file(&temporary);
        return done;
    }
    sync_folder(path);
    Ok(())
}

/// A hidden name beside `path` that no other write uses.
pub fn temporary_name(path: &Path) -> Result<PathBuf> {
    hidden(path, &format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)))
}

/// `path` with a further ending, hidden: what is not whole yet ends in `.tmp`.
pub fn hidden(path: &Path, ending: &str) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::file(path, "not the name of a file or folder"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(ending);
    Ok(path.with_file_name(hidden))
}

/// Makes the rename itself durable where the system lets a folder be synced.
pub fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty())
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_write_leaves_the_old_file_and_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        write_atomic(&path, b"old").unwrap();
        let failed = with_temporary(&path, |t| {
            fs::write(t, b"half").unwrap();
            Err(Error::file(t, "planted"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
