//! The forms in which the linears of a base can be held in memory.

use ferrotune_kernels::quant::nf4::{FourBitKind, quantize};
use ferrotune_kernels::quant::{Bytes, Storage, int8};
use ferrotune_kernels::{DType, Threads, Weight};

use crate::Result;
use crate::run_config::{QuantKind, QuantOptions};

/// How a matrix of the base is held in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BaseStorage {
    /// As the checkpoint has them: no second rounding.
    AsStored,
    /// Dense floats; a dense checkpoint that is no wider stays as it is.
    Dense(DType),
    /// NF4 or FP4 in blocks.
    FourBit(FourBitOptions),
    /// 8-bit rows, as bitsandbytes rounds a linear.
    Int8,
    /// f32 parameters (full fine-tuning).
    Trained,
}

/// The 4-bit format asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FourBitOptions {
    /// Code book.
    pub kind: FourBitKind,
    /// Values of a block.
    pub block: usize,
    /// Whether the block scales are quantized to 8 bits.
    pub double: bool,
}

/// How a base is held: the linears of the layers, and its tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BaseForm {
    /// The linears of the layers.
    pub linears: BaseStorage,
    /// Embedding and head.
    pub tables: BaseStorage,
}

/// Tables keep the checkpoint's storage unless all is trained or dense, as the field has it.
impl From<BaseStorage> for BaseForm {
    fn from(linears: BaseStorage) -> Self {
        let tables = match linears {
            BaseStorage::Trained | BaseStorage::Dense(_) => linears,
            BaseStorage::AsStored | BaseStorage::FourBit(_) | BaseStorage::Int8 => BaseStorage::AsStored,
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
    pub fn of(options: &QuantOptions) -> Self {
        let four_bit = |kind| {
            BaseStorage::FourBit(FourBitOptions { kind, block: options.block, double: options.double })
        };
        match options.kind {
            QuantKind::Keep => BaseStorage::AsStored,
            QuantKind::Auto | QuantKind::Nf4 => four_bit(FourBitKind::Nf4),
            QuantKind::Fp4 => four_bit(FourBitKind::Fp4),
            QuantKind::Int8 => BaseStorage::Int8,
        }
    }

    /// Bytes that a value of such a matrix takes in this storage.
    pub(crate) fn bytes_per_value(self, stored: &Weight) -> f64 {
        let own = stored.nbytes() as f64 / (stored.rows() * stored.cols()).max(1) as f64;
        match (self, stored.storage()) {
            (BaseStorage::AsStored, _) => own,
            (BaseStorage::Dense(dtype), Storage::Dense(own, _)) => dtype.size().min(own.size()) as f64,
            (BaseStorage::Dense(dtype), _) => dtype.size() as f64,
            (BaseStorage::FourBit(o), _) => 0.5 + if o.double { 1.02 } else { 4.0 } / o.block as f64,
            (BaseStorage::Int8, _) => 1.0 + 4.0 / stored.cols() as f64,
            (BaseStorage::Trained, _) => 0.0,
        }
    }

    /// What the storage is called where it takes work to make from floats.
    pub(crate) fn quantized_name(self) -> Option<String> {
        match self {
            BaseStorage::FourBit(o) => {
                let double = if o.double { ", double" } else { "" };
                Some(format!("{}, blocks of {}{double}", o.kind.name(), o.block))
            }
            BaseStorage::Int8 => Some("int8".into()),
            BaseStorage::AsStored | BaseStorage::Dense(_) | BaseStorage::Trained => None,
        }
    }

    /// A frozen weight in this storage, made on these threads.
    pub(crate) fn hold(self, threads: &Threads, weight: Weight) -> Result<Weight> {
        Ok(match self {
            BaseStorage::AsStored | BaseStorage::Trained => weight,
            BaseStorage::Dense(dtype) => dense(weight, dtype)?,
            BaseStorage::FourBit(o) => quantize(threads, &weight, o.kind, o.block, o.double)?,
            BaseStorage::Int8 => int8::quantize(threads, &weight, true)?,
        })
    }
}

/// The weight as dense floats of at most `dtype`'s width; dense weights are never widened.
pub(crate) fn dense(weight: Weight, dtype: DType) -> Result<Weight> {
    if let Storage::Dense(stored, _) = weight.storage()
        && stored.size() <= dtype.size()
    {
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
