//! The run file: everything that decides what a run does, in one typed tree.
//!
//! A key is declared once, as a field of its section (see [`options`](crate::options)): its name, type, default, range,
//! unit, aliases and meaning. What reads, checks, writes and documents keys goes by that declaration. Reading is tolerant
//! in notation (YAML, TOML, JSON; the names of PEFT and transformers as aliases) and strict in content: an unknown key, a wrong type
//! or an impossible value is an error that names the key. [`RunConfig::to_yaml`] writes the tree with all defaults filled
//! in; reading that gives the same tree.

mod layers;
mod method;
#[allow(clippy::disallowed_methods, reason = "asks whether a path is there")]
mod paths;
pub mod reference;
mod sections;
mod settings;
mod validate;
mod values;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
pub use crate::formats::adapter::{Init, LoraConfig, Targets, TrainedBiases};
pub use crate::formats::quantized::QuantKind;
use crate::options::schema_of;
use layers::Layers;
pub use layers::Notation;
pub use method::{MethodKind, MethodOptions, QuantOptions};
pub(crate) use paths::matches;
pub use sections::{
    ActivationPolicy, ActivationStorage, BadRowPolicy, DataFormat, DataOptions, FloatKind, LossNormalization,
    ModelOptions, ObjectiveKind, OptimizerKind, OutputOptions, Overlong, Reasoning, Shape, SourceOptions,
    StreamPolicy, Supervise, TableKind, TrainOptions, Truncation, WeightKind,
};
pub use settings::{Difference, Settings, differences};
pub(crate) use validate::MEANINGS;
pub use values::EvalSource;

/// Everything that decides what a run does.
///
/// ```
/// use ferrotune::run_config::{DataOptions, ModelOptions, RunConfig};
///
/// let config = RunConfig {
///     model: ModelOptions { base: "some/model".into(), ..Default::default() },
///     data: DataOptions { train: vec!["rows.jsonl".into()], ..Default::default() },
///     ..Default::default()
/// };
/// let config = config.with(&["train.lr=1e-3".into()])?;
/// assert_eq!(config.train.lr, Some(1e-3));
/// # Ok::<(), ferrotune::Error>(())
/// ```
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunConfig {
    /// The base model.
    pub model: ModelOptions,
    /// What is trained, and in which form the base is kept.
    pub method: MethodOptions,
    /// The rows, and which of their tokens are supervised.
    pub data: DataOptions,
    /// Steps, optimizer, precision, memory.
    pub train: TrainOptions,
    /// Where results go.
    pub output: OutputOptions,
    /// Keys of `method` that a run file or an override states, by their own names.
    #[serde(skip)]
    pub stated: Vec<String>,
}

/// Which keys were stated is not a part of the tree.
impl PartialEq for RunConfig {
    fn eq(&self, other: &Self) -> bool {
        let sections =
            |c: &Self| (c.model.clone(), c.method.clone(), c.data.clone(), c.train.clone(), c.output.clone());
        sections(self) == sections(other)
    }
}

impl RunConfig {
    /// Reads a run file and applies `section.key=value` overrides in order; the result is valid and resolved.
    #[allow(clippy::disallowed_methods, reason = "opens the run file")]
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let text = match (crate::file_kind::detect(&bytes), std::str::from_utf8(&bytes)) {
            // UTF-16 without a mark may be valid UTF-8 that is full of zeros.
            (Some(_), _) => Err(not_text(path, &bytes, 0)),
            (None, text) => text.map_err(|e| not_text(path, &bytes, e.valid_up_to())),
        }?;
        Self::parse(text, Notation::from_path(path), &path.display().to_string(), overrides)
    }

    /// Like [`RunConfig::load`] for a text; `name` is for messages.
    pub fn parse(text: &str, notation: Notation, name: &str, overrides: &[String]) -> Result<Self> {
        let mut layers = Layers::over(&RunConfig::default());
        layers.push_text(text, notation, name)?;
        Self::overridden(layers, overrides)
    }

    /// A configuration of defaults and overrides only.
    pub fn from_overrides(overrides: &[String]) -> Result<Self> {
        RunConfig::default().with(overrides)
    }

    /// The same configuration with `section.key=value` overrides; the result is valid and resolved.
    pub fn with(self, overrides: &[String]) -> Result<Self> {
        Self::overridden(Layers::over(&self), overrides)
    }

    fn overridden(mut layers: Layers, overrides: &[String]) -> Result<Self> {
        overrides.iter().try_for_each(|text| layers.push_override(text))?;
        let mut config = layers.finish()?;
        config.resolve();
        config.validate()?;
        Ok(config)
    }

    /// Fills in what depends on other keys: the learning rate by method.
    pub fn resolve(&mut self) {
        self.train.lr.get_or_insert(self.method.kind.default_lr());
    }

    /// Whether a key of `method` is stated.
    pub fn states(&self, key: &str) -> bool {
        self.stated.iter().any(|stated| stated == key)
    }

    /// The learning rate, resolved or not.
    pub fn lr(&self) -> f64 {
        self.train.lr.unwrap_or_else(|| self.method.kind.default_lr())
    }

    /// The whole tree as YAML. Reading it gives the same tree.
    pub fn to_yaml(&self) -> String {
        // The tree holds only text, numbers, flags and lists: nothing that YAML cannot hold.
        serde_saphyr::to_string(&self.resolved_tree()).unwrap_or_default()
    }

    /// All sections as they are.
    fn tree(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// All sections resolved, without what is empty by default, and without rare keys (`x-rare`) at their default.
    pub fn resolved_tree(&self) -> Value {
        let mut resolved = self.clone();
        resolved.resolve();
        let mut tree = resolved.tree();
        drop_usual(&mut tree, &RunConfig::default().tree(), &schema_of::<RunConfig>());
        tree
    }
}

fn drop_usual(tree: &mut Value, defaults: &Value, schema: &Value) {
    let Value::Object(map) = tree else { return };
    let empty = |value: &Value| {
        value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(|map| map.is_empty())
    };
    let of = |key: &str| &schema["properties"][key];
    map.retain(|key, value| *value != defaults[key] || !(empty(value) || of(key)["x-rare"] == true));
    map.iter_mut().for_each(|(key, value)| drop_usual(value, &defaults[key], of(key)));
}

/// Why the bytes of a run file are no text.
fn not_text(path: &Path, bytes: &[u8], valid: usize) -> Error {
    let problem = match crate::file_kind::detect(bytes) {
        Some(kind) => format!("this is {kind}, expected a run file in UTF-8"),
        None => {
            let line = 1 + bytes[..valid].iter().filter(|&&b| b == b'\n').count();
            format!("the text is not UTF-8 from line {line} on")
        }
    };
    Error::file(path, problem).with_hint("a run file is YAML, TOML or JSON; save it as UTF-8")
}
