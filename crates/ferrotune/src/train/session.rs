//! A model with what is trained, and the optimizer: all that a step needs, and nothing of files, schedules or reports.

use std::path::Path;

use ferrotune_kernels::{Device, Precision};

use super::step;
use crate::base::BaseModel;
use crate::data::packed_batch::PackedBatch;
use crate::formats::atomic;
use crate::load::load_into;
use crate::lora::{Adapter, LoraConfig, peft};
use crate::loss::{Loss, Objective};
use crate::model::{Adapted, Decoder, DropoutKey, Gradients, Params, Pass};
use crate::optim::{Optimizer, clip};
use crate::plan::{RunPlan, Way};
use crate::run_config::{RunConfig, WeightKind};
use crate::{Error, Result, loss, optim};

/// What is trained.
#[derive(Debug)]
pub enum Trainable {
    /// Every parameter of the model.
    Full(Params),
    /// An adapter beside the frozen model.
    Adapter(Box<Adapter>),
}

impl Trainable {
    /// The parameters.
    pub fn params(&self) -> &Params {
        match self {
            Trainable::Full(params) => params,
            Trainable::Adapter(adapter) => &adapter.params,
        }
    }

    /// The parameters, to update.
    pub(crate) fn params_mut(&mut self) -> &mut Params {
        match self {
            Trainable::Full(params) => params,
            Trainable::Adapter(adapter) => &mut adapter.params,
        }
    }

    /// What an adapter adds to the model.
    pub fn adapted(&self) -> Option<&Adapted> {
        match self {
            Trainable::Full(_) => None,
            Trainable::Adapter(adapter) => Some(&adapter.adapted),
        }
    }
}

/// A model in training.
#[derive(Debug)]
pub struct Session<'a> {
    /// Where it is computed.
    pub dev: &'a Device,
    /// Column of the precision table.
    pub precision: Precision,
    /// The network.
    pub model: Decoder,
    /// What is trained.
    pub trainable: Trainable,
    /// The optimizer and its state.
    pub optimizer: Box<dyn Optimizer>,
    /// What is trained towards.
    pub objective: Box<dyn Objective>,
    grads: Gradients,
    way: Way,
    layer_by_layer: bool,
    /// Gradients of a larger norm are scaled down to it; not if it is 0.
    max_grad_norm: f64,
    /// Seed of the dropout masks.
    seed: u64,
}

/// One optimizer step.
#[derive(Debug, Clone, Copy)]
pub struct StepArgs<'b> {
    /// The rows of the step, in micro-batches.
    pub batches: &'b [PackedBatch],
    /// Number of the step, from 1; masks of dropout depend on it.
    pub number: usize,
    /// What the summed loss is divided by.
    pub divisor: usize,
    /// Learning rate.
    pub lr: f64,
}

impl<'a> Session<'a> {
    /// Loads the model as the plan has it and makes, or reads, what is trained.
    pub fn new(
        config: &RunConfig,
        base: &BaseModel,
        dev: &'a Device,
        plan: &RunPlan,
        positions: usize,
        note: &mut dyn FnMut(String),
    ) -> Result<Self> {
        let params = paged_params(config, plan)?;
        let (mut model, own) = match params {
            Some(params) => load_into(dev, &base.checkpoint, plan.form, positions, params)?,
            None => base.load(dev, plan.form, positions, note)?,
        };
        let trainable = match &plan.lora {
            None => Trainable::Full(own),
            Some(lora) => Trainable::Adapter(Box::new(make_adapter(config, lora, dev, &model)?)),
        };
        if plan.way.streamed {
            model.stream();
        }
        model.eight_bit = plan.way.eight_bit;
        let params = trainable.params();
        debug_assert_eq!(params.elements(), plan.trained, "the plan foresees what is trained");
        let grads = match plan.layer_by_layer {
            true => Gradients::on_demand(dev, params),
            false => Gradients::zeros(dev, params),
        };
        Ok(Session {
            dev,
            precision: plan.precision,
            optimizer: optim::init(config, dev, params)?,
            objective: loss::init(config),
            model,
            trainable,
            grads,
            way: plan.way,
            layer_by_layer: plan.layer_by_layer,
            max_grad_norm: config.train.max_grad_norm,
            seed: config.train.seed,
        })
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

    /// Forward, backward and update; gives the summed loss and the norm of all gradients before clipping.
    ///
    /// # Errors
    /// The loss or the norm is no number, or no gradient arrives although there is a loss: nothing was updated then, unless
    /// layers are updated one by one.
    pub fn step(&mut self, step: StepArgs<'_>) -> Result<(Loss, f64)> {
        let scale = 1.0 / step.divisor.max(1) as f32;
        let (loss, norm) = match self.layer_by_layer {
            true => self.layer_by_layer(&step.batches[0], scale, step.lr)?,
            false => self.accumulate(step, scale)?,
        };
        // A gradient of exactly zero is a fault, unless the model has nothing left to learn from these rows.
        if !norm.is_finite() || (norm == 0.0 && loss.mean() > 1e-3) {
            let problem = format!("the gradient norm is {norm}");
            return Err(Error::train(problem).with_hint("lower train.lr, or use train.precision: f32"));
        }
        if !self.layer_by_layer {
            let factor = clip::factor(norm, self.max_grad_norm);
            let params = self.trainable.params_mut();
            self.optimizer.step(self.dev, params, &self.grads, step.lr, factor)?;
        }
        Ok((loss, norm))
    }

    /// The sum of the micro-batches' losses and gradients; the gradients' norm.
    fn accumulate(&mut self, step: StepArgs<'_>, scale: f32) -> Result<(Loss, f64)> {
        self.grads.clear();
        let mut loss = Loss::default();
        for (i, batch) in step.batches.iter().enumerate() {
            let key = DropoutKey { seed: self.seed, step: (step.number as u64) << 24 | i as u64 };
            // As `pass`, but the gradients are borrowed for writing.
            let pass = Pass {
                dev: self.dev,
                precision: self.precision,
                params: self.trainable.params(),
                adapted: self.trainable.adapted(),
                dropout: Some(key),
            };
            let (objective, policies) = (&*self.objective, self.way.policies);
            let grads = &mut self.grads;
            loss.add(step::forward_backward(&self.model, &pass, objective, batch, scale, policies, grads)?);
        }
        let norm = step::gradient_norm(self.dev, &self.grads);
        Ok((loss, norm))
    }

    fn layer_by_layer(&mut self, batch: &PackedBatch, scale: f32, lr: f64) -> Result<(Loss, f64)> {
        let update = step::Update {
            dev: self.dev,
            precision: self.precision,
            optimizer: &mut *self.optimizer,
            lr,
            scale,
            policies: self.way.policies,
        };
        let params = self.trainable.params_mut();
        step::layer_by_layer(&self.model, params, update, &*self.objective, batch, &mut self.grads)
    }

    /// The loss on held-out rows.
    pub fn evaluate(&self, batches: impl IntoIterator<Item = Result<PackedBatch>>) -> Result<Loss> {
        loss::evaluate(&*self.objective, &self.model, &self.pass(), batches)
    }
}

/// Where the parameters of full fine-tuning lie if that is a file.
fn paged_params(config: &RunConfig, plan: &RunPlan) -> Result<Option<Params>> {
    Ok(match (config.train.weights, plan.precision) {
        (WeightKind::F32, _) => None,
        (WeightKind::Bf16, Precision::F32) => {
            let problem = "the precision is f32 here, which bf16 weights would change";
            return Err(Error::config("train.weights", problem)
                .with_hint("add train.precision: bf16, or use train.weights: f32"));
        }
        (WeightKind::Bf16, Precision::Bf16) => {
            Some(Params::paged(atomic::scratch(Path::new(&config.output.dir))?, plan.trained))
        }
    })
}

fn make_adapter(config: &RunConfig, lora: &LoraConfig, dev: &Device, model: &Decoder) -> Result<Adapter> {
    match &config.train.init_adapter {
        Some(folder) => peft::load(dev, Path::new(folder), model),
        None => Adapter::init(dev, model, lora.clone(), config.train.seed).map_err(|e| e.under("method")),
    }
}
