use super::*;
use crate::Threads;
use crate::quant::gguf::encode;
use crate::quant::nf4::{FourBitKind, quantize};
use crate::quant::{Bytes, int8};
use crate::rng::Stream;

/// A weight of random blocks; halves at these places of a block are scales.
fn random(kind: GgufType, rows: usize, cols: usize, halves: &[usize]) -> Weight {
    let (stream, size) = (Stream::new(3, kind.name(), 0), kind.block_bytes());
    let count = rows * cols / kind.block_len();
    let mut bytes: Vec<u8> = (0..(count * size) as u64).map(|i| (stream.uniform(i) * 256.0) as u8).collect();
    for (i, block) in bytes.chunks_exact_mut(size).enumerate() {
        for at in halves {
            let scale = half::f16::from_f32(stream.normal((i * 7 + at) as u64) * 0.01);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    Weight::gguf(rows, cols, kind, Bytes::owned(bytes)).unwrap()
}

/// Weights of every format that is multiplied as it is, in odd sizes.
fn weights() -> Vec<(String, Weight)> {
    let floats = |rows: usize, cols: usize| {
        let stream = Stream::new(5, "w", cols as u64);
        let values: Vec<f32> = (0..(rows * cols) as u64).map(|i| stream.normal(i)).collect();
        Weight::from_f32(rows, cols, &values)
    };
    let mut all = Vec::new();
    for cols in [32, 96, 576, 1536] {
        for kind in [FourBitKind::Nf4, FourBitKind::Fp4] {
            for (block, double) in [(64, true), (64, false), (256, true), (4096, false)] {
                let w = quantize(&Threads::one(), &floats(37, cols), kind, block, double).unwrap();
                all.push((format!("{} {block} {double} {cols}", kind.name()), w));
            }
        }
        for kind in [GgufType::Q4_0, GgufType::Q4_1, GgufType::Q8_0] {
            let mut values = vec![0.0; 37 * cols];
            floats(37, cols).decode_flat(0, &mut values);
            let mut bytes = Vec::new();
            encode(kind, &values, &mut bytes).unwrap();
            let weight = Weight::gguf(37, cols, kind, Bytes::owned(bytes)).unwrap();
            all.push((format!("{} {cols}", kind.name()), weight));
        }
    }
    for cols in [1, 15, 16, 40, 577] {
        all.push((format!("int8 {cols}"), int8::quantize(&Threads::one(), &floats(33, cols), true).unwrap()));
    }
    for cols in [256, 768] {
        all.push((format!("Q4_K {cols}"), random(GgufType::Q4K, 35, cols, &[0, 2])));
        all.push((format!("Q6_K {cols}"), random(GgufType::Q6K, 35, cols, &[208])));
    }
    all
}

/// Whether the format is multiplied with vectors in bf16 where the instruction set can.
fn in_pairs(name: &str) -> bool {
    ["nf4", "fp4", "Q4_0", "Q4_1", "Q8_0"].iter().any(|f| name.starts_with(f))
}

#[test]
fn every_format_number_of_vectors_and_instruction_set_agrees() {
    let stream = Stream::new(1, "x", 0);
    for (name, w) in weights() {
        let (n, k) = (w.rows(), w.cols());
        let mut decoded = vec![0.0; n * k];
        w.decode_flat(0, &mut decoded);
        let x: Vec<f32> = (0..(FEW * k) as u64).map(|i| stream.normal(i) + 0.5).collect();
        let rounded: Vec<f32> = x.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
        let all = Isa::ALL.into_iter().filter(|i| i.available());
        for (isa, precision) in all.flat_map(|isa| [(isa, Precision::F32), (isa, Precision::Bf16)]) {
            let cpu = Cpu::new(1, isa).unwrap();
            let narrow = precision == Precision::Bf16 && isa.has_bf16() && k % 64 == 0 && in_pairs(&name);
            let x = if narrow { &rounded } else { &x };
            // The sixteen values of a 4-bit weight are rounded too.
            let of_table = ["nf4", "fp4"].iter().any(|f| name.starts_with(f));
            let unit = if of_table { 64 } else { 32 };
            let fixed = precision == Precision::Bf16 && isa == Isa::Avx2 && k % unit == 0;
            let off = match (narrow, fixed, of_table) {
                (true, _, true) => 4e-3,
                (_, true, true) => 2e-4,
                (_, true, false) => 5e-5,
                _ => 1e-6,
            };
            for m in 1..=FEW {
                let products = Products::new(&cpu, precision, &w, &x[..m * k]).unwrap();
                for (first, len) in [(0, RUN), (n - 1, 1), (3, 30)] {
                    let mut out = [[f32::NAN; RUN]; FEW];
                    products.run(first, len, &mut out);
                    for (x, out) in x.chunks_exact(k).zip(&out).take(m) {
                        for (row, found) in decoded[first * k..].chunks_exact(k).zip(&out[..len]) {
                            let terms = || x.iter().zip(row).map(|(x, w)| *x as f64 * *w as f64);
                            let (want, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                            let error = (*found as f64 - want).abs();
                            assert!(error <= off * size.max(1e-6), "{name} {isa:?} {m}: {found} {want}");
                        }
                    }
                    assert!(out[m..].iter().flatten().all(|v| v.is_nan()), "other vectors are left alone");
                }
            }
        }
    }
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let (n, k) = (3, 192);
    let w =
        quantize(&Threads::one(), &Weight::from_f32(n, k, &vec![-2.0; n * k]), FourBitKind::Nf4, 64, false)
            .unwrap();
    let x = vec![-7.0; k];
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        let cpu = Cpu::new(1, isa).unwrap();
        let mut out = [[f32::NAN; RUN]; FEW];
        Products::new(&cpu, Precision::Bf16, &w, &x).unwrap().run(0, n, &mut out);
        assert!(out[0][..n].iter().all(|y| (y - 14.0 * k as f32).abs() < 1e-2), "{isa:?} {:?}", &out[0][..n]);
        let none = Products::new(&cpu, Precision::Bf16, &w, &[0.0; 192]).unwrap();
        none.run(0, n, &mut out);
        assert_eq!(out[0][..n], [0.0; 3]);
    }
}

#[test]
fn what_is_not_multiplied_as_it_is_says_so() {
    let cpu = Cpu::new(1, Isa::Portable).unwrap();
    let odd =
        quantize(&Threads::one(), &Weight::from_f32(4, 48, &[1.0; 192]), FourBitKind::Nf4, 64, true).unwrap();
    assert!(
        Products::new(&cpu, Precision::F32, &odd, &[0.0; 48]).is_none(),
        "groups of 16 bytes would cross rows"
    );
    assert!(Products::new(&cpu, Precision::F32, &Weight::from_f32(1, 2, &[1.0; 2]), &[0.0; 2]).is_none());
    let other = random(GgufType::Q5K, 1, 256, &[0, 2]);
    assert!(Products::new(&cpu, Precision::F32, &other, &[0.0; 256]).is_none());
}
