use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;
use crate::dtype::DType;

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn decode_all(weight: &Weight) -> Vec<f32> {
    let mut out = vec![0.0; weight.rows() * weight.cols()];
    for (row, out) in out.chunks_mut(weight.cols()).enumerate() {
        weight.decode(row, 0, out);
    }
    out
}

fn four_bit(weight: &Weight) -> &FourBit {
    weight.format().expect("4-bit")
}

/// Bytes with FP4's negative zero written as the positive one: the sign of a zero is free.
fn unsigned_zeros(kind: FourBitKind, packed: &[u8]) -> Vec<u8> {
    let nibble = |n: u8| if kind == FourBitKind::Fp4 && n == 8 { 0 } else { n };
    packed.iter().map(|b| nibble(b >> 4) << 4 | nibble(b & 15)).collect()
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/golden/quant/");

#[test]
fn golden_cases_are_exact() {
    let text = std::fs::read_to_string(format!("{GOLDEN}four_bit/case.json")).unwrap();
    let case: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = case["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 19);
    for (name, about) in cases {
        let file = std::fs::read(format!("{GOLDEN}four_bit/{name}.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let part = |part: &str| file.tensor(part).unwrap().data().to_vec();
        let kind = if about["quant_type"] == "nf4" { FourBitKind::Nf4 } else { FourBitKind::Fp4 };
        let (dtype, exact) = match about["source_dtype"].as_str().unwrap() {
            "float32" => (DType::F32, "dequant"),
            "float16" => (DType::F16, "dequant_f32"),
            _ => (DType::Bf16, "dequant_f32"),
        };
        let size = |i: usize| about["shape"][i].as_u64().unwrap() as usize;
        let block = about["blocksize"].as_u64().unwrap() as usize;
        let source = Weight::dense(size(0), size(1), dtype, Bytes::owned(part("source"))).unwrap();
        assert_eq!(f32s(&part("code")), kind.code(), "{name}");

        let plain = quantize(&Threads::one(), &source, kind, block, false).unwrap();
        let bits = four_bit(&plain);
        let found = unsigned_zeros(kind, bits.packed());
        assert_eq!(found, unsigned_zeros(kind, &part("packed")), "{name}: packed");
        let Scales::Plain(absmax) = bits.scales() else { panic!("{name}: not plain") };
        assert_eq!(absmax[..], f32s(&part("absmax")), "{name}: absmax");
        assert_eq!(decode_all(&plain), f32s(&part(exact)), "{name}: dequant");

        let nested = quantize(&Threads::one(), &source, kind, block, true).unwrap();
        let Scales::Nested { codes, absmax, map, offset, block: 256 } = four_bit(&nested).scales() else {
            panic!("{name}: not nested")
        };
        assert_eq!(codes.as_slice(), part("nested/absmax_u8"), "{name}: nested codes");
        assert_eq!(map[..], f32s(&part("nested/code")), "{name}: map");
        // This follows only if our mean adds in the reference's order.
        assert_eq!(*offset, f32s(&part("nested/offset"))[0], "{name}: offset");
        assert_eq!(absmax[..], f32s(&part("nested/absmax")), "{name}: nested absmax");
        let blocks = four_bit(&nested).len().div_ceil(block);
        let scales: Vec<f32> = (0..blocks).map(|i| four_bit(&nested).scale(i)).collect();
        assert_eq!(scales, f32s(&part("nested/absmax_dequant")), "{name}: scales");
        if dtype == DType::F32 {
            assert_eq!(decode_all(&nested), f32s(&part("nested/dequant")), "{name}: nested dequant");
        }
    }
}

#[test]
fn every_block_size_follows_the_rule() {
    // One more value than whole blocks: the last block is short.
    let (rows, cols) = (3, 4097);
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 10007) as f32 - 5003.0) / 300.0).collect();
    for kind in [FourBitKind::Nf4, FourBitKind::Fp4] {
        let mut code = kind.code().to_vec();
        code.sort_by(f32::total_cmp);
        code.dedup();
        for block in BLOCKS {
            let weight =
                quantize(&Threads::one(), &Weight::from_f32(rows, cols, &values), kind, block, false)
                    .unwrap();
            let Scales::Plain(absmax) = four_bit(&weight).scales() else { panic!("not plain") };
            assert_eq!(absmax.len(), (rows * cols).div_ceil(block));
            let expected = values.chunks(block).zip(absmax.iter()).flat_map(|(values, absmax)| {
                assert_eq!(*absmax, values.iter().fold(0f32, |m, v| m.max(v.abs())), "{block}");
                let scaled = |v: &f32| if values.len() == block { v * (1.0 / absmax) } else { v / absmax };
                let nearest = |v: &f32| {
                    let above = code.windows(2).filter(|w| (w[0] + w[1]) / 2.0 < scaled(v)).count();
                    code[above] * absmax
                };
                values.iter().map(nearest).collect::<Vec<f32>>()
            });
            assert_eq!(decode_all(&weight), expected.collect::<Vec<f32>>(), "{kind:?} {block}");
        }
        let refused =
            quantize(&Threads::one(), &Weight::from_f32(rows, cols, &values), kind, 32, false).unwrap_err();
        assert!(refused.to_string().contains("32"), "{refused}");
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let (rows, cols) = (37, 91);
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 300.0).collect();
    for kind in [FourBitKind::Nf4, FourBitKind::Fp4] {
        let weight =
            quantize(&Threads::one(), &Weight::from_f32(rows, cols, &values), kind, 64, true).unwrap();
        let bits = four_bit(&weight);
        for isa in Isa::available() {
            for block in values.chunks(64) {
                let (mut reference, mut found) = ([0u8; 32], [0u8; 32]);
                let complete = block.len() == 64;
                let a = quantize_block(
                    Isa::Portable,
                    &kind.search(),
                    complete,
                    &mut block.to_vec(),
                    &mut reference,
                );
                assert_eq!(a, quantize_block(isa, &kind.search(), complete, &mut block.to_vec(), &mut found));
                assert_eq!(reference, found, "{isa:?}");
            }
            for (start, len) in
                [(0, rows * cols), (1, 200), (63, 2), (64, 64), (65, 63), (127, 130), (3366, 1)]
            {
                let (mut reference, mut found) = (vec![0.0; len], vec![0.0; len]);
                bits.decode_on(Isa::Portable, start, &mut reference);
                bits.decode_on(isa, start, &mut found);
                assert_eq!(reference, found, "{isa:?} from {start}");
            }
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let source = Weight::from_f32(1, 64, &[1.0; 64]);
    assert!(quantize(&Threads::one(), &source, FourBitKind::Nf4, 32, false).is_err());
    assert!(quantize(&Threads::one(), &source, FourBitKind::Nf4, 8192, false).is_err());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = [1.0; 64];
        values[17] = bad;
        assert!(
            quantize(&Threads::one(), &Weight::from_f32(1, 64, &values), FourBitKind::Nf4, 64, true).is_err()
        );
    }
    let code = *FourBitKind::Nf4.code();
    let make = |packed: usize, scales: Scales| {
        FourBit::new(FourBitKind::Nf4, 64, 100, Bytes::owned(vec![0; packed]), scales, code)
    };
    let nested = |codes: usize, absmax: usize, block: usize| Scales::Nested {
        codes: Bytes::owned(vec![0; codes]),
        absmax: vec![0.0; absmax].into(),
        map: Arc::new([0.0; 256]),
        offset: 0.0,
        block,
    };
    assert!(make(50, Scales::Plain(vec![0.0; 2].into())).is_ok());
    assert!(make(49, Scales::Plain(vec![0.0; 2].into())).is_err());
    assert!(make(50, Scales::Plain(vec![0.0; 1].into())).is_err());
    assert!(make(50, nested(2, 1, 256)).is_ok());
    assert!(make(50, nested(3, 1, 256)).is_err());
    assert!(make(50, nested(2, 2, 256)).is_err());
    assert!(make(50, nested(2, 1, 0)).is_err());
    let bits = make(50, nested(2, 1, 256)).unwrap();
    assert!(Weight::four_bit(10, 11, bits).is_err());
}

#[test]
fn the_number_of_threads_changes_no_byte_and_no_refusal() {
    let values: Vec<f32> = (0..70_000).map(|i| (i as f32 * 0.7).sin() * (1.0 + i as f32)).collect();
    let source = Weight::from_f32(70, 1000, &values);
    let all = [Threads::one(), Threads::new(3).unwrap()];
    let four = all.each_ref().map(|threads| quantize(threads, &source, FourBitKind::Nf4, 64, true).unwrap());
    let eight = all.each_ref().map(|threads| super::super::int8::quantize(threads, &source, true));
    let bytes = |weight: &Weight| four_bit(weight).packed().to_vec();
    assert_eq!(bytes(&four[0]), bytes(&four[1]));
    let decoded = four.each_ref().map(|weight| {
        let mut out = vec![0.0; 70_000];
        weight.decode_flat(0, &mut out);
        out
    });
    assert_eq!(decoded[0], decoded[1]);
    // 70,000 is beyond the halves that 8 bits go through: the first such row is named.
    let refusals = eight.map(|weight| weight.unwrap_err());
    assert_eq!(refusals[0], refusals[1]);
}

proptest! {
    /// Quantizing what was decoded changes nothing, and no value is off by more than half a step of its block.
    #[test]
    fn round_trip(
        rows in 1usize..5,
        cols in 1usize..200,
        seed in any::<u32>(),
        magnitude in -20i32..20,
        fp4 in any::<bool>(),
    ) {
        let kind = if fp4 { FourBitKind::Fp4 } else { FourBitKind::Nf4 };
        let scale = 10f32.powi(magnitude);
        let values: Vec<f32> = (0..rows * cols)
            .scan(seed, |s, _| {
                *s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                Some((*s as f32 / u32::MAX as f32 - 0.5) * scale)
            })
            .collect();
        let once = quantize(&Threads::one(), &Weight::from_f32(rows, cols, &values), kind, 64, false).unwrap();
        let decoded = decode_all(&once);
        let twice = quantize(&Threads::one(), &Weight::from_f32(rows, cols, &decoded), kind, 64, false).unwrap();
        prop_assert_eq!(&decode_all(&twice), &decoded);
        // Half of the widest gap between neighbouring codes, of the block's largest magnitude.
        let widest = if fp4 { 1.0 / 6.0 } else { 0.151_903_6 };
        for (block, decoded) in values.chunks(64).zip(decoded.chunks(64)) {
            let largest = block.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (a, b) in block.iter().zip(decoded) {
                prop_assert!((a - b).abs() <= largest * widest * 1.0001, "{} became {}", a, b);
            }
        }
    }

    /// Any range decodes to the same values as the whole.
    #[test]
    fn ranges_agree(start in 0usize..333, len in 0usize..333) {
        let values: Vec<f32> = (0..333).map(|i| (i as f32 * 0.7).sin()).collect();
        let weight = quantize(&Threads::one(), &Weight::from_f32(3, 111, &values), FourBitKind::Nf4, 64, true).unwrap();
        let len = len.min(333 - start);
        let (mut whole, mut part) = (vec![0.0; 333], vec![0.0; len]);
        weight.decode_flat(0, &mut whole);
        weight.decode_flat(start, &mut part);
        prop_assert_eq!(&whole[start..start + len], &part[..]);
    }
}
