//! The one place where `model_type` is looked at.
//!
//! A family says how its own code reads `config.json` ([`Defaults`]) and describes its network as an [`Architecture`].
//! Adding one takes a file, its `mod` line and its row in [`FAMILIES`].

mod apertus;
mod ernie4_5;
mod exaone4;
mod falcon_h1;
mod gemma2;
mod gemma3_text;
mod gemma4_text;
mod glm;
mod glm4;
mod gpt_oss;
mod granite;
mod granitemoehybrid;
mod helium;
mod hunyuan_v1_dense;
mod internlm3;
mod lfm2;
mod llama;
mod mamba2;
mod minimax_m2;
mod ministral3;
mod missing;
mod mistral;
mod mixtral;
mod olmo2;
mod olmo3;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen2_5_vl_text;
mod qwen2_moe;
mod qwen3;
mod qwen3_5;
mod qwen3_5_moe;
mod qwen3_moe;
mod qwen3_next;
mod qwen3_vl_text;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;

use std::path::Path;

use ferrotune_kernels::ops::activation::Activation;
use ferrotune_kernels::ops::causal_conv::MOST_TAPS;
use serde_json::Value;

use super::architecture::{Architecture, Rope, rope};
use super::config::{Defaults, Keys, LayerType, ModelConfig, RopeScaling};
use super::wrappers::{self, WRAPPERS};
use crate::{Error, Result};

/// A family of networks.
#[derive(Debug)]
pub struct Family {
    /// Its name in `config.json`.
    pub model_type: &'static str,
    /// How its code reads `config.json`.
    pub(crate) defaults: Defaults,
    /// The network of a checkpoint.
    pub(crate) architecture: fn(&ModelConfig) -> Result<Architecture>,
}

/// All families that can be trained.
pub const FAMILIES: &[Family] = &[
    llama::FAMILY,
    mistral::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    gemma2::FAMILY,
    gemma3_text::FAMILY,
    gemma4_text::FAMILY,
    phi3::FAMILY,
    smollm3::FAMILY,
    olmo2::FAMILY,
    granite::FAMILY,
    stablelm::FAMILY,
    starcoder2::FAMILY,
    mixtral::FAMILY,
    qwen3_moe::FAMILY,
    olmo3::FAMILY,
    olmoe::FAMILY,
    qwen2_moe::FAMILY,
    minimax_m2::FAMILY,
    seed_oss::FAMILY,
    exaone4::FAMILY,
    ernie4_5::FAMILY,
    hunyuan_v1_dense::FAMILY,
    helium::FAMILY,
    internlm3::FAMILY,
    glm::FAMILY,
    glm4::FAMILY,
    ministral3::FAMILY,
    granitemoehybrid::FAMILY,
    apertus::FAMILY,
    lfm2::FAMILY,
    gpt_oss::FAMILY,
    qwen3_5::FAMILY,
    qwen3_5_moe::FAMILY,
    qwen3_next::FAMILY,
    falcon_h1::FAMILY,
    qwen2_5_vl_text::FAMILY,
    qwen3_vl_text::FAMILY,
];

/// The family of this `model_type`, if there is one.
pub fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_type == model_type)
}

/// Reads the `config.json` at `path`.
///
/// # Errors
/// A family that is not in [`FAMILIES`] is refused by name, before any weight is read; so is every value that would be
/// computed wrongly.
#[allow(clippy::disallowed_methods, reason = "the one file of a checkpoint that this room opens")]
pub fn read_config(path: &Path) -> Result<ModelConfig> {
    let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    config_from_json(path, crate::json::in_file(path, &text)?)
}

/// Interprets the content of a `config.json`; `path` is for messages.
///
/// # Errors
/// As [`read_config`].
pub fn config_from_json(path: &Path, raw: Value) -> Result<ModelConfig> {
    let Some(object) = raw.as_object() else {
        return Err(Error::file(path, "not a JSON object"));
    };
    let keys = Keys { path, object };
    let model_type = keys.text("model_type")?.ok_or_else(|| keys.missing("model_type"))?;
    if let Some(wrapper) = wrappers::find(model_type) {
        let text = wrapper.text(&keys)?;
        let mut config = config_from_json(path, text.into())?;
        config.text = Some(std::mem::replace(&mut config.raw, raw));
        config.tree = &wrapper.tree;
        return Ok(config);
    }
    let Some(family) = find(model_type) else {
        let names = FAMILIES.iter().map(|family| family.model_type);
        let names: Vec<_> = names.chain(WRAPPERS.iter().map(|wrapper| wrapper.model_type)).collect();
        return Err(Error::file(path, format!("model_type `{model_type}` is not supported")).with_hint(
            format!(
                "{}; a similar one is not used in its place, as it would train a wrong model. Supported: {}",
                missing::hint(model_type, object),
                names.join(", ")
            ),
        ));
    };
    ModelConfig::from_json(path, raw, &family.defaults)
}

/// The family's description of a checkpoint's network.
///
/// # Errors
/// Values of the configuration that the family's code does not compute.
pub fn architecture(config: &ModelConfig) -> Result<Architecture> {
    match find(&config.model_type) {
        Some(family) => (family.architecture)(config),
        None => Err(Error::config("model_type", format!("`{}` has no family here", config.model_type))),
    }
}

/// `sliding_window` in the layers that `layer_types` names, or else in those that `sliding` says.
fn windows(c: &ModelConfig, sliding: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
    let slides = |i: usize| match &c.layer_types {
        Some(types) => types[i] == LayerType::Sliding,
        None => sliding(i),
    };
    (0..c.num_hidden_layers).map(|i| c.sliding_window.filter(|_| slides(i))).collect()
}

/// Tokens that a short convolution meets.
fn taps(keys: &Keys<'_>, key: &str, usual: usize) -> Result<usize> {
    match keys.optional_size(key)?.unwrap_or(usual) {
        taps if taps <= MOST_TAPS => Ok(taps),
        taps => Err(keys.bad(key, format!("{taps} is more than the {MOST_TAPS} that are supported"))),
    }
}

/// `sliding_window` in every layer, in families whose code does not read `layer_types`.
fn window_everywhere(c: &ModelConfig) -> Vec<Option<usize>> {
    vec![c.sliding_window; c.num_hidden_layers]
}

/// The object with the rotary parameters, under its name in transformers 5 or 4, for what only one family has in it.
fn rotary_parameters(c: &ModelConfig) -> Option<&Value> {
    ["rope_parameters", "rope_scaling"]
        .into_iter()
        .find_map(|key| c.network().get(key).filter(|v| !v.is_null()))
}

/// The rotary embeddings of all layers of a family that has a scaling of its own where no rotary parameters are stated.
fn rope_or(c: &ModelConfig, theta: f64, usual: RopeScaling) -> Rope {
    let stated = rope(c, theta, 1.0);
    match rotary_parameters(c) {
        Some(_) => stated,
        None => Rope { scaling: usual, ..stated },
    }
}

/// Refuses a key that is set to anything but `usual`, for a feature that is not computed.
fn only(c: &ModelConfig, key: &str, usual: &serde_json::Value) -> Result<()> {
    c.with_keys(|keys| match keys.get(key) {
        Some(value) if value != usual => {
            Err(keys.bad(key, format!("{value} is not supported in a {} model ({usual} is)", c.model_type)))
        }
        _ => Ok(()),
    })
}

/// Refuses an activation that the family's code does not apply.
fn only_activation(c: &ModelConfig, usual: Activation) -> Result<()> {
    if c.hidden_act == usual {
        return Ok(());
    }
    let problem = format!("{:?} in a {} model; {usual:?} is implemented", c.hidden_act, c.model_type);
    Err(Error::config("hidden_act", problem))
}

#[cfg(test)]
mod tests;
