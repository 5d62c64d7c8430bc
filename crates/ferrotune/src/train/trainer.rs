//! The training loop, written out: steps, evaluation, checkpoints, events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ferrotune_kernels::{Device, Precision};
use serde::Serialize;

use super::notices;
use super::progress::Progress;
use super::record::{EvalRecord, Event, StepRecord, Summary};
use super::session::{Session, StepArgs};
use crate::base::BaseModel;
use crate::data::PreparedData;
use crate::data::batches::Batches;
use crate::data::loader::{EvalBatches, Loader, Step};
use crate::load::BaseForm;
use crate::loss::Loss;
use crate::memory;
use crate::optim::schedule::Schedule;
use crate::plan::{self, RunPlan, init_adapter};
use crate::results::model_folder::Learned;
use crate::results::run_folder::RunFolder;
use crate::results::train_state::Changed;
use crate::results::trained_beside::TrainedBeside;
use crate::run_config::{LossNormalization, RunConfig};
use crate::{Error, Result};

mod resume;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Optimizer steps done.
    pub steps: usize,
    /// Loss of the first step.
    pub first_loss: f64,
    /// Loss of the last step.
    pub loss: f64,
    /// Loss on the held-out rows at the end.
    pub eval_loss: Option<f64>,
    /// Tokens of the steps of this process, and the seconds that they took.
    pub tokens: usize,
    /// Seconds of the steps of this process.
    pub seconds: f64,
    /// Whether the run was stopped before its end.
    pub interrupted: bool,
}

/// A run that is ready to start.
pub struct Trainer<'a> {
    config: &'a RunConfig,
    base: &'a BaseModel,
    /// The model with what is trained.
    pub session: Session<'a>,
    summary: Summary,
    loader: Loader,
    schedule: Schedule,
    held_out: EvalBatches,
    fingerprints: (String, String),
    /// Settings that were changed when the run was resumed, now or before.
    changes: Vec<Changed>,
    /// What is trained, as it was at the beginning.
    progress: Progress,
    /// Whether the base's files are others by now, which was said.
    base_replaced: bool,
    /// Tokens that end an answer, as the rows teach.
    ends: Vec<u32>,
    /// The chat template of the rows, if it is not the base's. Its file may change while the run goes on.
    template: Option<String>,
    /// How the base is held.
    form: BaseForm,
    /// The hard limit on memory, which may change while a run goes on.
    pub limit: fn() -> Option<u64>,
}

impl<'a> Trainer<'a> {
    /// Plans the run, then loads the model and makes (or reads) what is trained.
    pub fn new(
        config: &'a RunConfig,
        base: &'a BaseModel,
        dev: &'a Device,
        prepared: PreparedData,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Self> {
        let longest = prepared.train.longest().max(prepared.eval.longest()).max(1);
        let data_hash = prepared.train.sha256();
        let ends = prepared.train.taught().to_vec();
        let template = base.chosen_template(&config.data)?;
        let lora = init_adapter::lora(config, &base.checkpoint)?;
        let grouping = plan::grouping(config, &base.checkpoint, lora.as_ref())?;
        let batches = Batches::new(config, grouping, prepared.train, prepared.eval)?;
        let plan = RunPlan::new(config, &base.checkpoint, dev, lora, batches.size)?;
        notices::of_base(config, &base.checkpoint, plan.form, &dev.threads())?
            .iter()
            .for_each(&mut *on_event);

        let positions = longest.max(config.data.max_length);
        let mut warn = |text| on_event(&Event::Warning { text });
        let session = Session::new(config, base, dev, &plan, positions, &mut warn)?;
        let summary = summary(config, &session, &plan, &batches);
        on_event(&Event::Start(summary.clone()));
        Ok(Trainer {
            config,
            base,
            schedule: schedule(config, batches.loader.steps_total()),
            fingerprints: (data_hash, base.checkpoint.fingerprint(&dev.threads())?),
            changes: Vec::new(),
            progress: Progress::begin(session.trainable.params()),
            session,
            summary,
            loader: batches.loader,
            held_out: batches.held_out,
            base_replaced: false,
            ends,
            template,
            form: plan.form,
            limit: memory::limit,
        })
    }

    /// What is about to run.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Hashes of the tokenized rows and of the base model.
    pub(crate) fn fingerprints(&self) -> (&str, &str) {
        (&self.fingerprints.0, &self.fingerprints.1)
    }

    /// The base, as an adapter's folder names it.
    pub fn beside(&self) -> TrainedBeside {
        TrainedBeside::new(&self.base.name, self.fingerprints.1.clone(), self.form)
    }

    /// What a result says otherwise than the base.
    pub fn learned(&self) -> Learned<'_> {
        Learned { ends: &self.ends, template: self.template.as_deref() }
    }

    /// Tokens that the rows teach to end an answer with.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Runs to the end, or until `stop` is set; then the last step is finished and a checkpoint written. Without a folder
    /// there are no checkpoints, and events are all that is told.
    pub fn run(
        &mut self,
        folder: Option<&RunFolder>,
        stop: &AtomicBool,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Outcome> {
        let t = &self.config.train;
        // What a resumed run has reached already.
        let reached = folder.and_then(|folder| folder.metric_ends("loss"));
        let mut outcome = Outcome {
            steps: self.loader.state().step,
            first_loss: reached.map_or(f64::NAN, |ends| ends.0),
            loss: reached.map_or(f64::NAN, |ends| ends.1),
            eval_loss: folder.and_then(|folder| folder.metric_ends("eval_loss")).map(|ends| ends.1),
            tokens: 0,
            seconds: 0.0,
            interrupted: false,
        };
        if self.loader.state().step == 0 && !self.held_out.is_empty() {
            self.evaluate(folder, on_event)?;
        }
        let mut epoch = self.loader.epochs_done();
        let mut on_disk = outcome.steps;
        while !stop.load(Ordering::Relaxed) {
            let Some(next) = self.loader.next_step()? else { break };
            let number = self.loader.state().step;
            let record = self.step(&next).map_err(|e| e.in_step(number))?;
            note(folder, &record)?;
            outcome.steps = record.step;
            outcome.first_loss = if outcome.first_loss.is_nan() { record.loss } else { outcome.first_loss };
            outcome.loss = record.loss;
            outcome.tokens += record.tokens;
            outcome.seconds += record.seconds;
            on_event(&Event::Step(record));

            let last = outcome.steps >= self.loader.steps_total();
            let epoch_done = next.epoch.floor() as usize > epoch;
            epoch = next.epoch.floor() as usize;
            let due = t.eval_every.map_or(epoch_done, |every| outcome.steps.is_multiple_of(every));
            if (due || last) && !self.held_out.is_empty() {
                outcome.eval_loss = Some(self.evaluate(folder, on_event)?);
            }
            let every = self.config.output.checkpoint_every;
            let lowered = plan::lowered((self.limit)(), &self.summary.plan);
            if last || lowered.is_some() || every.is_some_and(|every| outcome.steps.is_multiple_of(every)) {
                self.checkpoint(folder, on_event)?;
                on_disk = outcome.steps;
            }
            if let (Some(problem), false) = (lowered, last) {
                return Err(problem);
            }
        }
        outcome.interrupted = outcome.steps < self.loader.steps_total();
        if outcome.interrupted && outcome.steps > on_disk {
            self.checkpoint(folder, on_event)?;
        }
        if !outcome.interrupted && !self.progress.is_made(self.session.trainable.params()) {
            let problem = format!("no trained value has changed (steps done: {})", outcome.steps);
            return Err(
                Error::train(problem).with_hint("raise train.lr; metrics.jsonl has the rate of each step")
            );
        }
        Ok(outcome)
    }

    /// One optimizer step.
    fn step(&mut self, next: &Step) -> Result<StepRecord> {
        let start = Instant::now();
        let number = self.loader.state().step;
        let lr = self.schedule.at(number - 1);
        let divisor = match self.config.train.loss_normalization {
            LossNormalization::Targets => next.label_tokens,
            LossNormalization::Labels => next.labels,
        };
        let batches = &next.micro_batches;
        let (loss, norm) = self.session.step(StepArgs { batches, number, divisor, lr })?;
        let seconds = start.elapsed().as_secs_f64();
        let resident = memory::resident();
        Ok(StepRecord {
            step: number,
            epoch: next.epoch,
            loss: loss.sum / divisor.max(1) as f64,
            lr,
            grad_norm: norm,
            tokens: next.tokens,
            stored_tokens: next.stored,
            label_tokens: loss.count,
            seconds,
            tokens_per_second: next.tokens as f64 / seconds,
            rss_bytes: resident.now,
            peak_rss_bytes: resident.peak,
            metrics: means(&loss),
        })
    }

    fn evaluate(&self, folder: Option<&RunFolder>, on_event: &mut dyn FnMut(&Event)) -> Result<f64> {
        let loss = self.session.evaluate(self.held_out.iter())?;
        let record = EvalRecord {
            step: self.loader.state().step,
            eval_loss: loss.mean(),
            eval_label_tokens: loss.count,
            metrics: means(&loss).into_iter().map(|(name, mean)| (format!("eval_{name}"), mean)).collect(),
        };
        let mean = record.eval_loss;
        note(folder, &record)?;
        on_event(&Event::Eval(record));
        Ok(mean)
    }
}

/// A line of `metrics.jsonl`, if there is a folder.
fn note(folder: Option<&RunFolder>, line: &impl Serialize) -> Result<()> {
    folder.map_or(Ok(()), |folder| folder.append_metrics(line))
}

/// What an objective measures besides the loss.
fn means(loss: &Loss) -> BTreeMap<String, f64> {
    let mean = |sum: f64| sum / loss.count.max(1) as f64;
    loss.metrics.iter().map(|(name, sum)| (name.to_string(), mean(*sum))).collect()
}

fn schedule(config: &RunConfig, total: usize) -> Schedule {
    let t = &config.train;
    Schedule {
        lr: config.lr(),
        shape: t.schedule,
        warmup: t.warmup_steps(total),
        from_zero: t.warmup_from_zero,
        total,
        min_ratio: t.min_lr_ratio,
    }
}

/// What is about to run.
fn summary(config: &RunConfig, session: &Session<'_>, plan: &RunPlan, batches: &Batches) -> Summary {
    let adapter_values = if plan.lora.is_some() { plan.trained } else { 0 };
    Summary {
        method: config.method.kind.to_string(),
        base_format: session.model.storage_name().into(),
        precision: if plan.precision == Precision::Bf16 { "bf16" } else { "f32" },
        isa: if let Device::Cpu(cpu) = session.dev { cpu.isa().name().into() } else { "reference".into() },
        threads: session.dev.threads().count(),
        trainable_parameters: plan.trained,
        total_parameters: session.model.base_elements() + adapter_values,
        steps: batches.loader.steps_total(),
        tokens: batches.tokens,
        stored_tokens: batches.stored,
        log_every: config.train.log_every,
        activations: plan.way.policies.below,
        kept_layers: plan.way.policies.kept,
        streamed: plan.way.streamed,
        plan: plan.way.memory,
    }
}
