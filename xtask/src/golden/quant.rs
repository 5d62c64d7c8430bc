//! `quant/four_bit`: bitsandbytes' bytes. `quant/llama_*`: whole models as transformers saves them.

use ferrotune::formats::Checkpoint;
use ferrotune::formats::safetensors::SafeFile;
use ferrotune::load::{BaseStorage, load};
use ferrotune::model::{Activations, Decoder, Gradients, Pass};
use ferrotune::optim::adamw::{AdamW, AdamWConfig};
use ferrotune::optim::{Optimizer, clip};
use ferrotune_kernels::quant::FourBit;
use ferrotune_kernels::quant::nf4::{FourBitKind, Scales, quantize};
use ferrotune_kernels::{DType, Threads, Weight};

use super::Report;
use super::fixture::{Batch, Case, Failure, devices, max_abs, relative_l2};
use super::model::{adapter, logits_limit, padded_logits, pass};

fn bytes_differ(found: &[u8], expected: &[u8]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    found.iter().zip(expected).filter(|(a, b)| a != b).count() as f64
}

pub(super) fn check_four_bit(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let cases = case.json["cases"].as_object().ok_or_else(|| Failure("no cases".into()))?;
    for (name, c) in cases {
        let file = SafeFile::open(&case.path(&format!("{name}.safetensors")))?;
        let source = file.get("source").ok_or_else(|| Failure(format!("{name}: no source")))?;
        let size = |key: &str| {
            c[key].as_u64().map(|v| v as usize).ok_or_else(|| Failure(format!("{name}: no {key}")))
        };
        let dtype = match c["source_dtype"].as_str() {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            Some("bfloat16") => DType::Bf16,
            other => return Err(Failure(format!("{name}: source_dtype {other:?}"))),
        };
        let kind = if c["quant_type"] == "fp4" { FourBitKind::Fp4 } else { FourBitKind::Nf4 };
        let cols = *source.shape.last().unwrap_or(&0);
        let rows = source.shape.iter().product::<usize>() / cols.max(1);
        let weight = Weight::dense(rows, cols, dtype, source.bytes.clone())?;
        for double in [false, true] {
            let quantized = quantize(&Threads::one(), &weight, kind, size("blocksize")?, double)?;
            let bits = quantized.format::<FourBit>().ok_or_else(|| Failure("not 4-bit".into()))?;
            let packed = file.get("packed").ok_or_else(|| Failure(format!("{name}: no packed")))?;
            report.error("packed", bytes_differ(bits.packed(), packed.bytes.as_slice()), 0.0);
            let mut values = vec![0.0; rows * cols];
            values.chunks_exact_mut(cols).enumerate().for_each(|(r, out)| quantized.decode(r, 0, out));
            let f32_of =
                |key: &str| if file.get(key).is_some() { file.f32(key) } else { file.f32("dequant") };
            match bits.scales() {
                Scales::Plain(scales) => {
                    report.error("absmax", max_abs(scales, &file.f32("absmax")?.1), 0.0);
                    report.error("dequant", max_abs(&values, &f32_of("dequant_f32")?.1), 0.0);
                }
                Scales::Nested { codes, absmax, map, offset, .. } => {
                    let want =
                        file.get("nested/absmax_u8").ok_or_else(|| Failure(format!("{name}: no codes")))?;
                    report.error("nested_codes", bytes_differ(codes.as_slice(), want.bytes.as_slice()), 0.0);
                    report.error("nested_absmax", max_abs(absmax, &file.f32("nested/absmax")?.1), 0.0);
                    report.error("nested_map", max_abs(map.as_slice(), &file.f32("nested/code")?.1), 0.0);
                    let want = file.f32("nested/offset")?.1[0];
                    report.error("offset_ulp", (offset.to_bits() as f64 - want.to_bits() as f64).abs(), 1.0);
                    if *offset == want && dtype == DType::F32 {
                        report.error("nested_dequant", max_abs(&values, &file.f32("nested/dequant")?.1), 0.0);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Logits of the first positions of every row; `shape` is `[rows, positions, vocabulary]`.
fn first_positions(
    model: &Decoder,
    pass: &Pass<'_>,
    batch: &Batch,
    shape: &[usize],
) -> Result<Vec<f32>, Failure> {
    let (rows, kept, vocab) = (shape[0], shape[1], shape[2]);
    let found = padded_logits(model, pass, batch, rows * batch.width)?;
    let row = |row: usize| &found[row * batch.width * vocab..][..kept * vocab];
    Ok((0..rows).flat_map(row).copied().collect())
}

pub(super) fn check_model(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let source = case.json["source_model"].as_str().ok_or_else(|| Failure("no source_model".into()))?;
    let inputs = case.shared(source)?.with_file_name("inputs.safetensors");
    let batch = Batch::read(&inputs)?;
    let checkpoint = Checkpoint::open(&case.path("model"))?;
    let logits = SafeFile::open(&case.path("logits.safetensors"))?;
    let bf16 = case.json["dtype"].as_str().is_some_and(|d| d.contains("bfloat16"));
    // The reference's own bf16 results depend on its CPU.
    let loose = if bf16 { 0.05 } else { 1e-4 };
    let limit = |want: &[f32]| if bf16 { 0.2 } else { logits_limit(want).max(1e-4) };
    for (_, dev) in devices() {
        let (model, none) = load(&dev, &checkpoint, BaseStorage::AsStored, 64)?;
        let found = first_positions(&model, &pass(&dev, &none, None), &batch, &logits.f32("base_logits")?.0)?;
        let want = logits.f32("base_logits")?.1;
        if case.json["quantization_config"]["load_in_8bit"] == true {
            // In inference the reference rounds activations to 8 bits too; its training, as we do, decodes the weights.
            report.error("base_logits_rounded", relative_l2(&found, &want), 0.05);
        } else {
            report.error("base_logits", max_abs(&found, &want), limit(&want));
        }
        if let Ok(dequant) = SafeFile::open(&case.path("dequant_layer0.safetensors")) {
            for linear in model.linears().into_iter().filter(|l| l.name.contains(".layers.0.")) {
                let found = ferrotune::merge::merged_weight(linear, None);
                report.error(
                    "dequant",
                    max_abs(&found, &dequant.f32(&format!("{}.weight", linear.name))?.1),
                    0.0,
                );
            }
        }
        let folder =
            case.shared("quant/llama_nf4_dq/adapter").or_else(|_| case.shared("llama_nf4_dq/adapter"))?;
        let mut adapter = adapter(&dev, &model, &folder)?;
        if logits.get("lora_logits").is_some() {
            let (shape, want) = logits.f32("lora_logits")?;
            let found = first_positions(
                &model,
                &pass(&dev, &adapter.params, Some(&adapter.adapted)),
                &batch,
                &shape,
            )?;
            report.error("lora_logits", max_abs(&found, &want), limit(&want));
        }
        let Ok(losses) = case.numbers("/losses") else { continue };
        let expected = SafeFile::open(&case.path("lora_grads.safetensors")).ok();
        let config =
            AdamWConfig { weight_decay: 0.01, decay_norms_and_biases: true, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(&dev, &adapter.params, config);
        let mut grads = Gradients::zeros(&dev, &adapter.params);
        for (i, want) in losses.iter().enumerate() {
            grads.clear();
            let pass = pass(&dev, &adapter.params, Some(&adapter.adapted));
            let (loss, norm) = batch.step(&model, &pass, Activations::Keep, &mut grads)?;
            report.error("losses", (loss - want).abs(), loose);
            if let Some(expected) = expected.as_ref().filter(|_| i == 0) {
                for (name, _) in adapter.params.iter() {
                    let id = adapter.params.find(name).ok_or_else(|| Failure(name.into()))?;
                    let want = expected.f32(&format!("base_model.model.{name}"))?.1;
                    report.error("grads", relative_l2(grads.get(id).host_f32(), &want), 1e-4);
                }
            }
            optimizer.step(&dev, &mut adapter.params, &grads, 1e-3, clip::factor(norm, 1.0))?;
        }
    }
    Ok(())
}
