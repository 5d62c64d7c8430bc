//! Rotary scaling of GGUF files as the `rope_scaling` of a `config.json`.

use serde_json::{Value, json};

use super::file::{GgufFile, as_weight};
use super::metadata::Metadata;
use crate::{Error, Result};

/// Divisors of the rotary frequencies that no scaling type of a `config.json` need express.
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// Divisors for sequences beyond the context of the pre-training, and within it.
const LONG_FACTORS: &str = "rope_factors_long.weight";
const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// Whether the tensor is a table of the rotation and not a weight.
pub(super) fn is_table(name: &str) -> bool {
    [FACTORS, LONG_FACTORS, SHORT_FACTORS].contains(&name) || name.ends_with(".attn_rot_embd")
}

/// Divisors of the `dims / 2` frequencies, if the file has a tensor of this name.
pub(super) fn factors(file: &GgufFile, name: &str, dims: u64) -> Result<Option<Vec<f32>>> {
    let Some(info) = file.tensors().get(name) else { return Ok(None) };
    let refuse = |problem: String| Error::tensor(file.path(), name, problem);
    if info.shape.len() != 1 || info.shape[0] as u64 != dims / 2 {
        return Err(refuse(format!("shape is {:?}, expected [{}]", info.shape, dims / 2)));
    }
    let len = info.shape[0];
    let mut values = vec![0.0; len];
    as_weight(info.kind, 1, len, file.bytes(info))?.decode(0, 0, &mut values);
    match values.iter().find(|v| !v.is_finite() || **v <= 0.0) {
        Some(bad) => Err(refuse(format!("factor {bad} is not a positive number"))),
        None => Ok(Some(values)),
    }
}

/// The `rope_scaling` that the metadata and the two tables of long rope state.
pub(super) fn scaling(meta: &Metadata<'_>, dims: u64) -> Result<Value> {
    let original = meta.unsigned("rope.scaling.original_context_length")?;
    let stated = meta.float("rope.scaling.attn_factor")?;
    let long = factors(meta.file, LONG_FACTORS, dims)?;
    let short = factors(meta.file, SHORT_FACTORS, dims)?;
    if long.is_some() != short.is_some() {
        let (there, missing) =
            if long.is_some() { (LONG_FACTORS, SHORT_FACTORS) } else { (SHORT_FACTORS, LONG_FACTORS) };
        return Err(Error::tensor(meta.file.path(), missing, format!("missing beside `{there}`")));
    }
    if let (Some(long), Some(short)) = (long, short) {
        let context = meta.need("context_length")? as f64;
        let original = original.ok_or_else(|| meta.missing("rope.scaling.original_context_length"))? as f64;
        let usual =
            if context <= original { 1.0 } else { (1.0 + (context / original).ln() / original.ln()).sqrt() };
        let mut scaling =
            json!({"type": "longrope", "short_factor": decimals(&short), "long_factor": decimals(&long)});
        // Phi 3's configuration may have these three keys only; the factor follows from the two contexts.
        if let Some(other) = stated.filter(|f| (f / usual - 1.0).abs() > 1e-6) {
            scaling["attention_factor"] = other.into();
        }
        return Ok(scaling);
    }
    Ok(match meta.text("rope.scaling.type")? {
        None | Some("none") => Value::Null,
        Some(kind) => {
            let attention = meta.float("rope.scaling.yarn_attn_factor")?.or(stated);
            let mut scaling = json!({"rope_type": kind, "factor": meta.float("rope.scaling.factor")?});
            for (key, value) in [
                ("attention_factor", attention),
                ("beta_fast", meta.float("rope.scaling.yarn_beta_fast")?),
                ("beta_slow", meta.float("rope.scaling.yarn_beta_slow")?),
                ("original_max_position_embeddings", original.map(|n| n as f64)),
            ] {
                match value {
                    Some(n) if n.fract() == 0.0 => scaling[key] = (n as u64).into(),
                    Some(n) => scaling[key] = n.into(),
                    None => {}
                }
            }
            scaling
        }
    })
}

/// The decimal numbers that were meant: 1.1, not the f32 next to it.
fn decimals(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| v.to_string().parse().unwrap_or(*v as f64)).collect()
}

/// The `rope_scaling` that gives the factors of [`FACTORS`], for the `config.json` of a merged model.
///
/// Converters make them from Llama 3's scaling, whose four numbers are the same in all its models but for the factor.
/// Anything else gets a type that no other reader knows, so that it is refused and not ignored.
pub(super) fn scaling_of(factors: &[f32], raw: &Value) -> Value {
    let theta = raw["rope_theta"].as_f64().unwrap_or(10000.0);
    let (low, high, original) = (1.0, 4.0, 8192.0);
    for factor in [8.0, 32.0] {
        let alike = factors.iter().enumerate().all(|(i, &found)| {
            let wavelength = std::f64::consts::TAU * theta.powf(i as f64 / factors.len() as f64);
            let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            let expected = 1.0 / ((1.0 - smooth) / factor + smooth);
            (found as f64 / expected - 1.0).abs() < 1e-4
        });
        if alike {
            return json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                          "high_freq_factor": high, "original_max_position_embeddings": original as u64});
        }
    }
    json!({"rope_type": "factors", "factors": factors})
}
