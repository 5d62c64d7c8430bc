//! Frozen weights in block formats: how they are stored, and how a run of a row is decoded.
//!
//! A [`Weight`] is an `N x K` matrix that never changes. The matmul kernels decode it panel by panel into their
//! packed layout with [`Weight::decode`]; it is never expanded as a whole. A format is a type that implements [`Format`].

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;

use crate::dtype::DType;
use crate::error::{Error, Result};

pub mod dynamic8;
pub mod fp8;
pub mod gguf;
pub mod int8;
mod isa;
pub mod mxfp4;
pub mod nf4;

pub use fp8::Fp8;
pub use gguf::{GgufBlocks, GgufType};
pub use int8::Int8Rows;
pub use mxfp4::Mxfp4;
pub use nf4::{FourBit, FourBitKind};

/// Starts and lengths of the requests by which a part of a file is read ahead: Linux takes no more of one than it would read
/// ahead by itself, often 128 KiB, and forgets the rest.
pub fn requests(part: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
    const MOST: usize = 128 << 10;
    part.clone().step_by(MOST).map(move |start| (start, (part.end - start).min(MOST)))
}

/// What [`Bytes`] are a part of: memory of this process, or a file that is read where it is touched.
pub trait Owner: AsRef<[u8]> + Send + Sync {
    /// Whether the content is a file's, so that it need not stay in memory.
    fn in_file(&self) -> bool {
        false
    }

    /// Asks the system to read a part of the file before it is touched.
    fn read_ahead(&self, _part: Range<usize>) {}

    /// Gives the memory behind a part of the file back; where it is touched again, it is read again.
    fn release(&self, _part: Range<usize>) {}
}

impl Owner for Vec<u8> {}

/// Bytes that are either owned or a part of something shared, such as a memory map.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Owner>,
    range: Range<usize>,
}

impl Bytes {
    /// Takes ownership of `bytes`.
    pub fn owned(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Bytes { owner: Arc::new(bytes), range }
    }

    /// A part of `owner`; panics if `range` is outside it, so check what a file says before.
    pub fn shared(owner: Arc<dyn Owner>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= (*owner).as_ref().len());
        Bytes { owner, range }
    }

    /// A part of these bytes; panics if `range` is outside them.
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len());
        let start = self.range.start;
        Bytes { owner: Arc::clone(&self.owner), range: start + range.start..start + range.end }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.range.len())
    }
}

/// A format of frozen weights: the values of a matrix in their stored form.
///
/// This is all that products need. A format that is multiplied without going through f32 is known to those kernels by its
/// type ([`Weight::format`]).
pub trait Format: Any + Debug + Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Bytes that it occupies, scales included.
    fn nbytes(&self) -> usize;

    /// What of it may lie in a file: its values, and the codes of its scales.
    fn parts(&self) -> [Option<&Bytes>; 2];

    /// Decodes values from the position `start` of the row-major matrix on, across the ends of rows.
    fn decode(&self, start: usize, out: &mut [f32]);
}

/// Little-endian floats, row-major.
#[derive(Debug)]
pub struct Dense {
    dtype: DType,
    bytes: Bytes,
}

impl Format for Dense {
    fn name(&self) -> &'static str {
        match self.dtype {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }

    fn nbytes(&self) -> usize {
        self.bytes.as_slice().len()
    }

    fn parts(&self) -> [Option<&Bytes>; 2] {
        [Some(&self.bytes), None]
    }

    fn decode(&self, start: usize, out: &mut [f32]) {
        decode_dense(self.dtype, &self.bytes.as_slice()[start * self.dtype.size()..], out);
    }
}

/// A frozen `rows x cols` (`N x K`, out x in) matrix in some format.
#[derive(Debug, Clone)]
pub struct Weight {
    rows: usize,
    cols: usize,
    format: Arc<dyn Format>,
}

impl Weight {
    /// A weight whose `rows * cols` values are in a format.
    pub fn new(rows: usize, cols: usize, format: impl Format) -> Self {
        Weight { rows, cols, format: Arc::new(format) }
    }

    /// A dense weight over the given little-endian bytes.
    pub fn dense(rows: usize, cols: usize, dtype: DType, bytes: Bytes) -> Result<Self> {
        let (found, expected) = (bytes.as_slice().len(), rows * cols * dtype.size());
        if found != expected {
            return Err(Error::Bytes { format: dtype.name(), rows, cols, found, expected });
        }
        Ok(Weight::new(rows, cols, Dense { dtype, bytes }))
    }

    /// A dense f32 weight that copies `values`.
    pub fn from_f32(rows: usize, cols: usize, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Weight::new(rows, cols, Dense { dtype: DType::F32, bytes: Bytes::owned(bytes) })
    }

    /// Output features `N`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features `K`.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The weight as one of this format.
    pub fn format<F: Format>(&self) -> Option<&F> {
        let format: &dyn Any = &*self.format;
        format.downcast_ref()
    }

    /// The name of its format.
    pub fn format_name(&self) -> &'static str {
        self.format.name()
    }

    /// The type of its values if they are floats.
    pub fn dtype(&self) -> Option<DType> {
        self.format::<Dense>().map(|dense| dense.dtype)
    }

    /// Bytes that the weight occupies, scales included.
    pub fn nbytes(&self) -> usize {
        self.format.nbytes()
    }

    /// What of the weight lies in a file.
    fn in_file(&self) -> impl Iterator<Item = &Bytes> {
        self.format.parts().into_iter().flatten().filter(|bytes| bytes.owner.in_file())
    }

    /// Bytes of the weight that lie in a file and need not stay in memory.
    pub fn bytes_in_file(&self) -> usize {
        self.in_file().map(|bytes| bytes.as_slice().len()).sum()
    }

    /// Asks the system to read what lies in a file before it is used.
    pub fn read_ahead(&self) {
        self.in_file().for_each(|bytes| bytes.owner.read_ahead(bytes.range.clone()));
    }

    /// Gives memory behind what lies in a file back to the system, which reads it again when it is used again.
    pub fn release(&self) {
        self.in_file().for_each(|bytes| bytes.owner.release(bytes.range.clone()));
    }

    /// The bytes of a weight that is stored in this type.
    pub(crate) fn dense_bytes(&self, dtype: DType) -> Option<&[u8]> {
        let dense = self.format::<Dense>()?;
        let same = dense.dtype == dtype && cfg!(target_endian = "little");
        same.then(|| dense.bytes.as_slice())
    }

    /// Decodes the values of `row` from column `col` on into `out` as f32.
    pub fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        assert!(row < self.rows && col + out.len() <= self.cols, "decode outside the weight");
        self.decode_flat(row * self.cols + col, out);
    }

    /// Decodes values from the position `start` of the row-major matrix on, across the ends of rows.
    pub fn decode_flat(&self, start: usize, out: &mut [f32]) {
        assert!(start + out.len() <= self.rows * self.cols, "decode outside the weight");
        self.format.decode(start, out);
    }
}

/// Refuses scales that are not finite: a value was not.
fn all_finite(scales: &[f32]) -> Result<()> {
    match scales.iter().find(|scale| !scale.is_finite()) {
        None => Ok(()),
        Some(scale) => Err(Error::Unsupported {
            what: "value to quantize",
            found: scale.to_string(),
            allowed: "finite numbers",
        }),
    }
}

/// Little-endian floats to f32.
fn decode_dense(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        DType::F16 => {
            // The bytes of a file need not be aligned for the library's vectorized conversion: go by pieces.
            let mut piece = [half::f16::ZERO; 64];
            for (out, bytes) in out.chunks_mut(64).zip(bytes.chunks(128)) {
                let piece = &mut piece[..out.len()];
                for (p, b) in piece.iter_mut().zip(bytes.chunks_exact(2)) {
                    *p = half::f16::from_le_bytes([b[0], b[1]]);
                }
                piece.convert_to_f32_slice(out);
            }
        }
        DType::Bf16 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *o = f32::from_bits((u16::from_le_bytes([b[0], b[1]]) as u32) << 16);
            }
        }
    }
}
