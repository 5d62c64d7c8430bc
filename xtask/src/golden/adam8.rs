//! `quant/adam8`: ten steps of bitsandbytes' AdamW with moments in 8 bits, codes and scales included.

use ferrotune::formats::safetensors::SafeFile;
use ferrotune::model::{Gradients, Params};
use ferrotune::optim::adamw::AdamWConfig;
use ferrotune::optim::adamw8::AdamW8;
use ferrotune::optim::{Optimizer, Saved};

use super::Report;
use super::fixture::{Case, Failure, devices, max_abs};

/// Shares of codes that may be the neighbour's, where a value lies on a midpoint but for rounding.
const NEIGHBOURS: f64 = 1e-3;

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let file = SafeFile::open(&case.path("adam8.safetensors"))?;
    let cases = case.json["cases"].as_object().ok_or_else(|| Failure("no cases".into()))?;
    let (_, start) = file.f32("param0")?;
    let (shape, grads) = file.f32("grads")?;
    let all = shape[1];
    let config = AdamWConfig {
        betas: (case.number("/betas/0")?, case.number("/betas/1")?),
        eps: case.number("/eps")?,
        weight_decay: case.number("/weight_decay")?,
        decay_norms_and_biases: true,
        ..AdamWConfig::default()
    };
    let adamw = cases.iter().filter(|(name, _)| name.starts_with("adamw8bit"));
    let mut checked = 0;
    for (name, c) in adamw {
        let size = |i: usize| c["shape"][i].as_u64().unwrap_or(0) as usize;
        let (rows, cols) = (size(0), size(1));
        for (_, dev) in devices() {
            let mut params = Params::default();
            let id = params.push("p", dev.tensor(rows, cols, &start[..rows * cols]));
            let mut optimizer = AdamW8::new(&dev, &params, config);
            let mut g = Gradients::zeros(&dev, &params);
            for step in 1..=10 {
                let values = &grads[(step - 1) * all..][..rows * cols];
                g.put(id, dev.tensor(rows, cols, values));
                optimizer.step(&dev, &mut params, &g, case.number("/lr")?, 1.0)?;
                if file.get(&format!("{name}/param_step{step}")).is_none() {
                    continue;
                }
                let want = |part: &str| format!("{name}/{part}_step{step}");
                report.error(
                    "params",
                    max_abs(params.get(id).host_f32(), &file.f32(&want("param"))?.1),
                    1e-6,
                );
                compare(&optimizer, &params, &file, want, report)?;
                checked += 1;
            }
        }
    }
    report.error("steps_missing", (9.0 - checked as f64).max(0.0), 0.0);
    Ok(())
}

/// The state of the one parameter against `state1`, `absmax1`, `state2`, `absmax2`.
fn compare(
    optimizer: &AdamW8,
    params: &Params,
    file: &SafeFile,
    want: impl Fn(&str) -> String,
    report: &mut Report,
) -> Result<(), Failure> {
    for (key, saved) in optimizer.state(params) {
        let number = if key.contains("exp_avg_sq") { 2 } else { 1 };
        match saved {
            Saved::Tensor(t) => {
                let expected = file.f32(&want(&format!("state{number}")))?.1;
                report.error("small_state", max_abs(t.host_f32(), &expected), 1e-6);
            }
            Saved::Scales(scales) => {
                let expected = file.f32(&want(&format!("absmax{number}")))?.1;
                report.error("absmax", max_abs(scales, &expected), 1e-6);
            }
            Saved::Codes(_, codes) => {
                let name = want(&format!("state{number}"));
                let expected = file.get(&name).ok_or_else(|| Failure(format!("no tensor {name}")))?;
                let pairs = || codes.iter().zip(expected.bytes.as_slice());
                let apart = pairs().map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
                let others = pairs().filter(|(a, b)| a != b).count() as f64 / codes.len() as f64;
                report.error("codes_apart", apart as f64, 1.0);
                report.error("codes_differing", others, NEIGHBOURS);
            }
        }
    }
    Ok(())
}
