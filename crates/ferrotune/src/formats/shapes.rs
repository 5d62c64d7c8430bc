//! A model of which only the configuration is there: its matrices have sizes and no content, for plans.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ferrotune_kernels::DType;
use ferrotune_kernels::quant::{Bytes, Mxfp4, Owner, Weight};
use serde_json::Value;

use super::generation_config::GenerationConfig;
use super::quantized::{Blank, Quantized, stated};
use super::source::Source;
use crate::arch::config::ModelConfig;
use crate::arch::families::architecture;
use crate::arch::tree::Tree;
use crate::{Error, Result};

/// Memory that is never touched, so that none is taken; all matrices lie in it.
struct Untouched(memmap2::MmapMut);

impl AsRef<[u8]> for Untouched {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Owner for Untouched {}

/// Matrices without content.
pub(crate) struct Shapes {
    /// Where the configuration was read, for messages.
    path: PathBuf,
    dtype: DType,
    blank: Arc<Untouched>,
    /// How the configuration says that linears of the layers are quantized.
    linears: Option<Quantized>,
    /// Whether stacked experts are in MXFP4.
    packed_experts: bool,
    /// Modules that are not quantized.
    skipped: Vec<String>,
    tree: &'static Tree,
    /// Scales of as many blocks, shared by all matrices of a size.
    scales: Mutex<HashMap<usize, Arc<[f32]>>>,
}

impl Shapes {
    /// Room for the largest matrix of the model, in the type that its configuration names.
    pub(crate) fn from_config(config: &ModelConfig, path: &Path) -> Result<Self> {
        let dtype = match config.float_type() {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            _ => DType::Bf16,
        };
        let bytes = architecture(config)?.largest_matrix() * dtype.size();
        let map = memmap2::MmapOptions::new().len(bytes).no_reserve_swap().map_anon();
        let blank = Arc::new(Untouched(map.map_err(|e| Error::io(path, e))?));
        let skipped = config.raw["quantization_config"]["llm_int8_skip_modules"].as_array();
        let skipped = skipped.into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
        Ok(Shapes {
            path: path.to_path_buf(),
            dtype,
            blank,
            linears: stated(config)?,
            packed_experts: config.raw["quantization_config"]["quant_method"] == "mxfp4",
            skipped,
            tree: config.tree,
            scales: Mutex::default(),
        })
    }

    fn quantizes(&self, name: &str) -> bool {
        let router = name.ends_with(".gate.weight") || name.ends_with(".router.weight");
        let linear = self.tree.is_in_layer(name) && name.ends_with(".weight") && !router;
        linear && !self.skipped.iter().any(|module| name.contains(module.as_str()))
    }
}

impl Blank for Shapes {
    fn bytes(&self, len: usize) -> Bytes {
        Bytes::shared(self.blank.clone(), 0..len)
    }

    fn scales(&self, count: usize) -> Arc<[f32]> {
        let mut all = self.scales.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(count).or_insert_with(|| vec![0.0; count].into()))
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
        if let Some(format) = self.linears.filter(|_| self.quantizes(name)) {
            return format.blank(rows, cols, self);
        }
        Ok(Weight::dense(rows, cols, self.dtype, Bytes::shared(self.blank.clone(), range))?)
    }

    fn stacked(&self, name: &str, shape: [usize; 3], _: usize, rows: Range<usize>) -> Result<Weight> {
        self.weight(name, rows.len(), shape[2])
    }

    fn stacked_columns(
        &self,
        name: &str,
        [_, cols, all]: [usize; 3],
        _: usize,
        first: usize,
        step: usize,
    ) -> Result<Weight> {
        if !self.packed_experts {
            return self.weight(name, all / step, cols);
        }
        let bytes = |len| Bytes::shared(self.blank.clone(), 0..len);
        Ok(Mxfp4::rows(bytes(all * cols / 2), bytes(all * cols / 32), cols, first, step)?)
    }

    fn values(&self, _: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(vec![0.0; shape.iter().product()])
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
