//! FP8 weights as checkpoints have them: 8-bit floats with four bits of exponent and three of mantissa (E4M3 without infinities, OCP
//! 8-bit floating point 1.0), and an f32 scale for each block of rows and columns.

use std::sync::{Arc, LazyLock};

use super::{Bytes, Format, Weight};
use crate::error::{Error, Result};

/// The values of all bytes.
static E4M3: LazyLock<[f32; 256]> = LazyLock::new(|| std::array::from_fn(|byte| value(byte as u8)));

fn value(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = ((byte >> 3 & 15) as i32, (byte & 7) as f32);
    sign * match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    }
}

/// A matrix of 8-bit floats.
#[derive(Debug)]
pub struct Fp8 {
    cols: usize,
    values: Bytes,
    /// Row-major, one for each block.
    scales: Arc<[f32]>,
    /// Rows and columns of a block.
    block: [usize; 2],
}

impl Fp8 {
    /// A `rows x cols` matrix whose blocks of `block` rows and columns have a scale each; those at the ends may be smaller.
    pub fn weight(
        rows: usize,
        cols: usize,
        values: Bytes,
        scales: Arc<[f32]>,
        block: [usize; 2],
    ) -> Result<Weight> {
        let expected = match block {
            [0, _] | [_, 0] => 0,
            [r, c] => rows.div_ceil(r) * cols.div_ceil(c),
        };
        if values.as_slice().len() != rows * cols || expected == 0 || scales.len() != expected {
            let found = format!(
                "{} bytes and {} scales for {rows} x {cols} in blocks of {block:?}",
                values.as_slice().len(),
                scales.len()
            );
            return Err(Error::Unsupported {
                what: "fp8",
                found,
                allowed: "a byte for each value, a scale for each block",
            });
        }
        Ok(Weight::new(rows, cols, Fp8 { cols, values, scales, block }))
    }
}

impl Format for Fp8 {
    fn name(&self) -> &'static str {
        "fp8"
    }

    fn nbytes(&self) -> usize {
        self.values.as_slice().len() + 4 * self.scales.len()
    }

    fn parts(&self) -> [Option<&Bytes>; 2] {
        [Some(&self.values), None]
    }

    fn decode(&self, start: usize, out: &mut [f32]) {
        let (table, [rows, cols]) = (&*E4M3, self.block);
        let across = self.cols.div_ceil(cols);
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let (row, col) = (at / self.cols, at % self.cols);
            let n = (cols - col % cols).min(self.cols - col).min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            let scale = self.scales[row / rows * across + col / cols];
            for (out, byte) in now.iter_mut().zip(&self.values.as_slice()[at..]) {
                *out = table[*byte as usize] * scale;
            }
            (at, rest) = (at + n, later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_their_values() {
        let found = [0x00, 0x01, 0x08, 0x38, 0x3c, 0xb8, 0x7e, 0xfe].map(value);
        assert_eq!(found, [0.0, 2f32.powi(-9), 2f32.powi(-6), 1.0, 1.5, -1.0, 448.0, -448.0]);
        assert!(value(0x7f).is_nan() && value(0xff).is_nan());
    }

    #[test]
    fn blocks_at_the_ends_are_smaller() {
        let values = Bytes::owned(vec![0x38; 3 * 5]);
        let scales: Arc<[f32]> = (1..=6).map(|v| v as f32).collect();
        let w = Fp8::weight(3, 5, values.clone(), scales.clone(), [2, 2]).unwrap();
        let mut all = [0.0; 15];
        w.decode_flat(0, &mut all);
        let row = |a: f32| [a, a, a + 1.0, a + 1.0, a + 2.0];
        assert_eq!(all, [row(1.0), row(1.0), row(4.0)].concat()[..]);
        let mut piece = [0.0; 6];
        w.decode_flat(8, &mut piece);
        assert_eq!(piece, all[8..14]);
        assert!(Fp8::weight(3, 5, values.clone(), scales.clone(), [2, 3]).is_err());
        assert!(Fp8::weight(3, 4, values, scales, [2, 2]).is_err());
    }
}
