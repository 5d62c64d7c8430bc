//! `optim/trainer`: a whole run of `transformers.Trainer` (accumulation over uneven batches, a last step of one batch,
//! warmup, decay) against a run of ours from the same adapter on the same rows.

use std::sync::atomic::AtomicBool;

use ferrotune::base::BaseModel;
use ferrotune::formats::adapter::AdapterFile;
use ferrotune::formats::safetensors::SafeFile;
use ferrotune::results::run_folder::{Begin, RunFolder};
use ferrotune::run_config::RunConfig;
use ferrotune::train::Event;
use ferrotune::train::trainer::Trainer;
use ferrotune_kernels::Device;
use serde_json::Value;

use super::Report;
use super::fixture::{Case, Failure, Scratch, max_abs};

/// What a step reported: loss, gradient norm, learning rate.
type Steps = Vec<[f64; 3]>;

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let log = case.json["log"].as_array().ok_or_else(|| Failure("no log".into()))?;
    let by_hand = case.json["by_hand"].as_array().ok_or_else(|| Failure("no by_hand".into()))?;
    let (steps, adapter) = run(case, "targets")?;
    report.error("steps", steps.len().abs_diff(log.len()) as f64, 0.0);
    for (found, want) in steps.iter().zip(log) {
        let number = |key: &str| want[key].as_f64().unwrap_or(f64::NAN);
        report.error("losses", (found[0] - number("loss")).abs(), 1e-4);
        report.error("grad_norm", (found[1] / number("grad_norm") - 1.0).abs(), 1e-4);
        report.error("lr", (found[2] - number("learning_rate")).abs(), 1e-12);
    }
    let after = SafeFile::open(&case.path("adapter_final.safetensors"))?;
    for tensor in &adapter.tensors {
        let want = after.f32(&format!("base_model.model.{}", tensor.name))?.1;
        report.error("adapter", max_abs(&tensor.values, &want), 2e-5);
    }
    // Row 8 supervises its first token too: counted before the shift, the third step has one label more.
    let (unshifted, _) = run(case, "labels")?;
    for i in 0..3 {
        let tokens = by_hand[i]["tokens"].as_f64().unwrap_or(f64::NAN);
        let factor = if i == 2 { tokens / (tokens + 1.0) } else { 1.0 };
        for (found, want) in
            unshifted[i].iter().zip([steps[i][0] * factor, steps[i][1] * factor, steps[i][2]])
        {
            report.error("labels_mode", (found - want).abs(), 1e-6);
        }
    }
    Ok(())
}

/// A run of ours with the case's settings.
fn run(case: &Case, normalization: &str) -> Result<(Steps, AdapterFile), Failure> {
    let a = &case.json["training_arguments"];
    let number = |key: &str| a[key].as_f64().ok_or_else(|| Failure(format!("no {key}")));
    let rows = number("per_device_train_batch_size")? * number("gradient_accumulation_steps")?;
    let examples = case.json["examples"].as_array().ok_or_else(|| Failure("no examples".into()))?;
    let model = case.json["model"].as_str().ok_or_else(|| Failure("no model".into()))?;
    let model = case.shared(model)?;
    let scratch = Scratch::new("trainer");
    std::fs::create_dir_all(&scratch.0)?;
    let data = scratch.0.join("rows.jsonl");
    std::fs::write(&data, examples.iter().map(|row| format!("{row}\n")).collect::<String>())?;
    let text = |value: &std::path::Path| Value::from(value.display().to_string());
    let config = RunConfig::from_overrides(&[
        format!("model.base={}", text(&model)),
        format!("data.train={}", text(&data)),
        "data.format=tokens".into(),
        "data.shuffle=false".into(),
        format!("train.init_adapter={}", text(&case.path("adapter"))),
        format!("train.batch_rows={rows}"),
        format!("train.epochs={}", number("num_train_epochs")?),
        format!("train.lr={}", number("learning_rate")?),
        format!("train.weight_decay={}", number("weight_decay")?),
        format!("train.warmup={}", number("warmup_steps")?),
        "train.warmup_from_zero=true".into(),
        format!("train.max_grad_norm={}", number("max_grad_norm")?),
        "train.schedule=linear".into(),
        "train.precision=f32".into(),
        format!("train.loss_normalization={normalization}"),
    ])?;
    let base = BaseModel::open(&model, "base")?;
    let dev = Device::cpu(Some(2), None)?;
    let prepared = base.prepare(&dev.threads(), &config)?;
    let mut trainer = Trainer::new(&config, &base, &dev, prepared, &mut |_| {})?;
    let folder = RunFolder::create(&scratch.0.join("run"), Begin::New)?;
    let mut steps = Vec::new();
    trainer.run(Some(&folder), &AtomicBool::new(false), &mut |event| {
        if let Event::Step(r) = event {
            steps.push([r.loss, r.grad_norm, r.lr]);
        }
    })?;
    let newest = folder.resume_point(&dev.threads())?.ok_or_else(|| Failure("no checkpoint".into()))?.path;
    Ok((steps, AdapterFile::read(&newest)?))
}
