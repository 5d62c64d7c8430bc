//! `variants/NAME`: an adapter of every kind that PEFT's LoRA has; logits, gradients by name, three steps, and what was
//! written back. Where the start changes base weights: the start itself, what is left of the weights, and the trained
//! adapter turned into a plain one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use ferrotune::formats::Checkpoint;
use ferrotune::formats::adapter::{AdapterConfig, AdapterFile, CONFIG_FILE, PREFIX};
use ferrotune::formats::safetensors::SafeFile;
use ferrotune::load::{BaseStorage, load};
use ferrotune::lora::{Adapter, Init, Targets, peft};
use ferrotune::loss::cross_entropy;
use ferrotune::merge;
use ferrotune::model::{Activations, Decoder, Gradients, Params};
use ferrotune::optim::adamw::{AdamW, AdamWConfig, LoraPlus};
use ferrotune::optim::{Optimizer, clip};
use ferrotune_kernels::Device;
use serde_json::Value;

use super::Report;
use super::fixture::{Batch, Case, Failure, devices, max_abs, relative_l2};
use super::model::{logits_limit, padded_logits, pass};

/// A case with what all its checks read.
struct Variant<'a> {
    case: &'a Case,
    batch: Batch,
    logits: SafeFile,
    grads: SafeFile,
    /// Whether the start changed base weights, so that signs of its vectors are free.
    moved: bool,
}

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let text = |key: &str| case.json[key].as_str().ok_or_else(|| Failure(format!("no {key}")));
    let path = case.shared(text("model")?)?;
    let checkpoint = Checkpoint::open(&path)?;
    let variant = Variant {
        case,
        batch: Batch::read(&path.with_file_name("inputs.safetensors"))?,
        logits: SafeFile::open(&case.path("logits.safetensors"))?,
        grads: SafeFile::open(&case.path("grads.safetensors"))?,
        moved: text("compare")?.starts_with("products"),
    };
    for (device, dev) in devices() {
        let (mut model, none) = load(&dev, &checkpoint, BaseStorage::AsStored, 64)?;
        let trained = if variant.moved {
            variant.check_start(&dev, &model, report)?
        } else {
            peft::load(&dev, &case.path("adapter"), &model)?
        };
        let trained = variant.train(&dev, &model, trained, report)?;
        variant.check_trained(&dev, &model, &trained, report)?;
        variant.check_written(&dev, &model, &trained, report)?;
        if device == "reference" {
            continue;
        }
        // Merged weights make the same logits without an adapter, if there is a place for all of them.
        merge::merge_in_place(&dev, &mut model, &trained)?;
        variant.check_logits("merged_logits", "logits_after", &model, &pass(&dev, &none, None), report)?;
    }
    Ok(())
}

impl Variant<'_> {
    /// The first twelve positions of both rows.
    fn check_logits(
        &self,
        kind: &str,
        expected: &str,
        model: &Decoder,
        pass: &ferrotune::model::Pass<'_>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let (shape, logits) = self.logits.f32(expected)?;
        let found = padded_logits(model, pass, &self.batch, shape[0] * self.batch.width)?;
        let (row, vocab) = (self.batch.width * shape[2], shape[2]);
        let found: Vec<f32> = found.chunks_exact(row).flat_map(|r| &r[..shape[1] * vocab]).copied().collect();
        report.error(kind, max_abs(&found, &logits), logits_limit(&logits).max(2e-5));
        Ok(())
    }

    /// Our own start against the stored one; then the stored factors beside our own base.
    fn check_start(&self, dev: &Device, model: &Decoder, report: &mut Report) -> Result<Adapter, Failure> {
        let path = self.case.path("adapter_step3").join(CONFIG_FILE);
        let json = serde_json::from_slice(&std::fs::read(&path)?)?;
        let stored = AdapterConfig::from_json(&path, &json)?;
        let mut config = stored.lora;
        if let Some(n) = self.case.json.pointer("/lora_config/loftq_config/loftq_iter") {
            let iterations = n.as_u64().unwrap_or(0) as usize;
            let same = config.init == Init::Loftq && config.loftq_iterations == iterations;
            report.error("config", !same as u8 as f64, 0.0);
            (config.init, config.loftq_iterations) = (Init::Loftq, iterations);
        }
        let mut adapter = Adapter::init(dev, model, config, 0)?;
        let file = AdapterFile::read(&self.case.path("adapter"))?;
        let found = products(&adapter.params);
        let residual = SafeFile::open(&self.case.path("residual_layer0.safetensors"))?;
        for linear in model.linears() {
            let key = format!("{}.weight", linear.name);
            if residual.get(&key).is_some() {
                let weight =
                    adapter.changed_base(linear).ok_or_else(|| Failure(format!("{key} is unchanged")))?;
                let mut values = vec![0.0; linear.rows * linear.cols];
                weight.decode_flat(0, &mut values);
                report.error("residual", max_abs(&values, &residual.f32(&key)?.1), 1e-5);
            }
        }
        for name in adapter.params.names().to_vec() {
            let id = adapter.params.find(&name).ok_or_else(|| Failure(name.clone()))?;
            let tensor = file.get(&name).ok_or_else(|| Failure(format!("no {name} in the adapter")))?;
            adapter.params.get_mut(id).host_f32_mut().copy_from_slice(&tensor.values);
        }
        for ((name, found), (_, want)) in found.iter().zip(products(&adapter.params)) {
            report.error("start", max_abs(found, &want), 1e-5);
            if found.is_empty() {
                return Err(Failure(format!("{name} has no product")));
            }
        }
        Ok(adapter)
    }

    /// Learning rate and constants, as the generators of the fixtures have them.
    fn optimizer(&self) -> (f64, AdamWConfig) {
        let given = |key: &str| self.case.json.pointer(&format!("/loraplus/{key}")).and_then(Value::as_f64);
        let plus = |lr: f64, ratio, embedding: f64| {
            let loraplus = Some(LoraPlus { ratio, embedding: embedding / lr });
            (lr, AdamWConfig { loraplus, ..AdamWConfig::default() })
        };
        match (given("lr"), given("loraplus_lr_ratio"), given("loraplus_lr_embedding")) {
            (Some(lr), Some(ratio), Some(embedding)) => plus(lr, ratio, embedding),
            _ if self.case.json["case"] == "variants/loraplus" => plus(2e-4, 16.0, 1e-6),
            _ => {
                let decay = AdamWConfig { weight_decay: 0.01, ..AdamWConfig::default() };
                (1e-3, AdamWConfig { decay_norms_and_biases: true, ..decay })
            }
        }
    }

    /// Three steps of the reference loop.
    fn train(
        &self,
        dev: &Device,
        model: &Decoder,
        mut adapter: Adapter,
        report: &mut Report,
    ) -> Result<Adapter, Failure> {
        self.check_logits(
            "logits",
            "logits",
            model,
            &pass(dev, &adapter.params, Some(&adapter.adapted)),
            report,
        )?;
        let (lr, config) = self.optimizer();
        let (losses, norms) = (self.case.numbers("/losses")?, self.case.numbers("/grad_norms")?);
        let mut optimizer = AdamW::new(dev, &adapter.params, config);
        let mut grads = Gradients::zeros(dev, &adapter.params);
        for (step, want) in losses.iter().enumerate() {
            let policies: &[Activations] = match step {
                0 => &[Activations::Recompute, Activations::Lean, Activations::Keep],
                _ => &[Activations::Keep],
            };
            let mut norm = 0.0;
            for policy in policies {
                grads.clear();
                let pass = pass(dev, &adapter.params, Some(&adapter.adapted));
                let (loss, found) = self.batch.step(model, &pass, *policy, &mut grads)?;
                norm = found;
                report.error("losses", (loss - want).abs(), if step == 0 { 1e-5 } else { 1e-4 });
                report.error("grad_norm", (norm / norms[step] - 1.0).abs(), 1e-4);
                if step == 0 {
                    self.check_gradients(&adapter.params, &grads, report)?;
                }
            }
            optimizer.step(dev, &mut adapter.params, &grads, lr, clip::factor(norm, 1.0))?;
        }
        Ok(adapter)
    }

    fn check_gradients(
        &self,
        params: &Params,
        grads: &Gradients,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let trained = self.grads.iter().count();
        report.error("names", (trained as f64 - params.len() as f64).abs(), 0.0);
        for (name, _) in params.iter() {
            let id = params.find(name).ok_or_else(|| Failure(name.into()))?;
            let (_, want) = self.grads.f32(&format!("{PREFIX}{name}"))?;
            report.error("grads", relative_l2(grads.get(id).host_f32(), &want), 1e-4);
        }
        Ok(())
    }

    /// What three steps made of it.
    fn check_trained(
        &self,
        dev: &Device,
        model: &Decoder,
        adapter: &Adapter,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let pass = pass(dev, &adapter.params, Some(&adapter.adapted));
        self.check_logits("logits_after", "logits_after", model, &pass, report)?;
        let x = model.forward(&pass, self.batch.tokens())?;
        let losses = cross_entropy::token_losses(model, &pass, &x, &self.batch.packed.targets)?;
        let mean = losses.iter().map(|l| *l as f64).sum::<f64>() / losses.len() as f64;
        report.error("losses", (mean - self.case.number("/loss_after")?).abs(), 1e-4);

        let expected = AdapterFile::read(&self.case.path("adapter_step3"))?;
        let (lr, config) = self.optimizer();
        let lr = lr * config.loraplus.map_or(1.0, |l| l.ratio);
        let (mut outliers, mut total) = (0usize, 0usize);
        for (name, value) in adapter.params.iter() {
            let want = expected.get(name).ok_or_else(|| Failure(format!("no {name} in adapter_step3")))?;
            for (found, want) in value.host_f32().iter().zip(&want.values) {
                let d = (*found as f64 - *want as f64).abs();
                report.error("step3_all", d, 6.0 * lr);
                outliers += (d > 2e-5) as usize;
                total += 1;
            }
        }
        report.error("step3_outliers", outliers as f64 / total as f64, 1e-3);
        Ok(())
    }

    /// Written and read again it computes the same; its names and keys are PEFT's.
    fn check_written(
        &self,
        dev: &Device,
        model: &Decoder,
        adapter: &Adapter,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let scratch = Scratch::new()?;
        let folder = scratch.0.join("adapter");
        peft::save(&folder, adapter, model, "base")?;
        let reference = self.case.path("adapter_step3");
        let (ours, theirs) = (AdapterFile::read(&folder)?, AdapterFile::read(&reference)?);
        // PEFT stores frozen weights of a targeted embedding or head as well.
        let kept = theirs.tensors.iter().filter(|t| !t.name.ends_with(".base_layer.weight"));
        let shape = |t: &ferrotune::formats::adapter::AdapterTensor| (t.name.clone(), t.shape.clone());
        let same = ours.tensors.iter().map(shape).eq(kept.map(shape));
        report.error("names", !same as u8 as f64, 0.0);
        let (mut a, mut b) = (ours.config, theirs.config);
        for c in [&mut a, &mut b] {
            c.base_model_name_or_path = None;
            // Targets and defaults have more than one spelling.
            c.lora.targets = Targets::AllLinear;
        }
        report.error("config", (a != b) as u8 as f64, 0.0);

        for (kind, folder) in [("reloaded", &folder), ("reloaded", &reference)] {
            let again = peft::load(dev, folder, model)?;
            let pass = pass(dev, &again.params, Some(&again.adapted));
            self.check_logits(kind, "logits_after", model, &pass, report)?;
        }
        // PEFT does not convert every combination.
        if self.case.json.pointer("/extra_files/adapter_converted~1").is_none() {
            return Ok(());
        }
        let plain = adapter.converted(dev, model)?.ok_or_else(|| Failure("nothing to convert".into()))?;
        let theirs = peft::load(dev, &self.case.path("adapter_converted"), model)?;
        let same = plain.config.rank == theirs.config.rank
            && (plain.config.alpha - theirs.config.alpha).abs() < 1e-9 * theirs.config.alpha;
        report.error("config", !same as u8 as f64, 0.0);
        for plain in [plain, theirs] {
            let pass = pass(dev, &plain.params, Some(&plain.adapted));
            self.check_logits("converted", "logits_after", model, &pass, report)?;
        }
        Ok(())
    }
}

/// `B A` of every linear, in order.
fn products(params: &Params) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    for (name, a) in params.iter() {
        let Some(module) = name.strip_suffix(".lora_A.weight") else { continue };
        let Some(b) = params.find(&format!("{module}.lora_B.weight")).map(|id| params.get(id)) else {
            continue;
        };
        let (r, k) = (a.rows(), a.cols());
        let product = b.host_f32().chunks_exact(r).flat_map(|b| {
            (0..k).map(move |i| {
                (0..r).map(|q| b[q] as f64 * a.host_f32()[q * k + i] as f64).sum::<f64>() as f32
            })
        });
        all.push((module.to_string(), product.collect()));
    }
    all
}

/// A folder that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("ferrotune-variants-{}-{number}", std::process::id());
        let folder = Path::new(&std::env::temp_dir()).join(folder);
        std::fs::create_dir_all(&folder)?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
