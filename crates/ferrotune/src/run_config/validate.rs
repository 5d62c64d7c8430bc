//! Checks of a whole configuration: the declared ranges, and what keys ask of each other.

use super::{
    DataFormat, EvalSource, FloatKind, Init, MethodKind, OptimizerKind, Reasoning, RunConfig, Supervise,
    TableKind, Targets, WeightKind,
};
use crate::error::{Error, Result};
use crate::options::{fit, schema_of};

/// What `data.columns` can take a column as.
pub(crate) const MEANINGS: &[&str] = &[
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "tools",
    "text",
    "input_ids",
    "labels",
];

impl RunConfig {
    /// Checks every value.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.model.base.is_empty() {
            return Err(Error::config("model.base", "no model is named").with_hint(
                "a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, a folder, or a .gguf file",
            ));
        }
        fit(&schema_of::<RunConfig>(), self.tree(), "")?;
        self.validate_adapter()?;
        self.validate_forms()?;
        self.validate_columns()?;
        self.validate_supervision()?;
        let warmup = self.train.warmup;
        if warmup >= 1.0 && warmup.fract() != 0.0 {
            return Err(wrong("train.warmup", &warmup, "a share below 1 or a whole number of steps"));
        }
        match self.data.eval {
            EvalSource::Share(share) if !(share > 0.0 && share < 1.0) => {
                Err(wrong("data.eval", &share, "a share between 0 and 1 (5% or 0.05)"))
            }
            _ => Ok(()),
        }
    }

    /// Columns are taken as something that a row can have.
    fn validate_columns(&self) -> Result<()> {
        if self.data.sources.iter().any(|source| source.path.is_empty()) {
            return Err(wrong("data.sources", &"a source without `path`", "a path for each source"));
        }
        let columns =
            self.data.columns.iter().chain(self.data.sources.iter().flat_map(|source| &source.columns));
        match columns.into_iter().find(|(meaning, _)| !MEANINGS.contains(&meaning.as_str())) {
            None => Ok(()),
            Some((meaning, column)) => Err(Error::config(
                "data.columns",
                format!("`{meaning}` is nothing that a row has; the file's own name stands behind it, as in {{text: {column}}}"),
            )
            .with_hint(format!("one of {}", MEANINGS.join(", ")))),
        }
    }

    /// Fill-in-the-middle is for source files, and thoughts are masked where other tokens are.
    fn validate_supervision(&self) -> Result<()> {
        let data = &self.data;
        let has_code = data.format == DataFormat::Code
            || data.sources.iter().any(|source| source.format == DataFormat::Code);
        if data.fim_rate > 0.0 && !has_code {
            let problem = format!("{} without source files", data.fim_rate);
            return Err(Error::config("data.fim_rate", problem)
                .with_hint("it is for data.format: code, which trains folders of source code"));
        }
        if data.reasoning == Reasoning::Mask && data.supervise == Supervise::All {
            let problem = "`mask` with data.supervise: all, which trains every token";
            return Err(Error::config("data.reasoning", problem)
                .with_hint("use data.supervise: assistant, or data.reasoning: drop"));
        }
        Ok(())
    }

    /// What is branched, and how the branches start.
    fn validate_adapter(&self) -> Result<()> {
        let lora = &self.method.lora;
        lora.targets.check("targets").map_err(|e| e.under("method"))?;
        // Stacked weights of experts may be all that is targeted.
        if lora.targets == Targets::Names(Vec::new()) && lora.target_parameters.is_empty() {
            return Err(wrong("method.targets", &"a list", "all-linear, names, or a regular expression"));
        }
        if let Some(exclude) = &lora.exclude {
            exclude.check("exclude").map_err(|e| e.under("method"))?;
        }
        if self.method.kind == MethodKind::Qlora && matches!(lora.init, Init::Pissa | Init::Olora) {
            return Err(Error::config("method.init", format!("`{}` needs weights in floats", lora.init))
                .with_hint("use method.kind: lora, or method.init: loftq, which quantizes by itself"));
        }
        Ok(())
    }

    /// Forms of weights that a method cannot have.
    fn validate_forms(&self) -> Result<()> {
        let RunConfig { model, method, train, .. } = self;
        if method.kind == MethodKind::Full && model.embeddings != TableKind::Auto {
            return Err(Error::config("model.embeddings", format!("`{}` with `full`", model.embeddings))
                .with_hint("full fine-tuning trains embedding and head, as all else; leave the key out"));
        }
        if train.weights == WeightKind::F32 {
            return Ok(());
        }
        let refuse = |key: &str, found: &str, hint: &str| {
            Err(Error::config(key, format!("`{found}` with train.weights: bf16")).with_hint(hint))
        };
        if method.kind != MethodKind::Full {
            let hint =
                "it is for method.kind: full; the form of a frozen base is method.quant or model.dtype";
            return refuse("method.kind", method.kind.as_str(), hint);
        }
        if train.optimizer != OptimizerKind::PagedAdamw {
            let hint = "use train.optimizer: paged_adamw, which keeps the f32 values in a file";
            return refuse("train.optimizer", train.optimizer.as_str(), hint);
        }
        if train.precision == FloatKind::F32 {
            return refuse("train.precision", train.precision.as_str(), "use train.precision: bf16");
        }
        Ok(())
    }
}

fn wrong(key: &str, found: &dyn std::fmt::Display, expected: &str) -> Error {
    Error::config(key, format!("found {found}, expected {expected}"))
}
