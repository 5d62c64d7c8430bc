//! What an adapter's folder says of the weights that it was trained beside: which base, and in which form it was held.
//!
//! PEFT's configuration has no place for it, and old readers refuse keys that they do not know, so it is a file of its own
//! beside it. An adapter that was trained on rounded weights computes something else beside others, by as much as the
//! rounding.

use std::path::Path;

use ferrotune_kernels::DType;
use ferrotune_kernels::quant::nf4::{BLOCKS, FourBitKind};
use serde::{Deserialize, Serialize};

use crate::formats::atomic::write_atomic;
use crate::load::{BaseForm, BaseStorage, FourBitOptions};
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
    linears: Form,
    /// Form of embedding and head.
    embeddings: Form,
}

/// A storage as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Form {
    /// As the base's files have it.
    Stored,
    F32,
    Bf16,
    F16,
    Nf4 {
        block: usize,
        double: bool,
    },
    Fp4 {
        block: usize,
        double: bool,
    },
    Int8,
}

impl From<BaseStorage> for Form {
    fn from(storage: BaseStorage) -> Self {
        match storage {
            // Nothing that is trained itself has an adapter beside it.
            BaseStorage::AsStored | BaseStorage::Trained => Form::Stored,
            BaseStorage::Dense(DType::F32) => Form::F32,
            BaseStorage::Dense(DType::Bf16) => Form::Bf16,
            BaseStorage::Dense(DType::F16) => Form::F16,
            BaseStorage::FourBit(FourBitOptions { kind: FourBitKind::Nf4, block, double }) => {
                Form::Nf4 { block, double }
            }
            BaseStorage::FourBit(FourBitOptions { kind: FourBitKind::Fp4, block, double }) => {
                Form::Fp4 { block, double }
            }
            BaseStorage::Int8 => Form::Int8,
        }
    }
}

impl From<Form> for BaseStorage {
    fn from(form: Form) -> Self {
        let four_bit = |kind, block, double| BaseStorage::FourBit(FourBitOptions { kind, block, double });
        match form {
            Form::Stored => BaseStorage::AsStored,
            Form::F32 => BaseStorage::Dense(DType::F32),
            Form::Bf16 => BaseStorage::Dense(DType::Bf16),
            Form::F16 => BaseStorage::Dense(DType::F16),
            Form::Nf4 { block, double } => four_bit(FourBitKind::Nf4, block, double),
            Form::Fp4 { block, double } => four_bit(FourBitKind::Fp4, block, double),
            Form::Int8 => BaseStorage::Int8,
        }
    }
}

impl TrainedBeside {
    /// The base of that name and [`fingerprint`](crate::formats::Checkpoint::fingerprint) in that form.
    pub fn of(base: &str, fingerprint: String, form: BaseForm) -> Self {
        TrainedBeside {
            base: base.to_string(),
            fingerprint,
            linears: form.linears.into(),
            embeddings: form.tables.into(),
        }
    }

    /// The form.
    pub fn form(&self) -> BaseForm {
        BaseForm { linears: self.linears.into(), tables: self.embeddings.into() }
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
        for form in [found.linears, found.embeddings] {
            if let Form::Nf4 { block, .. } | Form::Fp4 { block, .. } = form
                && !BLOCKS.contains(&block)
            {
                return Err(refuse(format!("`block`: {block}, expected a power of two from 64 to 4096")));
            }
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let four = |kind, block, double| BaseStorage::FourBit(FourBitOptions { kind, block, double });
        for storage in [
            BaseStorage::AsStored,
            BaseStorage::Dense(DType::F32),
            BaseStorage::Dense(DType::Bf16),
            BaseStorage::Dense(DType::F16),
            four(FourBitKind::Nf4, 64, true),
            four(FourBitKind::Fp4, 256, false),
            BaseStorage::Int8,
        ] {
            let form = BaseForm { linears: storage, tables: BaseStorage::Int8 };
            let written = TrainedBeside {
                base: "b".into(),
                fingerprint: "f".into(),
                linears: form.linears.into(),
                embeddings: form.tables.into(),
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
