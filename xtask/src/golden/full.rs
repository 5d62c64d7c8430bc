//! `full_ft/NAME`: every parameter trained; gradients by name, losses and norms for both decay groupings.

use std::collections::BTreeSet;
use std::ops::Range;

use ferrotune::formats::Checkpoint;
use ferrotune::formats::safetensors::SafeFile;
use ferrotune::load::{BaseStorage, load};
use ferrotune::loss::cross_entropy;
use ferrotune::model::parts::Vector;
use ferrotune::model::{Activations, Decoder, Gradients, ParamId, Params};
use ferrotune::optim::adamw::{AdamW, AdamWConfig};
use ferrotune::optim::{Optimizer, clip};

use super::Report;
use super::fixture::{Batch, Case, Failure, devices, max_abs, relative_l2};
use super::model::pass;

/// The checkpoint's tensors: name, parameter, and the part of it that the tensor is.
fn tensors(model: &Decoder, params: &Params) -> Vec<(String, ParamId, Range<usize>)> {
    let whole = |name: &str| params.find(name).map(|id| (name.to_string(), id, 0..params.get(id).len()));
    let matrices =
        params.names().iter().filter(|n| params.find(n).is_some_and(|id| params.get(id).rows() > 1));
    // The taps of a convolution are a matrix of the parameters.
    let small = model.small_tensors().into_iter().filter_map(|t| match t.values {
        Vector::Trained(id) if params.get(*id).rows() == 1 => Some((t.name, *id, t.part)),
        Vector::Trained(_) | Vector::Frozen(_) => None,
    });
    matrices.filter_map(|n| whole(n)).chain(small).collect()
}

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let model_path = case.json["model"].as_str().ok_or_else(|| Failure("no model".into()))?;
    let model_path = case.shared(model_path)?;
    let inputs = model_path.with_file_name("inputs.safetensors");
    let batch = Batch::read(&inputs)?;
    let checkpoint = Checkpoint::open(&model_path)?;
    let expected = SafeFile::open(&case.path("grads.safetensors"))?;
    let after = SafeFile::open(&case.path("params_step5.safetensors"))?;
    for (_, dev) in devices() {
        for (group, everything) in [("uniform_decay", true), ("trainer_groups", false)] {
            let (model, mut params) = load(&dev, &checkpoint, BaseStorage::Trained, 128)?;
            let decay = case
                .number(&format!("/{group}/weight_decay"))
                .or_else(|_| case.number(&format!("/{group}/optimizer/weight_decay")))?;
            let config = AdamWConfig {
                weight_decay: decay,
                decay_norms_and_biases: everything,
                ..AdamWConfig::default()
            };
            let mut optimizer = AdamW::new(&dev, &params, config);
            let mut grads = Gradients::zeros(&dev, &params);
            let losses = case.numbers(&format!("/{group}/losses"))?;
            let norms = case.numbers(&format!("/{group}/grad_norms"))?;
            for (i, want) in losses.iter().enumerate() {
                grads.clear();
                let pass = pass(&dev, &params, None);
                let (loss, norm) = batch.step(&model, &pass, Activations::Keep, &mut grads)?;
                report.error("losses", (loss - want).abs(), 1e-4);
                report.error("grad_norm", (norm / norms[i] - 1.0).abs(), 1e-4);
                if i == 0 {
                    let mut left: BTreeSet<&str> = expected.iter().map(|(name, _)| name).collect();
                    for (name, id, part) in tensors(&model, &params) {
                        left.remove(name.as_str());
                        let want = expected.f32(&name)?.1;
                        report.error("grads", relative_l2(&grads.get(id).host_f32()[part], &want), 1e-4);
                    }
                    report.error("names", left.len() as f64, 0.0);
                }
                optimizer.step(&dev, &mut params, &grads, 1e-3, clip::factor(norm, 1.0))?;
            }
            for (name, id, part) in tensors(&model, &params) {
                let key = format!("{group}/{name}");
                if after.get(&key).is_some() {
                    // Adam's step where a gradient is near zero is decided by rounding: ten steps at most apart.
                    let (found, want) = (&params.get(id).host_f32()[part], after.f32(&key)?.1);
                    report.error("params_rel", relative_l2(found, &want), 1e-4);
                    report.error("params_all", max_abs(found, &want), 1e-2);
                }
            }
            let pass = pass(&dev, &params, None);
            let x = model.forward(&pass, batch.tokens())?;
            let token = cross_entropy::token_losses(&model, &pass, &x, &batch.packed.targets)?;
            let mean = token.iter().map(|l| *l as f64).sum::<f64>() / token.len() as f64;
            report.error("losses", (mean - case.number(&format!("/{group}/loss_after"))?).abs(), 1e-4);
        }
    }
    Ok(())
}
