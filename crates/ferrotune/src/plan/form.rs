//! How the base is held, and in which precision it is computed.

use ferrotune_kernels::{DType, Device, Precision};

use crate::Result;
use crate::arch::families::architecture;
use crate::formats::Checkpoint;
use crate::load::{BaseForm, BaseStorage};
use crate::lora::Init;
use crate::run_config::{FloatKind, MethodKind, QuantKind, QuantOptions, RunConfig, TableKind};

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
fn is_quantized(base: &Checkpoint) -> Result<bool> {
    let a = architecture(base.config())?;
    let (probe, rows, cols) = a.probe();
    Ok(base.weight(&probe, rows, cols)?.dtype().is_none())
}

/// How the base is held for a method.
pub fn form(config: &RunConfig, base: &Checkpoint, precision: Precision) -> Result<BaseForm> {
    let quant = &config.method.quant;
    let linears = match config.method.kind {
        MethodKind::Full => BaseStorage::Trained,
        // It quantizes the original weights itself.
        MethodKind::Qlora if config.method.lora.init == Init::Loftq => BaseStorage::AsStored,
        MethodKind::Lora => match config.model.dtype {
            FloatKind::F32 => BaseStorage::Dense(DType::F32),
            FloatKind::Bf16 => BaseStorage::Dense(DType::Bf16),
            // Blocks become what the products would round them to anyway; floats stay as they are.
            FloatKind::Auto if is_quantized(base)? => BaseStorage::Dense(precision.saved()),
            FloatKind::Auto => BaseStorage::AsStored,
        },
        MethodKind::Qlora if quant.kind == QuantKind::Auto && is_quantized(base)? => BaseStorage::AsStored,
        MethodKind::Qlora => BaseStorage::from_options(quant)?,
    };
    let tables = match config.model.embeddings {
        TableKind::Auto => BaseForm::from(linears).tables,
        TableKind::Keep => BaseStorage::AsStored,
        TableKind::Bf16 => BaseStorage::Dense(DType::Bf16),
        TableKind::Nf4 => BaseStorage::from_options(&QuantOptions { kind: QuantKind::Nf4, ..quant.clone() })?,
        TableKind::Int8 => {
            BaseStorage::from_options(&QuantOptions { kind: QuantKind::Int8, ..quant.clone() })?
        }
    };
    Ok(BaseForm { linears, tables })
}
