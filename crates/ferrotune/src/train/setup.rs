//! From a run file to things that can run: device, precision, storage of the base, rows, the trainable part.

use std::path::Path;

use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::quant::Storage;
use ferrotune_kernels::quant::nf4::FourBitKind;
use ferrotune_kernels::{DType, Device, Precision};

use super::record::Event;
use crate::base::BaseModel;
use crate::data::dataset::{Dataset, ReadOptions};
use crate::data::tokenize::{PrepReport, PrepareOptions, Preparer, TrainRow};
use crate::lora::{Adapter, Init, LoraConfig, Targets};
use crate::model::families::architecture;
use crate::model::linear::BranchIds;
use crate::model::weights::{BaseStorage, FourBitOptions};
use crate::model::{Decoder, Params};
use crate::run_config::{EvalSource, FloatKind, LoraInit, MethodKind, MethodOptions, QuantKind, RunConfig};
use crate::{Error, Result, run_config};

/// What is trained.
#[derive(Debug)]
pub enum Trainable {
    /// Every parameter of the model.
    Full(Params),
    /// An adapter beside the frozen model.
    Adapter(Adapter),
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

    /// The branches of an adapter.
    pub fn branches(&self) -> &[Option<BranchIds>] {
        match self {
            Trainable::Full(_) => &[],
            Trainable::Adapter(adapter) => &adapter.branches,
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
fn is_quantized(base: &BaseModel) -> Result<bool> {
    let a = architecture(base.checkpoint.config())?;
    let w = base.checkpoint.weight("model.layers.0.mlp.up_proj.weight", a.ffn, a.hidden)?;
    Ok(!matches!(w.storage(), Storage::Dense(..)))
}

/// How the base is held for a method.
pub fn storage(config: &RunConfig, base: &BaseModel, precision: Precision) -> Result<BaseStorage> {
    let quant = &config.method.quant;
    let four_bit =
        |kind| BaseStorage::FourBit(FourBitOptions { kind, block: quant.block, double: quant.double });
    Ok(match config.method.kind {
        MethodKind::Full => BaseStorage::Trained,
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
        },
    })
}

/// The name of a storage, for people.
pub fn storage_name(model: &Decoder) -> String {
    model.layers.first().map_or(String::new(), |l| crate::merge::base_name(&l.mlp.up_proj))
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
        },
        targets: match &method.targets {
            run_config::Targets::AllLinear => Targets::AllLinear,
            run_config::Targets::Names(names) => Targets::Names(names.clone()),
            run_config::Targets::Pattern(pattern) => Targets::Regex(pattern.clone()),
        },
    }
}

/// Tokenized rows of a run.
#[derive(Debug)]
pub struct Prepared {
    /// Rows to train on.
    pub train: Vec<TrainRow>,
    /// Rows held out.
    pub eval: Vec<TrainRow>,
    /// Counts of the training rows.
    pub report: PrepReport,
}

/// Reads, splits and tokenizes the rows that the run file names; relative paths start at the current folder.
pub fn prepare(config: &RunConfig, base: &BaseModel) -> Result<Prepared> {
    if config.data.train.is_empty() {
        return Err(Error::config("data.train", "no file of rows is given")
            .with_hint("set data.train to a JSONL file"));
    }
    let options = ReadOptions { format: config.data.format, has_template: base.template.is_some() };
    let rows = Dataset::read(&config.data.train, options)?;
    let (train, eval) = match &config.data.eval {
        EvalSource::None => (rows, None),
        EvalSource::Share(share) => {
            let (train, held) = rows.split(*share, config.train.seed)?;
            (train, Some(held))
        }
        EvalSource::Files(files) => (rows, Some(Dataset::read(files, options)?)),
    };
    let mut options = PrepareOptions::from(&config.data);
    options.vocab_size = Some(base.checkpoint.config().vocab_size);
    let preparer = Preparer::new(&base.tokenizer, base.template.as_ref(), options);
    let (train, report) = preparer.prepare(&train)?;
    let eval = match eval {
        Some(held) => preparer.prepare(&held)?.0,
        None => Vec::new(),
    };
    Ok(Prepared { train, eval, report })
}

/// What a user should hear about the rows.
pub fn data_events(prepared: &Prepared) -> Vec<Event> {
    let mut events = vec![Event::Prepared { train: prepared.report.clone(), eval_rows: prepared.eval.len() }];
    events.extend(prepared.report.warnings().into_iter().map(|text| Event::Warning { text }));
    events
}

/// Whether `path` looks like something on disk rather than a hub id.
pub fn is_local(base: &str) -> bool {
    Path::new(base).exists() || base.ends_with(".gguf") || base.starts_with(['.', '/', '~'])
}
