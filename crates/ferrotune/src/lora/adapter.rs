//! An adapter: the A and B of every targeted linear.

use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{Device, Tensor};

use super::config::{Init, LoraConfig};
use crate::Result;
use crate::model::linear::BranchIds;
use crate::model::{Decoder, Params};

/// LoRA branches for a model. Many can stand beside one base; a [`Pass`](crate::model::Pass) takes one of them.
#[derive(Debug)]
pub struct Adapter {
    /// Its constants.
    pub config: LoraConfig,
    /// A and B of each branch, named `<module path>.lora_A.weight` and `<module path>.lora_B.weight`.
    pub params: Params,
    /// The branch of each linear of the model.
    pub branches: Vec<Option<BranchIds>>,
}

impl Adapter {
    /// Fresh branches: A random under `seed`, B zero.
    pub fn init(dev: &Device, model: &Decoder, config: LoraConfig, seed: u64) -> Result<Self> {
        Self::build(model, config, |name, part, rows, cols, config| {
            let mut t = dev.zeros(rows, cols);
            if part == "lora_A" {
                let stream = Stream::new(seed, &format!("{name}.lora_A"), 0);
                let bound = 1.0 / (cols as f32).sqrt();
                for (i, v) in t.f32_mut().iter_mut().enumerate() {
                    *v = match config.init {
                        Init::Kaiming => (2.0 * stream.uniform(i as u64) - 1.0) * bound,
                        Init::Gaussian => stream.normal(i as u64) / config.rank as f32,
                    };
                }
            }
            Ok(t)
        })
    }

    /// Branches whose tensors `make(module path, "lora_A" | "lora_B", rows, cols, config)` gives.
    pub fn build(
        model: &Decoder,
        config: LoraConfig,
        mut make: impl FnMut(&str, &str, usize, usize, &LoraConfig) -> Result<Tensor>,
    ) -> Result<Self> {
        let linears = model.linears();
        let names: Vec<&str> = linears.iter().map(|l| l.name.as_str()).collect();
        let chosen = config.targets.select(&names)?;
        let mut params = Params::default();
        let mut branches = Vec::with_capacity(linears.len());
        for (l, chosen) in linears.iter().zip(chosen) {
            branches.push(if chosen {
                let a = make(&l.name, "lora_A", config.rank, l.cols, &config)?;
                let b = make(&l.name, "lora_B", l.rows, config.rank, &config)?;
                let a = params.push(format!("{}.lora_A.weight", l.name), a);
                let b = params.push(format!("{}.lora_B.weight", l.name), b);
                Some(BranchIds { a, b, scale: config.scale(), dropout: config.dropout })
            } else {
                None
            });
        }
        Ok(Adapter { config, params, branches })
    }

    /// The last parts of the targeted linears' names, sorted: what PEFT saves as `target_modules`.
    pub fn target_modules(&self, model: &Decoder) -> Vec<String> {
        let linears = model.linears();
        let mut names: Vec<String> = linears
            .iter()
            .zip(&self.branches)
            .filter(|(_, b)| b.is_some())
            .map(|(l, _)| l.name.rsplit('.').next().unwrap_or(&l.name).to_string())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}
