//! Falcon-H1: in every layer attention and Mamba-2 side by side, and a factor at every turn.

use ferrotune_kernels::ops::activation::Activation;
use ferrotune_kernels::ops::softmax_xent::Logits;

use super::{Family, mamba2, only_activation};
use crate::Result;
use crate::arch::architecture::{Architecture, LayerNorms, Mamba2, Mamba2Norm, Mixing, MlpKind};
use crate::arch::config::{Defaults, Keys, LayerType, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "falcon_h1",
    defaults: Defaults { norm_eps: 1e-5, layer_types: &[LayerType::Hybrid], ..Defaults::COMMON },
    architecture,
};

/// Factors of a linear's input are factors of its output here, which is the same without a bias.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only_activation(c, Activation::Silu)?;
    c.with_keys(|keys| {
        let factor = |key: &str| Ok::<_, crate::Error>(keys.positive(key)?.unwrap_or(1.0) as f32);
        let attention_in = factor("attention_in_multiplier")?;
        if c.attention_bias && attention_in != 1.0 {
            let problem = format!("{attention_in} is not supported beside `attention_bias` (1.0 is)");
            return Err(keys.bad("attention_in_multiplier", problem));
        }
        let [gate, down] = factors(keys, "mlp_multipliers")?;
        let common = Architecture::common(c);
        Ok(Architecture {
            norms: LayerNorms { before_mlp: Some("pre_ff_layernorm"), ..LayerNorms::BEFORE },
            final_norm: "final_layernorm",
            mixers: vec![Mixing::AttentionAndMamba2(state_space(c, keys)?); c.num_hidden_layers],
            mlp: MlpKind::Gated(["feed_forward.gate_proj", "feed_forward.up_proj", "feed_forward.down_proj"]),
            gate_scale: gate,
            mlp_scale: down,
            // q and k have that of the input each.
            score_scale: common.score_scale * attention_in * attention_in * factor("key_multiplier")?,
            attention_scale: attention_in * factor("attention_out_multiplier")?,
            embed_scale: factor("embedding_multiplier")?,
            logits: Logits { scale: factor("lm_head_multiplier")?, cap: None },
            without_branches: &["out_proj"],
            ..common
        })
    })
}

fn state_space(c: &ModelConfig, keys: &Keys<'_>) -> Result<Mamba2> {
    let factor = |key: &str| Ok::<_, crate::Error>(keys.positive(key)?.unwrap_or(1.0) as f32);
    let width = match keys.has("mamba_d_ssm") {
        true => keys.optional_size("mamba_d_ssm")?,
        false => Some(1024),
    };
    let width = match width {
        Some(width) => width,
        None => keys.optional_size("mamba_expand")?.unwrap_or(2) * c.hidden_size,
    };
    let flag = |key: &str, usual| Ok::<_, crate::Error>(keys.flag(key)?.unwrap_or(usual));
    let norm = match (flag("mamba_rms_norm", false)?, flag("mamba_norm_before_gate", true)?) {
        (false, _) => Mamba2Norm::None,
        (true, true) => Mamba2Norm::BeforeGate,
        (true, false) => Mamba2Norm::AfterGate,
    };
    let bias = [flag("mamba_proj_bias", false)?, flag("projectors_bias", false)?];
    let input = factor("ssm_in_multiplier")?;
    if bias[0] && input != 1.0 {
        let problem = format!("{input} is not supported beside `mamba_proj_bias` (1.0 is)");
        return Err(keys.bad("ssm_in_multiplier", problem));
    }
    let factors = factors(keys, "ssm_multipliers")?.map(|f| f * input);
    let scale = factor("ssm_out_multiplier")?;
    Ok(Mamba2 { bias, factors, scale, ..mamba2::sizes(keys, width, norm)? })
}

/// As many factors as are asked for; ones if they are not stated.
fn factors<const N: usize>(keys: &Keys<'_>, key: &str) -> Result<[f32; N]> {
    match keys.positives(key)? {
        None => Ok([1.0; N]),
        Some(list) => {
            let found = list.len();
            list.try_into().map_err(|_| keys.bad(key, format!("{found} factors, expected {N}")))
        }
    }
}
