//! The one place that maps a file into memory, and that hears when it is cut short meanwhile.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(unix)]
use ferrotune_kernels::quant::requests;
use ferrotune_kernels::quant::{Bytes, Owner};

use crate::{Error, Result};

/// The most that the system keeps in one piece in its page cache. Where one byte of a piece is touched all of it may be
/// mapped, and pieces begin at multiples of their size in the file.
pub(crate) const PIECE: usize = 2 << 20;

/// A read-only file mapped into memory. Clones are cheap, and every view of it keeps it mapped.
#[derive(Clone)]
pub struct MappedFile {
    map: Arc<Map>,
}

/// The mapping, which the weights of a model own together.
struct Map(memmap2::Mmap);

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Owner for Map {
    fn in_file(&self) -> bool {
        true
    }

    fn read_ahead(&self, part: Range<usize>) {
        // Advice: where it is not taken, pages are read when they are touched.
        #[cfg(unix)]
        for (start, len) in requests(part) {
            let _ = self.0.advise_range(memmap2::Advice::WillNeed, start, len);
        }
        #[cfg(not(unix))]
        let _ = part;
    }

    /// With the part leave the pieces that it begins and ends in: to touch it has mapped them whole, and nobody else would
    /// let go of them. What of them is still in use is mapped again when it is touched.
    #[allow(unsafe_code)]
    fn release(&self, part: Range<usize>) {
        let end = part.end.next_multiple_of(PIECE).min(self.0.len());
        let part = part.start / PIECE * PIECE..end;
        // SAFETY: the map is read-only and backed by the file, so its pages come back with the same content.
        #[cfg(unix)]
        let _ = unsafe {
            self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, part.start, part.len())
        };
        #[cfg(not(unix))]
        let _ = part;
    }
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
        Ok(MappedFile { map: Arc::new(Map(map)) })
    }

    /// The whole content.
    pub fn as_slice(&self) -> &[u8] {
        &self.map.0
    }

    /// Lets the system take back the memory behind a part of the file that will not be read again soon: weights that
    /// were converted would otherwise stay resident beside what they became. Reading it again reads the file again.
    pub(crate) fn release(&self, part: &[u8]) {
        let start = (part.as_ptr() as usize).wrapping_sub(self.as_slice().as_ptr() as usize);
        // Anything else is no part of this file.
        if let Some(end) = start.checked_add(part.len()).filter(|end| *end <= self.as_slice().len()) {
            self.map.release(start..end);
        }
    }

    /// Lets go of the whole file. Weights that are used where they lie are mapped again when they are touched.
    pub(crate) fn release_all(&self) {
        self.map.release(0..self.as_slice().len());
    }

    /// Shows `read` places far apart, one after the other: the system then reads only what is asked for, not megabytes
    /// around it. What it mapped around a place leaves this process before the next one.
    pub(crate) fn scattered(&self, places: impl Iterator<Item = Range<usize>>, mut read: impl FnMut(&[u8])) {
        #[cfg(unix)]
        let _ = self.map.0.advise(memmap2::Advice::Random);
        for place in places {
            read(&self.as_slice()[place.clone()]);
            self.map.release(place);
        }
        #[cfg(unix)]
        let _ = self.map.0.advise(memmap2::Advice::Normal);
    }

    /// A view of a part of the file without a copy; the caller has checked that the range lies inside.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Bytes {
        Bytes::shared(self.map.clone(), range)
    }
}

/// What is said where a mapped file cannot be read any more.
#[cfg(unix)]
const CUT_SHORT: &str = "error: a file that is read while the program works was cut short, or its disk failed\n\
                         hint: model files must not change while they are in use; the last checkpoint is whole: go on \
                         from it with --resume once the file is complete again\n";

/// Lets the process end with an error instead of a bus error when a mapped file is cut short while it is in use: there is
/// no other way to hear of it. For a program, once; a library leaves the signal as it is.
#[cfg(unix)]
#[allow(unsafe_code)]
pub fn explain_bus_errors() {
    extern "C" fn explain(_: libc::c_int) {
        // Threads that read the same file meet the same end; one speaks for all.
        static SAID: AtomicBool = AtomicBool::new(false);
        let said = SAID.swap(true, Ordering::Relaxed);
        // SAFETY: the calls are allowed in a signal handler, and the text is a constant.
        unsafe {
            if said {
                loop {
                    libc::pause();
                }
            }
            libc::write(libc::STDERR_FILENO, CUT_SHORT.as_ptr().cast(), CUT_SHORT.len());
            libc::_exit(1);
        }
    }
    let handler = explain as extern "C" fn(libc::c_int);
    // SAFETY: the handler touches nothing of the program.
    unsafe { libc::signal(libc::SIGBUS, handler as libc::sighandler_t) };
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// KiB of a mapped file that are in this process's memory.
    fn resident(path: &Path) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let name = path.display().to_string();
        let mut lines = maps.lines().skip_while(|line| !line.ends_with(&name));
        let line = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_part_takes_what_was_mapped_around_it_along() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, vec![1; 4 * PIECE]).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let touch = |range: Range<usize>| {
            file.as_slice()[range].iter().step_by(64).map(|b| *b as usize).sum::<usize>()
        };
        assert!(touch(PIECE + 5000..PIECE + 5100) > 0);
        assert!(resident(&path) >= 4);
        file.release(&file.as_slice()[PIECE + 5000..PIECE + 5100]);
        assert_eq!(resident(&path), 0);
        let mut seen = 0;
        let places = (0..4).map(|i| i * PIECE + 100..i * PIECE + 200);
        file.scattered(places, |place| {
            seen += place.len();
            assert!(place[0] == 1 && resident(&path) <= PIECE >> 10, "{}", resident(&path));
        });
        assert_eq!((seen, resident(&path)), (400, 0));
        assert!(touch(0..4 * PIECE) > 0);
        file.release_all();
        assert_eq!(resident(&path), 0);
    }

    #[test]
    fn released_parts_leave_memory_and_keep_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let content: Vec<u8> = (0..4 << 20).map(|i: usize| (i / 4096) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = MappedFile::open(&path).unwrap();
        let half = ferrotune_kernels::Weight::dense(
            1024,
            2048,
            ferrotune_kernels::DType::F16,
            file.bytes(0..4 << 20),
        );
        let weight = half.unwrap();
        assert_eq!(weight.bytes_in_file(), 4 << 20);
        assert!(file.as_slice() == content);
        assert!(resident(&path) >= 4096, "{}", resident(&path));
        weight.release();
        assert_eq!(resident(&path), 0);
        weight.read_ahead();
        assert!(file.as_slice() == content, "it is read again");
        let owned = ferrotune_kernels::Weight::from_f32(1, 2, &[1.0, 2.0]);
        assert_eq!(owned.bytes_in_file(), 0);
        owned.release();
        let mut values = [0.0; 2];
        owned.decode(0, 0, &mut values);
        assert_eq!(values, [1.0, 2.0]);
    }
}
