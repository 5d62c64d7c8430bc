//! A model of which only the configuration is there: its matrices have sizes and no content, for plans.

use std::path::Path;
use std::sync::Arc;

use ferrotune_kernels::DType;
use ferrotune_kernels::quant::{Bytes, Owner, Weight};

use crate::model::config::ModelConfig;
use crate::model::families::architecture;
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
pub(super) struct Shapes {
    dtype: DType,
    blank: Arc<Blank>,
}

impl Shapes {
    /// Room for the largest matrix of the model, in the type that its configuration names.
    pub(super) fn of(config: &ModelConfig, path: &Path) -> Result<Self> {
        let named = ["torch_dtype", "dtype"].into_iter().find_map(|key| config.raw.get(key)?.as_str());
        let dtype = match named {
            Some("float32") => DType::F32,
            Some("float16") => DType::F16,
            _ => DType::Bf16,
        };
        let bytes = architecture(config)?.largest_matrix() * dtype.size();
        let map = memmap2::MmapOptions::new().len(bytes).no_reserve_swap().map_anon();
        let blank = Arc::new(Blank(map.map_err(|e| Error::io(path, e))?));
        Ok(Shapes { dtype, blank })
    }

    pub(super) fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let range = 0..rows * cols * self.dtype.size();
        if range.end > self.blank.0.len() {
            let problem = format!("[{rows}, {cols}] is larger than the largest matrix of this architecture");
            return Err(Error::tensor(Path::new("config.json"), name, problem));
        }
        Ok(Weight::dense(rows, cols, self.dtype, Bytes::shared(self.blank.clone(), range))?)
    }
}
