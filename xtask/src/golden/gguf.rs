//! `gguf/NAME`: weights and logits of whole files. `gguf`: the blocks of each type, encoded and decoded.

use ferrotune::formats::Checkpoint;
use ferrotune::formats::safetensors::SafeFile;
use ferrotune::load::{BaseStorage, load};
use ferrotune::loss::cross_entropy;
use ferrotune::merge::merged_weight;
use ferrotune_kernels::quant::gguf::{GgufType, decode, encode};

use super::Report;
use super::fixture::{Batch, Case, Failure, devices, max_abs};
use super::model::{logits_limit, padded_logits, pass};

pub(super) fn check_model(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let source = case.json["source_model"].as_str().ok_or_else(|| Failure("no source_model".into()))?;
    let batch = Batch::read(&case.shared(source)?.with_file_name("inputs.safetensors"))?;
    let checkpoint = Checkpoint::open(&case.path("model.gguf"))?;
    let weights = SafeFile::open(&case.path("weights.safetensors"))?;
    let (shape, logits) = SafeFile::open(&case.path("logits.safetensors"))?.f32("logits")?;
    for (_, dev) in devices() {
        let (model, none) = load(&dev, &checkpoint, BaseStorage::AsStored, 256)?;
        for linear in model.linears() {
            let (_, expected) = weights.f32(&format!("{}.weight", linear.name))?;
            report.error("weights", max_abs(&merged_weight(linear, None), &expected), 0.0);
        }
        let pass = pass(&dev, &none, None);
        let found = padded_logits(&model, &pass, &batch, shape[0] * shape[1])?;
        report.error("logits", max_abs(&found, &logits), logits_limit(&logits));
        let x = model.forward(&pass, batch.tokens())?;
        let losses = cross_entropy::token_losses(&model, &pass, &x, &batch.packed.targets)?;
        let mean = losses.iter().map(|l| *l as f64).sum::<f64>() / losses.len() as f64;
        report.error("loss", (mean - case.number("/loss")?).abs(), 2e-5);
    }
    Ok(())
}

pub(super) fn check_blocks(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let file = SafeFile::open(&case.path("decoded.safetensors"))?;
    let mut types = 0;
    for kind in GgufType::ALL {
        let Some(bytes) = file.get(&format!("{}/bytes", kind.name())) else { continue };
        let (_, expected) = file.f32(&format!("{}/dequant", kind.name()))?;
        let mut found = vec![0.0; expected.len()];
        decode(*kind, bytes.bytes.as_slice(), 0, &mut found);
        report.error("decoded", max_abs(&found, &expected), 0.0);
        types += 1;
    }
    report.error("types_missing", (11.0 - types as f64).max(0.0), 0.0);
    let file = SafeFile::open(&case.path("encoded.safetensors"))?;
    for (name, _) in file.iter().filter(|(n, _)| n.ends_with("/source")) {
        let (_, values) = file.f32(name)?;
        let stem = name.trim_end_matches("source");
        for kind in [GgufType::Q8_0, GgufType::Q4_0, GgufType::Q4_1, GgufType::Q5_0, GgufType::Q5_1] {
            let Some(expected) = file.get(&format!("{stem}{}", kind.name())) else { continue };
            let mut found = Vec::new();
            encode(kind, &values, &mut found)?;
            report.error("encoded", (found != expected.bytes.as_slice()) as u8 as f64, 0.0);
        }
    }
    Ok(())
}
