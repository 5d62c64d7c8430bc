//! An adapter folded into its base: `W' = W + s B A` and everything else that it changes.

use ferrotune_kernels::Device;
use ferrotune_kernels::quant::Weight;

use crate::lora::Adapter;
use crate::model::Decoder;
use crate::model::parts::{Base, LinearLayer, Vector};
use crate::model::pass::Replaced;
use crate::{Error, Result};

/// Refuses an adapter that no network of the base's form can hold.
pub fn check(model: &Decoder, adapter: &Adapter) -> Result<()> {
    let homeless = |l: &&LinearLayer| {
        let tensor = adapter.adapted.at(l.id)?.needs_bias()?;
        l.bias.is_none().then(|| (l.name.clone(), tensor))
    };
    match model.targets().iter().find_map(homeless) {
        None => Ok(()),
        Some((linear, tensor)) => {
            let problem = format!("`{linear}` has no bias that the adapter's `{tensor}` could be added to");
            Err(Error::config("merge", problem).with_hint("use the adapter beside its base, without merging"))
        }
    }
}

/// The values of a linear's weight with the adapter folded in, row-major f32.
///
/// The base is what the adapter was trained beside: decoded from its blocks if it is quantized. Products and sums are
/// f64, so the result is rounded once.
pub fn merged_weight(linear: &LinearLayer, adapter: Option<&Adapter>) -> Vec<f32> {
    let Base::Frozen(own) = &linear.base else { return Vec::new() };
    let Some(adapter) = adapter else { return decoded(own) };
    let params = &adapter.params;
    if let Some(id) = replaced(adapter, &linear.name).weight {
        return params.get(id).to_vec();
    }
    let mut out = decoded(adapter.changed_base(linear).unwrap_or(own));
    if let Some(adapted) = adapter.adapted.at(linear.id) {
        adapted.fold(params, linear.cols, &mut out);
    }
    out
}

/// The values of a linear's bias with the adapter folded in.
pub(crate) fn merged_bias(linear: &LinearLayer, own: &[f32], adapter: Option<&Adapter>) -> Vec<f32> {
    let Some(adapter) = adapter else { return own.to_vec() };
    let mut out = match replaced(adapter, &linear.name).bias {
        Some(id) => adapter.params.get(id).to_vec(),
        None => own.to_vec(),
    };
    if let Some(adapted) = adapter.adapted.at(linear.id) {
        adapted.fold_bias(&adapter.params, &mut out);
    }
    out
}

/// The values of a norm's tensor or of a bias under its name in the checkpoint, with the adapter folded in.
pub(crate) fn merged_vector(model: &Decoder, name: &str, own: &[f32], adapter: Option<&Adapter>) -> Vec<f32> {
    let Some(adapter) = adapter else { return own.to_vec() };
    let (module, bias) = match name.strip_suffix(".bias") {
        Some(module) => (module, true),
        None => (name.trim_end_matches(".weight"), false),
    };
    if let Some(linear) = model.linears().into_iter().find(|l| bias && l.name == module) {
        return merged_bias(linear, own, Some(adapter));
    }
    let copy = replaced(adapter, module);
    let trained = if bias { copy.bias } else { copy.weight };
    trained.map_or_else(|| own.to_vec(), |id| adapter.params.get(id).to_vec())
}

/// The values of the embedding with the adapter folded in.
pub(crate) fn merged_embedding(model: &Decoder, adapter: Option<&Adapter>) -> Vec<f32> {
    let Base::Frozen(own) = &model.embed else { return Vec::new() };
    let Some(adapter) = adapter else { return decoded(own) };
    let params = &adapter.params;
    if let Some(id) = adapter.adapted.table {
        return params.get(id).to_vec();
    }
    let mut out = decoded(own);
    write_token_rows(adapter, &mut out, model.arch.hidden);
    if let Some(branch) = adapter.adapted.embedding {
        let (a, b) = (params.get(branch.a), params.get(branch.b));
        let (r, v) = (a.rows(), a.cols());
        for (token, row) in out.chunks_exact_mut(model.arch.hidden).enumerate() {
            for (o, b) in row.iter_mut().zip(b.host_f32().chunks_exact(r)) {
                let sum: f64 = (0..r).map(|q| b[q] as f64 * a.host_f32()[q * v + token] as f64).sum();
                *o = (*o as f64 + branch.scale as f64 * sum) as f32;
            }
        }
    }
    out
}

/// Whether the adapter changes only one of embedding and head, which the base keeps as one.
pub(crate) fn unties(model: &Decoder, adapter: Option<&Adapter>) -> bool {
    let changes = |a: &Adapter| {
        let head = replaced(a, &model.head().name).weight;
        let branch = a.adapted.at(model.head().id);
        head.is_some() || branch.is_some() || a.adapted.table.is_some() || a.adapted.embedding.is_some()
    };
    model.lm_head.is_none() && adapter.is_some_and(changes)
}

/// The values of a head that the base keeps as one with the embedding.
pub(crate) fn merged_tied_head(model: &Decoder, adapter: Option<&Adapter>) -> Vec<f32> {
    let mut out = merged_weight(model.head(), adapter);
    if let Some(adapter) = adapter {
        write_token_rows(adapter, &mut out, model.arch.hidden);
    }
    out
}

/// Replaces everything that the adapter changes by its merged values in f32.
pub fn merge_in_place(dev: &Device, model: &mut Decoder, adapter: &Adapter) -> Result<()> {
    check(model, adapter)?;
    let (v, d) = (model.arch.vocab, model.arch.hidden);
    let table = |values: &[f32]| Base::Frozen(Weight::from_f32(v, d, values));
    let vector = |values: Vec<f32>| Vector::Frozen(dev.tensor(1, values.len(), &values));
    let adapted = &adapter.adapted;
    let embedding = adapted.embedding.is_some() || adapted.table.is_some();
    let tokens = adapted.tokens.is_some();
    let branch = adapted.at(model.head().id).is_some();
    let head = tokens || branch || replaced(adapter, &model.head().name).weight.is_some();
    let head = (model.lm_head.is_none() && head).then(|| table(&merged_tied_head(model, Some(adapter))));
    if embedding || tokens {
        model.embed = table(&merged_embedding(model, Some(adapter)));
    }
    if let Some(head) = head {
        model.set_tied_head(head);
    }
    for linear in model.linears_mut() {
        if let Some(Vector::Frozen(own)) = &linear.bias {
            linear.bias = Some(vector(merged_bias(linear, own.host_f32(), Some(adapter))));
        }
        let changed = adapted.at(linear.id).is_some() || replaced(adapter, &linear.name).weight.is_some();
        if changed {
            let merged = merged_weight(linear, Some(adapter));
            linear.base = Base::Frozen(Weight::from_f32(linear.rows, linear.cols, &merged));
        }
    }
    for norm in model.norms_mut() {
        let copy = replaced(adapter, &norm.name);
        if let Some(id) = copy.weight {
            norm.weight = vector(adapter.params.get(id).to_vec());
        }
        if let Some(id) = copy.bias {
            norm.bias = Some(vector(adapter.params.get(id).to_vec()));
        }
    }
    Ok(())
}

fn replaced(adapter: &Adapter, module: &str) -> Replaced {
    adapter.adapted.replaced.get(module).copied().unwrap_or_default()
}

fn write_token_rows(adapter: &Adapter, table: &mut [f32], d: usize) {
    let Some(tokens) = &adapter.adapted.tokens else { return };
    for (id, row) in tokens.ids.iter().zip(adapter.params.get(tokens.rows).host_f32().chunks_exact(d)) {
        table[*id as usize * d..][..d].copy_from_slice(row);
    }
}

fn decoded(weight: &Weight) -> Vec<f32> {
    let mut out = vec![0.0; weight.rows() * weight.cols()];
    weight.decode_flat(0, &mut out);
    out
}
