//! `models/NAME`: logits, token losses, adapter gradients by name, five steps, merged weights, greedy tokens.

use std::path::Path;

use ferrotune::arch::architecture::Stacked;
use ferrotune::arch::families;
use ferrotune::formats::Checkpoint;
use ferrotune::formats::safetensors::SafeFile;
use ferrotune::generate::{Engine, Sampling, Stop};
use ferrotune::load::{BaseStorage, load};
use ferrotune::lora::{Adapter, peft};
use ferrotune::loss::cross_entropy;
use ferrotune::merge::merged_weight;
use ferrotune::model::{Activations, Adapted, Decoder, Gradients, Params, Pass};
use ferrotune::optim::adamw::{AdamW, AdamWConfig};
use ferrotune::optim::{Optimizer, clip};
use ferrotune_kernels::Device;

use super::Report;
use super::fixture::{Batch, Case, F32, Failure, devices, max_abs, relative_l2};

const PREFIX: &str = "base_model.model.";

/// A pass without dropout.
pub(super) fn pass<'a>(dev: &'a Device, params: &'a Params, adapted: Option<&'a Adapted>) -> Pass<'a> {
    Pass { dev, precision: F32, params, adapted, dropout: None }
}

/// The adapter of a PEFT folder.
pub(super) fn adapter(dev: &Device, model: &Decoder, folder: &Path) -> Result<Adapter, Failure> {
    Ok(peft::load(dev, folder, model)?)
}

/// Logits of every token, written where they stood in the padded batch.
pub(super) fn padded_logits(
    model: &Decoder,
    pass: &Pass<'_>,
    batch: &Batch,
    rows: usize,
) -> Result<Vec<f32>, Failure> {
    let x = model.forward(pass, batch.tokens())?;
    let all: Vec<u32> = (0..batch.packed.targets.len() as u32).collect();
    let logits = model.logits(pass, &x, &all)?;
    let vocab = model.arch.vocab;
    let mut out = vec![0.0; rows * vocab];
    for (place, row) in batch.places.iter().zip(logits.host_f32().chunks_exact(vocab)) {
        out[place * vocab..][..vocab].copy_from_slice(row);
    }
    Ok(out)
}

/// The limit on logits: `2e-5` of the largest, `2e-4` at most.
pub(crate) fn logits_limit(expected: &[f32]) -> f64 {
    (2e-5 * expected.iter().fold(0.0f32, |m, v| m.max(v.abs())) as f64).min(2e-4)
}

/// The merged matrix of an expert's linear, out of the stacked tensor; `None` if it is not there.
fn stacked(merged: &SafeFile, name: &str, held: Option<Stacked>) -> Result<Option<Vec<f32>>, Failure> {
    let parts: Vec<&str> = name.split('.').collect();
    let [.., layer, _, "experts", expert, linear] = parts.as_slice() else {
        // The router's module has another name in transformers 5 than in files.
        let router = name.replace("block_sparse_moe", "mlp");
        return Ok(merged.f32(&format!("{router}.weight")).ok().map(|(_, values)| values));
    };
    let expert: usize = expert.parse().map_err(|_| Failure(format!("{name} has no number")))?;
    let (parameter, half) = match *linear {
        "w1" | "gate_proj" => ("gate_up_proj", Some(0)),
        "w3" | "up_proj" => ("gate_up_proj", Some(1)),
        _ => ("down_proj", None),
    };
    let Ok((shape, values)) = merged.f32(&format!("model.layers.{layer}.mlp.experts.{parameter}")) else {
        return Ok(None);
    };
    let size = shape[1] * shape[2];
    let own = &values[expert * size..][..size];
    if held == Some(Stacked::Columns) {
        let (inputs, outputs) = (shape[1], shape[2]);
        let (first, step) = half.map_or((0, 1), |h| (h, 2));
        let row = |out: usize| (0..inputs).map(move |k| own[k * outputs + out]);
        return Ok(Some((first..outputs).step_by(step).flat_map(row).collect()));
    }
    Ok(Some(half.map_or(own, |h| &own[h * size / 2..][..size / 2]).to_vec()))
}

fn check_losses(
    model: &Decoder,
    pass: &Pass<'_>,
    batch: &Batch,
    expected: &[f32],
    mean: f64,
    report: &mut Report,
) -> Result<(), Failure> {
    let x = model.forward(pass, batch.tokens())?;
    let losses = cross_entropy::token_losses(model, pass, &x, &batch.packed.targets)?;
    let supervised =
        batch.places.iter().zip(&batch.packed.targets).filter(|(_, t)| **t >= 0).map(|(p, _)| *p);
    let wanted: Vec<f32> = supervised.map(|p| expected[p]).collect();
    report.error("token_loss", max_abs(&losses, &wanted), 2e-5);
    let sum: f64 = losses.iter().map(|l| *l as f64).sum();
    report.error("loss", (sum / losses.len() as f64 - mean).abs(), 1e-5);
    Ok(())
}

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let batch = Batch::read(&case.path("inputs.safetensors"))?;
    let checkpoint = Checkpoint::open(&case.path("model"))?;
    for (device, dev) in devices() {
        let (model, none) = load(&dev, &checkpoint, BaseStorage::AsStored, 128)?;
        check_base(case, &model, &pass(&dev, &none, None), &batch, report)?;
        check_adapter(case, &dev, &model, &batch, report)?;
        // Greedy tokens and both activation policies are slow on the plain loops and prove nothing more there.
        if device != "reference" {
            check_generation(case, &dev, &model, &none, report)?;
        }
    }
    check_v4_config(case, report)
}

fn check_base(
    case: &Case,
    model: &Decoder,
    pass: &Pass<'_>,
    batch: &Batch,
    report: &mut Report,
) -> Result<(), Failure> {
    let base = SafeFile::open(&case.path("base.safetensors"))?;
    let (shape, logits) = base.f32("logits")?;
    let found = padded_logits(model, pass, batch, shape[0] * shape[1])?;
    report.error("logits", max_abs(&found, &logits), logits_limit(&logits));
    check_losses(model, pass, batch, &base.f32("token_loss")?.1, case.number("/loss/base")?, report)
}

fn check_adapter(
    case: &Case,
    dev: &Device,
    model: &Decoder,
    batch: &Batch,
    report: &mut Report,
) -> Result<(), Failure> {
    let lora = SafeFile::open(&case.path("lora.safetensors"))?;
    let (shape, logits) = lora.f32("logits")?;
    let adapter = adapter(dev, model, &case.path("adapter"))?;
    {
        let pass = pass(dev, &adapter.params, Some(&adapter.adapted));
        let found = padded_logits(model, &pass, batch, shape[0] * shape[1])?;
        report.error("lora_logits", max_abs(&found, &logits), logits_limit(&logits));
        check_losses(model, &pass, batch, &lora.f32("token_loss")?.1, case.number("/loss/lora")?, report)?;
    }
    let merged = SafeFile::open(&case.path("merged_layer0.safetensors"))?;
    for linear in model.linears().into_iter().filter(|l| l.name.contains(".layers.0.")) {
        let found = merged_weight(linear, Some(&adapter));
        let expected = match merged.f32(&format!("{}.weight", linear.name)) {
            Ok((_, expected)) => expected,
            // Experts are one tensor there; where its layout is not kept, the logits must do.
            Err(missing) => {
                match stacked(&merged, &linear.name, model.arch.experts.as_ref().map(|e| e.stacked))? {
                    Some(expected) => expected,
                    None if adapter.adapted.at(linear.id).is_none() || linear.name.contains(".experts.") => {
                        continue;
                    }
                    None => return Err(missing.into()),
                }
            }
        };
        report.error("merged", max_abs(&found, &expected), 1e-5);
    }
    let expected = SafeFile::open(&case.path("lora_grads.safetensors"))?;
    let step1 = SafeFile::open(&case.path("adapter_step1.safetensors"))?;
    let step5 = SafeFile::open(&case.path("adapter_step5.safetensors"))?;
    let lr = case.number("/optimizer/lr")?;
    for policy in [Activations::Keep, Activations::Lean, Activations::Recompute] {
        let mut trained = self::adapter(dev, model, &case.path("adapter"))?;
        let losses =
            train(case, dev, model, &mut trained, batch, policy, report, |step, adapter, grads, report| {
                if step == 0 {
                    for (name, _, found) in adapter.tensors(&|id| grads.get(id)) {
                        let (_, want) = expected.f32(&format!("{PREFIX}{name}"))?;
                        report.error("grads", relative_l2(&found, &want), 1e-4);
                    }
                }
                let Some(file) =
                    [(0, &step1), (4, &step5)].into_iter().find(|(s, _)| *s == step).map(|(_, f)| f)
                else {
                    return Ok(());
                };
                let (mut small, mut outliers, mut total) = (0.0f64, 0usize, 0usize);
                for (name, _, value) in adapter.tensors(&|id| adapter.params.get(id)) {
                    let (_, want) = file.f32(&format!("{PREFIX}{name}"))?;
                    let (_, gradient) = expected.f32(&format!("{PREFIX}{name}"))?;
                    for ((found, want), gradient) in value.iter().zip(&want).zip(&gradient) {
                        let d = (*found as f64 - *want as f64).abs();
                        if step == 0 && gradient.abs() > 1e-6 {
                            report.error("step1", d, 1e-5);
                        }
                        small = small.max(d);
                        total += 1;
                        outliers += (d > 2e-5) as usize;
                    }
                }
                if step == 0 {
                    report.error("step1_all", small, 2.0 * lr);
                } else {
                    report.error("step5_all", small, 10.0 * lr);
                    report.error("step5_outliers", outliers as f64 / total as f64, 1e-3);
                }
                Ok(())
            })?;
        report.error("loss_step1", (losses[0] - case.numbers("/train/losses")?[0]).abs(), 1e-5);
    }
    Ok(())
}

/// The reference loop: mean loss, clip, AdamW, the same batch in every step. Compares losses and norms.
#[allow(clippy::too_many_arguments)]
fn train(
    case: &Case,
    dev: &Device,
    model: &Decoder,
    adapter: &mut Adapter,
    batch: &Batch,
    policy: Activations,
    report: &mut Report,
    mut after: impl FnMut(usize, &Adapter, &Gradients, &mut Report) -> Result<(), Failure>,
) -> Result<Vec<f64>, Failure> {
    let config = AdamWConfig {
        weight_decay: case.number("/optimizer/weight_decay")?,
        decay_norms_and_biases: true,
        ..AdamWConfig::default()
    };
    let (lr, max_norm) = (case.number("/optimizer/lr")?, case.number("/optimizer/max_grad_norm")?);
    let (losses, norms) = (case.numbers("/train/losses")?, case.numbers("/train/grad_norms")?);
    let mut optimizer = AdamW::new(dev, &adapter.params, config);
    let mut grads = Gradients::zeros(dev, &adapter.params);
    let mut found = Vec::new();
    for step in 0..losses.len() {
        grads.clear();
        let pass = pass(dev, &adapter.params, Some(&adapter.adapted));
        let (loss, norm) = batch.step(model, &pass, policy, &mut grads)?;
        report.error("losses", (loss - losses[step]).abs(), 1e-4);
        report.error("grad_norm", (norm / norms[step] - 1.0).abs(), 1e-4);
        found.push(loss);
        optimizer.step(dev, &mut adapter.params, &grads, lr, clip::factor(norm, max_norm))?;
        after(step, adapter, &grads, report)?;
    }
    let pass = pass(dev, &adapter.params, Some(&adapter.adapted));
    let x = model.forward(&pass, batch.tokens())?;
    let losses = cross_entropy::token_losses(model, &pass, &x, &batch.packed.targets)?;
    let mean = losses.iter().map(|l| *l as f64).sum::<f64>() / losses.len() as f64;
    report.error("losses", (mean - case.number("/train/loss_after")?).abs(), 1e-4);
    Ok(found)
}

fn check_generation(
    case: &Case,
    dev: &Device,
    model: &Decoder,
    none: &Params,
    report: &mut Report,
) -> Result<(), Failure> {
    let ids = |pointer: &str| {
        Ok::<_, Failure>(case.numbers(pointer)?.into_iter().map(|v| v as u32).collect::<Vec<_>>())
    };
    let prompt = ids("/generation/prompt_ids")?;
    let stop = Stop { max_new: case.number("/generation/max_new_tokens")? as usize, ids: vec![] };
    let adapter = adapter(dev, model, &case.path("adapter"))?;
    for (name, pass) in
        [("base", pass(dev, none, None)), ("lora", pass(dev, &adapter.params, Some(&adapter.adapted)))]
    {
        let mut engine = Engine::new(model, &pass, 1, 64);
        let logits = engine.prefill(&pass, 0, &prompt)?;
        let found = engine.stream(&pass, logits, Sampling::GREEDY, &stop, |_| true)?;
        let wrong = found != ids(&format!("/generation/{name}"))?;
        report.error("greedy", wrong as u8 as f64, 0.0);
    }
    Ok(())
}

/// The same checkpoint with its configuration in transformers 4's spelling.
fn check_v4_config(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let five = Checkpoint::open(&case.path("model"))?;
    let four = families::read_config(&case.path("config_v4.json"))?;
    let same = families::architecture(&four)? == families::architecture(five.config())?;
    report.error("config_v4", !same as u8 as f64, 0.0);
    Ok(())
}
