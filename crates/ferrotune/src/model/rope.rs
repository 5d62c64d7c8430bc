//! Rotary frequencies and their tables of cosines and sines.

use ferrotune_kernels::{Device, Tensor};

use super::config::RopeScaling;
use crate::{Error, Result};

/// Cosines and sines `[positions, rotary / 2]`.
#[derive(Debug)]
pub struct RopeTable {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl RopeTable {
    /// The table for `positions` positions of heads of `head_dim`.
    pub fn new(
        dev: &Device,
        positions: usize,
        head_dim: usize,
        theta: f64,
        scaling: &RopeScaling,
    ) -> Result<Self> {
        let frequencies = frequencies(head_dim, theta, scaling)?;
        let half = frequencies.len();
        let (mut cos, mut sin) = (dev.empty(positions, half), dev.empty(positions, half));
        for p in 0..positions {
            for (i, f) in frequencies.iter().enumerate() {
                // The reference stack multiplies in f32; the angle's rounding is part of its numbers.
                let angle = (p as f32 * f) as f64;
                cos.f32_mut()[p * half + i] = angle.cos() as f32;
                sin.f32_mut()[p * half + i] = angle.sin() as f32;
            }
        }
        Ok(RopeTable { cos, sin })
    }
}

/// `theta^(-2i/d)`, changed by the scaling.
fn frequencies(head_dim: usize, theta: f64, scaling: &RopeScaling) -> Result<Vec<f32>> {
    let plain = (0..head_dim / 2).map(|i| (1.0 / theta.powf(2.0 * i as f64 / head_dim as f64)) as f32);
    Ok(match scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / *factor as f32).collect(),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = *original_max_position_embeddings as f64;
            plain
                .map(|f| {
                    let wavelength = std::f64::consts::TAU / f as f64;
                    let smooth =
                        (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    // 0 below the low factor (divided), 1 above the high one (kept), a ramp between.
                    let keep = smooth.clamp(0.0, 1.0);
                    ((1.0 - keep) * f as f64 / factor + keep * f as f64) as f32
                })
                .collect()
        }
        RopeScaling::Factors(factors) if factors.len() == head_dim / 2 => {
            plain.zip(factors).map(|(f, by)| f / by).collect()
        }
        other => {
            let problem = format!("rope scaling {other:?} is not implemented for heads of {head_dim}");
            return Err(Error::config("rope_scaling", problem)
                .with_hint("implemented: none, linear, llama3, and the factors of GGUF files"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = frequencies(128, 500_000.0, &RopeScaling::None).unwrap();
        let scaled = frequencies(128, 500_000.0, &scaling).unwrap();
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
        assert!(scaled.windows(2).all(|w| w[0] > w[1]), "still falling");
    }

    #[test]
    fn a_scaling_that_is_not_implemented_is_named() {
        let dynamic = RopeScaling::Dynamic { factor: 2.0, original_max_position_embeddings: 2048 };
        let error = RopeTable::new(&Device::reference(), 4, 8, 1e4, &dynamic).unwrap_err();
        assert!(error.to_string().contains("Dynamic"), "{error}");
    }
}
