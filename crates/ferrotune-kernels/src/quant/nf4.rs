//! NF4 and FP4: four bits per value, a scale per block, byte for byte as bitsandbytes stores them.
//!
//! Blocks run over the flat row-major tensor and may cross the ends of rows; the last one may be short. The first
//! value of a pair is in the high nibble. A value is `code[q] * scale` in f32, with the block's largest magnitude as
//! scale. With double quantization the scales are stored in 8 bits: an index in the signed dynamic map times a
//! second-level scale for each 256 of them, plus the mean of all.

use std::sync::Arc;

use super::{Bytes, Format, Weight, all_finite};
use crate::ahead::ask;
use crate::error::{Error, Result};
use crate::threads::{SharedMut, Threads};

mod nested;
mod simd;

pub use nested::NESTED_BLOCK;

use super::isa::Isa;
use nested::nest;
#[cfg(target_arch = "aarch64")]
use simd::arm;
#[cfg(target_arch = "aarch64")]
pub(crate) use simd::arm::{lookup_neon, tables_neon, values_neon};
use simd::portable;
#[cfg(target_arch = "x86_64")]
use simd::x86;
#[cfg(target_arch = "x86_64")]
pub(crate) use simd::x86::{tables_avx2, values_avx2};

/// The block sizes of the format.
pub const BLOCKS: [usize; 7] = [64, 128, 256, 512, 1024, 2048, 4096];

/// Divisors below this are replaced by it, as in the reference: a block of zeros then gives zeros.
const LEAST_SCALE: f32 = 1e-38;

/// The two 4-bit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FourBitKind {
    /// Quantiles of a normal distribution.
    Nf4,
    /// A sign, two bits of exponent and one of mantissa.
    Fp4,
}

impl FourBitKind {
    /// Name in files and options.
    pub fn name(self) -> &'static str {
        match self {
            FourBitKind::Nf4 => "nf4",
            FourBitKind::Fp4 => "fp4",
        }
    }

    /// The value of each index.
    pub fn code(self) -> &'static [f32; 16] {
        match self {
            FourBitKind::Nf4 => &NF4,
            FourBitKind::Fp4 => &FP4,
        }
    }

    /// What the search for the nearest value needs.
    fn search(self) -> Search {
        // Indices in the order of their values. Of FP4's two zeros the positive one stands first.
        let order = match self {
            FourBitKind::Nf4 => [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            FourBitKind::Fp4 => [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
        };
        let value = |rank: usize| self.code()[order[rank] as usize];
        let bounds =
            std::array::from_fn(|i| if i < 15 { (value(i) + value(i + 1)) / 2.0 } else { f32::INFINITY });
        Search { bounds, order }
    }
}

/// How the nearest value of a code is found.
struct Search {
    /// Midpoints between neighbouring values, then infinity; a value exactly on a midpoint goes down.
    bounds: [f32; 16],
    /// Index of each value, from the least to the greatest.
    order: [u32; 16],
}

#[rustfmt::skip]
static NF4: [f32; 16] = [
    -1.0, -0.696_192_8, -0.525_073_05, -0.394_917_5, -0.284_441_38, -0.184_773_43, -0.091_050_036, 0.0,
    0.079_580_3, 0.160_930_2, 0.246_112_3, 0.337_915_24, 0.440_709_83, 0.562_617, 0.722_956_84, 1.0,
];

#[rustfmt::skip]
static FP4: [f32; 16] = [
    0.0, 0.0625 / 12.0, 8.0 / 12.0, 1.0, 4.0 / 12.0, 6.0 / 12.0, 2.0 / 12.0, 3.0 / 12.0,
    0.0, -0.0625 / 12.0, -8.0 / 12.0, -1.0, -4.0 / 12.0, -6.0 / 12.0, -2.0 / 12.0, -3.0 / 12.0,
];

/// The scales of a 4-bit tensor, one for each block.
#[derive(Debug, Clone)]
pub enum Scales {
    /// In f32.
    Plain(Arc<[f32]>),
    /// Doubly quantized: `map[codes[i]] * absmax[i / block] + offset`.
    Nested {
        /// An index in the map for each scale.
        codes: Bytes,
        /// Second-level scales.
        absmax: Arc<[f32]>,
        /// The map; on reading always the file's own.
        map: Arc<[f32; 256]>,
        /// Mean of the scales.
        offset: f32,
        /// Scales per second-level scale.
        block: usize,
    },
}

/// The scales of a tensor as slices, to read many: finding out where they lie takes longer than reading one.
#[derive(Clone, Copy)]
pub(crate) enum ScalesOf<'a> {
    Plain(&'a [f32]),
    Nested { codes: &'a [u8], absmax: &'a [f32], map: &'a [f32; 256], offset: f32, block: usize },
}

impl ScalesOf<'_> {
    /// The scale of a block.
    #[inline(always)]
    pub(crate) fn one(&self, index: usize) -> f32 {
        match *self {
            ScalesOf::Plain(scales) => scales[index],
            ScalesOf::Nested { codes, absmax, map, offset, block } => {
                map[codes[index] as usize] * absmax[index / block] + offset
            }
        }
    }

    /// Asks for that of a block, which may be beyond the end.
    #[inline(always)]
    pub(crate) fn ask(&self, index: usize) {
        let at = match *self {
            ScalesOf::Plain(scales) => scales.as_ptr().wrapping_add(index).cast(),
            ScalesOf::Nested { codes, .. } => codes.as_ptr().wrapping_add(index),
        };
        ask(at, 1);
    }

    /// Writes the scales of the blocks from `first` on.
    #[inline(always)]
    pub(crate) fn read(&self, first: usize, out: &mut [f32]) {
        match *self {
            ScalesOf::Plain(scales) => out.copy_from_slice(&scales[first..][..out.len()]),
            ScalesOf::Nested { codes, absmax, map, offset, block } => {
                let codes = &codes[first..][..out.len()];
                let (start, mut at) = (first / block, 0);
                for (i, absmax) in absmax[start..].iter().enumerate() {
                    let end = ((start + i + 1) * block - first).min(out.len());
                    for (out, code) in out[at..end].iter_mut().zip(&codes[at..end]) {
                        *out = map[*code as usize] * absmax + offset;
                    }
                    at = end;
                    if at == out.len() {
                        break;
                    }
                }
            }
        }
    }
}

impl Weight {
    /// A 4-bit weight; refused if the number of values is another.
    pub fn four_bit(rows: usize, cols: usize, bits: FourBit) -> Result<Self> {
        if bits.len() != rows * cols {
            let (found, expected) = (vec![bits.len()], vec![rows, cols]);
            return Err(Error::Shape { op: "four_bit", what: "weight", found, expected });
        }
        Ok(Weight::new(rows, cols, bits))
    }
}

impl Format for FourBit {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn nbytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(scales) => scales.len() * 4,
            Scales::Nested { codes, absmax, .. } => codes.as_slice().len() + absmax.len() * 4 + 4,
        };
        self.packed().len() + scales
    }

    fn parts(&self) -> [Option<&Bytes>; 2] {
        let codes = match &self.scales {
            Scales::Plain(_) => None,
            Scales::Nested { codes, .. } => Some(codes),
        };
        [Some(&self.packed), codes]
    }

    fn decode(&self, start: usize, out: &mut [f32]) {
        self.decode_on(Isa::best(), start, out);
    }
}

/// A 4-bit tensor.
#[derive(Debug, Clone)]
pub struct FourBit {
    kind: FourBitKind,
    block: usize,
    len: usize,
    packed: Bytes,
    scales: Scales,
    code: [f32; 16],
}

impl FourBit {
    /// A tensor of `len` values from its stored parts; sizes that do not fit together are refused.
    pub fn new(
        kind: FourBitKind,
        block: usize,
        len: usize,
        packed: Bytes,
        scales: Scales,
        code: [f32; 16],
    ) -> Result<Self> {
        check_block(block)?;
        let wrong = |what, found: usize, expected: usize| Error::Shape {
            op: "four_bit",
            what,
            found: vec![found],
            expected: vec![expected],
        };
        let (bytes, blocks) = (len.div_ceil(2), len.div_ceil(block));
        if packed.as_slice().len() != bytes {
            return Err(wrong("packed", packed.as_slice().len(), bytes));
        }
        match &scales {
            Scales::Plain(scales) if scales.len() != blocks => {
                return Err(wrong("absmax", scales.len(), blocks));
            }
            Scales::Nested { codes, .. } if codes.as_slice().len() != blocks => {
                return Err(wrong("absmax", codes.as_slice().len(), blocks));
            }
            Scales::Nested { block: 0, .. } => return Err(wrong("nested_blocksize", 0, NESTED_BLOCK)),
            Scales::Nested { absmax, block, .. } if absmax.len() != blocks.div_ceil(*block) => {
                return Err(wrong("nested_absmax", absmax.len(), blocks.div_ceil(*block)));
            }
            _ => {}
        }
        Ok(FourBit { kind, block, len, packed, scales, code })
    }

    /// NF4 or FP4.
    pub fn kind(&self) -> FourBitKind {
        self.kind
    }

    /// Values per scale.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Two values a byte, the first in the high nibble.
    pub fn packed(&self) -> &[u8] {
        self.packed.as_slice()
    }

    /// The scales as stored.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// The value of each index.
    pub fn code(&self) -> &[f32; 16] {
        &self.code
    }

    /// The scale of a block.
    #[inline]
    pub fn scale(&self, index: usize) -> f32 {
        self.scales_of().one(index)
    }

    /// The scales where they lie.
    #[inline(always)]
    pub(crate) fn scales_of(&self) -> ScalesOf<'_> {
        match &self.scales {
            Scales::Plain(scales) => ScalesOf::Plain(scales),
            Scales::Nested { codes, absmax, map, offset, block } => {
                ScalesOf::Nested { codes: codes.as_slice(), absmax, map, offset: *offset, block: *block }
            }
        }
    }

    fn decode_on(&self, isa: Isa, start: usize, out: &mut [f32]) {
        assert!(start + out.len() <= self.len, "decode outside the tensor");
        match isa {
            Isa::Portable => self.walk(start, out, portable::pairs),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => self.walk(start, out, arm::pairs),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa` values beyond `Portable` are made only after asking the processor for their features.
            Isa::Avx2 => unsafe { x86::decode_avx2(self, start, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 => unsafe { x86::decode_avx512(self, start, out) },
        }
    }

    /// Splits a range into runs with one scale; `pairs` decodes the whole bytes of a run.
    #[inline(always)]
    fn walk(&self, start: usize, out: &mut [f32], pairs: impl Fn(&[u8], f32, &[f32; 16], &mut [f32])) {
        let packed = self.packed();
        let (mut at, mut out) = (start, out);
        while !out.is_empty() {
            let index = at / self.block;
            let scale = self.scale(index);
            let take = ((index + 1) * self.block - at).min(out.len());
            let (mut run, rest) = out.split_at_mut(take);
            out = rest;
            let mut byte = at / 2;
            if at % 2 == 1 {
                run[0] = self.code[(packed[byte] & 15) as usize] * scale;
                run = &mut run[1..];
                byte += 1;
            }
            let whole = run.len() / 2;
            let (even, tail) = run.split_at_mut(whole * 2);
            pairs(&packed[byte..byte + whole], scale, &self.code, even);
            if let [last] = tail {
                *last = self.code[(packed[byte + whole] >> 4) as usize] * scale;
            }
            at += take;
        }
    }
}

fn check_block(block: usize) -> Result<()> {
    if BLOCKS.contains(&block) {
        return Ok(());
    }
    let allowed = "64, 128, 256, 512, 1024, 2048, 4096";
    Err(Error::Unsupported { what: "4-bit block size", found: block.to_string(), allowed })
}

/// Quantizes `source` from the type in which it is stored.
///
/// Only the result and a small buffer for each thread are allocated. Values that are not finite are refused.
pub fn quantize(
    threads: &Threads,
    source: &Weight,
    kind: FourBitKind,
    block: usize,
    double: bool,
) -> Result<Weight> {
    /// Values that a thread takes at a time; a multiple of every block size.
    const CHUNK: usize = 16384;
    check_block(block)?;
    let len = source.rows() * source.cols();
    let mut packed = vec![0u8; len.div_ceil(2)];
    let mut absmax = vec![0f32; len.div_ceil(block)];
    let (isa, search) = (Isa::best(), kind.search());
    let (nibbles, scales) = (SharedMut::new(&mut packed), SharedMut::new(&mut absmax));
    let buffer = || vec![0f32; CHUNK];
    threads.run_with(len.div_ceil(CHUNK), buffer, |values, i| {
        let (start, end) = (i * CHUNK, ((i + 1) * CHUNK).min(len));
        // SAFETY: chunks are disjoint, and each has whole blocks and bytes.
        let (packed, absmax) = unsafe {
            (nibbles.slice(start / 2..end.div_ceil(2)), scales.slice(start / block..end.div_ceil(block)))
        };
        let values = &mut values[..end - start];
        source.decode_flat(start, values);
        for ((values, packed), absmax) in
            values.chunks_mut(block).zip(packed.chunks_mut(block / 2)).zip(absmax)
        {
            *absmax = quantize_block(isa, &search, values.len() == block, values, packed);
        }
    });
    all_finite(&absmax)?;
    let scales = if double { nest(&absmax) } else { Scales::Plain(absmax.into()) };
    let bits = FourBit::new(kind, block, len, Bytes::owned(packed), scales, *kind.code())?;
    Weight::four_bit(source.rows(), source.cols(), bits)
}

/// Quantizes one block in place of its nibbles and gives its scale; one that is not finite says that a value was not, and
/// the nibbles then mean nothing.
fn quantize_block(isa: Isa, search: &Search, complete: bool, values: &mut [f32], packed: &mut [u8]) -> f32 {
    let mut absmax = match isa {
        Isa::Portable => portable::absmax(values),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => portable::absmax(values),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa` values beyond `Portable` are made only after asking the processor for their features.
        Isa::Avx2 => unsafe { x86::absmax_avx2(values) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { x86::absmax_avx512(values) },
    };
    if !absmax.is_finite() {
        return absmax;
    }
    // The reference multiplies a whole block by the reciprocal but divides a short last one.
    let mut factor = 1.0 / absmax.max(LEAST_SCALE);
    if !complete {
        absmax = absmax.max(LEAST_SCALE);
        values.iter_mut().for_each(|v| *v /= absmax);
        factor = 1.0;
    }
    match isa {
        Isa::Portable => portable::pack(values, factor, search, packed),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => portable::pack(values, factor, search, packed),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::pack_avx2(values, factor, search, packed) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { x86::pack_avx512(values, factor, search, packed) },
    }
    absmax
}

#[cfg(test)]
mod tests;
