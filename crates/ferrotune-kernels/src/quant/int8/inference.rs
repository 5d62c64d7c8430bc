//! LLM.int8 (Dettmers et al. 2022): the product that bitsandbytes computes with 8-bit rows in inference.

use half::f16;

use super::{Int8Rows, factor};

/// `127 * 127` turned round, with the digits of the reference.
const UNIT: f32 = 6.200_124e-5;

/// `x Wt [M, N]` of `x [M, K]`: rows of x are rounded to 8 bits by their own largest magnitude, and the columns in
/// which any `|x|` reaches `threshold` (0 for none) are multiplied in floats instead.
///
/// Training and evaluation here decode the weights and keep x as it is, which is more exact. This is for comparison
/// with models that were evaluated in the reference.
pub fn llm_int8(x: &[f32], weight: &Int8Rows, threshold: f32) -> Vec<f32> {
    let k = weight.cols();
    let half: Vec<f32> = x.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
    let outlier = |v: f32| threshold > 0.0 && v.abs() >= threshold;
    let columns: Vec<usize> =
        (0..k).filter(|c| half.iter().skip(*c).step_by(k).any(|v| outlier(*v))).collect();
    let mut codes = vec![0i32; k];
    let mut out = Vec::with_capacity(x.len() / k.max(1) * weight.rows());
    for (row, exact) in half.chunks_exact(k).zip(x.chunks_exact(k)) {
        let absmax = row.iter().filter(|v| !outlier(**v)).fold(0f32, |m, v| m.max(v.abs()));
        let factor = factor(absmax);
        for (code, v) in codes.iter_mut().zip(row) {
            *code = (v * factor).round_ties_even() as i8 as i32;
        }
        columns.iter().for_each(|c| codes[*c] = 0);
        for (w, scale) in weight.codes().chunks_exact(k).zip(weight.absmax()) {
            let sum: i32 = codes.iter().zip(w).map(|(a, b)| a * (*b as i8) as i32).sum();
            let floats: f32 =
                columns.iter().map(|c| exact[*c] * ((w[*c] as i8) as f32 * scale * (1.0 / 127.0))).sum();
            out.push(sum as f32 * (absmax * scale) * UNIT + floats);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::super::quantize;
    use super::*;
    use crate::Threads;
    use crate::quant::{Int8Rows, Weight};

    #[test]
    fn golden_layer_with_and_without_outliers() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../testdata/golden/quant/eight_bit/eight_bit.safetensors"
        );
        let file = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let floats = |name: &str| -> Vec<f32> {
            let data = file.tensor(name).unwrap().data().to_vec();
            data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let weight =
            quantize(&Threads::one(), &Weight::from_f32(48, 64, &floats("int8/source")), true).unwrap();
        let rows = weight.format::<Int8Rows>().expect("int8");
        let x = floats("int8_linear/input");
        let near = |found: &[f32], name: &str| {
            let expected = floats(name);
            assert_eq!(found.len(), expected.len());
            let worst = found.iter().zip(&expected).fold(0f32, |m, (f, e)| m.max((f - e).abs()));
            assert!(worst < 1e-5, "{name}: {worst}");
        };
        near(&llm_int8(&x, rows, 0.0), "int8_linear/eval_thr0");
        near(&llm_int8(&x, rows, 6.0), "int8_linear/eval_thr6");
        let mut decoded = vec![0.0; 48 * 64];
        weight.decode_flat(0, &mut decoded);
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum();
        let product: Vec<f32> =
            x.chunks_exact(64).flat_map(|x| decoded.chunks_exact(64).map(move |w| dot(x, w))).collect();
        near(&product, "int8_linear/train_thr0");
        near(&product, "int8_linear/train_thr6");
    }
}
