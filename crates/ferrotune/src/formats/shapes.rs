//! A model of which only the configuration is there: its matrices have sizes and no content, for plans.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ferrotune_kernels::DType;
use ferrotune_kernels::quant::int8::Int8Rows;
use ferrotune_kernels::quant::nf4::{FourBit, FourBitKind, Scales};
use ferrotune_kernels::quant::{Bytes, Owner, Weight};
use serde_json::Value;

use super::generation_config::GenerationConfig;
use super::source::Source;
use crate::arch::config::{ModelConfig, Quantization};
use crate::arch::families::architecture;
use crate::{Error, Result};

/// Memory that is never touched, so that none is taken; all matrices lie in it.
struct Blank(memmap2::MmapMut);

impl AsRef<[u8]> for Blank {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Owner for Blank {}

/// Matrices without content.
pub(crate) struct Shapes {
    /// Where the configuration was read, for messages.
    path: PathBuf,
    dtype: DType,
    blank: Arc<Blank>,
    linears: Form,
    /// Modules that are not quantized.
    skipped: Vec<String>,
    /// Scales of as many blocks, shared by all matrices of a size.
    scales: Mutex<HashMap<usize, Arc<[f32]>>>,
}

/// How the configuration says that linears of the layers are stored.
enum Form {
    Dense,
    /// With scales that are quantized too, or not.
    FourBit(FourBitKind, bool),
    Int8,
}

impl Form {
    fn of(config: &ModelConfig) -> Self {
        let about = &config.raw["quantization_config"];
        match config.quantization {
            None => Form::Dense,
            Some(Quantization::Bitsandbytes8) => Form::Int8,
            Some(Quantization::Bitsandbytes4) => {
                // bitsandbytes' own defaults.
                let kind = match about["bnb_4bit_quant_type"].as_str() {
                    Some("nf4") => FourBitKind::Nf4,
                    _ => FourBitKind::Fp4,
                };
                Form::FourBit(kind, about["bnb_4bit_use_double_quant"].as_bool().unwrap_or(false))
            }
        }
    }
}

/// Values of a block, unless a file says otherwise; scales of a second-level scale.
const BLOCKS: (usize, usize) = (64, 256);

impl Shapes {
    /// Room for the largest matrix of the model, in the type that its configuration names.
    pub(crate) fn of(config: &ModelConfig, path: &Path) -> Result<Self> {
        let named = ["torch_dtype", "dtype"].into_iter().find_map(|key| config.raw.get(key)?.as_str());
        let dtype = match named {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            _ => DType::Bf16,
        };
        let bytes = architecture(config)?.largest_matrix() * dtype.size();
        let map = memmap2::MmapOptions::new().len(bytes).no_reserve_swap().map_anon();
        let blank = Arc::new(Blank(map.map_err(|e| Error::io(path, e))?));
        let skipped = config.raw["quantization_config"]["llm_int8_skip_modules"].as_array();
        let skipped = skipped.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
        Ok(Shapes {
            path: path.to_path_buf(),
            dtype,
            blank,
            linears: Form::of(config),
            skipped,
            scales: Mutex::default(),
        })
    }

    fn blank(&self, bytes: usize) -> Bytes {
        Bytes::shared(self.blank.clone(), 0..bytes)
    }

    fn scales(&self, count: usize) -> Arc<[f32]> {
        let mut all = self.scales.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(count).or_insert_with(|| vec![0.0; count].into()))
    }

    fn quantizes(&self, name: &str) -> bool {
        let router = name.ends_with(".gate.weight") || name.ends_with(".router.weight");
        let linear = name.starts_with("model.layers.") && name.ends_with(".weight") && !router;
        linear && !self.skipped.iter().any(|module| name.contains(module.as_str()))
    }
}

impl Source for Shapes {
    fn weight_files(&self) -> Vec<&Path> {
        Vec::new()
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let range = 0..rows * cols * self.dtype.size();
        if range.end > self.blank.0.len() {
            let problem = format!("[{rows}, {cols}] is larger than the largest matrix of this architecture");
            return Err(Error::tensor(&self.path, name, problem));
        }
        let values = rows * cols;
        match self.linears {
            Form::FourBit(kind, double) if self.quantizes(name) => {
                let (block, second) = BLOCKS;
                let count = values.div_ceil(block);
                let scales = match double {
                    false => Scales::Plain(self.scales(count)),
                    true => Scales::Nested {
                        codes: self.blank(count),
                        absmax: self.scales(count.div_ceil(second)),
                        map: Arc::new([0.0; 256]),
                        offset: 0.0,
                        block: second,
                    },
                };
                let packed = self.blank(values.div_ceil(2));
                let bits = FourBit::new(kind, block, values, packed, scales, [0.0; 16])?;
                return Ok(Weight::four_bit(rows, cols, bits)?);
            }
            Form::Int8 if self.quantizes(name) => {
                let rows = Int8Rows::new(cols, self.blank(values), self.scales(rows))?;
                return Ok(Weight::int8(rows));
            }
            _ => {}
        }
        Ok(Weight::dense(rows, cols, self.dtype, Bytes::shared(self.blank.clone(), range))?)
    }

    fn stacked(&self, name: &str, shape: [usize; 3], _: usize, rows: Range<usize>) -> Result<Weight> {
        self.weight(name, rows.len(), shape[2])
    }

    fn vector(&self, _: &str, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }

    fn tokenizer_json(&self) -> Result<Vec<u8>> {
        Err(Error::file(&self.path, "only the configuration is known"))
    }

    fn chat_template(&self) -> Result<Option<String>> {
        Ok(None)
    }

    fn tool_template(&self) -> Result<Option<String>> {
        Ok(None)
    }

    fn special_tokens(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }

    fn add_bos(&self) -> Result<Option<bool>> {
        Ok(None)
    }

    fn generation_config(&self) -> Result<GenerationConfig> {
        Ok(GenerationConfig::default())
    }

    fn generation_json(&self, _: &ModelConfig) -> Result<Option<Value>> {
        Ok(None)
    }

    fn sidecars(&self, _: &ModelConfig) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(Vec::new())
    }
}
