//! Rows that are nearly the same, by MinHash and buckets (locality-sensitive hashing) of the crate `txtfp`.

use txtfp::{
    Canonicalizer, Fingerprinter, LshIndex, MinHashFingerprinter, MinHashSig, ShingleTokenizer, WordTokenizer,
};

use super::Spot;

/// Hashes of a signature: an estimate of 0.8 is off by 0.05 on average.
const HASHES: usize = 64;

/// Buckets of four hashes: of pairs with a similarity of 0.8 one in ten thousand is missed.
const BANDS: usize = 16;

/// The least similarity of runs of three words.
const SIMILAR: f32 = 0.8;

/// Rows that are kept to be compared; each takes about a kilobyte.
pub(super) const MOST: usize = 200_000;

/// Texts of fewer words say little about whether they are copies.
const WORDS: usize = 8;

pub(super) type Signature = MinHashSig<HASHES>;

/// The signature of a text; none if it is too short to be compared.
pub(super) fn signature(text: &str) -> Option<Signature> {
    text.split_whitespace().nth(WORDS - 1)?;
    let words = ShingleTokenizer { k: 3, inner: WordTokenizer };
    MinHashFingerprinter::<_, HASHES>::new(Canonicalizer::default(), words).fingerprint(text).ok()
}

/// Signatures with the places of their rows.
pub(super) struct Near {
    index: Option<LshIndex<HASHES>>,
    spots: Vec<Spot>,
}

impl Near {
    pub(super) fn new() -> Self {
        Near { index: LshIndex::with_bands_rows(BANDS, HASHES / BANDS).ok(), spots: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.spots.len()
    }

    /// The earliest row that is nearly the same.
    pub(super) fn like(&self, signature: &Signature) -> Option<u64> {
        self.index.as_ref()?.query_with_threshold(signature, SIMILAR).into_iter().min()
    }

    pub(super) fn spot(&self, number: u64) -> Option<Spot> {
        self.spots.get(usize::try_from(number).ok()?).copied()
    }

    /// Adds a row, unless there are too many.
    pub(super) fn insert(&mut self, signature: Signature, spot: Spot) {
        if let Some(index) = self.index.as_mut().filter(|_| self.spots.len() < MOST) {
            index.insert(self.spots.len() as u64, signature);
            self.spots.push(spot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_in_twenty_is_near_and_another_text_is_not() {
        let words = |seed: u64| -> Vec<String> {
            (0..60).map(|i| format!("w{}", crate::data::random::hash(&[seed, i]) % 1000)).collect()
        };
        let mut near = Near::new();
        for seed in 0..50 {
            near.insert(signature(&words(seed).join(" ")).unwrap(), (0, seed as u32));
        }
        for seed in 0..50 {
            let mut other = words(seed);
            other[30] = "another".into();
            let other = other.join("  ").to_uppercase();
            let found = near.like(&signature(&other).unwrap()).and_then(|number| near.spot(number));
            assert_eq!(found, Some((0, seed as u32)));
        }
        for seed in 100..150 {
            assert_eq!(near.like(&signature(&words(seed).join(" ")).unwrap()), None);
        }
        assert!(signature("too few words for that").is_none());
    }
}
