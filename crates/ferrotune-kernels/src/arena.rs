//! Where the buffers of a device lie: ranges of a few large mappings, given out where they fit best and joined with their
//! neighbours when they are free again. A training step asks for the same sizes in the same order each time, so it finds
//! the same places; pages that were touched once stay, and nothing is asked of the system.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;

use memmap2::{Advice, MmapMut, MmapOptions};

use crate::quant::requests;

/// Words of a cache line; places begin on one.
const LINE: usize = 16;

/// Where mappings of a file begin: a multiple of any page.
const ALIGN: u64 = 64 << 10;

/// Region and first word.
pub(crate) type Place = (usize, usize);

/// Mappings and their free ranges. Memory of a mapping exists once it is touched, so its size costs nothing.
#[derive(Debug)]
pub(crate) struct Arena {
    regions: Vec<Region>,
    /// Words of the next mapping, unless more are asked for.
    step: usize,
    /// Where mappings lie, if not in memory.
    file: Option<File>,
    /// Free ranges by place, with their lengths, and by length; both are sorted.
    free: Vec<(Place, usize)>,
    by_length: Vec<(usize, Place)>,
}

#[derive(Debug)]
struct Region {
    map: MmapMut,
    /// One past the last word that was ever given out.
    used: usize,
}

impl Arena {
    /// An arena of mappings of `step` words.
    pub(crate) fn new(step: usize) -> Self {
        Arena { regions: Vec::new(), step, file: None, free: Vec::new(), by_length: Vec::new() }
    }

    /// An arena in a file that nobody else uses: the system may take its memory away and read it again later.
    pub(crate) fn in_file(step: usize, file: File) -> Self {
        Arena { file: Some(file), ..Arena::new(step) }
    }

    /// Whether it lies in a file.
    pub(crate) fn is_in_file(&self) -> bool {
        self.file.is_some()
    }

    /// Asks the system to read words of a place before they are used; of no meaning in memory.
    pub(crate) fn read_ahead(&self, (region, start): Place, words: Range<usize>) {
        if self.is_in_file() {
            let map = &self.regions[region].map;
            let at = 4 * (start + words.start);
            for (start, len) in requests(at..at + 4 * words.len()) {
                #[cfg(unix)]
                let _ = map.advise_range(Advice::WillNeed, start, len);
                #[cfg(not(unix))]
                let _ = (map, start, len);
            }
        }
    }

    /// Gives the memory behind words of a place back; their content is read from the file when they are used again.
    pub(crate) fn release(&self, (region, start): Place, words: Range<usize>) {
        if self.is_in_file() {
            let map = &self.regions[region].map;
            let (at, len) = (4 * (start + words.start), 4 * words.len());
            // SAFETY: the mapping is shared with its file, which keeps what was written.
            #[cfg(unix)]
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, len) };
            #[cfg(not(unix))]
            let _ = (map, at, len);
        }
    }

    /// Words that were touched at some time.
    pub(crate) fn used(&self) -> usize {
        self.regions.iter().map(|r| r.used).sum()
    }

    /// Words of all mappings.
    pub(crate) fn mapped(&self) -> usize {
        self.regions.iter().map(|r| r.map.len() / size_of::<f32>()).sum()
    }

    /// A free range of at least `words` words, its length and its first word.
    pub(crate) fn take(&mut self, words: usize) -> std::io::Result<(Place, usize, *mut f32)> {
        let words = words.max(1).next_multiple_of(LINE);
        let best = self.by_length.partition_point(|free| *free < (words, (0, 0)));
        let (length, place) = match self.by_length.get(best) {
            Some(found) => *found,
            None => self.grow(words)?,
        };
        self.remove(place, length);
        let (region, start) = place;
        if length > words {
            self.insert((region, start + words), length - words);
        }
        let r = &mut self.regions[region];
        r.used = r.used.max(start + words);
        // The place is inside the mapping: `start + words <= start + length`.
        Ok((place, words, r.map.as_mut_ptr().cast::<f32>().wrapping_add(start)))
    }

    /// Takes a range back.
    pub(crate) fn put(&mut self, (region, mut start): Place, mut words: usize) {
        let after = self.free.partition_point(|(place, _)| *place < (region, start));
        if let Some(&(next, length)) = self.free.get(after)
            && next == (region, start + words)
        {
            self.remove(next, length);
            words += length;
        }
        if let Some(&(before, length)) = after.checked_sub(1).and_then(|i| self.free.get(i))
            && (before.0, before.1 + length) == (region, start)
        {
            self.remove(before, length);
            start = before.1;
            words += length;
        }
        self.insert((region, start), words);
    }

    fn grow(&mut self, words: usize) -> std::io::Result<(usize, Place)> {
        let step = words.max(self.step);
        let map = match &mut self.file {
            // Where addresses are limited, there may be room for what is needed now.
            None => anonymous(step * size_of::<f32>()).or_else(|_| anonymous(words * size_of::<f32>()))?,
            Some(file) => appended(file, step * size_of::<f32>())?,
        };
        let place = (self.regions.len(), 0);
        let words = map.len() / size_of::<f32>();
        self.regions.push(Region { map, used: 0 });
        self.insert(place, words);
        Ok((words, place))
    }

    fn insert(&mut self, place: Place, length: usize) {
        insert(&mut self.free, (place, length));
        insert(&mut self.by_length, (length, place));
    }

    fn remove(&mut self, place: Place, length: usize) {
        remove(&mut self.free, (place, length));
        remove(&mut self.by_length, (length, place));
    }
}

/// Puts an item into a sorted list.
fn insert<T: Ord>(list: &mut Vec<T>, item: T) {
    let at = list.partition_point(|other| *other < item);
    list.insert(at, item);
}

/// Takes an item out of a sorted list.
fn remove<T: Ord>(list: &mut Vec<T>, item: T) {
    if let Ok(at) = list.binary_search(&item) {
        list.remove(at);
    }
}

fn anonymous(bytes: usize) -> std::io::Result<MmapMut> {
    let map = MmapOptions::new().len(bytes).map_anon()?;
    // Large pages save most of the faults and of the translations; where there are none, nothing is lost.
    #[cfg(target_os = "linux")]
    let _ = map.advise(Advice::HugePage);
    Ok(map)
}

/// Bytes of zeros at the end of a file, mapped. They are written, so that a full disk is an error here and not a fault
/// when a page is used.
fn appended(file: &mut File, bytes: usize) -> std::io::Result<MmapMut> {
    let start = file.seek(SeekFrom::End(0))?.next_multiple_of(ALIGN);
    file.set_len(start)?;
    file.seek(SeekFrom::End(0))?;
    let zeros = vec![0; 1 << 20];
    for at in (0..bytes).step_by(zeros.len()) {
        file.write_all(&zeros[..zeros.len().min(bytes - at)])?;
    }
    // SAFETY: the file belongs to this arena alone, and no range of it is mapped twice.
    unsafe { MmapOptions::new().offset(start).len(bytes).map_mut(&*file) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn ranges_never_overlap_and_join_again() {
        let mut arena = Arena::new(4096);
        let s = Stream::new(3, "arena", 0);
        let mut held: Vec<(Place, usize)> = Vec::new();
        for i in 0..5000 {
            if s.uniform(2 * i) < 0.55 || held.is_empty() {
                let (place, length, _) = arena.take(1 + s.below(2 * i + 1, 900) as usize).unwrap();
                for ((region, start), other) in &held {
                    let apart = start + other <= place.1 || place.1 + length <= *start;
                    assert!(*region != place.0 || apart, "{place:?} + {length} meets {start} + {other}");
                }
                held.push((place, length));
            } else {
                let (place, length) = held.swap_remove(s.below(2 * i + 1, held.len() as u64) as usize);
                arena.put(place, length);
            }
        }
        held.into_iter().for_each(|(place, length)| arena.put(place, length));
        assert_eq!(arena.free.len(), arena.regions.len(), "every region is one free range again");
        assert_eq!(arena.by_length.len(), arena.regions.len());
    }

    #[test]
    fn words_in_a_file_keep_what_is_written() {
        let folder = std::env::temp_dir().join(format!("ferrotune-arena-{}", std::process::id()));
        let open = |p: &std::path::Path| {
            File::options().read(true).write(true).create(true).truncate(true).open(p).unwrap()
        };
        let mut arena = Arena::in_file(1 << 10, open(&folder));
        let places: Vec<_> = [700, 900, 5000].map(|n| arena.take(n).unwrap()).into();
        for (i, (place, words, ptr)) in places.iter().enumerate() {
            // SAFETY: the place is this test's alone.
            unsafe { std::slice::from_raw_parts_mut(*ptr, *words) }.fill(i as f32 + 0.5);
            arena.release(*place, 0..*words);
        }
        for (i, (place, words, ptr)) in places.iter().enumerate() {
            arena.read_ahead(*place, 0..*words);
            // SAFETY: as above.
            let found = unsafe { std::slice::from_raw_parts(*ptr, *words) };
            assert!(found.iter().all(|v| *v == i as f32 + 0.5));
        }
        std::fs::remove_file(&folder).unwrap();
        // A file that cannot be written is an error, not a fault later.
        std::fs::write(&folder, "").unwrap();
        let mut arena = Arena::in_file(1 << 10, File::open(&folder).unwrap());
        assert!(arena.take(700).is_err());
        std::fs::remove_file(&folder).unwrap();
    }

    #[test]
    fn the_smallest_range_that_fits_is_taken() {
        let mut arena = Arena::new(1 << 16);
        let places: Vec<_> = [160, 16, 320, 16].map(|n| arena.take(n).unwrap()).into();
        arena.put(places[0].0, 160);
        arena.put(places[2].0, 320);
        assert_eq!(arena.take(300).unwrap().0, places[2].0);
        assert_eq!(arena.take(100).unwrap().0, places[0].0);
        assert_eq!(arena.used(), 512);
    }
}
