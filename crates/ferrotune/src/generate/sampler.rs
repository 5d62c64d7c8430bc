//! The next token from its logits.

use ferrotune_kernels::rng::Stream;

/// Tokens that are sorted first.
const FIRST: usize = 128;

/// How tokens are chosen. Greedy at temperature 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Only this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together have this probability; 1 for all.
    pub top_p: f32,
    /// Seed of the choices.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

    /// The token for position `position` of sequence `sequence`; the choice depends on nothing else but the logits.
    pub fn choose(&self, logits: &[f32], sequence: usize, position: usize) -> u32 {
        if self.temperature <= 0.0 {
            return argmax(logits);
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let keep = if self.top_k > 0 { self.top_k.min(logits.len()) } else { logits.len() };
        if keep < order.len() {
            order.select_nth_unstable_by(keep, by_logit);
            order.truncate(keep);
        }
        let top = logits[argmax(logits) as usize];
        let weight = |i: &u32| match (logits[*i as usize] - top) / self.temperature {
            // Less than what a sum of all others is rounded by.
            least if least < -60.0 => 0.0,
            x => (x as f64).exp(),
        };
        let total: f64 = order.iter().map(weight).sum();
        let draw = Stream::new(self.seed, "sample", sequence as u64).uniform(position as u64) as f64;
        // Nearly always the likeliest few decide: sorting all of a vocabulary takes longer than a small model's layers.
        let mut sorted = FIRST;
        loop {
            let size = sorted.min(order.len());
            if size < order.len() {
                order.select_nth_unstable_by(size, by_logit);
            }
            order[..size].sort_unstable_by(by_logit);
            let wanted = self.top_p as f64 * total;
            let (mut kept, mut count) = (0.0, 0);
            while count < size && (count == 0 || kept < wanted) {
                kept += weight(&order[count]);
                count += 1;
            }
            let all = size == order.len();
            if kept >= wanted || self.top_p >= 1.0 || all {
                let mass = if self.top_p >= 1.0 { total } else { kept };
                let mut sum = 0.0;
                for i in &order[..count] {
                    sum += weight(i);
                    if draw * mass < sum {
                        return *i;
                    }
                }
                if all || self.top_p < 1.0 {
                    return order[count - 1];
                }
            }
            sorted *= 16;
        }
    }
}

/// The first of the largest logits.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in logits.iter().enumerate() {
        if *v > logits[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(Sampling::GREEDY.choose(&[0.0, 3.0, 3.0, -1.0], 0, 0), 1);
    }

    #[test]
    fn limits_keep_only_likely_tokens_and_frequencies_follow_the_probabilities() {
        let logits = [0.0, 2.0, 1.0, -3.0];
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 4 };
        let n = 20_000;
        let mut counts = [0; 4];
        (0..n).for_each(|p| counts[all.choose(&logits, 0, p) as usize] += 1);
        let total: f64 = logits.iter().map(|l: &f32| (*l as f64).exp()).sum();
        for (l, c) in logits.iter().zip(counts) {
            let p = (*l as f64).exp() / total;
            assert!((c as f64 / n as f64 - p).abs() < 0.015, "{counts:?}");
        }
        let two = Sampling { top_k: 2, ..all };
        assert!((0..1000).all(|p| [1, 2].contains(&two.choose(&logits, 0, p))));
        // More tokens than are sorted at first, all equally likely: none is left out.
        let flat = vec![1.0; 3 * FIRST];
        let mut seen = vec![false; flat.len()];
        (0..20_000).for_each(|p| seen[all.choose(&flat, 0, p) as usize] = true);
        assert!(seen.iter().all(|s| *s));
        let half = Sampling { top_p: 0.5, ..all };
        assert!((0..2000).all(|p| half.choose(&flat, 0, p) <= 3 * FIRST as u32 / 2));
        assert!((0..2000).any(|p| half.choose(&flat, 0, p) > FIRST as u32 + 20));
        let likely = Sampling { top_p: 0.5, ..all };
        assert!((0..1000).all(|p| likely.choose(&logits, 0, p) == 1));
    }
}
