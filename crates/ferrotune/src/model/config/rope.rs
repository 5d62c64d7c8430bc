//! Rotary embeddings as a configuration states them: base, scaling, rotated part; one set for all layers, or one for
//! each kind of layer.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::keys::Keys;
use crate::Result;

/// Rotary embeddings of some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies, if stated; families have defaults of their own.
    pub theta: Option<f64>,
    /// Change of the frequencies.
    pub scaling: RopeScaling,
    /// Share of a head that is rotated, if stated.
    pub partial: Option<f64>,
}

/// Changes of the rotary frequencies for contexts longer than the pre-training's.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All positions divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the length of the sequence (dynamic NTK).
    Dynamic {
        /// Stretch of the context.
        factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
    },
    /// Low frequencies divided, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
    },
    /// YaRN: a ramp over dimensions and a scale on the attention.
    Yarn {
        /// Stretch of the context.
        factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
        /// Scale on cosines and sines; from the factor when absent.
        attention_factor: Option<f64>,
        /// Rotations above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is divided.
        beta_slow: f64,
        /// Numerator of the attention scale (DeepSeek's form), if given.
        mscale: Option<f64>,
        /// Denominator of the attention scale, if given.
        mscale_all_dim: Option<f64>,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// A divisor for each frequency, one set for sequences of the pre-training's length and one for longer ones.
    LongRope {
        /// Divisors up to the context of the pre-training.
        short: Vec<f32>,
        /// Divisors beyond it.
        long: Vec<f32>,
        /// Scale on cosines and sines.
        attention_factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
    },
    /// A divisor for each rotary frequency (`rope_freqs.weight` of GGUF files).
    Factors(Vec<f32>),
}

/// The embeddings of all layers, and those that are stated for a kind of layers (`full_attention`, ...).
pub(super) fn read(
    keys: &Keys<'_>,
    max_positions: usize,
) -> Result<(RopeConfig, BTreeMap<String, RopeConfig>)> {
    let new = keys.object.get("rope_parameters").filter(|v| !v.is_null());
    let old = keys.object.get("rope_scaling").filter(|v| !v.is_null());
    let (name, given) = match (new, old) {
        (Some(v), _) => ("rope_parameters", Some(v)),
        (None, v) => ("rope_scaling", v),
    };
    let empty = Map::new();
    let object = match given {
        None => &empty,
        Some(v) => v.as_object().ok_or_else(|| keys.bad(name, "not an object"))?,
    };
    let mut by_kind = BTreeMap::new();
    for (kind, value) in object {
        if let Some(inner) = value.as_object() {
            by_kind.insert(kind.clone(), one(keys, name, inner, max_positions)?);
        }
    }
    // Objects for kinds of layers say nothing about layers of no kind.
    let common = if by_kind.is_empty() { object } else { &empty };
    Ok((one(keys, name, common, max_positions)?, by_kind))
}

fn one(keys: &Keys<'_>, name: &str, object: &Map<String, Value>, max_positions: usize) -> Result<RopeConfig> {
    let inner = Keys { path: keys.path, object };
    let partial = match inner.positive("partial_rotary_factor")? {
        Some(part) => Some(part),
        None => keys.positive("partial_rotary_factor")?,
    };
    if let Some(part) = partial.filter(|p| *p > 1.0) {
        return Err(keys.bad("partial_rotary_factor", format!("{part} is above 1")));
    }
    let theta = match inner.positive("rope_theta")? {
        Some(theta) => Some(theta),
        None => keys.positive("rope_theta")?,
    };
    Ok(RopeConfig { theta, scaling: scaling(keys, name, &inner, max_positions)?, partial })
}

fn scaling(keys: &Keys<'_>, name: &str, inner: &Keys<'_>, max_positions: usize) -> Result<RopeScaling> {
    let kind = match inner.text("rope_type")? {
        Some(kind) => kind,
        None => inner.text("type")?.unwrap_or("default"),
    };
    let need = |key: &str| {
        inner.positive(key)?.ok_or_else(|| keys.bad(name, format!("rope type `{kind}` needs `{key}`")))
    };
    // Phi 3 states it outside, and that has precedence in the reference stack.
    let original = || -> Result<usize> {
        let key = "original_max_position_embeddings";
        Ok(match keys.optional_size(key)? {
            Some(n) => n,
            None => inner.optional_size(key)?.unwrap_or(max_positions),
        })
    };
    Ok(match kind {
        "default" | "none" => RopeScaling::None,
        // Early Phi 3 configurations call it `su`, or `yarn` with lists of factors.
        "longrope" | "su" | "yarn" if inner.object.contains_key("long_factor") || kind != "yarn" => {
            let list = |key: &str| {
                inner
                    .positives(key)?
                    .ok_or_else(|| keys.bad(name, format!("rope type `{kind}` needs `{key}`")))
            };
            let original = original()?;
            let factor = match inner.positive("factor")? {
                Some(factor) => factor,
                None => max_positions as f64 / original as f64,
            };
            let suggested =
                if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
            RopeScaling::LongRope {
                short: list("short_factor")?,
                long: list("long_factor")?,
                attention_factor: inner.positive("attention_factor")?.unwrap_or(suggested),
                original_max_position_embeddings: original,
            }
        }
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        // Measured against the stated context, whatever `original_max_position_embeddings` says.
        "dynamic" => {
            RopeScaling::Dynamic { factor: need("factor")?, original_max_position_embeddings: max_positions }
        }
        "llama3" => {
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if high <= low {
                return Err(
                    keys.bad(name, format!("high_freq_factor {high} is not above low_freq_factor {low}"))
                );
            }
            RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original()?,
            }
        }
        "yarn" => RopeScaling::Yarn {
            factor: need("factor")?,
            original_max_position_embeddings: original()?,
            attention_factor: inner.positive("attention_factor")?,
            beta_fast: inner.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: inner.positive("beta_slow")?.unwrap_or(1.0),
            mscale: inner.positive("mscale")?,
            mscale_all_dim: inner.positive("mscale_all_dim")?,
            truncate: inner.flag("truncate")?.unwrap_or(true),
        },
        // What our own merged folders say of a GGUF file's scaling that has no other name.
        "factors" => match inner.positives("factors")? {
            Some(factors) => RopeScaling::Factors(factors),
            None => return Err(keys.bad(name, "`factors` is missing")),
        },
        other => {
            let known = "default, linear, dynamic, llama3, yarn, longrope";
            return Err(keys.bad(name, format!("rope type `{other}` is not supported ({known})")));
        }
    })
}
