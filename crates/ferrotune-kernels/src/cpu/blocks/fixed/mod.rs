//! Products on AVX2: vectors as whole numbers of 16 bits with a scale for each unit of 32 or 64 values, so that
//! each lane of an instruction multiplies and adds two values.
//!
//! 15 bits beside the sign are finer than bf16 for all values that are not below a 128th of the largest of their unit. Products
//! of a unit are summed in whole numbers, without rounding and without overflow: each of eight lanes adds four products, or
//! eight, of numbers up to [`MOST`] and [`CODE`].

use std::arch::x86_64::*;
use std::ops::Range;

use super::rows::{RowProduct, run};
use super::{Results, Rows};
use crate::ahead::{BYTES_AHEAD, ask};
use crate::cpu::{Cpu, Isa, per_isa};
use crate::tensor::Buffer;

mod formats;

use formats::{Bytes, FourBits};

/// Values of a unit of most formats.
const UNIT: usize = 32;

/// Units whose scales are made together.
const GROUP: usize = 16;

/// The largest number of a vector.
const MOST: f32 = 32767.0;

/// What stands for 1 in a table of fractions: eight products with [`MOST`] are below 2^31, and FP4's fractions, of 192, are
/// whole.
const CODE: f32 = 192.0 * 42.0;

/// What is made together for the units of a group: their factors (of the first and the second halves), and what is added for each
/// 1 of the vector.
struct Factors {
    halves: [[f32; GROUP]; 2],
    minima: [f32; GROUP],
}

/// Rows of units.
trait Format {
    /// The values of a unit: two registers of sixteen, or four.
    type Values: AsRef<[__m256i]>;

    /// Where each of them comes from.
    const ORDER: &'static [u8];

    /// Whether values have minima beside their scales.
    const MINIMA: bool = false;

    /// Whether halves of a unit have scales of their own; if not, those of the first are for both.
    const HALVES: bool = false;

    /// What a value of 1 is divided by.
    const ONE: f32 = 1.0;

    /// Where the first row begins, and the bytes of a row.
    fn place(&self) -> (*const u8, usize);

    /// The factors of `count` units from `unit` on; the others are left alone.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; the units are inside.
    unsafe fn factors(&self, row: usize, unit: usize, count: usize, out: &mut Factors);

    /// The values of a unit, in the order of the vectors.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; the row has the unit.
    unsafe fn unit(&self, row: usize, unit: usize) -> Self::Values;
}

/// The vectors as whole numbers.
pub(super) struct Vectors {
    /// Sixteen bits each, in the order of the format.
    values: Buffer,
    /// For each unit what 1 stands for, and the sum of its values, whole groups of each.
    scales: Buffer,
    sums: Buffer,
}

/// Room for `units` of a vector, whole groups.
fn room_for(units: usize) -> usize {
    units.next_multiple_of(GROUP)
}

per_isa! {
    /// Sixteen-bit numbers of a vector, the scale of each unit, and its sum.
    fn fix(x: &[f32], order: &[u8], values: &mut [i16], scales: &mut [f32], sums: &mut [f32]) {
        scales.fill(0.0);
        sums.fill(0.0);
        let mut fixed = [0i16; 2 * UNIT];
        let units = x.chunks_exact(order.len()).zip(values.chunks_exact_mut(order.len()));
        for (i, (x, out)) in units.enumerate() {
            let most = x.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            let (scale, factor) = (most / MOST, if most > 0.0 { MOST / most } else { 0.0 });
            let mut sum = 0.0;
            for (o, v) in fixed.iter_mut().zip(x) {
                let v = (v * factor).round_ties_even();
                sum += v;
                *o = v as i16;
            }
            (scales[i], sums[i]) = (scale, sum * scale);
            for (o, from) in out.iter_mut().zip(order) {
                *o = fixed[*from as usize];
            }
        }
    }
}

impl Vectors {
    /// Prepares `m` vectors of `k` values in `x`; gives none if this way is not for the format or the processor.
    pub(super) fn new(cpu: &Cpu, rows: Rows<'_>, x: &[f32], k: usize) -> Option<Self> {
        let order = match rows {
            Rows::FourBit(_) => FourBits::ORDER,
            _ => &formats::IN_ORDER,
        };
        if cpu.isa() != Isa::Avx2 || !k.is_multiple_of(order.len()) {
            return None;
        }
        let (m, room) = (x.len() / k, room_for(k / order.len()));
        let mut values = cpu.pool().take(x.len() / 2);
        let (mut scales, mut sums) = (cpu.pool().take(m * room), cpu.pool().take(m * room));
        let fixed: &mut [i16] = bytemuck::cast_slice_mut(&mut values.f32_mut()[..x.len() / 2]);
        for (i, (x, fixed)) in x.chunks_exact(k).zip(fixed.chunks_exact_mut(k)).enumerate() {
            let own = i * room..(i + 1) * room;
            fix(cpu.isa(), x, order, fixed, &mut scales.f32_mut()[own.clone()], &mut sums.f32_mut()[own]);
        }
        Some(Vectors { values, scales, sums })
    }

    /// The products of `m` vectors of `k` values with a range of rows.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; these vectors were made for the rows, which are inside.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn run(
        &self,
        rows: Rows<'_>,
        (m, k): (usize, usize),
        range: Range<usize>,
        out: &mut Results,
    ) {
        // SAFETY: contract of the function.
        unsafe {
            match rows {
                Rows::FourBit(bits) => run(&mut self.of(FourBits::new(bits, k), k), m, range, out),
                Rows::Int8(rows) => run(&mut self.of(Bytes::new(rows, k), k), m, range, out),
                Rows::Q4_0(blocks) => run(&mut self.of(blocks, k), m, range, out),
                Rows::Q4_1(blocks) => run(&mut self.of(blocks, k), m, range, out),
                Rows::Q8_0(blocks) => run(&mut self.of(blocks, k), m, range, out),
                Rows::Q4K(blocks) => run(&mut self.of(blocks, k), m, range, out),
                Rows::Q6K(blocks) => run(&mut self.of(blocks, k), m, range, out),
            }
        }
    }

    fn of<F: Format>(&self, format: F, k: usize) -> Product<'_, F> {
        Product { vectors: self, format, k }
    }
}

/// The vectors beside rows of a format.
struct Product<'v, F> {
    vectors: &'v Vectors,
    format: F,
    k: usize,
}

impl<F: Format> RowProduct for Product<'_, F> {
    #[inline(always)]
    unsafe fn row<const M: usize>(&mut self, row: usize) -> [f32; M] {
        let units = self.k / F::ORDER.len();
        let room = room_for(units);
        let values = self.vectors.values.f32().as_ptr().cast::<i16>();
        let (scales, of_units) = (self.vectors.scales.f32().as_ptr(), self.vectors.sums.f32().as_ptr());
        // SAFETY: contract of the trait; vectors have `k` values, and scales and sums in whole groups.
        unsafe {
            let (start, row_bytes) = self.format.place();
            ask(start.wrapping_add(row * row_bytes + BYTES_AHEAD), row_bytes);
            // Two sums in turn: one chain of additions would be the longest in the loop.
            let (mut even, mut odd) = ([_mm256_setzero_ps(); M], [_mm256_setzero_ps(); M]);
            let mut least = [_mm256_setzero_ps(); M];
            let mut own = Factors { halves: [[0.0; GROUP]; 2], minima: [0.0; GROUP] };
            for group in (0..units).step_by(GROUP) {
                let count = (units - group).min(GROUP);
                self.format.factors(row, group, count, &mut own);
                let mut factors = [[[0.0; GROUP]; 2]; M];
                for i in 0..M {
                    for eight in [0, 8] {
                        let at = i * room + group + eight;
                        let scale = _mm256_loadu_ps(scales.add(at));
                        for half in 0..1 + usize::from(F::HALVES) {
                            let own = _mm256_loadu_ps(own.halves[half].as_ptr().add(eight));
                            let out = factors[i][half].as_mut_ptr().add(eight);
                            _mm256_storeu_ps(out, _mm256_mul_ps(own, scale));
                        }
                        if F::MINIMA {
                            // Beyond the last unit sums are zero, and minima are those of others.
                            let of_units = _mm256_loadu_ps(of_units.add(at));
                            let minima = _mm256_loadu_ps(own.minima.as_ptr().add(eight));
                            least[i] = _mm256_fmadd_ps(minima, of_units, least[i]);
                        }
                    }
                }
                let x = values.add(group * F::ORDER.len());
                let mut u = 0;
                while u + 1 < count {
                    let values = self.format.unit(row, group + u);
                    add::<F, M>(&values, x, self.k, u, &factors, &mut even, &mut odd);
                    let values = self.format.unit(row, group + u + 1);
                    add::<F, M>(&values, x, self.k, u + 1, &factors, &mut odd, &mut even);
                    u += 2;
                }
                if u < count {
                    let values = self.format.unit(row, group + u);
                    add::<F, M>(&values, x, self.k, u, &factors, &mut even, &mut odd);
                }
            }
            let mut y = [0.0; M];
            for i in 0..M {
                let all = _mm256_add_ps(_mm256_add_ps(even[i], odd[i]), least[i]);
                let four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                y[i] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two))) * (1.0 / F::ONE);
            }
            y
        }
    }
}

/// Adds the products of unit `u` of a group to `sums`; those of its second half, if it has a scale of its own, to `others`.
/// `x`: the group of the first vector; vectors are `k` values apart.
///
/// # Safety
/// AVX2 and FMA; the unit is in the group, and the vectors hold it.
#[inline(always)]
unsafe fn add<F: Format, const M: usize>(
    values: &F::Values,
    x: *const i16,
    k: usize,
    u: usize,
    factors: &[[[f32; GROUP]; 2]; M],
    sums: &mut [__m256; M],
    others: &mut [__m256; M],
) {
    let values = values.as_ref();
    // SAFETY: contract of the function.
    unsafe {
        for i in 0..M {
            let x = x.add(i * k + u * F::ORDER.len());
            if F::HALVES {
                let (a, b) = (product(values[0], x), product(values[1], x.add(16)));
                sums[i] = _mm256_fmadd_ps(
                    _mm256_cvtepi32_ps(a),
                    _mm256_broadcast_ss(factors[i][0].get_unchecked(u)),
                    sums[i],
                );
                others[i] = _mm256_fmadd_ps(
                    _mm256_cvtepi32_ps(b),
                    _mm256_broadcast_ss(factors[i][1].get_unchecked(u)),
                    others[i],
                );
            } else {
                let mut all = product(values[0], x);
                for (r, values) in values.iter().enumerate().skip(1) {
                    all = _mm256_add_epi32(all, product(*values, x.add(16 * r)));
                }
                sums[i] = _mm256_fmadd_ps(
                    _mm256_cvtepi32_ps(all),
                    _mm256_broadcast_ss(factors[i][0].get_unchecked(u)),
                    sums[i],
                );
            }
        }
    }
}

/// Sums of two products each.
///
/// # Safety
/// AVX2; sixteen numbers may be read.
#[inline(always)]
unsafe fn product(values: __m256i, x: *const i16) -> __m256i {
    // SAFETY: contract of the function.
    unsafe { _mm256_madd_epi16(values, _mm256_loadu_si256(x.cast())) }
}
