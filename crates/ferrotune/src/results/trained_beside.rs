//! What an adapter's folder says of the weights that it was trained beside: which base, and in which form it was held.
//!
//! PEFT's configuration has no place for it, and old readers refuse keys that they do not know, so it is a file of its own
//! beside it. An adapter that was trained on rounded weights computes something else beside others, by as much as the
//! rounding.

use std::path::Path;

use ferrotune_kernels::DType;
use serde::{Deserialize, Serialize};

use crate::formats::atomic::write_atomic;
use crate::formats::quantized::{Blocks, Quantized};
use crate::load::{BaseForm, BaseStorage};
use crate::{Error, Result};

/// Name of the file.
pub const FILE: &str = "ferrotune_base.json";

/// The weights that an adapter was trained beside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainedBeside {
    /// What the user called the base.
    pub base: String,
    /// Its [`fingerprint`](crate::formats::Checkpoint::fingerprint).
    pub fingerprint: String,
    /// Form of the linears of the layers.
    linears: Held,
    /// Form of embedding and head.
    embeddings: Held,
}

/// A storage that files have as a [`Form`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
struct Held(BaseStorage);

/// A storage as the file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Form {
    /// `stored`, a type of floats, or a word of `method.quant.type`.
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    double: Option<bool>,
}

/// Types of floats by their words.
const FLOATS: [(&str, DType); 3] = [("f32", DType::F32), ("bf16", DType::Bf16), ("f16", DType::F16)];

impl From<Held> for Form {
    fn from(Held(storage): Held) -> Self {
        let word = |word: &str| Form { kind: word.to_string(), block: None, double: None };
        match storage {
            // Nothing that is trained itself has an adapter beside it.
            BaseStorage::AsStored | BaseStorage::Trained => word("stored"),
            BaseStorage::Dense(dtype) => {
                let found = FLOATS.iter().find(|(_, own)| *own == dtype);
                word(found.map_or("stored", |(word, _)| word))
            }
            BaseStorage::Quantized(format) => match format.options() {
                none if none == Blocks::default() => word(format.kind().as_str()),
                Blocks { block, double } => {
                    Form { block: Some(block), double: Some(double), ..word(format.kind().as_str()) }
                }
            },
        }
    }
}

impl TryFrom<Form> for Held {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        if form.kind == "stored" {
            return Ok(Held(BaseStorage::AsStored));
        }
        if let Some((_, dtype)) = FLOATS.iter().find(|(word, _)| *word == form.kind) {
            return Ok(Held(BaseStorage::Dense(*dtype)));
        }
        let given = Blocks { block: form.block.unwrap_or(0), double: form.double.unwrap_or(false) };
        match Quantized::new(form.kind.parse()?, given)? {
            Some(format) => Ok(Held(BaseStorage::Quantized(format))),
            None => Err(format!("`type`: `{}` is no form of weights", form.kind)),
        }
    }
}

impl TrainedBeside {
    /// The base of that name and [`fingerprint`](crate::formats::Checkpoint::fingerprint) in that form.
    pub fn new(base: &str, fingerprint: String, form: BaseForm) -> Self {
        TrainedBeside {
            base: base.to_string(),
            fingerprint,
            linears: Held(form.linears),
            embeddings: Held(form.tables),
        }
    }

    /// The form.
    pub fn form(&self) -> BaseForm {
        BaseForm { linears: self.linears.0, tables: self.embeddings.0 }
    }

    /// Writes the file into the adapter's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::file(&path, e.to_string()))?;
        write_atomic(&path, format!("{text}\n").as_bytes())
    }

    /// Reads it from an adapter's folder; `None` if it is not there, as in those of other programs.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(&path, e)),
        };
        let refuse = |problem: String| {
            Error::file(&path, problem).with_hint(
                "remove the file and give --quant the form of the base that the adapter was trained beside",
            )
        };
        let found: TrainedBeside = serde_json::from_slice(crate::json::without_mark(&text))
            .map_err(|e| refuse(format!("not the description of a base: {e}")))?;
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::quantized::QuantKind;

    #[test]
    fn every_form_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let quantized = |kind, block, double| {
            let format = Quantized::new(kind, Blocks { block, double }).unwrap().unwrap();
            BaseStorage::Quantized(format)
        };
        for storage in [
            BaseStorage::AsStored,
            BaseStorage::Dense(DType::F32),
            BaseStorage::Dense(DType::Bf16),
            BaseStorage::Dense(DType::F16),
            quantized(QuantKind::Nf4, 64, true),
            quantized(QuantKind::Fp4, 256, false),
            quantized(QuantKind::Int8, 0, false),
        ] {
            let form = BaseForm { linears: storage, tables: quantized(QuantKind::Int8, 64, true) };
            let written = TrainedBeside {
                base: "b".into(),
                fingerprint: "f".into(),
                linears: Held(form.linears),
                embeddings: Held(form.tables),
            };
            written.write(dir.path()).unwrap();
            let read = TrainedBeside::read(dir.path()).unwrap().unwrap();
            assert_eq!((read.form(), &read), (form, &written));
        }
        for (text, word) in [
            ("{", "not the description"),
            (
                r#"{"base": "b", "fingerprint": "f", "linears": {"type": "nf4", "block": 63, "double": true},
                   "embeddings": {"type": "stored"}}"#,
                "63",
            ),
            (
                r#"{"base": "b", "fingerprint": "f", "linears": {"type": "int3"}, "embeddings": {"type": "stored"}}"#,
                "int3",
            ),
        ] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let error = TrainedBeside::read(dir.path()).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
