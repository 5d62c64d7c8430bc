//! From a run file to things that can run: device, precision, storage of the base, the trainable part.

use std::path::Path;

use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::ops::adamw as adamw_op;
use ferrotune_kernels::quant::Storage;
use ferrotune_kernels::quant::nf4::FourBitKind;
use ferrotune_kernels::{DType, Device, Precision, Threads};

use super::record::Event;
use crate::arch::families::architecture;
use crate::data::PreparedData;
use crate::data::tokenize::Names;
use crate::formats::{Checkpoint, atomic};
use crate::load::{BaseForm, BaseStorage, FourBitOptions};
use crate::lora::{Adapter, Init, LoraConfig, TrainedBiases};
use crate::model::{Adapted, Params};
use crate::optim::Optimizer;
use crate::optim::adamw::{AdamW, AdamWConfig, LoraPlus};
use crate::optim::adamw8::{self, AdamW8};
use crate::results::trained_beside::TrainedBeside;
use crate::run_config::{
    BiasKind, FloatKind, LoraInit, MethodKind, MethodOptions, OptimizerKind, QuantKind, RunConfig, TableKind,
    TrainOptions, WeightKind,
};
use crate::units::human;
use crate::{Error, Result};

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
    pub fn params_mut(&mut self) -> &mut Params {
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

/// The CPU with the run file's number of threads, or all that the machine has.
pub fn device(threads: Option<usize>, isa: Option<Isa>) -> Result<Device> {
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    Ok(Device::Cpu(Cpu::new(threads, isa.unwrap_or_else(Isa::detect))?))
}

/// The precision asked for, or bf16 where the device multiplies it in hardware.
pub fn precision(kind: FloatKind, dev: &Device) -> Precision {
    match (kind, dev) {
        (FloatKind::F32, _) => Precision::F32,
        (FloatKind::Bf16, _) => Precision::Bf16,
        (FloatKind::Auto, Device::Cpu(cpu)) if cpu.isa().has_bf16() => Precision::Bf16,
        (FloatKind::Auto, _) => Precision::F32,
    }
}

/// Whether the checkpoint's linears are stored in blocks already.
fn is_quantized(base: &Checkpoint) -> Result<bool> {
    let a = architecture(base.config())?;
    let (probe, rows, cols) = a.probe();
    Ok(!matches!(base.weight(probe, rows, cols)?.storage(), Storage::Dense(..)))
}

/// How the base is held for a method.
pub fn form(config: &RunConfig, base: &Checkpoint, precision: Precision) -> Result<BaseForm> {
    let quant = &config.method.quant;
    let four_bit =
        |kind| BaseStorage::FourBit(FourBitOptions { kind, block: quant.block, double: quant.double });
    let linears = match config.method.kind {
        MethodKind::Full => BaseStorage::Trained,
        // It quantizes the original weights itself.
        MethodKind::Qlora if config.method.init == LoraInit::Loftq => BaseStorage::AsStored,
        MethodKind::Lora => match config.model.dtype {
            FloatKind::F32 => BaseStorage::Dense(DType::F32),
            FloatKind::Bf16 => BaseStorage::Dense(DType::Bf16),
            // Blocks become what the products would round them to anyway; floats stay as they are.
            FloatKind::Auto if is_quantized(base)? => BaseStorage::Dense(precision.saved()),
            FloatKind::Auto => BaseStorage::AsStored,
        },
        MethodKind::Qlora => match quant.kind {
            QuantKind::Keep => BaseStorage::AsStored,
            QuantKind::Auto if is_quantized(base)? => BaseStorage::AsStored,
            QuantKind::Auto | QuantKind::Nf4 => four_bit(FourBitKind::Nf4),
            QuantKind::Fp4 => four_bit(FourBitKind::Fp4),
            QuantKind::Int8 => BaseStorage::Int8,
        },
    };
    let tables = match config.model.embeddings {
        TableKind::Auto => BaseForm::from(linears).tables,
        TableKind::Keep => BaseStorage::AsStored,
        TableKind::Bf16 => BaseStorage::Dense(DType::Bf16),
        TableKind::Nf4 => four_bit(FourBitKind::Nf4),
        TableKind::Int8 => BaseStorage::Int8,
    };
    Ok(BaseForm { linears, tables })
}

/// The adapter's constants of a run file.
pub fn lora_config(method: &MethodOptions) -> LoraConfig {
    LoraConfig {
        rank: method.rank,
        alpha: method.alpha,
        dropout: method.dropout as f32,
        rslora: method.rslora,
        init: match method.init {
            LoraInit::Kaiming => Init::Kaiming,
            LoraInit::Gaussian => Init::Gaussian,
            LoraInit::Pissa => Init::Pissa,
            LoraInit::Olora => Init::Olora,
            LoraInit::Loftq => Init::Loftq { iterations: method.loftq_iterations },
        },
        dora: method.dora,
        lora_bias: method.lora_bias,
        bias: match method.bias {
            BiasKind::None => TrainedBiases::None,
            BiasKind::All => TrainedBiases::All,
            BiasKind::LoraOnly => TrainedBiases::LoraOnly,
        },
        targets: method.targets.clone(),
        exclude: method.exclude.clone(),
        layers: method.layers_to_transform.clone(),
        layers_pattern: method.layers_pattern.clone(),
        rank_pattern: method.rank_pattern.clone(),
        alpha_pattern: method.alpha_pattern.clone(),
        target_parameters: method.target_parameters.clone(),
        modules_to_save: method.modules_to_save.clone(),
        trainable_tokens: method.trainable_tokens.clone(),
    }
}

/// The optimizer that a run file names, at its first step.
pub fn optimizer(run: &RunConfig, dev: &Device, params: &Params) -> Result<Box<dyn Optimizer>> {
    let train = &run.train;
    let config = AdamWConfig {
        betas: (train.betas[0], train.betas[1]),
        eps: train.eps,
        weight_decay: train.weight_decay,
        decay_norms_and_biases: false,
        loraplus: run.method.loraplus_lr_ratio.map(|ratio| LoraPlus {
            ratio,
            embedding: run.method.loraplus_lr_embedding / run.lr().max(f64::MIN_POSITIVE),
        }),
    };
    Ok(match train.optimizer {
        OptimizerKind::Adamw => Box::new(AdamW::new(dev, params, config)),
        OptimizerKind::PagedAdamw => {
            let folder = Path::new(&run.output.dir);
            let paged = AdamW::paged(params, config, atomic::scratch(folder)?);
            Box::new(paged.map_err(|e| {
                let bytes = human(8 * params.elements() as u64);
                Error::file(folder, format!("the optimizer's moments take {bytes} of disk there: {e}"))
                    .with_hint("make room, or use train.optimizer=adamw8bit, which needs no disk")
            })?)
        }
        OptimizerKind::Adamw8bit => Box::new(AdamW8::new(dev, params, config)),
    })
}

/// Where the parameters of full fine-tuning lie if that is a file; `elements` of them.
pub(super) fn paged_params(
    config: &RunConfig,
    precision: Precision,
    elements: usize,
) -> Result<Option<Params>> {
    Ok(match (config.train.weights, precision) {
        (WeightKind::F32, _) => None,
        (WeightKind::Bf16, Precision::F32) => {
            let problem = "the precision is f32 here, which bf16 weights would change";
            return Err(Error::config("train.weights", problem)
                .with_hint("add train.precision: bf16, or use train.weights: f32"));
        }
        (WeightKind::Bf16, Precision::Bf16) => {
            Some(Params::paged(atomic::scratch(Path::new(&config.output.dir))?, elements))
        }
    })
}

/// Bytes of the parameters in memory for tensors of these lengths.
pub(super) fn parameter_bytes(train: &TrainOptions, lengths: &[usize]) -> usize {
    let whole: usize = lengths.iter().sum();
    match train.weights {
        WeightKind::F32 => 4 * whole,
        // The copies, and what is in memory of the values themselves: parts at work, or a tensor that is written.
        WeightKind::Bf16 => {
            let largest = lengths.iter().max().map_or(0, |len| 4 * len);
            2 * whole + adamw_op::PAGED_WINDOW.max(largest).min(4 * whole)
        }
    }
}

/// Bytes of its state for tensors of these lengths.
pub(super) fn optimizer_bytes(train: &TrainOptions, lengths: &[usize]) -> usize {
    match train.optimizer {
        OptimizerKind::Adamw => lengths.iter().map(|len| 8 * len).sum(),
        // What is at work and what is read meanwhile, and a tensor that is written.
        OptimizerKind::PagedAdamw => {
            let whole = lengths.iter().map(|len| 8 * len).sum();
            let largest = lengths.iter().max().map_or(0, |len| 4 * len);
            (2 * adamw_op::PAGED_WINDOW + largest).min(whole)
        }
        OptimizerKind::Adamw8bit => lengths.iter().map(|len| adamw8::state_bytes(*len)).sum(),
    }
}

/// What a user should hear of the base before a run: what its own training code does and this one does not, and that an
/// adapter to begin with was trained beside other weights.
pub fn base_events(
    config: &RunConfig,
    base: &Checkpoint,
    form: BaseForm,
    threads: &Threads,
) -> Result<Vec<Event>> {
    let mut texts = Vec::new();
    for (key, share) in base.config().own_dropout() {
        let path = base.config().path.display();
        texts.push(format!("{path}: `{key}`: {share} is not applied in training; only method.dropout is"));
    }
    if let Some(folder) = &config.train.init_adapter
        && let Some(beside) = TrainedBeside::read(Path::new(folder))?
    {
        if beside.fingerprint != base.fingerprint(threads)? {
            texts.push(format!("the adapter in {folder} was trained beside {}, another base", beside.base));
        } else if beside.form() != form {
            texts.push(format!(
                "the adapter in {folder} was trained beside its base in another form than that of this run"
            ));
        }
    }
    Ok(texts.into_iter().map(|text| Event::Warning { text }).collect())
}

/// The tokens that end an answer as far as the rows teach to write them.
pub fn taught_ends(prepared: &PreparedData) -> Vec<u32> {
    let taught = |id: &u32| {
        let label = i32::try_from(*id).ok();
        prepared.train.iter().any(|row| row.labels.iter().skip(1).any(|l| Some(*l) == label))
    };
    prepared.stop_ids.iter().copied().filter(taught).collect()
}

/// What a user should hear about the rows.
pub fn data_events(prepared: &PreparedData) -> Vec<Event> {
    let mut events =
        vec![Event::Prepared { train: prepared.train_report.clone(), eval_rows: prepared.eval.len() }];
    let train = prepared.train_report.warnings();
    let held = prepared.eval_report.iter().flat_map(|report| report.warnings_in(Names::EVAL));
    let held = held.map(|text| format!("held-out rows: {text}"));
    events.extend(train.into_iter().chain(held).map(|text| Event::Warning { text }));
    events
}
