//! Branches of experts, whose weights PEFT sees as one stacked parameter (`target_parameters`).
//!
//! PEFT's A `[E R, in]` has the experts' rows one after the other; the columns of its B `[out, R E]` go through the
//! experts for each rank in turn. Here every expert has its own A and B beside its own linears; gate and up share an A,
//! as they are one matrix there.

use std::collections::BTreeSet;

use ferrotune_kernels::{Device, Tensor};

use super::config::LoraConfig;
use super::kinds::kind;
use super::targets::{Targets, matches, unmatched};
use crate::arch::architecture::Stacked;
use crate::model::layer::{Ffn, Layer};
use crate::model::parts::LinearLayer;
use crate::model::{Decoder, ParamId};
use crate::{Error, Result};

/// A parameter of transformers' modules that is many linears here.
pub(super) struct Stack<'m> {
    /// Path of the module, `model.layers.0.mlp.experts`.
    pub(super) module: String,
    /// Name of the parameter in it.
    pub(super) parameter: &'static str,
    /// The linears that are one expert's part, in the order of their rows.
    pub(super) experts: Vec<Vec<&'m LinearLayer>>,
    /// Where the adapter's tensors are: the module, or what is inside the branch of another parameter of it.
    pub(super) prefix: String,
    /// Rank and scale.
    pub(super) branch: (usize, f32),
    /// Whether the linears' rows stand in turn in it, not one linear after the other.
    pub(super) in_turn: bool,
}

/// The row of a stacked matrix that row `row` of linear `part` of `parts` is, all of `rows` rows.
fn place(in_turn: bool, parts: usize, rows: usize, part: usize, row: usize) -> usize {
    if in_turn { row * parts + part } else { part * rows + row }
}

impl Stack<'_> {
    /// Shapes of A and B in files.
    pub(super) fn shapes(&self) -> [[usize; 2]; 2] {
        let (experts, rank) = (self.experts.len(), self.branch.0);
        let rows = self.experts[0].iter().map(|l| l.rows).sum();
        [[experts * rank, self.experts[0][0].cols], [rows, rank * experts]]
    }
}

/// The parameters that a stacked A and B were split into.
#[derive(Debug)]
pub(super) struct StackIds {
    pub(super) prefix: String,
    pub(super) in_turn: bool,
    /// A, and B of each linear, of every expert.
    pub(super) experts: Vec<(ParamId, Vec<ParamId>)>,
}

/// All stacked parameters of the model.
fn all(model: &Decoder) -> Vec<Stack<'_>> {
    let mut stacks = Vec::new();
    for (i, layer) in model.layers.iter().enumerate() {
        let Ffn::Experts(moe) = &layer.mlp else { continue };
        let in_turn = moe.columns.is_some();
        let mut push = |module: String, parameter, experts| {
            let prefix = module.clone();
            stacks.push(Stack { module, parameter, experts, prefix, branch: (0, 0.0), in_turn });
        };
        push(
            model
                .arch
                .tree
                .in_layer(i, &format!("mlp.{}", model.arch.experts.as_ref().map_or("gate", |e| e.router))),
            "weight",
            vec![vec![&moe.router]],
        );
        let experts = model.arch.tree.in_layer(i, "mlp.experts");
        let gate_up = moe.experts.iter().map(|e| e.gate_up.iter().collect()).collect();
        push(experts.clone(), "gate_up_proj", gate_up);
        push(experts, "down_proj", moe.experts.iter().map(|e| vec![&e.down]).collect());
    }
    stacks
}

/// The stacked parameters that get a branch; refuses names that none has.
pub(super) fn chosen<'m>(model: &'m Decoder, config: &LoraConfig) -> Result<Vec<Stack<'m>>> {
    const KEY: &str = "target_parameters";
    let names = &config.target_parameters;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if config.dropout > 0.0 || kind(config).beyond_low_rank(config).is_some() || config.init.changes_base() {
        let problem = "cannot stand beside dropout, dora, lora_bias or an init that changes the base";
        return Err(Error::config(KEY, problem)
            .with_hint("PEFT refuses it too: the branch of an expert is a plain one; set dropout to 0"));
    }
    let mut stacks = all(model);
    let paths: Vec<String> = stacks.iter().map(|s| format!("{}.{}", s.module, s.parameter)).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let targeted = |path: &str| names.iter().any(|n| matches(path, n));
    if !paths.iter().any(|p| targeted(p)) {
        return Err(unmatched(KEY, &names.join(", "), &paths));
    }
    let branches = config.branches(&paths)?;
    let mut keep = paths.iter().map(|p| targeted(p));
    for (stack, branch) in stacks.iter_mut().zip(branches) {
        stack.branch = branch;
    }
    stacks.retain(|_| keep.next() == Some(true));
    // PEFT wraps a module once for each parameter: the first is inside the second.
    for i in 1..stacks.len() {
        if stacks[i].module == stacks[i - 1].module {
            stacks[i - 1].prefix += ".base_layer";
        }
    }
    Ok(stacks)
}

/// What PEFT 0.21 makes of `all-linear` where experts are stacked: attention, router and experts, and twice the rank
/// for gate and up, which are one matrix. Beside a shared expert, and of those that
/// are stacked in columns, it takes modules alone, no stacked parameter; so it does where parameters are named.
pub(super) fn expand(model: &Decoder, config: LoraConfig) -> LoraConfig {
    if config.targets != Targets::AllLinear {
        return config;
    }
    let barred = model.arch.without_branches;
    if !barred.is_empty() {
        let modules = model.layers.iter().flat_map(Layer::modules);
        let last = modules.filter_map(|linear| linear.name.rsplit('.').next());
        let free: BTreeSet<&str> = last.filter(|name| !barred.contains(name)).collect();
        let targets = Targets::Names(free.into_iter().map(str::to_string).collect());
        return LoraConfig { targets, ..config };
    }
    let Some(experts) = &model.arch.experts else { return config };
    let named = !config.target_parameters.is_empty();
    if named || experts.shared.is_some() || experts.stacked == Stacked::Columns {
        let modules = model.layers.iter().flat_map(Layer::modules);
        let targets = Targets::Names(modules.map(|linear| linear.name.clone()).collect());
        return LoraConfig { targets, ..config };
    }
    let names = |list: &[&str]| list.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    let both = || r".*\.gate_up_proj".to_string();
    let alpha = config.alpha * if config.rslora { std::f64::consts::SQRT_2 } else { 2.0 };
    let mut config = config;
    config.rank_pattern.push((both(), 2 * config.rank));
    config.alpha_pattern.push((both(), alpha));
    LoraConfig {
        targets: Targets::Names(names(&["k_proj", "o_proj", "q_proj", "v_proj"])),
        target_parameters: names(&["down_proj", "gate.weight", "gate_up_proj"]),
        ..config
    }
}

/// A and the Bs of every expert.
pub(super) fn split(dev: &Device, stack: &Stack<'_>, a: &Tensor, b: &Tensor) -> Vec<(Tensor, Vec<Tensor>)> {
    let (count, rank) = (stack.experts.len(), stack.branch.0);
    let expert = |(e, linears): (usize, &Vec<&LinearLayer>)| {
        let own = dev.tensor(rank, a.cols(), &a.host_f32()[e * rank * a.cols()..][..rank * a.cols()]);
        let parts = linears.iter().enumerate().map(|(i, l)| {
            let mut part = dev.empty(l.rows, rank);
            for (row, out) in part.host_f32_mut().chunks_exact_mut(rank).enumerate() {
                let row = place(stack.in_turn, linears.len(), l.rows, i, row);
                let from = &b.host_f32()[row * b.cols()..][..b.cols()];
                out.iter_mut().enumerate().for_each(|(k, v)| *v = from[k * count + e]);
            }
            part
        });
        (own, parts.collect())
    };
    stack.experts.iter().enumerate().map(expert).collect()
}

/// A and B in files, with their names and shapes.
pub(super) fn join<'t>(
    stack: &StackIds,
    of: &dyn Fn(ParamId) -> &'t Tensor,
) -> [(String, Vec<usize>, Vec<f32>); 2] {
    let count = stack.experts.len();
    let first = of(stack.experts[0].0);
    let (rank, cols) = (first.rows(), first.cols());
    let a: Vec<f32> = stack.experts.iter().flat_map(|(a, _)| of(*a).host_f32()).copied().collect();
    let rows: usize = stack.experts[0].1.iter().map(|b| of(*b).rows()).sum();
    let mut b = vec![0.0; rows * rank * count];
    for (e, (_, parts)) in stack.experts.iter().enumerate() {
        for (part, id) in parts.iter().enumerate() {
            let own = of(*id);
            for (i, v) in own.host_f32().iter().enumerate() {
                let row = place(stack.in_turn, parts.len(), own.rows(), part, i / rank);
                b[row * rank * count + i % rank * count + e] = *v;
            }
        }
    }
    [
        (format!("{}.lora_A.weight", stack.prefix), vec![count * rank, cols], a),
        (format!("{}.lora_B.weight", stack.prefix), vec![rows, rank * count], b),
    ]
}
