//! The ways to run: what is slower and takes less, the choice of the fastest that fits, and what to say if none does.

use super::memory::{self, Choice, Demand, MemoryPlan};
use crate::arch::architecture::Architecture;
use crate::formats::Checkpoint;
use crate::load::BaseStorage;
use crate::model::streaming::Streaming;
use crate::model::{Activations, Policies};
use crate::run_config::{
    ActivationPolicy, ActivationStorage, MethodKind, OptimizerKind, RunConfig, StreamPolicy,
};
use crate::units::human;
use crate::{Error, Result};

/// A way to run, and what it takes.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// What each layer keeps for its backward.
    pub policies: Policies,
    /// Whether layers of the base leave memory behind the work.
    pub streamed: bool,
    /// Whether activations wait in 8 bits.
    pub eight_bit: bool,
    /// Predicted memory.
    pub memory: MemoryPlan,
}

impl Way {
    /// Whether it is within the budget, if there is one.
    pub(super) fn fits(&self, budget: Option<u64>) -> bool {
        budget.is_none_or(|budget| self.memory.needs() as u64 <= budget)
    }
}

/// What the run file allows with its plan, the fastest first: activations, and whether the base is streamed, if it lies in a
/// file. Where the fastest that fits does not keep everything, one comes before it in which as many layers do as fit.
pub(super) fn ways(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    a: &Architecture,
    demand: &Demand,
    budget: Option<u64>,
) -> Result<Vec<Way>> {
    let streaming = streaming(config, checkpoint, a, demand.form.linears)?;
    let policies: &[Activations] = match config.train.activations {
        ActivationPolicy::Auto => &[Activations::Keep, Activations::Lean, Activations::Recompute],
        ActivationPolicy::Keep => &[Activations::Keep],
        ActivationPolicy::Lean => &[Activations::Lean],
        ActivationPolicy::Recompute => &[Activations::Recompute],
    };
    // A streamed layer is read again, which is little beside the work on it; computing it again is more.
    let streams = match (config.train.stream, streaming) {
        (StreamPolicy::Auto, Some(_)) => vec![None, streaming],
        (StreamPolicy::Always, Some(_)) => vec![streaming],
        _ => vec![None],
    };
    let way = |policies: Policies, streamed: Option<Streaming>| {
        let memory = memory::plan(checkpoint, a, demand, Choice { policies, streamed })?;
        let eight_bit = demand.eight_bit;
        Ok::<_, Error>(Way { policies, streamed: streamed.is_some(), eight_bit, memory })
    };
    let all = policies.iter().flat_map(|policy| streams.iter().map(|stream| (*policy, *stream)));
    let mut ways = all.map(|(policy, stream)| way(policy.into(), stream)).collect::<Result<Vec<_>>>()?;
    let first = ways.iter().position(|way| way.fits(budget));
    if let (Some(first), ActivationPolicy::Auto) = (first, config.train.activations)
        && ways[first].policies.below != Activations::Keep
    {
        let (below, streamed) = (ways[first].policies.below, streaming.filter(|_| ways[first].streamed));
        // More layers that keep take more, so the last number that fits is found by halving.
        let (mut kept, mut step) = (0, a.layers.next_power_of_two());
        let mut mixed = None;
        while step > 0 {
            if kept + step < a.layers {
                let more = way(Policies { below, kept: kept + step }, streamed)?;
                if more.fits(budget) {
                    (kept, mixed) = (kept + step, Some(more));
                }
            }
            step /= 2;
        }
        mixed.into_iter().for_each(|mixed| ways.insert(first, mixed));
    }
    Ok(ways)
}

/// What is asked for, or the fastest way that fits the budget; refuses if none does.
pub(super) fn choose(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    arch: &Architecture,
    demand: &Demand,
    budget: Option<u64>,
) -> Result<Way> {
    let ways = ways(config, checkpoint, arch, demand, budget)?;
    let least = ways.iter().map(|way| way.memory.needs() as u64).min().unwrap_or(0);
    if let Some(way) = ways.into_iter().find(|way| way.fits(budget)) {
        return Ok(way);
    }
    let needed = human(least);
    let problem = format!("the run needs {needed} and {} are there", human(budget.unwrap_or(0)));
    Err(Error::train(problem).with_hint(ways_out(config)))
}

/// What streaming saves, if the base lies in a file: that of the model, or of the cache.
fn streaming(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    a: &Architecture,
    storage: BaseStorage,
) -> Result<Option<Streaming>> {
    let in_file = match storage {
        BaseStorage::AsStored => true,
        BaseStorage::Quantized(_) => config.model.cache,
        BaseStorage::Dense(_) | BaseStorage::Trained => false,
    };
    if !in_file {
        return Ok(None);
    }
    Ok(Streaming::of(&memory::layer_bytes(checkpoint, a, storage)?))
}

/// What would take less, of what the run file does not say already.
fn ways_out(config: &RunConfig) -> String {
    let t = &config.train;
    let mut ways = Vec::new();
    let mut add = |on: bool, way: &str| {
        if on {
            ways.push(way.to_string());
        }
    };
    add(config.method.kind != MethodKind::Qlora, "method.kind=qlora");
    add(t.stream == StreamPolicy::Never, "train.stream=auto");
    add(
        matches!(t.activations, ActivationPolicy::Keep | ActivationPolicy::Lean),
        "train.activations=recompute",
    );
    // Recomputed layers keep nothing that could wait in 8 bits.
    let kept = !matches!(t.activations, ActivationPolicy::Recompute | ActivationPolicy::Auto);
    add(kept && t.activation_storage != ActivationStorage::Int8, "train.activation_storage=int8");
    add(t.optimizer == OptimizerKind::Adamw, "train.optimizer=paged_adamw (or adamw8bit)");
    add(true, "a smaller train.micro_batch_tokens");
    add(true, "a shorter data.max_length");
    format!("less is taken with {}", ways.join(", "))
}

/// What is wrong if the limit is below the plan now; it was not when the run began.
pub fn lowered(limit: Option<u64>, plan: &MemoryPlan) -> Option<Error> {
    let limit = limit.filter(|limit| *limit < plan.needs() as u64)?;
    let problem = format!(
        "the limit on memory was lowered to {} while the run, which needs {}, went on",
        human(limit),
        human(plan.needs() as u64)
    );
    Some(Error::train(problem).with_hint("a checkpoint was written: go on with --resume, which plans anew"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_names_what_is_not_asked_for_already() {
        let out = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|s| s.to_string()).collect();
            ways_out(&RunConfig::from_overrides(&list).unwrap())
        };
        let plain = out(&["model.base=m", "method.kind=lora"]);
        assert!(
            plain.contains("qlora") && plain.contains("paged_adamw") && !plain.contains("recompute"),
            "{plain}"
        );
        let kept =
            out(&["model.base=m", "method.kind=qlora", "train.activations=keep", "train.stream=never"]);
        let words = ["recompute", "activation_storage=int8", "train.stream=auto"];
        assert!(words.iter().all(|w| kept.contains(w)) && !kept.contains("qlora"), "{kept}");
    }

    #[test]
    fn only_a_limit_below_the_plan_is_lowered() {
        let plan = MemoryPlan { base: 1000, page_cache: 10, ..MemoryPlan::default() };
        assert!(lowered(None, &plan).is_none() && lowered(Some(1010), &plan).is_none());
        assert!(lowered(Some(1009), &plan).unwrap().to_string().contains("lowered"));
    }
}
