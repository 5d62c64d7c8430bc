//! Opening a model for use: a folder, a GGUF file, or an adapter or run folder with the base that it names.

use std::path::{Path, PathBuf};

use ferrotune::base::BaseModel;
use ferrotune::checkpoint::adapter::{AdapterFile, CONFIG_FILE};
use ferrotune::lora::{Adapter, peft};
use ferrotune::model::weights::{BaseForm, BaseStorage, FourBitOptions};
use ferrotune::model::{Decoder, Params, Pass};
use ferrotune::run_config::RunConfig;
use ferrotune::train::{Event, setup};
use ferrotune::{Error, Result};
use ferrotune_kernels::quant::nf4::FourBitKind;
use ferrotune_kernels::{DType, Device, Precision};

use super::open_cached;
use crate::args::{Args, ModelArgs};
use crate::report::Report;

/// A model in memory with the adapter beside it.
pub struct Loaded {
    pub base: BaseModel,
    pub model: Decoder,
    pub adapter: Option<Adapter>,
    pub precision: Precision,
    pub dev: Device,
    none: Params,
}

impl Loaded {
    /// A pass with the given adapter, or with the base alone.
    pub fn pass<'a>(&'a self, adapter: Option<&'a Adapter>) -> Pass<'a> {
        let params = adapter.map_or(&self.none, |a| &a.params);
        let adapted = adapter.map(|a| &a.adapted);
        Pass { dev: &self.dev, precision: self.precision, params, adapted, dropout: None }
    }

    /// A pass with the adapter that was opened.
    pub fn own_pass(&self) -> Pass<'_> {
        self.pass(self.adapter.as_ref())
    }
}

/// Where a model argument leads.
pub struct Resolved {
    /// Base model, as the user or the adapter names it.
    pub base: String,
    /// Adapter folder.
    pub adapter: Option<PathBuf>,
    /// The run file beside the adapter, if it is in a run folder.
    pub run: Option<RunConfig>,
}

/// Follows an adapter folder to its base.
pub fn resolve(model: &str, adapter: Option<&str>, base: Option<&str>) -> Result<Resolved> {
    let folder = adapter.map_or_else(|| PathBuf::from(model), PathBuf::from);
    if !peft::is_adapter(&folder) {
        if adapter.is_some() {
            return Err(Error::file(&folder, format!("no {CONFIG_FILE} in it"))
                .with_hint("give the folder of a PEFT or MLX-LM adapter"));
        }
        return Ok(Resolved { base: base.unwrap_or(model).to_string(), adapter: None, run: None });
    }
    let run = folder.join("run.yaml");
    let run = if run.is_file() { Some(RunConfig::load(&run, &[])?) } else { None };
    let named = match (base, adapter) {
        (Some(base), _) => base.to_string(),
        (None, Some(_)) => model.to_string(),
        (None, None) => named_base(&folder, run.as_ref())?,
    };
    Ok(Resolved { base: named, adapter: Some(folder), run })
}

fn named_base(folder: &Path, run: Option<&RunConfig>) -> Result<String> {
    if let Some(run) = run {
        return Ok(run.model.base.clone());
    }
    AdapterFile::read(folder)?.config.base_model_name_or_path.ok_or_else(|| {
        Error::file(folder.join(CONFIG_FILE), "it names no base model").with_hint("name the base with --base")
    })
}

/// Loads what the arguments name for sequences of up to `positions` tokens.
pub fn open(args: &Args, a: &ModelArgs, dev: Device, positions: usize, report: &Report) -> Result<Loaded> {
    let found = resolve(&a.model, a.adapter.as_deref(), a.base.as_deref())?;
    let mut base = open_cached(args, &found.base, found.run.as_ref(), report)?;
    if a.no_cache {
        base.cache = None;
    }
    let kind = precision_kind(&a.precision)?;
    let precision = setup::precision(kind, &dev);
    let form = form(&a.quant, &base, found.run.as_ref(), precision)?;
    let mut warn = |text| report.event(&Event::Warning { text });
    let (model, none) = base.load(&dev, form, positions, &mut warn)?;
    let adapter = found.adapter.map(|folder| adapter(&dev, &folder, &model, &base, report)).transpose()?;
    Ok(Loaded { base, model, adapter, precision, dev, none })
}

/// The same to give answers: in bf16 on every CPU unless another precision is asked for, as products of a token at a time are
/// faster in it.
pub fn open_to_answer(
    args: &Args,
    a: &ModelArgs,
    dev: Device,
    positions: usize,
    report: &Report,
) -> Result<Loaded> {
    let mut loaded = open(args, a, dev, positions, report)?;
    if a.precision == "auto" {
        loaded.precision = Precision::Bf16;
    }
    Ok(loaded)
}

/// Loads an adapter; says so if it was trained beside other weights of the same shapes, which may be meant (a
/// quantized copy of the base) or not.
pub fn adapter(
    dev: &Device,
    folder: &Path,
    model: &Decoder,
    base: &BaseModel,
    report: &Report,
) -> Result<Adapter> {
    let adapter = peft::load(dev, folder, model)?;
    let receipt = std::fs::read(folder.join("receipt.json")).unwrap_or_default();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap_or_default();
    let trained = receipt["base"]["fingerprint"].as_str();
    if let Some(trained) = trained
        && trained != base.checkpoint.fingerprint()?
    {
        let text = format!(
            "the adapter in {} was trained beside {}, whose weights are not those of {}",
            folder.display(),
            receipt["base"]["name"].as_str().unwrap_or("another base"),
            base.name
        );
        report.event(&Event::Warning { text });
    }
    Ok(adapter)
}

/// The form asked for; by default that of the run that made the adapter.
fn form(word: &str, base: &BaseModel, run: Option<&RunConfig>, precision: Precision) -> Result<BaseForm> {
    let four_bit = |kind| BaseStorage::FourBit(FourBitOptions { kind, block: 64, double: true });
    let storage = match word {
        "auto" => match run {
            Some(run) => return setup::form(run, &base.checkpoint, precision),
            None => BaseStorage::AsStored,
        },
        "keep" => BaseStorage::AsStored,
        "nf4" => four_bit(FourBitKind::Nf4),
        "fp4" => four_bit(FourBitKind::Fp4),
        "int8" => BaseStorage::Int8,
        "bf16" => BaseStorage::Dense(DType::Bf16),
        "f32" => BaseStorage::Dense(DType::F32),
        other => {
            return Err(Error::config("--quant", format!("`{other}` is not a storage"))
                .with_hint("one of auto, keep, nf4, fp4, int8, bf16, f32"));
        }
    };
    Ok(storage.into())
}

fn precision_kind(word: &str) -> Result<ferrotune::run_config::FloatKind> {
    use ferrotune::run_config::FloatKind;
    match word {
        "auto" => Ok(FloatKind::Auto),
        "f32" => Ok(FloatKind::F32),
        "bf16" => Ok(FloatKind::Bf16),
        other => Err(Error::config("--precision", format!("`{other}` is not a precision"))
            .with_hint("one of auto, f32, bf16")),
    }
}
