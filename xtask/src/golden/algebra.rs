//! `algebra`: adapters combined by PEFT's `add_weighted_adapter`, compared as products `s B A` of every module, and
//! as the loss of the written folder; what is dropped at random by its statistics.

use std::path::PathBuf;

use ferrotune::formats::Checkpoint;
use ferrotune::formats::adapter::AdapterFile;
use ferrotune::formats::safetensors::SafeFile;
use ferrotune::load::{BaseStorage, load};
use ferrotune::lora::algebra::{Combination, Combined, Input, MajoritySign, Method, combine};
use ferrotune::loss::cross_entropy;
use ferrotune_kernels::{Device, Threads};
use serde_json::Value;

use super::Report;
use super::fixture::{Batch, Case, Failure, Scratch, max_abs};
use super::model::{adapter, pass};

pub(super) fn check(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let cases = case.json["cases"].as_object().ok_or_else(|| Failure("no cases".into()))?;
    for (name, c) in cases {
        let args = &c["args"];
        let how = combination(args)?;
        let inputs = inputs(case, args)?;
        let found = combine(&Threads::one(), &inputs, &how)?;
        let expected = AdapterFile::read(&case.path(name))?;
        for key in ["r", "lora_alpha"] {
            let want = c[key].as_u64().unwrap_or(0) as usize;
            let r =
                if key == "r" { found.file.config.lora.rank } else { found.file.config.lora.alpha as usize };
            report.error("rank_and_alpha", r.abs_diff(want) as f64, 0.0);
        }
        let missing = expected.tensors.iter().filter(|t| found.file.get(&t.name).is_none()).count();
        report.error(
            "names",
            (missing + found.file.tensors.len().abs_diff(expected.tensors.len())) as f64,
            0.0,
        );
        if c["random"] == true {
            statistics(&found.file, &expected, report);
            continue;
        }
        let products = products(&found.file);
        for (module, product) in &products {
            let want = products_of(&expected, module)?;
            report.error(name, max_abs(product, &want), 1e-5);
        }
        let first = SafeFile::open(&case.path(&format!("{name}/delta_layer0.safetensors")))?;
        for (key, _) in first.iter() {
            let module = key.trim_end_matches(".delta");
            let (_, product) =
                products.iter().find(|(m, _)| m == module).ok_or_else(|| Failure(key.into()))?;
            report.error("delta_layer0", max_abs(product, &first.f32(key)?.1), 1e-5);
        }
        let want = c["loss"].as_f64().ok_or_else(|| Failure(format!("{name}: no loss")))?;
        report.error("loss", (loss(case, &found)? - want).abs(), 1e-4);
        if how.method == Method::LINEAR {
            exact(&inputs, &how, report)?;
        }
    }
    Ok(())
}

fn combination(args: &Value) -> Result<Combination, Failure> {
    let text = |key: &str, usual: &'static str| args[key].as_str().unwrap_or(usual).to_string();
    let weights = args["weights"].as_array().ok_or_else(|| Failure("no weights".into()))?;
    Ok(Combination {
        method: Method::parse(&text("combination_type", ""))?,
        weights: weights.iter().filter_map(Value::as_f64).collect(),
        density: args["density"].as_f64(),
        majority_sign: text("majority_sign_method", "total").parse::<MajoritySign>().map_err(Failure)?,
        rank: args["svd_rank"].as_u64().map(|r| r as usize),
        exact: false,
        seed: 77,
        base: None,
    })
}

fn inputs(case: &Case, args: &Value) -> Result<Vec<Input>, Failure> {
    let names = args["adapters"].as_array().ok_or_else(|| Failure("no adapters".into()))?;
    let path = |name: &Value| case.path(&format!("inputs/{}", name.as_str().unwrap_or_default()));
    let read = |path: PathBuf| Ok(Input { file: AdapterFile::read(&path)?, path });
    names.iter().map(path).map(read).collect()
}

/// `s B A` of every module; in f64, so that only the factors' own rounding is in it.
fn products(file: &AdapterFile) -> Vec<(String, Vec<f32>)> {
    let modules = file.tensors.iter().filter_map(|t| t.name.strip_suffix(".lora_A.weight"));
    modules.filter_map(|m| Some((m.to_string(), products_of(file, m).ok()?))).collect()
}

fn products_of(file: &AdapterFile, module: &str) -> Result<Vec<f32>, Failure> {
    let part = |part: &str| {
        let name = format!("{module}.{part}.weight");
        file.get(&name).ok_or_else(|| Failure(format!("no tensor {name}")))
    };
    let (a, b) = (part("lora_A")?, part("lora_B")?);
    let (rank, cols) = (a.shape[0], a.shape[1]);
    let scale = file.config.lora.alpha / rank as f64;
    let value = |row: &[f32], col: usize| -> f64 {
        row.iter().enumerate().map(|(q, b)| *b as f64 * a.values[q * cols + col] as f64).sum()
    };
    let rows = b.values.chunks_exact(rank);
    Ok(rows.flat_map(|row| (0..cols).map(move |c| (scale * value(row, c)) as f32)).collect())
}

/// The share of zeros and the mean square of every factor, which do not depend on the draw by much.
fn statistics(found: &AdapterFile, expected: &AdapterFile, report: &mut Report) {
    let about = |file: &AdapterFile, part: &str| {
        let values = file.tensors.iter().filter(|t| t.name.contains(part)).flat_map(|t| &t.values);
        let (mut count, mut zeros, mut squares) = (0.0, 0.0, 0.0);
        for v in values {
            count += 1.0;
            zeros += (*v == 0.0) as u8 as f64;
            squares += (*v as f64).powi(2);
        }
        (zeros / count, squares / count)
    };
    for part in ["lora_A", "lora_B"] {
        let ((zeros, squares), (want_zeros, want_squares)) = (about(found, part), about(expected, part));
        report.error("dare_zeros", (zeros - want_zeros).abs(), 0.03);
        report.error("dare_square", (squares / want_squares - 1.0).abs(), 0.1);
    }
}

/// The loss of the model with the adapter that was written and read again.
fn loss(case: &Case, found: &Combined) -> Result<f64, Failure> {
    let model = case.json["model"].as_str().ok_or_else(|| Failure("no model".into()))?;
    let model = case.shared(model)?;
    let batch = Batch::read(&model.with_file_name("inputs.safetensors"))?;
    let folder = Scratch::new("algebra");
    found.file.write(&folder.0)?;
    let dev = Device::reference();
    let (decoder, _) = load(&dev, &Checkpoint::open(&model)?, BaseStorage::AsStored, 64)?;
    let adapter = adapter(&dev, &decoder, &folder.0)?;
    let pass = pass(&dev, &adapter.params, Some(&adapter.adapted));
    let x = decoder.forward(&pass, batch.tokens())?;
    let losses = cross_entropy::token_losses(&decoder, &pass, &x, &batch.packed.targets)?;
    Ok(losses.iter().map(|l| *l as f64).sum::<f64>() / losses.len() as f64)
}

/// The exact mode must be the weighted sum of the inputs' products, which PEFT's `linear` is not.
fn exact(inputs: &[Input], how: &Combination, report: &mut Report) -> Result<(), Failure> {
    let found = combine(&Threads::one(), inputs, &Combination { exact: true, ..how.clone() })?;
    for (module, product) in products(&found.file) {
        let mut sum = vec![0.0f64; product.len()];
        for (input, weight) in inputs.iter().zip(&how.weights) {
            let own = products_of(&input.file, &module)?;
            sum.iter_mut().zip(own).for_each(|(s, v)| *s += weight * v as f64);
        }
        let sum: Vec<f32> = sum.into_iter().map(|v| v as f32).collect();
        report.error("exact", max_abs(&product, &sum), 1e-5);
        let crossed = products_of(&combine(&Threads::one(), inputs, how)?.file, &module)?;
        report.error("linear_has_cross_terms", (max_abs(&crossed, &sum) < 1e-3) as u8 as f64, 0.0);
    }
    Ok(())
}
