//! Rotary frequencies, and the cosines and sines of a pass.

use std::borrow::Cow;

use ferrotune_kernels::ops::rope::{Pairs, Turn};
use ferrotune_kernels::{Device, Tensor};

use super::tokens::Tokens;
use crate::arch::architecture::{Architecture, QueryScale, Rope};
use crate::arch::config::RopeScaling;
use crate::{Error, Result};

/// Rotary embeddings with the table of all positions that may occur.
#[derive(Debug)]
pub struct Rotary {
    rope: Rope,
    /// For all positions of sequences of the usual length.
    tables: Tables,
}

/// Cosines and sines `[rows, dims / 2]`.
#[derive(Debug)]
struct Tables {
    of_keys: [Tensor; 2],
    /// Those of queries, where they are longer than keys.
    of_queries: Option<[Tensor; 2]>,
}

/// Cosines, sines and a row of them for each token of a pass.
pub struct Rotation<'a> {
    own: Option<Tables>,
    tables: &'a Tables,
    rows: Cow<'a, [u32]>,
    pairs: Pairs,
}

impl Rotation<'_> {
    /// Cosines and sines that turn keys.
    pub fn of_keys(&self) -> Turn<'_> {
        self.turn(&self.tables().of_keys)
    }

    /// Cosines and sines that turn queries.
    pub fn of_queries(&self) -> Turn<'_> {
        let tables = self.tables();
        self.turn(tables.of_queries.as_ref().unwrap_or(&tables.of_keys))
    }

    fn tables(&self) -> &Tables {
        self.own.as_ref().unwrap_or(self.tables)
    }

    fn turn<'t>(&self, [cos, sin]: &'t [Tensor; 2]) -> Turn<'t> {
        Turn { cos, sin, pairs: self.pairs }
    }

    /// Row of cosines and sines for each token.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }
}

impl Rotary {
    /// Tables for `positions` positions.
    pub fn new(dev: &Device, positions: usize, rope: Rope) -> Result<Self> {
        let usual = frequencies(&rope, 0)?;
        // Refused here and not in the middle of a run.
        if let Some(limit) = rope.scaling.changes_beyond() {
            frequencies(&rope, limit + 1)?;
        }
        let tables = rope.tables(dev, positions, |p| (p as f32, &usual));
        Ok(Rotary { rope, tables })
    }

    /// The rotation of these tokens.
    ///
    /// Where frequencies depend on the length of a sequence (dynamic, longrope), every segment gets those of its own
    /// length, as if it had been run alone. Sequences of different lengths can then share a beginning only up to
    /// [`Architecture::fixed_rotation`].
    pub fn at<'a>(&'a self, dev: &Device, tokens: Tokens<'a>) -> Result<Rotation<'a>> {
        let limit = self.rope.scaling.changes_beyond().unwrap_or(usize::MAX);
        let shared = tokens.segments.iter().filter(|s| s.parent.is_some());
        let end = shared.map(|s| tokens.positions[s.q_start + s.q_len - 1] as usize + 1).max();
        if let Some(end) = end.filter(|end| *end > limit) {
            let problem = format!("a sequence of {end} tokens shares its first with others");
            return Err(Error::config("rope_scaling", problem)
                .with_hint(format!("frequencies change beyond {limit} tokens; share none in longer rows")));
        }
        if tokens.segments.iter().all(|s| s.k_len <= limit) {
            let rows = Cow::Borrowed(tokens.positions);
            return Ok(Rotation { own: None, tables: &self.tables, rows, pairs: self.rope.pairs });
        }
        let sets = tokens.segments.iter().map(|s| frequencies(&self.rope, s.k_len));
        let sets = sets.collect::<Result<Vec<_>>>()?;
        let segments = tokens.segments.iter().zip(&sets);
        let of: Vec<&Frequencies> = segments.flat_map(|(s, set)| std::iter::repeat_n(set, s.q_len)).collect();
        let own = self.rope.tables(dev, of.len(), |t| (tokens.positions[t] as f32, of[t]));
        let rows = (0..of.len() as u32).collect();
        Ok(Rotation { own: Some(own), tables: &self.tables, rows, pairs: self.rope.pairs })
    }
}

/// Frequencies, and the factor of cosines and sines.
type Frequencies = (Vec<f32>, f32);

impl Rope {
    /// Cosines and sines of `rows` rows; `at(row)` gives a row's position and its frequencies.
    fn tables<'f>(&self, dev: &Device, rows: usize, at: impl Fn(usize) -> (f32, &'f Frequencies)) -> Tables {
        let half = self.dims / 2;
        let of = |longer: &dyn Fn(f32) -> f32| {
            let (mut cos, mut sin) = (dev.empty(rows, half), dev.empty(rows, half));
            for row in 0..rows {
                let (position, (frequencies, scale)) = at(row);
                let scale = scale * longer(position);
                for (i, f) in frequencies.iter().enumerate() {
                    // The reference stack multiplies in f32; the angle's rounding is part of its numbers.
                    let angle = (position * f) as f64;
                    cos.host_f32_mut()[row * half + i] = angle.cos() as f32 * scale;
                    sin.host_f32_mut()[row * half + i] = angle.sin() as f32 * scale;
                }
            }
            [cos, sin]
        };
        let of_queries = self.query_scale.map(|QueryScale { beta, context }| {
            of(&|position| 1.0 + beta as f32 * (1.0 + (position / context as f32).floor()).ln())
        });
        Tables { of_keys: of(&|_| 1.0), of_queries }
    }
}

impl Architecture {
    /// The length up to which sequences have the same frequencies, whatever their length.
    pub fn fixed_rotation(&self) -> usize {
        self.ropes.iter().filter_map(|r| r.scaling.changes_beyond()).min().unwrap_or(usize::MAX)
    }
}

impl RopeScaling {
    /// The length of a sequence above which the frequencies change.
    fn changes_beyond(&self) -> Option<usize> {
        match self {
            RopeScaling::Dynamic { original_max_position_embeddings, .. }
            | RopeScaling::LongRope { original_max_position_embeddings, .. } => {
                Some(*original_max_position_embeddings)
            }
            _ => None,
        }
    }
}

/// `theta^(-2i/d)`, changed by the scaling, for a sequence of `length` tokens.
fn frequencies(rope: &Rope, length: usize) -> Result<Frequencies> {
    let (theta, dims) = (rope.theta, rope.dims);
    let half = dims / 2;
    let of = |theta: f64| (0..half).map(move |i| 1.0 / theta.powf(2.0 * i as f64 / dims as f64));
    let plain = || of(theta).map(|f| f as f32);
    let divided = |by: &[f32]| {
        if by.len() == half {
            return Ok(of(theta).zip(by).map(|(f, by)| (f / *by as f64) as f32).collect());
        }
        let problem = format!("{} factors for {half} rotary frequencies", by.len());
        Err(Error::config("rope_scaling", problem))
    };
    Ok(match &rope.scaling {
        RopeScaling::None => (plain().collect(), 1.0),
        RopeScaling::Linear { factor } => (plain().map(|f| f / *factor as f32).collect(), 1.0),
        RopeScaling::Dynamic { factor, original_max_position_embeddings } => {
            let original = *original_max_position_embeddings as f64;
            let stretch = factor * (length as f64).max(original) / original - (factor - 1.0);
            let theta = theta * stretch.powf(dims as f64 / (dims as f64 - 2.0));
            (of(theta).map(|f| f as f32).collect(), 1.0)
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = *original_max_position_embeddings as f64;
            let scaled = plain().map(|f| {
                let wavelength = std::f64::consts::TAU / f as f64;
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                // 0 below the low factor (divided), 1 above the high one (kept), a ramp between.
                let keep = smooth.clamp(0.0, 1.0);
                ((1.0 - keep) * f as f64 / factor + keep * f as f64) as f32
            });
            (scaled.collect(), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            attention_factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            truncate,
        } => {
            // The dimension that turns so many times over the context of the pre-training.
            let dimension = |rotations: f64| {
                let context = *original_max_position_embeddings as f64 / (rotations * std::f64::consts::TAU);
                dims as f64 * context.ln() / (2.0 * theta.ln())
            };
            let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let low = low.max(0.0);
            let mut high = high.min(dims as f64 - 1.0);
            if low == high {
                high += 0.001;
            }
            let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            let scaled = of(theta).enumerate().map(|(i, f)| {
                let divide = ramp(i);
                (f / factor * divide + f * (1.0 - divide)) as f32
            });
            let scale = |by: f64| if *factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
            let attention = attention_factor.unwrap_or(match (mscale, mscale_all_dim) {
                (Some(a), Some(b)) => scale(*a) / scale(*b),
                _ => scale(1.0),
            });
            (scaled.collect(), attention as f32)
        }
        RopeScaling::LongRope { short, long, attention_factor, original_max_position_embeddings } => {
            let by = if length > *original_max_position_embeddings { long } else { short };
            (divided(by)?, *attention_factor as f32)
        }
        RopeScaling::Proportional { factor, share } => {
            let turning = (share * dims as f64 / 2.0) as usize;
            let frequency = |(i, f): (usize, f32)| if i < turning { f / *factor as f32 } else { 0.0 };
            (plain().enumerate().map(frequency).collect(), 1.0)
        }
        RopeScaling::Factors(factors) => (divided(factors)?, 1.0),
    })
}

#[cfg(test)]
mod tests {
    use ferrotune_kernels::ops::attention::Segment;

    use super::*;

    fn rope(theta: f64, dims: usize, scaling: RopeScaling) -> Rope {
        Rope { theta, scaling, dims, pairs: Pairs::Halves, query_scale: None }
    }

    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = frequencies(&rope(500_000.0, 128, RopeScaling::None), 0).unwrap().0;
        let scaled = frequencies(&rope(500_000.0, 128, scaling), 0).unwrap().0;
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
        assert!(scaled.windows(2).all(|w| w[0] > w[1]), "still falling");
    }

    #[test]
    fn a_long_segment_has_frequencies_of_its_own_and_a_short_one_keeps_its() {
        let dev = Device::reference();
        let scaling = RopeScaling::Dynamic { factor: 2.0, original_max_position_embeddings: 8 };
        let rotary = Rotary::new(&dev, 32, rope(1e4, 8, scaling)).unwrap();
        let segments = [Segment::own(0, 8), Segment::own(8, 16)];
        let positions: Vec<u32> = (0..8).chain(0..16).collect();
        let at = |segments: &[Segment], positions: &[u32], row: usize| {
            let ids = vec![0; positions.len()];
            let r = rotary.at(&dev, Tokens { ids: &ids, positions, segments }).unwrap();
            let row = r.rows()[row] as usize;
            {
                let turn = r.of_keys();
                [turn.cos, turn.sin].map(|t| t.host_f32()[row * 4..][..4].to_vec())
            }
        };
        let short = at(&segments[..1], &positions[..8], 7);
        assert_eq!(at(&segments, &positions, 7), short, "as if it were alone");
        assert_ne!(at(&segments, &positions, 15), short);
        assert_eq!(at(&[Segment::own(0, 16)], &positions[8..], 15), at(&segments, &positions, 23));
    }

    #[test]
    fn factors_must_be_as_many_as_frequencies() {
        let scaling = RopeScaling::LongRope {
            short: vec![1.0; 4],
            long: vec![1.0; 3],
            attention_factor: 1.0,
            original_max_position_embeddings: 8,
        };
        let error = Rotary::new(&Device::reference(), 4, rope(1e4, 8, scaling)).unwrap_err();
        assert!(error.to_string().contains("3 factors for 4"), "{error}");
    }
}
