//! The training loop, written out: steps, evaluation, checkpoints, events.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ferrotune_kernels::{Device, Precision};
use sha2::{Digest, Sha256};

use super::budget;
use super::eval;
use super::feed::Feed;
use super::foresee;
use super::init_adapter;
use super::needs::{self, Held, Needs};
use super::progress::Progress;
use super::record::{EvalRecord, Event, StepRecord, Summary};
use super::setup::{self, Trainable};
use super::step;
use crate::arch::families::architecture;
use crate::base::BaseModel;
use crate::data::PreparedData;
use crate::data::loader::{Loader, Step};
use crate::data::pack::PackedBatch;
use crate::data::tokenize::TrainRow;
use crate::formats::hash::hex;
use crate::load::{BaseForm, load_into};
use crate::lora::{Adapter, peft};
use crate::loss::cross_entropy::LossSum;
use crate::memory;
use crate::model::{Decoder, DropoutKey, Gradients, Pass, Policies, Tokens};
use crate::optim::schedule::{Schedule, Shape};
use crate::optim::{Optimizer, clip};
use crate::results::run_folder::RunFolder;
use crate::results::train_state::Changed;
use crate::results::trained_beside::TrainedBeside;
use crate::run_config::{self, LossNormalization, MethodKind, RunConfig};
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
    dev: &'a Device,
    precision: Precision,
    policies: Policies,
    summary: Summary,
    /// The network.
    pub model: Decoder,
    /// What is trained.
    pub trainable: Trainable,
    optimizer: Box<dyn Optimizer>,
    loader: Loader,
    schedule: Schedule,
    held_out: Vec<PackedBatch>,
    fingerprints: (String, String),
    /// Settings that were changed when the run was resumed, now or before.
    changes: Vec<Changed>,
    /// What is trained, as it was at the beginning.
    progress: Progress,
    /// Whether the base's files are others by now, which was said.
    base_replaced: bool,
    /// Tokens that end an answer, as the rows teach.
    ends: Vec<u32>,
    /// How the base is held.
    form: BaseForm,
    /// Whether layers are updated as soon as their gradients are whole.
    layer_by_layer: bool,
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
        let precision = setup::precision(config.train.precision, dev);
        let form = setup::form(config, &base.checkpoint, precision)?;
        setup::base_events(config, &base.checkpoint, form, &dev.threads())?.iter().for_each(&mut *on_event);
        let longest = prepared.train.iter().chain(&prepared.eval).map(TrainRow::len).max().unwrap_or(1);
        let data_hash = hash_rows(&prepared.train);
        let ends = setup::taught_ends(&prepared);
        let arch = architecture(base.checkpoint.config())?;
        let lora = init_adapter::lora(config, &base.checkpoint)?;
        let feed = Feed::of(config, &arch, lora.as_ref(), prepared.train, &prepared.eval)?;
        let held = Held { form, precision, threads: dev.threads().count() };

        // What cannot fit is refused before anything is loaded or converted.
        let foreseen = Needs::foreseen(config, lora, dev, &foresee::shapes(dev, &base.checkpoint)?)?;
        let streaming = foresee::streaming(config, &base.checkpoint, &arch, form.linears)?;
        budget::choose(
            config,
            &base.checkpoint,
            &arch,
            foreseen.shape(config, &arch, held, feed.rows),
            streaming,
        )?;

        let positions = longest.max(config.data.max_length);
        let mut warn = |text| on_event(&Event::Warning { text });
        let (mut model, own) = match setup::paged_params(config, precision, foreseen.elements())? {
            Some(params) => load_into(dev, &base.checkpoint, form, positions, params)?,
            None => base.load(dev, form, positions, &mut warn)?,
        };
        let trainable = match config.method.kind {
            MethodKind::Full => Trainable::Full(own),
            _ => Trainable::Adapter(Box::new(make_adapter(config, dev, &model)?)),
        };
        let needs = Needs::of(&trainable);
        let trained = needs.elements();
        let layer_by_layer = needs::layer_by_layer(config, feed.rows.single);
        let shape = needs.shape(config, &arch, held, feed.rows);
        let streaming = model.streaming();
        let way = budget::choose(config, &base.checkpoint, &arch, shape, streaming)?;
        let Feed { loader, held_out, tokens, stored, .. } = feed;
        if way.streamed {
            model.stream();
        }
        model.eight_bit = shape.eight_bit;
        let adapter_values = if matches!(trainable, Trainable::Adapter(_)) { trained } else { 0 };
        let summary = Summary {
            method: config.method.kind.to_string(),
            base_format: model.storage_name().into(),
            precision: if precision == Precision::Bf16 { "bf16" } else { "f32" },
            isa: if let Device::Cpu(cpu) = dev { cpu.isa().name().into() } else { "reference".into() },
            threads: held.threads,
            trainable_parameters: trained,
            total_parameters: model.base_elements() + adapter_values,
            steps: loader.steps_total(),
            tokens,
            stored_tokens: stored,
            log_every: config.train.log_every,
            activations: way.policies.below,
            kept_layers: way.policies.kept,
            streamed: way.streamed,
            plan: way.plan,
        };
        on_event(&Event::Start(summary.clone()));
        let t = &config.train;
        let optimizer = setup::optimizer(config, dev, trainable.params())?;
        let schedule = Schedule {
            lr: config.lr(),
            shape: match t.schedule {
                run_config::Schedule::Linear => Shape::Linear,
                run_config::Schedule::Cosine => Shape::Cosine,
                run_config::Schedule::Constant => Shape::Constant,
            },
            warmup: t.warmup_steps(loader.steps_total()),
            from_zero: t.warmup_from_zero,
            total: loader.steps_total(),
            min_ratio: t.min_lr_ratio,
        };
        let fingerprints = (data_hash, base.checkpoint.fingerprint(&dev.threads())?);
        let progress = Progress::begin(trainable.params());
        Ok(Trainer {
            config,
            base,
            dev,
            precision,
            policies: way.policies,
            summary,
            model,
            trainable,
            optimizer,
            loader,
            schedule,
            held_out,
            fingerprints,
            changes: Vec::new(),
            progress,
            base_replaced: false,
            ends,
            form,
            layer_by_layer,
            limit: memory::limit,
        })
    }

    /// What is about to run.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Hashes of the tokenized rows and of the base model.
    pub fn fingerprints(&self) -> (&str, &str) {
        (&self.fingerprints.0, &self.fingerprints.1)
    }

    /// The base, as an adapter's folder names it.
    pub fn beside(&self) -> TrainedBeside {
        TrainedBeside::of(&self.base.name, self.fingerprints.1.clone(), self.form)
    }

    /// Tokens that the rows teach to end an answer with.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// A pass without dropout over the present parameters.
    pub fn pass(&self) -> Pass<'_> {
        Pass {
            dev: self.dev,
            precision: self.precision,
            params: self.trainable.params(),
            adapted: self.trainable.adapted(),
            dropout: None,
        }
    }

    /// Runs to the end, or until `stop` is set; then the last step is finished and a checkpoint written.
    pub fn run(
        &mut self,
        folder: &RunFolder,
        stop: &AtomicBool,
        on_event: &mut dyn FnMut(&Event),
    ) -> Result<Outcome> {
        let t = &self.config.train;
        // What a resumed run has reached already.
        let reached = folder.metric_ends("loss");
        let mut outcome = Outcome {
            steps: self.loader.state().step,
            first_loss: reached.map_or(f64::NAN, |ends| ends.0),
            loss: reached.map_or(f64::NAN, |ends| ends.1),
            eval_loss: folder.metric_ends("eval_loss").map(|ends| ends.1),
            tokens: 0,
            seconds: 0.0,
            interrupted: false,
        };
        let params = self.trainable.params();
        let mut grads = match self.layer_by_layer {
            true => Gradients::on_demand(self.dev, params),
            false => Gradients::zeros(self.dev, params),
        };
        if self.loader.state().step == 0 && !self.held_out.is_empty() {
            self.evaluate(folder, on_event)?;
        }
        let mut epoch = self.loader.epochs_done();
        let mut on_disk = outcome.steps;
        while !stop.load(Ordering::Relaxed) {
            let Some(next) = self.loader.next_step() else { break };
            let number = self.loader.state().step;
            let record = self.step(&next, &mut grads).map_err(|e| e.in_step(number))?;
            folder.append_metrics(&record)?;
            on_event(&Event::Step(record));
            outcome.steps = record.step;
            outcome.first_loss = if outcome.first_loss.is_nan() { record.loss } else { outcome.first_loss };
            outcome.loss = record.loss;
            outcome.tokens += record.tokens;
            outcome.seconds += record.seconds;

            let last = record.step >= self.loader.steps_total();
            let epoch_done = next.epoch.floor() as usize > epoch;
            epoch = next.epoch.floor() as usize;
            let due = t.eval_every.map_or(epoch_done, |every| record.step % every == 0);
            if (due || last) && !self.held_out.is_empty() {
                outcome.eval_loss = Some(self.evaluate(folder, on_event)?);
            }
            let every = self.config.output.checkpoint_every;
            let lowered = budget::lowered((self.limit)(), &self.summary.plan);
            if last || lowered.is_some() || every.is_some_and(|every| record.step % every == 0) {
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
        if !outcome.interrupted && !self.progress.is_made(self.trainable.params()) {
            let problem = format!("no trained value has changed (steps done: {})", outcome.steps);
            return Err(
                Error::train(problem).with_hint("raise train.lr; metrics.jsonl has the rate of each step")
            );
        }
        Ok(outcome)
    }

    /// One optimizer step.
    fn step(&mut self, next: &Step, grads: &mut Gradients) -> Result<StepRecord> {
        let start = Instant::now();
        let number = self.loader.state().step;
        let lr = self.schedule.at(number - 1);
        let divisor = match self.config.train.loss_normalization {
            LossNormalization::Targets => next.label_tokens,
            LossNormalization::Labels => next.labels,
        };
        let scale = 1.0 / divisor.max(1) as f32;
        let (loss, norm) = match &mut self.trainable {
            Trainable::Full(params) if self.layer_by_layer => {
                let batch = &next.micro_batches[0];
                let segments = eval::segments(batch);
                let tokens = Tokens { ids: &batch.tokens, positions: &batch.positions, segments: &segments };
                let (how, rows) = ((self.dev, self.precision), (tokens, eval::targets(batch)));
                let optimizer = &mut *self.optimizer;
                step::layer_by_layer(
                    &self.model,
                    params,
                    how,
                    rows,
                    scale,
                    self.policies,
                    grads,
                    optimizer,
                    lr,
                )?
            }
            _ => self.accumulate(next, scale, grads)?,
        };
        // A gradient of exactly zero is a fault, unless the model has nothing left to learn from these rows.
        if !norm.is_finite() || (norm == 0.0 && loss.mean() > 1e-3) {
            let problem = format!("the gradient norm is {norm}");
            return Err(Error::train(problem).with_hint("lower train.lr, or use train.precision: f32"));
        }
        if !self.layer_by_layer {
            let factor = clip::factor(norm, self.config.train.max_grad_norm);
            self.optimizer.step(self.dev, self.trainable.params_mut(), grads, lr, factor)?;
        }
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
            label_tokens: loss.tokens,
            seconds,
            tokens_per_second: next.tokens as f64 / seconds,
            rss_bytes: resident.now,
            peak_rss_bytes: resident.peak,
        })
    }

    /// The sum of the micro-batches' losses and gradients; the gradients' norm.
    fn accumulate(&self, next: &Step, scale: f32, grads: &mut Gradients) -> Result<(LossSum, f64)> {
        grads.clear();
        let number = self.loader.state().step;
        let mut loss = LossSum::default();
        for (i, batch) in next.micro_batches.iter().enumerate() {
            let segments = eval::segments(batch);
            let tokens = Tokens { ids: &batch.tokens, positions: &batch.positions, segments: &segments };
            let key = DropoutKey { seed: self.config.train.seed, step: (number as u64) << 24 | i as u64 };
            let pass = Pass { dropout: Some(key), ..self.pass() };
            let (policies, targets) = (self.policies, eval::targets(batch));
            loss.add(step::forward_backward(&self.model, &pass, tokens, targets, scale, policies, grads)?);
        }
        Ok((loss, step::gradient_norm(&self.pass(), grads)))
    }

    fn evaluate(&self, folder: &RunFolder, on_event: &mut dyn FnMut(&Event)) -> Result<f64> {
        let sum = eval::loss(&self.model, &self.pass(), &self.held_out)?;
        let record = EvalRecord {
            step: self.loader.state().step,
            eval_loss: sum.mean(),
            eval_label_tokens: sum.tokens,
        };
        folder.append_metrics(&record)?;
        on_event(&Event::Eval(record));
        Ok(record.eval_loss)
    }
}

fn make_adapter(config: &RunConfig, dev: &Device, model: &Decoder) -> Result<Adapter> {
    match &config.train.init_adapter {
        Some(folder) => peft::load(dev, Path::new(folder), model),
        None => Adapter::init(dev, model, setup::lora_config(&config.method), config.train.seed),
    }
}

/// SHA-256 of the rows, in order.
fn hash_rows(rows: &[TrainRow]) -> String {
    let mut hash = Sha256::new();
    for row in rows {
        hash.update((row.len() as u64).to_le_bytes());
        row.input_ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
        row.labels.iter().for_each(|l| hash.update(l.to_le_bytes()));
    }
    hex(&hash.finalize())
}
