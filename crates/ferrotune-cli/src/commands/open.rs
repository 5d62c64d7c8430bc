//! Opening a model for use: a folder, a GGUF file, or an adapter or run folder with the base that it names.

use std::path::{Path, PathBuf};

use ferrotune::base::BaseModel;
use ferrotune::formats::adapter::{AdapterFile, CONFIG_FILE};
use ferrotune::load::{BaseForm, BaseStorage};
use ferrotune::lora::{Adapter, peft};
use ferrotune::model::{Decoder, Params, Pass};
use ferrotune::plan::form;
use ferrotune::results::model_folder::TEMPLATE_FILE;
use ferrotune::results::trained_beside::TrainedBeside;
use ferrotune::run_config::{DataOptions, FloatKind, RunConfig};
use ferrotune::train::Event;
use ferrotune::{Error, Result};
use ferrotune_kernels::{Device, Precision};

use serde_json::{Value, json};

use super::open_cached;
use crate::args::{Args, ModelArgs};
use crate::report::Report;
use crate::words::QuantChoice;

/// A model in memory with the adapter beside it.
pub struct Loaded {
    pub base: BaseModel,
    pub model: Decoder,
    /// How the base is held.
    pub form: BaseForm,
    pub adapter: Option<Adapter>,
    pub precision: Precision,
    pub dev: Device,
    /// How the rows were read that it was trained on, or the defaults.
    pub data: DataOptions,
    /// The seed of that run, which decides how source files are cut.
    pub seed: u64,
    none: Params,
}

impl Loaded {
    /// A pass with the given adapter, or with the base alone.
    pub fn pass<'a>(&'a self, adapter: Option<&'a Adapter>) -> Pass<'a> {
        let params = adapter.map_or(&self.none, |a| &a.params);
        let adapted = adapter.map(|a| &a.adapted);
        Pass { dev: &self.dev, precision: self.precision, params, adapted, dropout: None }
    }

    /// What a chat opens with: the system message that is asked for, or that of the run, if there is one.
    pub fn opening(&self, asked: Option<&str>) -> Vec<Value> {
        let system = asked.or(self.data.system.as_deref()).filter(|text| !text.is_empty());
        system.into_iter().map(|text| json!({"role": "system", "content": text})).collect()
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
    /// The weights that the adapter was trained beside, as its folder says.
    pub beside: Option<TrainedBeside>,
    /// The file that names the base, where the user did not.
    pub named_in: Option<PathBuf>,
}

/// Follows an adapter folder to its base.
pub fn resolve(model: &str, adapter: Option<&str>, base: Option<&str>) -> Result<Resolved> {
    let folder = adapter.map_or_else(|| PathBuf::from(model), PathBuf::from);
    if !peft::is_adapter(&folder) {
        if adapter.is_some() {
            return Err(Error::file(&folder, format!("no {CONFIG_FILE} in it"))
                .with_hint("give the folder of a PEFT or MLX-LM adapter"));
        }
        let base = base.unwrap_or(model).to_string();
        return Ok(Resolved { base, adapter: None, run: None, beside: None, named_in: None });
    }
    let file = folder.join("run.yaml");
    let run = run_of(&folder)?;
    let beside = TrainedBeside::read(&folder)?;
    let (base, named_in) = match (base, adapter, &run) {
        (Some(base), ..) => (base.to_string(), None),
        (None, Some(_), _) => (model.to_string(), None),
        (None, None, Some(run)) => (run.model.base.clone(), Some(file)),
        (None, None, None) => {
            let file = folder.join(CONFIG_FILE);
            let named = AdapterFile::read(&folder)?.config.base_model_name_or_path;
            let named = named.filter(|name| !name.is_empty()).ok_or_else(|| {
                Error::file(&file, "it names no base model").with_hint("name the base with --base")
            })?;
            (named, Some(file))
        }
    };
    Ok(Resolved { base, adapter: Some(folder), run, beside, named_in })
}

/// The run file in a folder, if there is one.
fn run_of(folder: &Path) -> Result<Option<RunConfig>> {
    let file = folder.join("run.yaml");
    if file.is_file() { RunConfig::load(&file, &[]).map(Some) } else { Ok(None) }
}

/// The chat template that the adapter in a folder was trained with, if the folder has one of its own.
pub fn adapter_template(folder: &Path) -> Result<Option<String>> {
    own_template(folder, run_of(folder)?.as_ref())
}

fn own_template(folder: &Path, run: Option<&RunConfig>) -> Result<Option<String>> {
    let file = folder.join(TEMPLATE_FILE);
    let has_own = match run {
        Some(run) => run.data.template.is_some(),
        // Without a run file, what lies beside the adapter is what it was saved with.
        None => file.is_file(),
    };
    if !has_own {
        return Ok(None);
    }
    std::fs::read_to_string(&file).map(Some).map_err(|e| {
        Error::file(&file, format!("the template that the adapter was trained with cannot be read: {e}"))
            .with_hint("it is that of data.template in its run.yaml; copy it here")
    })
}

impl Resolved {
    /// The chat template that the adapter was trained with, if its folder has one of its own.
    pub fn template(&self) -> Result<Option<String>> {
        self.adapter.as_ref().map_or(Ok(None), |folder| own_template(folder, self.run.as_ref()))
    }

    /// Opens the base. If it is not here and only the adapter names it, the error says so.
    pub fn open_base(&self, args: &Args, report: &Report) -> Result<BaseModel> {
        let opened = open_cached(args, &self.base, self.run.as_ref(), report);
        match &self.named_in {
            Some(file) if !Path::new(&self.base).exists() => opened.map_err(|e| {
                let hint = "give the base with --base: a model folder, a .gguf file or a hub id";
                let hint = e.hint().map_or(hint.to_string(), |own| format!("{hint}; {own}"));
                let problem = format!("the base of the adapter is not here: {e}");
                Error::file(file, problem).with_hint(hint)
            }),
            _ => opened,
        }
    }

    /// The form of the base that is asked for; of `auto` that which the adapter was trained beside, as far as its folder
    /// says.
    pub fn form(
        &self,
        quant: QuantChoice,
        base: &BaseModel,
        precision: Precision,
        report: &Report,
    ) -> Result<(BaseForm, Origin)> {
        if let Some(storage) = quant.storage()? {
            return Ok((storage.into(), Origin::Asked));
        }
        match (&self.adapter, &self.beside, &self.run) {
            (None, ..) => Ok((BaseStorage::AsStored.into(), Origin::Asked)),
            (_, Some(beside), _) => Ok((beside.form(), Origin::Adapter)),
            (_, None, Some(run)) => Ok((form::form(run, &base.checkpoint, precision)?, Origin::Adapter)),
            (Some(folder), None, None) => {
                let text = format!(
                    "the adapter in {} does not say in which form its base was held in training; the base is taken as \
                     its files have it (--quant takes another form)",
                    folder.display()
                );
                report.event(&Event::Warning { text });
                Ok((BaseStorage::AsStored.into(), Origin::Unknown))
            }
        }
    }
}

/// Who chose the form of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The user.
    Asked,
    /// The adapter: it was trained beside the base in this form.
    Adapter,
    /// Nobody.
    Unknown,
}

/// Loads what the arguments name for sequences of up to `positions` tokens.
pub fn open(args: &Args, a: &ModelArgs, dev: Device, positions: usize, report: &Report) -> Result<Loaded> {
    let found = resolve(&a.model, a.adapter.as_deref(), a.base.as_deref())?;
    let mut base = found.open_base(args, report)?;
    if a.no_cache {
        base.cache = None;
    }
    let (data, seed) = data_options(&found, a)?;
    base.set_template(&data)?;
    let precision = form::precision(a.precision, &dev);
    let (form, _) = found.form(a.quant, &base, precision, report)?;
    let mut warn = |text| report.event(&Event::Warning { text });
    let (model, none) = base.load(&dev, form, positions, &mut warn)?;
    let adapter = found.adapter.map(|folder| adapter(&dev, &folder, &model, &base, report)).transpose()?;
    Ok(Loaded { base, model, form, adapter, precision, dev, data, seed, none })
}

/// How the rows of the run were read, whose folder is opened, with the variables of the command line; and its seed.
fn data_options(found: &Resolved, a: &ModelArgs) -> Result<(DataOptions, u64)> {
    let file = Path::new(&a.model).join("run.yaml");
    let (mut data, seed) = match &found.run {
        Some(run) => (run.data.clone(), run.train.seed),
        // A model that was trained in full.
        None if file.is_file() => {
            let run = RunConfig::load(&file, &[])?;
            (run.data, run.train.seed)
        }
        None => (DataOptions::default(), 0),
    };
    data.template_variables.extend(a.template_variables.iter().cloned());
    // A template that was given by a path may lie elsewhere by now; that of a model trained in full is in its folder.
    data.template = match &a.template {
        Some(asked) => Some(asked.clone()),
        None => found.template()?,
    };
    Ok((data, seed))
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
    if a.precision == FloatKind::Auto {
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
    if let Some((name, fingerprint)) = trained_base(folder)?
        && fingerprint != base.checkpoint.fingerprint(&dev.threads())?
    {
        let text = format!(
            "the adapter in {} was trained beside {name}, whose weights are not those of {}",
            folder.display(),
            base.name
        );
        report.event(&Event::Warning { text });
    }
    Ok(adapter)
}

/// Name and fingerprint of the base that an adapter was trained beside, as its folder says.
pub fn trained_base(folder: &Path) -> Result<Option<(String, String)>> {
    if let Some(beside) = TrainedBeside::read(folder)? {
        return Ok(Some((beside.base, beside.fingerprint)));
    }
    // Results of versions that wrote nothing but the receipt.
    let receipt = std::fs::read(folder.join("receipt.json")).unwrap_or_default();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap_or_default();
    let name = receipt["base"]["name"].as_str().unwrap_or("another base").to_string();
    Ok(receipt["base"]["fingerprint"].as_str().map(|trained| (name, trained.to_string())))
}

/// Another adapter for a base that is in memory; says so if it was trained beside the base in another form.
pub fn further_adapter(loaded: &Loaded, folder: &Path, report: &Report) -> Result<Adapter> {
    let adapter = adapter(&loaded.dev, folder, &loaded.model, &loaded.base, report)?;
    if let Some(beside) = TrainedBeside::read(folder)?
        && beside.form() != loaded.form
    {
        let text = format!(
            "the adapter in {} was trained beside its base in another form than that in memory ({}); start with this \
             adapter to have its own",
            folder.display(),
            loaded.model.storage_name()
        );
        report.event(&Event::Warning { text });
    }
    Ok(adapter)
}
