//! Numbers that depend on nothing but their key: the same on every machine, with no state to save.

/// A well-mixed number for a key of some words (the finalizer of SplitMix64, chained).
pub fn hash(key: &[u64]) -> u64 {
    key.iter().fold(0x9e37_79b9_7f4a_7c15, |state, &word| {
        mix(state ^ mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    })
}

/// A number of a text.
pub fn hash_text(text: &str) -> u64 {
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, &byte| (word << 8) | u64::from(byte));
    let words: Vec<u64> = text.as_bytes().chunks(8).map(word).chain([text.len() as u64]).collect();
    hash(&words)
}

/// An even choice from `0..count` for a key (`count` above 0), up to 2^-32 of bias for any real count.
pub fn below(key: &[u64], count: usize) -> usize {
    ((u128::from(hash(key)) * count as u128) >> 64) as usize
}

/// Whether something with this probability happens for a key.
pub fn happens(key: &[u64], probability: f64) -> bool {
    // 53 bits are all that an f64 holds of a number below 1.
    ((hash(key) >> 11) as f64) * (0.5_f64).powi(53) < probability
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A permutation of `0..count` for a key.
pub fn permutation(key: &[u64], count: usize) -> Vec<u32> {
    let base = hash(key);
    let mut order: Vec<u32> = (0..count as u32).collect();
    for i in (1..count).rev() {
        order.swap(i, below(&[base, i as u64], i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_fixed_for_all_machines() {
        assert_eq!(permutation(&[0, 0], 8), PINNED);
        assert_eq!(permutation(&[7], 0), Vec::<u32>::new());
        assert_eq!(permutation(&[7], 1), [0]);
    }

    /// Saved runs depend on these numbers: a change here changes the order of rows of every resumed run.
    const PINNED: [u32; 8] = [1, 5, 6, 4, 0, 2, 3, 7];

    #[test]
    fn permutations_are_even() {
        let mut counts = [[0_u32; 5]; 5];
        for seed in 0..5000 {
            for (place, &row) in permutation(&[seed], 5).iter().enumerate() {
                counts[place][row as usize] += 1;
            }
        }
        assert!(counts.iter().flatten().all(|&n| (900..1100).contains(&n)), "{counts:?}");
    }
}
