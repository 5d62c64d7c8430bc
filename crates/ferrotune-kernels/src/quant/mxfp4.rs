//! MXFP4 as safetensors files have it (OCP microscaling formats 1.0; gpt-oss): 4-bit floats, two in a byte, the first in the
//! lower half, and for each 32 of a row a power of two in another tensor.

use super::{Bytes, Format, Weight};
use crate::error::{Error, Result};

/// Values of a block.
pub const BLOCK: usize = 32;

/// Values of a float with two bits of exponent and one of mantissa.
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Rows of a matrix: all of them, or every so many.
#[derive(Debug)]
pub struct Mxfp4 {
    cols: usize,
    rows: usize,
    /// The first row, and the distance to the next one.
    first: usize,
    step: usize,
    /// `cols / 2` bytes for each row of the whole matrix.
    values: Bytes,
    /// `cols / 32` bytes for each row: exponents with a bias of 127.
    scales: Bytes,
}

impl Mxfp4 {
    /// Rows `first`, `first + step`, ... of a matrix with `cols` columns.
    pub fn rows(values: Bytes, scales: Bytes, cols: usize, first: usize, step: usize) -> Result<Weight> {
        let whole = values.as_slice().len() / (cols / 2).max(1);
        let expected = [whole * cols / 2, whole * cols / BLOCK];
        let found = [values.as_slice().len(), scales.as_slice().len()];
        if cols == 0 || !cols.is_multiple_of(BLOCK) || step == 0 || first >= whole || found != expected {
            let found = format!("{} and {} bytes for rows of {cols}", found[0], found[1]);
            let allowed = "blocks of 32 values with a scale each";
            return Err(Error::Unsupported { what: "mxfp4", found, allowed });
        }
        let rows = (whole - first).div_ceil(step);
        Ok(Weight::new(rows, cols, Mxfp4 { cols, rows, first, step, values, scales }))
    }
}

/// `2^(e - 127)`.
fn power(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(1 << 22),
        e => f32::from_bits((e as u32) << 23),
    }
}

impl Format for Mxfp4 {
    fn name(&self) -> &'static str {
        "mxfp4"
    }

    fn nbytes(&self) -> usize {
        self.rows * (self.cols / 2 + self.cols / BLOCK)
    }

    fn parts(&self) -> [Option<&Bytes>; 2] {
        [Some(&self.values), Some(&self.scales)]
    }

    fn decode(&self, start: usize, out: &mut [f32]) {
        let (values, scales) = (self.values.as_slice(), self.scales.as_slice());
        let (mut row, mut col) = (start / self.cols, start % self.cols);
        let mut rest = out;
        while !rest.is_empty() {
            // To the end of the block, where another scale begins.
            let n = (BLOCK - col % BLOCK).min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            let at = (self.first + row * self.step) * self.cols + col;
            let scale = power(scales[at / BLOCK]);
            let table = E2M1.map(|v| v * scale);
            for (i, out) in now.iter_mut().enumerate() {
                let byte = values[(at + i) / 2];
                *out = table[if (at + i).is_multiple_of(2) { byte & 15 } else { byte >> 4 } as usize];
            }
            rest = later;
            col += n;
            if col == self.cols {
                (row, col) = (row + 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four rows of 64 values; the nibbles count up, the scales are 1, 2, 4, ...
    fn matrix() -> [Bytes; 2] {
        let values = (0..4 * 32).map(|i| (((2 * i) % 16) | (((2 * i + 1) % 16) << 4)) as u8).collect();
        let scales = (0..8).map(|i| 127 + i).collect();
        [values, scales].map(Bytes::owned)
    }

    #[test]
    fn every_other_row_is_decoded_where_it_lies() {
        let [values, scales] = matrix();
        let all = Mxfp4::rows(values.clone(), scales.clone(), 64, 0, 1).unwrap();
        let odd = Mxfp4::rows(values, scales, 64, 1, 2).unwrap();
        assert_eq!((all.rows(), odd.rows(), odd.cols(), odd.nbytes()), (4, 2, 64, 2 * 34));
        let (mut whole, mut part) = (vec![0.0; 4 * 64], vec![0.0; 2 * 64]);
        all.decode_flat(0, &mut whole);
        odd.decode_flat(0, &mut part);
        assert_eq!(whole[..8], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(whole[32 + 7], 12.0, "the second block is twice as large");
        assert_eq!([&whole[64..128], &whole[192..]].concat(), part);
        let mut piece = [0.0; 40];
        odd.decode_flat(50, &mut piece);
        assert_eq!(piece, part[50..90]);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let [values, scales] = matrix();
        assert!(Mxfp4::rows(values.clone(), scales.part(0..7), 64, 0, 1).is_err());
        assert!(Mxfp4::rows(values.clone(), scales.clone(), 48, 0, 1).is_err());
        assert!(Mxfp4::rows(values, scales, 64, 4, 1).is_err());
        assert_eq!(
            [power(0), power(1), power(127), power(254)],
            [2f32.powi(-127), 2f32.powi(-126), 1.0, 2f32.powi(127)]
        );
    }
}
