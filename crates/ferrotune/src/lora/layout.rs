//! Which tensors an adapter has: from its constants and the model to parameters under PEFT's names.

use std::collections::BTreeSet;

use ferrotune_kernels::{Device, Tensor};

use super::config::{Init, LoraConfig, TrainedBiases};
use super::experts::{Stack, StackIds, chosen as chosen_stacks, split};
use super::kinds::{Place, TensorSpec, kind};
use super::targets::{check_used, select, unmatched};
use crate::model::norm::{Norm, NormOf};
use crate::model::parts::{Base, LinearLayer, Vector};
use crate::model::pass::{Adapted, EmbeddingIds, LowRank, TokenIds};
use crate::model::{Decoder, Group, ParamId, Params};
use crate::{Error, Result};

/// A tensor of an adapter that is to be made.
pub(super) struct Slot<'m> {
    /// Its name, without PEFT's prefix.
    pub(super) name: String,
    /// Rows; 1 for a vector.
    pub(super) rows: usize,
    /// Columns.
    pub(super) cols: usize,
    /// Whether it is a vector in files.
    pub(super) vector: bool,
    /// What it is.
    pub(super) part: Part<'m>,
}

impl Slot<'_> {
    /// The shape in files.
    pub(super) fn shape(&self) -> Vec<usize> {
        if self.vector { vec![self.cols] } else { vec![self.rows, self.cols] }
    }

    /// The key of `adapter_config.json` that asks for it.
    pub(super) fn asked_by(&self) -> &'static str {
        match self.part {
            Part::Linear(_, spec) => spec.asked_by,
            Part::EmbeddingA | Part::EmbeddingB => "target_modules",
            Part::StackA | Part::StackB => "target_parameters",
            Part::Vector(_) if self.name.ends_with(".bias") => "bias (or modules_to_save)",
            Part::Matrix(_) | Part::Vector(_) => "modules_to_save",
            Part::Rows(_) => "trainable_token_indices",
        }
    }
}

/// What a tensor of an adapter is.
pub(super) enum Part<'m> {
    /// What a kind has at a linear.
    Linear(Place<'m>, TensorSpec),
    /// A of all experts.
    StackA,
    /// B of all experts.
    StackB,
    /// A of the embedding.
    EmbeddingA,
    /// B of the embedding.
    EmbeddingB,
    /// A trained copy of a matrix.
    Matrix(&'m Base),
    /// A trained copy of a vector.
    Vector(&'m Vector),
    /// Trained rows of the embedding.
    Rows(&'m Base),
}

impl Part<'_> {
    /// Its group, as PEFT's LoRA+ and transformers' weight decay have it.
    fn group(&self) -> Group {
        match self {
            Part::Linear(_, spec) => spec.group,
            Part::StackA | Part::Matrix(_) | Part::Rows(_) => Group::Matrix,
            Part::StackB => Group::BranchOutput,
            Part::EmbeddingA | Part::EmbeddingB => Group::EmbeddingBranch,
            Part::Vector(_) => Group::BiasOrNorm,
        }
    }
}

/// The parameters of an adapter and where they belong.
pub(super) struct Layout {
    pub(super) params: Params,
    pub(super) adapted: Adapted,
    /// The parameters of each targeted linear.
    pub(super) linears: Vec<Vec<ParamId>>,
    /// Names of the parameters that are vectors in files.
    pub(super) vectors: BTreeSet<String>,
    /// What stacked tensors were split into.
    pub(super) stacks: Vec<StackIds>,
}

/// The targeted linears, and rank and scale of the embedding if it is targeted.
pub(super) struct Chosen<'m> {
    pub(super) linears: Vec<Place<'m>>,
    embedding: Option<(usize, f32)>,
    stacks: Vec<Stack<'m>>,
}

/// Chooses the modules that get a branch; refuses what cannot stand together.
pub(super) fn choose<'m>(model: &'m Decoder, config: &LoraConfig) -> Result<Chosen<'m>> {
    let linears = model.targets();
    let mut names: Vec<&str> = linears.iter().map(|l| l.name.as_str()).collect();
    names.push(model.arch.tree.embedding);
    let chosen = select(config, &names)?;
    let constants = config.branches(&names)?;
    let last = names.len() - 1;
    let embedding = chosen[last].then_some(constants[last]);
    let tied = model.lm_head.is_none()
        && chosen[..last].iter().zip(&linears).any(|(c, l)| *c && l.id == model.head().id);
    check(model, config, embedding.is_some(), tied)?;
    let linears = linears.into_iter().zip(&chosen).zip(&constants);
    let linears = linears.filter(|((_, c), _)| **c);
    let linears =
        linears.map(|((linear, _), (rank, scale))| Place { linear, rank: *rank, scale: *scale }).collect();
    Ok(Chosen { linears, embedding, stacks: chosen_stacks(model, config)? })
}

impl Chosen<'_> {
    /// Refuses parts of the configuration that stand for nothing in this model.
    pub(super) fn check_used(&self, model: &Decoder, config: &LoraConfig) -> Result<()> {
        let mut modules: Vec<&str> = model.targets().iter().map(|l| l.name.as_str()).collect();
        modules.push(model.arch.tree.embedding);
        let mut targeted: Vec<&str> = self.linears.iter().map(|at| at.linear.name.as_str()).collect();
        targeted.extend(self.embedding.map(|_| model.arch.tree.embedding));
        let stacked: Vec<String> =
            self.stacks.iter().map(|s| format!("{}.{}", s.module, s.parameter)).collect();
        targeted.extend(stacked.iter().map(String::as_str));
        check_used(config, &modules, &targeted)
    }
}

fn check(model: &Decoder, config: &LoraConfig, embedding: bool, tied_head: bool) -> Result<()> {
    let refuse = |key: &str, problem: &str, hint: &str| Err(Error::config(key, problem).with_hint(hint));
    let kind = kind(config);
    kind.check(config)?;
    let plain = kind.beyond_low_rank(config).is_none() && config.init != Init::Loftq;
    if embedding && !plain {
        let problem = "`embed_tokens` takes a plain branch only";
        return refuse("targets", problem, "leave out dora, lora_bias and init loftq, or this target");
    }
    let tokens = &config.trainable_tokens;
    if tokens.is_empty() {
        return Ok(());
    }
    if embedding || whole(model.arch.tree.embedding, &config.modules_to_save) {
        let problem = "the embedding is trained in another way already";
        return refuse("trainable_tokens", problem, "take embed_tokens out of targets and modules_to_save");
    }
    if tied_head {
        let problem = "the embedding is the head too, which is targeted by a branch";
        return refuse("trainable_tokens", problem, "take lm_head out of targets");
    }
    let mut seen = BTreeSet::new();
    if let Some(id) = tokens.iter().find(|id| !seen.insert(**id) || **id as usize >= model.arch.vocab) {
        let problem = format!("{id} stands twice or is not below the vocabulary of {}", model.arch.vocab);
        return refuse("trainable_tokens", &problem, "ids of the tokenizer, each once");
    }
    Ok(())
}

/// Whether a module is trained whole: it, or a module around it, ends with one of the names.
pub(super) fn whole(path: &str, names: &[String]) -> bool {
    let ends = path.match_indices('.').map(|(i, _)| i).chain([path.len()]);
    ends.into_iter().any(|end| names.iter().any(|name| path[..end].ends_with(name.as_str())))
}

/// Makes every parameter with `make` and says where it belongs.
pub(super) fn lay_out<'m>(
    dev: &Device,
    model: &'m Decoder,
    config: &LoraConfig,
    chosen: &Chosen<'m>,
    make: &mut dyn FnMut(&Slot<'m>) -> Result<Tensor>,
) -> Result<Layout> {
    let layout = Layout {
        params: Params::default(),
        adapted: Adapted::default(),
        linears: Vec::new(),
        vectors: BTreeSet::new(),
        stacks: Vec::new(),
    };
    let mut b = Builder { layout, make };
    let embedding = model.arch.tree.embedding;
    for at in &chosen.linears {
        b.linear(*at, config)?;
    }
    for stack in &chosen.stacks {
        b.stack(dev, stack)?;
    }
    if let Some((rank, scale)) = chosen.embedding {
        let (v, d) = (model.arch.vocab, model.arch.hidden);
        let a = b.matrix(format!("{embedding}.lora_embedding_A"), rank, v, Part::EmbeddingA)?;
        let ids = b.matrix(format!("{embedding}.lora_embedding_B"), d, rank, Part::EmbeddingB)?;
        b.layout.adapted.embedding = Some(EmbeddingIds { a, b: ids, scale });
    }
    b.whole_modules(model, config)?;
    b.biases(model, config)?;
    if !config.trainable_tokens.is_empty() {
        let ids = config.trainable_tokens.clone();
        let name = format!("{embedding}.token_adapter.trainable_tokens_delta");
        let rows = b.matrix(name, ids.len(), model.arch.hidden, Part::Rows(&model.embed))?;
        b.layout.adapted.tokens = Some(TokenIds { ids, rows });
    }
    Ok(b.layout)
}

struct Builder<'a, 'm> {
    layout: Layout,
    make: &'a mut dyn FnMut(&Slot<'m>) -> Result<Tensor>,
}

impl<'m> Builder<'_, 'm> {
    fn push(&mut self, slot: Slot<'m>) -> Result<ParamId> {
        let value = (self.make)(&slot)?;
        if slot.vector {
            self.layout.vectors.insert(slot.name.clone());
        }
        Ok(self.layout.params.push_in(slot.part.group(), slot.name, value))
    }

    fn matrix(&mut self, name: String, rows: usize, cols: usize, part: Part<'m>) -> Result<ParamId> {
        self.push(Slot { name, rows, cols, vector: false, part })
    }

    fn vector(&mut self, name: String, cols: usize, part: Part<'m>) -> Result<ParamId> {
        self.push(Slot { name, rows: 1, cols, vector: true, part })
    }

    fn linear(&mut self, at: Place<'m>, config: &LoraConfig) -> Result<()> {
        let kind = kind(config);
        let slot = |spec: &TensorSpec| Slot {
            name: format!("{}.{}", at.linear.name, spec.name),
            rows: spec.rows,
            cols: spec.cols,
            vector: spec.vector,
            part: Part::Linear(at, *spec),
        };
        let tensors = kind.tensors(config, at);
        let ids = tensors.iter().map(|spec| self.push(slot(spec))).collect::<Result<Vec<ParamId>>>()?;
        self.layout.adapted.put(at.linear.id, kind.linear(config, at, &ids));
        self.layout.linears.push(ids);
        Ok(())
    }

    /// A stacked A and B, split into those of every expert.
    fn stack(&mut self, dev: &Device, stack: &Stack<'m>) -> Result<()> {
        let taken = |l: &&&LinearLayer| self.layout.adapted.at(l.id).is_some();
        if let Some(l) = stack.experts.iter().flatten().find(taken) {
            let problem = format!("`{}` is targeted as a linear too", l.name);
            return Err(Error::config("target_parameters", problem));
        }
        let [[ar, ac], [br, bc]] = stack.shapes();
        let mut whole = |part: &str, rows, cols, what| {
            let name = format!("{}.{part}.weight", stack.prefix);
            (self.make)(&Slot { name, rows, cols, vector: false, part: what })
        };
        let (a, b) = (whole("lora_A", ar, ac, Part::StackA)?, whole("lora_B", br, bc, Part::StackB)?);
        let mut experts = Vec::with_capacity(stack.experts.len());
        for (e, ((a, bs), linears)) in split(dev, stack, &a, &b).into_iter().zip(&stack.experts).enumerate() {
            let name = format!("{}.{e}.{}.lora_A.weight", stack.module, stack.parameter);
            let a = self.layout.params.push(name, a);
            let mut ids = Vec::with_capacity(linears.len());
            for (l, b) in linears.iter().zip(bs) {
                let b =
                    self.layout.params.push_in(Group::BranchOutput, format!("{}.lora_B.weight", l.name), b);
                let branch = LowRank { a, b, bias: None, scale: stack.branch.1, dropout: 0.0 };
                self.layout.adapted.put(l.id, Box::new(branch));
                ids.push(b);
            }
            experts.push((a, ids));
        }
        self.layout.stacks.push(StackIds { prefix: stack.prefix.clone(), in_turn: stack.in_turn, experts });
        Ok(())
    }

    /// Trained copies of whole modules; refuses a name that no module has.
    fn whole_modules(&mut self, model: &'m Decoder, config: &LoraConfig) -> Result<()> {
        let names = &config.modules_to_save;
        if names.is_empty() {
            return Ok(());
        }
        let mut all: Vec<&str> = vec![model.arch.tree.embedding, &model.head().name];
        all.extend(model.linears().iter().map(|l| l.name.as_str()));
        // Norms of single heads lie in one vector here and are modules of their own there.
        let norms: Vec<&Norm> =
            model.norms().into_iter().filter(|n| !matches!(n.of, NormOf::Modules(_))).collect();
        all.extend(norms.iter().map(|n| n.name.as_str()));
        if let Some(name) = names.iter().find(|n| !all.iter().any(|m| whole(m, std::slice::from_ref(n)))) {
            return Err(unmatched("modules_to_save", name, &all));
        }
        if whole(model.arch.tree.embedding, names) {
            let (v, d) = (model.arch.vocab, model.arch.hidden);
            let name = model.arch.embedding_weight();
            self.layout.adapted.table = Some(self.matrix(name, v, d, Part::Matrix(&model.embed))?);
        }
        for l in model.targets().into_iter().filter(|l| whole(&l.name, names)) {
            self.copy(&l.name, (l.rows, l.cols), &l.base, l.bias.as_ref())?;
        }
        for norm in norms.into_iter().filter(|n| whole(&n.name, names)) {
            let weight =
                self.vector(format!("{}.weight", norm.name), norm.len(), Part::Vector(&norm.weight))?;
            self.layout.adapted.replaced.entry(norm.name.clone()).or_default().weight = Some(weight);
            self.norm_bias(norm)?;
        }
        Ok(())
    }

    fn copy(
        &mut self,
        module: &str,
        (rows, cols): (usize, usize),
        base: &'m Base,
        bias: Option<&'m Vector>,
    ) -> Result<()> {
        let weight = self.matrix(format!("{module}.weight"), rows, cols, Part::Matrix(base))?;
        let bias = bias.map(|b| self.vector(format!("{module}.bias"), rows, Part::Vector(b))).transpose()?;
        let replaced = self.layout.adapted.replaced.entry(module.to_string()).or_default();
        (replaced.weight, replaced.bias) = (Some(weight), bias);
        Ok(())
    }

    fn norm_bias(&mut self, norm: &'m Norm) -> Result<()> {
        let Some(bias) = &norm.bias else { return Ok(()) };
        let id = self.vector(format!("{}.bias", norm.name), norm.len(), Part::Vector(bias))?;
        self.layout.adapted.replaced.entry(norm.name.clone()).or_default().bias = Some(id);
        Ok(())
    }

    /// Trained biases of modules that are not trained whole.
    fn biases(&mut self, model: &'m Decoder, config: &LoraConfig) -> Result<()> {
        if config.bias == TrainedBiases::None {
            return Ok(());
        }
        for l in model.linears() {
            let targeted = self.layout.adapted.at(l.id).is_some();
            let wanted = targeted || config.bias == TrainedBiases::All;
            let replaced = self.layout.adapted.replaced.contains_key(&l.name);
            let Some(bias) = l.bias.as_ref().filter(|_| wanted && !replaced) else { continue };
            let name = format!("{}.{}bias", l.name, if targeted { "base_layer." } else { "" });
            let id = self.vector(name, l.rows, Part::Vector(bias))?;
            self.layout.adapted.replaced.entry(l.name.clone()).or_default().bias = Some(id);
        }
        for norm in model.norms() {
            let replaced = self.layout.adapted.replaced.contains_key(&norm.name);
            if config.bias == TrainedBiases::All && !replaced {
                self.norm_bias(norm)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_trained_whole_with_the_module_around_it() {
        let names = |n: &str| vec![n.to_string()];
        assert!(whole("model.layers.0.mlp.up_proj", &names("mlp")));
        assert!(whole("model.layers.0.mlp.up_proj", &names("layers.0")));
        assert!(whole("lm_head", &names("lm_head")));
        assert!(!whole("model.layers.0.mlp.up_proj", &names("self_attn")));
        assert!(!whole("lm_head", &names("embed_tokens")));
    }
}
