//! Reading a case: its description, its tensors, the padded batch without its padding.

use std::path::{Path, PathBuf};

use ferrotune::data::packed_batch::PackedBatch;
use ferrotune::data::train_row::IGNORE;
use ferrotune::formats::safetensors::SafeFile;
use ferrotune::loss::NextToken;
use ferrotune::model::{Activations, Decoder, Gradients, Pass, Tokens};
use ferrotune::train::step;
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::{Device, Precision};
use serde_json::Value;

/// Why a case could not be checked.
#[derive(Debug)]
pub struct Failure(pub String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(e: E) -> Self {
        Failure(e.to_string())
    }
}

/// A folder with a `case.json`.
pub struct Case {
    dir: PathBuf,
    /// The content of `case.json`.
    pub json: Value,
}

impl Case {
    /// Reads the description.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(dir.join("case.json"))?;
        Ok(Case { dir: dir.to_path_buf(), json: serde_json::from_str(&text)? })
    }

    /// What the folder holds.
    pub fn kind(&self) -> &'static str {
        let has = |name: &str| self.dir.join(name).exists();
        let key = |name: &str| self.json.get(name).is_some();
        if has("lora_grads.safetensors") && has("base.safetensors") {
            "model"
        } else if has("adapter_step3") {
            "variant"
        } else if has("params_step5.safetensors") {
            "full_ft"
        } else if has("model.gguf") {
            "gguf_model"
        } else if has("decoded.safetensors") {
            "gguf"
        } else if has("adamw.safetensors") {
            "optim"
        } else if key("quantization_config") && has("logits.safetensors") {
            "quant_model"
        } else if has("adam8.safetensors") {
            "adam8"
        } else if has("adapter_final.safetensors") {
            "trainer"
        } else if has("eight_bit.safetensors") {
            "eight_bit"
        } else if has("inputs/a/adapter_model.safetensors") {
            "algebra"
        } else if key("packing") && key("rule") {
            "four_bit"
        } else {
            "unknown"
        }
    }

    /// A path inside the case.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A path that the case names relative to the folder of all fixtures: tried from every parent.
    pub fn shared(&self, relative: &str) -> Result<PathBuf, Failure> {
        let found = self.dir.ancestors().map(|a| a.join(relative)).find(|p| p.exists());
        found.ok_or_else(|| Failure(format!("{relative} is in no folder above {}", self.dir.display())))
    }

    /// A number of `case.json` by JSON pointer.
    pub fn number(&self, pointer: &str) -> Result<f64, Failure> {
        let found = self.json.pointer(pointer).and_then(Value::as_f64);
        found.ok_or_else(|| Failure(format!("case.json has no number at {pointer}")))
    }

    /// Numbers of `case.json`.
    pub fn numbers(&self, pointer: &str) -> Result<Vec<f64>, Failure> {
        let list = self.json.pointer(pointer).and_then(Value::as_array);
        let list = list.ok_or_else(|| Failure(format!("case.json has no list at {pointer}")))?;
        Ok(list.iter().filter_map(Value::as_f64).collect())
    }
}

/// A folder that is gone when the check ends.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// A name that no other check uses; the folder is made by who writes to it.
    pub(super) fn new(check: &str) -> Self {
        let id = format!("ferrotune-{check}-{}-{:?}", std::process::id(), std::thread::current().id());
        Scratch(std::env::temp_dir().join(id))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The values of an `I32` tensor.
pub(super) fn integers(file: &SafeFile, name: &str) -> Result<Vec<i32>, Failure> {
    let t = file.get(name).ok_or_else(|| Failure(format!("{}: no tensor {name}", file.path().display())))?;
    Ok(t.bytes.as_slice().chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Rows of a padded batch, packed.
pub(super) struct Batch {
    pub(super) packed: PackedBatch,
    /// Where each token stood in the padded batch.
    pub(super) places: Vec<usize>,
    /// Tokens of a padded row.
    pub(super) width: usize,
}

impl Batch {
    /// `input_ids`, `attention_mask` and `labels` `[rows, width]` of an `inputs.safetensors`.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let file = SafeFile::open(path)?;
        let shape =
            file.get("input_ids").map(|t| t.shape.clone()).ok_or_else(|| Failure("no input_ids".into()))?;
        let (ids, mask) = (integers(&file, "input_ids")?, integers(&file, "attention_mask")?);
        let labels = integers(&file, "labels")?;
        let width = shape[1];
        let mut batch = Batch { packed: PackedBatch::default(), places: vec![], width };
        for row in 0..shape[0] {
            let places = (0..width).map(|c| row * width + c).filter(|place| mask[*place] != 0);
            let places: Vec<usize> = places.collect();
            let tokens: Vec<u32> = places.iter().map(|place| ids[*place] as u32).collect();
            // A label counts for the token before it, if that one is no padding.
            let label = |place: &usize| {
                let follows = !place.is_multiple_of(width) && mask[place - 1] != 0;
                if follows { labels[*place] } else { IGNORE }
            };
            batch.packed.push(&tokens, &places.iter().map(label).collect::<Vec<_>>());
            batch.places.extend(places);
        }
        Ok(batch)
    }

    /// The tokens as the model takes them.
    pub(super) fn tokens(&self) -> Tokens<'_> {
        (&self.packed).into()
    }

    /// Adds the gradients of the batch's mean loss to `grads`; gives the loss and the norm of all gradients.
    pub(super) fn step(
        &self,
        model: &Decoder,
        pass: &Pass<'_>,
        policy: Activations,
        grads: &mut Gradients,
    ) -> Result<(f64, f64), Failure> {
        let scale = 1.0 / self.labels() as f32;
        let loss = step::forward_backward(model, pass, &NextToken, &self.packed, scale, policy, grads)?;
        Ok((loss.mean(), step::gradient_norm(pass.dev, grads)))
    }

    /// Supervised tokens.
    pub(super) fn labels(&self) -> usize {
        self.packed.label_tokens()
    }
}

/// The devices on which every case must hold: the plain loops, and each instruction set of this CPU.
pub(super) fn devices() -> Vec<(String, Device)> {
    let mut all = vec![("reference".to_string(), Device::reference())];
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        if let Ok(cpu) = Cpu::new(2, isa) {
            all.push((isa.name().to_string(), Device::Cpu(cpu)));
        }
    }
    all
}

/// The parity mode.
pub(super) const F32: Precision = Precision::F32;

/// Largest absolute difference.
pub(crate) fn max_abs(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let worst = |m: f64, (a, b): (&f32, &f32)| {
        let d = (*a as f64 - *b as f64).abs();
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    };
    found.iter().zip(expected).fold(0.0, worst)
}

/// L2 norm of the difference over that of the expected.
pub(super) fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let square = |it: &mut dyn Iterator<Item = f64>| it.map(|v| v * v).sum::<f64>();
    let d = square(&mut found.iter().zip(expected).map(|(a, b)| *a as f64 - *b as f64));
    (d / square(&mut expected.iter().map(|v| *v as f64)).max(1e-30)).sqrt()
}
