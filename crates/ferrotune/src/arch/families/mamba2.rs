//! What configurations say of Mamba-2.

use ferrotune_kernels::ops::ssd::Heads;
use serde_json::Value;

use super::taps;
use crate::Result;
use crate::arch::architecture::{Mamba2, Mamba2Norm};
use crate::arch::config::Keys;

/// The layers of families that took over Bamba's keys, `width` values wide; without biases of the projections.
pub(super) fn sizes(keys: &Keys<'_>, width: usize, norm: Mamba2Norm) -> Result<Mamba2> {
    let size = |key: &str, usual| Ok::<_, crate::Error>(keys.optional_size(key)?.unwrap_or(usual));
    let count = size("mamba_n_heads", 128)?;
    const DIM: &str = "mamba_d_head";
    let head_dim = match keys.get(DIM) {
        Some(Value::String(auto)) if auto == "auto" => None,
        _ => keys.optional_size(DIM)?,
    };
    let head_dim = head_dim.unwrap_or(width / count);
    if count.checked_mul(head_dim) != Some(width) {
        let problem = format!("{count} heads of {head_dim} are not the {width} values of the layer");
        return Err(keys.bad("mamba_n_heads", problem));
    }
    let heads =
        Heads { groups: size("mamba_n_groups", 1)?, count, state_dim: size("mamba_d_state", 256)?, head_dim };
    check_groups(keys, "mamba_n_groups", heads)?;
    Ok(Mamba2 {
        module: "mamba",
        heads,
        taps: taps(keys, "mamba_d_conv", 4)?,
        conv_bias: keys.flag("mamba_conv_bias")?.unwrap_or(true),
        bias: [false; 2],
        factors: [1.0; 5],
        scale: 1.0,
        limits: limits(keys, "time_step_limit")?,
        norm,
    })
}

/// Refuses groups that do not divide the heads.
pub(super) fn check_groups(keys: &Keys<'_>, key: &str, heads: Heads) -> Result<()> {
    if heads.count.is_multiple_of(heads.groups) {
        return Ok(());
    }
    Err(keys.bad(key, format!("{} groups do not divide {} heads", heads.groups, heads.count)))
}

/// The least and the largest step; `null` and absence are no limits.
pub(super) fn limits(keys: &Keys<'_>, key: &str) -> Result<[f32; 2]> {
    let Some(value) = keys.get(key) else { return Ok([0.0, f32::INFINITY]) };
    let number = |v: &Value| match v["__float__"].as_str() {
        // How transformers writes what is no number of JSON.
        Some("Infinity") => Some(f32::INFINITY),
        _ => v.as_f64().map(|v| v as f32),
    };
    let both: Option<Vec<f32>> = value.as_array().and_then(|list| list.iter().map(number).collect());
    match both.as_deref() {
        Some(&[least, most]) if (0.0..=most).contains(&least) => Ok([least, most]),
        _ => Err(keys.bad(key, format!("{value} is not a least and a largest step"))),
    }
}
