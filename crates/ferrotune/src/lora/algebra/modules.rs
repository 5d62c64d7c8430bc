//! The branches of several adapters, module by module.

use std::collections::BTreeMap;

use super::super::targets::Matcher;
use super::Input;
use crate::formats::adapter::{AdapterFile, AdapterTensor, LoraConfig, TrainedBiases};
use crate::lora::kinds::kind;
use crate::{Error, Result};

/// A factor of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// `[r, in]`.
    A,
    /// `[out, r]`.
    B,
}

/// Suffixes of a linear's factors, and of an embedding's (whose A is `[r, vocabulary]`, B `[hidden, r]`).
const SUFFIXES: [[&str; 2]; 2] =
    [[".lora_A.weight", ".lora_B.weight"], [".lora_embedding_A", ".lora_embedding_B"]];

/// The branch of one adapter.
#[derive(Debug)]
pub(super) struct Branch<'a> {
    /// Number of the adapter.
    pub(super) input: usize,
    /// Its factor `alpha / r`, or `alpha / sqrt(r)`.
    pub(super) scale: f64,
    factors: [&'a AdapterTensor; 2],
}

impl<'a> Branch<'a> {
    pub(super) fn tensor(&self, part: Part) -> &'a AdapterTensor {
        self.factors[part as usize]
    }

    pub(super) fn rank(&self) -> usize {
        self.factors[0].shape[0]
    }

    /// The root of `|w s|`, for A with the sign of `w s`: the product of both is `w s`.
    pub(super) fn root(&self, weight: f64, part: Part) -> f32 {
        let product = weight * self.scale;
        let sign = if product < 0.0 && part == Part::A { -1.0 } else { 1.0 };
        (sign * product.abs().sqrt()) as f32
    }
}

/// A module with the branches that adapters have for it.
#[derive(Debug)]
pub(super) struct Module<'a> {
    /// Its path.
    pub(super) name: String,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) branches: Vec<Branch<'a>>,
    suffixes: [&'static str; 2],
}

impl Module<'_> {
    /// The key of a factor in the file, without the prefix.
    pub(super) fn key(&self, part: Part) -> String {
        format!("{}{}", self.name, self.suffixes[part as usize])
    }

    pub(super) fn tensor(&self, part: Part, shape: &[usize], values: Vec<f32>) -> AdapterTensor {
        AdapterTensor { name: self.key(part), shape: shape.to_vec(), values }
    }
}

/// The largest rank of an adapter.
pub(super) fn rank(file: &AdapterFile) -> usize {
    let config = &file.config.lora;
    config.rank_pattern.iter().map(|(_, r)| *r).fold(config.rank, usize::max)
}

/// Refuses what is more, or something else, than a product added to the base's weights.
pub(super) fn supported(input: &Input) -> Result<()> {
    let c = &input.file.config.lora;
    let more = kind(c).beyond_low_rank(c);
    let features = [
        (more.unwrap_or_default(), more.is_some()),
        ("target_parameters", !c.target_parameters.is_empty()),
        ("bias", c.bias != TrainedBiases::None),
        ("modules_to_save", !c.modules_to_save.is_empty()),
        ("trainable_token_indices", !c.trainable_tokens.is_empty()),
        // The base weights were changed when the adapter began, so it does not fit the original ones.
        ("init_lora_weights", c.init.changes_base()),
    ];
    match features.into_iter().find(|(_, used)| *used) {
        Some((key, _)) => {
            Err(Error::file(&input.path, format!("`{key}` is set, such an adapter cannot be combined"))
                .with_hint(
                    "only branches s B A beside the base's own weights add up; merge this one instead",
                ))
        }
        None => Ok(()),
    }
}

/// The modules of all inputs in order of their paths.
pub(super) fn collect(inputs: &[Input]) -> Result<Vec<Module<'_>>> {
    let mut modules: BTreeMap<&str, Module<'_>> = BTreeMap::new();
    for (number, input) in inputs.iter().enumerate() {
        let c = &input.file.config.lora;
        let alphas = Matcher::suffixes("alpha_pattern", c.alpha_pattern.iter().map(|(key, _)| key))?;
        for tensor in &input.file.tensors {
            let refuse = |problem: String| Error::tensor(&input.path, &tensor.name, problem);
            if let Some(i) = tensor.values.iter().position(|v| !v.is_finite()) {
                return Err(refuse(format!("value {i} is {}, expected finite numbers", tensor.values[i])));
            }
            let part = |kind: &[&'static str; 2]| Some((tensor.name.strip_suffix(kind[0])?, *kind));
            let Some((name, suffixes)) = SUFFIXES.iter().find_map(part) else {
                let b = SUFFIXES.iter().any(|kind| tensor.name.ends_with(kind[1]));
                // PEFT also saves the untouched weight of a targeted embedding or head.
                if b || tensor.name.ends_with(".base_layer.weight") {
                    continue;
                }
                return Err(refuse("belongs to no branch s B A, and nothing else can be combined".into()));
            };
            let (a, b) = (tensor, input.file.get(&format!("{name}{}", suffixes[1])));
            let Some(b) = b.filter(|b| b.shape.len() == 2 && a.shape.len() == 2 && b.shape[1] == a.shape[0])
            else {
                return Err(refuse(format!("there is no {name}{} of the same rank", suffixes[1])));
            };
            let scale = scale(c, &alphas, name, a.shape[0])?;
            let branch = Branch { input: number, scale, factors: [a, b] };
            let (rows, cols) = (b.shape[0], a.shape[1]);
            let module = modules.entry(name).or_insert_with(|| Module {
                name: name.to_string(),
                rows,
                cols,
                branches: Vec::new(),
                suffixes,
            });
            if [module.rows, module.cols] != [rows, cols] || module.suffixes != suffixes {
                let problem = format!(
                    "is for a module of {rows} x {cols}, in {} that is {} x {}",
                    inputs[module.branches[0].input].path.display(),
                    module.rows,
                    module.cols
                );
                return Err(refuse(problem).with_hint("the adapters were trained on different base models"));
            }
            module.branches.push(branch);
        }
    }
    if modules.is_empty() {
        let path = inputs.first().map(|i| i.path.clone()).unwrap_or_default();
        return Err(Error::file(path, "no branch is in the adapter"));
    }
    Ok(modules.into_values().collect())
}

/// The factor of a module's branch.
fn scale(c: &LoraConfig, alphas: &Matcher, module: &str, rank: usize) -> Result<f64> {
    let alpha = alphas.first(module)?.map_or(c.alpha, |i| c.alpha_pattern[i].1);
    Ok(alpha / if c.rslora { (rank as f64).sqrt() } else { rank as f64 })
}
