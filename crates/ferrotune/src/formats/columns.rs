//! Stacked matrices that a folder holds transposed, `[E, in, out]`, or in MXFP4 as `NAME_blocks` `[E, out, in / 32, 16]` and
//! `NAME_scales` `[E, out, in / 32]` (gpt-oss).

use std::path::Path;

use ferrotune_kernels::dtype::DType;
use ferrotune_kernels::quant::{Bytes, Mxfp4, Weight};

use super::safetensors::{Dtype, SafeFile, Shards, TensorRef};
use crate::{Error, Result};

const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";

/// The two tensors that hold `name` in MXFP4.
pub(super) fn parts(name: &str) -> [String; 2] {
    [BLOCKS, SCALES].map(|part| format!("{name}{part}"))
}

/// Whether `name` is there in MXFP4.
pub(super) fn is_packed(shards: &Shards, name: &str) -> bool {
    shards.get(&parts(name)[0]).is_some()
}

/// The name of the whole that a tensor is, or is a part of; nothing for the scales, which the blocks stand for.
pub(super) fn whole<'n>(shards: &Shards, name: &'n str) -> Option<&'n str> {
    let of = |part| name.strip_suffix(part).filter(|whole| is_packed(shards, whole));
    match (of(BLOCKS), of(SCALES)) {
        (Some(whole), _) => Some(whole),
        (None, Some(_)) => None,
        (None, None) => Some(name),
    }
}

/// What of a stacked tensor is wanted: of matrix `index` the outputs `first`, `first + step`, ...
pub(super) struct Wanted {
    pub(super) shape: [usize; 3],
    pub(super) index: usize,
    pub(super) first: usize,
    pub(super) step: usize,
}

impl Wanted {
    /// Outputs.
    fn rows(&self) -> usize {
        self.shape[2] / self.step
    }

    /// From the values of the transposed tensor: a copy of its own.
    pub(super) fn transposed(&self, dtype: DType, bytes: &[u8]) -> Result<Weight> {
        let ([_, cols, all], size) = (self.shape, dtype.size());
        let of = &bytes[self.index * cols * all * size..][..cols * all * size];
        let mut out = vec![0; self.rows() * cols * size];
        for (col, line) in of.chunks_exact(all * size).enumerate() {
            for row in 0..self.rows() {
                let from = (self.first + row * self.step) * size;
                out[(row * cols + col) * size..][..size].copy_from_slice(&line[from..from + size]);
            }
        }
        Ok(Weight::dense(self.rows(), cols, dtype, Bytes::owned(out))?)
    }

    /// From MXFP4, where it lies.
    pub(super) fn packed(&self, shards: &Shards, name: &str) -> Result<Weight> {
        let [experts, cols, all] = self.shape;
        let shapes = [vec![experts, all, cols / 32, 16], vec![experts, all, cols / 32]];
        let mut found = Vec::new();
        let file_of_blocks = shards.get(&parts(name)[0]).map_or(Path::new(""), |(file, _)| file.path());
        for (part, shape) in parts(name).iter().zip(shapes) {
            let Some((file, tensor)) = shards.get(part) else {
                return Err(Error::tensor(file_of_blocks, shards.in_file(part), "missing"));
            };
            let bytes = one_of(file, shards.in_file(part), tensor, &shape)?;
            let each = bytes.as_slice().len() / experts;
            found.push(bytes.part(self.index * each..(self.index + 1) * each));
        }
        let [values, scales] = [found[0].clone(), found[1].clone()];
        Ok(Mxfp4::rows(values, scales, cols, self.first, self.step)?)
    }
}

/// The bytes of a tensor of bytes with this shape.
fn one_of<'t>(file: &SafeFile, name: &str, tensor: &'t TensorRef, shape: &[usize]) -> Result<&'t Bytes> {
    match tensor.dtype == Dtype::U8 && tensor.shape == shape {
        true => Ok(&tensor.bytes),
        false => {
            let problem = format!("{:?} {:?}, expected U8 {shape:?}", tensor.dtype, tensor.shape);
            Err(Error::tensor(file.path(), name, problem))
        }
    }
}
