//! Rotary embeddings as a configuration states them: base, scaling, rotated part; one set for all layers, or one for
//! each kind of layer.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::defaults::{Defaults, RopeStyle};
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
    /// Heads are turned whole, but only the first share of the frequencies is not 0 (Gemma 4).
    Proportional {
        /// Divisor of the frequencies.
        factor: f64,
        /// The share.
        share: f64,
    },
    /// A divisor for each rotary frequency (`rope_freqs.weight` of GGUF files).
    Factors(Vec<f32>),
}

/// The kind of layers without a window.
const FULL: &str = "full_attention";

/// The embeddings of all layers, and those that are stated for a kind of layers (`full_attention`, ...).
///
/// `rope_scaling`, where there is one, stands in the place of all of `rope_parameters`, as transformers has it; in a family
/// that states them by kind it is of the layers without a window, over what is stated for those. What a family's code does
/// not compute goes into `notes`.
pub(crate) fn read(
    keys: &Keys<'_>,
    defaults: &Defaults,
    max_positions: Option<usize>,
    notes: &mut Vec<String>,
) -> Result<(RopeConfig, BTreeMap<String, RopeConfig>)> {
    let object = |name: &str| match keys.get(name) {
        None => Ok(Map::new()),
        Some(v) => v.as_object().cloned().ok_or_else(|| keys.bad(name, "not an object")),
    };
    let (new, old) = (object("rope_parameters")?, object("rope_scaling")?);
    let mut read = |name: &'static str, object: &Map<String, Value>, theta: &str| {
        let inner = Keys { path: keys.path, object };
        Stated { keys, defaults, name, inner: &inner, max_positions }.read(theta, notes)
    };
    let mut kinds: BTreeMap<String, Map<String, Value>> =
        new.iter().filter_map(|(kind, v)| Some((kind.clone(), v.as_object()?.clone()))).collect();
    if defaults.rope != RopeStyle::ByLayerType {
        if let (Some(kind), true) = (kinds.keys().next(), old.is_empty()) {
            let family = keys.family();
            let problem = format!("values for a kind of layers (`{kind}`) are not used in a {family} model");
            return Err(keys.bad("rope_parameters", problem));
        }
        let (name, given) = if old.is_empty() { ("rope_parameters", &new) } else { ("rope_scaling", &old) };
        return Ok((read(name, given, "rope_theta")?, BTreeMap::new()));
    }
    if kinds.is_empty() && !new.is_empty() {
        let problem = "it has values for no kind of layers (full_attention, sliding_attention)";
        return Err(keys.bad("rope_parameters", problem));
    }
    if !kinds.is_empty() && !old.is_empty() {
        kinds.entry(FULL.into()).or_default().extend(old.clone());
    }
    let mut by_kind = BTreeMap::new();
    for (kind, inner) in &kinds {
        let theta = if kind == FULL { "rope_theta" } else { "rope_local_base_freq" };
        by_kind.insert(kind.clone(), read("rope_parameters", inner, theta)?);
    }
    // Objects for kinds of layers say nothing about layers of no kind.
    let common = if kinds.is_empty() { old } else { Map::new() };
    Ok((read("rope_scaling", &common, "rope_theta")?, by_kind))
}

/// The embeddings of some layers as they are stated, and what stands around them.
struct Stated<'a> {
    /// The whole configuration.
    keys: &'a Keys<'a>,
    defaults: &'a Defaults,
    /// The key that has them.
    name: &'static str,
    /// What it has.
    inner: &'a Keys<'a>,
    max_positions: Option<usize>,
}

impl Stated<'_> {
    /// `theta` is the key of the whole configuration that has the base if this one does not.
    fn read(&self, theta: &str, notes: &mut Vec<String>) -> Result<RopeConfig> {
        let base = match self.inner.positive("rope_theta")? {
            Some(base) => Some(base),
            None => self.keys.positive(theta)?,
        };
        let scaling = self.scaling()?;
        Ok(RopeConfig { theta: base, partial: self.partial(&scaling, notes)?, scaling })
    }

    /// The rotated share of a head. Only some families' code reads it; elsewhere an unscaled rotation is of whole heads, and
    /// a scaled one of a part of a head cannot be computed by transformers either.
    fn partial(&self, scaling: &RopeScaling, notes: &mut Vec<String>) -> Result<Option<f64>> {
        const KEY: &str = "partial_rotary_factor";
        let stated = match self.inner.positive(KEY)? {
            Some(part) => Some(part),
            None => self.keys.positive(KEY)?,
        };
        if let Some(part) = stated.filter(|p| *p > 1.0) {
            return Err(self.keys.bad(KEY, format!("{part} is above 1")));
        }
        if self.defaults.partial_rotary {
            return Ok(stated);
        }
        if let Some(part) = stated.filter(|part| *part < 1.0) {
            let problem = format!(
                "{part} is not used in a {} model, whose heads are rotated whole",
                self.keys.family()
            );
            if *scaling != RopeScaling::None {
                return Err(self.keys.bad(KEY, problem));
            }
            let note = format!("{}: `{KEY}`: {problem}", self.keys.path.display());
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        Ok(None)
    }

    fn scaling(&self) -> Result<RopeScaling> {
        let (keys, name, inner) = (self.keys, self.name, self.inner);
        let kind = match inner.text("rope_type")? {
            Some(kind) => kind,
            None => inner.text("type")?.unwrap_or("default"),
        };
        let kind = match (self.defaults.rope, kind) {
            (RopeStyle::LongRope, "su" | "yarn") => "longrope",
            (RopeStyle::LongRope, kind) if !matches!(kind, "default" | "longrope") => {
                let family = keys.family();
                let problem =
                    format!("rope type `{kind}` is not used in a {family} model (default, longrope)");
                return Err(keys.bad(name, problem));
            }
            (_, kind) => kind,
        };
        scaling(self, kind)
    }

    /// Context that the base was made for, which some kinds depend on.
    fn positions(&self) -> Result<usize> {
        self.max_positions.ok_or_else(|| self.keys.missing("max_position_embeddings"))
    }

    /// Context of the pre-training. Where it is stated outside, as Phi 3 has it, that has precedence in transformers.
    fn original(&self) -> Result<usize> {
        const KEY: &str = "original_max_position_embeddings";
        match (self.keys.optional_size(KEY)?, self.inner.optional_size(KEY)?) {
            (Some(outside), _) => Ok(outside),
            (None, _) if self.defaults.rope == RopeStyle::LongRope => Ok(4096),
            (None, Some(inside)) => Ok(inside),
            (None, None) => self.positions(),
        }
    }
}

fn scaling(stated: &Stated<'_>, kind: &str) -> Result<RopeScaling> {
    let (keys, name, inner) = (stated.keys, stated.name, stated.inner);
    let need = |key: &str| {
        inner.positive(key)?.ok_or_else(|| keys.bad(name, format!("rope type `{kind}` needs `{key}`")))
    };
    let original = || stated.original();
    Ok(match kind {
        // Sections of a head for time, height and width, which are one position in text.
        "default" | "mrope" => RopeScaling::None,
        "longrope" => {
            let list = |key: &str| {
                inner
                    .positives(key)?
                    .ok_or_else(|| keys.bad(name, format!("rope type `{kind}` needs `{key}`")))
            };
            let (short, long) = (list("short_factor")?, list("long_factor")?);
            let original = original()?;
            let factor = match inner.positive("factor")? {
                Some(factor) => factor,
                None => stated.positions()? as f64 / original as f64,
            };
            let suggested =
                if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
            RopeScaling::LongRope {
                short,
                long,
                attention_factor: inner.positive("attention_factor")?.unwrap_or(suggested),
                original_max_position_embeddings: original,
            }
        }
        "proportional" if stated.defaults.rope == RopeStyle::ByLayerType => RopeScaling::Proportional {
            factor: inner.positive("factor")?.unwrap_or(1.0),
            share: inner.positive("partial_rotary_factor")?.unwrap_or(1.0),
        },
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        // Measured against the stated context, whatever `original_max_position_embeddings` says.
        "dynamic" => {
            let original_max_position_embeddings = stated.positions()?;
            RopeScaling::Dynamic { factor: need("factor")?, original_max_position_embeddings }
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
