//! The block formats of GGUF files.
//!
//! Every format is a struct of bytes, whose size is checked at compile time, and a function that decodes 32 of its
//! values. What is common (ranges that do not start on a block, instruction sets) is written once, in this file.
//! Values come out exactly as the format defines them: products and sums in f32, nothing fused.

use crate::error::{Error, Result};

use super::isa::Isa;
use super::{Bytes, Format, Weight};

mod encode;
pub(crate) mod k_quants;
pub(crate) mod legacy;
mod tables;
mod ternary;

pub use encode::encode;

/// Values decoded at a time; every block holds a multiple of it.
const PART: usize = 32;

/// A block of a format, as it stands in a file.
///
/// # Safety
///
/// Implementors are `repr(C)` structs of bytes and byte arrays only: any bytes are a valid value, alignment is 1.
pub(crate) unsafe trait Block: Sized {
    /// Values of a block.
    const LEN: usize;

    /// Decodes the values `32 * part ..` of the block.
    fn part(&self, part: usize, out: &mut [f32; PART]);
}

macro_rules! formats {
    ($($variant:ident $name:literal $id:literal $block:ty, $len:literal values in $bytes:literal bytes;)*) => {
        /// A block format of GGUF files.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum GgufType {
            $(#[doc = concat!($name, ": blocks of ", $len, " values in ", $bytes, " bytes.")] $variant,)*
        }

        $(const _: () = assert!(
            size_of::<$block>() == $bytes
                && align_of::<$block>() == 1
                && <$block as Block>::LEN == $len
                && $len % PART == 0
        );)*

        impl GgufType {
            /// All formats that can be decoded.
            pub const ALL: &[GgufType] = &[$(GgufType::$variant),*];

            /// The format of a type number in a GGUF file.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(GgufType::$variant),)* _ => None }
            }

            /// The type number in a GGUF file.
            pub fn id(self) -> u32 {
                match self { $(GgufType::$variant => $id),* }
            }

            /// The name that GGUF tools print.
            pub fn name(self) -> &'static str {
                match self { $(GgufType::$variant => $name),* }
            }

            /// Values of a block.
            pub fn block_len(self) -> usize {
                match self { $(GgufType::$variant => $len),* }
            }

            /// Bytes of a block.
            pub fn block_bytes(self) -> usize {
                match self { $(GgufType::$variant => $bytes),* }
            }
        }

        #[inline(always)]
        fn decode_any(kind: GgufType, bytes: &[u8], start: usize, out: &mut [f32]) {
            match kind { $(GgufType::$variant => decode_blocks::<$block>(bytes, start, out)),* }
        }
    };
}

formats! {
    Q4_0 "Q4_0" 2 legacy::Q4_0, 32 values in 18 bytes;
    Q4_1 "Q4_1" 3 legacy::Q4_1, 32 values in 20 bytes;
    Q5_0 "Q5_0" 6 legacy::Q5_0, 32 values in 22 bytes;
    Q5_1 "Q5_1" 7 legacy::Q5_1, 32 values in 24 bytes;
    Q8_0 "Q8_0" 8 legacy::Q8_0, 32 values in 34 bytes;
    Q2K "Q2_K" 10 k_quants::Q2K, 256 values in 84 bytes;
    Q3K "Q3_K" 11 k_quants::Q3K, 256 values in 110 bytes;
    Q4K "Q4_K" 12 k_quants::Q4K, 256 values in 144 bytes;
    Q5K "Q5_K" 13 k_quants::Q5K, 256 values in 176 bytes;
    Q6K "Q6_K" 14 k_quants::Q6K, 256 values in 210 bytes;
    Iq4Nl "IQ4_NL" 20 tables::Iq4Nl, 32 values in 18 bytes;
    Iq4Xs "IQ4_XS" 23 tables::Iq4Xs, 256 values in 136 bytes;
    Tq1_0 "TQ1_0" 34 ternary::Tq1_0, 256 values in 54 bytes;
    Tq2_0 "TQ2_0" 35 ternary::Tq2_0, 256 values in 66 bytes;
    Mxfp4 "MXFP4" 39 tables::Mxfp4, 32 values in 17 bytes;
}

/// A matrix in the blocks of a GGUF file, whole blocks to a row.
#[derive(Debug)]
pub struct GgufBlocks {
    kind: GgufType,
    bytes: Bytes,
}

impl GgufBlocks {
    /// The format of its blocks.
    pub fn kind(&self) -> GgufType {
        self.kind
    }

    /// Its blocks.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

impl Format for GgufBlocks {
    fn name(&self) -> &'static str {
        "gguf blocks"
    }

    fn nbytes(&self) -> usize {
        self.bytes.as_slice().len()
    }

    fn parts(&self) -> [Option<&Bytes>; 2] {
        [Some(&self.bytes), None]
    }

    fn decode(&self, start: usize, out: &mut [f32]) {
        decode(self.kind, self.bytes.as_slice(), start, out);
    }
}

impl Weight {
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
        Ok(Weight::new(rows, cols, GgufBlocks { kind, bytes }))
    }
}

/// Decodes values of the blocks in `bytes` from the flat position `start` on.
///
/// Positions that are multiples of 32 decode straight into `out`; others go through a buffer of one part.
pub fn decode(kind: GgufType, bytes: &[u8], start: usize, out: &mut [f32]) {
    decode_on(Isa::best(), kind, bytes, start, out);
}

fn decode_on(isa: Isa, kind: GgufType, bytes: &[u8], start: usize, out: &mut [f32]) {
    match isa {
        Isa::Portable => decode_any(kind, bytes, start, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => decode_any(kind, bytes, start, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa` values beyond `Portable` are made only after asking the processor for their features.
        Isa::Avx2 => unsafe { decode_avx2(kind, bytes, start, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { decode_avx512(kind, bytes, start, out) },
    }
}

/// The portable loops, compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn decode_avx2(kind: GgufType, bytes: &[u8], start: usize, out: &mut [f32]) {
    decode_any(kind, bytes, start, out);
}

/// The portable loops, compiled for AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
fn decode_avx512(kind: GgufType, bytes: &[u8], start: usize, out: &mut [f32]) {
    decode_any(kind, bytes, start, out);
}

#[inline(always)]
fn decode_blocks<B: Block>(bytes: &[u8], start: usize, out: &mut [f32]) {
    let blocks = blocks_of::<B>(bytes);
    let (mut at, mut out) = (start, out);
    let skip = at % PART;
    if skip > 0 {
        let mut whole = [0.0; PART];
        part_at(blocks, at - skip, &mut whole);
        let (head, rest) = out.split_at_mut((PART - skip).min(out.len()));
        head.copy_from_slice(&whole[skip..skip + head.len()]);
        at += head.len();
        out = rest;
    }
    let (parts, tail) = out.as_chunks_mut::<PART>();
    for out in parts {
        part_at(blocks, at, out);
        at += PART;
    }
    if !tail.is_empty() {
        let mut whole = [0.0; PART];
        part_at(blocks, at, &mut whole);
        tail.copy_from_slice(&whole[..tail.len()]);
    }
}

/// The part at a position. A closure would not be inlined, and so not be compiled for the instruction set.
#[inline(always)]
fn part_at<B: Block>(blocks: &[B], at: usize, out: &mut [f32; PART]) {
    blocks[at / B::LEN].part(at % B::LEN / PART, out);
}

/// The bytes as whole blocks; a rest that is no block is left out.
#[inline(always)]
pub(crate) fn blocks_of<B: Block>(bytes: &[u8]) -> &[B] {
    // SAFETY: `Block` promises alignment 1 and that any bytes are valid; the length is rounded down to whole blocks.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<B>(), bytes.len() / size_of::<B>()) }
}

/// A little-endian half float. Without a branch: moved to the place of f32's bits and multiplied by the difference of
/// the exponents' biases, which is exact for denormals too; infinities and NaN get their exponent back.
#[inline(always)]
pub(crate) fn half(bytes: [u8; 2]) -> f32 {
    let h = u16::from_le_bytes(bytes) as u32;
    let moved = f32::from_bits((h & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if h & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(moved.to_bits() | special | (h & 0x8000) << 16)
}

fn no_encoder(kind: GgufType) -> Error {
    Error::Unsupported {
        what: "GGUF type to encode",
        found: kind.name().to_string(),
        allowed: "Q8_0, Q4_0, Q4_1, Q5_0, Q5_1",
    }
}

/// Checks that `len` values are whole blocks.
fn check_whole(kind: GgufType, len: usize) -> Result<()> {
    if len.is_multiple_of(kind.block_len()) {
        return Ok(());
    }
    Err(Error::Block { format: kind.name(), cols: len, block: kind.block_len() })
}

#[cfg(test)]
mod tests;
