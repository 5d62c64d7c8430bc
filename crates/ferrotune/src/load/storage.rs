//! The forms in which the linears of a base can be held in memory.

use ferrotune_kernels::quant::Bytes;
use ferrotune_kernels::{DType, Threads, Weight};

use crate::formats::quantized::{Blocks, QuantKind, Quantized};
use crate::run_config::QuantOptions;
use crate::{Error, Result};

/// How a matrix of the base is held in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BaseStorage {
    /// The form of the checkpoint: no second rounding.
    AsStored,
    /// Dense floats; a dense checkpoint that is no wider stays as it is.
    Dense(DType),
    /// Quantized.
    Quantized(Quantized),
    /// f32 parameters (full fine-tuning).
    Trained,
}

/// How a base is held: the linears of the layers, and its tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BaseForm {
    /// The linears of the layers.
    pub linears: BaseStorage,
    /// Embedding and head.
    pub tables: BaseStorage,
}

/// Tables keep the checkpoint's storage unless all is trained or dense, as PEFT and bitsandbytes leave them.
impl From<BaseStorage> for BaseForm {
    fn from(linears: BaseStorage) -> Self {
        let tables = match linears {
            BaseStorage::Trained | BaseStorage::Dense(_) => linears,
            BaseStorage::AsStored | BaseStorage::Quantized(_) => BaseStorage::AsStored,
        };
        BaseForm { linears, tables }
    }
}

impl BaseForm {
    /// What the form is called if any of it takes work to make from floats.
    pub(crate) fn quantized_name(self) -> Option<String> {
        let (linears, tables) = (self.linears.quantized_name(), self.tables.quantized_name());
        match (linears, tables) {
            (linears, None) => linears,
            (None, Some(tables)) => Some(format!("embeddings {tables}")),
            (Some(linears), Some(tables)) => Some(format!("{linears}; embeddings {tables}")),
        }
    }
}

impl BaseStorage {
    /// The storage that options ask for; `auto` is NF4, as of a base that is not quantized yet.
    pub fn from_options(options: &QuantOptions) -> Result<Self> {
        let kind = if options.kind == QuantKind::Auto { QuantKind::Nf4 } else { options.kind };
        let found = Quantized::new(kind, Blocks { block: options.block, double: options.double });
        let found = found.map_err(|problem| Error::config("method.quant", problem))?;
        Ok(found.map_or(BaseStorage::AsStored, BaseStorage::Quantized))
    }

    /// Bytes that a value of such a matrix takes in this storage.
    pub(crate) fn bytes_per_value(self, stored: &Weight) -> f64 {
        let own = stored.nbytes() as f64 / (stored.rows() * stored.cols()).max(1) as f64;
        match (self, stored.dtype()) {
            (BaseStorage::AsStored, _) => own,
            (BaseStorage::Dense(dtype), Some(own)) => dtype.size().min(own.size()) as f64,
            (BaseStorage::Dense(dtype), None) => dtype.size() as f64,
            (BaseStorage::Quantized(format), _) => format.bytes_per_value(stored.cols()),
            (BaseStorage::Trained, _) => 0.0,
        }
    }

    /// What the storage is called where it takes work to make from floats.
    pub(crate) fn quantized_name(self) -> Option<String> {
        match self {
            BaseStorage::Quantized(format) => Some(format.describe()),
            BaseStorage::AsStored | BaseStorage::Dense(_) | BaseStorage::Trained => None,
        }
    }

    /// A frozen weight in this storage, made on these threads.
    pub(crate) fn convert(self, threads: &Threads, weight: Weight) -> Result<Weight> {
        match self {
            BaseStorage::AsStored | BaseStorage::Trained => Ok(weight),
            BaseStorage::Dense(dtype) => dense(weight, dtype),
            BaseStorage::Quantized(format) => format.quantize(threads, &weight),
        }
    }
}

/// The weight as dense floats of at most `dtype`'s width; dense weights are never widened.
pub(crate) fn dense(weight: Weight, dtype: DType) -> Result<Weight> {
    if weight.dtype().is_some_and(|stored| stored.size() <= dtype.size()) {
        return Ok(weight);
    }
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut bytes = Vec::with_capacity(rows * cols * dtype.size());
    let mut row = vec![0.0f32; cols];
    for r in 0..rows {
        weight.decode(r, 0, &mut row);
        match dtype {
            DType::F32 => row.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
            DType::F16 => row.iter().for_each(|v| bytes.extend(half::f16::from_f32(*v).to_le_bytes())),
            DType::Bf16 => row.iter().for_each(|v| bytes.extend(half::bf16::from_f32(*v).to_le_bytes())),
        }
    }
    Ok(Weight::dense(rows, cols, dtype, Bytes::owned(bytes))?)
}
