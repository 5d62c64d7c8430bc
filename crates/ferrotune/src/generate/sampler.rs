//! The next token from its logits.

use ferrotune_kernels::rng::Stream;

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
        order.sort_unstable_by(by_logit);
        let top = logits[order[0] as usize];
        let weights: Vec<f64> =
            order.iter().map(|i| (((logits[*i as usize] - top) / self.temperature) as f64).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let mut count = 0;
        while count < weights.len() && (count == 0 || kept < self.top_p as f64 * total) {
            kept += weights[count];
            count += 1;
        }
        let draw = Stream::new(self.seed, "sample", sequence as u64).uniform(position as u64) as f64 * kept;
        let mut sum = 0.0;
        for (i, w) in order.iter().zip(&weights).take(count) {
            sum += w;
            if draw < sum {
                return *i;
            }
        }
        order[count - 1]
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
        let likely = Sampling { top_p: 0.5, ..all };
        assert!((0..1000).all(|p| likely.choose(&logits, 0, p) == 1));
    }
}
