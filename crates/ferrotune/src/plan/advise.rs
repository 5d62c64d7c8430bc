//! What a run would take with each method and each way to save memory, from shapes alone: nothing is downloaded, loaded or
//! converted, and no weight is read.

use ferrotune_kernels::cpu::speed::products_per_second;
use ferrotune_kernels::{Device, Precision};

use super::memory::MemoryPlan;
use super::trained::Trained;
use super::{form, grouping, init_adapter, shapes, ways};
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::arch::families::architecture;
use crate::data::PreparedData;
use crate::data::batches::{BatchSizes, Batches};
use crate::data::loader::LoaderOptions;
use crate::formats::Checkpoint;
use crate::memory::available;
use crate::model::{Activations, Policies};
use crate::run_config::{MethodKind, RunConfig, TableKind, WeightKind};
use crate::units::human;

/// Share of the products' best rate that training steps reach; `docs/benchmarks.md` has what was measured.
const SHARE: f64 = 0.85;

/// Models of fewer values learn more when all of them are trained.
const SMALL: usize = 10_000_000;

/// One way to run.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// What is trained.
    pub method: MethodKind,
    /// Activation policy.
    pub activations: Activations,
    /// Layers nearest to the head that keep everything, whatever that policy is.
    pub kept_layers: usize,
    /// Whether the base stays in its file.
    pub streamed: bool,
    /// Predicted peak memory by part.
    pub plan: MemoryPlan,
    /// The peak.
    pub peak_bytes: u64,
    /// Whether it is within the budget.
    pub fits: bool,
    /// Predicted speed.
    pub tokens_per_second: f64,
}

/// The rows of a run as far as they are known.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    batches: BatchSizes,
    /// Tokens of a row on average.
    length: f64,
    /// Share of the tokens that are supervised.
    supervised: f64,
    /// Optimizer steps and tokens of the whole run, if rows are there.
    run: Option<(usize, usize)>,
}

impl Load {
    /// At most what the run file allows.
    pub fn bound(config: &RunConfig) -> Self {
        let largest = LoaderOptions::from(config).micro_batch_tokens.max(config.data.max_length);
        Load {
            batches: BatchSizes { largest, bytes: 0, single: false },
            length: config.data.max_length as f64,
            supervised: 1.0,
            run: None,
        }
    }

    /// Of rows that are there: the steps are made as the run would make them.
    pub fn from_rows(config: &RunConfig, checkpoint: &Checkpoint, prepared: PreparedData) -> Result<Self> {
        let tokens = prepared.train.total_tokens().max(1) as f64;
        let length = tokens / prepared.train.len().max(1) as f64;
        let supervised = prepared.train_report.label_tokens as f64 / tokens;
        let lora = init_adapter::lora(config, checkpoint)?;
        let grouping = grouping(config, checkpoint, lora.as_ref())?;
        let batches = Batches::new(config, grouping, prepared.train, prepared.eval)?;
        let run = Some((batches.loader.steps_total(), batches.tokens));
        Ok(Load { batches: batches.size, length, supervised, run })
    }

    /// Optimizer steps and tokens of the whole run; none if no rows are there.
    pub fn run(&self) -> Option<(usize, usize)> {
        self.run
    }

    /// Tokens of the largest micro-batch.
    pub fn tokens(&self) -> usize {
        self.batches.largest
    }
}

/// Every way to run, methods and then policies in the order of their speed.
pub fn estimate(
    config: &RunConfig,
    checkpoint: &Checkpoint,
    dev: &Device,
    load: Load,
) -> Result<Vec<Estimate>> {
    let arch = architecture(checkpoint.config())?;
    let precision = form::precision(config.train.precision, dev);
    let model = shapes(dev, checkpoint)?;
    let budget = config.train.memory.or_else(available);
    let rate = rate(dev, precision, &arch);
    let mut all = Vec::new();
    for kind in [MethodKind::Full, MethodKind::Lora, MethodKind::Qlora] {
        let mut config = config.clone();
        config.method.kind = kind;
        // What is of no meaning for the others.
        match kind {
            MethodKind::Full => config.model.embeddings = TableKind::default(),
            MethodKind::Lora | MethodKind::Qlora => config.train.weights = WeightKind::default(),
        }
        if config.validate().is_err() {
            continue;
        }
        let form = form::form(&config, checkpoint, precision)?;
        let trained = Trained::new(&config, init_adapter::lora(&config, checkpoint)?, dev, &model)?;
        let demand = trained.demand(&config, &arch, form, precision, dev, load.batches);
        for way in ways::ways(&config, checkpoint, &arch, &demand, budget)? {
            all.push(Estimate {
                method: kind,
                activations: way.policies.below,
                kept_layers: way.policies.kept,
                streamed: way.streamed,
                plan: way.memory,
                peak_bytes: way.memory.total() as u64,
                fits: way.fits(budget),
                tokens_per_second: SHARE * rate / work(&arch, kind, trained.elements(), way.policies, &load),
            });
        }
    }
    Ok(all)
}

/// Operations per second of products of this model's width; nothing is known of the reference device.
fn rate(dev: &Device, precision: Precision, a: &Architecture) -> f64 {
    let Device::Cpu(cpu) = dev else { return f64::NAN };
    let (n, k) = (a.ffn.clamp(64, 2048), a.hidden.clamp(64, 2048));
    products_per_second(cpu, precision, [512, n, k], 0.2)
}

/// Operations for a token: products forward and back, attention, what is trained, and what is computed again.
fn work(a: &Architecture, kind: MethodKind, trained: usize, policies: Policies, load: &Load) -> f64 {
    let linears = 2.0 * a.active_elements() as f64;
    let head = 2.0 * (a.vocab * a.hidden) as f64 * load.supervised;
    // Half of the square is seen; the backward is 2.5 times the forward.
    let attention = 4.0 * (load.length / 2.0) * a.attended() as f64;
    let weights = match kind {
        MethodKind::Full => linears + head,
        MethodKind::Lora | MethodKind::Qlora => 6.0 * trained as f64,
    };
    let again = match policies.below {
        Activations::Keep => 0.0,
        Activations::Lean => 2.0 * (a.hidden_width() * a.hidden * a.layers) as f64,
        Activations::Recompute => linears + attention,
    };
    let share = 1.0 - policies.kept as f64 / a.layers as f64;
    2.0 * (linears + head) + 3.5 * attention + weights + again * share
}

/// The way to run that is advised, by its place in the list, and why; without a way that fits, the least of all and why
/// it does not.
pub fn advise(all: &[Estimate], values: usize) -> Option<(usize, String)> {
    let first = |kind| all.iter().position(|f| f.method == kind && f.fits);
    let (full, lora, qlora) = (first(MethodKind::Full), first(MethodKind::Lora), first(MethodKind::Qlora));
    let peak = |i: usize| all[i].peak_bytes;
    if let (Some(full), true) = (full, values < SMALL) {
        return Some((full, format!("a model of {values} values learns little through an adapter")));
    }
    match (lora, qlora) {
        // With less for the base there may be room for more that need not be computed again.
        (Some(lora), Some(qlora)) if all[qlora].tokens_per_second > 1.01 * all[lora].tokens_per_second => {
            Some((qlora, "it learns as well as LoRA, and what it saves is room to compute less again".into()))
        }
        (Some(lora), Some(qlora)) if peak(qlora) as f64 <= 0.9 * peak(lora) as f64 => {
            let saved = human(peak(lora) - peak(qlora));
            Some((qlora, format!("it learns as well as LoRA, runs as fast and takes {saved} less")))
        }
        (Some(lora), Some(_)) => Some((lora, "a base in 4 bits would save less than a tenth".into())),
        (Some(lora), None) => Some((lora, "it is what fits".into())),
        (None, Some(qlora)) => Some((qlora, "LoRA on the base as it is does not fit".into())),
        (None, None) => {
            let least = (0..all.len()).min_by_key(|i| peak(*i))?;
            let tokens = "a smaller train.micro_batch_tokens takes less";
            Some((least, format!("nothing fits; this takes the least, {}; {tokens}", human(peak(least)))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(method: MethodKind, peak_bytes: u64, fits: bool) -> Estimate {
        Estimate {
            method,
            activations: Activations::Keep,
            kept_layers: 0,
            streamed: false,
            plan: MemoryPlan::default(),
            peak_bytes,
            fits,
            tokens_per_second: 1.0,
        }
    }

    #[test]
    fn what_fits_and_costs_least_is_advised() {
        use MethodKind::{Full, Lora, Qlora};
        let advised = |peaks: [u64; 3], budget: u64, values| {
            let ways = [Full, Lora, Qlora].into_iter().zip(peaks);
            let all: Vec<Estimate> = ways.map(|(kind, peak)| way(kind, peak, peak <= budget)).collect();
            advise(&all, values).map(|(i, _)| all[i].method)
        };
        assert_eq!(advised([300, 100, 60], 1000, 135_000_000), Some(Qlora));
        assert_eq!(advised([300, 100, 95], 1000, 135_000_000), Some(Lora));
        assert_eq!(advised([300, 100, 60], 80, 135_000_000), Some(Qlora));
        assert_eq!(advised([300, 100, 120], 110, 135_000_000), Some(Lora));
        assert_eq!(advised([300, 100, 60], 1000, 1_000_000), Some(Full));
        assert_eq!(advised([300, 100, 60], 10, 1_000_000), Some(Qlora));
        assert_eq!(advise(&[], 5), None);
        let mut both = [way(Lora, 100, true), way(Qlora, 110, true)];
        assert_eq!(advise(&both, 135_000_000).map(|(i, _)| i), Some(0));
        both[1].tokens_per_second = 1.1;
        assert_eq!(advise(&both, 135_000_000).map(|(i, _)| i), Some(1));
    }
}
