//! Where the buffers of a device lie: ranges of a few large mappings, given out where they fit best and joined with their
//! neighbours when they are free again. A training step asks for the same sizes in the same order each time, so it finds
//! the same places; pages that were touched once stay, and nothing is asked of the system.

use std::collections::{BTreeMap, BTreeSet};

use memmap2::{MmapMut, MmapOptions};

/// Words of a cache line; places begin on one.
const LINE: usize = 16;

/// Region and first word.
pub(crate) type Place = (usize, usize);

/// Mappings and their free ranges. Memory of a mapping exists once it is touched, so its size costs nothing.
#[derive(Debug)]
pub(crate) struct Arena {
    regions: Vec<Region>,
    /// Words of the next mapping, unless more are asked for.
    step: usize,
    free: BTreeMap<Place, usize>,
    by_length: BTreeSet<(usize, Place)>,
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
        Arena { regions: Vec::new(), step, free: BTreeMap::new(), by_length: BTreeSet::new() }
    }

    /// Words that were touched at some time.
    pub(crate) fn used(&self) -> usize {
        self.regions.iter().map(|r| r.used).sum()
    }

    /// A free range of at least `words` words, its length and its first word.
    pub(crate) fn take(&mut self, words: usize) -> std::io::Result<(Place, usize, *mut f32)> {
        let words = words.max(1).next_multiple_of(LINE);
        let best = self.by_length.range((words, (0, 0))..).next().copied();
        let (length, place) = match best {
            Some(found) => found,
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
        if let Some((&next, &length)) = self.free.range((region, start)..).next()
            && next == (region, start + words)
        {
            self.remove(next, length);
            words += length;
        }
        if let Some((&before, &length)) = self.free.range(..(region, start)).next_back()
            && (before.0, before.1 + length) == (region, start)
        {
            self.remove(before, length);
            start = before.1;
            words += length;
        }
        self.insert((region, start), words);
    }

    fn grow(&mut self, words: usize) -> std::io::Result<(usize, Place)> {
        let words = words.max(self.step);
        let map = MmapOptions::new().len(words * size_of::<f32>()).map_anon()?;
        // Large pages save most of the faults and of the translations; where there are none, nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let place = (self.regions.len(), 0);
        self.regions.push(Region { map, used: 0 });
        self.insert(place, words);
        Ok((words, place))
    }

    fn insert(&mut self, place: Place, length: usize) {
        self.free.insert(place, length);
        self.by_length.insert((length, place));
    }

    fn remove(&mut self, place: Place, length: usize) {
        self.free.remove(&place);
        self.by_length.remove(&(length, place));
    }
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
