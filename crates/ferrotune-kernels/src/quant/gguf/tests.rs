use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;
use crate::dtype::DType;
use crate::quant::{Bytes, Weight};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/golden/gguf/");

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Same numbers; only the sign of a zero may differ.
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(a == b, "{what}: value {i} is {a:e}, expected {b:e}");
    }
}

#[test]
fn decoded_blocks_are_exact() {
    let file = std::fs::read(format!("{GOLDEN}decoded.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    for &kind in GgufType::ALL {
        let bytes = file.tensor(&format!("{}/bytes", kind.name())).unwrap().data().to_vec();
        let expected = f32s(file.tensor(&format!("{}/dequant", kind.name())).unwrap().data());
        let cols = expected.len() / 2;
        let weight = Weight::gguf(2, cols, kind, Bytes::owned(bytes.clone())).unwrap();
        for isa in Isa::available() {
            let mut found = vec![0.0; expected.len()];
            decode_on(isa, kind, &bytes, 0, &mut found);
            assert_same(&found, &expected, &format!("{} on {isa:?}", kind.name()));
        }
        let mut row = vec![0.0; cols];
        weight.decode(1, 0, &mut row);
        assert_same(&row, &expected[cols..], kind.name());
        assert_eq!(GgufType::from_id(kind.id()), Some(kind));
        assert_eq!(weight.nbytes(), bytes.len());
    }
}

#[test]
fn encoded_blocks_are_exact() {
    let file = std::fs::read(format!("{GOLDEN}encoded.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let mut cases = 0;
    for name in file.names().iter().filter_map(|n| n.strip_suffix("/source")) {
        let source = f32s(file.tensor(&format!("{name}/source")).unwrap().data());
        for &kind in GgufType::ALL {
            let Ok(expected) = file.tensor(&format!("{name}/{}", kind.name())) else { continue };
            let dequant = f32s(file.tensor(&format!("{name}/{}.dequant", kind.name())).unwrap().data());
            let mut found = vec![0.0; source.len()];
            decode(kind, expected.data(), 0, &mut found);
            assert_same(&found, &dequant, &format!("{name}/{}.dequant", kind.name()));
            let mut encoded = Vec::new();
            match encode(kind, &source, &mut encoded) {
                Ok(()) => assert_eq!(encoded, expected.data(), "{name}/{}", kind.name()),
                Err(_) => assert!(matches!(kind, GgufType::Tq1_0 | GgufType::Tq2_0 | GgufType::Mxfp4)),
            }
            cases += 1;
        }
        for dtype in [DType::F16, DType::Bf16] {
            let bytes = file.tensor(&format!("{name}/{}", dtype.name())).unwrap().data().to_vec();
            let dequant = f32s(file.tensor(&format!("{name}/{}.dequant", dtype.name())).unwrap().data());
            let mut found = vec![0.0; source.len()];
            Weight::dense(1, source.len(), dtype, Bytes::owned(bytes)).unwrap().decode(0, 0, &mut found);
            assert_same(&found, &dequant, name);
        }
    }
    assert!(cases >= 70, "{cases}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let bytes = |n: usize| Bytes::owned(vec![0; n]);
    assert!(Weight::gguf(2, 64, GgufType::Q4_0, bytes(72)).is_ok());
    assert!(Weight::gguf(2, 64, GgufType::Q4_0, bytes(71)).is_err());
    assert!(Weight::gguf(2, 48, GgufType::Q4_0, bytes(54)).is_err());
    assert!(Weight::gguf(1, 128, GgufType::Q4K, bytes(72)).is_err());
    assert!(encode(GgufType::Q4K, &[0.0; 256], &mut Vec::new()).is_err());
    assert!(encode(GgufType::Q4_0, &[0.0; 33], &mut Vec::new()).is_err());
    assert_eq!(GgufType::from_id(4), None);
}

proptest! {
    /// Any range of any format decodes to the same values as the whole, on every instruction set.
    #[test]
    fn ranges_agree(
        kind in prop::sample::select(GgufType::ALL),
        bytes in prop::collection::vec(any::<u8>(), 1024),
        start in 0usize..512,
        len in 0usize..512,
    ) {
        let bytes = &bytes[..512 / kind.block_len() * kind.block_bytes()];
        let len = len.min(512 - start);
        let mut whole = vec![0.0; 512];
        decode_on(Isa::Portable, kind, bytes, 0, &mut whole);
        for isa in Isa::available() {
            let mut part = vec![0.0; len];
            decode_on(isa, kind, bytes, start, &mut part);
            for (a, b) in part.iter().zip(&whole[start..]) {
                prop_assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{} for {}", a, b);
            }
        }
    }
}

#[test]
fn every_half_float_is_that_of_the_half_crate() {
    for bits in 0..=u16::MAX {
        let (found, want) = (half(bits.to_le_bytes()), half::f16::from_bits(bits).to_f32());
        assert!(found.to_bits() == want.to_bits() || (found.is_nan() && want.is_nan()), "{bits:#06x}");
    }
}
