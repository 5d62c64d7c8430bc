//! Counter-based random numbers: the value depends on (seed, name, step, index) alone, never on what ran before or
//! on how many threads ran it.

/// A stream of random numbers that can be read at any index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Stream {
    /// The stream of `name` (a tensor's, say) in `step` under `seed`.
    pub fn new(seed: u64, name: &str, step: u64) -> Self {
        // FNV-1a over the name; the mixing after it spreads what FNV leaves together.
        let hash = name
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01B3));
        let key = mix(mix(seed.wrapping_add(GOLDEN)) ^ hash)
            .wrapping_add(mix(step.wrapping_mul(GOLDEN) ^ 0x5851_F42D));
        Stream { key }
    }

    /// 64 random bits at `index`.
    #[inline]
    pub fn bits(self, index: u64) -> u64 {
        mix(self.key.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// Uniform in [0, 1) with 24 bits.
    #[inline]
    pub fn uniform(self, index: u64) -> f32 {
        (self.bits(index) >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
    }

    /// Uniform integer in `0..n`.
    pub fn below(self, index: u64, n: u64) -> u64 {
        ((self.bits(index) as u128 * n as u128) >> 64) as u64
    }

    /// Standard normal (Box-Muller on the two halves of one draw pair).
    pub fn normal(self, index: u64) -> f32 {
        let u = ((self.bits(2 * index) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let v = (self.bits(2 * index + 1) >> 11) as f64 / (1u64 << 53) as f64;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let s = Stream::new(1, "model.layers.0.self_attn.q_proj.lora_A", 0);
        let n = 100_000;
        let mean = (0..n).map(|i| s.uniform(i) as f64).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        let var = (0..n).map(|i| (s.normal(i) as f64).powi(2)).sum::<f64>() / n as f64;
        assert!((var - 1.0).abs() < 0.02, "{var}");
        assert!((0..1000).all(|i| s.below(i, 7) < 7));
    }

    #[test]
    fn seed_name_and_step_each_change_the_stream() {
        let base = Stream::new(1, "a", 0);
        for other in [Stream::new(2, "a", 0), Stream::new(1, "b", 0), Stream::new(1, "a", 1)] {
            assert_ne!(base.bits(0), other.bits(0));
            assert_ne!(base.bits(1), other.bits(0));
        }
    }
}
