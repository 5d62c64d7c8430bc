//! Functions that the compiler can vectorise: no calls, no branches, lanes spelled out.

/// Lanes of a spelled-out reduction; one AVX-512 register, two of AVX2.
pub(crate) const LANES: usize = 16;

/// `e^x` with a relative error below 2e-7; 0 below -87.3, clamped above 88.7.
///
/// Cody-Waite reduction by `ln 2` in two parts, then the degree-6 polynomial of Cephes `expf`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    let clamped = x.clamp(-87.3, 88.7);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let y = p * (r * r) + r + 1.0;
    // 2^n from those low bits: a conversion `as i32` minds NaN and overflow, which compiles to one lane after the other.
    let scale = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits() - 127) << 23);
    let y = y * scale;
    if x < -87.3 { 0.0 } else { y }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh(x)` with a relative error below 5e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let x2 = x * x;
    // Near 0 the difference below would lose the small digits: the first terms of the series instead.
    let series =
        x * (1.0 + x2 * (-0.333_333_34 + x2 * (0.133_333_34 + x2 * (-0.053_968_254 + x2 * 0.021_869_488))));
    let far = 1.0 - 2.0 / (1.0 + exp(2.0 * x));
    if x2 < 0.0625 { series } else { far }
}

/// Sum in [`LANES`] running sums, then pairwise over the lanes.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut acc = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for c in chunks {
        for l in 0..LANES {
            acc[l] += c[l];
        }
    }
    for (l, v) in rest.iter().enumerate() {
        acc[l] += v;
    }
    reduce(acc)
}

/// Inner product, summed like [`sum`].
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let (x, x_rest) = x.as_chunks::<{ 2 * LANES }>();
    let (y, y_rest) = y[..x.len() * 2 * LANES + x_rest.len()].as_chunks::<{ 2 * LANES }>();
    let mut acc = [0.0f32; LANES];
    let mut second = [0.0f32; LANES];
    for (x, y) in x.iter().zip(y) {
        for l in 0..LANES {
            acc[l] += x[l] * y[l];
            second[l] += x[LANES + l] * y[LANES + l];
        }
    }
    for (i, (x, y)) in x_rest.iter().zip(y_rest).enumerate() {
        acc[i % LANES] += x * y;
    }
    for l in 0..LANES {
        acc[l] += second[l];
    }
    reduce(acc)
}

/// Largest element; negative infinity for none.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for c in chunks {
        for l in 0..LANES {
            acc[l] = if c[l] > acc[l] { c[l] } else { acc[l] };
        }
    }
    let m = acc.into_iter().fold(f32::NEG_INFINITY, f32::max);
    rest.iter().copied().fold(m, f32::max)
}

#[inline(always)]
pub(crate) fn reduce(mut acc: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            acc[l] += acc[l + width];
        }
        width /= 2;
    }
    acc[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let want = (x as f64).exp();
            assert!(((exp(x) as f64 - want) / want).abs() < 2e-7, "{x}: {} != {want}", exp(x));
            x += 0.0137;
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_close_everywhere() {
        let mut x = -12.0f32;
        while x < 12.0 {
            let want = (x as f64).tanh();
            assert!((tanh(x) as f64 - want).abs() <= 5e-7 * want.abs(), "{x}: {} != {want}", tanh(x));
            x += 0.00137;
        }
        assert_eq!((tanh(0.0), tanh(50.0), tanh(-50.0)), (0.0, 1.0, -1.0));
    }

    #[test]
    fn sums_of_any_length() {
        for n in [0, 1, 15, 16, 31, 32, 33, 100] {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum(&x), (0..n).sum::<i32>() as f32);
            assert_eq!(dot(&x, &x), (0..n).map(|i| i * i).sum::<i32>() as f32);
        }
        assert_eq!(max(&[]), f32::NEG_INFINITY);
        assert_eq!(max(&[-3.0, -1.0, -2.0]), -1.0);
    }
}
