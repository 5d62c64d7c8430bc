//! LoRA (Hu et al. 2021): `h = Wx + s BAx`, which the linear's own product sums in one pass.

use ferrotune_kernels::rng::Stream;

use super::{Fresh, Kind, Place, TensorSpec};
use crate::formats::adapter::{AdapterKind, Init, LoraConfig};
use crate::model::pass::{LinearAdapter, LowRank, Product};
use crate::model::{Group, ParamId, Params};
use crate::{Error, Result};

/// The kind.
pub(super) struct Lora;

impl Kind for Lora {
    fn is_asked_for(&self, config: &LoraConfig) -> bool {
        config.adapter == AdapterKind::Lora && !config.dora
    }

    fn check(&self, config: &LoraConfig) -> Result<()> {
        if config.lora_bias && config.init != Init::Kaiming {
            return Err(
                Error::config("lora_bias", "needs the default init").with_hint("PEFT refuses others too")
            );
        }
        Ok(())
    }

    fn beyond_low_rank(&self, config: &LoraConfig) -> Option<&'static str> {
        config.lora_bias.then_some("lora_bias")
    }

    fn tensors(&self, config: &LoraConfig, at: Place<'_>) -> Vec<TensorSpec> {
        let mut tensors = factors(at).to_vec();
        if config.lora_bias {
            tensors.push(TensorSpec {
                name: "lora_B.bias",
                rows: 1,
                cols: at.linear.rows,
                vector: true,
                group: Group::BiasOrNorm,
                asked_by: "lora_bias",
            });
        }
        tensors
    }

    fn init(&self, fresh: &Fresh<'_>, tensor: &TensorSpec, out: &mut [f32]) {
        init_factor(fresh, tensor, out);
    }

    fn linear(&self, config: &LoraConfig, at: Place<'_>, ids: &[ParamId]) -> Box<dyn LinearAdapter> {
        Box::new(LowRank { bias: ids.get(2).copied(), ..low_rank(config, at, ids) })
    }

    fn kept_per_token(&self, at: Place<'_>) -> usize {
        at.rank
    }
}

/// `A [R, K]` and `B [N, R]`.
pub(super) fn factors(at: Place<'_>) -> [TensorSpec; 2] {
    let a = TensorSpec {
        name: "lora_A.weight",
        rows: at.rank,
        cols: at.linear.cols,
        vector: false,
        group: Group::Matrix,
        asked_by: "target_modules",
    };
    let (rows, cols) = (at.linear.rows, at.rank);
    [a, TensorSpec { name: "lora_B.weight", rows, cols, group: Group::BranchOutput, ..a }]
}

/// The first values of A or B: A is random and B zero, or both were taken out of the frozen weight.
pub(super) fn init_factor(fresh: &Fresh<'_>, tensor: &TensorSpec, out: &mut [f32]) {
    match (tensor.name, fresh.initial) {
        ("lora_A.weight", Some(start)) => out.copy_from_slice(&start.a),
        ("lora_B.weight", Some(start)) => out.copy_from_slice(&start.b),
        ("lora_A.weight", None) => {
            let stream = Stream::new(fresh.seed, &format!("{}.lora_A", fresh.at.linear.name), 0);
            random_a(fresh.config.init, &stream, tensor.rows, tensor.cols, out);
        }
        _ => {}
    }
}

/// Random values of an A with `cols` inputs.
pub(in crate::lora) fn random_a(init: Init, stream: &Stream, rank: usize, cols: usize, out: &mut [f32]) {
    let bound = 1.0 / (cols as f32).sqrt();
    for (i, v) in out.iter_mut().enumerate() {
        *v = match init {
            Init::Gaussian => stream.normal(i as u64) / rank as f32,
            _ => (2.0 * stream.uniform(i as u64) - 1.0) * bound,
        };
    }
}

/// The branch whose A and B are the first two parameters.
pub(super) fn low_rank(config: &LoraConfig, at: Place<'_>, ids: &[ParamId]) -> LowRank {
    LowRank { a: ids[0], b: ids[1], bias: None, scale: at.scale, dropout: config.dropout as f32 }
}

impl LinearAdapter for LowRank {
    fn product(&self) -> Product<'_> {
        Product::WithBranch(*self)
    }

    fn fold(&self, params: &Params, cols: usize, weight: &mut [f32]) {
        let (a, b) = (params.get(self.a), params.get(self.b));
        let mut sum = vec![0.0; cols];
        for (weight, b) in weight.chunks_exact_mut(cols).zip(b.host_f32().chunks_exact(b.cols())) {
            plus_product(weight, a.host_f32(), b, self.scale as f64, &mut sum);
            weight.iter_mut().zip(&sum).for_each(|(w, s)| *w = *s as f32);
        }
    }

    fn fold_bias(&self, params: &Params, bias: &mut [f32]) {
        let Some(own) = self.bias else { return };
        let own = params.get(own).host_f32();
        bias.iter_mut().zip(own).for_each(|(o, b)| *o = (*o as f64 + self.scale as f64 * *b as f64) as f32);
    }

    fn needs_bias(&self) -> Option<&'static str> {
        self.bias.map(|_| "lora_B.bias")
    }
}

/// A row of `W + s B A` in f64, of that of B: `sum` is written.
pub(in crate::lora) fn plus_product(w: &[f32], a: &[f32], b: &[f32], scale: f64, sum: &mut [f64]) {
    sum.fill(0.0);
    for (b, a) in b.iter().zip(a.chunks_exact(w.len())) {
        sum.iter_mut().zip(a).for_each(|(s, a)| *s += *b as f64 * *a as f64);
    }
    sum.iter_mut().zip(w).for_each(|(s, w)| *s = *w as f64 + scale * *s);
}
