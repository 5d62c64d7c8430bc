//! How the base is held, and in which precision it is computed.

use ferrotune_kernels::quant::Storage;
use ferrotune_kernels::quant::nf4::FourBitKind;
use ferrotune_kernels::{DType, Device, Precision};

use crate::Result;
use crate::arch::families::architecture;
use crate::formats::Checkpoint;
use crate::load::{BaseForm, BaseStorage, FourBitOptions};
use crate::lora::{Init, LoraConfig, TrainedBiases};
use crate::run_config::{
    BiasKind, FloatKind, LoraInit, MethodKind, MethodOptions, QuantKind, RunConfig, TableKind,
};

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
    Ok(!matches!(base.weight(probe, rows, cols)?.storage(), Storage::Dense(..)))
}

/// How the base is held for a method.
pub fn form(config: &RunConfig, base: &Checkpoint, precision: Precision) -> Result<BaseForm> {
    let quant = &config.method.quant;
    let four_bit =
        |kind| BaseStorage::FourBit(FourBitOptions { kind, block: quant.block, double: quant.double });
    let linears = match config.method.kind {
        MethodKind::Full => BaseStorage::Trained,
        // It quantizes the original weights itself.
        MethodKind::Qlora if config.method.init == LoraInit::Loftq => BaseStorage::AsStored,
        MethodKind::Lora => match config.model.dtype {
            FloatKind::F32 => BaseStorage::Dense(DType::F32),
            FloatKind::Bf16 => BaseStorage::Dense(DType::Bf16),
            // Blocks become what the products would round them to anyway; floats stay as they are.
            FloatKind::Auto if is_quantized(base)? => BaseStorage::Dense(precision.saved()),
            FloatKind::Auto => BaseStorage::AsStored,
        },
        MethodKind::Qlora => match quant.kind {
            QuantKind::Keep => BaseStorage::AsStored,
            QuantKind::Auto if is_quantized(base)? => BaseStorage::AsStored,
            QuantKind::Auto | QuantKind::Nf4 => four_bit(FourBitKind::Nf4),
            QuantKind::Fp4 => four_bit(FourBitKind::Fp4),
            QuantKind::Int8 => BaseStorage::Int8,
        },
    };
    let tables = match config.model.embeddings {
        TableKind::Auto => BaseForm::from(linears).tables,
        TableKind::Keep => BaseStorage::AsStored,
        TableKind::Bf16 => BaseStorage::Dense(DType::Bf16),
        TableKind::Nf4 => four_bit(FourBitKind::Nf4),
        TableKind::Int8 => BaseStorage::Int8,
    };
    Ok(BaseForm { linears, tables })
}

/// The adapter's constants of a run file.
pub fn lora_config(method: &MethodOptions) -> LoraConfig {
    LoraConfig {
        rank: method.rank,
        alpha: method.alpha,
        dropout: method.dropout as f32,
        rslora: method.rslora,
        init: match method.init {
            LoraInit::Kaiming => Init::Kaiming,
            LoraInit::Gaussian => Init::Gaussian,
            LoraInit::Pissa => Init::Pissa,
            LoraInit::Olora => Init::Olora,
            LoraInit::Loftq => Init::Loftq { iterations: method.loftq_iterations },
        },
        dora: method.dora,
        lora_bias: method.lora_bias,
        bias: match method.bias {
            BiasKind::None => TrainedBiases::None,
            BiasKind::All => TrainedBiases::All,
            BiasKind::LoraOnly => TrainedBiases::LoraOnly,
        },
        targets: method.targets.clone(),
        exclude: method.exclude.clone(),
        layers: method.layers_to_transform.clone(),
        layers_pattern: method.layers_pattern.clone(),
        rank_pattern: method.rank_pattern.clone(),
        alpha_pattern: method.alpha_pattern.clone(),
        target_parameters: method.target_parameters.clone(),
        modules_to_save: method.modules_to_save.clone(),
        trainable_tokens: method.trainable_tokens.clone(),
    }
}
