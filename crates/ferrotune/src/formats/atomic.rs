//! Files and folders that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

pub(crate) use ferrotune_hub::files::{hidden, sync_folder, temporary_name};

use crate::{Error, Result};

/// Writes the file at `path` through a temporary file in the same folder: content, fsync, rename.
///
/// A reader sees the old file or the new one, never a part; on any error the old file stays as it was.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    Ok(ferrotune_hub::files::write_atomic(path, content)?)
}

/// Lets `write` fill a temporary file beside `path`, then syncs it and renames it to `path`.
pub(crate) fn with_temporary(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    ferrotune_hub::files::with_temporary(path, write)
}

/// Lets `write` fill a hidden folder beside `path`, then renames it to `path`: the folder appears whole or not at all.
/// What is there already is never removed, unless it is an empty folder.
pub fn write_folder(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let hidden = hidden(path, ".tmp")?;
    let _ = fs::remove_dir_all(&hidden);
    // The errors that follow name what the user asked for, not the hidden name.
    fs::create_dir_all(&hidden).map_err(|e| Error::io(path, e))?;
    if let Err(e) = write(&hidden) {
        let _ = fs::remove_dir_all(&hidden);
        return Err(e);
    }
    // The names in it are to last as long as its own.
    sync_folder(&hidden.join("x"));
    // Some systems rename onto an empty folder, others do not.
    let placed = match fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => fs::rename(&hidden, path),
    };
    if let Err(e) = placed {
        let _ = fs::remove_dir_all(&hidden);
        return Err(Error::io(path, e));
    }
    sync_folder(path);
    Ok(())
}

/// A file in `folder` that only this process sees, and that is gone with it, however it ends.
pub fn scratch(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = temporary_name(&folder.join("scratch"))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(windows)]
    {
        // FILE_FLAG_DELETE_ON_CLOSE.
        std::os::windows::fs::OpenOptionsExt::custom_flags(&mut options, 0x0400_0000);
    }
    let file = options.open(&path).map_err(|e| Error::io(&path, e))?;
    #[cfg(not(windows))]
    fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn scratch_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = scratch(&dir.path().join("run")).unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), cfg!(windows) as usize);
    }
}
