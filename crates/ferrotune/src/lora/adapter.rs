//! An adapter: what is trained beside a frozen model.

use std::collections::{BTreeMap, BTreeSet};

use ferrotune_kernels::ops::linear::Matrix;
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{Device, Tensor, Weight};

use super::config::{Init, LoraConfig};
use super::experts::{StackIds, expand, join};
use super::init::initial_branches;
use super::kinds::{Fresh, InitialBranch, kind, random_a};
use super::layout::{Layout, Part, Slot, choose, lay_out};
use super::targets::Targets;
use crate::Result;
use crate::model::parts::{Base, LinearLayer, Vector};
use crate::model::{Adapted, Decoder, ParamId, Params};

/// The trained part of a model. Many can stand beside one base; a [`Pass`](crate::model::Pass) takes one of them.
#[derive(Debug)]
pub struct Adapter {
    /// Its constants.
    pub config: LoraConfig,
    /// Every trained tensor, under PEFT's name without its prefix.
    pub params: Params,
    /// Where they belong.
    pub adapted: Adapted,
    /// Names of the parameters that are vectors in files.
    vectors: BTreeSet<String>,
    /// A and B that were moved out of the frozen weights, by the linear's number.
    pub(super) moved: BTreeMap<usize, (Vec<f32>, Vec<f32>)>,
    /// Parameters that are parts of stacked tensors in files.
    stacks: Vec<StackIds>,
}

impl Adapter {
    /// Whether it changes a linear: its weight, or what is beside it.
    pub(crate) fn changes(&self, l: &LinearLayer) -> bool {
        let own = self.adapted.at(l.id).is_some() || self.adapted.bases.contains_key(&l.id);
        own || self.adapted.replaced.contains_key(&l.name)
    }

    /// A fresh adapter under `seed`, which begins as the base does: B is zero, or what it adds was taken out of the base.
    pub fn init(dev: &Device, model: &Decoder, config: LoraConfig, seed: u64) -> Result<Self> {
        let config = expand(model, config);
        let chosen = choose(model, &config)?;
        chosen.check_used(model, &config)?;
        let initial = initial_branches(&dev.threads(), &config, &chosen.linears)?;
        let mut make = |slot: &Slot<'_>| Ok(first_value(dev, &config, &initial, seed, slot));
        let mut layout = lay_out(dev, model, &config, &chosen, &mut make)?;
        for (at, ids) in chosen.linears.iter().zip(&layout.linears) {
            let weight = match (&at.linear.base, initial.get(&at.linear.id)) {
                (_, Some(start)) => Matrix::Frozen(&start.base),
                (Base::Frozen(own), None) => Matrix::Frozen(own),
                (Base::Trained(_), None) => continue,
            };
            kind(&config).settle(dev, weight, *at, ids, &mut layout.params)?;
        }
        Ok(Self::assemble(config, layout, initial))
    }

    /// Lengths of the tensors that a fresh adapter would have, and the values that a token keeps for it from the forward to
    /// the backward; no tensor is made.
    pub fn sizes(dev: &Device, model: &Decoder, config: LoraConfig) -> Result<(Vec<usize>, usize)> {
        let config = expand(model, config);
        let chosen = choose(model, &config)?;
        chosen.check_used(model, &config)?;
        let mut lengths = Vec::new();
        let mut make = |slot: &Slot<'_>| {
            lengths.push(slot.rows * slot.cols);
            Ok(match slot.part {
                // These are cut into parts of the experts.
                Part::StackA | Part::StackB => dev.zeros(slot.rows, slot.cols),
                _ => dev.zeros(1, 1),
            })
        };
        lay_out(dev, model, &config, &chosen, &mut make)?;
        let kind = kind(&config);
        Ok((lengths, chosen.linears.iter().map(|at| kind.kept_per_token(*at)).sum()))
    }

    /// An adapter whose tensors `make` gives; the frozen weights that its initialisation changed are made again.
    pub(super) fn build<'m>(
        dev: &Device,
        model: &'m Decoder,
        config: LoraConfig,
        make: &mut dyn FnMut(&Slot<'m>) -> Result<Tensor>,
    ) -> Result<Self> {
        let chosen = choose(model, &config)?;
        let layout = lay_out(dev, model, &config, &chosen, make)?;
        let initial = initial_branches(&dev.threads(), &config, &chosen.linears)?;
        Ok(Self::assemble(config, layout, initial))
    }

    fn assemble(config: LoraConfig, layout: Layout, initial: BTreeMap<usize, InitialBranch>) -> Self {
        let Layout { params, mut adapted, vectors, stacks, .. } = layout;
        let mut moved = BTreeMap::new();
        for (id, start) in initial {
            adapted.bases.insert(id, start.base);
            if config.init != Init::Loftq {
                moved.insert(id, (start.a, start.b));
            }
        }
        Adapter { config, params, adapted, vectors, moved, stacks }
    }

    /// The frozen weight that a linear's branch stands beside, if it is not the model's own.
    pub fn changed_base(&self, linear: &LinearLayer) -> Option<&Weight> {
        self.adapted.bases.get(&linear.id)
    }

    /// What files hold of the parameters (or of their gradients, or whatever `of` gives): names, shapes, values.
    pub fn tensors<'t>(&self, of: &dyn Fn(ParamId) -> &'t Tensor) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let stacked =
            self.stacks.iter().flat_map(|s| s.experts.iter().flat_map(|(a, b)| [a].into_iter().chain(b)));
        let stacked: BTreeSet<ParamId> = stacked.copied().collect();
        let one = |name: &String| {
            let id = self.params.find(name).filter(|id| !stacked.contains(id))?;
            let value = of(id);
            let shape = if self.vectors.contains(name) { vec![value.len()] } else { value.shape().to_vec() };
            Some((name.clone(), shape, value.host_f32().to_vec()))
        };
        let plain = self.params.names().iter().filter_map(one);
        plain.chain(self.stacks.iter().flat_map(|s| join(s, of))).collect()
    }

    /// What PEFT saves as `target_modules`: the choice itself, or the last parts of the linears' names, sorted. Where PEFT's
    /// model has more than the network, it chooses in the network alone.
    pub fn target_modules(&self, model: &Decoder) -> Targets {
        let outside = model.arch.tree.carried;
        if !outside.is_empty() && self.config.layers_to_transform.is_some() {
            // PEFT takes no pattern beside layers.
            return Targets::Names(self.paths(model));
        }
        match self.config.targets {
            Targets::AllLinear => self.last_parts(model).but_in(outside),
            _ => self.config.targets.but_in(outside),
        }
    }

    /// The paths of all modules that have a branch.
    fn paths(&self, model: &Decoder) -> Vec<String> {
        let linears = model.targets().into_iter().filter(|l| self.adapted.at(l.id).is_some());
        let embedding = self.adapted.embedding.map(|_| model.arch.tree.embedding.to_string());
        linears.map(|l| l.name.clone()).chain(embedding).collect()
    }

    fn last_parts(&self, model: &Decoder) -> Targets {
        let names: BTreeSet<String> = model
            .linears()
            .iter()
            .filter(|l| self.adapted.at(l.id).is_some())
            .map(|l| l.name.rsplit('.').next().unwrap_or(&l.name).to_string())
            .collect();
        Targets::Names(names.into_iter().collect())
    }
}

fn first_value(
    dev: &Device,
    config: &LoraConfig,
    initial: &BTreeMap<usize, InitialBranch>,
    seed: u64,
    slot: &Slot<'_>,
) -> Tensor {
    let mut t = dev.zeros(slot.rows, slot.cols);
    let out = t.host_f32_mut();
    match &slot.part {
        Part::Linear(at, spec) => {
            let fresh = Fresh { config, at: *at, seed, initial: initial.get(&at.linear.id) };
            kind(config).init(&fresh, spec, out);
        }
        // The other way round than in a linear: A is zero, B normal.
        Part::EmbeddingB => {
            let stream = Stream::new(seed, &slot.name, 0);
            out.iter_mut().enumerate().for_each(|(i, v)| *v = stream.normal(i as u64));
        }
        Part::Matrix(base) => read_rows(base, 0..slot.rows, out),
        Part::Vector(vector) => {
            if let Vector::Frozen(values) = vector {
                out.copy_from_slice(values.host_f32());
            }
        }
        Part::Rows(table) => read_rows(table, config.trainable_tokens.iter().map(|id| *id as usize), out),
        Part::StackA => {
            let stream = Stream::new(seed, &slot.name, 0);
            let (rank, cols) = (config.rank, slot.cols);
            random_a(config.init, &stream, rank, cols, out);
        }
        Part::StackB | Part::EmbeddingA => {}
    }
    t
}

/// Rows of a frozen matrix.
fn read_rows(base: &Base, rows: impl IntoIterator<Item = usize>, out: &mut [f32]) {
    let Base::Frozen(weight) = base else { return };
    for (row, out) in rows.into_iter().zip(out.chunks_exact_mut(weight.cols())) {
        weight.decode(row, 0, out);
    }
}
