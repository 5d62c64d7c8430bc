//! AdamW with 32-bit state.

use std::fs::File;
use std::sync::Arc;

use ferrotune_kernels::ops::adamw;
use ferrotune_kernels::tensor::Pool;
use ferrotune_kernels::{Device, Tensor};

use super::{Entry, Optimizer, ReadTensor, Saved};
use crate::formats::atomic;
use crate::model::{Gradients, Group, Params};
use crate::run_config::OptimizerKind;
use crate::units::human;
use crate::{Error, Result};

/// Constants of AdamW; the defaults are PyTorch's, without weight decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay rates of the moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay of the parameters.
    pub weight_decay: f64,
    /// Decay everything, or spare norms and biases as `transformers.Trainer` does.
    pub decay_norms_and_biases: bool,
    /// Other learning rates for parts of an adapter.
    pub loraplus: Option<LoraPlus>,
}

/// LoRA+ (Hayou et al. 2024), grouped as PEFT does: B and all vectors learn faster than A.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraPlus {
    /// Learning rate of B and of vectors, as a share of A's.
    pub ratio: f64,
    /// Learning rate of the embedding's branch, as a share of A's.
    pub embedding: f64,
}

impl LoraPlus {
    /// The learning rate of a group as a share of A's.
    fn factor(self, group: Group) -> f64 {
        match group {
            Group::Matrix => 1.0,
            Group::BranchOutput | Group::BiasOrNorm => self.ratio,
            Group::EmbeddingBranch => self.embedding,
        }
    }
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig {
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            decay_norms_and_biases: false,
            loraplus: None,
        }
    }
}

impl AdamWConfig {
    /// Whether parameters of a group decay, and their learning rate as a share of the step's.
    pub(super) fn of_group(&self, group: Group) -> (bool, f64) {
        let decays = self.decay_norms_and_biases || group != Group::BiasOrNorm;
        (decays, self.loraplus.map_or(1.0, |l| l.factor(group)))
    }

    /// The constants of one update.
    pub(super) fn constants(&self, lr: f64, step: u64, grad_scale: f32) -> adamw::AdamW {
        let AdamWConfig { betas, eps, weight_decay, .. } = *self;
        adamw::AdamW { lr, betas, eps, weight_decay, step, grad_scale }
    }
}

/// AdamW with its moments in memory.
pub(super) const ADAMW: Entry = Entry {
    kind: OptimizerKind::Adamw,
    init: |dev, params, config, _| Ok(Box::new(AdamW::new(dev, params, config))),
    state_bytes: |lengths| lengths.iter().map(|len| 8 * len).sum(),
};

/// AdamW with its moments in a file of the scratch folder.
pub(super) const PAGED_ADAMW: Entry = Entry {
    kind: OptimizerKind::PagedAdamw,
    init: |_, params, config, scratch| {
        let paged = AdamW::paged(params, config, atomic::scratch(scratch)?);
        Ok(Box::new(paged.map_err(|e| {
            let bytes = human(8 * params.elements() as u64);
            Error::file(scratch, format!("the optimizer's moments take {bytes} of disk there: {e}"))
                .with_hint("make room, or use train.optimizer=adamw8bit, which needs no disk")
        })?))
    },
    // What is at work and what is read meanwhile, and a tensor that is written.
    state_bytes: |lengths| {
        let whole = lengths.iter().map(|len| 8 * len).sum();
        let largest = lengths.iter().max().map_or(0, |len| 4 * len);
        (2 * adamw::PAGED_WINDOW + largest).min(whole)
    },
};

/// AdamW and its moments.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    m: Vec<Tensor>,
    v: Vec<Tensor>,
    steps: u64,
}

impl AdamW {
    /// Zero moments for every parameter.
    pub fn new(dev: &Device, params: &Params, config: AdamWConfig) -> Self {
        let zeros = || params.iter().map(|(_, p)| dev.zeros(p.rows(), p.cols())).collect();
        AdamW { config, m: zeros(), v: zeros(), steps: 0 }
    }

    /// AdamW with moments in a file that nobody else uses, as bitsandbytes' `PagedAdamW`: where memory is short the system
    /// takes theirs, and a step waits for the disk instead of failing. Same bits.
    pub fn paged(params: &Params, config: AdamWConfig, file: File) -> std::io::Result<Self> {
        // A buffer begins at a line of 16 words.
        let words = params.iter().map(|(_, p)| 2 * p.len().next_multiple_of(16)).sum();
        let pool = Arc::new(Pool::in_file(file, words));
        let (mut m, mut v) = (Vec::new(), Vec::new());
        // In the order of a step.
        for (_, p) in params.iter() {
            m.push(pool.zeros_in_file(p.rows(), p.cols())?);
            v.push(pool.zeros_in_file(p.rows(), p.cols())?);
        }
        Ok(AdamW { config, m, v, steps: 0 })
    }
}

impl Optimizer for AdamW {
    fn begin(&mut self) {
        self.steps += 1;
    }

    fn update(
        &mut self,
        dev: &Device,
        params: &mut Params,
        grads: &Gradients,
        lr: f64,
        grad_scale: f32,
    ) -> Result<()> {
        let constants = self.config.constants(lr, self.steps, grad_scale);
        let how: Vec<_> = params.groups().iter().map(|group| self.config.of_group(*group)).collect();
        let all = params
            .with_copies_mut()
            .zip(grads.each())
            .zip(self.m.iter_mut().zip(&mut self.v))
            .zip(how)
            .filter_map(|((((value, copy), grad), (m, v)), (decay, lr_factor))| {
                Some(adamw::Param { value, grad: grad?, m, v, copy, decay, lr_factor })
            });
        let mut list: Vec<_> = all.collect();
        Ok(adamw::update(dev, constants, &mut list)?)
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn state(&self, params: &Params) -> Vec<(String, Saved<'_>)> {
        let part = |part: &'static str, tensors| {
            let named = move |(n, t): (&String, _)| (format!("{n}.{part}"), Saved::Tensor(t));
            params.names().iter().zip::<&Vec<Tensor>>(tensors).map(named)
        };
        part("exp_avg", &self.m).chain(part("exp_avg_sq", &self.v)).collect()
    }

    fn restore(&mut self, params: &Params, steps: u64, read: &mut ReadTensor<'_>) -> Result<()> {
        for (part, tensors) in [("exp_avg", &mut self.m), ("exp_avg_sq", &mut self.v)] {
            for (name, t) in params.names().iter().zip(tensors) {
                let values = read(&format!("{name}.{part}"), t.shape())?;
                t.host_f32_mut().copy_from_slice(&values);
                t.release();
            }
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrotune_kernels::cpu::{Cpu, Isa};
    use ferrotune_kernels::rng::Stream;

    #[test]
    fn moments_in_a_file_give_the_same_bits() {
        let all = [Device::reference(), Device::Cpu(Cpu::new(2, Isa::detect()).unwrap())];
        for dev in all {
            // More than one window, and a tensor that begins inside one.
            let shapes = [[3, 5], [1300, 1700], [900, 1100], [1, 7]];
            let filled = |seed: u64| {
                shapes.iter().enumerate().map(move |(i, [rows, cols])| {
                    let s = Stream::new(seed, "paged", i as u64);
                    (*rows, *cols, (0..(rows * cols) as u64).map(|n| s.normal(n)).collect::<Vec<f32>>())
                })
            };
            let params = || {
                let mut params = Params::default();
                for (i, (rows, cols, values)) in filled(1).enumerate() {
                    params.push(format!("p{i}"), dev.tensor(rows, cols, &values));
                }
                params
            };
            let (mut plain, mut paged) = (params(), params());
            let folder = tempfile::tempdir().unwrap();
            let file = crate::formats::atomic::scratch(folder.path()).unwrap();
            let config = AdamWConfig { weight_decay: 0.01, ..AdamWConfig::default() };
            let mut a = AdamW::new(&dev, &plain, config);
            let mut b = AdamW::paged(&paged, config, file).unwrap();
            for step in 0..3 {
                let mut grads = Gradients::zeros(&dev, &plain);
                for (i, (rows, cols, values)) in filled(2 + step).enumerate() {
                    let id = plain.find(&format!("p{i}")).unwrap();
                    grads.put(id, dev.tensor(rows, cols, &values));
                }
                a.step(&dev, &mut plain, &grads, 1e-2, 0.5).unwrap();
                b.step(&dev, &mut paged, &grads, 1e-2, 0.5).unwrap();
            }
            let same = |x: &Tensor, y: &Tensor| {
                x.host_f32().iter().zip(y.host_f32()).all(|(x, y)| x.to_bits() == y.to_bits())
            };
            assert!(plain.iter().zip(paged.iter()).all(|((_, x), (_, y))| same(x, y)));
            assert!(
                a.m.iter().chain(&a.v).zip(b.m.iter().chain(&b.v)).all(|(x, y)| same(x, y) && y.in_file())
            );
        }
    }
}
