//! Frozen weights in block formats: how they are stored, and how a run of a row is decoded.
//!
//! A [`Weight`] is an `N x K` matrix that never changes. The matmul kernels decode it panel by panel into their
//! packed layout with [`Weight::decode`]; it is never expanded as a whole. Adding a format is one file and one
//! variant of [`Storage`].

use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;

use crate::dtype::DType;
use crate::error::{Error, Result};

pub mod dynamic8;
pub mod gguf;
pub mod int8;
mod isa;
pub mod nf4;

pub use gguf::GgufType;
pub use int8::Int8Rows;
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

/// How the values of a [`Weight`] are stored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Storage {
    /// Little-endian floats, row-major.
    Dense(DType, Bytes),
    /// NF4 or FP4 with a scale per block of the flat tensor.
    FourBit(Arc<FourBit>),
    /// 8-bit integers with a scale per row.
    Int8(Arc<Int8Rows>),
    /// Blocks of a GGUF file, whole blocks to a row.
    Gguf(GgufType, Bytes),
}

/// A frozen `rows x cols` (`N x K`, out x in) matrix in some storage format.
#[derive(Debug, Clone)]
pub struct Weight {
    rows: usize,
    cols: usize,
    storage: Storage,
}

impl Weight {
    /// A dense weight over the given little-endian bytes.
    pub fn dense(rows: usize, cols: usize, dtype: DType, bytes: Bytes) -> Result<Self> {
        let (found, expected) = (bytes.as_slice().len(), rows * cols * dtype.size());
        if found != expected {
            return Err(Error::Bytes { format: dtype.name(), rows, cols, found, expected });
        }
        Ok(Weight { rows, cols, storage: Storage::Dense(dtype, bytes) })
    }

    /// A dense f32 weight that copies `values`.
    pub fn from_f32(rows: usize, cols: usize, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Weight { rows, cols, storage: Storage::Dense(DType::F32, Bytes::owned(bytes)) }
    }

    /// A 4-bit weight; refused if the number of values is another.
    pub fn four_bit(rows: usize, cols: usize, bits: FourBit) -> Result<Self> {
        if bits.len() != rows * cols {
            let (found, expected) = (vec![bits.len()], vec![rows, cols]);
            return Err(Error::Shape { op: "four_bit", what: "weight", found, expected });
        }
        Ok(Weight { rows, cols, storage: Storage::FourBit(Arc::new(bits)) })
    }

    /// A weight of 8-bit rows.
    pub fn int8(rows: Int8Rows) -> Self {
        Weight { rows: rows.rows(), cols: rows.cols(), storage: Storage::Int8(Arc::new(rows)) }
    }

    /// A weight in the blocks of a GGUF file; rows must be whole blocks.
    pub fn gguf(rows: usize, cols: usize, kind: GgufType, bytes: Bytes) -> Result<Self> {
        let (values, size) = (kind.block_len(), kind.block_bytes());
        if !cols.is_multiple_of(values) {
            return Err(Error::Block { format: kind.name(), cols, block: values });
        }
        let (found, expected) = (bytes.as_slice().len(), rows * (cols / values) * size);
        if found != expected {
            return Err(Error::Bytes { format: kind.name(), rows, cols, found, expected });
        }
        Ok(Weight { rows, cols, storage: Storage::Gguf(kind, bytes) })
    }

    /// Output features `N`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features `K`.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The storage.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Bytes that the weight occupies, scales included.
    pub fn nbytes(&self) -> usize {
        match &self.storage {
            Storage::Dense(_, bytes) => bytes.as_slice().len(),
            Storage::FourBit(bits) => bits.nbytes(),
            Storage::Int8(rows) => rows.nbytes(),
            Storage::Gguf(_, bytes) => bytes.as_slice().len(),
        }
    }

    /// What of the weight lies in a file: its values, and the codes of its scales.
    fn in_file(&self) -> impl Iterator<Item = &Bytes> {
        let parts = match &self.storage {
            Storage::Dense(_, bytes) | Storage::Gguf(_, bytes) => [Some(bytes), None],
            Storage::FourBit(bits) => bits.parts(),
            Storage::Int8(rows) => [Some(rows.bytes()), None],
        };
        parts.into_iter().flatten().filter(|bytes| bytes.owner.in_file())
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
        match &self.storage {
            Storage::Dense(own, bytes) if *own == dtype && cfg!(target_endian = "little") => {
                Some(bytes.as_slice())
            }
            _ => None,
        }
    }

    /// Decodes the values of `row` from column `col` on into `out` as f32.
    pub fn decode(&self, row: usize, col: usize, out: &mut [f32]) {
        assert!(row < self.rows && col + out.len() <= self.cols, "decode outside the weight");
        self.decode_flat(row * self.cols + col, out);
    }

    /// Decodes values from the position `start` of the row-major matrix on, across the ends of rows.
    pub fn decode_flat(&self, start: usize, out: &mut [f32]) {
        assert!(start + out.len() <= self.rows * self.cols, "decode outside the weight");
        match &self.storage {
            Storage::Dense(dtype, bytes) => {
                decode_dense(*dtype, &bytes.as_slice()[start * dtype.size()..], out)
            }
            Storage::FourBit(bits) => bits.decode(start, out),
            Storage::Int8(rows) => rows.decode(start, out),
            Storage::Gguf(kind, bytes) => gguf::decode(*kind, bytes.as_slice(), start, out),
        }
    }
}

/// Little-endian floats to f32.
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
