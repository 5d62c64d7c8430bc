//! 8-bit integers with a scale per row, as in LLM.int8.
//!
//! A value is `code * absmax / 127` with the row's largest magnitude. A frozen base in training is decoded, as the
//! reference does on a CPU; its inference also rounds activations to 8 bits ([`llm_int8`]).

use std::sync::Arc;

use super::{Bytes, Format, Weight, all_finite};
use crate::cpu::{Isa, per_isa};
use crate::error::{Error, Result};
use crate::threads::{SharedMut, Threads};

mod inference;

pub use inference::llm_int8;

impl Weight {
    /// A weight of 8-bit rows.
    pub fn int8(rows: Int8Rows) -> Self {
        Weight::new(rows.rows(), rows.cols(), rows)
    }
}

/// 8-bit codes and the largest magnitude of each row.
#[derive(Debug, Clone)]
pub struct Int8Rows {
    codes: Bytes,
    absmax: Arc<[f32]>,
    cols: usize,
}

impl Int8Rows {
    /// Rows of `cols` signed bytes, one for each entry of `absmax`; refused if there are more or fewer.
    pub fn new(cols: usize, codes: Bytes, absmax: Arc<[f32]>) -> Result<Self> {
        let (rows, found) = (absmax.len(), codes.as_slice().len());
        if found != rows * cols {
            return Err(Error::Bytes { format: "int8", rows, cols, found, expected: rows * cols });
        }
        Ok(Int8Rows { codes, absmax, cols })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.absmax.len()
    }

    /// Values of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The signed bytes, row-major.
    pub fn codes(&self) -> &[u8] {
        self.codes.as_slice()
    }

    /// The largest magnitude of each row.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }
}

impl Format for Int8Rows {
    fn name(&self) -> &'static str {
        "int8"
    }

    fn nbytes(&self) -> usize {
        self.codes().len() + self.absmax.len() * 4
    }

    fn parts(&self) -> [Option<&Bytes>; 2] {
        [Some(&self.codes), None]
    }

    fn decode(&self, start: usize, out: &mut [f32]) {
        let (mut at, mut out) = (start, out);
        let isa = Isa::detect();
        while !out.is_empty() {
            let (row, col) = (at / self.cols, at % self.cols);
            let (run, rest) = out.split_at_mut((self.cols - col).min(out.len()));
            let absmax = self.absmax[row];
            decode_run(isa, &self.codes()[at..], absmax, run);
            at += run.len();
            out = rest;
        }
    }
}

per_isa! {
    fn decode_run(codes: &[u8], absmax: f32, out: &mut [f32]) {
        for (o, &code) in out.iter_mut().zip(codes) {
            *o = value(code as i8, absmax);
        }
    }
}

/// The value of a code in a row of this largest magnitude.
#[inline(always)]
pub(crate) fn value(code: i8, absmax: f32) -> f32 {
    f32::from(code) * absmax * (1.0 / 127.0)
}

/// The factor from values to codes, in the order of the reference: `127 / absmax` may differ in the last bit.
fn factor(absmax: f32) -> f32 {
    if absmax > 0.0 { (1.0 / absmax) * 127.0 } else { 0.0 }
}

/// Quantizes `source` row by row. Values that are not finite are refused.
///
/// A linear of the reference rounds its weight to f16 before (`half`), whatever the checkpoint's type.
pub fn quantize(threads: &Threads, source: &Weight, half: bool) -> Result<Weight> {
    let (rows, cols) = (source.rows(), source.cols());
    let mut codes = vec![0u8; rows * cols];
    let mut absmax = vec![0f32; rows];
    let (all_codes, scales) = (SharedMut::new(&mut codes), SharedMut::new(&mut absmax));
    threads.run_with(
        rows,
        || vec![0f32; cols],
        |values, row| {
            // SAFETY: a row belongs to one task.
            let (codes, absmax) = unsafe {
                (all_codes.slice(row * cols..(row + 1) * cols), &mut scales.slice(row..row + 1)[0])
            };
            source.decode(row, 0, values);
            if half {
                values.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
            }
            // As integers, magnitudes of floats are in the same order, and anything not finite is above all others.
            *absmax = f32::from_bits(values.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)));
            let factor = factor(*absmax);
            for (code, value) in codes.iter_mut().zip(&*values) {
                *code = (value * factor).round_ties_even() as i8 as u8;
            }
        },
    );
    all_finite(&absmax)?;
    Ok(Weight::int8(Int8Rows::new(cols, Bytes::owned(codes), absmax.into())?))
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn f32s(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn golden_rows_are_exact() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../testdata/golden/quant/eight_bit/eight_bit.safetensors"
        );
        let file = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let part = |name: &str| file.tensor(name).unwrap().data().to_vec();
        let source = Weight::from_f32(48, 64, &f32s(&part("int8/source")));
        let weight = quantize(&Threads::one(), &source, false).unwrap();
        let rows = weight.format::<Int8Rows>().expect("int8");
        assert_eq!(rows.codes(), part("int8/codes"));
        assert_eq!(rows.absmax(), f32s(&part("int8/row_stats")));
        let mut found = vec![0.0; 48 * 64];
        weight.decode_flat(0, &mut found);
        assert_eq!(found, f32s(&part("int8/dequant")));
        for (start, len) in [(0, 5), (60, 10), (63, 130), (3071, 1)] {
            let mut part = vec![0.0; len];
            weight.decode_flat(start, &mut part);
            assert_eq!(part, found[start..start + len]);
        }
    }

    #[test]
    fn zeros_stay_and_what_is_not_finite_is_refused() {
        let zeros = quantize(&Threads::one(), &Weight::from_f32(2, 3, &[0.0; 6]), false).unwrap();
        let mut out = [1.0; 6];
        zeros.decode_flat(0, &mut out);
        assert_eq!(out, [0.0; 6]);
        assert!(quantize(&Threads::one(), &Weight::from_f32(1, 2, &[0.0, f32::NAN]), false).is_err());
        assert!(
            quantize(&Threads::one(), &Weight::from_f32(1, 2, &[1.0, 7e4]), true).is_err(),
            "above the range of f16"
        );
        assert!(Int8Rows::new(3, Bytes::owned(vec![0; 7]), vec![0.0; 2].into()).is_err());
    }
}
