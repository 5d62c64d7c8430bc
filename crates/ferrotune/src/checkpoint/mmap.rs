//! The one place that maps a file into memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ferrotune_kernels::quant::Bytes;

use crate::{Error, Result};

/// A read-only file mapped into memory. Clones are cheap, and every view of it keeps it mapped.
#[derive(Clone)]
pub struct MappedFile {
    map: Arc<memmap2::Mmap>,
}

impl MappedFile {
    /// Maps the file at `path`.
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let about = file.metadata().map_err(|e| Error::io(path, e))?;
        if !about.is_file() {
            return Err(Error::file(path, "not a regular file"));
        }
        // SAFETY: the map is read-only and private to this process's view; like every reader of model files we rely
        // on nobody shortening or rewriting the file while it is in use (our own writers replace files by renaming).
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(MappedFile { map: Arc::new(map) })
    }

    /// The whole content.
    pub fn as_slice(&self) -> &[u8] {
        &self.map
    }

    /// Lets the system take back the memory behind a part of the file that will not be read again soon: weights that
    /// were converted would otherwise stay resident beside what they became. Reading it again reads the file again.
    #[allow(unsafe_code)]
    pub(crate) fn release(&self, part: &[u8]) {
        let start = (part.as_ptr() as usize).wrapping_sub(self.map.as_ptr() as usize);
        if start.checked_add(part.len()).is_none_or(|end| end > self.map.len()) {
            return; // not a part of this file
        }
        // SAFETY: the map is read-only and backed by the file, so its pages come back with the same content.
        #[cfg(unix)]
        let _ =
            unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, part.len()) };
    }

    /// Lets `read` look at places far apart: the system then reads only what is asked for, not megabytes around it.
    pub(crate) fn scattered<T>(&self, read: impl FnOnce() -> T) -> T {
        #[cfg(unix)]
        let _ = self.map.advise(memmap2::Advice::Random);
        let result = read();
        #[cfg(unix)]
        let _ = self.map.advise(memmap2::Advice::Normal);
        result
    }

    /// A view of a part of the file without a copy; the caller has checked that the range lies inside.
    pub(crate) fn bytes(&self, range: std::ops::Range<usize>) -> Bytes {
        Bytes::shared(self.map.clone(), range)
    }
}
