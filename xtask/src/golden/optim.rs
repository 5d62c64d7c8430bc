//! `optim`: AdamW on three tensors for ten steps, and the learning rates of the schedules that we have.

use ferrotune::formats::safetensors::SafeFile;
use ferrotune::model::{Gradients, Params};
use ferrotune::optim::adamw::{AdamW, AdamWConfig};
use ferrotune::optim::schedule::{Schedule, Shape};
use ferrotune::optim::{Optimizer, Saved, clip};
use ferrotune_kernels::ops::adamw;
use serde_json::Value;

use super::Report;
use super::fixture::{Case, Failure, devices, max_abs};

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Failure> {
    check_adamw(case, report)?;
    check_schedules(case, report)
}

fn check_adamw(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let file = SafeFile::open(&case.path("adamw.safetensors"))?;
    let settings = case.json["adamw"].as_object().ok_or_else(|| Failure("no adamw".into()))?;
    let names: Vec<String> =
        file.iter().filter_map(|(n, _)| n.strip_prefix("param0/").map(String::from)).collect();
    for (_, dev) in devices() {
        for (name, s) in settings {
            let number = |key: &str| s[key].as_f64().unwrap_or(0.0);
            let config = AdamWConfig {
                betas: (s["betas"][0].as_f64().unwrap_or(0.0), s["betas"][1].as_f64().unwrap_or(0.0)),
                eps: number("eps"),
                weight_decay: number("weight_decay"),
                decay_norms_and_biases: true,
                loraplus: None,
            };
            let mut params = Params::default();
            let mut lengths = Vec::new();
            for n in &names {
                let (_, values) = file.f32(&format!("param0/{n}"))?;
                lengths.push(values.len());
                params.push(n.clone(), dev.tensor(1, values.len(), &values));
            }
            let mut optimizer = AdamW::new(&dev, &params, config);
            let mut grads = Gradients::zeros(&dev, &params);
            for step in 0..10 {
                for (n, len) in names.iter().zip(&lengths) {
                    let (_, all) = file.f32(&format!("grads/{n}"))?;
                    let id = params.find(n).ok_or_else(|| Failure(n.clone()))?;
                    grads.put(id, dev.tensor(1, *len, &all[step * len..(step + 1) * len]));
                }
                let norm = adamw::norm(&dev, grads.all());
                let factor = clip::factor(norm, number("max_grad_norm"));
                optimizer.step(&dev, &mut params, &grads, number("lr"), factor)?;
                for (n, value) in params.iter() {
                    let key = format!("{name}/step{}/{n}", step + 1);
                    if file.get(&key).is_some() {
                        report.error("adamw", max_abs(value.host_f32(), &file.f32(&key)?.1), 1e-6);
                    }
                }
            }
            for (key, value) in optimizer.state(&params) {
                let (n, part) = key.rsplit_once('.').ok_or_else(|| Failure(key.clone()))?;
                let Saved::Tensor(value) = value else { return Err(Failure(format!("{key} is not f32"))) };
                report.error(
                    "state",
                    max_abs(value.host_f32(), &file.f32(&format!("{name}/{part}/{n}"))?.1),
                    1e-6,
                );
            }
        }
    }
    Ok(())
}

fn check_schedules(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let text = std::fs::read_to_string(case.path("schedules.json"))?;
    let json: Value = serde_json::from_str(&text)?;
    let list = json["schedules"].as_object().ok_or_else(|| Failure("no schedules".into()))?;
    let mut checked = 0;
    for s in list.values() {
        let kwargs = &s["kwargs"];
        let (shape, min_ratio) = match s["scheduler"].as_str() {
            Some("linear") => (Shape::Linear, 0.0),
            Some("cosine") if kwargs.as_object().is_none_or(|k| k.is_empty()) => (Shape::Cosine, 0.0),
            Some("constant_with_warmup" | "constant") => (Shape::Constant, 0.0),
            Some("cosine_with_min_lr") if kwargs["min_lr_rate"].is_number() => {
                (Shape::Cosine, kwargs["min_lr_rate"].as_f64().unwrap_or(0.0))
            }
            _ => continue,
        };
        let count = |key: &str| s[key].as_u64().unwrap_or(0) as usize;
        let warmup = if s["scheduler"] == "constant" { 0 } else { count("num_warmup_steps") };
        let lr = s["lr"].as_f64().unwrap_or(0.0);
        let schedule =
            Schedule { lr, shape, warmup, from_zero: true, total: count("num_training_steps"), min_ratio };
        let rates = s["lrs"].as_array().ok_or_else(|| Failure("no lrs".into()))?;
        // Beyond the last step only the shape's end is defined; training never asks for it.
        for (i, want) in rates.iter().take(schedule.total).enumerate() {
            let want = want.as_f64().unwrap_or(f64::NAN);
            let scale = want.abs().max(lr * 1e-6);
            report.error("lr", (schedule.at(i) - want).abs() / scale, 1e-9);
        }
        checked += 1;
    }
    report.error("schedules_missing", 4.0f64 - (checked as f64).min(4.0), 0.0);
    Ok(())
}
