//! A run is made so that it fits the memory that is there, or refused.

use super::foresee::{self, Way};
use crate::arch::architecture::Architecture;
use crate::formats::Checkpoint;
use crate::memory;
use crate::memory::Plan;
use crate::model::streaming::Streaming;
use crate::run_config::{
    ActivationPolicy, ActivationStorage, MethodKind, OptimizerKind, RunConfig, StreamPolicy,
};
use crate::units::human;
use crate::{Error, Result};

/// What is asked for, or the fastest way whose plan fits the budget; refuses if none does. `streaming`: what that saves, if the base lies in a file.
pub(super) fn choose(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    arch: &Architecture,
    shape: memory::Shape,
    streaming: Option<Streaming>,
) -> Result<Way> {
    let budget = config.train.memory.or_else(memory::available);
    let ways = foresee::ways(config, checkpoint, arch, shape, streaming, budget)?;
    let least = ways.iter().map(|way| way.plan.needs() as u64).min().unwrap_or(0);
    if let Some(way) = ways.into_iter().find(|way| way.fits(budget)) {
        return Ok(way);
    }
    let needed = human(least);
    let problem = format!("the run needs {needed} and {} are there", human(budget.unwrap_or(0)));
    Err(Error::train(problem).with_hint(ways_out(config)))
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
pub(super) fn lowered(limit: Option<u64>, plan: &Plan) -> Option<Error> {
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
        let plan = Plan { base: 1000, page_cache: 10, ..Plan::default() };
        assert!(lowered(None, &plan).is_none() && lowered(Some(1010), &plan).is_none());
        assert!(lowered(Some(1009), &plan).unwrap().to_string().contains("lowered"));
    }
}
