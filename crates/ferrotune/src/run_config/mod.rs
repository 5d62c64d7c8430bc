//! The run file: everything that decides what a run does, in one typed tree.
//!
//! Defaults stand here and nowhere else. Reading is tolerant in notation (YAML, TOML, JSON; the field's own names as
//! aliases) and strict in content: an unknown key, a wrong type or an impossible value is an error that names the key.
//! [`RunConfig::to_yaml`] writes the tree with all defaults filled in; reading that gives the same tree.

mod layers;
mod method;
mod options;
mod paths;
mod read;
mod settings;

pub use layers::Notation;
pub use method::{BiasKind, LoraInit, MethodKind, MethodOptions, QuantKind, QuantOptions, Targets};
pub use options::{
    ActivationPolicy, ActivationStorage, BadRowPolicy, DEFAULT_CACHE_LIMIT, DataFormat, DataOptions,
    EvalSource, FloatKind, LossNormalization, ModelOptions, OptimizerKind, OutputOptions, Overlong, Schedule,
    StreamPolicy, Supervise, TableKind, TrainOptions, Truncation, WeightKind,
};

pub use settings::{Difference, Settings, differences};

use crate::error::{Error, Result};
use layers::Layers;
use serde::Serialize;
use std::path::Path;

/// Everything that decides what a run does.
#[derive(Clone, Debug, Default, Serialize)]
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
    /// Keys of `method` that were stated, as opposed to filled in.
    #[serde(skip)]
    stated: Vec<&'static str>,
}

/// Which keys were stated is not a part of the tree.
impl PartialEq for RunConfig {
    fn eq(&self, other: &Self) -> bool {
        let tree =
            |c: &Self| (c.model.clone(), c.method.clone(), c.data.clone(), c.train.clone(), c.output.clone());
        tree(self) == tree(other)
    }
}

impl RunConfig {
    /// Reads a run file and applies `section.key=value` overrides in order; the result is valid and resolved.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let text = match (crate::file_kind::of(&bytes), std::str::from_utf8(&bytes)) {
            // UTF-16 without a mark may be valid UTF-8 that is full of zeros.
            (Some(_), _) => Err(not_text(path, &bytes, 0)),
            (None, text) => text.map_err(|e| not_text(path, &bytes, e.valid_up_to())),
        }?;
        Self::parse(text, Notation::of(path), &path.display().to_string(), overrides)
    }

    /// Like [`RunConfig::load`] for a text; `name` is for messages.
    pub fn parse(text: &str, notation: Notation, name: &str, overrides: &[String]) -> Result<Self> {
        let mut layers = Layers::default();
        layers.push_text(text, notation, name)?;
        Self::from_layers(layers, overrides)
    }

    /// A configuration of defaults and overrides only.
    pub fn from_overrides(overrides: &[String]) -> Result<Self> {
        Self::from_layers(Layers::default(), overrides)
    }

    fn from_layers(mut layers: Layers, overrides: &[String]) -> Result<Self> {
        for text in overrides {
            layers.push_override(text)?;
        }
        let mut config = read::run(layers)?;
        config.resolve();
        config.validate()?;
        Ok(config)
    }

    /// Fills in what depends on other keys: the learning rate by method.
    pub fn resolve(&mut self) {
        self.train.lr.get_or_insert(self.method.kind.default_lr());
    }

    /// Keys of `method` that the run file or an override states, by their own names.
    pub fn stated_method(&self) -> impl Iterator<Item = &'static str> {
        self.stated.iter().copied()
    }

    /// Whether a key of `method` is stated.
    pub fn states(&self, key: &str) -> bool {
        self.stated.contains(&key)
    }

    /// The learning rate, resolved or not.
    pub fn lr(&self) -> f64 {
        self.train.lr.unwrap_or_else(|| self.method.kind.default_lr())
    }

    /// Checks every value that its type alone does not.
    pub fn validate(&self) -> Result<()> {
        read::validate(self)
    }

    /// The whole tree as YAML. Reading it gives the same tree.
    pub fn to_yaml(&self) -> String {
        let mut resolved = self.clone();
        resolved.resolve();
        // The tree holds only text, numbers, flags and lists: nothing that YAML cannot hold.
        serde_saphyr::to_string(&resolved).unwrap_or_default()
    }
}

/// Why the bytes of a run file are no text.
fn not_text(path: &Path, bytes: &[u8], valid: usize) -> Error {
    let problem = match crate::file_kind::of(bytes) {
        Some(kind) => format!("this is {kind}, expected a run file in UTF-8"),
        None => {
            let line = 1 + bytes[..valid].iter().filter(|&&b| b == b'\n').count();
            format!("the text is not UTF-8 from line {line} on")
        }
    };
    Error::file(path, problem).with_hint("a run file is YAML, TOML or JSON; save it as UTF-8")
}
